"""What runs in a process of the pool: one call at a time, read from a socket, answered there.

Messages (see ``pipes``) pass between a worker and its own children on one machine, in MessagePack;
nothing is unpickled.

=======  ==================  ======================================================
kind     from                says
=======  ==================  ======================================================
r, b     child, at its start  the app is ready; it is broken, and why
h        child, at its start  the app is imported, ``on_worker_start`` runs
c        worker              run this call
w        worker              get ready for this call
x, f     worker              run the call you are ready for; forget it
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
from collections import deque
from pathlib import Path
from typing import Any, Final

import msgspec

from dash_dispatch import binding, bridge, errors, lifecycle, remote
from dash_dispatch.errors import DispatchError
from dash_dispatch.loading import load_app
from dash_dispatch.pipes import Message, Messages, pack
from dash_dispatch.protocol import CallSpec, Outcome

CALL: Final = b"c"
PREPARE: Final = b"w"
RUN: Final = b"x"
FORGET: Final = b"f"
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
    """Body of a ``CALL`` and of a ``PREPARE``.

    The body of the ``RUN`` that follows the latter is the attempt's number. It is nearly always the
    first, which is what a process gets ready for.
    """

    spec: CallSpec
    attempt: int
    worker: str


class Reply(msgspec.Struct, frozen=True, array_like=True):
    """Body of a ``REPLY``: the outcome of a task, or the error that kept it from being run."""

    number: int
    outcome: Outcome | None
    error: str = ""
    text: str = ""


READ_BYTES: Final = 2**16
"""Read of the socket at once: all of a call, as a rule. More while a long message comes."""

NUMBER: Final = struct.Struct("!Q")
_orders = msgspec.msgpack.Decoder(Order)
_replies = msgspec.msgpack.Decoder(Reply)
_encoder = msgspec.msgpack.Encoder()


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
    ready: _Call | None = None
    while True:
        kind, body = channel.read()
        if kind == STOP:
            return
        if kind == PREPARE:
            ready = _Call(app, _orders.decode(body), channel)
            ready.prepare()
        elif kind == FORGET:
            ready = None
        elif kind == CALL:
            _answer(_Call(app, _orders.decode(body), channel), channel, max_mb)
        elif kind == RUN and ready is not None:
            ready.count(*NUMBER.unpack(body))
            # Not to hold on to a request until the next one comes.
            call, ready = ready, None
            _answer(call, channel, max_mb)
            del call


def _answer(call: "_Call", channel: "Channel", max_mb: int) -> None:
    outcome = call.run()
    if channel.abandoned:
        # A callback has forked, and its child has returned, too. The next call is not for it.
        os._exit(0)
    full = max_mb and resident_mb() > max_mb
    channel.answer(OUTCOME_AND_FULL if full else OUTCOME, outcome)


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os.killpg(0, signal.SIGKILL)


class _Call:
    """One call, from its order to its outcome."""

    def __init__(self, app: Any, order: Order, channel: "Channel") -> None:
        self._app = app
        self._spec = order.spec
        self._attempt = order.attempt
        self._worker = f"{order.worker}/{os.getpid()}"
        self._channel = channel
        self._bound: bridge.Invocation | None = None

    def prepare(self) -> None:
        """Go as far as the user's code, which does not run before the call is this worker's."""
        # What is wrong with it is said when it is run.
        with contextlib.suppress(Exception):
            self._bound = self._bind()

    def _bind(self) -> bridge.Invocation:
        sink = Sink(self._channel)
        return binding.bind_call(self._app, self._spec, sink, self._attempt, self._worker)

    def count(self, attempt: int) -> None:
        """Be told the number of this run, which its context holds."""
        if attempt != self._attempt:
            self._attempt, self._bound = attempt, None

    def run(self) -> bytes:
        """Run it; its outcome, encoded."""
        return self._encoded(self._run())

    def _run(self) -> Outcome:
        asking = Asking(self._channel)
        try:
            with remote.using(asking):
                invocation = self._bound or self._bind()
                result = invocation.run()
            return bridge.outcome_of(result, invocation.response)
        except BaseException as error:  # noqa: BLE001 - whatever user code raises is its outcome
            return bridge.outcome_of_error(error, self._spec.id, self._worker)
        finally:
            asking.close()
            _flush()

    def _encoded(self, outcome: Outcome) -> bytes:
        try:
            return _encoder.encode(outcome)
        except Exception as error:  # noqa: BLE001 - whatever it is: the page sees a plain failure
            kind = type(error).__name__
            plain = bridge.unencodable(kind, error, self._spec.id, self._worker)
            return _encoder.encode(plain)


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
    """The socket. What belongs to a call says so by its turn: 0 for the first one, and so on."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._messages = Messages()
        self._received: deque[Message] = deque()
        self.turn = 0
        """Number of the call that runs, or comes next."""
        self.abandoned = False
        """This process is a fork of the one that runs the call."""
        self._lock = threading.Lock()
        self._waiting: dict[int, concurrent.futures.Future[Outcome]] = {}
        self._numbers = itertools.count(1)
        self._reading: threading.Thread | None = None
        self._for_main: queue.SimpleQueue[Message | None] = queue.SimpleQueue()

    def abandon(self) -> None:
        """In a process that a callback has forked: two must not speak, or hear, for one call."""
        self.abandoned = True
        self._connection.close()

    def write(self, kind: bytes, body: bytes, turn: int | None = None) -> bool:
        """Send a message; waits while the worker does not read.

        Args:
            kind: What it is.
            body: What it says.
            turn: Of the call that says it; None for the process itself.

        Returns:
            False when that call has ended, and nothing is sent: a thread may outlive its call, and
            must not speak for the next one.
        """
        if self.abandoned:
            raise OSError("a process that a callback has forked cannot speak to the page")
        with self._lock:
            if turn is not None and turn != self.turn:
                return False
            self._send(kind, body)
            return True

    def answer(self, kind: bytes, body: bytes) -> None:
        """Send the outcome of the call that runs: its last word."""
        with self._lock:
            self.turn += 1
            self._send(kind, body)

    def _send(self, kind: bytes, body: bytes) -> None:
        for part in pack(kind, body):
            self._connection.sendall(part)

    def read(self) -> Message:
        """Wait for a call, or the word to stop. Raises EOFError when the worker is gone."""
        if self._reading is None:
            return self._receive()
        message = self._for_main.get()
        # It has ended with that: the next one is read without a switch of threads.
        self._reading = None
        if message is None:
            raise EOFError
        return message

    def _receive(self) -> Message:
        while not self._received:
            try:
                data = self._connection.recv(READ_BYTES)
            except ConnectionError as error:
                raise EOFError from error
            if not data:
                raise EOFError
            self._received.extend(self._messages.feed(data))
        return self._received.popleft()

    # --- tasks ---------------------------------------------------------------------------------

    def ask(self, spec: CallSpec, turn: int) -> tuple[int, "concurrent.futures.Future[Outcome]"]:
        """Let the worker have a task run; its number, and the outcome when it comes.

        Raises:
            RuntimeError: The call of that turn has ended.
        """
        future: concurrent.futures.Future[Outcome] = concurrent.futures.Future()
        with self._lock:
            number = next(self._numbers)
            # Not for one that has ended: the main thread may be listening already.
            if turn == self.turn:
                self._waiting[number] = future
                self._listen()
        if not self.write(ASK, _encoder.encode((number, spec)), turn):
            self._waiting.pop(number, None)
            raise RuntimeError("the callback that would wait for this has ended")
        return number, future

    def _listen(self) -> None:
        # Replies come while a call runs. As long as it asks for nothing, nobody has to listen then,
        # and a call costs one thread less.
        if self._reading is None:
            self._reading = threading.Thread(target=self._sort, name="replies", daemon=True)
            self._reading.start()

    def drop(self, number: int, turn: int) -> None:
        """Nobody waits for this task of that turn's call any more."""
        if self._waiting.pop(number, None) is not None:
            with contextlib.suppress(OSError):
                self.write(DROP, NUMBER.pack(number), turn)

    def _sort(self) -> None:
        """Replies to those who wait for them, until the next call comes for the main thread."""
        try:
            while (message := self._receive())[0] == REPLY:
                self._settle(_replies.decode(message[1]))
        except (EOFError, OSError):
            self._for_main.put(None)
        else:
            self._for_main.put(message)

    def _settle(self, reply: Reply) -> None:
        future = self._waiting.pop(reply.number, None)
        if future is None or not future.set_running_or_notify_cancel():
            return
        if reply.outcome is not None:
            future.set_result(reply.outcome)
        else:
            future.set_exception(_error_of(reply))


class Sink:
    """``ctx.websocket`` of one call: its ``set_props``, as they happen."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._turn = channel.turn

    @property
    def is_shutdown(self) -> bool:
        """Whether the call has ended: only a thread that it has left behind can ask then."""
        return self._turn != self._channel.turn

    def set_prop_sync(self, component_id: str, prop_name: str, value: Any) -> None:
        """Send an update to the page."""
        props = bridge.encode_props(component_id, prop_name, value)
        self._channel.write(PROPS, props, self._turn)

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
        self._turn = channel.turn
        self._closed = False
        self._futures: set[concurrent.futures.Future[Outcome]] = set()

    def submit(self, spec: CallSpec) -> "concurrent.futures.Future[Outcome]":
        """Let it be run. Cancelling the future cancels the call. From any thread.

        Raises:
            RuntimeError: The callback has ended.
        """
        number, future = self._channel.ask(spec, self._turn)
        self._futures.add(future)

        def settled(_: object) -> None:
            self._futures.discard(future)
            if future.cancelled():
                self._channel.drop(number, self._turn)

        future.add_done_callback(settled)
        if self._closed:
            # A thread that the callback has left behind: nobody will answer it.
            future.cancel()
        return future

    def close(self) -> None:
        """The call has ended: nobody waits any more."""
        self._closed = True
        for future in list(self._futures):
            future.cancel()
