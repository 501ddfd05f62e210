"""The process pool on its own: calls, deaths of every kind, and nothing left behind."""

import asyncio
import contextlib
import itertools
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from textwrap import dedent

import msgspec
import orjson
import psutil
import pytest

from dash_dispatch.errors import QueueFull
from dash_dispatch.processes import PoolBroken, Prepared, ProcessDied, ProcessPool, Worker
from dash_dispatch.protocol import CallSpec, Outcome, RequestSnapshot, Status
from tests.stack import eventually, wait_for

ROOT = Path(__file__).parents[2]
APP = """
import asyncio, contextlib, contextvars, ctypes, os, pathlib, signal, subprocess, sys, threading
import time
from dash import Input, Output, html, no_update, set_props
from dash_dispatch import Dash, Settings, ctx, run, run_sync, task

app = Dash(__name__, dispatch_settings=Settings(redis_url=None))
app.layout = html.Div()


def offloaded(function):
    return app.callback(
        Output(function.__name__, "children"), Input("in", "value"), offload=True
    )(function)


@offloaded
def echo(value):
    return value

@offloaded
def pid(value):
    return os.getpid()

@offloaded
def sleeps(value):
    time.sleep(value)
    return "slept"

@offloaded
def is_let_go(path):
    while not os.path.exists(path):
        time.sleep(0.01)
    return "let go"


@offloaded
def exits(value):
    os._exit(value)

@offloaded
def sys_exits(value):
    sys.exit(value)

@offloaded
def segfaults(value):
    ctypes.string_at(0)

@offloaded
def is_killed(value):
    os.kill(os.getpid(), signal.SIGKILL)

@offloaded
def raises(value):
    raise ValueError(value)

class Speechless(Exception):
    def __str__(self):
        raise KeyError("no words")

@offloaded
def speechless(value):
    raise Speechless

@offloaded
def unsendable(value):
    return None

class Text(str):
    def encode(self, *_):
        return object()

app.callback_map["unsendable.children"]["callback"] = lambda *_, **__: Text("text")

@offloaded
def steps(value):
    for step in range(value):
        set_props("bar", {"value": step})
    return "stepped"

@offloaded
def child(value):
    started = subprocess.Popen(["sleep", "60"])
    set_props("bar", {"value": started.pid})
    time.sleep(value)

@offloaded
def prints(value):
    print("x" * 100_000)
    sys.stdout.buffer.write(b"\\0" * 1000)
    return "printed"

@offloaded
def large(value):
    return "x" * value

@offloaded
def leaves_a_thread(value):
    threading.Thread(target=time.sleep, args=(30,)).start()
    return "left"

kept = []

@offloaded
def leaks(megabytes):
    kept.append(b"x" * (megabytes * 2**20))
    return os.getpid()

@offloaded
def attempt(value):
    return [ctx.attempt, os.getpid()]

@offloaded
def threads(value):
    return [thread.name for thread in threading.enumerate()]

@offloaded
def leaves_a_speaker(paths):
    def speak():
        while not os.path.exists(paths[0]):
            time.sleep(0.01)
        set_props("bar", {"value": "late"})
        with contextlib.suppress(RuntimeError):
            run_sync(somewhere_else, "late")
        pathlib.Path(paths[1]).touch()
    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(speak,)).start()
    return "left"

@offloaded
def lets_speak(paths):
    pathlib.Path(paths[0]).touch()
    while not os.path.exists(paths[1]):
        time.sleep(0.01)
    return run_sync(somewhere_else, "own")

@task
def somewhere_else(value):
    raise AssertionError("the tests answer for it")

@offloaded
def waits(value):
    return run_sync(somewhere_else, value)

@offloaded
def waits_for_many(count):
    async def main():
        return await asyncio.gather(*(run(somewhere_else, n) for n in range(count)))
    return asyncio.run(main())

@offloaded
def gives_up(value):
    async def main():
        try:
            await asyncio.wait_for(run(somewhere_else, value), 0.1)
        except TimeoutError:
            return "gave up"
    return asyncio.run(main())
"""


@pytest.fixture(scope="module")
def app_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("pool") / "pool_app.py"
    path.write_text(APP)
    return f"{path}:app"


@pytest.fixture
async def pool(app_file: str) -> AsyncIterator[ProcessPool]:
    made = ProcessPool(app_file, 2)
    await made.start()
    yield made
    await made.close()


def spec(name: str, value: object = None) -> CallSpec:
    payload = orjson.dumps(
        {
            "output": f"{name}.children",
            "outputs": {"id": name, "property": "children"},
            "inputs": [{"id": "in", "property": "value", "value": value}],
            "changedPropIds": ["in.value"],
        }
    )
    snapshot = msgspec.json.encode(RequestSnapshot())
    return CallSpec(f"call-{name}", "s", "p", "r", f"{name}.children", "default:process", 60.0,
                    payload, snapshot)  # fmt: skip


class Heard:
    """Takes the events of a call."""

    def __init__(self) -> None:
        self.props: list[bytes] = []

    async def __call__(self, props: bytes) -> None:
        self.props.append(props)

    @property
    def values(self) -> list[object]:
        return [orjson.loads(props)["props"]["value"] for props in self.props]


async def run(
    pool: ProcessPool, name: str, value: object = None, heard: Heard | None = None
) -> Outcome:
    async with asyncio.timeout(30):
        return await pool.run(spec(name, value), 1, "worker", heard or Heard())


async def result(pool: ProcessPool, name: str, value: object = None) -> object:
    outcome = await run(pool, name, value)
    assert outcome.status is Status.OK, outcome
    return orjson.loads(outcome.body)["response"][name]["children"]


def processes() -> set[int]:
    """Processes of pools that this one has started: they are children of the fork server."""
    found = set()
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                found.add(process.pid)
    return found


def alive(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


# --- calls ---------------------------------------------------------------------------------------


async def test_a_call_runs_elsewhere(pool: ProcessPool) -> None:
    assert await result(pool, "echo", {"a": [1, "é"]}) == {"a": [1, "é"]}
    pids = [await result(pool, "pid") for _ in range(4)]
    assert os.getpid() not in pids
    assert len(set(pids)) <= 2, "warm processes are used again"


async def test_calls_run_beside_each_other(pool: ProcessPool) -> None:
    before = time.monotonic()
    await asyncio.gather(*(result(pool, "sleeps", 1) for _ in range(2)))
    assert time.monotonic() - before < 1.9


async def test_more_calls_than_processes_wait_for_one(pool: ProcessPool) -> None:
    assert await asyncio.gather(*(result(pool, "echo", n) for n in range(20))) == list(range(20))


async def test_updates_come_before_the_outcome_and_in_order(pool: ProcessPool) -> None:
    heard = Heard()
    outcome = await run(pool, "steps", 300, heard)
    assert outcome.status is Status.OK
    assert heard.values == list(range(300))


async def test_a_result_of_many_megabytes(pool: ProcessPool) -> None:
    outcome = await run(pool, "large", 20 * 2**20)
    assert len(outcome.body) > 20 * 2**20
    assert await result(pool, "echo", 1) == 1


async def test_what_a_callback_prints_garbles_nothing(pool: ProcessPool) -> None:
    assert await result(pool, "prints") == "printed"
    assert await result(pool, "echo", 1) == 1


async def test_an_error_is_an_outcome(pool: ProcessPool) -> None:
    outcome = await run(pool, "raises", "why")
    assert outcome.status is Status.FAILED
    failure = outcome.failure
    assert (failure.type, failure.message, failure.call) == ("ValueError", "why", "call-raises")
    assert re.fullmatch(r"worker/\d+", failure.worker)
    assert "in raises" in failure.traceback
    assert await result(pool, "echo", 1) == 1


@pytest.mark.parametrize(
    ("name", "kind", "trouble"),
    [("speechless", "Speechless", "KeyError"), ("unsendable", "TypeError", "TypeError")],
)
async def test_an_outcome_that_cannot_be_told_is_a_plain_failure(
    pool: ProcessPool, name: str, kind: str, trouble: str
) -> None:
    before = processes()
    outcome = await run(pool, name)
    assert outcome.status is Status.FAILED
    assert outcome.failure.type == kind
    assert outcome.failure.message == f"the outcome could not be encoded: {trouble}"
    assert outcome.failure.call == f"call-{name}"
    assert processes() == before


async def test_sys_exit_ends_the_call_and_not_the_process(pool: ProcessPool) -> None:
    before = processes()
    for _ in range(2):
        outcome = await run(pool, "sys_exits", 3)
        assert outcome.status is Status.FAILED
        assert "sys.exit(3)" in outcome.failure.message
    assert processes() == before


async def test_an_unknown_callback_is_said_in_words(pool: ProcessPool) -> None:
    outcome = await run(pool, "nothing")
    assert outcome.status is Status.FAILED
    assert "does not know the callback 'nothing.children'" in outcome.failure.message


# --- deaths --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("exits", 3, "exited with status 3"),
        ("exits", 0, "exited with status 0"),
        ("segfaults", None, "killed by SIGSEGV"),
        ("is_killed", None, r"killed by SIGKILL \(out of memory\?\)"),
    ],
)
async def test_a_death_ends_its_call_only(
    pool: ProcessPool, name: str, value: object, words: str
) -> None:
    other = asyncio.create_task(result(pool, "sleeps", 0.4))
    with pytest.raises(ProcessDied, match=words):
        await run(pool, name, value)
    assert await other == "slept"
    pids = {await result(pool, "pid") for _ in range(8)}
    assert len(pids) <= 2, "another one has taken its place"


async def test_a_cancelled_call_loses_its_process(pool: ProcessPool) -> None:
    before = processes()
    task = asyncio.create_task(run(pool, "sleeps", 60))
    await asyncio.sleep(0.2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await eventually(lambda: len(before - processes()) == 1, "the process is killed", 10)
    await eventually(lambda: len(processes()) == len(before), "another one comes", 20)
    assert await asyncio.gather(*(result(pool, "echo", n) for n in range(4))) == [0, 1, 2, 3]


async def test_what_a_callback_has_started_ends_with_it(pool: ProcessPool) -> None:
    heard = Heard()
    task = asyncio.create_task(run(pool, "child", 60, heard))
    await eventually(lambda: heard.props, "the child has started")
    (started,) = heard.values
    assert isinstance(started, int)
    assert alive(started)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await eventually(lambda: not alive(started), "the child has ended", 10)


async def test_the_pool_survives_the_death_of_idle_processes(pool: ProcessPool) -> None:
    pids: set[int] = set()
    while len(pids) < 2:
        found = await asyncio.gather(*(result(pool, "pid") for _ in range(4)))
        pids |= {pid for pid in found if isinstance(pid, int)}
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    await eventually(lambda: not any(map(psutil.pid_exists, pids)), "they have ended")
    assert await result(pool, "echo", "no call was lost") == "no call was lost"
    fresh = {await result(pool, "pid") for _ in range(4)}
    assert not fresh & pids


async def test_a_thread_that_was_left_running_holds_nothing_up(pool: ProcessPool) -> None:
    assert await result(pool, "leaves_a_thread") == "left"
    assert await result(pool, "echo", 1) == 1


# --- tasks ---------------------------------------------------------------------------------------


class Elsewhere:
    """Answers for the tasks that calls wait for, when the test wants it."""

    def __init__(self, *, held: bool = False) -> None:
        self.asked: list[object] = []
        self.given_up: list[object] = []
        self.go = asyncio.Event()
        if not held:
            self.go.set()

    async def __call__(self, spec: CallSpec) -> Outcome:
        (value,) = orjson.loads(spec.payload)["args"]
        self.asked.append(value)
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.given_up.append(value)
            raise
        if value == "busy":
            raise QueueFull("busy: try again")
        return Outcome(Status.OK, orjson.dumps([value]))


async def waiting(pool: ProcessPool, name: str, value: object, elsewhere: Elsewhere) -> object:
    async with asyncio.timeout(30):
        outcome = await pool.run(spec(name, value), 1, "worker", Heard(), elsewhere)
    if outcome.status is not Status.OK:
        return outcome.failure.message
    return orjson.loads(outcome.body)["response"][name]["children"]


async def test_a_call_waits_for_tasks(pool: ProcessPool) -> None:
    elsewhere = Elsewhere()
    assert await waiting(pool, "waits", "a", elsewhere) == ["a"]
    assert await waiting(pool, "waits_for_many", 50, elsewhere) == [[n] for n in range(50)]
    assert await waiting(pool, "waits", "x" * 300_000, elsewhere) == ["x" * 300_000]
    # A process that has waited runs calls as before.
    assert await asyncio.gather(*(result(pool, "echo", n) for n in range(4))) == [0, 1, 2, 3]


async def test_a_task_that_is_refused_is_refused_in_the_process(pool: ProcessPool) -> None:
    assert await waiting(pool, "waits", "busy", Elsewhere()) == "busy: try again"
    assert "cannot be run from here" in str(
        (await run(pool, "waits", "nobody answers")).failure.message
    )


async def test_a_task_that_a_call_gives_up_is_given_up(pool: ProcessPool) -> None:
    elsewhere = Elsewhere(held=True)
    assert await waiting(pool, "gives_up", 1, elsewhere) == "gave up"
    assert elsewhere.given_up == [1]


@pytest.mark.parametrize("end", ["cancelled", "killed"])
async def test_tasks_of_a_call_that_ends_are_given_up(pool: ProcessPool, end: str) -> None:
    elsewhere = Elsewhere(held=True)
    before = processes()
    call = asyncio.create_task(waiting(pool, "waits_for_many", 3, elsewhere))
    await eventually(lambda: len(elsewhere.asked) == 3, "it waits")
    if end == "cancelled":
        call.cancel()
    else:
        busy = [worker for worker in pool._all if worker.waits]
        os.kill(busy[0].pid, signal.SIGKILL)
    with pytest.raises((asyncio.CancelledError, ProcessDied)):
        await call
    assert sorted(map(str, elsewhere.given_up)) == ["0", "1", "2"]
    await eventually(lambda: len(processes()) == len(before), "another one comes", 20)


async def test_while_calls_wait_there_is_one_more(
    app_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dash_dispatch.processes.EXTRA_IDLE_S", 0.1)
    pool = ProcessPool(app_file, 1)
    await pool.start()
    elsewhere = Elsewhere(held=True)
    try:
        before = len(processes())
        first = asyncio.create_task(waiting(pool, "waits", 1, elsewhere))
        await eventually(lambda: elsewhere.asked == [1], "the first one waits")
        second = asyncio.create_task(waiting(pool, "waits", 2, elsewhere))
        await eventually(lambda: elsewhere.asked == [1, 2], "the second one, too")
        assert await result(pool, "echo", "there is room") == "there is room"
        elsewhere.go.set()
        assert [await first, await second] == [[1], [2]]
        await eventually(lambda: len(processes()) == before, "as many as before", 20)
        assert await result(pool, "echo", 1) == 1
    finally:
        await pool.close()


async def test_no_more_than_wait_are_added(app_file: str) -> None:
    pool = ProcessPool(app_file, 1)
    await pool.start()
    try:
        before = len(processes())
        many = [asyncio.create_task(result(pool, "sleeps", 0.1)) for _ in range(5)]
        assert await asyncio.gather(*many) == ["slept"] * 5
        assert len(processes()) == before
    finally:
        await pool.close()


async def test_after_a_task_calls_are_read_as_before(pool: ProcessPool) -> None:
    """Who listens for a task's outcome while a call runs ends with that call."""
    for _ in range(4):
        await waiting(pool, "waits", "a", Elsewhere())
        await result(pool, "echo", 1)
    for found in await asyncio.gather(*(result(pool, "threads") for _ in range(4))):
        assert found == ["MainThread", "watch-parent"]


async def test_what_a_call_has_left_behind_does_not_speak_for_the_next_one(
    app_file: str, tmp_path: Path
) -> None:
    pool = ProcessPool(app_file, 1)
    await pool.start()
    heard, elsewhere = Heard(), Elsewhere()
    paths = [str(tmp_path / name) for name in ("go", "gone")]
    try:
        assert await result(pool, "leaves_a_speaker", paths) == "left"
        async with asyncio.timeout(30):
            outcome = await pool.run(spec("lets_speak", paths), 1, "worker", heard, elsewhere)
        assert b'["own"]' in outcome.body
        assert (heard.values, elsewhere.asked) == ([], ["own"])
    finally:
        await pool.close()


# --- prepared ------------------------------------------------------------------------------------


@pytest.fixture
async def one(app_file: str) -> AsyncIterator[ProcessPool]:
    made = ProcessPool(app_file, 1)
    await made.start()
    yield made
    await made.close()


def prepared(pool: ProcessPool, name: str, value: object = None) -> Prepared:
    made = pool.prepare(spec(name, value), "worker")
    assert made is not None
    return made


async def run_prepared(call: Prepared, name: str, attempt: int = 1) -> object:
    async with asyncio.timeout(30):
        outcome = await call.run(attempt, Heard())
    assert outcome.status is Status.OK, outcome
    return orjson.loads(outcome.body)["response"][name]["children"]


@pytest.mark.parametrize("number", [1, 3])
async def test_a_prepared_call_runs_where_it_was_prepared(one: ProcessPool, number: int) -> None:
    pid = await result(one, "pid")
    call = prepared(one, "attempt")
    assert await run_prepared(call, "attempt", number) == [number, pid]
    assert await result(one, "pid") == pid, "it goes on"
    call.forget()
    with pytest.raises(RuntimeError, match="once"):
        await call.run(1, Heard())


async def test_a_prepared_call_keeps_its_process(one: ProcessPool) -> None:
    call = prepared(one, "echo", "mine")
    assert one.prepare(spec("echo", "other"), "worker") is None
    other = asyncio.create_task(result(one, "echo", "other"))
    await asyncio.sleep(0)
    assert await run_prepared(call, "echo") == "mine"
    assert await other == "other"


async def test_a_forgotten_call_leaves_its_process_to_others(app_file: str, tmp_path: Path) -> None:
    pool = ProcessPool(app_file, 1, max_calls=2)
    await pool.start()
    try:
        pid = await result(pool, "pid")
        for _ in range(3):
            call = prepared(pool, "is_let_go", str(tmp_path / "never"))
            call.forget()
            call.forget()
        assert await result(pool, "pid") == pid, "it has not run, and does not count"
        assert await result(pool, "pid") != pid
    finally:
        await pool.close()


async def test_nothing_of_the_users_runs_before_its_call(one: ProcessPool, tmp_path: Path) -> None:
    outcome = tmp_path / "spoken"
    call = prepared(one, "lets_speak", [str(outcome), str(tmp_path)])
    # What comes behind it shows that it has been read.
    call.forget()
    assert await result(one, "echo", 1) == 1
    assert not outcome.exists()


async def test_a_prepared_call_has_another_process_when_its_own_dies(one: ProcessPool) -> None:
    (pid,) = {worker.pid for worker in one._all}
    call = prepared(one, "pid")
    os.kill(pid, signal.SIGKILL)
    await eventually(lambda: not psutil.pid_exists(pid), "it has ended")
    assert await run_prepared(call, "pid") != pid


async def test_a_process_that_dies_before_its_call_is_forgotten_is_replaced(
    one: ProcessPool,
) -> None:
    (pid,) = {worker.pid for worker in one._all}
    call = prepared(one, "pid")
    os.kill(pid, signal.SIGKILL)
    await eventually(lambda: not psutil.pid_exists(pid), "it has ended")
    call.forget()
    assert await result(one, "pid") != pid


async def test_a_prepared_call_may_die_like_any_other(one: ProcessPool) -> None:
    call = prepared(one, "exits", 3)
    with pytest.raises(ProcessDied, match="exited with status 3"):
        await run_prepared(call, "exits")
    assert await result(one, "echo", 1) == 1


async def test_what_is_wrong_with_a_prepared_call_is_said_when_it_runs(one: ProcessPool) -> None:
    async with asyncio.timeout(30):
        outcome = await prepared(one, "nothing").run(1, Heard())
    assert outcome.status is Status.FAILED
    assert "does not know the callback 'nothing.children'" in outcome.failure.message


async def test_a_prepared_call_is_heard_and_waits_for_tasks(one: ProcessPool) -> None:
    heard = Heard()
    async with asyncio.timeout(30):
        await prepared(one, "steps", 300).run(1, heard)
        outcome = await prepared(one, "waits", "a").run(1, heard, Elsewhere())
    assert heard.values == list(range(300))
    assert b'["a"]' in outcome.body


# --- one in the place of another -----------------------------------------------------------------


async def test_a_process_is_replaced_after_so_many_calls(app_file: str) -> None:
    pool = ProcessPool(app_file, 1, max_calls=3)
    await pool.start()
    try:
        pids = [await result(pool, "pid") for _ in range(9)]
        runs = [list(group) for _, group in itertools.groupby(pids)]
        assert [len(group) for group in runs] == [3, 3, 3]
        await eventually(lambda: not alive(int(str(pids[0]))), "the first has ended", 10)
    finally:
        await pool.close()


async def test_the_next_process_starts_beside_the_last_call(app_file: str, tmp_path: Path) -> None:
    pool = ProcessPool(app_file, 1, max_calls=1)
    await pool.start()
    go = tmp_path / "go"
    try:
        before = processes()
        call = asyncio.create_task(result(pool, "is_let_go", str(go)))
        await eventually(lambda: len(processes()) == len(before) + 1, "the next one")
        assert await result(pool, "echo", "no wait") == "no wait"
        assert not call.done()
        go.touch()
        assert await call == "let go"
    finally:
        await pool.close()


async def test_a_process_that_leaks_is_replaced(app_file: str) -> None:
    pool = ProcessPool(app_file, 1, max_mb=400)
    await pool.start()
    try:
        first = await result(pool, "leaks", 50)
        assert await result(pool, "pid") == first, "it may have so much"
        assert await result(pool, "leaks", 400) == first, "not in the middle of a call"
        async with asyncio.timeout(20):
            while await result(pool, "pid") == first:
                pass
        await eventually(lambda: not alive(int(str(first))), "it has ended", 10)
        assert len({await result(pool, "pid") for _ in range(4)}) == 1, "once is enough"
    finally:
        await pool.close()


async def test_a_successor_is_not_waited_for(
    app_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process over its memory goes on until there is another one."""
    pool = ProcessPool(app_file, 1, max_mb=1)
    await pool.start()
    try:
        first = await result(pool, "pid")
        start, may_start = Worker.start, asyncio.Event()

        async def late(*args: object) -> Worker:
            await may_start.wait()
            return await start(*args)  # type: ignore[arg-type]

        monkeypatch.setattr(Worker, "start", late)
        await result(pool, "pid")
        starting = len(pool._starting)
        assert [await result(pool, "pid") for _ in range(3)] == [first] * 3 or starting == 0
        may_start.set()
        async with asyncio.timeout(20):
            while await result(pool, "pid") == first:
                pass
    finally:
        await pool.close()


# --- beginning and end ---------------------------------------------------------------------------


async def test_closing_leaves_no_process(app_file: str) -> None:
    # The fork server and its helper stay for the next pool of this process.
    first = ProcessPool(app_file, 1)
    await first.start()
    await first.close()
    before = processes()
    pool = ProcessPool(app_file, 3)
    await pool.start()
    assert len(processes() - before) == 3
    task = asyncio.create_task(run(pool, "sleeps", 60))
    heard = Heard()
    with_child = asyncio.create_task(run(pool, "child", 60, heard))
    await eventually(lambda: heard.props, "the child has started")
    await pool.close()
    await eventually(lambda: processes() <= before, "all have ended", 10)
    for call in (task, with_child):
        call.cancel()
    await asyncio.gather(task, with_child, return_exceptions=True)


async def test_closing_while_one_is_replaced(app_file: str) -> None:
    pool = ProcessPool(app_file, 2)
    before = processes()
    await pool.start()
    with pytest.raises(ProcessDied):
        await run(pool, "exits", 1)
    await pool.close()
    await eventually(lambda: len(processes() - before) <= 2, "only the fork server stays", 10)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("from dash_dispatch import Dash\napp = Dash(__name__)", "layout"),
        ("import os\nos._exit(7)", "the process that starts others ended"),
    ],
)
async def test_an_app_that_cannot_be_imported_says_why(
    tmp_path: Path, source: str, words: str
) -> None:
    # In a process of its own: a process has one fork server, and that one has its app already.
    (tmp_path / "broken_app.py").write_text(source)
    script = """
    import asyncio
    from dash_dispatch.processes import PoolBroken, ProcessPool

    async def main():
        try:
            await ProcessPool("broken_app:app", 1).start()
        except PoolBroken as error:
            print("broken:", error)

    if __name__ == "__main__":
        asyncio.run(main())
    """
    (tmp_path / "main.py").write_text(dedent(script))
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "main.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert f"{words}" in done.stdout, done.stderr
    assert done.stdout.startswith("broken: ")


def test_the_death_of_the_worker_ends_its_processes(app_file: str, tmp_path: Path) -> None:
    script = """
    import asyncio, sys
    from dash_dispatch.processes import ProcessPool

    async def main():
        pool = ProcessPool(sys.argv[1], 2)
        await pool.start()
        print("ready", flush=True)
        await asyncio.sleep(60)

    if __name__ == "__main__":
        asyncio.run(main())
    """
    (tmp_path / "main.py").write_text(dedent(script))
    worker = subprocess.Popen(
        [sys.executable, "main.py", app_file],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"ready\n"
        children = [child.pid for child in psutil.Process(worker.pid).children(recursive=True)]
        assert len(children) >= 3
        worker.kill()
        worker.wait(10)
        wait_for(lambda: not any(map(alive, children)), "all have ended", 10)
    finally:
        worker.kill()
        worker.wait(10)
        if worker.stdout is not None:
            worker.stdout.close()


HOOKED = """
import os, pathlib, time
from dash import Input, Output, html
from dash_dispatch import Dash, Settings, on_worker_start, on_worker_stop

app = Dash(__name__, dispatch_settings=Settings(redis_url=None))
app.layout = html.Div()
said = pathlib.Path(__file__).parent

@app.callback(Output("pid", "children"), Input("in", "value"), offload=True)
def pid(value):
    return [os.getpid(), opened]

@on_worker_start
async def open_it():
    global opened
    opened = True

@on_worker_stop
def last():
    (said / f"last.{os.getpid()}").touch()

@on_worker_stop
def breaks():
    (said / f"first.{os.getpid()}").touch()
    raise ValueError("at the end")

@on_worker_stop
def takes_long():
    time.sleep(SECONDS)
"""


@pytest.mark.parametrize("end", ["closed", "closed while prepared", "replaced"])
async def test_an_orderly_end_runs_what_is_to_run(tmp_path: Path, end: str) -> None:
    path = tmp_path / f"hooked_{end.replace(' ', '_')}.py"
    path.write_text(HOOKED.replace("SECONDS", "0"))
    pool = ProcessPool(f"{path}:app", 1, max_calls=1 if end == "replaced" else 0)
    await pool.start()
    try:
        found = await result(pool, "pid")
        assert isinstance(found, list)
        pid, opened = found
        assert opened
    finally:
        if end == "closed while prepared":
            assert pool.prepare(spec("pid"), "worker") is not None
        if end != "replaced":
            await pool.close()
    for name in ("first", "last"):
        await eventually((tmp_path / f"{name}.{pid}").exists, f"{name} has run", 10)
    await eventually(lambda: not alive(pid), "it has ended", 10)
    await pool.close()


async def test_an_end_that_takes_too_long_is_cut_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dash_dispatch.processes.STOP_S", 0.3)
    path = tmp_path / "hooked_long.py"
    path.write_text(HOOKED.replace("SECONDS", "60"))
    pool = ProcessPool(f"{path}:app", 1)
    await pool.start()
    found = await result(pool, "pid")
    assert isinstance(found, list)
    async with asyncio.timeout(10):
        await pool.close()
    assert not alive(found[0])


def test_broken_is_told_from_died() -> None:
    assert not issubclass(ProcessDied, PoolBroken)
    assert not issubclass(PoolBroken, ProcessDied)
