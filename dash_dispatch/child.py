"""What runs in a process of the pool: one call at a time, read from a socket, answered there.

Messages are a kind (one byte), a length (eight), and a body. They pass between a worker and its
own children on one machine, in MessagePack; nothing is unpickled.

=======  ==================  ======================================================
kind     from                says
=======  ==================  ======================================================
r, b     child, at its start  the app is ready; it is broken, and why
h        child, at its start  the app is imported, ``on_worker_start`` runs
c        worker              run this call
p        child               a ``set_props`` of the call
o, l     child               the call's outcome; the same, and replace me: I am full
a, d     child               run this task for the call; nobody waits for it any more
y        worker              a task's outcome
s        worker              come to an end
e        child               I have: ``on_worker_stop`` has run
=======  ==================  ======================================================
"""

import asyncio
import concurrent.futures
import contextlib
import itertools
import multiprocessing
import multiprocessing.connection
import os
import queue
import resource
import signal
import socket
import struct
import sys
import threading
from pathlib import Path
from typing import Any, Final

import msgspec

from dash_dispatch import binding, bridge, errors, lifecycle, remote
from dash_dispatch.errors import DispatchError
from dash_dispatch.loading import load_app
from dash_dispatch.protocol import CallSpec, Outcome

CALL: Final = b"c"
PROPS: Final = b"p"
OUTCOME: Final = b"o"
OUTCOME_AND_FULL: Final = b"l"
READY: Final = b"r"
BROKEN: Final = b"b"
HOOKS: Final = b"h"
ASK: Final = b"a"
DROP: Final = b"d"
REPLY: Final = b"y"
STOP: Final = b"s"
STOPPED: Final = b"e"

PRELOAD: Final = "DASH_DISPATCH_PRELOAD"
"""Tells the fork server, which takes no arguments, which app to import."""


class Order(msgspec.Struct, frozen=True, array_like=True):
    """Body of a ``CALL``."""

    spec: CallSpec
    attempt: int
    worker: str


class Reply(msgspec.Struct, frozen=True, array_like=True):
    """Body of a ``REPLY``: the outcome of a task, or the error that kept it from being run."""

    number: int
    outcome: Outcome | None
    error: str = ""
    text: str = ""


_HEADER = struct.Struct("!cQ")
_NUMBER = struct.Struct("!Q")
_orders = msgspec.msgpack.Decoder(Order)
_replies = msgspec.msgpack.Decoder(Reply)


def main(connection: socket.socket, app_spec: str, max_mb: int = 0) -> None:
    """Run calls until the parent says stop, or closes the connection.

    Args:
        connection: To the worker.
        app_spec: How to import the app.
        max_mb: Resident memory from which the worker is asked for a replacement; 0: never.
    """
    # A group of its own, so that a kill takes what the callback has started along.
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_die_with_parent, name="watch-parent", daemon=True).start()
    channel = Channel(connection)
    os.register_at_fork(after_in_child=channel.abandon)
    # One loop for all hooks: what one of them opens, another can close.
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as hooks:
        try:
            app = load_app(app_spec)
            bridge.ready(app)
            channel.write(HOOKS, b"")
            hooks.run(lifecycle.start())
        except Exception as error:  # noqa: BLE001 - user code: the worker says it in words
            _flush()
            channel.write(BROKEN, f"{type(error).__name__}: {error}".encode())
            return
        channel.write(READY, b"1" if lifecycle.stops() else b"")
        with contextlib.suppress(EOFError):
            _serve(app, channel, max_mb)
            hooks.run(lifecycle.stop())
            _flush()
            channel.write(STOPPED, b"")


def _serve(app: Any, channel: "Channel", max_mb: int) -> None:
    """Run calls until told to stop. Raises EOFError when the worker is gone."""
    while True:
        kind, body = channel.read()
        if kind == STOP:
            return
        order = _orders.decode(body)
        outcome = _encoded(_run(app, order, channel), order)
        if channel.abandoned:
            # A callback has forked, and its child has returned, too. The next call is not for it.
            os._exit(0)
        full = max_mb and resident_mb() > max_mb
        channel.write(OUTCOME_AND_FULL if full else OUTCOME, outcome)


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os.killpg(0, signal.SIGKILL)


def _run(app: Any, order: Order, channel: "Channel") -> Outcome:
    spec, worker = order.spec, f"{order.worker}/{os.getpid()}"
    asking = Asking(channel)
    try:
        with remote.using(asking):
            invocation = binding.bind_call(app, spec, channel, order.attempt, worker)
            result = invocation.run()
        return bridge.outcome_of(result, invocation.response)
    except BaseException as error:  # noqa: BLE001 - whatever user code raises is its outcome
        return bridge.outcome_of_error(error, spec.id, worker)
    finally:
        asking.close()
        _flush()


def _encoded(outcome: Outcome, order: Order) -> bytes:
    try:
        return msgspec.msgpack.encode(outcome)
    except Exception as error:  # noqa: BLE001 - whatever it is: the page sees a plain failure
        plain = bridge.unencodable(type(error).__name__, error, order.spec.id, order.worker)
        return msgspec.msgpack.encode(plain)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        # An error means that nobody reads the worker's output any more, or that a callback has
        # closed it, or put something else in its place.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()


def resident_mb() -> float:
    """How much memory this process holds, in MiB."""
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
        return pages * resource.getpagesize() / 2**20
    except (OSError, ValueError, IndexError):
        # Elsewhere the most that it ever held is known: in KiB, on macOS in bytes.
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most / (2**20 if sys.platform == "darwin" else 2**10)


class Channel:
    """The socket, and ``ctx.websocket`` of the call that runs."""

    is_shutdown = False

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.abandoned = False
        """This process is a fork of the one that runs the call."""
        self._lock = threading.Lock()
        self._waiting: dict[int, concurrent.futures.Future[Outcome]] = {}
        self._numbers = itertools.count(1)
        self._reading: threading.Thread | None = None
        self._for_main: queue.SimpleQueue[tuple[bytes, bytes] | None] = queue.SimpleQueue()

    def abandon(self) -> None:
        """In a process that a callback has forked: two must not speak, or hear, for one call."""
        self.abandoned = True
        self._connection.close()

    def write(self, kind: bytes, body: bytes) -> None:
        """Send a message; waits while the worker does not read."""
        if self.abandoned:
            raise OSError("a process that a callback has forked cannot speak to the page")
        with self._lock:
            # One send for small messages: each is a wake-up of the worker.
            if len(body) < 65_536:
                self._connection.sendall(_HEADER.pack(kind, len(body)) + body)
            else:
                self._connection.sendall(_HEADER.pack(kind, len(body)))
                self._connection.sendall(body)

    def read(self) -> tuple[bytes, bytes]:
        """Wait for a call, or the word to stop. Raises EOFError when the worker is gone."""
        if self._reading is None:
            return self._receive()
        message = self._for_main.get()
        if message is None:
            raise EOFError
        return message

    def _receive(self) -> tuple[bytes, bytes]:
        kind, size = _HEADER.unpack(self._exactly(_HEADER.size))
        return kind, self._exactly(size)

    def _exactly(self, size: int) -> bytes:
        parts = bytearray()
        while len(parts) < size:
            try:
                part = self._connection.recv(min(size - len(parts), 2**20))
            except ConnectionError as error:
                raise EOFError from error
            if not part:
                raise EOFError
            parts += part
        return bytes(parts)

    # --- tasks ---------------------------------------------------------------------------------

    def ask(self, spec: CallSpec) -> tuple[int, "concurrent.futures.Future[Outcome]"]:
        """Let the worker have a task run; its number, and the outcome when it comes."""
        future: concurrent.futures.Future[Outcome] = concurrent.futures.Future()
        with self._lock:
            # Replies come while a call runs. Until the first task, nobody has to listen then, and
            # a call costs one thread less.
            if self._reading is None:
                self._reading = threading.Thread(target=self._sort, name="replies", daemon=True)
                self._reading.start()
            number = next(self._numbers)
            self._waiting[number] = future
        self.write(ASK, msgspec.msgpack.encode((number, spec)))
        return number, future

    def drop(self, number: int) -> None:
        """Nobody waits for this task any more."""
        if self._waiting.pop(number, None) is not None:
            with contextlib.suppress(OSError):
                self.write(DROP, _NUMBER.pack(number))

    def _sort(self) -> None:
        """Replies to those who wait for them, everything else to the main thread."""
        try:
            while True:
                kind, body = self._receive()
                if kind == REPLY:
                    self._settle(_replies.decode(body))
                else:
                    self._for_main.put((kind, body))
        except (EOFError, OSError):
            self._for_main.put(None)

    def _settle(self, reply: Reply) -> None:
        future = self._waiting.pop(reply.number, None)
        if future is None or not future.set_running_or_notify_cancel():
            return
        if reply.outcome is not None:
            future.set_result(reply.outcome)
        else:
            future.set_exception(_error_of(reply))

    # --- what Dash asks of ``ctx.websocket`` -----------------------------------------------------

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


def _error_of(reply: Reply) -> Exception:
    kind = getattr(errors, reply.error, None)
    if isinstance(kind, type) and issubclass(kind, DispatchError):
        return kind(reply.text)
    return RuntimeError(reply.text)


class Asking:
    """The tasks that the call waits for: a ``remote.Runner`` that asks the worker."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._futures: set[concurrent.futures.Future[Outcome]] = set()
        self._closed = False

    def submit(self, spec: CallSpec) -> "concurrent.futures.Future[Outcome]":
        """Let it be run. Cancelling the future cancels the call. From any thread.

        Raises:
            RuntimeError: The callback has ended.
        """
        if self._closed:
            raise RuntimeError("the callback that would wait for this has ended")
        number, future = self._channel.ask(spec)
        self._futures.add(future)

        def settled(_: object) -> None:
            self._futures.discard(future)
            if future.cancelled():
                self._channel.drop(number)

        future.add_done_callback(settled)
        return future

    def close(self) -> None:
        """The call has ended: nobody waits any more."""
        self._closed = True
        for future in list(self._futures):
            future.cancel()
