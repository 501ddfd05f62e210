"""The ceiling of an ASGI server: the same answer, made of nothing."""

import json


async def server(scope, receive, send):
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
        return
    message = await receive()
    value = json.loads(message["body"])["inputs"][0]["value"]
    text = b'{"multi":true,"response":{"fast":{"children":%d}}}' % value
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(text)).encode()),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": text})


async def _lifespan(receive, send):
    kind = ""
    while not kind.endswith("shutdown"):
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
