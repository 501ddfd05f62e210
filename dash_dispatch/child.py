"""What runs in a process of the pool: one call at a time, read from a socket, answered there.

Messages are a kind (one byte), a length (eight), and a body. They pass between a worker and its
own children on one machine, in MessagePack; nothing is unpickled.
"""

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import socket
import struct
import sys
import threading
from typing import Any, Final

import msgspec

from dash_dispatch import bridge
from dash_dispatch.loading import load_app
from dash_dispatch.protocol import CallSpec, Outcome

CALL: Final = b"c"
PROPS: Final = b"p"
OUTCOME: Final = b"o"
READY: Final = b"r"
BROKEN: Final = b"b"

PRELOAD: Final = "DASH_DISPATCH_PRELOAD"
"""Tells the fork server, which takes no arguments, which app to import."""

_HEADER = struct.Struct("!cQ")
_spec_and_name = msgspec.msgpack.Decoder(tuple[CallSpec, str])


def main(connection: socket.socket, app_spec: str) -> None:
    """Run calls until the parent closes the connection."""
    # A group of its own, so that a kill takes what the callback has started along.
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_die_with_parent, name="watch-parent", daemon=True).start()
    channel = Channel(connection)
    try:
        app = load_app(app_spec)
        bridge.ready(app)
    except Exception as error:  # noqa: BLE001 - user code: the worker says it in words
        channel.write(BROKEN, f"{type(error).__name__}: {error}".encode())
        return
    channel.write(READY, b"")
    while True:
        try:
            _, body = channel.read()
        except EOFError:
            return
        spec, worker = _spec_and_name.decode(body)
        channel.write(OUTCOME, msgspec.msgpack.encode(_run(app, spec, worker, channel)))


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os.killpg(0, signal.SIGKILL)


def _run(app: Any, spec: CallSpec, worker: str, channel: "Channel") -> Outcome:
    try:
        invocation = bridge.bind_call(app, spec, channel)
        return bridge.outcome_of(invocation.run(), invocation.response)
    except BaseException as error:  # noqa: BLE001 - whatever user code raises is its outcome
        return bridge.outcome_of_error(error, spec.id, f"{worker}/{os.getpid()}")
    finally:
        _flush()


def _flush() -> None:
    # An error means that nobody reads the worker's output any more.
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()


class Channel:
    """The socket, and ``ctx.websocket`` of the call that runs."""

    is_shutdown = False

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def write(self, kind: bytes, body: bytes) -> None:
        """Send a message; waits while the worker does not read."""
        with self._lock:
            # One send for small messages: each is a wake-up of the worker.
            if len(body) < 65_536:
                self._connection.sendall(_HEADER.pack(kind, len(body)) + body)
            else:
                self._connection.sendall(_HEADER.pack(kind, len(body)))
                self._connection.sendall(body)

    def read(self) -> tuple[bytes, bytes]:
        """Wait for a message. Raises EOFError when the worker is gone."""
        kind, size = _HEADER.unpack(self._exactly(_HEADER.size))
        return kind, self._exactly(size)

    def _exactly(self, size: int) -> bytes:
        parts = bytearray()
        while len(parts) < size:
            part = self._connection.recv(min(size - len(parts), 2**20))
            if not part:
                raise EOFError
            parts += part
        return bytes(parts)

    def set_prop_sync(self, component_id: str, prop_name: str, value: Any) -> None:
        """Send an update to the page, as it happens."""
        self.write(PROPS, bridge.encode_props(component_id, prop_name, value))

    async def set_prop(self, component_id: str, prop_name: str, value: Any) -> None:
        """The same, awaitable."""
        self.set_prop_sync(component_id, prop_name, value)

    async def get_prop(self, component_id: str, prop_name: str, timeout: float = 30.0) -> Any:  # noqa: ASYNC109 - Dash's signature
        """Not from a worker; see ``execution.Stream.get_prop``."""
        raise NotImplementedError(
            f"an offloaded callback cannot ask the page for {component_id}.{prop_name}:"
            " take it as State"
        )
