"""The browsers' websockets, with less kept for each than Quart keeps.

A page is open for hours and mostly says nothing, so what counts is what an idle one holds. Quart
puts two tasks and a queue between a server and its view, a fifth of what a page costs, so that a
view is cancelled when its connection ends, whatever it waits for. Our view always waits for the
browser's next word, among other things, and hears of the end there.
"""

import asyncio
import contextlib
from collections.abc import Awaitable
from functools import lru_cache
from typing import Any, Final, Protocol, cast

from quart import Quart, Websocket
from quart.asgi import ASGIWebsocketConnection
from quart.signals import websocket_received, websocket_sent
from werkzeug.datastructures import Headers

from dash_dispatch import shortcut
from dash_dispatch.stopping import Watch

Header = tuple[bytes, bytes]

_ALIKE: Final = frozenset(
    {
        b"accept-encoding",
        b"accept-language",
        b"cache-control",
        b"connection",
        b"host",
        b"origin",
        b"pragma",
        b"sec-websocket-extensions",
        b"sec-websocket-version",
        b"upgrade",
        b"user-agent",
    }
)
"""Headers that many browsers of a site send alike, and that do not let anybody in."""

MAX_SHARED: Final = 1024
MAX_SHARED_BYTES: Final = 256
"""So many of them, and so long ones, are held once for all who send them. Server and Quart hold
them for as long as a page is open, and they are a tenth of what it takes."""


ROOM_BYTES: Final = 64 * 1024
"""What a message may have beside its request. One that is a little too long is refused in words;
far longer ones close their connection, with code 1009."""


_IN_SCOPE: Final = "dash_dispatch.connection"


class Talk(Protocol):
    """A websocket without what Quart does for each message."""

    def hear(self) -> Awaitable[str | bytes]:
        """The next message."""

    async def say(self, text: bytes) -> None:
        """Send a text."""


def talk_of(websocket: Websocket) -> Talk:
    """That of an accepted websocket, wherever it comes from."""
    found = cast(Any, websocket.scope).get(_IN_SCOPE)
    return cast(Talk, found or _Plain(websocket))


class _Plain:
    """Of a server that has a way of its own."""

    def __init__(self, websocket: Websocket) -> None:
        self._websocket = websocket

    def hear(self) -> Awaitable[str | bytes]:
        return self._websocket.receive()

    async def say(self, text: bytes) -> None:
        await self._websocket.send(text.decode())


def install(server: Quart, path: str, request_bytes: int, watch: Watch) -> None:
    """Serve websockets of this path so, unless the server has a way of its own.

    Args:
        server: The app's.
        path: The websocket's.
        request_bytes: How long a request may be.
        watch: Shown the server with each of them, to hear when it stops.
    """
    entrance = cast(Any, server).asgi_websocket_class
    if entrance is ASGIWebsocketConnection:
        entrance = _Entrance()
        cast(Any, server).asgi_websocket_class = entrance
    if isinstance(entrance, _Entrance):
        entrance.ways[path] = request_bytes + ROOM_BYTES, watch


class _Entrance:
    """In place of ``Quart.asgi_websocket_class``: others' websockets are as ever."""

    def __init__(self) -> None:
        self.ways: dict[str, tuple[int, Watch]] = {}
        """Path → bytes of the longest message, and who wants to know of the server's end."""

    def __call__(self, server: Quart, scope: Any) -> ASGIWebsocketConnection:
        if (way := self.ways.get(scope["path"])) is not None:
            return _Connection(server, scope, *way)
        return ASGIWebsocketConnection(server, scope)


class _Words:
    """In place of a connection's queue: asks the server, which has one, too."""

    def __init__(self, receive: Any, way: shortcut.Shortcut | None) -> None:
        self._receive = receive
        self._way = way
        self.ended = False

    async def get(self) -> str | bytes:
        if self._way is not None:
            self._way.refill()
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
    def __init__(self, server: Quart, scope: Any, longest_bytes: int, watch: Watch) -> None:
        # Not Quart's own, which makes the queue.
        self.app = server
        self.scope = scope
        scope["headers"] = [_shared(*header)[0] for header in scope["headers"]]
        self._accepted = False
        self._closed = False
        self._longest_bytes = longest_bytes
        self._end = watch
        self._shortcut: shortcut.Shortcut | None = None
        self._send: Any = None

    async def __call__(self, receive: Any, send: Any) -> None:
        if (await receive())["type"] != "websocket.connect":
            return
        self._end.look(send)
        _hold_no_windows(send)
        _bound_messages(send, self._longest_bytes)
        self._shortcut = shortcut.of(send)
        self._send = send
        scope = cast(Any, self.scope)
        scope[_IN_SCOPE] = self
        words = _Words(receive, self._shortcut)
        cast(Any, self).queue = words
        try:
            await self.handle_websocket(self._create_websocket_from_scope(send), send)
        except asyncio.CancelledError:
            if not words.ended:
                raise
        finally:
            del scope[_IN_SCOPE]

    def _create_websocket_from_scope(self, send: Any) -> Websocket:
        websocket = super()._create_websocket_from_scope(send)
        headers = Headers([("Remote-Addr", websocket.headers["Remote-Addr"])])
        for header in self.scope["headers"]:
            headers.add(*_shared(*header)[1])
        websocket.headers = headers
        return websocket

    def hear(self) -> Awaitable[str | bytes]:
        """The next message. Quart's own looks each time whether it has been accepted."""
        return cast(Awaitable[str | bytes], self.queue.get())

    async def say(self, text: bytes) -> None:
        """Send a text. Quart's own gives the loop a turn first, for who sends without an end."""
        if self._shortcut is None or not self._shortcut.send(text):
            await self.send_data(self._send, text.decode())
        elif websocket_sent.receivers:
            await websocket_sent.send_async(text.decode())

    async def send_data(self, send: Any, data: str | bytes) -> None:
        # Uvicorn says so when nobody is there any more; so will the next word.
        with contextlib.suppress(OSError):
            await super().send_data(send, data)


def _shared(name: bytes, value: bytes) -> tuple[Header, tuple[str, str]]:
    """A header that equals this one, and the same as Quart has it."""
    is_alike = name in _ALIKE and len(value) <= MAX_SHARED_BYTES
    return _first(name, value) if is_alike else _both(name, value)


def _both(name: bytes, value: bytes) -> tuple[Header, tuple[str, str]]:
    return (name, value), (name.decode("latin1").title(), value.decode("latin1"))


_first = lru_cache(MAX_SHARED)(_both)


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


def _bound_messages(send: Any, longest_bytes: int) -> None:
    """Let Hypercorn take messages that are as long as ours may be, and no longer ones.

    It has a limit of its own (16 MiB), which stands where somebody has set it to something else.
    Uvicorn's is an option of its command alone.
    """
    stream = getattr(send, "__self__", None)
    default = getattr(type(getattr(stream, "config", None)), "websocket_max_message_size", None)
    buffer = getattr(stream, "buffer", None)
    if default is not None and getattr(buffer, "max_length", None) == default:
        cast(Any, buffer).max_length = longest_bytes
