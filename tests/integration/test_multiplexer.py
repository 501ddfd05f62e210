"""One connection for many tasks: each gets its reply, and a lost connection is made anew."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis.exceptions as redis_errors
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.asyncio import ConnectionPool

from dash_dispatch import multiplexer
from dash_dispatch.multiplexer import Multiplexer
from tests.stack import RedisServer

SCRIPTS = {"add": "return ARGV[1] + ARGV[2]", "wrong": "return redis.error_reply('NO it is not')"}


@pytest.fixture
async def shared(redis_server: RedisServer) -> AsyncIterator[Multiplexer]:
    made = Multiplexer(ConnectionPool.from_url(redis_server.url), SCRIPTS, timeout_s=5)
    yield made
    await made.close()


async def connections(raw: Any) -> list[Any]:
    """Those of multiplexers: the test's own says who it is."""
    own = await raw.client_id()
    found = await raw.client_list(_type="normal")
    return [each for each in found if int(each["id"]) != own]


async def eventually_blocked(raw: Any) -> None:
    """Returns when a multiplexer waits in a BLPOP or BRPOP."""
    async with asyncio.timeout(10):
        blocked = False
        while not blocked:
            blocked = any(each["cmd"] in ("blpop", "brpop") for each in await connections(raw))


async def test_everybody_gets_the_own_reply(shared: Multiplexer) -> None:
    replies = await asyncio.gather(*(shared.ask("ECHO", str(n)) for n in range(500)))
    assert replies == [str(n).encode() for n in range(500)]


async def test_what_cannot_be_sent_leads_no_reply_astray(shared: Multiplexer) -> None:
    connection = await shared.ask("CLIENT", "ID")
    with pytest.raises(Exception, match=r"(?i)bytes|str|argument"):
        await shared.ask("ECHO", object())
    assert await shared.ask("ECHO", "b") == b"b"
    assert await shared.ask("ECHO", "c") == b"c"
    # And not because the connection was given up, when a reply was missed.
    assert await shared.ask("CLIENT", "ID") == connection


async def test_what_is_asked_together_goes_over_one_connection(
    shared: Multiplexer, raw: Any
) -> None:
    before = len(await connections(raw))
    await asyncio.gather(*(shared.ask("PING") for _ in range(100)))
    assert len(await connections(raw)) - before <= 1


async def test_an_error_is_for_the_one_who_asked(shared: Multiplexer) -> None:
    asked = [shared.ask("ECHO", "a"), shared.ask("INCRBYFLOAT"), shared.run("wrong", [], [])]
    found: list[Any] = await asyncio.gather(*asked, shared.ask("ECHO", "b"), return_exceptions=True)
    assert (found[0], found[3]) == (b"a", b"b")
    assert isinstance(found[1], redis_errors.ResponseError)
    assert isinstance(found[2], redis_errors.ResponseError)


async def test_who_does_not_wait_any_more_disturbs_nobody(shared: Multiplexer) -> None:
    await shared.ask("PING")
    asking = [asyncio.create_task(shared.ask("ECHO", str(n))) for n in range(20)]
    await asyncio.sleep(0)
    for task in asking[::2]:
        task.cancel()
    found = await asyncio.gather(*asking, return_exceptions=True)
    assert found[1::2] == [str(n).encode() for n in range(1, 20, 2)]
    assert all(isinstance(each, asyncio.CancelledError) for each in found[::2])
    assert await shared.ask("ECHO", "next") == b"next"


async def test_a_script_that_redis_has_forgotten_is_loaded_again(
    shared: Multiplexer, raw: Any
) -> None:
    assert await shared.run("add", [], [1, 2]) == 3
    await raw.script_flush()
    assert await shared.run("add", [], [3, 4]) == 7


async def test_a_lost_connection_is_made_anew(shared: Multiplexer, raw: Any) -> None:
    own = await shared.ask("CLIENT", "ID")
    await raw.client_kill_filter(_id=own)
    assert await shared.ask("ECHO", "again") == b"again"
    assert await shared.ask("CLIENT", "ID") != own


async def test_what_waited_for_a_reply_is_asked_again(shared: Multiplexer, raw: Any) -> None:
    own = await shared.ask("CLIENT", "ID")
    asking = asyncio.create_task(shared.ask("BLPOP", "test:multiplexer", 5))
    await eventually_blocked(raw)
    await raw.client_kill_filter(_id=own)
    await eventually_blocked(raw)
    await raw.rpush("test:multiplexer", "late")
    assert await asking == [b"test:multiplexer", b"late"]


async def test_a_server_that_says_nothing_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heard = asyncio.Event()
    serving: set[asyncio.Task[Any] | None] = set()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.current_task())
        while await reader.read(1000):
            heard.set()
        writer.close()
        await writer.wait_closed()

    monkeypatch.setattr(multiplexer, "GIVE_UP_S", 0.1)
    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    shared = Multiplexer(ConnectionPool(host="127.0.0.1", port=port), SCRIPTS, timeout_s=0.05)
    with pytest.raises((redis_errors.ConnectionError, OSError)):
        await shared.ask("PING")
    assert heard.is_set()
    await shared.close()
    await asyncio.gather(*filter(None, serving))
    server.close()
    await server.wait_closed()


async def test_nobody_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiplexer, "PAUSES_S", (0.0, 0.0))
    shared = Multiplexer(ConnectionPool(host="127.0.0.1", port=1), SCRIPTS, timeout_s=1)
    with pytest.raises((redis_errors.ConnectionError, OSError)):
        await shared.ask("PING")
    await shared.close()


async def test_a_closed_one_refuses(redis_server: RedisServer) -> None:
    shared = Multiplexer(ConnectionPool.from_url(redis_server.url), SCRIPTS, timeout_s=5)
    await shared.ask("PING")
    await shared.close()
    with pytest.raises(redis_errors.ConnectionError):
        await shared.ask("PING")


@settings(max_examples=25, deadline=None)
@given(st.lists(st.binary(max_size=200), min_size=1, max_size=30))
def test_any_bytes_come_back(redis_server: RedisServer, values: list[bytes]) -> None:
    async def main() -> list[Any]:
        shared = Multiplexer(ConnectionPool.from_url(redis_server.url), SCRIPTS, timeout_s=5)
        try:
            return await asyncio.gather(
                *itertools.starmap(shared.ask, (("ECHO", value) for value in values))
            )
        finally:
            await shared.close()

    assert asyncio.run(main()) == values
