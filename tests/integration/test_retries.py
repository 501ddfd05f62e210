"""Calls that are run again: after an exception, and after the loss of their worker."""

import asyncio
from typing import Any

import pytest
from dash import Input, Output, html, set_props
from dash.exceptions import PreventUpdate

from dash_dispatch import Dash, Settings, bridge, ctx
from dash_dispatch.execution import Execution
from dash_dispatch.protocol import Executor, Overlap, Status
from dash_dispatch.store import Claimed, Store
from dash_dispatch.sweeper import Sweeper
from tests.integration.conftest import SettingsFactory, StoreFactory
from tests.integration.test_store import (
    LANE,
    OK,
    end_lease,
    held,
    mailed,
    outcomes,
    spec,
    started,
)
from tests.integration.worker import Worker, asked
from tests.integration.worker import outcomes as outcomes_of
from tests.stack import eventually

SOON_S = 0.001


async def claim(store: Store, worker: str = "w1") -> list[str]:
    await store.renew(worker, join=True)
    return await store.claim(worker, LANE, 10)


# --- in the store --------------------------------------------------------------------------------


async def test_a_call_is_run_as_often_as_it_may(store: Store, raw: Any) -> None:
    call = await started(store, spec(retries=2))
    for attempt in (2, 3):
        assert await store.retry("w1", call, 60) == "ok"
        assert await claim(store) == [], "it has a pause to wait for"
        assert await held(store) == set()
        assert await store.requeue("c1")
        assert await claim(store) == ["c1"]
        assert await store.start("w1", "c1") == Claimed(call, attempt)
    assert await store.retry("w1", call, 60) == "spent"
    assert await outcomes(store) == [], "its last run says how it ended"
    assert await store.finish("w1", call, OK)
    assert not await raw.exists(store.keys.later)


async def test_a_call_without_retries_is_run_once(store: Store) -> None:
    assert await store.retry("w1", await started(store, spec()), 0) == "spent"


async def test_only_the_one_who_runs_it_may_put_it_off(store: Store) -> None:
    call = spec(retries=5)
    assert await store.retry("w1", call, 0) == "late"
    await store.create(call)
    assert await store.retry("w1", call, 0) == "late"
    await started(store, call)
    assert await store.retry("w2", call, 0) == "late"
    assert await store.cancel("c1")
    assert await store.retry("w1", call, 0) == "late"


async def test_it_is_put_into_the_queue_once(store: Store) -> None:
    """Its worker has a timer, and sweepers look as well."""
    call = await started(store, spec(retries=1))
    await store.retry("w1", call, 0)
    assert await store.requeue("c1")
    assert not await store.requeue("c1")
    assert await claim(store) == ["c1"]
    assert not await store.requeue("c1")
    assert await claim(store) == []


async def test_the_updates_of_the_second_run_count_anew(store: Store) -> None:
    call = await started(store, spec(retries=1))
    await store.emit("w1", call, 1, [b"1", b"2"])
    await store.retry("w1", call, 0)
    await store.requeue("c1")
    assert not await store.emit("w1", call, 3, [b"late"])
    await claim(store)
    await store.start("w1", "c1")
    assert await store.emit("w1", call, 1, [b"again"])
    props = [entry.event.props for entry in await store.read("s1", None, 10)]
    assert props == [b"1", b"2", b"again"]


async def test_the_first_worker_has_nothing_to_say_any_more(store: Store) -> None:
    call = await started(store, spec(retries=1))
    await store.retry("w1", call, 0)
    await store.requeue("c1")
    assert await claim(store, "w2") == ["c1"]
    assert await store.start("w2", "c1") == Claimed(call, 2)
    assert not await store.finish("w1", call, OK)
    assert await store.finish("w2", call, OK)
    assert await outcomes(store) == [("c1", "ok")]


async def test_a_sweeper_takes_over_when_the_worker_is_gone(
    store: Store, make_settings: SettingsFactory, raw: Any
) -> None:
    """The timer for the retry died with its worker."""
    sweeper = Sweeper(store, make_settings())
    await store.retry("w1", await started(store, spec("due", retries=1)), 0)
    await store.retry("w1", await started(store, spec("later", retries=1)), 60)
    assert await sweeper.sweep() == 1
    assert await claim(store) == ["due"]
    await raw.zadd(store.keys.later, {"vanished": 1})
    await raw.delete(store.keys.sweeper)
    assert await sweeper.sweep() == 0
    assert await raw.zrange(store.keys.later, 0, -1) == [b"later"]


@pytest.mark.parametrize("status", [Status.CANCELLED, Status.SUPERSEDED])
async def test_it_is_ended_while_it_waits(store: Store, raw: Any, status: Status) -> None:
    call = await started(store, spec(retries=1, instance="i", overlap=Overlap.LATEST))
    await store.retry("w1", call, 0)
    if status is Status.SUPERSEDED:
        newer = spec("c2", instance="i", overlap=Overlap.LATEST)
        assert (await store.create(newer)).superseded == ("c1",)
    assert await store.cancel("c1", status)
    assert not await raw.exists(store.keys.later)
    assert not await store.requeue("c1")
    assert "c1" not in await claim(store)
    assert await outcomes(store) == [("c1", str(status))]


async def test_the_loss_of_a_worker_counts_as_a_run(
    store: Store, make_settings: SettingsFactory, raw: Any
) -> None:
    """A call that kills whatever runs it comes to an end."""
    sweeper = Sweeper(store, make_settings())
    call = spec(retries=1, backoff_s=SOON_S)
    await store.create(call)
    for attempt in (1, 2):
        assert await claim(store, f"w{attempt}") == ["c1"]
        assert await store.start(f"w{attempt}", "c1") == Claimed(call, attempt)
        await end_lease(store, raw, f"w{attempt}")
        assert await sweeper.sweep() == 1
        assert await held(store, f"w{attempt}") == set()
        await store.requeue("c1")
    assert await outcomes(store) == [("c1", "worker_lost")]


async def test_the_loss_before_the_start_does_not(
    store: Store, make_settings: SettingsFactory, raw: Any
) -> None:
    call = spec(retries=0)
    await store.create(call)
    for n in range(3):
        assert await claim(store, f"w{n}") == ["c1"]
        await end_lease(store, raw, f"w{n}")
        assert await Sweeper(store, make_settings()).sweep() == 1
    assert await claim(store) == ["c1"]
    assert await store.start("w1", "c1") == Claimed(call, 1)


# --- in a worker ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def app() -> Dash:
    made = Dash("retries", dispatch_settings=Settings(redis_url=None))
    made.layout = html.Div()

    def offloaded(function: Any) -> Any:
        return made.callback(
            Output(function.__name__, "children"), Input("in", "value"), offload=True
        )(function)

    @offloaded
    async def fails_until(value: int) -> str:
        set_props("attempt", {"children": ctx.attempt})
        if ctx.attempt < value:
            raise ValueError(ctx.attempt)
        return f"attempt {ctx.attempt}"

    @offloaded
    async def sleeps(value: Any) -> None:
        await asyncio.sleep(60)

    @offloaded
    async def large(value: int) -> str:
        return "x" * value

    @offloaded
    async def prevents(value: Any) -> None:
        raise PreventUpdate

    bridge.ready(made)
    return made


async def test_a_failing_callback_is_run_again(
    app: Dash, store: Store, make_settings: SettingsFactory
) -> None:
    call = asked("fails_until", 3, retries=5, backoff_s=SOON_S)
    async with Worker(app, store, make_settings()):
        await store.create(call)
        outcome = (await outcomes_of(store, 1, others=3))[call.id]
    assert outcome.status is Status.OK
    assert b"attempt 3" in outcome.body
    updates = [e.event.props for e in await store.read("s", None, 10) if e.event.props]
    assert [b'"children":%d' % n in update for n, update in enumerate(updates, 1)] == [True] * 3


async def test_the_last_run_says_what_is_wrong(
    app: Dash, store: Store, make_settings: SettingsFactory, raw: Any
) -> None:
    call = asked("fails_until", 99, retries=2, backoff_s=SOON_S)
    async with Worker(app, store, make_settings()):
        await store.create(call)
        outcome = (await outcomes_of(store, 1, others=3))[call.id]
    assert outcome.status is Status.FAILED
    assert outcome.failure.message == "3"
    assert await raw.hget(store.keys.call(call.id), "attempt") == b"3"


@pytest.mark.parametrize(
    ("name", "value", "limits", "status"),
    [
        ("sleeps", 0, {"timeout_s": 0.05}, Status.TIMED_OUT),
        ("large", 5000, {}, Status.FAILED),
        ("prevents", 0, {}, Status.NO_UPDATE),
    ],
)
async def test_what_another_run_would_not_change_is_not_run_again(
    app: Dash, make_store: StoreFactory, make_settings: SettingsFactory, raw: Any,
    name: str, value: int, limits: dict[str, float], status: Status,
) -> None:  # fmt: skip
    store = make_store()
    call = asked(name, value, retries=3, backoff_s=SOON_S, **limits)
    async with Worker(app, store, make_settings(max_result_bytes=1024)):
        await store.create(call)
        outcome = (await outcomes_of(store, 1))[call.id]
    assert outcome.status is status
    assert await raw.hget(store.keys.call(call.id), "attempt") == b"1"


async def test_a_cancelled_call_is_not_run_again(
    app: Dash, store: Store, make_settings: SettingsFactory, raw: Any
) -> None:
    call = asked("sleeps", retries=3, backoff_s=SOON_S)
    async with Worker(app, store, make_settings()) as worker:
        await store.create(call)
        await eventually(lambda: worker.execution.running, "it runs")
        assert await store.cancel(call.id)
        worker.execution.cancel(call.id)
        await eventually(lambda: not worker.execution.running, "it has stopped")
        assert (await outcomes_of(store, 1))[call.id].status is Status.CANCELLED
    assert not await raw.exists(store.keys.later)
    assert await raw.hget(store.keys.call(call.id), "attempt") == b"1"


async def test_a_call_of_a_worker_that_stops_is_run_elsewhere(
    app: Dash, store: Store, make_settings: SettingsFactory, raw: Any
) -> None:
    call = asked("sleeps", retries=1, backoff_s=60.0)
    claimed = Claimed(await started(store, call), 1)
    execution: Execution = Worker(app, store, make_settings()).execution
    running = asyncio.create_task(execution.run(claimed, Executor.LOOP))
    await eventually(lambda: execution.running, "it runs")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await execution.close()
    assert await mailed(store, "s", 0) == []
    assert await raw.zscore(store.keys.later, call.id) is not None
    assert await store.requeue(call.id)
    assert await claim(store, "w2") == [call.id]
