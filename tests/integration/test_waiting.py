"""`run` from every kind of callback, with a real web process and real workers."""

import asyncio
import math
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psutil
import pytest

from tests.client import WebsocketClient, http, post, written
from tests.conftest import StackFactory
from tests.stack import APPS, Stack, eventually, free_port, wait_for

PLACES = ["web-async", "web-def", "loop", "thread", "process"]


class Waiting(NamedTuple):
    """What this module's tests run against: as few slots as there can be."""

    stack: Stack
    address: str
    places: Path


@pytest.fixture(scope="module")
def waiting(
    make_shared_stack: StackFactory, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Waiting]:
    places = tmp_path_factory.mktemp("places")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLACES", str(places))
        few = {"processes": "1", "concurrency": "1", "worker_threads": "1"}
        stack = make_shared_stack("waiting", secret_key="the same for all", **few)
        stack.worker(wait=False)
        stack.worker(wait=False, queues="gpu")
        (address,) = stack.up(workers=0)
        wait_for(
            lambda: all(" ready: " in worker.log for worker in stack.workers),
            "both workers are ready",
        )
        yield Waiting(stack, address, places)
    for proc in (*stack.workers, *stack.webs):
        assert "never retrieved" not in proc.log, proc.log


@pytest.fixture
async def client(waiting: Waiting) -> AsyncIterator[httpx.AsyncClient]:
    async with http(waiting.address) as client:
        yield client


async def told(
    client: httpx.AsyncClient, place: str, name: str, *args: Any, times: int = 1, **kwargs: Any
) -> Any:
    """What the callback in that place got from the task."""
    answer = await post(client, f"{place}.children", [name, args, kwargs, times])
    assert answer.status_code == 200, answer.text
    return written(answer)


@pytest.mark.parametrize("place", PLACES)
async def test_a_task_of_every_kind_from_every_place(client: httpx.AsyncClient, place: str) -> None:
    assert await told(client, place, "square", 3) == [9]
    assert await told(client, place, "square", 2, power=5) == [32]
    assert await told(client, place, "doubled", 4) == [8]
    assert await told(client, place, "negative", 4) == [-4]
    assert await told(client, place, "on_gpu") == ["gpu"]


@pytest.mark.parametrize("place", PLACES)
async def test_what_becomes_of_arguments_and_results(client: httpx.AsyncClient, place: str) -> None:
    (found,) = await told(client, place, "shapes")
    bold = {"props": {"children": "bold"}, "type": "B", "namespace": "dash_html_components"}
    assert found == {"tuple": [1, 2], "3": None, "date": "2026-01-02", "box": bold}
    (figure,) = await told(client, place, "figure")
    assert figure["data"][0]["type"] == "scatter"
    assert await told(client, place, "echo", {"a": [1, None, "é"]}) == [{"a": [1, None, "é"]}]
    large = "x" * 300_000
    assert await told(client, place, "echo", large) == [large]


@pytest.mark.parametrize("place", PLACES)
async def test_what_goes_wrong_is_an_error_that_says_it(
    client: httpx.AsyncClient, place: str
) -> None:
    said = await told(client, place, "fails", "for a reason")
    assert said.startswith("CallFailed: task:waiting:fails: ValueError: for a reason")
    assert "in fails\n    raise ValueError(why)" in said, "the traceback of the original"
    assert "binding.py" not in said, "and of nothing else"
    said = await told(client, place, "too_slow")
    assert said.startswith("CallTimedOut: task:waiting:too_slow: TimedOut: ")
    said = await told(client, place, "dies")
    assert said.startswith("WorkerLost: task:waiting:dies: WorkerLost: ")
    assert "exited with status 3" in said
    said = await told(client, place, "odd")
    assert "what the task waiting:odd returns (object) cannot be sent as JSON" in said
    said = await told(client, place, "plain")
    assert said == (
        "ConfigError: run(waiting:plain): it is no task; put @dash_dispatch.task above its def"
    )


@pytest.mark.parametrize("place", PLACES)
async def test_prevent_update_of_a_task_is_the_callbacks(
    client: httpx.AsyncClient, place: str
) -> None:
    answer = await post(client, f"{place}.children", ["prevents", [], {}, 1])
    assert answer.status_code == 204


async def test_what_cannot_be_sent_is_named(client: httpx.AsyncClient) -> None:
    first, second = written(await post(client, "object.children"))
    assert first.startswith("run(waiting:square): argument 2 (object) cannot be sent as JSON")
    assert second.startswith("run(waiting:square): argument 'x' (dict) cannot be sent as JSON")
    assert "set" in second


async def test_too_much_is_refused(make_stack: StackFactory) -> None:
    stack = make_stack("waiting", max_request_bytes="2000")
    (address,) = stack.up(workers=0)
    async with http(address) as client:
        said = written(await post(client, "long.children", 2000))
    assert said.startswith("PayloadTooLarge: the arguments have 20")
    assert "DASH_DISPATCH_MAX_REQUEST_BYTES" in said


async def test_an_error_that_nobody_catches_is_no_refusal(
    waiting: Waiting, client: httpx.AsyncClient
) -> None:
    """Its words are for the log: over plain HTTP a refusal's go to the browser."""
    answer = await post(client, "raises.children", "a secret detail")
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert (
        "CallFailed: task:waiting:fails: ValueError: a secret detail" in waiting.stack.webs[0].log
    )

    async with WebsocketClient(waiting.address) as browser:
        await browser.call("one", "raises.children", "a secret detail")
        outcome = await browser.outcome("one")
        assert outcome["status"] == "error"
        assert "secret" not in outcome["message"]


async def test_retries_are_the_tasks(client: httpx.AsyncClient) -> None:
    assert await told(client, "loop", "fails_once", "once") == ["the second time"]


async def test_run_sync_does_not_block_a_loop(client: httpx.AsyncClient) -> None:
    said = written(await post(client, "sync-on-loop.children"))
    assert said == "run_sync would block the event loop: write await run(...)"


# --- as many callbacks as there are slots, and all of them wait ----------------------------------


@pytest.mark.parametrize("place", ["loop", "thread", "process"])
@pytest.mark.parametrize("task", ["square", "doubled", "negative"])
async def test_those_who_wait_leave_their_slot_to_their_tasks(
    client: httpx.AsyncClient, place: str, task: str
) -> None:
    many = await asyncio.gather(*(told(client, place, task, 1, times=2) for _ in range(4)))
    assert len({str(found) for found in many}) == 1


async def test_tasks_that_wait_for_tasks(client: httpx.AsyncClient) -> None:
    assert await told(client, "loop", "factorial", 4) == [math.factorial(4)]


async def test_what_waits_for_itself_without_end_is_told(client: httpx.AsyncClient) -> None:
    said = await told(client, "loop", "without_end")
    assert "RuntimeError: 20 tasks wait for each other already" in said
    assert len(said) < 20_000, "an error does not grow by being passed on"


async def test_processes_that_were_lent_are_taken_back(waiting: Waiting) -> None:
    worker = psutil.Process(waiting.stack.workers[0].pid)

    def callers() -> int:
        server = next(child for child in worker.children() if child.children())
        return len(server.children())

    await eventually(lambda: callers() == 1, "one process, as before", 30)


# --- several workers -----------------------------------------------------------------------------


async def test_several_at_once_use_several_workers(make_stack: StackFactory) -> None:
    stack = make_stack("waiting", processes="1")
    (address,) = stack.up(workers=3)
    async with http(address) as client:
        pids = await told(client, "web-async", "pid", 1.0, times=3)
        assert len(set(pids)) == 3
        pids = await told(client, "thread", "pid", 1.0, times=3)
        assert len(set(pids)) == 3


# --- the end of who waits ------------------------------------------------------------------------


async def test_a_cancelled_caller_cancels_what_waits_in_the_queue(waiting: Waiting) -> None:
    redis, lane = waiting.stack.redis.client(), f"{waiting.stack.namespace}:waiting:nobody:loop"
    async with WebsocketClient(waiting.address) as browser:
        for place in ("loop", "process", "thread"):
            await browser.call(place, f"{place}.children", ["on_nobody", [], {}, 1])
            await eventually(lambda: redis.zcard(lane) == 1, "the task waits")
            await browser.cancel(place)
            await eventually(lambda: redis.zcard(lane) == 0, f"cancelled by the {place}", 10)


@pytest.mark.parametrize("place", ["web-async", "web-def", "loop", "process", "thread"])
async def test_a_caller_that_went_away_cancels_what_runs(waiting: Waiting, place: str) -> None:
    name = f"went-{place}"
    async with WebsocketClient(waiting.address) as browser:
        await browser.call("one", f"{place}.children", ["waits", [name], {}, 1])
        await eventually((waiting.places / f"{name}.begun").exists, "it runs")
        if place.startswith("web"):
            await browser.say({"type": "bye", "page": browser.page})
        else:
            await browser.cancel("one")
        await eventually((waiting.places / f"{name}.cancelled").exists, "it is cancelled", 10)


@pytest.mark.parametrize("callback", ["leaves", "process-leaves"])
async def test_what_a_callback_does_not_wait_for_ends_with_it(
    waiting: Waiting, client: httpx.AsyncClient, callback: str
) -> None:
    assert written(await post(client, f"{callback}.children", callback)) == "left"
    await eventually((waiting.places / f"{callback}.cancelled").exists, "it is cancelled", 10)


async def test_nothing_is_left_in_redis(waiting: Waiting, client: httpx.AsyncClient) -> None:
    redis, namespace = waiting.stack.redis.client(), waiting.stack.namespace

    def mailboxes() -> set[bytes]:
        return set(redis.scan_iter(f"{namespace}:mailbox:*"))

    before = mailboxes()
    assert await told(client, "loop", "square", 3, times=3) == [9, 9, 9]
    assert "ValueError" in await told(client, "process", "fails", "why")
    await eventually(lambda: mailboxes() <= before, "no mailbox is left", 10)


# --- cache ---------------------------------------------------------------------------------------


async def test_a_cached_task_is_computed_once(client: httpx.AsyncClient) -> None:
    found = [await told(client, place, "cached") for place in PLACES]
    assert len({str(values) for values in found}) == 1


async def test_a_cache_for_one_user_is_not_anothers(waiting: Waiting) -> None:
    async def of(cookie: str) -> Any:
        async with http(waiting.address) as client:
            client.cookies.set("user", cookie)
            return written(await post(client, "mine.children"))

    ann, bob, ann_again = await of("ann"), await of("bob"), await of("ann")
    assert ann == ann_again
    assert ann[0] != bob[0]
    assert ann[1] == bob[1]


# --- hooks ---------------------------------------------------------------------------------------


async def test_hooks_have_run_in_every_process_before_its_calls(
    waiting: Waiting, client: httpx.AsyncClient
) -> None:
    begun, own = written(await post(client, "begun.children"))
    assert begun == own
    for pid in (own, *(worker.pid for worker in waiting.stack.workers)):
        assert (waiting.places / f"begun.{pid}").exists()
    assert not (waiting.places / f"begun.{waiting.stack.webs[0].pid}").exists()


def notes(places: Path, word: str) -> set[str]:
    """What the hooks of all processes have said."""
    return {path.name.partition(".")[2] for path in places.glob(f"{word}.*")}


async def test_hooks_run_at_the_end_of_every_process(
    make_stack: StackFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLACES", str(tmp_path))
    stack = make_stack("waiting", processes="2")
    worker = stack.worker()
    begun = notes(tmp_path, "begun")
    assert str(worker.pid) in begun
    assert len(begun) == 3
    assert worker.terminate() == 0, worker.log
    ended = notes(tmp_path, "ended")
    assert ended == {f"{pid}.True" for pid in begun}, "each once, on the loop of its start"


@pytest.mark.parametrize(
    ("where", "source"),
    [
        ("main", "if multiprocessing.parent_process() is None: raise OSError('no such model')"),
        (
            "child",
            "if multiprocessing.parent_process() is not None: raise OSError('no such model')",
        ),
    ],
)
async def test_a_hook_that_fails_keeps_the_worker_from_starting(
    make_stack: StackFactory, where: str, source: str
) -> None:
    stack = make_stack("hooky")
    (stack.folder / "hooky.py").write_text(HOOKY.format(source=source))
    worker = stack.worker(wait=False)
    await eventually(lambda: worker.process.poll() is not None, "the worker ends", 40)
    assert worker.process.returncode not in (0, None)
    assert "on_worker_start: load failed: OSError: no such model" in worker.log
    assert " ready: " not in worker.log


HOOKY = """
import multiprocessing
from dash import Input, Output, html
from dash_dispatch import Dash, on_worker_start
app = Dash(__name__)
server = app.server
app.layout = html.Div(id="in")
@app.callback(Output("out", "children"), Input("in", "data"), offload=True)
def out(value):
    return value
@on_worker_start
def load():
    {source}
"""


# --- queues --------------------------------------------------------------------------------------


async def test_a_worker_never_takes_calls_of_a_queue_that_it_does_not_serve(
    make_stack: StackFactory,
) -> None:
    stack = make_stack("queues")
    (stack.folder / "queues.py").write_text(QUEUES)
    (address,) = stack.up()
    async with http(address) as client:
        gpu = [asyncio.create_task(post(client, "gpu.children", n)) for n in range(3)]
        lanes = [f"{stack.namespace}:waiting:gpu:{kind}" for kind in ("loop", "process")]
        redis = stack.redis.client()
        await eventually(lambda: redis.zcard(lanes[1]) == 3, "they wait")
        # Later ones of the worker's own queue pass them by.
        plain = [written(await post(client, "plain.children", n)) for n in range(5)]
        assert set(plain) == {stack.workers[0].pid}
        assert redis.zcard(lanes[1]) == 3
        special = stack.worker(queues="gpu,default")
        pids = {written(await answer) for answer in gpu}
        family = {child.pid for child in psutil.Process(special.pid).children(recursive=True)}
        assert pids <= family


async def test_processes_are_started_only_where_something_runs_in_them(
    make_stack: StackFactory,
) -> None:
    stack = make_stack("queues")
    (stack.folder / "queues.py").write_text(QUEUES)
    without = stack.worker(fresh=True)
    special = stack.worker(fresh=True, queues="gpu")
    assert not psutil.Process(without.pid).children(recursive=True)
    assert psutil.Process(special.pid).children(recursive=True)


QUEUES = """
import os
from dash import Input, Output, html
from dash_dispatch import Dash, Offload
app = Dash(__name__)
server = app.server
app.layout = html.Div(id="in")
@app.callback(Output("plain", "children"), Input("in", "data"), offload=True)
async def plain(value):
    return os.getpid()
@app.callback(Output("gpu", "children"), Input("in", "data"), offload=Offload(queue="gpu"))
def gpu(value):
    return os.getpid()
"""


# --- however the worker is started ---------------------------------------------------------------


@pytest.mark.parametrize("worker", ["process", "thread"])
async def test_with_the_embedded_worker(
    make_stack: StackFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, worker: str
) -> None:
    monkeypatch.setenv("PLACES", str(tmp_path))
    port = free_port()
    stack = make_stack("waiting")
    env = {name: value for name, value in stack.env().items() if "REDIS" not in name}
    env |= {"PORT": str(port), "DASH_DISPATCH_EMBEDDED_WORKER": worker}
    proc = stack.run("embedded", [sys.executable, str(APPS / "waiting.py")], env)
    async with http(f"http://127.0.0.1:{port}") as client:
        await eventually(lambda: _listens(port), "it serves")
        for place in PLACES:
            assert await told(client, place, "square", 3) == [9]
            assert await told(client, place, "doubled", 3) == [6]
        begun = notes(tmp_path, "begun")
        assert (str(proc.pid) in begun) == (worker == "thread")
        assert len(begun) == (1 if worker == "thread" else 3)
    proc.signal(signal.SIGINT)
    await eventually(lambda: proc.process.poll() is not None, "it ends")
    assert notes(tmp_path, "ended") == {f"{pid}.True" for pid in begun}


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def test_with_the_worker_of_the_command_line(make_stack: StackFactory) -> None:
    stack = make_stack("waiting")
    (address,) = stack.up(workers=0)
    command = [sys.executable, "-m", "dash_dispatch", "worker", "waiting:app"]
    proc = stack.run("worker", command)
    await eventually(lambda: " ready: " in proc.log, "the worker is ready")
    async with http(address) as client:
        for place in PLACES:
            assert await told(client, place, "square", 3) == [9]
