"""What every request of a browser script passes before it is heard, on both transports."""

import asyncio
import inspect
import random
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import orjson
from werkzeug.datastructures import Headers

from dash_dispatch import bridge
from dash_dispatch.logins import ENDED, Login, Logins
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
CLOSE_CODES = frozenset({1000, 1001, 1002, 1003, *range(1007, 1015), *range(3000, 5000)})
MAX_REASON_BYTES = 123


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
    if host and _netloc(origin) == host:
        return None
    return "Origin not allowed"


def _netloc(origin: str) -> str:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        # "http://[": not of a browser.
        return ""


def refuse_form(headers: Headers) -> str | None:
    """Why a POST may not come in that any page of the web could send; None if it may.

    A form of another site brings the user's cookies along, and can hold any text. It cannot say
    that it is JSON: for that, a browser asks this server first.
    """
    kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        return None
    return "Content-Type must be application/json"


async def run_connect_hooks(app: Any, connection: Any) -> Rejection | None:
    """Run the app's ``websocket_connect`` hooks; how one of them rejects, or None."""
    return await _run(bridge.websocket_hooks(app, "websocket_connect"), "Rejected", connection)


async def run_message_hooks(app: Any, connection: Any, message: ClientMessage) -> Rejection | None:
    """Run the app's ``websocket_message`` hooks on a message, in the form that Dash gives it."""
    hooks = bridge.websocket_hooks(app, "websocket_message")
    if not hooks:
        return None
    try:
        known = _as_dash(message)
    except orjson.JSONDecodeError:
        # Too deep, or text that is none. A hook cannot be shown it, so nobody gets it.
        return REJECTED, "not a callback request"
    return await _run(hooks, "Message rejected", connection, known) if known else None


async def login_ends(app: Any, connection: Any, logins: Logins, login: Login) -> Rejection:
    """Wait until the login that a connection came in with has ended; how to close it then.

    Somebody says so (``Dash.end_login``), or the app's hooks and ``Dash(user=...)``, which are
    asked again now and then, take the connection's request no more.
    """
    longest_s = app.runtime.settings.recheck_s
    while True:
        # Spread, so that connections which came together are not asked about together.
        pause_s = longest_s * random.uniform(0.5, 1.0)  # noqa: S311 - a spread, not a secret
        try:
            async with asyncio.timeout(pause_s or None):
                await login.ended.wait()
        except TimeoutError:
            rejection = await run_connect_hooks(app, connection)
            if rejection is not None:
                return rejection
            if await logins.is_good(login):
                continue
        return REJECTED, ENDED


def has_logins(app: Any) -> bool:
    """Whether the app says who may come in, or who somebody is: else no login can end."""
    return app.user_of is not None or bool(bridge.websocket_hooks(app, "websocket_connect"))


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
            return _rejection(*result)
    return None


def _rejection(code: Any, reason: Any) -> Rejection:
    """What a hook says, as far as a websocket can say it: a code that exists, and 123 bytes."""
    text = str(reason).encode("utf-8", "replace")[:MAX_REASON_BYTES].decode("utf-8", "ignore")
    return (code, text) if isinstance(code, int) and code in CLOSE_CODES else (REJECTED, text)


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
