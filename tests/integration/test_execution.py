"""One call, to exactly one outcome: on the loop and in threads (processes: ``test_processes``)."""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import orjson
import pytest
from dash import Input, Output, ctx, html, no_update, set_props
from dash.exceptions import PreventUpdate

from dash_dispatch import Dash, Settings, bridge
from dash_dispatch.caller import Caller
from dash_dispatch.execution import Execution
from dash_dispatch.protocol import CallSpec, Executor, Outcome, RequestSnapshot, Status
from dash_dispatch.store import Claimed, Store
from dash_dispatch.threads import Threads
from tests.integration.conftest import SettingsFactory, StoreFactory
from tests.integration.test_store import LANE
from tests.stack import eventually


@pytest.fixture(scope="module")
def app() -> Dash:  # noqa: C901 - one branch per callback
    made = Dash("execution", dispatch_settings=Settings(redis_url=None))
    made.layout = html.Div()

    def offloaded(function: Any) -> Any:
        return made.callback(
            Output(function.__name__, "children"), Input("in", "value"), offload=True
        )(function)

    @offloaded
    def echo(value: Any) -> Any:
        return value

    @offloaded
    def bakes(value: Any) -> Any:
        ctx.response.set_cookie("k", "v")
        return value

    @offloaded
    async def coroutine(value: Any) -> Any:
        await asyncio.sleep(0)
        return value

    @offloaded
    def fails(value: Any) -> Any:
        raise ValueError("why")

    @offloaded
    async def exits(value: Any) -> Any:
        sys.exit(3)

    @offloaded
    def prevents(value: Any) -> Any:
        raise PreventUpdate

    @offloaded
    def nothing(value: Any) -> Any:
        return no_update

    @offloaded
    def steps(value: Any) -> Any:
        for step in range(value):
            set_props("bar", {"value": step})
        return "stepped"

    @offloaded
    async def async_steps(value: Any) -> Any:
        for step in range(value):
            await ctx.websocket.set_prop("bar", "value", step)
        raise ValueError("after the steps")

    @offloaded
    async def sleeps(value: Any) -> Any:
        await asyncio.sleep(60)

    @offloaded
    def sleeps_in_a_thread(value: Any) -> Any:
        while not ctx.websocket.is_shutdown:
            time.sleep(0.01)

    @offloaded
    async def asks(value: Any) -> Any:
        return await ctx.websocket.get_prop("other", "value")

    class Speechless(Exception):
        def __str__(self) -> str:
            raise KeyError("no words")

    @offloaded
    def speechless(value: Any) -> Any:
        raise Speechless

    @offloaded
    async def speechless_coroutine(value: Any) -> Any:
        raise Speechless

    @offloaded
    async def cancels_itself(value: Any) -> Any:
        raise asyncio.CancelledError

    bridge.ready(made)
    return made


class Worker:
    """An `Execution` with a store, and what its page gets to see."""

    def __init__(self, app: Dash, store: Store, settings: Settings) -> None:
        self.store = store
        self.execution = Execution(app, store, settings, "w1", None, Caller(store, settings))

    async def start(
        self, name: str, value: Any = None, timeout_s: float = 20.0, *, stream: bool = True
    ) -> Claimed:
        payload = orjson.dumps(
            {
                "output": f"{name}.children",
                "outputs": {"id": name, "property": "children"},
                "inputs": [{"id": "in", "property": "value", "value": value}],
                "changedPropIds": ["in.value"],
            }
        )
        snapshot = msgspec.json.encode(RequestSnapshot())
        spec = CallSpec(
            name, "s", "p", "r", f"{name}.children", LANE, timeout_s, payload, snapshot, stream
        )
        await self.store.renew("w1", join=True)
        await self.store.create(spec)
        assert await self.store.claim("w1", LANE, 1) == [name]
        claimed = await self.store.start("w1", name)
        assert claimed == Claimed(spec, 1)
        return claimed

    async def run(
        self, name: str, value: Any = None, executor: Executor = Executor.THREAD, **more: Any
    ) -> Outcome:
        claimed = await self.start(name, value, **more)
        async with asyncio.timeout(20):
            await self.execution.run(claimed, executor)
        assert self.execution.running == set()
        return await self.outcome()

    async def outcome(self) -> Outcome:
        outcomes = [
            entry.event.outcome
            for entry in await self.store.read("s", None, 20_000)
            if entry.event.outcome is not None
        ]
        assert len(outcomes) == 1, "exactly one"
        return outcomes[0]

    async def values(self) -> list[Any]:
        """What the page was told by ``set_props``, which came before the outcome."""
        entries = await self.store.read("s", None, 20_000)
        assert entries[-1].event.outcome is not None
        return [orjson.loads(entry.event.props)["props"]["value"] for entry in entries[:-1]]


@pytest.fixture
async def worker(
    app: Dash, make_store: StoreFactory, make_settings: SettingsFactory
) -> AsyncIterator[Worker]:
    limits: dict[str, Any] = {"max_result_bytes": 2048, "max_mailbox_entries": 500}
    made = Worker(app, make_store(**limits), make_settings(**limits))
    yield made
    await made.execution.close()


def returned(outcome: Outcome, name: str) -> Any:
    assert outcome.status is Status.OK, outcome
    return orjson.loads(outcome.body)["response"][name]["children"]


async def test_in_a_thread(worker: Worker) -> None:
    outcome = await worker.run("bakes", [1], stream=False)
    assert returned(outcome, "bakes") == [1]
    assert orjson.loads(outcome.response) == [["set_cookie", ["k", "v"], {}]]


async def test_on_the_loop(worker: Worker) -> None:
    assert returned(await worker.run("coroutine", 3, Executor.LOOP), "coroutine") == 3


async def test_without_a_pool_a_process_is_a_thread(worker: Worker) -> None:
    assert returned(await worker.run("echo", os.getpid(), Executor.PROCESS), "echo") == os.getpid()


@pytest.mark.parametrize(
    ("name", "executor", "status", "kind", "words"),
    [
        ("fails", Executor.THREAD, Status.FAILED, "ValueError", "why"),
        ("exits", Executor.LOOP, Status.FAILED, "SystemExit", r"sys.exit(3)"),
        ("unknown", Executor.THREAD, Status.FAILED, "UnknownCode", "does not know the callback"),
        ("unknown", Executor.LOOP, Status.FAILED, "UnknownCode", "does not know the callback"),
        ("asks", Executor.LOOP, Status.FAILED, "NotImplementedError", "take it as State"),
    ],
)
async def test_an_error_is_an_outcome(
    worker: Worker, name: str, executor: Executor, status: Status, kind: str, words: str
) -> None:
    outcome = await worker.run(name, None, executor)
    assert outcome.status is status
    assert outcome.failure.type == kind
    assert words in outcome.failure.message
    assert (outcome.failure.call, outcome.failure.worker) == (name, "w1")


@pytest.mark.parametrize(
    ("name", "executor"),
    [("speechless", Executor.THREAD), ("speechless_coroutine", Executor.LOOP)],
)
async def test_an_error_that_has_no_words_is_an_outcome(
    worker: Worker, name: str, executor: Executor
) -> None:
    failure = (await worker.run(name, None, executor)).failure
    assert failure.type == "Speechless"
    assert failure.message == "the outcome could not be encoded: KeyError"
    assert f"in {name}" in failure.traceback


@pytest.mark.parametrize(
    ("name", "executor"), [("fails", Executor.THREAD), ("async_steps", Executor.LOOP)]
)
async def test_an_outcome_that_cannot_be_made_is_an_outcome(
    worker: Worker, name: str, executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_error: BaseException) -> str:
        raise ZeroDivisionError

    monkeypatch.setattr(bridge, "user_traceback", fails)
    failure = (await worker.run(name, 1, executor)).failure
    assert failure.type == "ValueError"
    assert failure.message == "the outcome could not be encoded: ZeroDivisionError"


async def test_an_error_of_our_own_is_an_outcome_and_in_the_log(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def run(_work: object) -> None:
        raise RuntimeError("not the user's")

    monkeypatch.setattr(Threads, "run", lambda _self, work: run(work))
    assert (await worker.run("echo", 1)).failure.type == "RuntimeError"
    assert "RuntimeError: not the user's" in caplog.text


async def test_prevented_is_no_update(worker: Worker) -> None:
    assert await worker.run("prevents") == Outcome(Status.NO_UPDATE)


async def test_no_update_changes_nothing(worker: Worker) -> None:
    outcome = await worker.run("nothing")
    assert outcome.status in (Status.OK, Status.NO_UPDATE)
    assert b"children" not in outcome.body


async def test_a_callback_that_cancels_itself(worker: Worker) -> None:
    outcome = await worker.run("cancels_itself", None, Executor.LOOP)
    assert outcome.status in (Status.CANCELLED, Status.FAILED)


async def test_updates_come_before_the_outcome(worker: Worker) -> None:
    assert returned(await worker.run("steps", 300), "steps") == "stepped"
    assert await worker.values() == list(range(300))


async def test_updates_come_before_an_error_too(worker: Worker) -> None:
    outcome = await worker.run("async_steps", 300, Executor.LOOP)
    assert outcome.failure.message == "after the steps"
    assert await worker.values() == list(range(300))


async def test_more_updates_than_anybody_reads_end_the_call(worker: Worker) -> None:
    outcome = await worker.run("steps", 2000)
    assert outcome.status is Status.FAILED
    assert outcome.failure.type == "PayloadTooLarge"
    assert "DASH_DISPATCH_MAX_MAILBOX_ENTRIES" in outcome.failure.message


async def test_a_result_that_is_too_large(worker: Worker) -> None:
    outcome = await worker.run("echo", "x" * 3000)
    assert outcome.failure.type == "PayloadTooLarge"
    assert "DASH_DISPATCH_MAX_RESULT_BYTES" in outcome.failure.message


@pytest.mark.parametrize(
    ("name", "executor"), [("sleeps", Executor.LOOP), ("sleeps_in_a_thread", Executor.THREAD)]
)
async def test_a_call_that_takes_too_long(worker: Worker, name: str, executor: Executor) -> None:
    outcome = await worker.run(name, None, executor, timeout_s=0.1)
    assert outcome.status is Status.TIMED_OUT
    assert outcome.failure.message == "The callback did not end within 0.1 s, and was stopped."


@pytest.mark.parametrize(
    ("name", "executor"), [("sleeps", Executor.LOOP), ("sleeps_in_a_thread", Executor.THREAD)]
)
async def test_a_cancelled_call(worker: Worker, name: str, executor: Executor) -> None:
    claimed = await worker.start(name)
    running = asyncio.create_task(worker.execution.run(claimed, executor))
    await eventually(lambda: worker.execution.running == {name}, "it runs")
    assert await worker.store.cancel(name)
    worker.execution.cancel(name)
    worker.execution.cancel("unknown")
    async with asyncio.timeout(10):
        await running
    assert (await worker.outcome()).status is Status.CANCELLED


async def test_a_worker_that_is_stopped_says_so(worker: Worker) -> None:
    claimed = await worker.start("sleeps")
    running = asyncio.create_task(worker.execution.run(claimed, Executor.LOOP))
    await eventually(lambda: worker.execution.running == {"sleeps"}, "it runs")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    outcome = await worker.outcome()
    assert outcome.status is Status.WORKER_LOST
    assert outcome.failure.message == "The worker was stopped while it ran this."


async def test_a_call_that_was_lost_meanwhile_keeps_that_outcome(worker: Worker) -> None:
    claimed = await worker.start("coroutine", 1)
    assert await worker.store.lose("coroutine", "w1")
    await worker.execution.run(claimed, Executor.LOOP)
    assert (await worker.outcome()).status is Status.WORKER_LOST
