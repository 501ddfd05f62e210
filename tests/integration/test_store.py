"""The store over a real Redis: every transition of a call's life, legal and not."""

import asyncio
import re
import uuid
from typing import Any

import hypothesis
import msgspec
import pytest
import redis
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from dash_dispatch import CallExpired, PayloadTooLarge, QueueFull, Settings
from dash_dispatch.protocol import (
    SILENT,
    CallSpec,
    Event,
    Outcome,
    Overlap,
    Status,
    failed,
)
from dash_dispatch.store import (
    BEAT_SHARE,
    LEASE_SHARE,
    LIBRARIES,
    WAKES,
    ActiveCall,
    Admission,
    Claimed,
    Entry,
    Store,
    Wake,
)
from dash_dispatch.sweeper import Sweeper
from tests.integration.conftest import SettingsFactory, StoreFactory
from tests.stack import RedisServer, eventually

LANE = "default:loop"
OK = Outcome(Status.OK, b'{"n":1}')


def spec(call: str = "c1", session: str = "s1", lane: str = LANE, **more: Any) -> CallSpec:
    return CallSpec(call, session, "page", f"request {call}", "out.children", lane, 2.5,
                    b'{"output":"\\u00e9"}', b"{}", **more)  # fmt: skip


async def held(store: Store, worker: str = "w1") -> set[str]:
    """What a worker has claimed."""
    return {call for call, _, _ in await store.claimed_by(worker)}


async def started(store: Store, call: CallSpec, worker: str = "w1") -> CallSpec:
    """A call that this worker runs."""
    await store.create(call)
    await store.renew(worker, join=True)
    assert call.id in await store.claim(worker, call.lane, 100)
    found = await store.start(worker, call.id)
    assert found is not None
    return found.spec


async def outcomes(store: Store, session: str = "s1") -> list[tuple[str, str]]:
    """The outcomes in a mailbox: (call, status)."""
    return [
        (entry.event.call, str(entry.event.outcome.status))
        for entry in await store.read(session, None, 1000)
        if entry.event.outcome is not None
    ]


async def mailed(store: Store, session: str, count: int) -> list[Entry]:
    """The mailbox, as soon as it has this many entries."""
    deadline = asyncio.get_running_loop().time() + 10
    found = await store.read(session, None, 20_000)
    while len(found) < count and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(0.01)
        found = await store.read(session, None, 20_000)
    return found


async def end_lease(store: Store, raw: Any, worker: str) -> None:
    """As if the worker had been silent for long, and no sweeper had looked just now."""
    await raw.zadd(store.keys.workers, {worker: 1})
    await raw.delete(store.keys.sweeper, store.keys.swept)


# --- create --------------------------------------------------------------------------------------


async def test_a_call_is_accepted_once(store: Store, raw: Any) -> None:
    first = await store.create(spec())
    assert first == Admission(True, "queued", "s1", 0)
    again = await store.create(spec(session="s2"))
    assert again == Admission(False, "queued", "s1", 0), "whose it is stays"
    assert await raw.zcard(store.keys.waiting(LANE)) == 1
    assert await raw.llen(store.keys.wake(LANE)) == 1


async def test_a_known_call_tells_how_far_it_is(store: Store) -> None:
    await started(store, spec())
    assert await store.create(spec()) == Admission(False, "started", "s1", 0)
    await store.finish("w1", spec(), OK)
    assert await store.create(spec()) == Admission(False, "ok", "s1", 0)
    assert await store.claim("w1", LANE, 5) == [], "and is not run again"


async def test_the_place_in_the_queue(store: Store) -> None:
    assert [(await store.create(spec(f"c{n}"))).position for n in range(3)] == [0, 1, 2]


async def test_a_full_queue_refuses(make_store: StoreFactory, raw: Any) -> None:
    store = make_store(max_queue=2)
    for name in ("c1", "c2"):
        await store.create(spec(name))
    with pytest.raises(QueueFull, match="2 calls are waiting"):
        await store.create(spec("c3"))
    assert not await raw.exists(store.keys.call("c3"))
    assert (await store.create(spec("c1"))).status == "queued", "a known one is no more"
    assert (await store.create(spec("c3", lane="other:loop"))).created, "another lane is free"
    await store.cancel("c1")
    assert (await store.create(spec("c4"))).created


# --- claim and start -----------------------------------------------------------------------------


async def test_the_oldest_are_claimed_first(store: Store) -> None:
    await store.renew("w1", join=True)
    for n in range(5):
        await store.create(spec(f"c{n}"))
    assert await store.claim("w1", LANE, 2) == ["c0", "c1"]
    assert await store.claim("w1", LANE, 10) == ["c2", "c3", "c4"]
    assert await store.claim("w1", LANE, 10) == []
    assert await held(store) == {f"c{n}" for n in range(5)}


async def test_a_lane_is_claimed_alone(store: Store) -> None:
    await store.renew("w1", join=True)
    await store.create(spec("c1", lane="a:loop"))
    await store.create(spec("c2", lane="a:process"))
    assert await store.claim("w1", "a:process", 5) == ["c2"]


async def test_a_worker_without_a_lease_gets_nothing(store: Store) -> None:
    await store.create(spec())
    assert await store.claim("w1", LANE, 1) == []
    await store.renew("w1", join=True)
    assert await store.claim("w1", LANE, 1) == ["c1"]


async def test_a_call_as_it_was_written_down(store: Store) -> None:
    asked = spec(stream=False)
    await store.renew("w1", join=True)
    await store.create(asked)
    await store.claim("w1", LANE, 1)
    assert await store.start("w1", "c1") == Claimed(asked, 1)


@hypothesis.settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=9), st.binary(max_size=9),
    st.floats(0.001, 1e6), st.booleans(),
)  # fmt: skip
def test_any_call_survives_redis(
    make_settings: SettingsFactory,
    name: str, payload: bytes, timeout_s: float, stream: bool,
) -> None:  # fmt: skip
    call = uuid.uuid4()
    asked = CallSpec(
        call.hex, call.hex, name, name, name, LANE, timeout_s, payload, payload, stream=stream
    )

    async def there_and_back() -> None:
        store = Store(make_settings())
        try:
            assert await started(store, asked) == asked
            await store.emit("w1", asked, 1, [payload])
            await store.finish("w1", asked, Outcome(Status.OK, payload, payload))
            props, end = await store.read(call.hex, None, 10)
        finally:
            await store.close()
        assert props.event == Event(name, name, call.hex, props=payload)
        assert end.event == Event(name, name, call.hex, Outcome(Status.OK, payload, payload))

    asyncio.run(there_and_back())


async def test_only_a_queued_call_starts(store: Store) -> None:
    assert await store.start("w1", "nobody") is None
    await store.renew("w1", join=True)
    for n, end in enumerate((store.cancel, None)):
        await store.create(spec(f"c{n}"))
        await store.claim("w1", LANE, 1)
        if end is not None:
            await end(f"c{n}")
            assert await store.start("w1", f"c{n}") is None
    assert await store.start("w1", "c1") is not None
    await store.finish("w1", spec("c1"), OK)
    assert await store.start("w1", "c1") is None
    assert await store.claimed_by("w1") == []


async def test_a_start_whose_reply_was_lost_can_be_repeated(store: Store) -> None:
    """The client repeats a script by itself after a lost connection; the call may not hang."""
    asked = await started(store, spec())
    assert await store.start("w1", "c1") == Claimed(asked, 1)
    assert await store.claimed_by("w1") == [("c1", asked, 1)]


async def test_only_its_claimer_starts_a_call(store: Store) -> None:
    """A worker that was given up runs nothing: nobody would notice its second death."""
    await store.renew("w1", join=True)
    await store.create(spec())
    await store.claim("w1", LANE, 1)
    await store.release("w1", "c1", spec())
    await store.leave("w1")
    assert await store.start("w1", "c1") is None
    await store.renew("w2", join=True)
    assert await store.claim("w2", LANE, 1) == ["c1"]
    assert await store.start("w1", "c1") is None
    assert await store.start("w2", "c1") is not None
    assert await store.start("w1", "c1") is None


# --- emit ----------------------------------------------------------------------------------------


async def test_updates_are_in_order_and_each_counts_once(store: Store) -> None:
    call = await started(store, spec())
    for number, props in ((1, b"a"), (2, b"b"), (2, b"b"), (1, b"a"), (3, b"c")):
        assert await store.emit("w1", call, number, [props])
    assert [entry.event.props for entry in await store.read("s1", None, 10)] == [b"a", b"b", b"c"]


async def test_updates_come_in_batches_that_may_overlap(store: Store) -> None:
    """A batch whose reply was lost is sent again, perhaps with what has come since."""
    call = await started(store, spec())
    for number, batch in ((1, [b"a", b"b"]), (1, [b"a", b"b", b"c"]), (3, [b"c", b"d"])):
        assert await store.emit("w1", call, number, batch)
    props = [entry.event.props for entry in await store.read("s1", None, 10)]
    assert props == [b"a", b"b", b"c", b"d"]


async def test_updates_of_what_is_not_ones_own_are_dropped(store: Store) -> None:
    assert not await store.emit("w1", spec("unknown"), 1, [b"x"])
    await store.create(spec("queued"))
    assert not await store.emit("w1", spec("queued"), 1, [b"x"])
    call = await started(store, spec())
    assert not await store.emit("w2", call, 1, [b"x"])
    await store.finish("w1", call, OK)
    assert not await store.emit("w1", call, 1, [b"x"])
    assert await outcomes(store) == [("c1", "ok")]
    assert len(await store.read("s1", None, 10)) == 1


async def test_a_mailbox_that_nobody_reads_is_bounded(make_store: StoreFactory) -> None:
    store = make_store(max_mailbox_entries=10)
    call = await started(store, spec())
    for number in range(1, 11):
        assert await store.emit("w1", call, number, [b"x"])
    with pytest.raises(PayloadTooLarge, match="DASH_DISPATCH_MAX_MAILBOX_ENTRIES"):
        await store.emit("w1", call, 11, [b"x"])
    assert await store.finish("w1", call, OK), "an outcome always finds room"
    assert await outcomes(store) == [("c1", "ok")]


# --- finish, cancel, lose ------------------------------------------------------------------------

ENDS = [OK, Outcome(Status.NO_UPDATE), failed(Status.FAILED, "E", "m"), Outcome(Status.CANCELLED)]


@pytest.mark.parametrize("first", ENDS, ids=lambda outcome: str(outcome.status))
async def test_the_first_outcome_wins(store: Store, first: Outcome) -> None:
    call = await started(store, spec())
    assert await store.finish("w1", call, first)
    for late in ENDS:
        assert not await store.finish("w1", call, late)
    assert not await store.cancel("c1")
    assert not await store.lose("c1", "w1")
    assert await outcomes(store) == [("c1", str(first.status))]


async def test_a_worker_ends_only_what_it_runs(store: Store) -> None:
    call = await started(store, spec())
    assert not await store.finish("w2", call, OK)
    assert await outcomes(store) == []
    await store.create(spec("c2"))
    assert not await store.finish("w1", spec("c2"), OK), "not before it starts"
    assert await store.finish("w1", call, OK)


async def test_what_is_gone_is_expired(store: Store) -> None:
    with pytest.raises(CallExpired) as caught:
        await store.finish("w1", spec("unknown"), OK)
    assert caught.value.call_id == "unknown"
    assert not await store.cancel("unknown")
    assert not await store.lose("unknown", "w1")
    assert await store.read("s1", None, 10) == []


async def test_an_ended_call_leaves_no_trace_of_its_request(store: Store, raw: Any) -> None:
    call = await started(store, spec())
    assert await store.active("s1") == [ActiveCall("c1", "page", "out.children")]
    await store.finish("w1", call, OK)
    record = await raw.hgetall(store.keys.call("c1"))
    assert record.keys() == {b"status", b"session", b"gate", b"worker", b"attempt"}
    assert record[b"status"] == b"ok"
    assert await store.active("s1") == []
    assert await store.claimed_by("w1") == []


async def test_cancel_a_queued_call(store: Store, raw: Any) -> None:
    await store.create(spec())
    assert await store.cancel("c1")
    assert not await store.cancel("c1")
    await store.renew("w1", join=True)
    assert await store.claim("w1", LANE, 1) == []
    assert await outcomes(store) == [("c1", "cancelled")]


async def test_cancel_a_claimed_call(store: Store) -> None:
    await store.renew("w1", join=True)
    await store.create(spec())
    await store.claim("w1", LANE, 1)
    assert await store.cancel("c1")
    assert await store.start("w1", "c1") is None
    assert await held(store) == set()
    assert await store.release("w1", "c1", spec()) == "cancelled"
    assert await store.claim("w1", LANE, 1) == []


async def test_cancel_a_running_call_tells_its_worker(store: Store) -> None:
    controls = store.controls()
    heard: list[tuple[str | None, bytes]] = []

    async def listen() -> None:
        async for message in controls.listen():
            heard.append(message)  # noqa: PERF401 - as they come

    task = asyncio.create_task(listen())
    await controls.add("w1")
    await eventually(lambda: heard, "the listener listens")
    call = await started(store, spec())
    assert await store.cancel("c1", Status.SUPERSEDED)
    await eventually(lambda: ("w1", b"c1") in heard, "the worker is told")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await controls.close()
    assert not await store.finish("w1", call, OK)
    assert await outcomes(store) == [("c1", "superseded")]


async def test_cancel_an_ended_call(store: Store) -> None:
    await store.finish("w1", await started(store, spec()), OK)
    assert not await store.cancel("c1")


async def test_a_lost_call_says_so(store: Store) -> None:
    call = await started(store, spec())
    assert await store.lose("c1", "w1")
    (entry,) = await store.read("s1", None, 10)
    assert entry.event.outcome is not None
    assert entry.event.outcome.status is Status.WORKER_LOST
    assert entry.event.outcome.failure.worker == "w1"
    assert not await store.finish("w1", call, OK), "it cannot overwrite that"


async def test_a_late_sweeper_ends_nothing_of_another_worker(store: Store) -> None:
    """Two sweepers may hold the same list: what one hands back, a living worker may run by now."""
    await store.renew("w1", join=True)
    await store.create(spec())
    await store.claim("w1", LANE, 1)
    assert await store.release("w1", "c1", spec()) == "queued"
    await store.renew("w2", join=True)
    await store.claim("w2", LANE, 1)
    assert await store.release("w1", "c1", spec()) == "queued"
    assert await store.claim("w1", LANE, 1) == [], "it waits only once"
    await store.start("w2", "c1")
    assert await store.release("w1", "c1", spec()) == "started"
    assert not await store.lose("c1", "w1")
    assert await store.finish("w2", spec(), OK)
    assert await outcomes(store) == [("c1", "ok")]


# --- release -------------------------------------------------------------------------------------


async def test_a_released_call_is_the_next(store: Store, raw: Any) -> None:
    await store.renew("w1", join=True)
    for n in range(3):
        await store.create(spec(f"c{n}"))
    assert await store.claim("w1", LANE, 1) == ["c0"]
    assert await store.release("w1", "c0", spec("c0")) == "queued"
    assert await store.claimed_by("w1") == []
    assert await store.claim("w1", LANE, 2) == ["c0", "c1"]
    assert await raw.llen(store.keys.wake(LANE)) >= 1


async def test_what_is_not_queued_is_not_released(store: Store) -> None:
    assert await store.release("w1", "unknown", spec("unknown")) is None
    call = await started(store, spec())
    assert await store.release("w1", "c1", spec()) == "started"
    assert await store.claim("w1", LANE, 1) == []
    assert await held(store) == {"c1"}, "a sweeper that dies now is followed by one that finds it"
    await store.finish("w1", call, OK)
    assert await store.release("w1", "c1", spec()) == "ok"


async def test_a_worker_hands_back_what_it_never_heard_of(store: Store) -> None:
    """The reply to its claim, or to its start, was lost: nothing of the call has run."""
    call = await started(store, spec())
    assert await store.hand_back("w1", "c1", call)
    assert await held(store) == set()
    assert await store.claim("w1", LANE, 1) == ["c1"]
    assert await store.start("w1", "c1") == Claimed(call, 1), "it was no attempt"
    await store.cancel("c1")
    assert not await store.hand_back("w1", "c1", None)
    assert await held(store) == set()


# --- waking --------------------------------------------------------------------------------------


async def test_an_idle_worker_is_woken(store: Store) -> None:
    waiting = asyncio.ensure_future(store.wait_for_work(["other:loop", LANE], 20))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    await store.create(spec())
    async with asyncio.timeout(5):
        assert await waiting == Wake(LANE, "c1", "", spec())


async def test_waiting_ends_with_its_time(store: Store) -> None:
    async with asyncio.timeout(5):
        assert await store.wait_for_work([LANE], 0.1) is None


async def test_a_nudge_wakes(store: Store) -> None:
    await store.nudge([LANE])
    async with asyncio.timeout(5):
        assert await store.wait_for_work([LANE], 20) == Wake(LANE, "", "")


async def test_an_idle_worker_takes_the_call_that_woke_it(store: Store) -> None:
    await store.renew("w1", join=True)
    await store.create(spec())
    wake = await store.wait_for_work([LANE], 20)
    assert wake is not None
    assert await store.take("nobody", wake) is None, "it has no lease"
    assert await store.take("w1", wake) == Claimed(spec(), 1)
    assert await held(store) == {"c1"}
    assert await store.take("w1", wake) == "more", "a wake-up is a hint"
    assert await store.finish("w1", spec(), OK)


async def test_a_wake_up_takes_nothing_from_others(store: Store) -> None:
    await store.renew("w1", join=True)
    await store.create(spec("c1"))
    await store.create(spec("c2"))
    assert await store.take("w1", Wake(LANE, "c1", "")) == "more", "others have wake-ups as well"
    assert await store.wait_for_work([LANE], 20) == Wake(LANE, "c1", "", spec("c1"))
    assert await store.wait_for_work([LANE], 20) == Wake(LANE, "c2", "")
    assert await store.take("w1", Wake(LANE, "c2", "")) == "more", "the other one comes first"
    assert await store.claim("w1", LANE, 1) == ["c1"]
    await store.cancel("c2")
    assert await store.take("w1", Wake(LANE, "c2", "")) == "more", "nothing to take any more"


async def test_wake_ups_that_nobody_hears_are_bounded(store: Store, raw: Any) -> None:
    await store.nudge([LANE] * (WAKES + 5))
    assert await raw.llen(store.keys.wake(LANE)) == WAKES
    for n in range(5):
        await store.create(spec(f"c{n}"))
        assert await raw.llen(store.keys.wake(LANE)) == WAKES
        await store.cancel(f"c{n}")
    assert await raw.llen(store.keys.wake(LANE)) == WAKES - 1, "that of a cancelled call has gone"


async def test_tokens_do_not_pile_up(store: Store, raw: Any) -> None:
    await store.renew("w1", join=True)
    for n in range(5):
        await store.create(spec(f"c{n}"))
    assert await raw.llen(store.keys.wake(LANE)) == 5
    await store.claim("w1", LANE, 5)
    assert not await raw.exists(store.keys.wake(LANE)), "nothing waits: nobody is to wake up"


# --- leases and the sweeper ----------------------------------------------------------------------


async def test_a_lease_is_renewed_until_it_is_given_up(store: Store) -> None:
    assert not await store.renew("w1"), "never joined"
    assert await store.renew("w1", join=True)
    assert await store.renew("w1")
    assert await store.live_workers() == 1
    await store.leave("w1")
    assert await store.live_workers() == 0
    assert not await store.renew("w1"), "given up stays given up"
    assert await store.renew("w1", join=True), "until it joins again"
    assert await store.renew("w1")


async def test_the_lease_is_a_share_of_the_promise(store: Store, raw: Any) -> None:
    await store.renew("w1", join=True)
    end_ms = await raw.zscore(store.keys.workers, "w1")
    seconds, micros = await raw.time()
    assert end_ms is not None
    left_s = end_ms / 1000 - seconds - micros / 1e6
    assert 5.0 < left_s <= 10 * LEASE_SHARE
    assert LEASE_SHARE + 2 * BEAT_SHARE < 1


async def test_one_sweeper_at_a_time_is_told(store: Store, raw: Any) -> None:
    await store.renew("alive", join=True)
    assert (await store.overdue()).workers == []
    await end_lease(store, raw, "dead")
    assert (await store.overdue()).workers == ["dead"]
    assert (await store.overdue()).workers == [], "another one is told nothing"
    await raw.delete(store.keys.sweeper)
    again = await store.overdue()
    assert again.workers == ["dead"], "one that died half-way is followed by another"
    await store.leave("dead")
    await raw.delete(store.keys.sweeper)
    assert (await store.overdue()).workers == []


async def test_a_worker_that_comes_back_to_life_while_it_is_given_up(
    store: Store, raw: Any
) -> None:
    """What it claimed now would be forgotten with all that it had."""
    await store.renew("w1", join=True)
    await store.create(spec())
    await end_lease(store, raw, "w1")
    assert (await store.overdue()).workers == ["w1"]
    assert not await store.renew("w1")
    assert not await store.renew("w1", join=True)
    assert await store.claim("w1", LANE, 1) == []
    assert await store.take("w1", Wake(LANE, "c1", "")) is None
    await store.leave("w1")
    assert await store.renew("w1", join=True), "when its calls are settled"
    assert await store.claim("w1", LANE, 1) == ["c1"]


async def test_a_sweeper_that_comes_late_takes_nothing_from_a_worker_that_is_back(
    store: Store, raw: Any
) -> None:
    """Two may settle the same calls: when one takes longer than its turn, another looks."""
    await store.renew("w1", join=True)
    await store.create(spec())
    assert await store.claim("w1", LANE, 1) == ["c1"]
    await end_lease(store, raw, "w1")
    assert (await store.overdue()).workers == ["w1"]
    assert not await store.dismiss("w1"), "it has a call that is not settled"
    assert await store.is_given_up("w1")
    ((call, known, _),) = await store.claimed_by("w1")
    assert known is not None
    assert await store.release("w1", call, known) == "queued"
    assert await store.dismiss("w1")
    assert not await store.is_given_up("w1")
    assert await store.renew("w1", join=True)
    assert await store.claim("w1", LANE, 1) == ["c1"]

    assert not await store.dismiss("w1"), "this is the late one"

    assert await store.renew("w1"), "it has its lease"
    assert await store.start("w1", "c1") is not None, "and its call"


async def test_a_sweeper_that_dies_half_way_loses_no_call(
    store: Store, make_settings: SettingsFactory, raw: Any
) -> None:
    call = await started(store, spec())
    await end_lease(store, raw, "w1")
    assert (await store.overdue()).workers == ["w1"]
    assert await store.release("w1", "c1", call) == "started"
    await raw.delete(store.keys.sweeper)
    assert await Sweeper(store, make_settings()).sweep() == 1
    assert await outcomes(store) == [("c1", "worker_lost")]


async def test_the_sweeper_settles_a_lost_workers_calls(
    store: Store, make_settings: SettingsFactory, raw: Any
) -> None:
    await store.renew("w1", join=True)
    for name in ("running", "claimed", "ended", "gone"):
        await store.create(spec(name))
        assert await store.claim("w1", LANE, 1) == [name]
    await store.start("w1", "running")
    await store.start("w1", "ended")
    await store.finish("w1", spec("ended"), OK)
    await raw.delete(store.keys.call("gone"))
    await end_lease(store, raw, "w1")

    assert await Sweeper(store, make_settings()).sweep() == 2
    assert await outcomes(store) == [("ended", "ok"), ("running", "worker_lost")]
    assert await store.live_workers() == 0
    assert await store.claimed_by("w1") == []
    await store.renew("w2", join=True)
    assert await store.claim("w2", LANE, 5) == ["claimed"]
    assert await Sweeper(store, make_settings()).sweep() == 0


async def test_a_worker_that_cannot_be_settled_stops_no_sweep(
    store: Store, make_settings: SettingsFactory, raw: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody has written something else where its calls stand."""
    await started(store, spec(), "w2")
    await raw.set(store.keys.running("w1"), "nonsense")
    await end_lease(store, raw, "w1")
    await end_lease(store, raw, "w2")
    assert await Sweeper(store, make_settings()).sweep() == 1
    assert await outcomes(store) == [("c1", "worker_lost")]
    assert "the calls of w1 cannot be settled" in caplog.text


async def test_the_sweeper_leaves_the_living_alone(
    store: Store, make_settings: SettingsFactory
) -> None:
    await started(store, spec())
    assert await Sweeper(store, make_settings()).sweep() == 0
    assert await store.finish("w1", spec(), OK)


async def test_a_sweeper_looks_by_itself(
    make_store: StoreFactory, make_settings: SettingsFactory
) -> None:
    store = make_store(lease_s=1)
    call = await started(store, spec())
    sweeper = Sweeper(store, make_settings(lease_s=1))
    sweeper.start()
    try:
        (entry,) = await mailed(store, "s1", 1)
    finally:
        await sweeper.close()
    assert entry.event.outcome is not None
    assert entry.event.outcome.status is Status.WORKER_LOST
    assert not await store.finish("w1", call, OK)


# --- mailboxes -----------------------------------------------------------------------------------


def event(n: int) -> Event:
    return Event("page", "request", "call", props=b'{"n":%d}' % n)


async def test_a_mailbox_is_read_in_order_from_a_cursor(store: Store) -> None:
    for n in range(10):
        await store.post("s1", event(n))
    read = await store.read("s1", None, 4)
    assert [entry.event for entry in read] == [event(n) for n in range(4)]
    rest = await store.read("s1", read[-1].id, 100)
    assert [entry.event for entry in rest] == [event(n) for n in range(4, 10)]
    assert await store.read("s1", rest[-1].id, 100) == []
    assert await store.read("s1", read[-1].id, 100) == rest, "as often as one likes"
    assert await store.read("nobody", None, 100) == []


async def test_what_was_confirmed_is_trimmed(store: Store) -> None:
    for n in range(6):
        await store.post("s1", event(n))
    entries = await store.read("s1", None, 100)
    await store.trim("s1", entries[2].id)
    assert await store.read("s1", None, 100) == entries[3:]
    await store.trim("s1", entries[2].id)
    await store.trim("s1", "0-0")
    assert await store.read("s1", None, 100) == entries[3:]
    await store.trim("s1", entries[-1].id)
    assert await store.read("s1", None, 100) == []
    await store.post("s1", event(7))
    assert len(await store.read("s1", entries[-1].id, 100)) == 1, "ids go on behind the cursor"


async def test_a_posted_event_keeps_all_it_has(store: Store) -> None:
    events = [
        Event("p\u00e9", "r", "c", props=b"{}"),
        Event("p", "r", "c", question=b'{"type":"get_props_request"}'),
        Event("p", "r", "c", Outcome(Status.OK, b"body", b"response")),
        Event("p", "r", "c", Outcome(Status.NO_UPDATE)),
        Event("p", "r", "c", failed(Status.FAILED, "T", "m", call="c")),
    ]
    for one in events:
        await store.post("s1", one)
    assert [entry.event for entry in await store.read("s1", None, 10)] == events


async def test_a_large_result_stands_aside(make_store: StoreFactory, raw: Any) -> None:
    store = make_store(inline_result_bytes=100)
    for name, size in (("small", 100), ("large", 101)):
        call = await started(store, spec(name))
        await store.finish("w1", call, Outcome(Status.OK, b"x" * size, b"headers"))
    small, large = await store.read("s1", None, 10)
    assert (small.aside, large.aside) == (False, True)
    assert large.event.outcome == Outcome(Status.OK, b"x" * 101, b"headers")
    assert not await raw.exists(store.keys.result("small", "w1"))
    assert await raw.exists(store.keys.result("large", "w1"))
    await store.trim("s1", large.id)
    assert not await raw.exists(store.keys.result("large", "w1"))


async def test_a_large_result_that_comes_too_late_replaces_none(make_store: StoreFactory) -> None:
    """Its worker was given up, and the call was run again by another."""
    store = make_store(inline_result_bytes=10)
    call = await started(store, spec(retries=1))
    assert await store.retry("w1", call, 0) == "ok"
    assert await store.requeue(call.id)
    await store.renew("w2", join=True)
    assert await store.claim("w2", LANE, 1) == [call.id]
    assert await store.start("w2", call.id) is not None
    assert await store.finish("w2", call, Outcome(Status.OK, b"second" * 10))

    assert not await store.finish("w1", call, Outcome(Status.OK, b"first" * 10))

    (entry,) = await store.read("s1", None, 10)
    assert entry.event.outcome == Outcome(Status.OK, b"second" * 10)


@pytest.mark.parametrize("size", [9, 10, 11, 30, 31])
async def test_a_large_result_is_read_in_parts(
    make_store: StoreFactory, raw: Any, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """As a whole it would hold up the event loop."""
    monkeypatch.setattr("dash_dispatch.store.PART_BYTES", 10)
    store, body = make_store(inline_result_bytes=5), bytes(range(65, 65 + size))
    call = await started(store, spec())
    await store.finish("w1", call, Outcome(Status.OK, body))
    await raw.config_resetstat()

    (entry,) = await store.read("s1", None, 10)

    assert entry.event.outcome == Outcome(Status.OK, body)
    commands = await raw.info("commandstats")
    assert commands["cmdstat_getrange"]["calls"] == -(-size // 10)


async def test_a_large_result_that_was_not_fetched_in_time(
    make_store: StoreFactory, raw: Any
) -> None:
    store = make_store(inline_result_bytes=10)
    await store.finish("w1", await started(store, spec()), Outcome(Status.OK, b"x" * 20))
    await raw.delete(store.keys.result("c1", "w1"))
    ((_, read, _),) = await store.read("s1", None, 10)
    assert (read.page, read.request, read.call) == ("page", "request c1", "c1")
    assert read.outcome is not None
    assert read.outcome.status is Status.EXPIRED
    assert read.outcome.failure.type == "CallExpired"


async def test_a_discarded_mailbox_is_gone(store: Store, raw: Any) -> None:
    await store.create(spec())
    await store.post("s1", event(1))
    await store.discard("s1")
    assert not await raw.exists(store.keys.mailbox("s1"), store.keys.active("s1"))


async def test_hints_say_whose_mailbox_has_something(store: Store) -> None:
    hints = store.hints()
    heard: list[str | None] = []

    async def listen() -> None:
        async for session, _ in hints.listen():
            heard.append(session)

    task = asyncio.create_task(listen())
    await hints.add("s1")
    await hints.add("s2")
    await eventually(lambda: None in heard, "the listener listens")
    await store.post("s1", event(1))
    await store.post("s3", event(1))
    call = await started(store, spec(session="s2"))
    await store.emit("w1", call, 1, [b"{}"])
    await store.finish("w1", call, OK)
    await eventually(lambda: heard.count("s2") == 2, "hints of the second")
    assert heard == [None, "s1", "s2", "s2"]
    await hints.remove("s2")
    await store.post("s2", event(1))
    await store.post("s1", event(1))
    await eventually(lambda: heard.count("s1") == 2, "hints of the first")
    assert heard == [None, "s1", "s2", "s2", "s1"]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await hints.close()


# --- callbacks of both sides ---------------------------------------------------------------------


async def test_what_each_side_knows(store: Store) -> None:
    assert await store.known_callbacks("web") == set()
    await store.publish_callbacks("web", ["a.children", "b.children"])
    await store.publish_callbacks("worker", ["a.children"])
    assert await store.known_callbacks("web") == {"a.children", "b.children"}
    await store.publish_callbacks("web", [])
    assert await store.known_callbacks("web") == set()
    assert await store.known_callbacks("worker") == {"a.children"}


async def test_the_libraries_told_of_last_are_kept(store: Store, raw: Any) -> None:
    assert await store.libraries() == []
    await store.add_libraries(["first"])
    await raw.zadd(store.keys.libraries, {"first": 1})
    names = [f"library{number:03}" for number in range(LIBRARIES)]
    await store.add_libraries(names)
    assert await store.libraries() == names
    await store.add_libraries(["one_more"])
    assert len(await store.libraries()) == LIBRARIES
    assert "one_more" in await store.libraries()


# --- lifetimes -----------------------------------------------------------------------------------

TIMELESS = {"workers", "running", "capacity", "later", "absent", "swept", "libraries"}
"""Keys of the schema without an end of their own: they empty themselves, or are one for all."""


async def everything(make_store: StoreFactory) -> Store:
    """A store in which something of every kind has happened."""
    store = make_store(inline_result_bytes=10)
    await store.publish_callbacks("web", ["a"])
    await store.publish_callbacks("worker", ["a"])
    await store.add_libraries(["l"])
    await store.overdue()
    await store.absent("gone")
    await store.renew("w1", join=True)
    await store.offer("w1", {LANE: 3})
    named = {name: spec(name, session=name) for name in KINDS}
    shared: dict[str, Any] = {"cache_key": "k", "cache_s": 60.0}
    more: dict[str, dict[str, Any]] = {
        "gated": {"gate": "g", "limit": 3},
        "again": {"retries": 1},
        "meets": {"instance": "i", "overlap": Overlap.LATEST},
        "leads": shared, "follows": shared, "known": shared | {"cache_key": "k2"},
        "told": {"on_start": (b"{}",)}, "ended": {"on_start": (b"{}",)},
    }  # fmt: skip
    for name, call in named.items():
        named[name] = msgspec.structs.replace(call, **more.get(name, {}))
        await store.create(named[name])
    # The second time, it knows the lane's gates.
    for name in [*await store.claim("w1", LANE, 100), *await store.claim("w1", LANE, 100)]:
        if name not in ("waits", "claimed", "cancelled", "told"):
            await store.start("w1", name)
    await store.release("w1", "waits", named["waits"])
    await store.emit("w1", named["runs"], 1, [b"{}"])
    for name in ("leads", "follows", "known"):
        await store.lead("w1", named[name])
    for name in ("ended", "known"):
        await store.finish("w1", named[name], OK)
    await store.finish("w1", named["large"], Outcome(Status.OK, b"x" * 20))
    await store.retry("w1", named["again"], 60)
    await store.lose("lost", "w1")
    await store.cancel("cancelled")
    await store.create(spec("last", session="last"))
    await store.post("posted", event(1))
    return store


KINDS = (
    "waits", "claimed", "runs", "ended", "cancelled", "lost", "large",
    "gated", "again", "meets", "leads", "follows", "known", "told",
)  # fmt: skip


async def test_every_key_has_an_end_or_empties_itself(
    make_store: StoreFactory, raw: Any, make_settings: SettingsFactory
) -> None:
    await everything(make_store)
    namespace = make_settings().namespace
    kinds: dict[str, set[int]] = {}
    async for key in raw.scan_iter(f"{namespace}:*", count=1000):
        kind = key.decode().split(":")[1]
        kinds.setdefault(kind, set()).add(await raw.pttl(key))
    for kind, ends in kinds.items():
        if kind in TIMELESS:
            assert ends == {-1}, kind
        else:
            assert all(end > 0 for end in ends), kind
    schema = set(re.findall(r"^NS:(\w+)", str(Store.__init__.__globals__["__doc__"]), re.MULTILINE))
    assert set(kinds) == schema - {"hint", "control", "health"}, "as drawn in the store's docstring"


async def test_a_queue_that_fills_again_has_an_end_too(store: Store, raw: Any) -> None:
    """One that no worker will serve any more: what comes back to it keeps it no longer."""
    await started(store, spec("c1", retries=1))
    await store.retry("w1", spec("c1"), 0)
    queues = [store.keys.waiting(LANE), store.keys.wake(LANE)]
    await raw.delete(*queues)
    await store.requeue("c1")
    assert all([await raw.pttl(key) > 0 for key in queues])
    await store.claim("w1", LANE, 1)
    await store.release("w1", "c1", spec("c1"))
    assert all([await raw.pttl(key) > 0 for key in queues])


async def test_how_long_things_are_kept(make_store: StoreFactory, raw: Any) -> None:
    store = await everything(make_store)
    expected_s = {
        store.keys.call("waits"): 86_400,
        store.keys.call("runs"): 86_400,
        store.keys.call("ended"): 3600,
        store.keys.call("cancelled"): 3600,
        store.keys.result("large", "w1"): 600,
        store.keys.mailbox("runs"): 3600,
        store.keys.mailbox("ended"): 3600,
        store.keys.mailbox("posted"): 3600,
        store.keys.active("runs"): 86_400,
        store.keys.callbacks("web"): 86_400,
    }
    for key, seconds in expected_s.items():
        left_ms = await raw.pttl(key)
        assert (seconds - 20) * 1000 < left_ms <= seconds * 1000, key


async def test_what_empties_itself_is_empty_at_the_end(store: Store, raw: Any) -> None:
    for n in range(4):
        await store.create(spec(f"c{n}"))
    await store.renew("w1", join=True)
    for name in await store.claim("w1", LANE, 2):
        await store.start("w1", name)
        await store.finish("w1", spec(name), OK)
    for n in range(4):
        await store.cancel(f"c{n}")
    await store.leave("w1")
    left = [store.keys.waiting(LANE), store.keys.workers, store.keys.running("w1")]
    assert await raw.exists(*left, store.keys.active("s1")) == 0


async def test_two_namespaces_never_meet(make_store: StoreFactory) -> None:
    one, other = make_store(namespace="one"), make_store(namespace="other")
    await one.create(spec())
    await one.renew("w1", join=True)
    await one.post("s2", event(1))
    await one.publish_callbacks("web", ["a"])
    assert not await other.cancel("c1")
    assert await other.live_workers() == 0
    assert await other.active("s1") == []
    assert await other.read("s2", None, 10) == []
    assert await other.known_callbacks("web") == set()
    await other.renew("w2", join=True)
    assert await other.claim("w2", LANE, 10) == []
    assert (await other.create(spec())).created, "the same id is another call there"
    assert await other.claim("w2", LANE, 10) == ["c1"]
    assert await other.start("w2", "c1") is not None
    assert await other.finish("w2", spec(), OK)
    assert await one.claim("w1", LANE, 10) == ["c1"]
    assert await one.start("w1", "c1") is not None
    assert await outcomes(one) == []
    assert await one.finish("w1", spec(), OK)


# --- any interleaving ----------------------------------------------------------------------------


LIMIT = 2
KINDS_OF_CALLS: list[dict[str, Any]] = [
    {},
    {"retries": 1},
    {"user": "u", "priority": 1},
    {"gate": "g", "limit": LIMIT},
    {"gate": "g", "limit": LIMIT, "retries": 1, "user": "u"},
    {"instance": "latest", "overlap": Overlap.LATEST, "on_start": (b"{}",)},
    {"instance": "latest gated", "overlap": Overlap.LATEST, "gate": "g", "limit": LIMIT},
    {"instance": "queue", "overlap": Overlap.QUEUE, "retries": 1},
    {"instance": "queue gated", "overlap": Overlap.QUEUE, "gate": "g", "limit": LIMIT},
    {"instance": "drop", "overlap": Overlap.DROP},
    {"cache_key": "kept", "cache_s": 60.0, "gate": "g", "limit": LIMIT},
    {"cache_key": "short", "cache_s": 0.001, "retries": 1},
]

OWN = frozenset({"gate", "instance", "cache_key"})
"""Each machine has its own."""


class Life(RuleBasedStateMachine):
    """Calls of all kinds, two workers and a sweeper, in any order that Hypothesis likes.

    What holds throughout: a call is accepted once, runs in one worker at a time and no more often
    than it may, has at most one outcome, and the one it has is that of whoever was told that it
    was first; what is superseded says nothing any more; a gate lets no more than its limit run.
    At the end: where workers go on working, every call ends, and nothing is left behind.
    """

    settings: Settings
    calls = Bundle("calls")
    workers = st.sampled_from(["w1", "w2"])

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.store = Store(self.settings)
        assert self.settings.redis_url is not None
        self.raw: Any = redis.Redis.from_url(self.settings.redis_url.get_secret_value())
        self.session = f"s{self.raw.incr(f'{self.settings.namespace}:machines')}"
        # Each machine has a lane, workers and calls of its own: what came before is not here.
        self.lane = f"{self.session}:loop"
        self.specs: dict[str, CallSpec] = {}
        self.won: dict[str, str] = {}
        self.attempts: dict[str, int] = {}
        self.runs: dict[str, str] = {}
        """What runs in which worker, as that worker knows it."""
        self.superseded: dict[str, int] = {}
        """With the length of the mailbox at that moment."""

    def run(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    def name(self, worker: str) -> str:
        return f"{self.session}-{worker}"

    def held(self, worker: str) -> set[str]:
        return self.run(held(self.store, self.name(worker)))  # type: ignore[no-any-return]

    def mail(self) -> list[Entry]:
        return self.run(self.store.read(self.session, None, 10_000))  # type: ignore[no-any-return]

    def told_first(self, call: str, status: Status, first: bool) -> None:
        if first:
            assert call not in self.won, f"{call} ended twice"
            self.won[call] = str(status)

    def superseded_now(self, call: str) -> None:
        """It may have been ended as superseded in place of what was asked for."""
        status = self.raw.hget(self.store.keys.call(call), "status")
        if call not in self.won and status == b"superseded":
            assert call in self.superseded
            self.won[call] = "superseded"

    # --- the web's side

    @initialize(
        target=calls,
        kinds=st.lists(st.sampled_from(KINDS_OF_CALLS), min_size=4, max_size=8),
        web_dies=st.booleans(),
    )
    def begin(self, kinds: list[dict[str, Any]], web_dies: bool) -> Any:
        """In the middle: some calls run in each worker, and others wait."""
        for kind in kinds[:-2]:
            self.create(kind, web_dies)
        for worker in ("w1", "w2"):
            self.work(worker)
        for kind in kinds[-2:]:
            self.create(kind, web_dies)
        return multiple(*self.specs)

    @rule(target=calls, kind=st.sampled_from(KINDS_OF_CALLS), web_dies=st.booleans())
    def create(self, kind: dict[str, Any], web_dies: bool) -> Any:
        call = f"{self.session}c{len(self.specs) + 1}"
        own = {name: f"{self.session} {kind[name]}" for name in OWN & kind.keys()}
        made = spec(call, session=self.session, lane=self.lane, **kind | own)
        earlier = [
            name
            for name, other in self.specs.items()
            if made.instance and other.instance == made.instance and name not in self.won
        ]
        length = len(self.mail())
        admission = self.run(self.store.create(made))
        if made.overlap is Overlap.DROP and earlier:
            assert admission == Admission(False, "dropped", "", 0)
            return multiple()
        assert admission.created
        self.specs[call] = made
        if made.overlap is not Overlap.LATEST:
            assert admission.superseded == ()
            return call
        assert set(admission.superseded) == {n for n in earlier if n not in self.superseded}
        for name in admission.superseded:
            self.superseded[name] = length
        if web_dies:
            assert self.run(self.store.create(made)).superseded == admission.superseded
        for name in () if web_dies else admission.superseded:
            first = self.run(self.store.cancel(name, Status.SUPERSEDED))
            assert first
            self.told_first(name, Status.SUPERSEDED, first)
        return call

    @rule(call=calls)
    def create_again(self, call: str) -> None:
        admission = self.run(self.store.create(self.specs[call]))
        assert not admission.created
        assert admission.status in {"queued", "started", self.won.get(call)}

    @rule(call=calls)
    def cancel(self, call: str) -> None:
        self.told_first(call, Status.CANCELLED, self.run(self.store.cancel(call)))
        assert call in self.won, "a cancelled call has ended, whoever was first"

    @rule(call=calls, position=st.integers(1, 3))
    def tell_position(self, call: str, position: int) -> None:
        self.run(self.store.tell_position(self.specs[call], position, [b"{}"]))

    # --- the workers' side

    @rule(worker=workers)
    def join(self, worker: str) -> None:
        self.run(self.store.renew(self.name(worker), join=True))

    @rule(worker=workers, count=st.integers(1, 3))
    def claim(self, worker: str, count: int) -> None:
        for call in self.run(self.store.claim(self.name(worker), self.lane, count)):
            assert call not in self.won, "an ended call waits for nobody"
            assert call not in self.runs

    @rule(worker=workers)
    def work(self, worker: str) -> None:
        """As it goes where nothing happens."""
        self.join(worker)
        self.claim(worker, 2)
        for call in self.held(worker):
            self.start(worker, call)

    @rule(worker=workers, call=calls)
    def start(self, worker: str, call: str) -> None:
        if call in self.won and self.runs.get(call) == worker:
            # It runs this, and has yet to stop it.
            return
        self.started(worker, call, self.run(self.store.start(self.name(worker), call)))

    @rule(worker=workers, in_turn=st.booleans())
    def take(self, worker: str, in_turn: bool) -> None:
        if not self.raw.exists(self.store.keys.wake(self.lane)):
            return
        wake = self.run(self.store.wait_for_work([self.lane], 5))
        assert wake is not None
        found = self.run(self.store.take(self.name(worker), wake, in_turn=in_turn))
        if found != "more":
            self.started(worker, wake.call, found)

    def started(self, worker: str, call: str, found: Claimed | None) -> None:
        if found is None:
            return
        assert call not in self.won
        if call not in self.runs:
            self.attempts[call] = self.attempts.get(call, 0) + 1
            self.runs[call] = worker
        assert found == Claimed(self.specs[call], self.attempts[call])
        assert self.attempts[call] <= self.specs[call].retries + 1
        assert self.runs[call] == worker, "a call runs in one worker"
        self.check_queue(call)

    def check_queue(self, call: str) -> None:
        if self.specs[call].overlap is Overlap.QUEUE:
            for other in self.specs:
                if other == call:
                    break
                same = self.specs[other].instance == self.specs[call].instance
                assert not same or other in self.won, "one after another"

    @rule(worker=workers, call=calls)
    def start_unheard(self, worker: str, call: str) -> None:
        """The reply is lost, and the heartbeat finds a call that nobody here knows."""
        if call in self.runs:
            return
        name = self.name(worker)
        found = self.run(self.store.start(name, call))
        if found is not None:
            assert self.run(self.store.hand_back(name, call, found.spec))

    @rule(call=calls)
    def ask_who_leads(self, call: str) -> None:
        if call in self.runs:
            self.lead(self.runs[call], call)

    def lead(self, worker: str, call: str) -> None:
        asked = self.specs[call]
        if asked.cache_key and self.runs.get(call) == worker:
            found = self.run(self.store.lead(self.name(worker), asked))
            if isinstance(found, Outcome):
                self.finish(worker, call, found.status)
            elif found == "follow":
                del self.runs[call]
                self.attempts[call] -= 1
            elif found == "late":
                self.forget(worker, call)

    @rule(call=calls)
    def comes_to_its_end(self, call: str) -> None:
        if call in self.runs:
            self.finish(self.runs[call], call, Status.OK)

    @rule(worker=workers, call=calls, status=st.sampled_from([Status.OK, Status.FAILED]))
    def finish(self, worker: str, call: str, status: Status) -> None:
        outcome = Outcome(status, b"{}")
        mine = self.runs.get(call) == worker
        first = self.run(self.store.finish(self.name(worker), self.specs[call], outcome))
        assert not first or mine
        if mine:
            del self.runs[call]
        self.superseded_now(call)
        self.told_first(call, status, first)
        assert not mine or call in self.won

    @rule(worker=workers, call=calls, own=st.booleans())
    def retry(self, worker: str, call: str, own: bool) -> None:
        worker = self.runs.get(call, worker) if own else worker
        mine = self.runs.get(call) == worker
        word = self.run(self.store.retry(self.name(worker), self.specs[call], 0))
        if word == "ok":
            assert mine
            assert self.attempts[call] <= self.specs[call].retries
            del self.runs[call]

    @rule(call=calls)
    def requeue(self, call: str) -> None:
        self.run(self.store.requeue(call))

    @rule(worker=workers, call=calls, number=st.integers(1, 3), own=st.booleans())
    def emit(self, worker: str, call: str, number: int, own: bool) -> None:
        worker = self.runs.get(call, worker) if own else worker
        updates = [b"{}", b"{}"]
        mine = self.run(self.store.emit(self.name(worker), self.specs[call], number, updates))
        assert not mine or (call not in self.won and self.runs.get(call) == worker)

    @rule(worker=workers, call=calls)
    def release(self, worker: str, call: str) -> None:
        if call in self.won and self.runs.get(call) == worker:
            # Before its death, nobody else gives that back.
            return
        self.run(self.store.release(self.name(worker), call, self.specs[call]))

    @rule(worker=workers, call=calls)
    def forget(self, worker: str, call: str) -> None:
        """As soon as its worker has stopped what has ended."""
        if call in self.won:
            self.run(self.store.forget(self.name(worker), call))
            if self.runs.get(call) == worker:
                del self.runs[call]

    # --- deaths

    @rule(worker=workers)
    def die_and_be_swept(self, worker: str) -> None:
        name = self.name(worker)
        self.raw.zadd(self.store.keys.workers, {name: 1})
        # Nobody has looked just now, nor been away for long.
        self.raw.delete(self.store.keys.sweeper, self.store.keys.swept)
        ran = {call for call, where in self.runs.items() if where == worker}
        self.run(Sweeper(self.store, self.settings).sweep())
        assert self.held(worker) == set()
        for call in ran:
            del self.runs[call]
            again = self.attempts[call] <= self.specs[call].retries
            if call in self.superseded:
                self.superseded_now(call)
            elif call not in self.won and not again:
                self.won[call] = "worker_lost"

    @rule(call=calls, worker=workers)
    def a_late_sweeper(self, call: str, worker: str) -> None:
        mine = self.runs.get(call) == worker and call not in self.won
        first = self.run(self.store.lose(call, self.name(worker)))
        assert not first or mine
        self.superseded_now(call)
        self.told_first(call, Status.WORKER_LOST, first)
        if mine:
            del self.runs[call]

    # --- what holds throughout

    @invariant()
    def one_outcome_each(self) -> None:
        ends = {}
        for number, entry in enumerate(self.mail()):
            call, outcome = entry.event.call, entry.event.outcome
            assert call not in ends, "two outcomes, or an update behind it"
            if outcome is not None:
                ends[call] = str(outcome.status)
            if number >= self.superseded.get(call, number + 1):
                assert outcome is not None, "a superseded call says something"
                assert outcome.status in SILENT
                assert outcome.body == b""
        assert ends == self.won
        active = {call.id for call in self.run(self.store.active(self.session))}
        assert active == self.specs.keys() - ends.keys(), "no call is lost"

    @invariant()
    def no_more_than_the_limit(self) -> None:
        gate = f"{self.session} g"
        slots = {call.decode() for call in self.raw.zrange(self.store.keys.slots(gate), 0, -1)}
        assert len(slots) <= LIMIT
        gated = {call for call, made in self.specs.items() if made.gate}
        assert self.runs.keys() & gated <= slots
        assert slots <= self.held("w1") | self.held("w2"), "a slot of nobody"

    @invariant()
    def nobody_hangs(self) -> None:
        """A call that has not ended waits for something, or is in the hands of a worker."""
        keys = self.store.keys
        waits = {*self.raw.zrange(keys.later, 0, -1)}
        for made in self.specs.values():
            waits |= {*self.raw.zrange(keys.waiting(made.lane, made.gate), 0, -1)}
            behind = self.raw.lrange(keys.instance(made.instance), 1, -1)
            behind += self.raw.smembers(keys.followers(made.cache_key))
            waits |= {item.partition(b":")[0] for item in behind}
        well = {call.decode() for call in waits} | self.held("w1") | self.held("w2")
        assert self.specs.keys() - self.won.keys() <= well

    def teardown(self) -> None:
        try:
            self.drain()
        finally:
            self.run(self.store.close())
            self.loop.close()
            self.raw.close()

    def drain(self) -> None:
        """Workers that go on working come to an end."""
        for _ in range(4 * len(self.specs) + 4):
            for worker in ("w1", "w2"):
                self.join(worker)
                self.claim(worker, 3)
                for call in self.held(worker):
                    self.start(worker, call)
                    self.lead(worker, call)
                    if self.runs.get(call) == worker:
                        self.finish(worker, call, Status.OK)
            for call in self.specs:
                self.requeue(call)
        self.one_outcome_each()
        assert self.won.keys() == self.specs.keys(), "every call ends"
        assert self.runs == {}
        assert self.left_behind() == []

    def left_behind(self) -> list[str]:
        """Keys of this machine that should have emptied themselves."""
        keys = self.store.keys
        names = [keys.running(self.name(worker)) for worker in ("w1", "w2")]
        for made in self.specs.values():
            names += [keys.waiting(made.lane, made.gate), keys.slots(made.gate)]
            names += [keys.instance(made.instance), keys.active(made.session)]
            names += [keys.flight(made.cache_key), keys.followers(made.cache_key)]
        left = [name for name in set(names) if self.raw.exists(name)]
        return left + [c for c in self.specs if self.raw.zscore(keys.later, c) is not None]


@pytest.fixture
def life(make_settings: SettingsFactory) -> type[Life]:
    class Here(Life):
        settings = make_settings()

    return Here


@pytest.mark.timeout(240)
def test_a_call_has_exactly_one_outcome_whatever_happens(life: type[Life]) -> None:
    run_state_machine_as_test(
        life,
        settings=hypothesis.settings(
            max_examples=30,
            stateful_step_count=30,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(hypothesis.HealthCheck),
        ),
    )


def test_the_store_needs_an_address(redis_server: RedisServer) -> None:
    with pytest.raises(ValueError, match="redis_url"):
        Store(Settings.read(redis_url=None))


def test_entries_are_plain_values() -> None:
    assert msgspec.to_builtins(Entry("1-0", event(1), False)._asdict())["id"] == "1-0"
