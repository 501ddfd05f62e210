"""What callbacks of this web process send to one session: straight to its connection, or by mail.

While a websocket of the session is here, events go to it directly. When it is gone, those that
the browser has not confirmed go into the mailbox, and so does what follows of the same calls, so
that order holds: a call that has once been sent by mail stays with the mail.
"""

import asyncio
import contextlib
import logging
from typing import Protocol

import msgspec

from dash_dispatch import tasks
from dash_dispatch.errors import PayloadTooLarge, StoreError, StoreUnavailable
from dash_dispatch.protocol import Event
from dash_dispatch.store import Store

logger = logging.getLogger(__name__)

MAX_UNCONFIRMED = 1000
"""Direct events that may wait for the browser's confirmation; further ones go by mail, which waits
in Redis and not in this process."""

MAX_BYTES = 8 * 2**20
"""The same for their size, and for what is on its way to Redis: updates may be large."""

MAX_PENDING = 10_000
"""Events that may wait for Redis to come back; further updates (never outcomes) are dropped, and
the log says so: Redis has been away for longer than any buffer can bridge."""


class Direct(Protocol):
    """A live connection."""

    @property
    def name(self) -> str:
        """By which the browser knows it later."""

    def send(self, event: Event) -> int:
        """Queue an event; returns its number on this connection."""


class Outbox:
    """One session's way out of this process."""

    def __init__(self, store: Store, session: str) -> None:
        self._store = store
        self.session = session
        self._direct: Direct | None = None
        # Lists, and the event when somebody waits: there is one of this per browser, mostly idle,
        # and an empty deque, of which an event has one, too, takes as much as all else here.
        self._unconfirmed: list[tuple[int, Event]] = []
        self._unconfirmed_bytes = 0
        self._mail: list[Event] = []
        self._mail_bytes = 0
        self._mailed_calls: set[str] = set()
        self._posting: asyncio.Task[None] | None = None
        self._moved: asyncio.Event | None = None

    @property
    def connected(self) -> bool:
        """Whether a websocket of the session is in this process."""
        return self._direct is not None

    def connect(self, direct: Direct) -> None:
        """A websocket has come; it takes the place of an earlier one."""
        if self._direct is not None:
            self._spill(self._direct)
        self._direct = direct

    def disconnect(self, direct: Direct) -> None:
        """That websocket has gone: what it did not confirm goes by mail."""
        if self._direct is direct:
            self._direct = None
            self._spill(direct)

    def forget(self) -> None:
        """Whom it was for has no right to it any more: what waits is not sent."""
        self._unconfirmed.clear()
        self._unconfirmed_bytes = 0
        self._mail.clear()
        self._mail_bytes = 0

    def confirm(self, direct: Direct, number: int) -> None:
        """The browser has the direct events up to this one."""
        if self._direct is not direct:
            return
        while self._unconfirmed and self._unconfirmed[0][0] <= number:
            _, event = self._unconfirmed.pop(0)
            self._unconfirmed_bytes -= _size(event)

    def put(self, event: Event) -> None:
        """Send an event. Never blocks; called on the event loop."""
        if self._direct is not None and self._waits_for_much:
            # They go first: were the connection to break later, they would come behind this one.
            self._spill(self._direct)
        if self._direct is None or event.call in self._mailed_calls:
            self._post(event)
        else:
            self._unconfirmed.append((self._direct.send(event), event))
            self._unconfirmed_bytes += _size(event)

    @property
    def _waits_for_much(self) -> bool:
        many = len(self._unconfirmed) >= MAX_UNCONFIRMED
        return many or self._unconfirmed_bytes >= MAX_BYTES

    async def room(self) -> None:
        """Wait while much is on its way to Redis: for callbacks that are faster than it."""
        while len(self._mail) >= MAX_UNCONFIRMED or self._mail_bytes >= MAX_BYTES:
            self._moved = self._moved or asyncio.Event()
            self._moved.clear()
            await self._moved.wait()

    def _spill(self, direct: Direct) -> None:
        # The browser may have them all the same: it tells by the number.
        for number, event in self._unconfirmed:
            self._post(msgspec.structs.replace(event, direct=f"{direct.name}:{number}"))
        self._unconfirmed.clear()
        self._unconfirmed_bytes = 0

    def _post(self, event: Event) -> None:
        if event.outcome is None:
            self._mailed_calls.add(event.call)
        else:
            self._mailed_calls.discard(event.call)
        if len(self._mail) >= MAX_PENDING and event.outcome is None:
            logger.error("! update dropped, Redis is away", extra={"call_id": event.call})
            return
        self._mail.append(event)
        self._mail_bytes += _size(event)
        if self._posting is None or self._posting.done():
            self._posting = asyncio.create_task(self._pump(), name="outbox")

    async def _pump(self) -> None:
        backoff_s = 0.1
        while self._mail:
            event = self._mail[0]
            try:
                await self._store.post(self.session, event)
            except StoreUnavailable:
                await asyncio.sleep(backoff_s)
                backoff_s = min(backoff_s * 2, 2.0)
            except PayloadTooLarge as error:
                logger.error("! update dropped: %s", error, extra={"call_id": event.call})
                self._drop(event)
            except StoreError:
                logger.exception("! update refused", extra={"call_id": event.call})
                self._drop(event)
            else:
                self._drop(event)
                backoff_s = 0.1
            if self._moved is not None:
                self._moved.set()

    def _drop(self, event: Event) -> None:
        # `forget` may have been faster.
        if self._mail and self._mail[0] is event:
            self._mail.pop(0)
            self._mail_bytes -= _size(event)

    async def close(self, timeout_s: float) -> None:
        """Send what is left, as far as Redis takes it within the time."""
        if self._direct is not None:
            self.disconnect(self._direct)
        if self._posting is not None and not self._posting.done():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await asyncio.shield(self._posting)
            await tasks.end([self._posting])


def _size(event: Event) -> int:
    body = event.outcome.body if event.outcome is not None else b""
    return len(event.props) + len(event.question) + len(body)
