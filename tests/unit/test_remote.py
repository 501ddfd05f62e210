"""Tasks: how they are registered, named and called, and what their arguments become."""

import asyncio
import concurrent.futures
import contextlib
import functools
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dash import html
from dash.exceptions import PreventUpdate

from dash_dispatch import (
    CallCancelled,
    CallExpired,
    CallFailed,
    CallTimedOut,
    ConfigError,
    WorkerLost,
    remote,
    run,
    run_sync,
    task,
)
from dash_dispatch.protocol import CallSpec, Executor, Outcome, Overlap, Status, failed


@pytest.fixture(autouse=True)
def tasks() -> Iterator[dict[str, remote.Task]]:
    """Tasks of a test are forgotten afterwards."""
    before = dict(remote._tasks)
    yield remote._tasks
    remote._tasks.clear()
    remote._tasks.update(before)


class Runner:
    """Answers with what a worker would, or with what the test says."""

    def __init__(self, outcome: Outcome | None = None) -> None:
        self.outcome = outcome
        self.specs: list[CallSpec] = []

    def submit(self, spec: CallSpec) -> "concurrent.futures.Future[Outcome]":
        self.specs.append(spec)
        future: concurrent.futures.Future[Outcome] = concurrent.futures.Future()
        future.set_result(self.outcome or self._run(spec))
        return future

    def _run(self, spec: CallSpec) -> Outcome:
        args, kwargs = remote.decode_arguments(spec.payload)
        found = remote.task_of(spec.output)
        text = remote.encode_result(found.name, found.function(*args, **kwargs))
        return Outcome(Status.OK, text.encode())


@contextlib.contextmanager
def running(outcome: Outcome | None = None) -> Iterator[Runner]:
    runner = Runner(outcome)
    with remote.using(runner):
        yield runner


@task
def echo(*args: Any, **kwargs: Any) -> Any:
    return [args, kwargs]


# The one of this module, which `tasks` would forget.
ECHO = remote._tasks[f"{__name__}:echo"]


# --- registration --------------------------------------------------------------------------------


def test_a_task_stays_a_function() -> None:
    assert echo(1, a=2) == [(1,), {"a": 2}]
    assert ECHO.function is echo


def test_a_task_has_the_options_of_an_offloaded_callback() -> None:
    @task(queue="gpu", timeout=5, retries=2, backoff=0.5, priority=3, concurrency=4, group="card")
    async def predict() -> None: ...

    with running(Outcome(Status.OK, b"null")) as runner:
        asyncio.run(run(predict))
    (spec,) = runner.specs
    assert spec.output == f"task:{__name__}:{predict.__qualname__}"
    assert spec.lane == "gpu:loop"
    assert (spec.timeout_s, spec.retries, spec.backoff_s, spec.priority) == (5, 2, 0.5, 3)
    assert (spec.gate, spec.limit) == ("group.card", 4)
    assert spec.cache_key == ""
    assert not spec.stream


def test_where_a_task_runs() -> None:
    @task
    def in_process() -> None: ...

    @task(executor="thread")
    def in_thread() -> None: ...

    @task
    async def on_loop() -> None: ...

    found = {name.rpartition(".")[2]: one.offloaded for name, one in remote.registered().items()}
    assert found["in_process"].executor is Executor.PROCESS
    assert found["in_thread"].executor is Executor.THREAD
    assert found["on_loop"].executor is Executor.LOOP
    assert found["on_loop"].overlap is Overlap.PARALLEL


def test_a_limit_of_its_own() -> None:
    @task(concurrency=2)
    def limited() -> None: ...

    (found,) = [one for name, one in remote.registered().items() if name.endswith("limited")]
    assert found.offloaded.gate == f"task:{found.name}"


def test_equal_arguments_have_one_key_and_others_another() -> None:
    @task(cache=10)
    def mine(x: int) -> None: ...

    @task(cache=10, scope="global")
    def everybodys(x: int) -> None: ...

    with running(Outcome(Status.OK, b"null")) as runner:
        for value in (1, 1, 2):
            run_sync(mine, value)
        run_sync(everybodys, 1)
    first, same, other, shared = (spec.cache_key for spec in runner.specs)
    assert first == same != other
    assert first.startswith("user:")
    assert shared.startswith("global:")
    assert runner.specs[0].cache_s == 10


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"queue": "no such name!"}, "queue"),
        ({"retries": -1}, "retries"),
        ({"executor": "gpu"}, "executor"),
        ({"overlap": "queue"}, r"task\(overlap=...\): takes .*queue"),
        ({"on_leave": "cancel"}, r"task\(on_leave=...\): takes"),
        ({"group": "a"}, "concurrency"),
        ({"wrong": 1}, r"task\(wrong=...\): takes"),
    ],
)
def test_a_wrong_option_is_told(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        task(**options)


def generator() -> Iterator[int]:
    yield 1


class Callables:
    def __call__(self) -> None: ...


@pytest.mark.parametrize(
    "wrong", [generator, lambda: 1, Callables, Callables(), functools.partial(echo, 1), len, 7]
)
def test_what_can_be_no_task_is_told(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="task: "):
        task(wrong)


def test_an_async_task_runs_on_the_loop_and_nowhere_else() -> None:
    async def coroutine() -> None: ...

    with pytest.raises(ConfigError, match="async def runs on the worker's event loop"):
        task(executor="thread")(coroutine)


def test_a_script_names_its_tasks_as_a_worker_does(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from dash_dispatch import remote, task\n"
        "@task\ndef one(): ...\n"
        "print(*remote.registered())\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=True, timeout=50
    )
    assert done.stdout == "script:one\n"


# --- run -----------------------------------------------------------------------------------------


def test_what_comes_back() -> None:
    with running():
        assert run_sync(echo, 1, (2, 3), a={"b": html.B("c")}) == [
            [1, [2, 3]],
            {"a": {"b": {"props": {"children": "c"}, "type": "B", **_NAMESPACE}}},
        ]


_NAMESPACE = {"namespace": "dash_html_components"}


async def test_several_at_once() -> None:
    with running():
        found = await asyncio.gather(*(run(echo, n) for n in range(3)))
    assert found == [[[n], {}] for n in range(3)]


def test_outside_of_a_callback() -> None:
    with pytest.raises(RuntimeError, match=r"run\(.*:echo\) outside of a callback"):
        run_sync(echo)
    with pytest.raises(RuntimeError, match="outside of a callback"):
        asyncio.run(run(echo))


def test_a_thread_of_ones_own_is_outside_and_one_with_the_context_is_not() -> None:
    found: list[object] = []

    def ask() -> None:
        try:
            found.append(run_sync(echo))
        except RuntimeError as error:
            found.append("outside" in str(error))

    async def main() -> None:
        await asyncio.to_thread(ask)

    with running():
        thread = threading.Thread(target=ask)
        thread.start()
        thread.join(10)
        asyncio.run(main())
    assert found == [True, [[], {}]]


def test_a_function_that_is_no_task() -> None:
    def plain() -> None: ...

    with running(), pytest.raises(ConfigError, match=r"plain\): it is no task; put @dash_disp"):
        run_sync(plain)


def test_a_function_that_was_wrapped_after_it_became_a_task() -> None:
    def logged(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper() -> Any:
            return function()

        return wrapper

    @logged
    @task
    def wrapped() -> None: ...

    with running(), pytest.raises(ConfigError, match="has wrapped it"):
        run_sync(wrapped)


@pytest.mark.parametrize(
    ("args", "kwargs", "words"),
    [
        ((1, object()), {}, r"argument 2 \(object\) cannot be sent as JSON"),
        ((1,), {"x": {1, 2}}, r"argument 'x' \(set\) cannot be sent as JSON"),
        ((2**70,), {}, r"argument 1 \(int\) cannot be sent as JSON: .*64-bit"),
        ((b"bytes",), {}, r"argument 1 \(bytes\)"),
    ],
)
def test_an_argument_that_cannot_be_sent_is_named(
    args: tuple[Any, ...], kwargs: dict[str, Any], words: str
) -> None:
    with running(), pytest.raises(TypeError, match=rf"run\(.*:echo\): {words}"):
        run_sync(echo, *args, **kwargs)


def test_an_argument_that_holds_itself_is_named() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with running(), pytest.raises(TypeError, match=r"argument 1 \(list\) .*holds itself"):
        run_sync(echo, loop)


async def test_run_sync_would_block_the_loop() -> None:
    with running(), pytest.raises(RuntimeError, match="await run"):
        run_sync(echo)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (Status.FAILED, CallFailed),
        (Status.TIMED_OUT, CallTimedOut),
        (Status.CANCELLED, CallCancelled),
        (Status.SUPERSEDED, CallCancelled),
        (Status.WORKER_LOST, WorkerLost),
        (Status.EXPIRED, CallExpired),
    ],
)
def test_every_outcome_is_a_result_or_an_error(status: Status, error: type[Exception]) -> None:
    outcome = failed(status, "Kind", "its words", traceback="its place", call="c1", worker="w1")
    with running(outcome), pytest.raises(error) as raised:
        run_sync(echo)
    for word in ("task:", ":echo: Kind: its words", "its place", "c1", "w1"):
        assert word in str(raised.value)
    assert vars(raised.value)["call_id"] == "c1"
    with running(Outcome(status)), pytest.raises(error, match=status.replace("_", " ")):
        run_sync(echo)


def test_all_statuses_are_known() -> None:
    assert set(Status) == {*remote._ERRORS, Status.OK, Status.NO_UPDATE}


def test_prevent_update_is_itself() -> None:
    with running(Outcome(Status.NO_UPDATE)), pytest.raises(PreventUpdate):
        run_sync(echo)


def test_an_error_that_is_passed_on_does_not_grow() -> None:
    text = "task:b: ValueError: why"
    outcome = failed(Status.FAILED, "CallFailed", text, traceback=f"place\n{text}", call="c")
    with running(outcome), pytest.raises(CallFailed) as raised:
        run_sync(echo)
    assert str(raised.value) == f"task:{__name__}:echo: {text}"


def test_an_unknown_task_is_told_by_the_worker() -> None:
    with pytest.raises(LookupError, match="this worker does not know the task 'm:f'"):
        remote.task_of("task:m:f")


def test_what_a_task_returns_has_to_be_json() -> None:
    with pytest.raises(TypeError, match=r"what the task m:f returns \(object\) cannot be sent"):
        remote.encode_result("m:f", object())
    assert json.loads(remote.encode_result("m:f", {"a": (1, None)})) == {"a": [1, None]}
