"""``cache=``: equal calls compute once, each is answered, and nobody gets what is not for them."""

import asyncio
import contextlib
from typing import Any

import pytest
from dash import Input, Output, html, set_props

from dash_dispatch import Dash, Settings, bridge
from dash_dispatch.protocol import CallSpec, Outcome, Overlap, Status, failed
from dash_dispatch.store import Store
from dash_dispatch.sweeper import Sweeper
from tests.integration.conftest import SettingsFactory
from tests.integration.test_store import LANE, OK, end_lease, held, spec, started
from tests.integration.test_store import outcomes as statuses
from tests.integration.worker import Worker, asked, outcomes
from tests.stack import eventually

FAILURE = failed(Status.FAILED, "ValueError", "why")


def shared(call: str, **more: Any) -> CallSpec:
    options: dict[str, Any] = {"cache_key": "k", "cache_s": 60.0}
    return spec(call, **options | more)


async def claim(store: Store, worker: str = "w1") -> list[str]:
    await store.renew(worker, join=True)
    return sorted(await store.claim(worker, LANE, 100))


async def flight(store: Store, *names: str, **more: Any) -> list[CallSpec]:
    """The first of these computes; the others have begun, and wait for it."""
    calls = [await started(store, shared(name, **more)) for name in names]
    assert await store.lead("w1", calls[0]) == "lead"
    for call in calls[1:]:
        assert await store.lead("w1", call) == "follow"
    return calls


# --- in the store --------------------------------------------------------------------------------


async def test_who_follows_waits_without_a_worker(store: Store) -> None:
    leader, *others = await flight(store, "c1", "c2", "c3")
    assert await held(store) == {"c1"}
    assert await claim(store) == []
    assert await store.lead("w1", leader) == "lead", "asked again, it is the same"
    assert await store.lead("w1", others[0]) == "late"
    assert await store.finish("w1", leader, OK)
    assert await claim(store) == ["c2", "c3"]
    for call in others:
        found = await store.start("w1", call.id)
        assert found is not None
        assert found.attempt == 1, "that it waited was no run"
        assert await store.lead("w1", call) == OK


async def test_who_follows_wakes_a_worker(store: Store) -> None:
    leader, _ = await flight(store, "c1", "c2")
    await claim(store)
    await store.finish("w1", leader, OK)
    wake = await store.wait_for_work([LANE], 5)
    assert wake is not None
    assert wake.call == "c2"


async def test_a_result_is_kept_without_its_cookies(store: Store) -> None:
    call = await started(store, shared("c1"))
    await store.lead("w1", call)
    await store.finish("w1", call, Outcome(Status.OK, b"{}", b'[["set_cookie",["login"],{}]]'))
    assert await store.cached(shared("c2")) == Outcome(Status.OK, b"{}")
    assert await store.lead("w1", await started(store, shared("c2"))) == Outcome(Status.OK, b"{}")


async def test_a_result_is_kept_for_its_time(store: Store, raw: Any) -> None:
    call = await started(store, shared("c1", cache_s=3.0))
    await store.lead("w1", call)
    await store.finish("w1", call, OK)
    assert 2000 < await raw.pttl(store.keys.cached("k")) <= 3000
    assert await store.cached(shared("c2", cache_key="another")) is None
    await raw.delete(store.keys.cached("k"))
    assert await store.lead("w1", await started(store, shared("c2"))) == "lead"


async def test_a_failure_answers_those_who_waited_and_nobody_later(store: Store) -> None:
    leader, second = await flight(store, "c1", "c2")
    await store.finish("w1", leader, FAILURE)
    await asyncio.sleep(0.002)  # the order is that of Redis' milliseconds
    third = shared("c3")
    assert await store.cached(third) is None
    await store.create(third)
    assert await claim(store) == ["c2", "c3"]
    for call in (second, third):
        await store.start("w1", call.id)
    assert await store.lead("w1", second) == FAILURE
    assert await store.lead("w1", third) == "lead"


@pytest.mark.parametrize("how", ["cancelled", "lost", "released", "superseded"])
async def test_when_the_first_gives_up_another_computes(
    store: Store, make_settings: SettingsFactory, raw: Any, how: str
) -> None:
    more = {"overlap": Overlap.LATEST, "instance": "i"} if how == "superseded" else {}
    leader = await started(store, shared("c1", **more))
    assert await store.lead("w1", leader) == "lead"
    for name in ("c2", "c3"):
        assert await store.lead("w1", await started(store, shared(name))) == "follow"
    if how == "cancelled":
        assert await store.cancel("c1")
    elif how == "lost":
        await end_lease(store, raw, "w1")
        assert await Sweeper(store, make_settings()).sweep() == 1
    elif how == "superseded":
        await store.create(spec("c4", lane="other:loop", overlap=Overlap.LATEST, instance="i"))
        assert not await store.finish("w1", leader, OK)
    else:
        assert await store.release("w1", "c1", leader, started=True) == "queued"
        assert await store.cancel("c1")
    assert await store.cached(shared("c5")) is None
    assert await claim(store, "w2") == ["c2", "c3"]
    words = []
    for name in ("c2", "c3"):
        await store.start("w2", name)
        words.append(await store.lead("w2", shared(name)))
    assert words == ["lead", "follow"]


async def test_nobody_waits_for_one_that_takes_too_long(store: Store, raw: Any) -> None:
    """The time for which it is waited for is over: the next one computes, and nobody is left."""
    slow, waits = await flight(store, "c1", "c2")
    await raw.delete(store.keys.flight("k"))
    await store.finish("w1", slow, OK)
    assert await claim(store) == ["c2"]
    await store.start("w1", "c2")
    assert await store.lead("w1", waits) == "lead"
    assert not await raw.exists(store.keys.followers("k"))


async def test_nobody_waits_for_one_whose_record_is_gone(store: Store, raw: Any) -> None:
    leader, _ = await flight(store, "c1", "c2")
    await raw.delete(store.keys.call("c1"))
    with contextlib.suppress(Exception):
        await store.finish("w1", leader, OK)
    assert await claim(store) == ["c2"]


async def test_a_retry_of_the_first_is_waited_for(store: Store) -> None:
    leader, _ = await flight(store, "c1", "c2", retries=1)
    assert await store.retry("w1", leader, 0) == "ok"
    assert await claim(store) == []
    await store.requeue("c1")
    assert await claim(store) == ["c1"]
    await store.start("w1", "c1")
    assert await store.lead("w1", leader) == "lead"


async def test_one_that_ended_while_it_waited_is_not_run(store: Store) -> None:
    leader, _, _ = await flight(store, "c1", "c2", "c3")
    assert await store.cancel("c2")
    await store.finish("w1", leader, OK)
    assert await claim(store) == ["c3"]


async def test_what_was_asked_before_is_not_shown_behind_a_kept_result(store: Store) -> None:
    """The earlier run shows something else, and would come last: the call supersedes it first."""
    call = await started(store, shared("c1"))
    await store.lead("w1", call)
    await store.finish("w1", call, OK)
    meets = {"instance": "i", "overlap": Overlap.LATEST}
    assert await store.cached(shared("c2", **meets)) == OK
    await store.create(spec("earlier", **meets))
    assert await store.cached(shared("c2", **meets)) is None
    assert await store.cached(shared("c2", instance="i")) == OK, "parallel runs are all shown"
    assert (await store.create(shared("c2", **meets))).superseded == ("earlier",)


# --- in a worker ---------------------------------------------------------------------------------


class Site:
    """An app, and what its callbacks did."""

    def __init__(self) -> None:
        self.computed: list[Any] = []
        self.go = asyncio.Event()
        self.app = Dash("sharing", dispatch_settings=Settings(redis_url=None))
        self.app.layout = html.Div()

        @self.app.callback(Output("slow", "children"), Input("in", "value"), offload=True)
        async def slow(value: Any) -> str:
            self.computed.append(value)
            await self.go.wait()
            if value == "fails":
                raise ValueError(len(self.computed))
            set_props("other", {"children": "of the one who computes"})
            return f"result {len(self.computed)}"

        bridge.ready(self.app)

    def ask(self, value: Any = 0, **more: Any) -> CallSpec:
        return asked("slow", value, **{"cache_key": "k", "cache_s": 60.0} | more)


@pytest.fixture
def site() -> Site:
    return Site()


async def test_equal_calls_compute_once(
    site: Site, store: Store, make_settings: SettingsFactory
) -> None:
    """Twenty at once, over two workers."""
    settings = make_settings()
    calls = [site.ask() for _ in range(20)]
    async with Worker(site.app, store, settings), Worker(site.app, store, settings, "w2"):
        for call in calls:
            await store.create(call)
        await eventually(lambda: site.computed, "one computes")
        await waiting_for_it(store, 19)
        site.go.set()
        found = await outcomes(store, 20, others=1)
    assert found.keys() == {call.id for call in calls}
    assert {outcome.status for outcome in found.values()} == {Status.OK}
    assert all(b"result 1" in outcome.body for outcome in found.values())
    assert len(site.computed) == 1


async def waiting_for_it(store: Store, count: int) -> None:
    """So many calls wait for the result of another."""
    redis = store._redis
    deadline = asyncio.get_running_loop().time() + 10
    while await redis.scard(store.keys.followers("k")) < count:
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.01)


async def test_a_failure_is_told_to_all_who_waited(
    site: Site, store: Store, make_settings: SettingsFactory
) -> None:
    async with Worker(site.app, store, make_settings()):
        for _ in range(5):
            await store.create(site.ask("fails"))
        await waiting_for_it(store, 4)
        site.go.set()
        found = await outcomes(store, 5)
        assert {outcome.failure.message for outcome in found.values()} == {"1"}
        await store.create(site.ask("fails"))
        found = await outcomes(store, 6)
    assert sorted(outcome.failure.message for outcome in found.values()) == ["1"] * 5 + ["2"]


async def test_the_first_is_cancelled_while_it_computes(
    site: Site, store: Store, make_settings: SettingsFactory
) -> None:
    first, second = site.ask(), site.ask()
    async with Worker(site.app, store, make_settings()) as worker:
        await store.create(first)
        await eventually(lambda: site.computed, "it computes")
        await store.create(second)
        await waiting_for_it(store, 1)
        assert await store.cancel(first.id)
        worker.execution.cancel(first.id)
        await eventually(lambda: len(site.computed) == 2, "the other one computes")
        site.go.set()
        found = await outcomes(store, 2, others=1)
    assert found[first.id].status is Status.CANCELLED
    assert b"result 2" in found[second.id].body


async def test_who_is_answered_from_the_cache_waits_no_longer(
    site: Site, store: Store, make_settings: SettingsFactory
) -> None:
    """What ``queued=`` showed is taken back, though nothing of the callback has run."""
    site.go.set()
    async with Worker(site.app, store, make_settings()):
        await store.create(site.ask())
        await outcomes(store, 1, others=1)
        call = site.ask(on_start=(b'{"componentId":"q","props":{}}',))
        await store.create(call)
        await outcomes(store, 2, others=2)
    *_, told, end = await store.read("s", None, 10)
    assert (told.event.call, told.event.props) == (call.id, call.on_start[0])
    assert (end.event.call, len(site.computed)) == (call.id, 1)


async def test_one_that_is_cancelled_before_it_asks_frees_its_place(
    site: Site, store: Store, make_settings: SettingsFactory, raw: Any
) -> None:
    call = site.ask(gate="g", limit=1)
    worker = Worker(site.app, store, make_settings())
    await started(store, call)
    assert await store.cancel(call.id)
    assert not await worker.execution._leads(call)
    assert await held(store) == set()
    assert not await raw.exists(store.keys.slots("g"))
    assert await statuses(store, "s") == [(call.id, "cancelled")]
    await worker.execution.close()
