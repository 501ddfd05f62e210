"""Messages between a worker and its processes: whole ones, in whatever pieces they come."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dash_dispatch.pipes import HELD_BYTES, TOGETHER_BYTES, Message, Messages, Pipe, pack
from tests.stack import eventually

KINDS = st.sampled_from([b"c", b"p", b"o"])


@given(st.lists(st.tuples(KINDS, st.binary(max_size=40)), max_size=6), st.data())
def test_messages_are_the_same_in_any_pieces(sent: list[Message], data: st.DataObject) -> None:
    stream = b"".join(part for message in sent for part in pack(*message))
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=8)))
    messages, found = Messages(), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += messages.feed(stream[start:end])
    assert found == sent


@pytest.mark.parametrize(("size", "parts"), [(0, 1), (TOGETHER_BYTES, 1), (TOGETHER_BYTES + 1, 2)])
def test_a_message_is_one_send_unless_it_is_large(size: int, parts: int) -> None:
    assert len(pack(b"c", bytes(size))) == parts


@contextlib.asynccontextmanager
async def piped() -> AsyncIterator[tuple[Pipe, socket.socket]]:
    ours, theirs = socket.socketpair()
    _, pipe = await asyncio.get_running_loop().create_connection(Pipe, sock=ours)
    try:
        yield pipe, theirs
    finally:
        pipe.end()
        theirs.close()
        # The loop closes the socket a turn later.
        await asyncio.sleep(0)


async def test_who_sends_waits_while_nobody_takes() -> None:
    async with piped() as (pipe, theirs):
        theirs.setblocking(False)
        message, sent = b"".join(pack(b"p", bytes(1000))), 0
        stalled = 0
        while stalled < 100 and sent < 4 * HELD_BYTES:
            try:
                sent += theirs.send(message)
                stalled = 0
            except BlockingIOError:
                stalled += 1
                # The loop reads what it would.
                await asyncio.sleep(0)
        assert HELD_BYTES <= sent < 3 * HELD_BYTES
        whole, part = divmod(sent, len(message))
        for _ in range(whole):
            assert await pipe.receive() == (b"p", bytes(1000))
        if part:
            theirs.setblocking(True)
            theirs.sendall(message[part:])
            assert await pipe.receive() == (b"p", bytes(1000))
        theirs.sendall(b"".join(pack(b"o", b"end")))
        assert await pipe.receive() == (b"o", b"end")


async def test_what_has_come_before_the_end_is_told() -> None:
    async with piped() as (pipe, theirs):
        theirs.sendall(b"".join([*pack(b"p", b"1"), *pack(b"o", b"2"), b"half"]))
        theirs.close()
        await eventually(lambda: pipe.ended, "it is told")
        assert await pipe.receive() == (b"p", b"1")
        assert await pipe.receive() == (b"o", b"2")
        with pytest.raises(EOFError):
            await pipe.receive()
        assert pipe.ended
        # Nobody is there: it is lost, and no error.
        pipe.send(b"c", b"3")


async def test_who_waits_hears_of_the_end() -> None:
    async with piped() as (pipe, _):
        waiting = asyncio.ensure_future(pipe.receive())
        await asyncio.sleep(0)
        pipe.end()
        with pytest.raises(EOFError):
            await waiting
