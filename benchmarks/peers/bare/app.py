"""The ceiling of an ASGI server: the same answer, made of nothing."""

import json


async def server(scope, receive, send):
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
        return
    if scope["type"] == "websocket":
        await _websocket(receive, send)
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


async def _websocket(receive, send):
    """Dash's own messages."""
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        asked = json.loads(message.get("text") or message["bytes"])
        value = asked["payload"]["inputs"][0]["value"]
        data = {"multi": True, "response": {"local": {"children": value}}}
        answer = {
            "type": "callback_response",
            "requestId": asked["requestId"],
            "payload": {"status": "ok", "data": data},
        }
        await send({"type": "websocket.send", "text": json.dumps(answer)})


async def _lifespan(receive, send):
    kind = ""
    while not kind.endswith("shutdown"):
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
