"""A worker whose processes are through with calls at once takes some ahead, and gives them back."""

import asyncio
import contextlib
import itertools
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from dash_dispatch import Dash, bridge
from dash_dispatch.loading import load_app
from dash_dispatch.processes import NoProcess, ProcessDied, ProcessPool
from dash_dispatch.protocol import CallSpec, Executor, Outcome, Status, lane
from dash_dispatch.store import Store
from tests.integration.conftest import SettingsFactory
from tests.integration.worker import Worker, asked, outcomes
from tests.stack import eventually

APP = """
import os, time
from dash import Input, Output, html
from dash_dispatch import Dash, Settings, ctx

app = Dash(__name__, dispatch_settings=Settings(redis_url=None))
app.layout = html.Div()

@app.callback(Output("quick", "children"), Input("in", "value"), offload=True)
def quick(value):
    return [ctx.worker.rpartition("/")[0], ctx.attempt]

@app.callback(Output("waits", "children"), Input("in", "value"), offload=True)
def waits(path):
    while not os.path.exists(path):
        time.sleep(0.01)
    return "waited"

@app.callback(Output("exits", "children"), Input("in", "value"), offload=True)
def exits(value):
    os._exit(1)
"""


@pytest.fixture(scope="module")
def app_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("ahead") / "ahead_app.py"
    path.write_text(APP)
    return f"{path}:app"


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is quick on a machine that others use, too."""
    monkeypatch.setattr("dash_dispatch.processes.QUICK_S", 0.2)


@pytest.fixture
def app(app_file: str) -> Dash:
    found = load_app(app_file)
    assert isinstance(found, Dash)
    bridge.ready(found)
    return found


def lines(caplog: pytest.LogCaptureFixture, words: str) -> int:
    return sum(words in record.getMessage() for record in caplog.records)


@contextlib.asynccontextmanager
async def pooled(app_file: str) -> AsyncIterator[ProcessPool]:
    pool = ProcessPool(app_file, 1)
    await pool.start()
    try:
        yield pool
    finally:
        await pool.close()


def call_for(name: str, value: Any = None) -> CallSpec:
    return asked(name, value, lane=lane("default", Executor.PROCESS))


async def _heard(_props: bytes) -> None:
    raise AssertionError("no updates")


async def run(
    pool: ProcessPool, name: str, value: Any = None, within_s: float | None = None
) -> Outcome:
    async with asyncio.timeout(30):
        return await pool.run(call_for(name, value), 1, "w1", _heard, within_s=within_s)


async def prove_quick(pool: ProcessPool) -> None:
    """As many calls as it takes."""
    async with asyncio.timeout(60):
        while not pool.ahead:
            await run(pool, "quick")


def answer(outcome: Outcome) -> Any:
    assert outcome.status is Status.OK, outcome
    return orjson.loads(outcome.body)["response"]["quick"]["children"]


async def test_only_quick_calls_are_taken_ahead(app_file: str, tmp_path: Path) -> None:
    async with pooled(app_file) as pool:
        assert pool.ahead == 0, "nothing is known of them"
        await prove_quick(pool)
        assert pool.ahead == 3
        slow = asyncio.create_task(run(pool, "waits", str(tmp_path / "go")))
        line = [asyncio.create_task(run(pool, "quick", within_s=0.05)) for _ in range(3)]
        for error in await asyncio.gather(*line, return_exceptions=True):
            assert isinstance(error, NoProcess)
        assert pool.ahead == 0
        assert not slow.done()
        (tmp_path / "go").touch()
        assert (await slow).status is Status.OK
        assert (await run(pool, "quick", within_s=0.05)).status is Status.OK


async def test_a_process_that_is_being_started_is_waited_for(app_file: str) -> None:
    async with pooled(app_file) as pool:
        await prove_quick(pool)
        with pytest.raises(ProcessDied):
            await run(pool, "exits")
        assert pool.ahead == 0
        assert (await run(pool, "quick", within_s=0.0001)).status is Status.OK


async def test_what_stands_in_line_behind_a_slow_call_goes_to_another_worker(
    app: Dash,
    app_file: str,
    store: Store,
    make_settings: SettingsFactory,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "dash_dispatch.execution")
    settings, go = make_settings(), tmp_path / "go"
    async with pooled(app_file) as one, pooled(app_file) as two:
        await prove_quick(one)
        slow = call_for("waits", str(go))
        calls = [call_for("quick") for _ in range(3)]
        for call in (slow, *calls):
            await store.create(call)
        first = Worker(app, store, settings, "w1", Executor.PROCESS, one)
        second = Worker(app, store, settings, "w2", Executor.PROCESS, two)
        async with first:
            await eventually(lambda: lines(caplog, "handed back") == 3, "they have stood in line")
            async with second:
                found = await outcomes(store, 3)
                # Their first run: nothing has come of the claim before.
                assert [answer(found[call.id]) for call in calls] == [["w2", 1]] * 3
                assert first.execution.running == {slow.id}
                go.touch()
                assert (await outcomes(store, 4))[slow.id].status is Status.OK


async def test_calls_that_are_taken_ahead_run_in_turn(
    app: Dash,
    app_file: str,
    store: Store,
    make_settings: SettingsFactory,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "dash_dispatch.execution")
    async with pooled(app_file) as pool:
        await prove_quick(pool)
        calls = [call_for("quick") for _ in range(40)]
        for call in calls:
            await store.create(call)
        async with Worker(app, store, make_settings(), "w1", Executor.PROCESS, pool):
            found = await outcomes(store, 40)
    begun = itertools.accumulate(
        {"→": 1, "←": -1}.get(record.getMessage()[0], 0) for record in caplog.records
    )
    assert max(begun) == 4
    assert [answer(found[call.id]) for call in calls] == [["w1", 1]] * 40
