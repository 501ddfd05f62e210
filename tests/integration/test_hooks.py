"""The app's ``websocket_connect`` and ``websocket_message`` hooks, on both transports."""

from collections.abc import Iterator

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.client import LongPollClient, WebsocketClient
from tests.conftest import StackFactory


@pytest.fixture(scope="module")
def address(make_shared_stack: StackFactory) -> Iterator[str]:
    stack = make_shared_stack("hooked")
    yield stack.up()[0]
    assert "Traceback" not in stack.webs[0].log


@pytest.mark.parametrize("transport", [WebsocketClient, LongPollClient])
async def test_who_is_known_comes_in(
    address: str, transport: type[WebsocketClient | LongPollClient]
) -> None:
    async with transport(address, headers={"X-User": "ann"}) as client:
        await client.call("one", "out.children", "allowed")
        assert await client.children("one") == "allowed"


@pytest.mark.parametrize("user", [None, "bob", "broken"])
async def test_who_is_not_known_stays_out(address: str, user: str | None) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await WebsocketClient(address, headers={"X-User": user}).open_socket()
    assert refused.value.response.status_code == 403

    poller = LongPollClient(address, headers={"X-User": user})
    async with poller.open_http() as poller.http:
        for answer in (await poller.send(), await poller.poll()):
            assert answer.status_code == 403
            assert "inside" not in answer.text


async def test_a_message_that_is_refused_closes_the_websocket(address: str) -> None:
    async with WebsocketClient(address, headers={"X-User": "ann"}) as client:
        await client.call("one", "out.children", "forbidden")
        assert (await client.close_code())[0] == 4001
        with pytest.raises(ConnectionClosed):
            await client.connection.recv()


async def test_a_message_that_is_refused_is_a_403(address: str) -> None:
    async with LongPollClient(address, headers={"X-User": "ann"}) as poller:
        assert isinstance(poller, LongPollClient)
        payload = {"inputs": [{"value": "forbidden"}], "output": "out.children"}
        message = {"type": "call", "page": poller.page, "request": "one", "payload": payload}
        assert (await poller.send(message)).status_code == 403


@pytest.mark.parametrize("payload", [[], {}, "text", 1, {"inputs": "["}])
async def test_a_hook_that_fails_lets_nothing_in(address: str, payload: object) -> None:
    async with LongPollClient(address, headers={"X-User": "ann"}) as poller:
        assert isinstance(poller, LongPollClient)
        message = {"type": "call", "page": poller.page, "request": "one", "payload": payload}
        assert (await poller.send(message)).status_code == 403
