"""Other servers than Hypercorn with asyncio's own loop: all is the same there."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.client import Client, LongPollClient, WebsocketClient, http
from tests.conftest import StackFactory
from tests.security.conftest import STATE
from tests.stack import Stack, body, eventually

SERVERS: dict[str, tuple[str, list[str]]] = {
    "hypercorn": ("hypercorn", []),
    "hypercorn-uvloop": ("hypercorn", ["--worker-class", "uvloop"]),
    "uvicorn": ("uvicorn", []),
}
KINDS = ("offloaded", "in-process", "local", "local-def")
LARGE = "ä" * 1_000_000
"""More than a message of the websocket, than a part of a read, and than a slice of a body."""


@pytest.fixture(scope="module", params=SERVERS)
def stack(request: pytest.FixtureRequest, make_shared_stack: StackFactory) -> Stack:
    stack = make_shared_stack("hostile", poll_hold_s="1.5", processes="1", lease_s="2")
    stack.server, stack.server_options = SERVERS[request.param]
    return stack


@pytest.fixture(scope="module")
def address(stack: Stack) -> str:
    (address,) = stack.up()
    return address


@pytest.fixture(params=[WebsocketClient, LongPollClient])
async def client(request: pytest.FixtureRequest, address: str) -> AsyncIterator[Client]:
    async with request.param(address) as client:
        yield client


async def test_all_kinds_of_callbacks(client: Client) -> None:
    for name in KINDS:
        await client.call(name, f"{name}.children", name + LARGE, state=STATE)
    for name in KINDS:
        assert await client.children(name) == name + LARGE


async def test_all_kinds_of_callbacks_over_plain_http(address: str) -> None:
    async with http(address) as client:
        for name in KINDS:
            request = body(f"{name}.children", {"in.data": LARGE}, state=STATE)
            answer = await client.post("/_dash-update-component", json=request)
            assert answer.json()["response"] == {name: {"children": LARGE}}


async def test_a_connection_that_is_cut(address: str) -> None:
    async with WebsocketClient(address) as client:
        await client.call("offloaded", "offloaded.children", LARGE, state=STATE)
        await client.cut()
        await client.connect()
        assert await client.children("offloaded") == LARGE


async def test_a_poll_is_answered_when_the_server_is_asked_to_stop(stack: Stack) -> None:
    """Of a process that has seen nothing else, long before the poll's own end.

    But by Uvicorn, which tells nobody, and waits for what is open.
    """
    client = LongPollClient(stack.web(poll_hold_s="3" if stack.server == "uvicorn" else "55"))
    web = stack.webs[-1]
    async with client.open_http() as client.http:
        await client.say()
        poll = asyncio.create_task(client.poll())
        session = f"{stack.namespace}:hint:{client.session_id}"
        await eventually(lambda: stack.redis.client().pubsub_channels(session), "it is held")
        web.process.terminate()
        answer = await poll
    assert (answer.status_code, answer.json()) == (200, [])
    await eventually(lambda: web.process.poll() is not None, "it has ended")
    assert "Traceback" not in web.log, web.log


async def test_it_ends_when_it_is_asked_to(stack: Stack, address: str) -> None:
    """The last one of this file, for each server."""
    (web,) = [web for web in stack.webs if web.process.poll() is None]
    async with WebsocketClient(address) as client:
        web.process.terminate()
        code, _ = await client.close_code()
        await eventually(lambda: web.process.poll() is not None, "it has ended")
    # Not 1006, which is a connection that has ended without a word.
    assert code == (1012 if stack.server == "uvicorn" else 1000)
    assert "Traceback" not in web.log, web.log
