"""The shortcut past Hypercorn: whoever talks, both ways say and do the same."""

import asyncio
import itertools
import random
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypothesis import given, settings
from hypothesis import strategies as st

from dash_dispatch import shortcut
from tests.scale import scaled

LONGEST = 100_000
UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Extensions: permessage-deflate; client_no_context_takeover;"
    b" server_no_context_takeover\r\n\r\n"
)


class Transport(asyncio.Transport):
    """A connection whose browser is the test."""

    def __init__(self, protocol: asyncio.BaseProtocol) -> None:
        super().__init__()
        self.protocol = protocol
        self.written = b""
        self.buffered = 0
        self.paused = False
        self.closed = False

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self.protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self if name == "socket" else default

    family = None

    def getpeername(self) -> None:
        """None of a network's."""

    getsockname = getpeername

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def get_write_buffer_size(self) -> int:
        return self.buffered

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def is_closing(self) -> bool:
        return self.closed

    def can_write_eof(self) -> bool:
        return False

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            asyncio.get_running_loop().call_soon(self._lost)

    def _lost(self) -> None:
        assert isinstance(self.protocol, asyncio.Protocol)
        self.protocol.connection_lost(None)

    def feed(self, data: bytes) -> None:
        """What the browser says."""
        if not self.closed:
            assert isinstance(self.protocol, asyncio.Protocol)
            self.protocol.data_received(data)


class Talk:
    """One connection to Hypercorn, whose app keeps what it hears.

    Args:
        short: Whether there is the shortcut.
        pauses: Turns of the loop that the app takes for each message.
    """

    def __init__(self, *, short: bool, pauses: int = 0, **config: Any) -> None:
        self._short = short
        self._pauses = pauses
        self.heard: list[Any] = []
        self.way: shortcut.Shortcut | None = None
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        self.transport = Transport(protocol)
        protocol.connection_made(self.transport)
        writer = asyncio.StreamWriter(self.transport, protocol, reader, loop)
        known = Config()
        known.websocket_max_message_size = LONGEST
        known.errorlog = None
        for name, value in config.items():
            setattr(known, name, value)
        app: Any = self._app
        context: Any = WorkerContext(None)
        server = TCPServer(app, loop, known, context, {}, reader, writer)
        self.serving = asyncio.ensure_future(server.run())

    async def _app(self, _: Any, receive: Any, send: Any, *__: Any) -> None:
        assert (await receive())["type"] == "websocket.connect"
        if self._short:
            self.way = shortcut.of(send)
        await send({"type": "websocket.accept", "headers": [], "subprotocol": None})
        while True:
            if self.way is not None:
                self.way.refill()
            message = await receive()
            self.heard.append(message)
            if message["type"] == "websocket.disconnect":
                return
            for _turn in range(self._pauses):
                await asyncio.sleep(0)

    async def open(self) -> None:
        """Shake hands."""
        self.transport.feed(UPGRADE)
        await self._turns(lambda: b"\r\n\r\n" in self.transport.written)

    async def say(self, *parts: bytes, turns: int = 3) -> None:
        """Let it hear these, one after the other."""
        for part in parts:
            # A transport hands out nothing while it is paused.
            await self._turns(lambda: not self.transport.paused or self.transport.closed)
            self.transport.feed(part)
            for _ in range(turns):
                await asyncio.sleep(0)

    async def _turns(self, condition: Callable[[], bool]) -> None:
        for _ in range(100_000):
            if condition():
                return
            await asyncio.sleep(0)
        raise AssertionError("it does not come to it")

    async def settle(self) -> None:
        """Until nothing more happens."""
        known = None
        while known != (known := (len(self.heard), len(self.transport.written))):
            for _ in range(20 * (1 + self._pauses)):
                await asyncio.sleep(0)

    async def end(self) -> None:
        """The browser goes."""
        self.transport.close()
        await self.serving


class Said(bytes):
    """What a browser says, shown in short: it is long at times."""

    def __repr__(self) -> str:
        return f"{bytes(self[:40])!r} ({len(self)})"


def frame(
    kind: int,
    body: bytes,
    *,
    mask: bytes | None = b"mask",
    final: bool = True,
    packed: bool = False,
) -> Said:
    """As a browser sends it."""
    head = bytes([(0x80 if final else 0) | (0x40 if packed else 0) | kind])
    flag = 0 if mask is None else 0x80
    size = len(body)
    if size < 126:
        head += bytes([flag | size])
    elif size < 65_536:
        head += bytes([flag | 126]) + size.to_bytes(2)
    else:
        head += bytes([flag | 127]) + size.to_bytes(8)
    if mask is None:
        return Said(head + body)
    return Said(head + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(body)))


def pack(text: bytes) -> bytes:
    packing = zlib.compressobj(wbits=-15)
    return (packing.compress(text) + packing.flush(zlib.Z_SYNC_FLUSH))[:-4]


TEXT, BINARY, CLOSE, PING = 1, 2, 8, 9

masks = st.sampled_from([b"mask", b"\0\0\0\0", b"\xff\x00\x80\x01"])
texts = st.one_of(
    st.text(max_size=20), st.integers(100, 300).map("ä".__mul__), st.just("x" * 66_000)
).map(str.encode)
plain = st.builds(lambda text, mask: frame(TEXT, text, mask=mask), texts, masks)
packed = st.builds(lambda text: frame(TEXT, pack(text), packed=True), texts)
parts = st.builds(
    lambda text, ping, *, together: Said(
        frame(TEXT, text[:7], final=False)
        + (frame(PING, b"there?") if ping else b"")
        + frame(0, text[7:] if together else b"")
    ),
    texts,
    st.booleans(),
    together=st.booleans(),
)
odd = st.sampled_from(
    [
        frame(TEXT, b"\xff\xfe"),
        frame(TEXT, "ä".encode()[:1]),
        frame(TEXT, b"not masked", mask=None),
        frame(TEXT, b"not packed", packed=True),
        frame(TEXT, pack(b"x" * 2 * LONGEST), packed=True),
        frame(TEXT, b"x" * (LONGEST + 1)),
        frame(0, b"of nothing"),
        frame(3, b"of no kind"),
        frame(CLOSE, (1000).to_bytes(2)),
        # A length in more bytes than it takes.
        Said(bytes([0x81, 0x80 | 126, 0, 5]) + b"\0\0\0\0hello"),
    ]
)
others = st.sampled_from([frame(BINARY, b"bytes"), frame(PING, b"there?"), frame(TEXT, b"")])
frames = st.lists(st.one_of(plain, plain, packed, parts, others, odd), max_size=30)


async def heard(talk: Talk, data: list[bytes], turns: int) -> tuple[list[Any], bytes, str]:
    """What the app has heard, what the browser was sent, and with what it failed."""
    await talk.open()
    await talk.say(*data, turns=turns)
    await talk.settle()
    said, failure = talk.transport.written.partition(b"\r\n\r\n")[2], ""
    try:
        await talk.end()
    except ExceptionGroup as group:
        # Hypercorn's own, of what comes behind a message that is too long.
        failure = repr(group.exceptions)
    return talk.heard, said, failure


@settings(max_examples=scaled(60, 2000), deadline=None)
@given(frames, st.integers(0, 2**32), st.integers(0, 3), st.integers(0, 3))
def test_both_ways_hear_the_same(frames: list[bytes], seed: int, pauses: int, turns: int) -> None:
    """However what a browser says is cut, and however slow the app is."""
    spread = random.Random(seed)
    stream = b"".join(frames)
    ends = {len(b"".join(frames[:at])) for at in range(len(frames))}
    cuts = {cut for cut in ends if spread.random() < 0.6}
    cuts |= {spread.randrange(len(stream)) for _ in range(spread.choice([0, 0, 3])) if stream}
    places = sorted({0, *cuts, len(stream)})
    data = [stream[a:b] for a, b in itertools.pairwise(places)]

    async def both() -> None:
        mine = await heard(Talk(short=True, pauses=pauses), data, turns)
        assert mine == await heard(Talk(short=False, pauses=pauses), data, turns)

    asyncio.run(asyncio.wait_for(both(), 20))


@pytest.mark.parametrize("size", [10, 200, 70_000])
async def test_a_message_that_looks_like_another_within(size: int) -> None:
    """It begins with what comes next, where the first part ends."""
    inner = frame(TEXT, b"x" * size)
    outer = frame(BINARY, inner, mask=b"\0\0\0\0")
    data: list[bytes] = [outer[: -len(inner)], inner, frame(TEXT, b"behind")]
    mine = await heard(Talk(short=True), data, 3)
    assert [message["bytes"] or message["text"] for message in mine[0][:-1]] == [inner, "behind"]


async def test_a_message_in_the_middle_of_another() -> None:
    """Is refused, as by Hypercorn alone."""
    data: list[bytes] = [frame(TEXT, b"one", final=False), frame(TEXT, b"other")]
    mine = await heard(Talk(short=True), data, 3)
    assert mine == await heard(Talk(short=False), data, 3)
    assert [message["type"] for message in mine[0]] == ["websocket.disconnect"]


async def taken(talk: Talk, data: bytes) -> bool:
    """Whether the shortcut takes this."""
    await talk.open()
    theirs: list[bytes] = []
    assert talk.way is not None
    protocol: Any = talk.way._protocol
    protocol.data_received = theirs.append
    await talk.say(data)
    await talk.settle()
    del protocol.data_received
    await talk.end()
    return not theirs


@pytest.mark.parametrize(
    ("data", "short"),
    [
        (frame(TEXT, b"hello"), True),
        (frame(TEXT, b"hello" * 1000), True),
        (frame(TEXT, b"one") + frame(TEXT, b"other"), True),
        (frame(TEXT, pack(b"hello"), packed=True), True),
        (frame(TEXT, b"hello")[:-1], False),
        (frame(BINARY, b"hello"), False),
        (frame(TEXT, b"one") + frame(PING, b""), False),
    ],
)
async def test_what_takes_the_short_way(data: bytes, short: bool) -> None:
    assert await taken(Talk(short=True), data) is short


async def test_a_browser_that_is_too_fast_is_not_read() -> None:
    talk = Talk(short=True)
    await talk.open()
    talk.transport.feed(b"".join(frame(TEXT, b"%d" % number) for number in range(1000)))
    paused = [talk.transport.paused]
    # Of a transport that hands it out all the same.
    talk.transport.feed(frame(TEXT, b"1000"))
    await talk.settle()
    assert [message["text"] for message in talk.heard] == [str(number) for number in range(1001)]
    assert [*paused, talk.transport.paused] == [True, False]
    await talk.end()


async def test_short_texts_are_sent_at_once() -> None:
    talk = Talk(short=True)
    await talk.open()
    assert talk.way is not None
    before = len(talk.transport.written)
    assert talk.way.send(b"x" * 5)
    assert talk.way.send(b"x" * 300)
    written = talk.transport.written[before:]
    assert written == b"\x81\x05xxxxx\x81\x7e\x01\x2c" + b"x" * 300
    await talk.end()


def closing(talk: Talk) -> None:
    talk.transport.feed(frame(CLOSE, (1000).to_bytes(2)))


def slow(talk: Talk) -> None:
    talk.transport.buffered = 1


def gone(talk: Talk) -> None:
    talk.transport.closed = True


@pytest.mark.parametrize("state", [closing, slow, gone])
async def test_others_are_hypercorns_to_send(state: Callable[[Talk], None]) -> None:
    talk = Talk(short=True)
    await talk.open()
    assert talk.way is not None
    assert not talk.way.send(b"x" * (shortcut.MAX_PLAIN_BYTES + 1)), "to be compressed"
    state(talk)
    await talk.settle()
    assert not talk.way.send(b"x")
    talk.transport.closed = False
    await talk.end()


async def test_there_is_none_where_hypercorn_counts_the_time() -> None:
    talk = Talk(short=True, read_timeout=60)
    await talk.open()
    assert talk.way is None
    await talk.end()


async def test_there_is_none_on_other_servers() -> None:
    assert shortcut.of(lambda _: None) is None
