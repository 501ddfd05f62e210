"""How many run at once, and who comes first: gates, priorities and turns, over a real Redis."""

import asyncio
from functools import partial
from typing import Any

import pytest

from dash_dispatch.engine import WAIT_S, Claims
from dash_dispatch.protocol import CallSpec, Executor
from dash_dispatch.store import Claimed, Store, Wake
from dash_dispatch.sweeper import Sweeper
from tests.integration.conftest import SettingsFactory, StoreFactory
from tests.integration.test_store import LANE, OK, end_lease, held, spec
from tests.stack import eventually

OTHER = "default:thread"


def gated(call: str, limit: int = 2, gate: str = "g", **more: Any) -> CallSpec:
    return spec(call, gate=gate, limit=limit, **more)


async def claim(store: Store, count: int = 100, worker: str = "w1", lane: str = LANE) -> list[str]:
    await store.renew(worker, join=True)
    return await store.claim(worker, lane, count)


async def running(store: Store, *calls: CallSpec, worker: str = "w1") -> None:
    """These run in this worker, and nothing else has been claimed."""
    for call in calls:
        await store.create(call)
    assert await claim(store, worker=worker, lane=calls[0].lane) == [call.id for call in calls]
    for call in calls:
        assert await store.start(worker, call.id) is not None


async def slots(store: Store, raw: Any, gate: str = "g") -> set[str]:
    return {call.decode() for call in await raw.zrange(store.keys.slots(gate), 0, -1)}


# --- never more than the limit -------------------------------------------------------------------


async def test_workers_together_take_no_more_than_the_limit(store: Store, raw: Any) -> None:
    for n in range(6):
        await store.create(gated(f"c{n}"))
        await store.create(gated(f"t{n}", lane=OTHER))
    got = [
        *await claim(store, worker="w1"),
        *await claim(store, worker="w2"),
        *await claim(store, worker="w2", lane=OTHER),
    ]
    assert got == ["c0", "c1"]
    assert await slots(store, raw) == {"c0", "c1"}
    assert not isinstance(await store.take("w2", Wake(LANE, "c2", "g")), Claimed)
    assert await held(store, "w2") == set()


async def test_an_idle_worker_takes_none_of_a_full_gate(store: Store) -> None:
    await running(store, gated("c1"), gated("c2"))
    await store.create(gated("c3"))
    wake = await store.wait_for_work([LANE], 5)
    assert wake == Wake(LANE, "c3", "g", gated("c3"))
    assert await store.take("w1", wake) is None
    await store.finish("w1", gated("c1"), OK)
    again = await store.wait_for_work([LANE], 5)
    assert again is not None
    assert not again.call, "the slot that came back wakes somebody"
    assert await claim(store) == ["c3"]


async def test_a_full_gate_delays_nobody_else(store: Store) -> None:
    await running(store, gated("c1"), gated("c2"))
    for n in range(20):
        await store.create(gated(f"g{n}"))
    await store.create(spec("free"))
    await store.create(gated("other gate", gate="h", limit=1))
    await store.create(gated("another", gate="h", limit=1))
    # The second time, it knows of both gates.
    assert [*await claim(store), *await claim(store)] == ["free", "other gate"]


async def test_a_gate_that_this_worker_has_not_met(store: Store, raw: Any) -> None:
    """It keeps in mind which gates its lane has, and they may become others, as many as before."""
    await running(store, gated("c1", gate="old"))
    await raw.delete(store.keys.gates(LANE))
    await store.create(gated("c2", gate="new"))
    assert await claim(store) == ["c2"]


async def test_a_gate_beside_others_that_are_claimed(store: Store, raw: Any) -> None:
    """The wake-ups stay until all gates have been looked at."""
    await store.create(spec("free"))
    await store.create(gated("c1"))
    assert await claim(store) == ["free"], "it did not know of the gate"
    assert await raw.exists(store.keys.wake(LANE))
    assert await claim(store) == ["c1"]


# --- slots come back -----------------------------------------------------------------------------


async def test_by_the_end_of_a_call(store: Store) -> None:
    await running(store, gated("c1"), gated("c2"))
    await store.create(gated("c3"))
    assert await claim(store) == []
    await store.finish("w1", gated("c1"), OK)
    assert await claim(store) == ["c3"]


async def test_by_a_cancel_only_when_the_worker_has_stopped(store: Store) -> None:
    await running(store, gated("c1", limit=1))
    await store.create(gated("c2", limit=1))
    assert await store.cancel("c1")
    assert await claim(store) == [], "it may hold the GPU still"
    assert not await store.finish("w1", gated("c1", limit=1), OK)
    assert await claim(store) == ["c2"]


async def test_by_a_cancel_before_the_start(store: Store, raw: Any) -> None:
    await store.create(gated("c1", limit=1))
    await store.create(gated("c2", limit=1))
    assert await claim(store) == ["c1"]
    assert await store.cancel("c1")
    assert await slots(store, raw) == set()
    assert await store.start("w1", "c1") is None
    assert await claim(store) == ["c2"]


async def test_by_a_cancel_in_the_queue(store: Store) -> None:
    await running(store, gated("c1", limit=1))
    await store.create(gated("c2", limit=1))
    assert await store.cancel("c2")
    assert await claim(store) == []
    await store.finish("w1", gated("c1", limit=1), OK)
    assert await claim(store) == []


async def test_by_a_retry(store: Store) -> None:
    first = gated("c1", limit=1, retries=1)
    await running(store, first)
    await store.create(gated("c2", limit=1))
    assert await store.retry("w1", first, 60) == "ok"
    assert await claim(store) == ["c2"]
    assert await store.requeue("c1")
    assert await claim(store) == []


async def test_by_following_another_call(store: Store, raw: Any) -> None:
    leads, follows = (gated(name, cache_key="k", cache_s=60) for name in ("c1", "c2"))
    await running(store, leads, follows)
    await store.create(gated("c3"))
    assert await store.lead("w1", leads) == "lead"
    assert await claim(store) == []
    assert await store.lead("w1", follows) == "follow"
    assert await claim(store) == ["c3"]
    assert await slots(store, raw) == {"c1", "c3"}


async def test_by_the_loss_of_the_worker(
    store: Store, make_settings: SettingsFactory, raw: Any
) -> None:
    await running(store, *(gated(f"c{n}", 5) for n in range(3)), worker="dies")
    await store.create(gated("claimed", 5))
    assert await claim(store, worker="dies") == ["claimed"]
    assert await store.cancel("c2"), "it has not stopped that, either"
    await end_lease(store, raw, "dies")
    assert await Sweeper(store, make_settings()).sweep() == 3
    assert await slots(store, raw) == set()
    assert await claim(store) == ["claimed"]


async def test_by_the_loss_of_the_worker_when_the_calls_are_gone(
    store: Store, make_settings: SettingsFactory, raw: Any
) -> None:
    await running(store, gated("c1"), worker="dies")
    await raw.delete(store.keys.call("c1"))
    await end_lease(store, raw, "dies")
    await Sweeper(store, make_settings()).sweep()
    assert await slots(store, raw) == set()


async def test_by_a_worker_that_gives_back_a_claim(store: Store, raw: Any) -> None:
    await store.create(gated("c1", limit=1))
    assert await claim(store) == ["c1"]
    assert await store.release("w1", "c1", gated("c1", limit=1)) == "queued"
    assert await slots(store, raw) == set()
    assert await claim(store, worker="w2") == ["c1"]
    assert await store.release("w1", "c1", gated("c1", limit=1)) == "queued"
    assert await slots(store, raw) == {"c1"}, "not that of another worker"


async def test_by_one_that_ended_while_it_waited_aside(store: Store, raw: Any) -> None:
    """A follower that is cancelled is not run, and holds no slot, when its leader ends."""
    leads, follows = (gated(name, cache_key="k", cache_s=60) for name in ("c1", "c2"))
    await running(store, leads, follows)
    await store.lead("w1", leads)
    await store.lead("w1", follows)
    assert await store.cancel("c2")
    await store.finish("w1", leads, OK)
    assert await claim(store) == []
    assert await slots(store, raw) == set()


async def test_of_a_claim_of_what_has_ended(store: Store, raw: Any) -> None:
    """However it came into the queue: its claimer gives back the slot."""
    await running(store, gated("c1"))
    await store.finish("w1", gated("c1"), OK)
    await raw.zadd(store.keys.waiting(LANE, "g"), {"c1": 1})
    assert await claim(store) == ["c1"]
    assert await store.start("w1", "c1") is None
    assert await slots(store, raw) == set()
    assert await held(store) == set()


async def test_of_what_vanished(make_store: StoreFactory, raw: Any) -> None:
    """Whoever held it is gone without a trace: after a call's longest life it counts no more."""
    store = make_store(call_ttl_s=60)
    await running(store, gated("c1", limit=1))
    await store.create(gated("c2", limit=1))
    assert await claim(store) == []
    await raw.zadd(store.keys.slots("g"), {"c1": 1000})
    assert await claim(store) == ["c2"]
    assert 0 < await raw.pttl(store.keys.slots("g")) <= 60_000


async def test_a_slot_wakes_workers_of_all_lanes(store: Store) -> None:
    await running(store, gated("c1", limit=1))
    await store.create(gated("t1", limit=1, lane=OTHER))
    wake = await store.wait_for_work([OTHER], 5)
    assert wake is not None
    assert await store.take("w1", wake) is None
    await store.finish("w1", gated("c1", limit=1), OK)
    assert await store.wait_for_work([OTHER], 5) == Wake(OTHER, "", "")
    assert await claim(store, lane=OTHER) == ["t1"]


async def test_a_lane_wakes_for_calls_of_each_gate(store: Store) -> None:
    """Wake-ups of other calls in the lane are no reason to leave one out."""
    await store.create(spec("free"))
    await store.create(gated("c1"))
    assert await store.wait_for_work([LANE], 5) == Wake(LANE, "free", "", spec("free"))
    assert await store.wait_for_work([LANE], 5) == Wake(LANE, "c1", "g", gated("c1"))


# --- the limit is changed ------------------------------------------------------------------------


async def test_a_limit_that_is_lowered(store: Store) -> None:
    await running(store, gated("c1", 3), gated("c2", 3))
    await store.create(gated("c3", 1))
    assert await claim(store) == []
    await store.finish("w1", gated("c1", 3), OK)
    assert await claim(store) == []
    await store.finish("w1", gated("c2", 3), OK)
    assert await claim(store) == ["c3"]


async def test_a_limit_that_is_raised(store: Store) -> None:
    await running(store, gated("c1", 1))
    for n in (2, 3, 4):
        await store.create(gated(f"c{n}", 1))
    assert await claim(store) == []
    await store.create(gated("c5", 3))
    wakes = [await store.wait_for_work([LANE], 5) for _ in range(3)]
    assert sorted(wake.call for wake in wakes if wake) == ["", "", "c5"], "one for each new place"
    assert await claim(store) == ["c2", "c3"]


async def test_a_limit_holds_in_all_lanes_from_its_change_on(store: Store) -> None:
    await store.create(gated("t1", 9, lane=OTHER))
    await store.create(gated("t2", 9, lane=OTHER))
    await store.create(gated("c1", 1))
    assert await claim(store, lane=OTHER) == ["t1"]


# --- who comes first -----------------------------------------------------------------------------


async def test_a_higher_priority_comes_first(store: Store) -> None:
    for priority in (0, -10, 10, 3, 0, 10):
        await store.create(spec(f"p{priority} {len(await waiting(store))}", priority=priority))
    assert await claim(store) == ["p10 2", "p10 5", "p3 3", "p0 0", "p0 4", "p-10 1"]


async def waiting(store: Store) -> list[int | None]:
    """One entry per call that waits."""
    names = [f"p{p} {n}" for p in (0, -10, 10, 3) for n in range(6)]
    return [rank for rank in await store.ranks([spec(n) for n in names]) if rank is not None]


async def test_priority_counts_across_gates(store: Store) -> None:
    await store.create(spec("c1"))
    await store.create(gated("c2", priority=5))
    await store.create(spec("c3", priority=9))
    # The second time, it knows of the gate.
    assert [*await claim(store, 1), *await claim(store, 2)] == ["c3", "c2", "c1"]


async def test_a_single_users_calls_are_served_in_order(store: Store) -> None:
    names = [f"c{n:03}" for n in range(200)]
    for name in names:
        await store.create(spec(name, user="u"))
    served = []
    while found := await claim(store, 7):
        served += found
    assert served == names


@pytest.mark.parametrize("gate", ["", "g"])
async def test_a_user_with_one_call_does_not_wait_for_one_with_500(store: Store, gate: str) -> None:
    more: dict[str, Any] = {"gate": gate, "limit": 5}
    for n in range(500):
        await store.create(spec(f"many{n}", user="many", **more))
    served = await claim(store, 3)
    assert served == ["many0", "many1", "many2"]
    await store.create(spec("one", user="one", **more))
    assert "one" in await claim(store, 2)


async def test_users_take_turns(store: Store) -> None:
    for n in range(50):
        await store.create(spec(f"a{n}", user="a"))
    for n in range(4):
        await store.create(spec(f"b{n}", user="b"))
    for n in range(3):
        await store.create(spec(f"c{n}", user="c"))
    served = await claim(store, 12)
    assert served == ["a0", "b0", "c0", "a1", "b1", "c1", "a2", "b2", "c2", "a3", "b3", "a4"]


async def test_who_was_idle_has_saved_nothing_up(store: Store) -> None:
    await store.create(spec("b first", user="b"))
    assert await claim(store) == ["b first"]
    for n in range(100):
        await store.create(spec(f"a{n}", user="a"))
    assert len(await claim(store, 90)) == 90
    for n in range(20):
        await store.create(spec(f"b{n}", user="b"))
    assert await claim(store, 6) == ["a90", "b0", "a91", "b1", "a92", "b2"]


async def test_nor_does_it_where_nobody_has_waited_yet(store: Store) -> None:
    """The first calls of a gate are as far as the lane is."""
    for n in range(100):
        await store.create(spec(f"a{n}", user="a"))
    assert len(await claim(store, 90)) == 90
    for n in range(20):
        await store.create(gated(f"b{n}", 50, user="b"))
    # The second time, it knows of the gate.
    assert [*await claim(store, 2), *await claim(store, 3)] == ["a90", "a91", "b0", "b1", "a92"]


async def test_a_priority_of_its_own_puts_nobody_else_back(store: Store) -> None:
    """Someone with much work also has an urgent call: it moves no clock for the others."""
    for n in range(100):
        await store.create(spec(f"a{n}", user="a"))
    await store.create(spec("urgent", user="a", priority=10))
    assert await claim(store, 1) == ["urgent"]
    await store.create(spec("b", user="b"))
    assert await claim(store, 2) == ["a0", "b"]


async def test_turns_are_counted_per_gate(store: Store) -> None:
    """Someone has much work behind a full gate, and goes on working otherwise."""
    await running(store, gated("runs", 1))
    for n in range(100):
        await store.create(gated(f"a{n}", 1, user="a"))
    for n in range(5):
        await store.create(spec(f"free{n}", user="a"))
        await store.create(spec(f"other{n}", user="b"))
    assert await claim(store, 4) == ["free0", "other0", "free1", "other1"], (
        "a full gate delays none"
    )
    assert len(await claim(store)) == 6
    await store.create(gated("b", 1, user="b"))
    await store.finish("w1", gated("runs", 1), OK)
    served = await claim(store)
    await store.start("w1", served[0])
    await store.finish("w1", gated(served[0], 1), OK)
    assert [*served, *await claim(store)] == ["a0", "b"], "it waits for no hundred others"


async def test_what_comes_back_keeps_its_place(store: Store) -> None:
    for n in range(5):
        await store.create(spec(f"c{n}", user="u"))
    assert await claim(store, 2) == ["c0", "c1"]
    await store.release("w1", "c1", spec("c1"))
    await store.create(spec("new", user="v"))
    assert await claim(store, 3) == ["c1", "c2", "new"]


async def test_the_turns_of_users_are_forgotten(store: Store, raw: Any) -> None:
    """However many come and go."""
    for n in range(50):
        await store.create(spec(f"c{n}", user=f"u{n}"))
        assert len(await claim(store)) == 1
    assert await raw.zcard(store.keys.turns(LANE)) <= 1


# --- in a worker ---------------------------------------------------------------------------------


class Worker:
    """The part of a worker that claims; the test says when a call ends."""

    def __init__(self, store: Store, name: str) -> None:
        self.store = store
        self.name = name
        slots = {Executor.LOOP: 4, Executor.THREAD: 4}
        self.claims = Claims(store, name, ["default"], slots, self._run)
        self.calls: dict[str, CallSpec] = {}
        self._ends: dict[str, asyncio.Event] = {}

    async def start(self) -> None:
        await self.store.renew(self.name, join=True)
        self.claims.start()

    async def _run(self, claimed: Claimed, _: Executor) -> None:
        call = claimed.spec.id
        self._ends[call] = asyncio.Event()
        self.calls[call] = claimed.spec
        await self._ends[call].wait()

    async def end(self, call: str) -> None:
        await self.store.finish(self.name, self.calls.pop(call), OK)
        self._ends.pop(call).set()
        await self.claims.join(call)
        self.claims.settled(call)

    async def stop(self) -> None:
        await self.claims.stop()
        await self.claims.end()


def slots_are_used(workers: list[Worker], count: int) -> bool:
    return sum(len(worker.calls) for worker in workers) >= count


async def test_all_slots_are_used_and_no_more(store: Store) -> None:
    """Over two workers and two executors; no freed slot waits for somebody to look by chance."""
    workers = [Worker(store, name) for name in ("w1", "w2")]
    for worker in workers:
        await worker.start()
    for n in range(20):
        await store.create(gated(f"c{n}", 3, lane=(LANE, OTHER)[n % 2], user=f"u{n % 3}"))
    try:
        for left in range(20, 0, -1):
            used = partial(slots_are_used, workers, min(3, left))
            await eventually(used, "the slots are used", WAIT_S / 2)
            assert sum(len(worker.calls) for worker in workers) == min(3, left)
            worker = max(workers, key=lambda worker: len(worker.calls))
            await worker.end(next(iter(worker.calls)))
    finally:
        for worker in workers:
            await worker.stop()
