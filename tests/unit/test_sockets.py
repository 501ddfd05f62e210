"""What an idle websocket holds."""

from typing import Any

from quart import Quart, Websocket

from dash_dispatch import sockets
from dash_dispatch.stopping import Watch

HEADERS = [
    (b"host", b"example.org"),
    (b"user-agent", b"Mozilla/5.0"),
    (b"cookie", b"session=mine"),
    (b"origin", b"https://example.org" + b"/" * 300),
    (b"origin", b"https://example.org"),
]


async def nobody(*_: Any) -> None:
    """Nobody sends or hears anything here."""


def connected(server: Quart) -> tuple[Any, Websocket]:
    """A connection's scope and websocket, from objects of its own."""
    headers = [(bytes(bytearray(name)), bytes(bytearray(value))) for name, value in HEADERS]
    scope: Any = {
        "type": "websocket",
        "path": "/ws",
        "scheme": "ws",
        "query_string": b"",
        "headers": headers,
        "client": ("10.0.0.1", 1),
    }
    sockets.install(server, "/ws", 1000, Watch(lambda: None))
    connection: Any = server.asgi_websocket_class(server, scope)
    connection.queue = connection
    connection.get = nobody
    return scope, connection._create_websocket_from_scope(nobody)


def test_headers_are_those_that_came() -> None:
    scope, websocket = connected(Quart(__name__))

    assert scope["headers"] == HEADERS
    assert websocket.headers.getlist("Origin") == [HEADERS[3][1].decode(), "https://example.org"]
    assert websocket.headers["Remote-Addr"] == "10.0.0.1"
    assert websocket.cookies["session"] == "mine"


def test_what_browsers_send_alike_is_held_once() -> None:
    server = Quart(__name__)
    (one, its), (other, others) = connected(server), connected(server)

    shared = [a is b for a, b in zip(one["headers"], other["headers"], strict=True)]
    # Not what lets somebody in, nor what somebody sends to fill the memory.
    assert shared == [True, True, False, False, True]
    assert its.headers["User-Agent"] is others.headers["User-Agent"]
    assert its.headers["Cookie"] is not others.headers["Cookie"]
