"""From mailboxes to connections: one subscription per process wakes whoever waits."""

import asyncio
import logging
import re
from collections import defaultdict
from collections.abc import Awaitable, Callable
from types import TracebackType

from dash_dispatch import tasks
from dash_dispatch.connection import EVERYBODY, Channels
from dash_dispatch.errors import StoreUnavailable
from dash_dispatch.protocol import Event
from dash_dispatch.store import Entry, Store

logger = logging.getLogger(__name__)

BATCH_ENTRIES = 64
"""Entries read from a mailbox at once. Reading waits until the ones before are sent, so a slow
browser's mail stays in Redis and not in this process."""

BEGINNING = "0-0"
"""Before the first entry of a mailbox, as Redis has it."""

FALLBACK_S = 15.0
"""A lost hint costs at most this much, for a session that waits for something."""


_CURSOR = re.compile(r"([0-9]{1,20})-([0-9]{1,20})\Z")
_CURSOR_END = 2**64 - 1
"""Entry ids are two unsigned numbers of 64 bits, and the one after a cursor is one, too."""


def _nobody() -> None:
    """For readers that wait by themselves."""


class Relay:
    """Tells readers that their session's mailbox has something new.

    A hint is only a hint: after a lost connection to Redis all readers look by themselves.

    Args:
        store: Where the mailboxes are.
        announced: Told what is said to all processes.
    """

    def __init__(self, store: Store, announced: Callable[[str], None] | None = None) -> None:
        self._store = store
        self._announced = announced
        self._channels: Channels | None = None
        self._readers: dict[str, set[MailboxReader]] = defaultdict(set)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to listen."""
        self._channels = self._store.hints(self._hear)
        self._task = asyncio.create_task(self._listen(self._channels), name="relay")

    async def close(self) -> None:
        """Stop listening."""
        await tasks.end([self._task])
        if self._channels is not None:
            await self._channels.close()

    async def _listen(self, channels: Channels) -> None:
        async for _ in channels.listen():
            # Connected, maybe again: anything may have been missed.
            for reader in self._concerned(None):
                reader.wake()

    def _concerned(self, session: str | None) -> "list[MailboxReader]":
        if session is not None:
            return list(self._readers.get(session, ()))
        return [reader for readers in self._readers.values() for reader in readers]

    def _hear(self, session: str, message: bytes) -> None:
        """Called as messages come, without a task in between."""
        if session == EVERYBODY and self._announced is not None:
            self._announced(message.decode(errors="replace"))
        for reader in self._concerned(session):
            reader.hear(message)

    async def attach(
        self, session: str, cursor: str | None, notify: Callable[[], None] = _nobody
    ) -> "MailboxReader":
        """A reader of the session's mailbox, from after the cursor on.

        Args:
            session: The session's id.
            cursor: The last entry that the browser has; None for none.
            notify: Called when there may be something to read, now and later.

        Raises:
            StoreUnavailable: Redis cannot be reached.
        """
        assert self._channels is not None
        reader = MailboxReader(
            self._store, session, cursor, lambda: self._detach(session, reader), notify
        )
        first = not self._readers[session]
        self._readers[session].add(reader)
        if first:
            try:
                await self._channels.add(session)
            except BaseException:
                self._forget(session, reader)
                raise
        return reader

    async def _detach(self, session: str, reader: "MailboxReader") -> None:
        if self._forget(session, reader) and self._channels is not None:
            await self._channels.remove(session)

    def _forget(self, session: str, reader: "MailboxReader") -> bool:
        """Returns whether nobody else reads this session."""
        self._readers[session].discard(reader)
        if self._readers[session]:
            return False
        del self._readers[session]
        return True


class MailboxReader:
    """Reads one session's mailbox for one connection, in order.

    Use as an async context manager, or call `close`.
    """

    def __init__(
        self,
        store: Store,
        session: str,
        cursor: str | None,
        detach: Callable[[], Awaitable[None]],
        notify: Callable[[], None],
    ) -> None:
        self._store = store
        self.session = session
        self.cursor = cursor
        self._detach = detach
        self._notify = notify
        self._new = tasks.Flag()
        # Entries that came with their hints, while nothing before them is missing.
        self._hinted: list[Entry] = []
        self._complete = False
        # What came before this reader is news to it as well.
        self.wake()

    def wake(self) -> None:
        """There may be something new."""
        self._complete = False
        self._new.set()
        self._notify()

    def hear(self, hint: bytes) -> None:
        """There is something new, and the hint may be all of it."""
        found = self._store.hinted(hint) if self._complete else None
        if found is None or found[0] != self._last or len(self._hinted) >= BATCH_ENTRIES:
            self.wake()
            return
        self._hinted.append(found[1])
        self._new.set()
        self._notify()

    @property
    def _last(self) -> str:
        return self._hinted[-1].id if self._hinted else self.cursor or BEGINNING

    @property
    def has_news(self) -> bool:
        """Whether `read` is worth a try."""
        return self._new.is_set()

    async def news(self, timeout_s: float | None = None) -> bool:
        """Wait until `read` is worth a try; False when the time ran out first."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._new.wait()
        except TimeoutError:
            return False
        return True

    async def read(self) -> list[Entry]:
        """The next entries, possibly none. The cursor moves on."""
        self._new.clear()
        hinted, self._hinted = self._hinted, []
        entries = hinted if self._complete else await self._ask()
        if entries:
            self.cursor = entries[-1].id
        return entries

    async def _ask(self) -> list[Entry]:
        entries = await self._store.read(self.session, self.cursor, BATCH_ENTRIES)
        # What was hinted at meanwhile may be among them, or not: that is asked for again.
        self._complete = not self._new.is_set()
        if len(entries) == BATCH_ENTRIES:
            self.wake()
        return entries

    async def acknowledge(self, cursor: str) -> None:
        """The browser has everything up to here: it need not be kept."""
        await self._store.trim(self.session, cursor)

    async def outcome(self, call: str, timeout_s: float) -> Event | None:
        """Wait for the outcome of one call and pass over everything else; None if it is late."""
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    await self.news(FALLBACK_S)
                    for entry in await self._read_patiently():
                        if entry.event.call == call and entry.event.outcome is not None:
                            return entry.event
        except TimeoutError:
            return None

    async def _read_patiently(self) -> list[Entry]:
        try:
            return await self.read()
        except StoreUnavailable as error:
            # The call is accepted and goes on; its waiter sees the outcome when Redis is back.
            logger.warning("! mailbox not readable (%s), trying again", error)
            self.wake()
            await asyncio.sleep(0.2)
            return []

    async def close(self) -> None:
        """Stop reading."""
        await self._detach()

    async def __aenter__(self) -> "MailboxReader":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()


def is_cursor(value: str) -> bool:
    """Whether a browser's cursor has the form of an entry id."""
    match = _CURSOR.match(value)
    return match is not None and max(map(int, match.groups())) < _CURSOR_END
