"""What every request of a browser script passes before it is heard, on both transports."""

import inspect
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import orjson
from werkzeug.datastructures import Headers

from dash_dispatch import bridge
from dash_dispatch.protocol import (
    CallMessage,
    ClientMessage,
    PingMessage,
    PropsMessage,
    RequestSnapshot,
)

Rejection = tuple[int, str]
"""A websocket close code and the reason."""

REJECTED = 4001


def refuse_origin(app: Any, headers: Headers) -> str | None:
    """Why the request's origin may not come in; None if it may.

    The rule is Dash's: the page's own origin, or one of ``websocket_allowed_origins``. A browser
    always sends an origin here, so a request without one is refused: cookies alone never suffice.
    """
    origin = headers.get("Origin")
    if not origin:
        return "Origin header required"
    if origin in bridge.allowed_origins(app):
        return None
    host = headers.get("Host")
    if host and urlsplit(origin).netloc == host:
        return None
    return "Origin not allowed"


async def run_connect_hooks(app: Any, connection: Any) -> Rejection | None:
    """Run the app's ``websocket_connect`` hooks; how one of them rejects, or None."""
    return await _run(bridge.websocket_hooks(app, "websocket_connect"), "Rejected", connection)


async def run_message_hooks(app: Any, connection: Any, message: ClientMessage) -> Rejection | None:
    """Run the app's ``websocket_message`` hooks on a message, in the form that Dash gives it."""
    hooks = bridge.websocket_hooks(app, "websocket_message")
    known = _as_dash(message) if hooks else None
    return await _run(hooks, "Message rejected", connection, known) if known else None


async def _run(hooks: list[Callable[..., Any]], reason: str, *args: Any) -> Rejection | None:
    for hook in hooks:
        try:
            result = hook(*args)
            if inspect.isawaitable(result):
                result = await result
        except Exception:  # noqa: BLE001 - a hook that fails lets nobody in, whatever it raised
            return REJECTED, "Authentication error"
        if result is False:
            return REJECTED, reason
        if isinstance(result, tuple) and len(result) == 2:
            return int(result[0]), str(result[1])
    return None


def _as_dash(message: ClientMessage) -> dict[str, Any] | None:
    match message:
        case CallMessage(page=page, request=request, payload=payload):
            kind, content = "callback_request", orjson.loads(bytes(payload))
        case PropsMessage(page=page, request=request, payload=content):
            kind = "get_props_response"
        case PingMessage():
            return {"type": "heartbeat"}
        case _:
            return None
    return {"type": kind, "rendererId": page, "requestId": request, "payload": content}


def snapshot(app: Any, request: Any, path: str = "") -> RequestSnapshot:
    """What a callback can ask of a request, from a Quart request or websocket.

    Without a path it is that of Dash's own endpoint, so that ``ctx.path`` does not depend on the
    transport.
    """
    return RequestSnapshot(
        cookies=dict(request.cookies),
        headers=dict(request.headers),
        args=list(request.args.items(multi=True)),
        path=path or f"{app.config.routes_pathname_prefix}_dash-update-component?",
        remote=request.remote_addr or "",
        origin=request.headers.get("Origin") or "",
    )
