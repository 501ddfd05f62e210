"""What callbacks of this web process send to one session: straight to its connection, or by mail.

While a websocket of the session is here, events go to it directly. When it is gone, those that
the browser has not confirmed go into the mailbox, and so does what follows of the same calls, so
that order holds: a call that has once been sent by mail stays with the mail.
"""

import asyncio
import contextlib
import logging
from collections import deque
from typing import Protocol

import msgspec

from dash_dispatch import tasks
from dash_dispatch.errors import StoreError, StoreUnavailable
from dash_dispatch.protocol import Event
from dash_dispatch.store import Store

logger = logging.getLogger(__name__)

MAX_UNCONFIRMED = 1000
"""Direct events that may wait for the browser's confirmation; further ones go by mail, which waits
in Redis and not in this process."""

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
        self._unconfirmed: deque[tuple[int, Event]] = deque()
        self._mail: deque[Event] = deque()
        self._mailed_calls: set[str] = set()
        self._posting: asyncio.Task[None] | None = None
        self._moved = asyncio.Event()

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

    def confirm(self, direct: Direct, number: int) -> None:
        """The browser has the direct events up to this one."""
        if self._direct is not direct:
            return
        while self._unconfirmed and self._unconfirmed[0][0] <= number:
            self._unconfirmed.popleft()

    def put(self, event: Event) -> None:
        """Send an event. Never blocks; called on the event loop."""
        if self._direct is not None and len(self._unconfirmed) >= MAX_UNCONFIRMED:
            # They go first: were the connection to break later, they would come behind this one.
            self._spill(self._direct)
        if self._direct is None or event.call in self._mailed_calls:
            self._post(event)
        else:
            self._unconfirmed.append((self._direct.send(event), event))

    async def room(self) -> None:
        """Wait while much is on its way to Redis: for callbacks that are faster than it."""
        while len(self._mail) >= MAX_UNCONFIRMED:
            self._moved.clear()
            await self._moved.wait()

    def _spill(self, direct: Direct) -> None:
        # The browser may have them all the same: it tells by the number.
        for number, event in self._unconfirmed:
            self._post(msgspec.structs.replace(event, direct=f"{direct.name}:{number}"))
        self._unconfirmed.clear()

    def _post(self, event: Event) -> None:
        if event.outcome is None:
            self._mailed_calls.add(event.call)
        else:
            self._mailed_calls.discard(event.call)
        if len(self._mail) >= MAX_PENDING and event.outcome is None:
            logger.error("! update dropped, Redis is away", extra={"call_id": event.call})
            return
        self._mail.append(event)
        if self._posting is None or self._posting.done():
            self._posting = asyncio.create_task(self._pump(), name="outbox")

    async def _pump(self) -> None:
        backoff_s = 0.1
        while self._mail:
            try:
                await self._store.post(self.session, self._mail[0])
            except StoreUnavailable:
                await asyncio.sleep(backoff_s)
                backoff_s = min(backoff_s * 2, 2.0)
            except StoreError:
                logger.exception("! update refused", extra={"call_id": self._mail[0].call})
                self._mail.popleft()
            else:
                self._mail.popleft()
                backoff_s = 0.1
            self._moved.set()

    async def close(self, timeout_s: float) -> None:
        """Send what is left, as far as Redis takes it within the time."""
        if self._direct is not None:
            self.disconnect(self._direct)
        if self._posting is not None and not self._posting.done():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await asyncio.shield(self._posting)
            await tasks.end([self._posting])
