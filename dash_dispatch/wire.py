"""A connection to Redis, from when the client has made it: bytes out, replies in.

Between the socket and who waits for a reply, the client puts a stream, a task's turn and a time
limit for each: half of what a reply costs. It still does what is hard about a connection: to find
the server, TLS, and who we are.
"""

import asyncio
import contextlib
from typing import Any

import hiredis
import redis.exceptions as redis_errors
from redis.asyncio.connection import AbstractConnection, DefaultParser

_NOTHING = object()


class Wire(asyncio.Protocol):
    """Calls `on_reply` for each reply, in order, and `on_lost` once.

    Args:
        connection: One that the client has connected, and nobody uses.
    """

    def __init__(self, connection: AbstractConnection) -> None:
        self._connection = connection
        self._lost = False
        self._parser = hiredis.Reader(
            protocolError=redis_errors.InvalidResponse,
            replyError=DefaultParser.parse_error,
            notEnoughData=_NOTHING,
        )
        writer = connection._writer  # noqa: SLF001 - the client hands it out by no other name
        assert writer is not None
        self._transport = writer.transport
        self._transport.set_protocol(self)

    def send(self, packed: bytes) -> None:
        """Send commands in the form of the protocol. Waits in memory while Redis does not read."""
        self._transport.write(packed)

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        try:
            self._parser.feed(data)
            while (reply := self._parser.gets()) is not _NOTHING:
                self.on_reply(reply)
        except redis_errors.RedisError as error:
            self.lose(error)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop."""
        self.lose(exc or redis_errors.ConnectionError("Connection closed by server."))

    def on_reply(self, reply: Any) -> None:
        """A reply has come, maybe an error as a value."""
        raise NotImplementedError

    def on_lost(self, error: Exception) -> None:
        """No more replies will come."""
        raise NotImplementedError

    @property
    def lost(self) -> bool:
        """Whether no more replies will come."""
        return self._lost

    def lose(self, error: Exception) -> None:
        """Give it up."""
        if self._lost:
            return
        self._lost = True
        self._transport.abort()
        self.on_lost(error)

    async def close(self) -> None:
        """End the connection."""
        self.lose(redis_errors.ConnectionError("closed"))
        with contextlib.suppress(redis_errors.RedisError, OSError):
            await self._connection.disconnect(nowait=True)
