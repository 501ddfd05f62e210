"""What one browser may ask for, and what of its request leaves the web process: bounded."""

from collections.abc import Iterator

import pytest

from tests.client import LongPollClient, WebsocketClient
from tests.conftest import StackFactory
from tests.stack import Stack


@pytest.fixture(scope="module")
def site(make_shared_stack: StackFactory) -> Iterator[str]:
    stack: Stack = make_shared_stack(
        "basic",
        max_call_rate="0.3",
        max_session_connections="1",
        forward_cookies="theme",
        forward_headers="x-test,cookie",
    )
    (address,) = stack.up()
    yield address
    assert "Traceback" not in stack.webs[0].log


async def test_who_asks_too_fast_is_told(site: str) -> None:
    async with WebsocketClient(site) as client:
        for number in range(4):  # ten seconds' worth: three
            await client.call(str(number), "async.children", 1)
        for number in range(3):
            assert (await client.outcome(str(number)))["status"] == "ok"
        refused = await client.outcome("3")
    assert refused["status"] == "error"
    assert "more callbacks per second than are allowed" in refused["message"]


async def test_a_browser_has_so_many_connections(site: str) -> None:
    async with WebsocketClient(site) as first:
        second = WebsocketClient(site)
        second.session = first.session
        await second.open_socket()
        await second.say(second.hello())
        assert await second.close_code() == (4013, "try again later")
        await first.call("still", "async.children", 1)
        await first.outcome("still")

        poller = LongPollClient(site)
        poller.session = first.session
        poller.http = poller.open_http()
        answer = await poller.send()
        assert answer.status_code == 503
        assert "connections of this browser" in answer.json()["error"]
        await poller.http.aclose()


async def test_only_what_may_leaves_the_web_process(site: str) -> None:
    headers: dict[str, str | None] = {"Cookie": "theme=dark; login=secret", "X-Test": "seen"}
    async with WebsocketClient(site, headers=headers) as client:
        shape = [{"id": "shape", "property": "children", "value": 1}]
        await client.call("one", "ctx.children", 1, state=shape)
        found = await client.children("one")
    assert found["cookies"] == {"theme": "dark"}
    assert found["header"] == "seen"
    assert "secret" not in str(found)
