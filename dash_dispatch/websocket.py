"""The first transport: one websocket per browser, for all its pages of this app."""

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Awaitable
from typing import Any, Self, TypeVar

from quart import websocket

from dash_dispatch import bridge, guards, tasks
from dash_dispatch.errors import DecodeError, ProtocolError, QueueFull, StoreError
from dash_dispatch.protocol import (
    PONG,
    AckMessage,
    ClientMessage,
    Event,
    Hello,
    Mark,
    PingMessage,
    check_version,
    decode_client_message,
    encode_frame,
    message_of,
    pieces,
    reset,
    welcome,
)
from dash_dispatch.relay import FALLBACK_S, MailboxReader, is_cursor
from dash_dispatch.runtime import Runtime, Services
from dash_dispatch.session import Session, Sessions
from dash_dispatch.sockets import Talk, talk_of
from dash_dispatch.store import Entry

logger = logging.getLogger(__name__)

T = TypeVar("T")

MAX_FRAME_BYTES = 256 * 1024
"""Messages are put together in frames up to about this size."""

SILENCE_S = 90.0
"""A browser pings when it hears nothing; one that says nothing for this long has gone to sleep
or away. It comes back with its cursor, and has lost nothing."""

HELLO_S = 10.0
CLOSE_ORIGIN, CLOSE_PROTOCOL, CLOSE_RETRY = 4003, 4002, 4013
CLOSE_SILENT = 4008

CLOSE_S = 5.0
"""A browser that does not read cannot be told: it is left to TCP after this long."""


class Connection:
    """What is to be sent on one websocket: direct messages and control, in order.

    Bounded: direct events by their outbox (``MAX_UNCONFIRMED``), control by what the browser
    asked for, one answer each.
    """

    def __init__(self, talk: Talk, *, debug: bool) -> None:
        self.talk = talk
        self.name = secrets.token_hex(6)
        self._debug = debug
        self._queue: list[tuple[Mark, bytes]] = []
        self._numbers = 0
        self.takes_pieces = False
        self.wake = tasks.Flag()
        self._looking: asyncio.TimerHandle | None = None
        self.is_due = False
        """Whether it is to be looked for mail, for a hint may have been lost."""

    def send(self, event: Event) -> int:
        """Queue a direct event; returns its number."""
        self._numbers += 1
        self._push(self._numbers, message_of(event, debug=self._debug))
        return self._numbers

    def control(self, message: bytes) -> None:
        """Queue a control message."""
        self._push(None, message)

    def _push(self, mark: Mark, message: bytes) -> None:
        self._queue.append((mark, message))
        self.wake.set()

    def look_later(self) -> None:
        """Look for mail after a while. One timer does: most calls end long before it."""
        if self._looking is None:
            loop = asyncio.get_running_loop()
            self._looking = loop.call_later(FALLBACK_S, self._look)

    def _look(self) -> None:
        self._looking = None
        self.is_due = True
        self.wake.set()

    def close(self) -> None:
        """Nothing is looked for any more."""
        if self._looking is not None:
            self._looking.cancel()

    def take(self) -> list[tuple[Mark, bytes]]:
        """All that waits."""
        pairs, self._queue = self._queue, []
        self.wake.clear()
        return pairs


async def serve(app: Any, runtime: Runtime) -> None:
    """Handle one websocket, from its handshake to its end."""
    ws = websocket
    refusal = guards.refuse_origin(app, ws.headers)
    if refusal is not None:
        await ws.close(CLOSE_ORIGIN, refusal)
        return
    rejection = await guards.run_connect_hooks(app, ws)
    if rejection is not None:
        await ws.close(*rejection)
        return
    await ws.accept()
    try:
        await _converse(app, runtime, runtime.services())
    except (StoreError, QueueFull) as error:
        logger.warning("! websocket closed: %s", error)
        await _close(CLOSE_RETRY, "try again later")
    except ProtocolError as error:
        logger.warning("! websocket closed: %s", error)
        await _close(CLOSE_PROTOCOL, str(error)[:100])
    except TimeoutError:
        await _close(CLOSE_PROTOCOL, f"no hello within {HELLO_S:g} s")


async def _close(code: int, reason: str) -> None:
    # The other side may be gone already: then there is nothing to tell.
    with contextlib.suppress(Exception):
        async with asyncio.timeout(CLOSE_S):
            await websocket.close(code, reason)


async def _converse(app: Any, runtime: Runtime, services: Services) -> None:
    session_id, hello, connection = await _greet(app, services)
    cursor = hello.cursor if hello.cursor and is_cursor(hello.cursor) else None
    session = services.sessions.open(session_id)
    try:
        async with await services.relay.attach(session_id, cursor, connection.wake.set) as reader:
            await _exchange(app, runtime, services, session, connection, reader)
    finally:
        connection.close()
        session.outbox.disconnect(connection)
        services.sessions.close(session)


async def _greet(app: Any, services: Services) -> tuple[str, Hello, Connection]:
    """Hear who it is; a session handle that is not valid gets one more try, without it."""
    connection = Connection(talk_of(websocket), debug=bridge.shows_errors(app))
    signer = services.sessions.signer
    for _ in range(2):
        async with asyncio.timeout(HELLO_S):
            hello = _read(await connection.talk.hear())
        if not isinstance(hello, Hello):
            raise DecodeError("the first message is not hello")
        check_version(hello.version)
        connection.takes_pieces = hello.pieces
        if hello.session is None:
            session_id = signer.new()
            _welcome(connection, signer.sign(session_id), resumed=False)
            return session_id, Hello(hello.version), connection
        if (known := signer.verify(hello.session)) is not None:
            _welcome(connection, signer.sign(known), resumed=True)
            return known, hello, connection
        await connection.talk.say(
            encode_frame([(None, reset("the session is not valid any more"))])
        )
    raise DecodeError("the session is not valid")


def _welcome(connection: Connection, token: str, *, resumed: bool) -> None:
    connection.control(welcome(token, resumed=resumed, connection=connection.name))


async def _exchange(
    app: Any,
    runtime: Runtime,
    services: Services,
    session: Session,
    connection: Connection,
    reader: MailboxReader,
) -> None:
    """Both directions, until one of them ends, or the server stops."""
    session.outbox.connect(connection)
    running = [
        asyncio.create_task(_receive(app, services, session, connection, reader)),
        asyncio.create_task(
            _send(services.sessions, session, connection, reader, debug=bridge.shows_errors(app))
        ),
    ]
    stopping = runtime.stopping()
    if stopping is not None:
        running.append(asyncio.create_task(_wait(stopping)))
    if guards.has_logins(app):
        running.append(asyncio.create_task(_end_with_login(app, services, session)))
    try:
        # Nobody is heard any more; the browser comes back, to another process maybe.
        with runtime.until_stopped(running[0].cancel):
            await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    finally:
        results = await tasks.end(running)
    for result in results:
        # A cancellation is no `Exception`.
        if isinstance(result, TimeoutError):
            logger.info("websocket closed: silent for %g s", SILENCE_S)
            await _close(CLOSE_SILENT, f"nothing heard for {SILENCE_S:g} s")
        elif isinstance(result, Exception):
            raise result


async def _end_with_login(app: Any, services: Services, session: Session) -> None:
    """Close the connection when the login ends that it came in with."""
    logins = services.logins
    snapshot = guards.snapshot(app, websocket)
    with logins.watch(await logins.identify(snapshot), snapshot) as login:
        rejection = await guards.login_ends(app, websocket, logins, login)
    session.outbox.forget()
    await services.store.empty(session.id)
    await _close(*rejection)


class _Patience:
    """A time limit for each of many things that one task waits for, with one timer for all.

    ``asyncio.timeout`` makes one for each, and most of what is waited for comes long before.
    """

    __slots__ = ("_limit_s", "_loop", "_over", "_since_s", "_task", "_timer")

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._since_s: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._over = False

    async def wait_for(self, awaited: Awaitable[T]) -> T:
        """What is waited for.

        Raises:
            TimeoutError: It has not come in time.
        """
        self._since_s = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_later(self._limit_s, self._look)
        try:
            return await awaited
        except asyncio.CancelledError:
            if self._over and self._task is not None and self._task.uncancel() == 0:
                raise TimeoutError from None
            raise
        finally:
            self._since_s = None

    def _look(self) -> None:
        self._timer = None
        if self._since_s is None:
            # At something else: the next wait sets it up again.
            return
        left_s = self._since_s + self._limit_s - self._loop.time()
        if left_s > 0:
            self._timer = self._loop.call_later(left_s, self._look)
        elif self._task is not None:
            self._over = True
            self._task.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()


def _read(message: str | bytes) -> ClientMessage:
    # An empty binary message comes as None.
    return decode_client_message(message or b"")


async def _wait(stopping: asyncio.Event) -> None:
    await stopping.wait()


async def _receive(
    app: Any,
    services: Services,
    session: Session,
    connection: Connection,
    reader: MailboxReader,
) -> None:
    snapshot = guards.snapshot(app, websocket)
    with _Patience(SILENCE_S) as patience:
        while True:
            message = _read(await patience.wait_for(connection.talk.hear()))
            rejection = await guards.run_message_hooks(app, websocket, message)
            if rejection is not None:
                await _close(*rejection)
                return
            match message:
                case PingMessage():
                    connection.control(PONG)
                case AckMessage(cursor=cursor, direct=direct):
                    session.outbox.confirm(connection, direct)
                    if cursor is not None and is_cursor(cursor):
                        await reader.acknowledge(cursor)
                case _:
                    await services.sessions.take(session, message, snapshot)
                    if session.awaited:
                        connection.look_later()


async def _send(
    sessions: Sessions,
    session: Session,
    connection: Connection,
    reader: MailboxReader,
    *,
    debug: bool,
) -> None:
    while True:
        # In a function of its own: what has been sent must not be held while nothing happens.
        sent = await _send_news(session, connection, reader, debug=debug)
        if not sent and not reader.has_news:
            await connection.wake.wait()
        if connection.is_due:
            connection.is_due = False
            await _look_for_mail(sessions, session, connection, reader)


async def _send_news(
    session: Session, connection: Connection, reader: MailboxReader, *, debug: bool
) -> bool:
    """Send all there is; whether there was anything."""
    pairs = connection.take()
    if reader.has_news:
        entries = await reader.read()
        session.heard(entry.event for entry in entries)
        pairs += [(entry.id, await _message_of(entry, debug=debug)) for entry in entries]
    for batch in _batches(pairs):
        await _send_batch(connection, batch)
    return bool(pairs)


async def _message_of(entry: Entry, *, debug: bool) -> bytes:
    if not entry.aside:
        return message_of(entry.event, debug=debug)
    # It is large, and copied: 10 ms for 20 MB, in which the loop would stand still.
    return await asyncio.to_thread(message_of, entry.event, debug=debug)


async def _look_for_mail(
    sessions: Sessions, session: Session, connection: Connection, reader: MailboxReader
) -> None:
    """A page that waits for an outcome looks for itself now and then; an idle one costs nothing."""
    if not session.awaited:
        return
    await sessions.give_up_lost(session)
    reader.wake()
    if session.awaited:
        connection.look_later()


def _batches(pairs: list[tuple[Mark, bytes]]) -> list[list[tuple[Mark, bytes]]]:
    """What goes in one frame each. A message that is larger than a frame is alone in its."""
    batches: list[list[tuple[Mark, bytes]]] = []
    size = 0
    for pair in pairs:
        if not batches or size + len(pair[1]) > MAX_FRAME_BYTES:
            batches.append([])
            size = 0
        batches[-1].append(pair)
        size += len(pair[1])
    return batches


async def _send_batch(connection: Connection, batch: list[tuple[Mark, bytes]]) -> None:
    mark, message = batch[0]
    if not connection.takes_pieces or len(message) <= MAX_FRAME_BYTES:
        await connection.talk.say(encode_frame(batch))
        return
    for piece in pieces(mark, message, MAX_FRAME_BYTES):
        await websocket.send(piece)
        # Sending alone waits only when the browser does not keep up.
        await asyncio.sleep(0)
