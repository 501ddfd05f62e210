"""The browsers' websockets, with less kept for each than Quart keeps.

A page is open for hours and mostly says nothing, so what counts is what an idle one holds. Quart
puts two tasks and a queue between a server and its view, a fifth of what a page costs, so that a
view is cancelled when its connection ends, whatever it waits for. Our view always waits for the
browser's next word, among other things, and hears of the end there.
"""

import asyncio
import contextlib
from typing import Any, cast

from quart import Quart
from quart.asgi import ASGIWebsocketConnection
from quart.signals import websocket_received


def install(server: Quart, path: str) -> None:
    """Serve websockets of this path so, unless the server has a way of its own."""
    entrance = cast(Any, server).asgi_websocket_class
    if entrance is ASGIWebsocketConnection:
        entrance = _Entrance()
        cast(Any, server).asgi_websocket_class = entrance
    if isinstance(entrance, _Entrance):
        entrance.paths.add(path)


class _Entrance:
    """In place of ``Quart.asgi_websocket_class``: others' websockets are as ever."""

    def __init__(self) -> None:
        self.paths: set[str] = set()

    def __call__(self, server: Quart, scope: Any) -> ASGIWebsocketConnection:
        if scope["path"] in self.paths:
            return _Connection(server, scope)
        return ASGIWebsocketConnection(server, scope)


class _Words:
    """In place of a connection's queue: asks the server, which has one, too."""

    def __init__(self, receive: Any) -> None:
        self._receive = receive
        self.ended = False

    async def get(self) -> str | bytes:
        event = await self._receive()
        if event["type"] == "websocket.receive":
            # Of an empty binary message some servers leave the text out.
            message: str | bytes = event.get("bytes") or event.get("text") or b""
            if websocket_received.receivers:
                await websocket_received.send_async(message)
            return message
        self.ended = True
        # What Quart does to a view whose connection has ended.
        raise asyncio.CancelledError


class _Connection(ASGIWebsocketConnection):
    def __init__(self, server: Quart, scope: Any) -> None:
        # Not Quart's own, which makes the queue.
        self.app = server
        self.scope = scope
        self._accepted = False
        self._closed = False

    async def __call__(self, receive: Any, send: Any) -> None:
        if (await receive())["type"] != "websocket.connect":
            return
        _hold_no_windows(send)
        words = _Words(receive)
        cast(Any, self).queue = words
        try:
            await self.handle_websocket(self._create_websocket_from_scope(send), send)
        except asyncio.CancelledError:
            if not words.ended:
                raise

    async def send_data(self, send: Any, data: str | bytes) -> None:
        # Uvicorn says so when nobody is there any more; so will the next word.
        with contextlib.suppress(OSError):
            await super().send_data(send, data)


def _hold_no_windows(send: Any) -> None:
    """Let each message be compressed by itself, on Hypercorn, which has no setting for it.

    What browsers offer first is a window per direction that is kept from one message to the next,
    and with it zlib's own state: 100 KB for an idle page that has said hello, twice what
    all the rest of it takes. RFC 7692 lets a server ask for less. Where Hypercorn is another than
    this knows, or it is another server, nothing happens.
    """
    handshake = getattr(getattr(send, "__self__", None), "handshake", None)
    offered = getattr(handshake, "extensions", None)
    if isinstance(offered, list):
        cast(Any, handshake).extensions = [
            f"{offer}; server_no_context_takeover; client_no_context_takeover"
            if offer.startswith("permessage-deflate")
            else offer
            for offer in offered
        ]
