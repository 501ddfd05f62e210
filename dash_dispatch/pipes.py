"""Messages between a worker and a process of its pool, over a socket: a kind, a length, a body.

A message is one send and, as a rule, one receive on either side. Each of both that is more wakes
somebody who then goes back to sleep, which costs as much as an empty callback.
"""

import asyncio
import struct
from collections import deque
from typing import Final, cast

HEADER: Final = struct.Struct("!cQ")

TOGETHER_BYTES: Final = 65_536
"""A body up to this size goes with its header; a larger one is not copied for that."""

HELD_BYTES: Final = 2**20
"""What the worker has read of a process and not taken up yet. At this bound it reads no more, so
the process, and with it the callback, waits at its next message."""

Message = tuple[bytes, bytes]
"""Kind and body."""


def pack(kind: bytes, body: bytes) -> tuple[bytes, ...]:
    """A message, as it is to be sent: in one part, or two."""
    header = HEADER.pack(kind, len(body))
    return (header + body,) if len(body) <= TOGETHER_BYTES else (header, body)


class Messages:
    """Makes messages of what a socket gives, in whatever pieces."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        """The messages that are complete with this piece."""
        if not self._rest and len(data) >= HEADER.size:
            kind, size = HEADER.unpack_from(data)
            if len(data) == HEADER.size + size:
                # Nearly always.
                return [(kind, data[HEADER.size :])]
        self._rest += data
        found: list[Message] = []
        start = 0
        with memoryview(self._rest) as view:
            while len(view) - start >= HEADER.size:
                kind, size = HEADER.unpack_from(view, start)
                end = start + HEADER.size + size
                if end > len(view):
                    break
                found.append((kind, bytes(view[start + HEADER.size : end])))
                start = end
        del self._rest[:start]
        return found


class Pipe(asyncio.Protocol):
    """The worker's end, for one who waits for messages at a time."""

    _transport: asyncio.Transport

    def __init__(self) -> None:
        self._messages = Messages()
        self._held: deque[Message] = deque()
        self._held_bytes = 0
        self._paused = False
        self._waiter: asyncio.Future[None] | None = None
        self.ended = False
        """Whether no more messages will come than have."""

    def fileno(self) -> int:
        """Of the socket; not to be used any more when it has `ended`."""
        found: int = self._transport.get_extra_info("socket").fileno()
        return found

    def send(self, kind: bytes, body: bytes) -> None:
        """Send a message. Waits in memory while the process does not read.

        That is a call, for a process that has none, or the outcome of a task that its call waits
        for: no more than it asked for. What is sent to one that has ended is lost.
        """
        if not self._transport.is_closing():
            for part in pack(kind, body):
                self._transport.write(part)

    async def receive(self) -> Message:
        """Wait for a message.

        Raises:
            EOFError: No more will come.
        """
        while not self._held:
            if self.ended:
                raise EOFError
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        message = self._held.popleft()
        self._held_bytes -= HEADER.size + len(message[1])
        if self._paused and not self._held:
            self._paused = False
            self._transport.resume_reading()
        return message

    def end(self) -> None:
        """Give it up: what has not been sent, and what has not been read."""
        self.ended = True
        # Who waits is told by `connection_lost`.
        self._transport.abort()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        for message in self._messages.feed(data):
            self._held.append(message)
            self._held_bytes += HEADER.size + len(message[1])
        if self._held_bytes >= HELD_BYTES and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        if self._held:
            self._wake()

    def connection_lost(self, _exc: Exception | None) -> None:
        """Called by the loop."""
        self.ended = True
        self._wake()
