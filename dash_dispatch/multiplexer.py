"""One connection to Redis that all tasks of a process share.

A pool gives each command a connection, a write and a wake-up of its own. Here, what the tasks ask
in one turn of the loop goes out in one write, and the replies come back in order: at a thousand
calls per second that was most of a worker's work. The idea is that of StackExchange.Redis.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Mapping
from typing import Any

import hiredis
import redis.exceptions as redis_errors
from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection

from dash_dispatch.wire import Wire

logger = logging.getLogger(__name__)

PAUSES_S = (0.0, 0.02, 0.1, 0.3, 0.6, 1.0)
"""Before each further attempt of a command whose connection was lost. As for the pool's commands,
it may have been done all the same: every script is safe to repeat."""

GIVE_UP_S = 10.0
"""No further attempt is made after this long: whoever asked has something better to do."""

_LOST = (
    redis_errors.ConnectionError,
    redis_errors.TimeoutError,
    redis_errors.ReadOnlyError,
    redis_errors.BusyLoadingError,
    OSError,  # and with it TimeoutError
)
"""Another connection may be better: to a Redis that came back, or to the new primary."""


class Link(Wire):
    """A connection in use: what was asked on it, and what waits to be sent."""

    def __init__(self, connection: AbstractConnection, timeout_s: float) -> None:
        super().__init__(connection)
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        # Bounded by who asks: each waits for its reply.
        self._asked: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._unsent: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None

    def ask(self, command: tuple[Any, ...]) -> "asyncio.Future[Any]":
        """Send a command; while replies are awaited, with all others of this turn of the loop."""
        # The client's own packing is in Python, and a script of ours has some thirty arguments.
        # First of all: what cannot be packed must not be waited for, or all replies go astray.
        packed = hiredis.pack_command(command)
        reply: asyncio.Future[Any] = self._loop.create_future()
        if not self._asked:
            # Nobody is waited for: nothing would be gained by waiting for others.
            self.send(packed)
        else:
            if not self._unsent:
                self._loop.call_soon(self._flush)
            self._unsent.append(packed)
        self._asked.append((reply, self._loop.time()))
        if self._timer is None:
            self._timer = self._loop.call_later(self._timeout_s, self._look)
        return reply

    def _flush(self) -> None:
        unsent, self._unsent = self._unsent, []
        if not self.lost:
            self.send(b"".join(unsent))

    def _look(self) -> None:
        """A reply that does not come is the sign of a connection that is gone unnoticed."""
        self._timer = None
        if not self._asked:
            return
        left_s = self._asked[0][1] + self._timeout_s - self._loop.time()
        if left_s <= 0:
            self.lose(redis_errors.TimeoutError(f"no reply within {self._timeout_s:g} s"))
        else:
            self._timer = self._loop.call_later(left_s, self._look)

    def on_reply(self, reply: Any) -> None:
        """For the one who asked first."""
        waiter, _ = self._asked.popleft()
        if waiter.done():
            # Whoever asked was cancelled.
            return
        if isinstance(reply, Exception):
            waiter.set_exception(reply)
        else:
            waiter.set_result(reply)

    def on_lost(self, error: Exception) -> None:
        """All who wait are told."""
        if self._timer is not None:
            self._timer.cancel()
        asked, self._asked = self._asked, deque()
        for reply, _ in asked:
            if not reply.done():
                reply.set_exception(redis_errors.ConnectionError(str(error)))


class Multiplexer:
    """Commands and scripts over one connection that is made anew when it is lost.

    Args:
        pool: Where connections come from; its own are left to others.
        scripts: Lua scripts by name.
        timeout_s: A reply that takes longer means that the connection is lost.
    """

    def __init__(self, pool: ConnectionPool, scripts: Mapping[str, str], timeout_s: float) -> None:
        self._pool = pool
        self._scripts = scripts
        self._digests: dict[str, bytes] = {}
        self._timeout_s = timeout_s
        self._link: Link | None = None
        self._connecting = asyncio.Lock()
        self._closed = False

    async def run(self, script: str, keys: list[str], args: list[Any]) -> Any:
        """Run a script by its name.

        Raises:
            redis.exceptions.RedisError, OSError: As of the client.
        """
        for attempt in range(2):
            digest = self._digests.get(script) or await self._load(script)
            try:
                return await self.ask("EVALSHA", digest, len(keys), *keys, *args)
            except redis_errors.NoScriptError:
                # A Redis that was restarted, or another one.
                self._digests.pop(script, None)
                if attempt:
                    raise
        raise AssertionError("unreachable")

    async def _load(self, script: str) -> bytes:
        digest: bytes = await self.ask("SCRIPT", "LOAD", self._scripts[script])
        self._digests[script] = digest
        return digest

    async def ask(self, *command: Any) -> Any:
        """Run a command; again, over a new connection, when the connection is lost."""
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + GIVE_UP_S
        for pause_s in (*PAUSES_S, None):
            link = self._link
            try:
                if link is None or link.lost:
                    link = await self._connect()
                return await link.ask(command)
            except _LOST as error:
                if pause_s is None or self._closed or loop.time() > give_up_at:
                    raise
                if isinstance(error, redis_errors.ReadOnlyError | redis_errors.BusyLoadingError):
                    await self._drop(link)
                await asyncio.sleep(pause_s)
        raise AssertionError("unreachable")

    async def _connect(self) -> Link:
        async with self._connecting:
            if self._link is not None:
                if not self._link.lost:
                    return self._link
                await self._link.close()
                self._link = None
            if self._closed:
                raise redis_errors.ConnectionError("closed")
            connection: AbstractConnection = self._pool.make_connection()  # type: ignore[no-untyped-call]
            try:
                # The client's own limit is for the socket; what it says first is not in it.
                async with asyncio.timeout(self._timeout_s):
                    await connection.connect()  # type: ignore[no-untyped-call]
            except BaseException:
                await connection.disconnect(nowait=True)
                raise
            self._link = Link(connection, self._timeout_s)
            return self._link

    async def _drop(self, link: Link | None) -> None:
        if link is not None and link is self._link:
            self._link = None
            await link.close()

    async def block(self, *command: Any) -> Any:
        """Run a command that waits for something, and has the connection to itself.

        Whoever stops waiting gives the connection up, so that nothing is handed out to nobody.
        """
        try:
            return await self.ask(*command)
        except asyncio.CancelledError:
            await self._drop(self._link)
            raise

    async def close(self) -> None:
        """End the connection."""
        self._closed = True
        async with self._connecting:
            await self._drop(self._link)
