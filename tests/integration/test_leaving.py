"""``on_leave="cancel"``: what only a page wanted ends with it, and not while it may come back."""

import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dash_dispatch.protocol import OnLeave
from dash_dispatch.relay import Relay
from dash_dispatch.store import BETWEEN_POLLS_S, Store
from dash_dispatch.sweeper import Sweeper
from tests.client import Client, LongPollClient, WebsocketClient
from tests.conftest import StackFactory
from tests.integration.conftest import SettingsFactory, StoreFactory
from tests.integration.test_store import outcomes, spec, started
from tests.stack import Stack, eventually

GRACE_S = 1.0
"""Less than ``BETWEEN_POLLS_S``, which holds."""


# --- in the store --------------------------------------------------------------------------------


async def leaves(store: Store, raw: Any, session: str = "s1") -> None:
    """The session has left, its grace is over, and no sweeper has looked just now."""
    await store.absent(session)
    await raw.zadd(store.keys.absent, {session: 1})
    await raw.delete(store.keys.sweeper)


@pytest.fixture
def sweeper(store: Store, make_settings: SettingsFactory) -> Sweeper:
    return Sweeper(store, make_settings())


async def test_calls_of_who_has_left_are_cancelled(
    store: Store, sweeper: Sweeper, raw: Any
) -> None:
    await started(store, spec("runs", on_leave=OnLeave.CANCEL))
    await store.create(spec("waits", on_leave=OnLeave.CANCEL))
    await store.create(spec("keeps"))
    await store.create(spec("other", session="s2", on_leave=OnLeave.CANCEL))
    await leaves(store, raw)
    assert await sweeper.sweep() == 2
    assert sorted(await outcomes(store)) == [("runs", "cancelled"), ("waits", "cancelled")]
    assert await outcomes(store, "s2") == []
    assert not await raw.exists(store.keys.absent)


async def test_a_session_may_be_absent_for_a_while(
    make_store: StoreFactory, make_settings: SettingsFactory, raw: Any
) -> None:
    for grace_s, least_s in ((30.0, 30.0), (0.0, BETWEEN_POLLS_S)):
        store = make_store(leave_grace_s=grace_s)
        await store.create(spec(on_leave=OnLeave.CANCEL))
        await store.absent("s1")
        seconds, micros = await raw.time()
        left_s = await raw.zscore(store.keys.absent, "s1") / 1000 - seconds - micros / 1e6
        assert least_s - 1 < left_s <= least_s
        assert await Sweeper(store, make_settings()).sweep() == 0
        assert await outcomes(store) == []


async def test_who_is_served_by_another_process_has_not_left(
    store: Store, sweeper: Sweeper, raw: Any
) -> None:
    await store.create(spec(on_leave=OnLeave.CANCEL))
    relay = Relay(store)
    relay.start()
    async with await relay.attach("s1", None):
        await leaves(store, raw)
        assert await store.is_present("s1")
        assert await sweeper.sweep() == 0
    assert await raw.zscore(store.keys.absent, "s1") > 1, "it is looked for again, later"
    await relay.close()
    await leaves(store, raw)
    assert await sweeper.sweep() == 1


async def test_who_leaves_again_meanwhile_is_not_forgotten(store: Store, raw: Any) -> None:
    await leaves(store, raw)
    await store.absent("s1")
    await store.forget_absence("s1")
    assert await raw.zscore(store.keys.absent, "s1") is not None
    await leaves(store, raw)
    await store.forget_absence("s1")
    assert not await raw.exists(store.keys.absent)


async def test_nobody_has_left_while_redis_was_away(
    store: Store, sweeper: Sweeper, raw: Any
) -> None:
    """Its browsers could not be heard of, either."""
    await store.create(spec(on_leave=OnLeave.CANCEL))
    await leaves(store, raw)
    await raw.hset(store.keys.swept, "at_ms", 1)
    assert await sweeper.sweep() == 0
    assert await outcomes(store) == []


# --- in real processes ---------------------------------------------------------------------------


class Site:
    """Two web processes and a worker."""

    def __init__(self, stack: Stack, first: str, second: str) -> None:
        self.stack = stack
        self.first = first
        self.second = second

    def has(self, tag: str, what: str) -> bool:
        return Path(self.stack.folder, f"{tag}.{what}").exists()

    def go(self, tag: str) -> None:
        Path(self.stack.folder, f"{tag}.go").touch()

    def absent(self) -> list[bytes]:
        found: list[bytes] = self.stack.redis.client().zrange(
            f"{self.stack.namespace}:absent", 0, -1
        )
        return found

    def looked_for(self) -> float:
        """When the session that is looked for last will be looked for, in ms."""
        found = self.stack.redis.client().zrange(
            f"{self.stack.namespace}:absent", -1, -1, withscores=True
        )
        return float(found[0][1]) if found else 0.0

    def status(self, call: str) -> str:
        found = self.stack.redis.client().hget(f"{self.stack.namespace}:call:{call}", "status")
        return found.decode() if found else ""


@pytest.fixture(scope="module")
def site(make_shared_stack: StackFactory) -> Iterator[Site]:
    stack = make_shared_stack("leaving", leave_grace_s=str(GRACE_S), lease_s="1", poll_hold_s="0.5")
    yield Site(stack, *stack.up(webs=2, workers=1))
    for web in stack.webs:
        assert "Traceback" not in web.log, web.log


MakeClient = Callable[..., Client]


@pytest.fixture(params=[WebsocketClient, LongPollClient], ids=["websocket", "longpoll"])
def make_client(request: pytest.FixtureRequest, site: Site) -> MakeClient:
    def make(address: str = site.first) -> Client:
        client: Client = request.param(address)
        return client

    return make


@pytest.fixture
async def tags(site: Site) -> AsyncIterator[Callable[[str], str]]:
    """Names for calls, which are let go on at the end."""
    used: list[str] = []

    def make(output: str) -> str:
        used.append(f"{output}-{uuid.uuid4().hex[:8]}")
        return used[-1]

    yield make
    for tag in used:
        site.go(tag)


async def ask(client: Client, site: Site, tag: str, *, starts: bool = True) -> str:
    """Ask for the callback that the tag begins with; its call's id."""
    await client.call(tag, f"{tag.partition('-')[0]}.children", tag)
    call = client.call_id(tag)
    wanted = "started" if starts else "queued"
    await eventually(lambda: site.status(call) == wanted, f"{tag} is {wanted}")
    return call


async def test_a_page_says_good_bye(
    site: Site, make_client: MakeClient, tags: Callable[[str], str]
) -> None:
    async with make_client() as client:
        ends, stays = tags("ends"), tags("stays")
        for tag in (ends, stays):
            await ask(client, site, tag)
        await eventually(lambda: site.has(ends, "started"), "it runs")
        await client.say({"type": "bye", "page": client.page})
        await eventually(lambda: site.has(ends, "cancelled"), "it is ended")
        assert not site.has(stays, "cancelled")
        assert site.status(client.call_id(stays)) == "started"


async def test_another_page_of_the_browser_stays(
    site: Site, make_client: MakeClient, tags: Callable[[str], str]
) -> None:
    async with make_client() as client:
        here, there = tags("ends"), tags("ends")
        await ask(client, site, here)
        page, client.page = client.page, uuid.uuid4().hex
        await ask(client, site, there)
        await eventually(lambda: site.has(there, "started"), "it runs")
        await client.say({"type": "bye", "page": client.page})
        await eventually(lambda: site.has(there, "cancelled"), "it is ended")
        assert site.status(client.call_id(here, page)) == "started"


async def test_what_waits_leaves_the_queue(
    site: Site, make_client: MakeClient, tags: Callable[[str], str]
) -> None:
    async with make_client() as client:
        runs, waits = tags("limited"), tags("limited")
        await ask(client, site, runs)
        page, client.page = client.page, uuid.uuid4().hex
        call = await ask(client, site, waits, starts=False)
        await client.say({"type": "bye", "page": client.page})
        assert (await client.outcome(waits))["status"] == "prevent_update"
        assert site.status(call) == "cancelled"
        client.page = page
        site.go(runs)
        assert await client.children(runs) == runs
        assert not site.has(waits, "started")


async def test_a_browser_that_does_not_come_back(
    site: Site, make_client: MakeClient, tags: Callable[[str], str]
) -> None:
    async with make_client() as client:
        ends, stays = tags("ends"), tags("stays")
        for tag in (ends, stays):
            await ask(client, site, tag)
        await eventually(lambda: site.has(ends, "started"), "it runs")
    await eventually(lambda: site.has(ends, "cancelled"), "it is ended")
    assert not site.has(stays, "cancelled")
    assert site.status(client.call_id(stays)) == "started"
    await eventually(lambda: not site.absent(), "all is done")


async def test_a_browser_that_goes_together_with_its_web_process(
    site: Site, tags: Callable[[str], str]
) -> None:
    """Killed at the same moment: nobody is left to say that it has gone."""
    client = WebsocketClient(site.stack.web())
    web = site.stack.webs[-1]
    await client.connect()
    ends, stays = tags("ends"), tags("stays")
    for tag in (ends, stays):
        await ask(client, site, tag)
    await eventually(lambda: site.has(ends, "started"), "it runs")
    web.kill()
    await client.cut()
    await eventually(lambda: site.has(ends, "cancelled"), "it is ended")
    assert not site.has(stays, "cancelled")


async def test_a_browser_that_comes_back_in_time(
    site: Site, make_client: MakeClient, tags: Callable[[str], str]
) -> None:
    """To the other web process: the first one knows nothing of that."""
    async with make_client() as client:
        tag = tags("ends")
        call = await ask(client, site, tag)
        await client.cut()
        await eventually(site.absent, "its absence is noted")
        await client.connect(site.second)
        noted = site.looked_for()
        await eventually(lambda: site.looked_for() > noted, "it was looked for, and found")
        assert site.status(call) == "started"
        site.go(tag)
        assert await client.children(tag) == tag
        assert not site.has(tag, "cancelled")


async def test_a_browser_that_polls_is_there_between_its_polls(
    site: Site, tags: Callable[[str], str]
) -> None:
    """Each poll ends an absence and begins one: longer than the grace, and nothing happens."""
    async with LongPollClient(site.first) as client:
        tag = tags("ends")
        await ask(client, site, tag)
        polls = [0]
        take = client._take

        def count(frame: str | bytes) -> None:
            polls[0] += 1
            take(frame)

        client._take = count  # type: ignore[method-assign]
        await client.until(lambda: polls[0] > 2 * BETWEEN_POLLS_S / 0.5, "many polls")
        assert not site.has(tag, "cancelled")
        site.go(tag)
        assert await client.children(tag) == tag
