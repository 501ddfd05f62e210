"""Websocket messages past Hypercorn's layers: small texts, which nearly all are.

On its way in, a message goes through a stream reader, a turn of the loop, three protocols, a frame
parser in Python and an event object each; and much the same on its way out. For a small one that
is more than all we do with it. So this stands between the transport and Hypercorn's protocol:

* What has come is looked at (`Shortcut.data_received`). When it is nothing but whole frames with a
  short text each, they are put into Hypercorn's own queue for the app, from where they are received
  as ever. Anything else, and all that comes while that is at work, goes Hypercorn's way.
* A short text that is to be sent is written at once (`Shortcut.send`) if nothing is on its way to
  be sent, and goes Hypercorn's way otherwise.

Frames are RFC 6455's. Where Hypercorn is another than this knows, or it is another server, or
HTTP/2, there is no shortcut.
"""

import asyncio
import zlib
from typing import Any, Final

_OWN: Final = {
    "hypercorn.protocol.ws_stream.WSStream",
    "hypercorn.protocol.h11.H11Protocol",
    "hypercorn.asyncio.tcp_server.TCPServer",
}

MAX_TEXT_BYTES: Final = 32 * 1024
"""Longer texts are worth Hypercorn's way, which waits while a browser does not keep up."""

MAX_PLAIN_BYTES: Final = 1024
"""A text up to here is sent as it is, also where the browser takes compressed ones: to make a
compressor ready takes longer than it saves."""

_TEXT: Final = 0x81
_PACKED_TEXT: Final = 0xC1
_FINAL, _MASKED, _LENGTH, _OPCODE = 0x80, 0x80, 0x7F, 0x0F
_CONTROL: Final = 0x08
_TAIL: Final = b"\0\0\xff\xff"
"""What a sender leaves out at the end of a compressed message."""


def of(send: Any) -> "Shortcut | None":
    """The shortcut of a connection, by its ``send``, before it is accepted; None if it has none."""
    stream = _owner(send)
    protocol = _owner(getattr(stream, "send", None))
    server = _owner(getattr(protocol, "send", None))
    if stream is None or protocol is None or server is None:
        return None
    # Hypercorn counts the time from what has come its way.
    if stream.config.read_timeout is not None:
        return None
    return Shortcut(stream, server)


def _owner(method: Any) -> Any:
    """The object of Hypercorn's that a method is of."""
    owner = getattr(method, "__self__", None)
    kind = type(owner)
    return owner if f"{kind.__module__}.{kind.__qualname__}" in _OWN else None


class Shortcut(asyncio.Protocol):
    """Between a connection's transport and Hypercorn's protocol."""

    __slots__ = (
        "_bounds",
        "_handle",
        "_held",
        "_lock",
        "_owed",
        "_packs",
        "_paused",
        "_protocol",
        "_stream",
        "_transport",
        "_waiting",
    )

    def __init__(self, stream: Any, server: Any) -> None:
        self._stream = stream
        self._lock = server.send_lock
        self._transport = server.writer.transport
        self._protocol = self._transport.get_protocol()
        # Bytes that have gone Hypercorn's way and are not handled. What came before this was there
        # makes it negative for ever, and all goes that way.
        self._owed = 0
        self._bounds: _Bounds | None = None
        self._packs: bool | None = None
        self._paused = False
        # The last one first. None of this is a list before it is needed: it is kept per idle page.
        self._waiting: list[str] | None = None
        self._held = b""
        self._handle = stream.handle
        stream.handle = self._handled
        self._transport.set_protocol(self)

    # --- in ------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        if self._waiting:
            # Some transports hand out what they have, also when they are asked to pause.
            self._held += data
            return
        between = self._bounds is None or self._bounds.between
        if self._owed == 0 and between and self._open and self._take(data):
            return
        self._owed += len(data)
        self._bounds = self._bounds or _Bounds()
        self._bounds.pass_over(data)
        self._protocol.data_received(data)

    async def _handled(self, event: Any) -> None:
        """In place of the stream's ``handle``."""
        await self._handle(event)
        self._owed -= len(getattr(event, "data", b""))

    @property
    def _open(self) -> bool:
        stream = self._stream
        # There is none before it is accepted.
        connection = getattr(stream, "connection", None)
        return (
            connection is not None
            and not stream.closed
            and stream.state.name == "CONNECTED"
            and connection.state.name == "OPEN"
        )

    def _take(self, data: bytes) -> bool:
        """Whether it was all whole frames of short texts."""
        texts: list[str] = []
        at, size = 0, len(data)
        while at < size:
            if (found := self._text_at(data, at)) is None:
                return False
            at, text = found
            texts.append(text)
        texts.reverse()
        self._waiting = texts
        self.refill()
        return True

    def refill(self) -> None:
        """Give the app what has waited for room in its queue. Nothing is read meanwhile."""
        if not self._waiting:
            return
        queue = self._stream.app_put.__self__
        while self._waiting and not queue.full():
            text = self._waiting.pop()
            queue.put_nowait({"type": "websocket.receive", "bytes": None, "text": text})
        if bool(self._waiting) is not self._paused:
            self._paused = not self._paused
            (self._transport.pause_reading if self._paused else self._transport.resume_reading)()
        if not self._paused and self._held:
            held, self._held = self._held, b""
            self.data_received(held)

    def _text_at(self, data: bytes, at: int) -> tuple[int, str] | None:
        """The end of the frame that begins here, and its text; None if it is another one."""
        if len(data) - at < 6 or not data[at + 1] & _MASKED:
            return None
        kind, size = data[at], data[at + 1] & _LENGTH
        start = at + 6
        if size >= 126:
            size = int.from_bytes(data[at + 2 : at + 4]) if size == 126 else 0
            start = at + 8
            if size < 126:
                return None
        end = start + size
        if end > len(data) or size > self._stream.buffer.max_length:
            return None
        body = _unmasked(data[start - 4 : start], data[start:end])
        try:
            if kind == _PACKED_TEXT and self._unpacks:
                unpacked = _unpacked(body, min(MAX_TEXT_BYTES, self._stream.buffer.max_length))
                return None if unpacked is None else (end, unpacked.decode())
            return (end, body.decode()) if kind == _TEXT else None
        except UnicodeDecodeError:
            # To be refused, in Hypercorn's way.
            return None

    @property
    def _unpacks(self) -> bool:
        """Whether the browser may compress, and each message by itself."""
        if self._packs is None:
            frames = getattr(self._stream.connection, "_proto", None)
            self._packs = any(
                extension.enabled() and getattr(extension, "client_no_context_takeover", False)
                for extension in getattr(frames, "extensions", ())
            )
        return self._packs

    def eof_received(self) -> bool | None:
        """Called by the loop."""
        eof: bool | None = self._protocol.eof_received()
        return eof

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop."""
        # Not to be held by each other for ever.
        vars(self._stream).pop("handle", None)
        self._protocol.connection_lost(exc)

    # --- out -----------------------------------------------------------------------------------

    def send(self, text: bytes) -> bool:
        """Write a text now; False when it has to go Hypercorn's way."""
        size = len(text)
        if size > (MAX_PLAIN_BYTES if self._unpacks else MAX_TEXT_BYTES):
            return False
        transport = self._transport
        # Nothing before it may wait, and a browser that does not read has to be waited for.
        if self._lock.locked() or transport.get_write_buffer_size() or transport.is_closing():
            return False
        if not self._open:
            # Closed by one of both.
            return False
        head = bytes((_TEXT, size)) if size < 126 else bytes((_TEXT, 126)) + size.to_bytes(2)
        transport.write(head + text)
        return True

    def pause_writing(self) -> None:
        """Called by the transport."""
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """Called by the transport."""
        self._protocol.resume_writing()


def _unmasked(mask: bytes, body: bytes) -> bytes:
    size = len(body)
    if mask == b"\0\0\0\0" or not size:
        return body
    whole = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(body) ^ int.from_bytes(whole)).to_bytes(size)


def _unpacked(body: bytes, most: int) -> bytes | None:
    inflating = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        text = inflating.decompress(body + _TAIL, most)
    except zlib.error:
        return None
    return None if inflating.unconsumed_tail or inflating.unused_data else text


class _Bounds:
    """Knows where frames and messages end, of those that go Hypercorn's way."""

    __slots__ = ("_head", "_left", "_within")

    def __init__(self) -> None:
        self._head = b""
        self._left = 0
        self._within = False

    @property
    def between(self) -> bool:
        """Whether the next byte begins a message."""
        return not (self._within or self._left or self._head)

    def pass_over(self, data: bytes) -> None:
        """These go that way."""
        at = 0
        while at < len(data):
            if self._left:
                step = min(self._left, len(data) - at)
                self._left -= step
                at += step
            else:
                self._head += data[at : at + 1]
                at += 1
                self._look()

    def _look(self) -> None:
        """What a frame's head says, when it is whole."""
        head = self._head
        if len(head) < 2:
            return
        size = head[1] & _LENGTH
        extended = {126: 2, 127: 8}.get(size, 0)
        if len(head) < 2 + extended + (4 if head[1] & _MASKED else 0):
            return
        self._left = int.from_bytes(head[2 : 2 + extended]) if extended else size
        if not head[0] & _OPCODE & _CONTROL:
            self._within = not head[0] & _FINAL
        self._head = b""
