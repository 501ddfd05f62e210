"""A worker gets ready for a call while it asks for it; the user's own code waits for the answer."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Literal

import orjson
import pytest
from dash import Input, Output, html

from dash_dispatch import Dash, Settings, bridge
from dash_dispatch import ctx as dispatch_ctx
from dash_dispatch.protocol import CallSpec, Executor, Outcome, Status, encode_spec, lane
from dash_dispatch.store import TOLD_BYTES, Claimed, Store, Wake
from tests.integration.conftest import SettingsFactory
from tests.integration.test_multiplexer import eventually_blocked
from tests.integration.test_store import LANE
from tests.integration.worker import Worker, asked, outcomes
from tests.stack import eventually

EXECUTORS = [Executor.LOOP, Executor.THREAD]

Found = Claimed | Literal["more"] | None


class Site:
    """An app whose callbacks note that they have run."""

    def __init__(self) -> None:
        self.ran: list[Any] = []
        self.app = Dash("readiness", dispatch_settings=Settings(redis_url=None))
        self.app.layout = html.Div()

        @self.app.callback(Output("loop", "children"), Input("in", "value"), offload=True)
        async def on_loop(value: Any) -> Any:
            self.ran.append(value)
            return dispatch_ctx.attempt

        @self.app.callback(Output("thread", "children"), Input("in", "value"), offload=True)
        def in_thread(value: Any) -> Any:
            self.ran.append(value)
            return dispatch_ctx.attempt

        bridge.ready(self.app)


@pytest.fixture
def site() -> Site:
    return Site()


def call_for(executor: Executor, value: Any = None, **more: Any) -> CallSpec:
    return asked(str(executor), value, lane=lane("default", executor), **more)


class HeldBack:
    """The answer to a worker's claim, which comes when it is let go."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked = asyncio.Event()
        self._go = asyncio.Event()
        self._take: Callable[..., Any] = store.take
        monkeypatch.setattr(store, "take", self._held)

    async def _held(self, worker: str, wake: Wake, **more: Any) -> Found:
        found: Found = await self._take(worker, wake, **more)
        self.asked.set()
        await self._go.wait()
        return found

    def let_go(self) -> None:
        self._go.set()


def attempt_of(outcome: Outcome, executor: Executor) -> Any:
    assert outcome.status is Status.OK, outcome
    return orjson.loads(outcome.body)["response"][str(executor)]["children"]


@pytest.mark.parametrize("executor", EXECUTORS)
async def test_ready_before_the_answer_and_run_after_it(
    site: Site,
    store: Store,
    make_settings: SettingsFactory,
    raw: Any,
    monkeypatch: pytest.MonkeyPatch,
    executor: Executor,
) -> None:
    bound: list[str] = []
    bind = bridge.bind_call

    def binding(app: Any, spec: CallSpec, *more: Any) -> bridge.Invocation:
        bound.append(spec.id)
        return bind(app, spec, *more)

    monkeypatch.setattr(bridge, "bind_call", binding)
    held = HeldBack(store, monkeypatch)
    call = call_for(executor, "x")
    async with Worker(site.app, store, make_settings(), executor=executor) as worker:
        await eventually_blocked(raw)
        await store.create(call)
        await held.asked.wait()
        await eventually(lambda: bound == [call.id], "it is ready")
        assert site.ran == []
        assert worker.execution.running == set()
        held.let_go()
        assert attempt_of((await outcomes(store, 1))[call.id], executor) == 1
    assert bound == [call.id], "once"
    assert site.ran == ["x"]


@pytest.mark.parametrize("executor", EXECUTORS)
async def test_what_is_not_its_own_is_not_run(
    site: Site,
    store: Store,
    make_settings: SettingsFactory,
    raw: Any,
    caplog: pytest.LogCaptureFixture,
    executor: Executor,
) -> None:
    """Its wake-up was on its way when it was cancelled."""
    caplog.set_level(logging.INFO)
    call, other = call_for(executor, "cancelled"), call_for(executor, "other")
    await store.create(call)
    assert await store.cancel(call.id)
    async with Worker(site.app, store, make_settings(), executor=executor):
        await eventually_blocked(raw)
        await raw.lpush(store.keys.wake(call.lane), encode_spec(call))
        await eventually(lambda: f"⊘ {call.id} does not run here" in caplog.text, "it is told")
        await store.create(other)
        assert (await outcomes(store, 2))[call.id].status is Status.CANCELLED
    assert site.ran == ["other"]


@pytest.mark.parametrize("executor", EXECUTORS)
async def test_a_worker_that_stops_before_the_answer_runs_nothing(
    site: Site,
    store: Store,
    make_settings: SettingsFactory,
    raw: Any,
    monkeypatch: pytest.MonkeyPatch,
    executor: Executor,
) -> None:
    held = HeldBack(store, monkeypatch)
    call = call_for(executor)
    async with Worker(site.app, store, make_settings(), executor=executor):
        await eventually_blocked(raw)
        await store.create(call)
        await held.asked.wait()
    assert site.ran == []
    assert [found for found, _, _ in await store.claimed_by("w1")] == [call.id]
    left = [task.get_name() for task in asyncio.all_tasks()]
    assert f"run {call.id}" not in left


async def test_what_is_ready_and_never_told_to_run_ends_with_its_worker(
    site: Site, store: Store, make_settings: SettingsFactory
) -> None:
    call = call_for(Executor.LOOP)
    async with Worker(site.app, store, make_settings()) as worker:
        worker.execution.prepare(call, Executor.LOOP)
    assert not any(task.get_name() == f"run {call.id}" for task in asyncio.all_tasks())
    assert site.ran == []


@pytest.mark.parametrize("executor", EXECUTORS)
async def test_an_old_wake_up_of_what_is_run_again(
    site: Site, store: Store, make_settings: SettingsFactory, raw: Any, executor: Executor
) -> None:
    """It says what the call is, and not for the how-manieth time it is run."""
    call = call_for(executor, retries=1)
    await store.renew("gone", join=True)
    await store.create(call)
    assert await store.claim("gone", call.lane, 1) == [call.id]
    assert await store.start("gone", call.id) is not None
    assert await store.retry("gone", call, 0) == "ok"
    assert await store.requeue(call.id)
    await raw.delete(store.keys.wake(call.lane))
    waiting = store.keys.waiting(call.lane)
    await raw.rename(waiting, "aside")
    async with Worker(site.app, store, make_settings(), executor=executor):
        await eventually_blocked(raw)
        async with raw.pipeline() as pipe:
            pipe.rename("aside", waiting).lpush(store.keys.wake(call.lane), encode_spec(call))
            await pipe.execute()
        assert attempt_of((await outcomes(store, 1))[call.id], executor) == 2


async def test_a_wake_up_that_is_none(
    site: Site, store: Store, make_settings: SettingsFactory, raw: Any
) -> None:
    """Somebody else writes to this Redis: the worker looks for itself."""
    async with Worker(site.app, store, make_settings()):
        await eventually_blocked(raw)
        await raw.lpush(store.keys.wake(LANE), b"\x85spoilt")
        call = call_for(Executor.LOOP)
        await store.create(call)
        assert (await outcomes(store, 1))[call.id].status is Status.OK


async def test_only_the_first_of_those_that_wait_is_told_whole(store: Store, raw: Any) -> None:
    """The others' records are not held twice."""
    first, second = call_for(Executor.LOOP, 1), call_for(Executor.LOOP, 2)
    await store.create(first)
    await store.create(second)
    tokens = await raw.lrange(store.keys.wake(LANE), 0, -1)
    assert tokens == [f"{second.id} ".encode(), encode_spec(first)]


async def test_a_large_call_is_told_by_its_id(store: Store, raw: Any) -> None:
    call = call_for(Executor.LOOP, "x" * TOLD_BYTES)
    await store.create(call)
    assert await raw.lrange(store.keys.wake(LANE), 0, -1) == [f"{call.id} ".encode()]


async def test_a_cancelled_call_leaves_nothing_of_what_it_was_asked_with(
    store: Store, raw: Any
) -> None:
    call, other = call_for(Executor.LOOP, "private"), call_for(Executor.LOOP)
    await store.create(call)
    await store.create(other)
    assert await store.cancel(call.id)
    assert await raw.lrange(store.keys.wake(LANE), 0, -1) == [f"{other.id} ".encode()]
