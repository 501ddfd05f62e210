"""A login that ends ends its connections, in all web processes and on both transports."""

import uuid
from collections.abc import Callable
from typing import NamedTuple

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from tests.client import Client, LongPollClient, WebsocketClient, http
from tests.conftest import StackFactory
from tests.stack import Stack, eventually

RECHECK_S = 0.5
REFUSED = 4001
ENDED = "the login has ended"


class Site(NamedTuple):
    """Two web processes: one asks again about its connections so soon that a test can wait."""

    stack: Stack
    first: str
    second: str

    def log_in(self, user: str) -> str:
        """A login of this user; what its cookie says."""
        login = uuid.uuid4().hex
        (self.stack.folder / f"login-{login}").write_text(user)
        return login

    def log_out(self, login: str) -> None:
        (self.stack.folder / f"login-{login}").unlink()

    def ban(self, login: str) -> None:
        (self.stack.folder / f"banned-{login}").touch()


@pytest.fixture(scope="module")
def site(make_shared_stack: StackFactory) -> Site:
    stack = make_shared_stack("logins", recheck_s="0", poll_hold_s="20")
    second = stack.web(recheck_s=str(RECHECK_S), wait=False)
    (first,) = stack.up()
    stack._await_web(second, stack.webs[0])
    return Site(stack, first, second)


@pytest.fixture
def user() -> str:
    return f"user-{uuid.uuid4().hex[:6]}"


def browser(kind: Callable[..., Client], address: str, login: str) -> Client:
    return kind(address, headers={"Cookie": f"login={login}"})


async def is_served(client: Client, request: str) -> None:
    await client.call(request, "echo.children", request)
    assert await client.children(request) == request


async def refusal_of(client: Client) -> tuple[int, str]:
    """How the server ends this client's connection."""
    if isinstance(client, WebsocketClient):
        return await client.close_code()
    reading = client._reading
    assert reading is not None
    await eventually(reading.done, "the poll ends")
    failure = reading.exception()
    assert isinstance(failure, httpx.HTTPStatusError)
    return failure.response.status_code, failure.response.json()["error"]


TRANSPORTS = pytest.mark.parametrize("kind", [WebsocketClient, LongPollClient])


@TRANSPORTS
async def test_the_end_of_a_login_closes_its_connections_everywhere(
    site: Site, kind: type[Client], user: str
) -> None:
    login, other = site.log_in(user), site.log_in(f"{user} too")
    here, there, neighbour = (
        browser(kind, site.first, login),
        browser(kind, site.second, login),
        browser(kind, site.second, other),
    )
    for client in (here, there, neighbour):
        await client.connect()
        await is_served(client, "before")

    async with http(site.first) as plain:
        answer = await plain.post("/logout", headers={"Cookie": f"login={login}"})
        assert answer.json() == {"ended": user}

    code = REFUSED if kind is WebsocketClient else 403
    for client in (here, there):
        assert await refusal_of(client) == (code, ENDED)
    await is_served(neighbour, "after")
    for client in (here, there, neighbour):
        await client.cut()


async def test_what_waited_for_an_ended_login_is_gone(site: Site, user: str) -> None:
    """It cannot be fetched with the handle alone, which is still good for a new login."""
    login = site.log_in(user)
    client = browser(WebsocketClient, site.first, login)
    await client.connect()
    await is_served(client, "unconfirmed")
    mailboxes = [
        key
        for key in site.stack.redis.client().keys(f"{site.stack.namespace}:mailbox:*")
        if site.stack.redis.client().xlen(key)
    ]
    assert mailboxes

    async with http(site.second) as plain:
        await plain.post("/logout", headers={"Cookie": f"login={login}"})
    assert await refusal_of(client) == (REFUSED, ENDED)
    await client.cut()

    again = browser(WebsocketClient, site.first, site.log_in("somebody else"))
    again.session = client.session
    await again.connect()
    await is_served(again, "own")
    assert list(again.seen.outcomes) == ["own"]
    assert not again.seen.strays
    await again.cut()


async def test_a_callback_in_a_worker_can_end_a_login(site: Site, user: str) -> None:
    client = browser(WebsocketClient, site.first, site.log_in(user))
    await client.connect()
    await client.call("end", "logout-in-worker.children", user)
    assert await refusal_of(client) == (REFUSED, ENDED)
    await client.cut()


async def test_an_open_websocket_is_asked_about_again(site: Site, user: str) -> None:
    """Nobody says that the login has ended; it is gone from where the app looks."""
    ends, banned, stays = (site.log_in(user) for _ in range(3))
    clients = [browser(WebsocketClient, site.second, login) for login in (ends, banned, stays)]
    for client in clients:
        await client.connect()
        await is_served(client, "before")

    site.log_out(ends)
    site.ban(banned)

    assert await refusal_of(clients[0]) == (REFUSED, ENDED)
    assert await refusal_of(clients[1]) == (4403, "you have to log in")
    await is_served(clients[2], "after")
    for client in clients:
        await client.cut()
    with pytest.raises(InvalidStatus):
        await browser(WebsocketClient, site.second, banned).connect()


async def test_a_poll_is_asked_about_each_time(site: Site, user: str) -> None:
    login = site.log_in(user)
    async with browser(LongPollClient, site.first, login) as client:
        assert isinstance(client, LongPollClient)
        site.ban(login)
        assert (await client.send()).status_code == 403
        answer = await client.poll()
        assert answer.status_code == 403
        assert answer.json() == {"error": "you have to log in"}
