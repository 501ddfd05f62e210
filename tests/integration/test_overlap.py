"""What a new run of a callback instance does to an earlier one, over a real Redis."""

from typing import Any

import pytest

from dash_dispatch.protocol import CallSpec, Outcome, Overlap, Status
from dash_dispatch.store import Admission, Store
from dash_dispatch.sweeper import Sweeper
from tests.integration.conftest import SettingsFactory
from tests.integration.test_store import LANE, OK, end_lease, held, outcomes, spec, started


def run_of(call: str, overlap: Overlap, instance: str = "i", **more: Any) -> CallSpec:
    return spec(call, instance=instance, overlap=overlap, **more)


async def claimed(store: Store, count: int = 10) -> list[str]:
    """What a worker gets now; it starts nothing of it."""
    await store.renew("w1", join=True)
    return await store.claim("w1", LANE, count)


async def props(store: Store) -> list[bytes]:
    return [entry.event.props for entry in await store.read("s1", None, 100) if entry.event.props]


# --- latest --------------------------------------------------------------------------------------


async def test_a_newer_run_supersedes_the_earlier_ones(store: Store) -> None:
    for name in ("c1", "c2"):
        await store.create(run_of(name, Overlap.PARALLEL))
    assert (await store.create(run_of("c3", Overlap.LATEST))).superseded == ()
    assert (await store.create(run_of("c4", Overlap.LATEST))).superseded == ("c3",)
    assert (await store.create(run_of("c5", Overlap.LATEST))).superseded == ("c4",)


async def test_a_superseded_run_leaves_the_queue(store: Store) -> None:
    await store.create(run_of("c1", Overlap.LATEST))
    for earlier in (await store.create(run_of("c2", Overlap.LATEST))).superseded:
        assert await store.cancel(earlier, Status.SUPERSEDED)
    assert await claimed(store) == ["c2"]
    assert await outcomes(store) == [("c1", "superseded")]


async def test_a_run_that_has_ended_is_not_superseded(store: Store) -> None:
    await store.finish("w1", await started(store, run_of("c1", Overlap.LATEST)), OK)
    assert (await store.create(run_of("c2", Overlap.LATEST))).superseded == ()


async def test_a_superseded_run_says_nothing_when_nobody_lived_to_end_it(store: Store) -> None:
    """The web process died between the acceptance of the newer run and the end of the older."""
    first = await started(store, run_of("c1", Overlap.LATEST))
    assert await store.emit("w1", first, 1, [b"shown"])
    assert (await store.create(run_of("c2", Overlap.LATEST))).superseded == ("c1",)
    assert not await store.emit("w1", first, 2, [b"stale"])
    outcome = Outcome(Status.OK, b"stale", b"cookies")
    assert not await store.finish("w1", first, outcome)
    assert await outcomes(store) == [("c1", "superseded")]
    assert await props(store) == [b"shown"]
    (end,) = [e.event.outcome for e in await store.read("s1", None, 10) if e.event.outcome]
    assert end == Outcome(Status.SUPERSEDED), "its result is nowhere"


async def test_nor_when_the_newer_run_has_ended_already(store: Store) -> None:
    first = await started(store, run_of("c1", Overlap.LATEST))
    second = await started(store, run_of("c2", Overlap.LATEST), "w2")
    assert await store.finish("w2", second, OK)
    assert not await store.emit("w1", first, 1, [b"stale"])
    assert not await store.finish("w1", first, OK)
    assert await outcomes(store) == [("c2", "ok"), ("c1", "superseded")]


async def test_nor_a_large_result(store: Store) -> None:
    first = await started(store, run_of("c1", Overlap.LATEST))
    await store.create(run_of("c2", Overlap.LATEST))
    await store.finish("w1", first, Outcome(Status.OK, b"x" * 100_000))
    (entry,) = await store.read("s1", None, 10)
    assert not entry.aside
    assert entry.event.outcome == Outcome(Status.SUPERSEDED)


async def test_nor_that_it_was_lost(store: Store) -> None:
    first = await started(store, run_of("c1", Overlap.LATEST, retries=3))
    await store.create(run_of("c2", Overlap.LATEST))
    assert await store.retry("w1", first, 0) == "spent", "it is not run again, either"
    assert not await store.lose("c1", "w1")
    assert await outcomes(store) == [("c1", "superseded")], "no error is shown"


@pytest.mark.parametrize("status", [Status.SUPERSEDED, Status.CANCELLED])
async def test_nor_where_it_was_in_the_queue(store: Store, status: Status) -> None:
    asked = run_of("c1", Overlap.LATEST, on_start=(b"starts",))
    await store.create(asked)
    await store.create(run_of("c2", Overlap.LATEST))
    assert not await store.tell_position(asked, 1, [b"position"])
    assert await store.cancel("c1", status)
    assert await props(store) == [], "what its start shows is the newer run's to show"


async def test_a_web_process_that_is_asked_again_is_told_again(store: Store) -> None:
    """The browser sends its request again when the process that had it has died."""
    await store.create(run_of("c1", Overlap.LATEST))
    await store.create(run_of("c2", Overlap.LATEST))
    again = await store.create(run_of("c2", Overlap.LATEST))
    assert again == Admission(False, "queued", "s1", 0, ("c1",))


@pytest.mark.parametrize("overlap", [Overlap.LATEST, Overlap.QUEUE, Overlap.DROP])
async def test_other_instances_do_not_meet(store: Store, overlap: Overlap) -> None:
    """Another page, or other MATCH values: another instance."""
    for n in range(3):
        admission = await store.create(run_of(f"c{n}", overlap, f"i{n}"))
        assert (admission.created, admission.superseded) == (True, ())
    assert await claimed(store) == ["c0", "c1", "c2"]
    for n in range(3):
        assert await store.start("w1", f"c{n}") is not None
        assert await store.emit("w1", run_of(f"c{n}", overlap, f"i{n}"), 1, [b"{}"])
        assert await store.finish("w1", run_of(f"c{n}", overlap, f"i{n}"), OK)


async def test_calls_without_an_instance_never_meet(store: Store) -> None:
    for n in range(3):
        assert (await store.create(run_of(f"c{n}", Overlap.LATEST, ""))).superseded == ()
    assert await claimed(store) == ["c0", "c1", "c2"]


# --- parallel ------------------------------------------------------------------------------------


async def test_parallel_runs_are_all_shown(store: Store) -> None:
    calls = [run_of(f"c{n}", Overlap.PARALLEL) for n in range(3)]
    for call in calls:
        assert (await store.create(call)).superseded == ()
    assert await claimed(store) == ["c0", "c1", "c2"]
    for call in reversed(calls):
        await store.start("w1", call.id)
        assert await store.finish("w1", call, OK)
    assert await outcomes(store) == [("c2", "ok"), ("c1", "ok"), ("c0", "ok")]


# --- queue ---------------------------------------------------------------------------------------


async def line_up(store: Store, count: int = 3, **more: Any) -> list[CallSpec]:
    calls = [run_of(f"c{n}", Overlap.QUEUE, **more) for n in range(count)]
    for call in calls:
        assert (await store.create(call)).superseded == ()
    return calls


async def test_queued_runs_come_one_after_another(store: Store) -> None:
    for call in await line_up(store):
        assert await claimed(store) == [call.id], "one at a time"
        await store.start("w1", call.id)
        assert await store.finish("w1", call, OK)
    assert await outcomes(store) == [("c0", "ok"), ("c1", "ok"), ("c2", "ok")]


async def test_the_next_one_wakes_a_worker(store: Store) -> None:
    first, second = await line_up(store, 2)
    await claimed(store)
    await store.start("w1", first.id)
    assert await store.wait_for_work([LANE], 0.05) is None
    await store.finish("w1", first, OK)
    wake = await store.wait_for_work([LANE], 5)
    assert wake is not None
    found = await store.take("w1", wake)
    assert not isinstance(found, str)
    assert found is not None
    assert found.spec == second


async def test_the_first_is_cancelled(store: Store) -> None:
    await line_up(store)
    assert await store.cancel("c0")
    assert await claimed(store) == ["c1"]


async def test_the_first_is_cancelled_while_it_runs(store: Store) -> None:
    first = (await line_up(store))[0]
    await claimed(store)
    await store.start("w1", "c0")
    assert await store.cancel("c0")
    assert await claimed(store) == ["c1"]
    assert not await store.finish("w1", first, OK)
    assert await claimed(store) == [], "it does not let another one go as well"


async def test_one_behind_is_cancelled(store: Store) -> None:
    calls = await line_up(store, 4)
    assert await store.cancel("c1")
    assert await claimed(store) == ["c0"]
    await store.start("w1", "c0")
    assert await store.cancel("c2")
    assert await claimed(store) == []
    await store.finish("w1", calls[0], OK)
    assert await claimed(store) == ["c3"]


async def test_the_worker_of_the_first_is_lost(
    store: Store, make_settings: SettingsFactory, raw: Any
) -> None:
    await line_up(store)
    await store.renew("dies", join=True)
    assert await store.claim("dies", LANE, 9) == ["c0"]
    await store.start("dies", "c0")
    await end_lease(store, raw, "dies")
    assert await Sweeper(store, make_settings()).sweep() == 1
    assert await outcomes(store) == [("c0", "worker_lost")]
    assert await claimed(store) == ["c1"]


async def test_the_first_is_retried_before_the_next_one_runs(store: Store) -> None:
    first = (await line_up(store, retries=1))[0]
    await claimed(store)
    await store.start("w1", "c0")
    assert await store.retry("w1", first, 0) == "ok"
    assert await claimed(store) == []
    assert await store.requeue("c0")
    assert await claimed(store) == ["c0"]


async def test_how_many_come_before_it(store: Store) -> None:
    await store.create(spec("other"))
    places = [(await store.create(run_of(f"c{n}", Overlap.QUEUE))).position for n in range(3)]
    assert places == [1, 3, 4]


async def test_nothing_is_left_of_an_instance(store: Store, raw: Any) -> None:
    for call in await line_up(store):
        await claimed(store)
        await store.start("w1", call.id)
        await store.finish("w1", call, OK)
    assert not await raw.exists(store.keys.instance("i"), store.keys.waiting(LANE))
    assert await held(store) == set()


async def test_a_release_that_queues_behind_one_that_superseded(store: Store) -> None:
    """While web processes are replaced, runs of one instance may differ in what they do."""
    first = await started(store, run_of("c1", Overlap.LATEST))
    await store.create(run_of("c2", Overlap.QUEUE))
    assert await claimed(store) == []
    await store.finish("w1", first, OK)
    assert await claimed(store) == ["c2"]


# --- drop ----------------------------------------------------------------------------------------


async def test_a_run_beside_another_is_dropped(store: Store, raw: Any) -> None:
    first = run_of("c1", Overlap.DROP)
    assert (await store.create(first)).created
    assert await store.create(run_of("c2", Overlap.DROP)) == Admission(False, "dropped", "", 0)
    assert not await raw.exists(store.keys.call("c2"))
    await started(store, first)
    assert (await store.create(run_of("c3", Overlap.DROP))).status == "dropped"
    assert (await store.create(first)).status == "started", "a repeated request is the same call"
    await store.finish("w1", first, OK)
    assert (await store.create(run_of("c4", Overlap.DROP))).created
    assert await store.cancel("c4")
    assert (await store.create(run_of("c5", Overlap.DROP))).created
