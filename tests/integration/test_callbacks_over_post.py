"""Callbacks over plain POST, as of curl and of browsers without our script."""

import asyncio
import hashlib
import json
import signal
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import psutil
import pytest

from tests.client import http, post, written
from tests.conftest import StackFactory
from tests.stack import Stack, body, eventually, text_in

UPDATE = "/_dash-update-component"


@pytest.fixture(scope="module")
def basic(make_shared_stack: StackFactory) -> Iterator[Stack]:
    stack = make_shared_stack("basic", processes="1", max_request_bytes="100000")
    stack.up(workers=2)
    yield stack
    assert_quiet(stack)


@pytest.fixture(scope="module")
def shapes(make_shared_stack: StackFactory) -> Iterator[Stack]:
    """One worker, for the default queue."""
    stack = make_shared_stack("shapes", processes="2", post_timeout_s="2", threads="3")
    stack.up()
    yield stack
    assert_quiet(stack, but="SystemExit")


def assert_quiet(stack: Stack, but: str = "") -> None:
    for web in stack.webs:
        assert "Traceback" not in web.log or (but and but in web.log), web.log


def address(stack: Stack) -> str:
    return f"http://127.0.0.1:{stack.webs[0].name.removeprefix('web-')}"


@pytest.fixture
async def client(basic: Stack) -> AsyncIterator[httpx.AsyncClient]:
    async with http(address(basic)) as client:
        yield client


@pytest.fixture
async def shaped(shapes: Stack) -> AsyncIterator[httpx.AsyncClient]:
    async with http(address(shapes)) as client:
        yield client


@pytest.fixture
def tag() -> str:
    return uuid.uuid4().hex[:8]


def children_of(stack: Stack) -> set[int]:
    """The workers and all below them."""
    found = {worker.pid for worker in stack.workers}
    for worker in stack.workers:
        found |= {child.pid for child in psutil.Process(worker.pid).children(recursive=True)}
    return found


# --- where it runs ------------------------------------------------------------------------------


@pytest.mark.parametrize(("output", "kind"), [("def", "process"), ("async", "loop")])
async def test_an_offloaded_callback_runs_in_a_worker(
    basic: Stack, client: httpx.AsyncClient, output: str, kind: str
) -> None:
    where, pid, value = written(await post(client, f"{output}.children", 5)).split()
    assert (where, value) == (kind, "5")
    assert int(pid) in children_of(basic)
    assert int(pid) != basic.webs[0].pid


async def test_a_thread_is_one_of_the_worker_itself(
    basic: Stack, client: httpx.AsyncClient
) -> None:
    _, pid, _ = written(await post(client, "thread.children")).split()
    assert int(pid) in {worker.pid for worker in basic.workers}


@pytest.mark.parametrize("output", ["plain", "plain-async"])
async def test_a_plain_callback_runs_in_the_web(
    basic: Stack, client: httpx.AsyncClient, output: str
) -> None:
    assert written(await post(client, f"{output}.children", 5)) == f"web {basic.webs[0].pid} 5"


async def test_five_megabytes_arrive_whole(client: httpx.AsyncClient) -> None:
    text = written(await post(client, "large.children", 5_000_000))
    assert hashlib.sha256(text.encode()).digest() == hashlib.sha256(b"x" * 5_000_000).digest()


# --- what is refused ----------------------------------------------------------------------------


async def test_an_unknown_callback_is_a_404(client: httpx.AsyncClient) -> None:
    answer = await post(client, "nobody.children")
    assert answer.status_code == 404
    assert "nobody.children" in answer.json()["error"]


GOOD = body("def.children", {"in.data": 1})
LOCAL = body("plain-async.children", {"in.data": 1})
DEEP = "[" * 5000 + "]" * 5000
MALFORMED: dict[str, bytes] = {
    "empty": b"",
    "not JSON": b"{output:",
    "invalid UTF-8": b'{"output":"\xff.children"}',
    "array": b"[]",
    "null": b"null",
    "number": b"1",
    "string": b'"def.children"',
    "no output": b"{}",
    "output is no string": json.dumps({**GOOD, "output": 1}).encode(),
    "output is null": json.dumps({**GOOD, "output": None}).encode(),
    "inputs are an object": json.dumps({**GOOD, "inputs": {}}).encode(),
    "inputs are null": json.dumps({**GOOD, "inputs": None}).encode(),
    "no inputs": json.dumps({**GOOD, "inputs": []}).encode(),
    "too many inputs": json.dumps({**GOOD, "inputs": GOOD["inputs"] * 2}).encode(),
    "an input that is a number": json.dumps({**GOOD, "inputs": [1]}).encode(),
    "an input that is null": json.dumps({**GOOD, "inputs": [None]}).encode(),
    "an input without a property": json.dumps({**GOOD, "inputs": [{"id": "in"}]}).encode(),
    "state nobody asked for": json.dumps({**GOOD, "state": GOOD["inputs"]}).encode(),
    "changed is a number": json.dumps({**GOOD, "changedPropIds": 1}).encode(),
    "changed has numbers": json.dumps({**GOOD, "changedPropIds": [1]}).encode(),
    "unfinished": json.dumps(GOOD).encode()[:-5],
    "two documents": json.dumps(GOOD).encode() * 2,
    "deep": DEEP.encode(),
    "deep value": json.dumps(LOCAL).replace(': 1}', f": {DEEP}}}").encode(),
    "half deep value": json.dumps(LOCAL).replace(': 1}', f": {DEEP[4500:5500]}}}").encode(),
    "a lone surrogate": json.dumps(LOCAL).replace(': 1}', ': "\\ud800"}').encode(),
    "not a number": json.dumps(LOCAL).replace(': 1}', ": NaN}").encode(),
    "a huge number": json.dumps(LOCAL).replace(': 1}', f": {'9' * 5000}}}").encode(),
}  # fmt: skip
FINE = {"half deep value", "a huge number"}
"""Odd, and allowed to be answered."""


@pytest.mark.parametrize("name", MALFORMED)
async def test_a_malformed_body_is_a_400(client: httpx.AsyncClient, name: str) -> None:
    headers = {"Content-Type": "application/json"}
    answer = await client.post(UPDATE, content=MALFORMED[name], headers=headers)
    assert answer.status_code == 400 or (name in FINE and answer.status_code == 200), answer.text
    assert "Traceback" not in answer.text


ODD: dict[str, dict[str, Any]] = {
    "an id that is a number": {"inputs": [{"id": 1, "property": "data", "value": 1}]},
    "an id that is a list": {"inputs": [{"id": [1], "property": "data", "value": 1}]},
    "an id that is null": {"inputs": [{"id": None, "property": "data", "value": 1}]},
    "a property that is a number": {"inputs": [{"id": "in", "property": 1, "value": 1}]},
    "a list in place of an input": {"inputs": [[{"id": "in", "property": "data", "value": 1}]]},
    "outputs that are a number": {"outputs": 1},
    "outputs that are a string": {"outputs": "plain"},
    "outputs that are a list": {"outputs": [GOOD["outputs"]]},
    "outputs that are missing": {"outputs": None},
    "outputs of somebody else": {"outputs": {"id": "in", "property": "data"}},
}


@pytest.mark.parametrize("output", ["plain-async.children", "async.children"])
@pytest.mark.parametrize("name", ODD)
async def test_an_odd_body_is_never_a_500(
    client: httpx.AsyncClient, name: str, output: str
) -> None:
    payload = {**body(output, {"in.data": 1}), **ODD[name]}
    answer = await client.post(UPDATE, json=payload)
    assert answer.status_code in (200, 204, 400), answer.text
    assert "Traceback" not in answer.text


async def test_too_large_a_body_is_a_413(client: httpx.AsyncClient) -> None:
    answer = await post(client, "def.children", "x" * 200_000)
    assert answer.status_code == 413
    assert "MAX_REQUEST_BYTES" in answer.json()["error"]


async def test_a_full_queue_is_a_503(make_stack: StackFactory, tag: str) -> None:
    stack = make_stack("shapes", max_queue="2")
    web = stack.web()
    async with http(web) as client:
        waiting = [asyncio.create_task(post(client, "held.children", tag)) for _ in range(2)]
        lane = f"{stack.namespace}:waiting:default:process"
        await eventually(lambda: stack.redis.client().zcard(lane) == 2, "both wait")

        answer = await post(client, "held.children", tag)

        assert answer.status_code == 503
        assert int(answer.headers["Retry-After"]) >= 1
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        # Their callers have gone: nobody wants them any more.
        await eventually(lambda: stack.redis.client().zcard(lane) == 0, "the queue is empty")


# --- how it ends --------------------------------------------------------------------------------


async def test_an_error_is_a_500_without_details(client: httpx.AsyncClient, basic: Stack) -> None:
    answer = await post(client, "raise.children", "the value")
    assert answer.status_code == 500
    for detail in ("secret", "ValueError", "the value", "basic.py", "Traceback"):
        assert detail not in answer.text
    logs = "".join(worker.log for worker in basic.workers)
    assert "ValueError: a secret detail" in logs
    assert "basic.py" in logs


async def test_the_dev_tools_show_the_users_traceback(make_stack: StackFactory) -> None:
    stack = make_stack("devtools")
    (web,) = stack.up()
    async with http(web) as client:
        answer = await post(client, "raise.children", 7)
    assert answer.status_code == 500
    assert "ValueError: a secret detail: 7" in answer.text
    assert "basic.py" in answer.text
    assert "in raises" in answer.text
    assert "dash_dispatch/" not in answer.text


async def test_no_update(client: httpx.AsyncClient) -> None:
    """As Dash answers it."""
    answer = await post(client, "none.children")
    assert (answer.status_code, answer.json()["response"]) == (200, {})


async def test_prevent_update(client: httpx.AsyncClient) -> None:
    answer = await post(client, "prevent.children")
    assert (answer.status_code, answer.content) == (204, b"")


async def test_a_time_limit_is_a_504_and_neighbours_go_on(client: httpx.AsyncClient) -> None:
    limited = asyncio.create_task(post(client, "limited.children"))
    for value in range(3):
        assert written(await post(client, "def.children", value)).endswith(str(value))
    answer = await limited
    assert answer.status_code == 504
    assert "0.3 s" in answer.text


async def test_a_post_waits_for_so_long_and_no_longer(
    shapes: Stack, shaped: httpx.AsyncClient, tag: str
) -> None:
    answer = await post(shaped, "held-async.children", tag)
    assert answer.status_code == 504
    assert "POST_TIMEOUT_S" in answer.text
    await eventually((shapes.folder / f"{tag}.cancelled").exists, "the call is cancelled")


async def test_a_caller_that_hangs_up_cancels(
    shapes: Stack, shaped: httpx.AsyncClient, tag: str
) -> None:
    call = asyncio.create_task(post(shaped, "held-async.children", tag))
    await eventually((shapes.folder / f"{tag}.started").exists, "it runs")
    call.cancel()
    await eventually((shapes.folder / f"{tag}.cancelled").exists, "the call is cancelled", 1.5)


@pytest.mark.parametrize(
    ("output", "value", "words"),
    [("exit", 3, "status 3"), ("exit", 0, "status 0"), ("segfault", 0, "SIGSEGV")],
)
async def test_a_process_that_ends_ends_its_call_alone(
    client: httpx.AsyncClient, output: str, value: int, words: str
) -> None:
    answer = await post(client, f"{output}.children", value)
    assert answer.status_code == 500
    assert words in answer.text
    for number in range(3):
        assert written(await post(client, "def.children", number)).endswith(f" {number}")


async def test_sys_exit_is_an_error_of_the_callback(client: httpx.AsyncClient) -> None:
    answer = await post(client, "sys-exit.children", 5)
    assert answer.status_code == 500
    assert written(await post(client, "async.children", 1)).endswith(" 1")


async def test_sys_exit_in_the_web_process_ends_nothing(
    shapes: Stack, shaped: httpx.AsyncClient
) -> None:
    assert (await post(shaped, "local-exit.children", 5)).status_code == 500
    assert written(await post(shaped, "local-async.children", 1)) == 1
    assert shapes.webs[0].process.poll() is None


async def test_a_process_killed_from_outside(
    shapes: Stack, shaped: httpx.AsyncClient, tag: str
) -> None:
    call = asyncio.create_task(post(shaped, "held.children", tag))
    pid = int(await eventually(lambda: text_in(shapes.folder / f"{tag}.started"), "it runs"))
    psutil.Process(pid).send_signal(signal.SIGKILL)
    answer = await call
    assert answer.status_code == 500
    assert "SIGKILL" in answer.text
    assert written(await post(shaped, "keyword.children", 1)) == {"keyword": 1}


async def test_a_time_limit_takes_the_whole_family(
    shapes: Stack, shaped: httpx.AsyncClient, tag: str
) -> None:
    answer = await post(shaped, "family.children", tag)
    assert answer.status_code == 504
    pid = int(text_in(shapes.folder / f"{tag}.child"))
    await eventually(lambda: not psutil.pid_exists(pid), "the grandchild is gone")


async def test_a_megabyte_of_prints(shaped: httpx.AsyncClient) -> None:
    assert written(await post(shaped, "noisy.children")) == "printed"


# --- what it means ------------------------------------------------------------------------------


async def test_the_context_is_that_of_the_request(client: httpx.AsyncClient) -> None:
    answer = await client.post(
        f"{UPDATE}?a=1",
        json=body(
            "ctx.children",
            {"in.data": 1},
            state=[{"id": "shape", "property": "children", "value": "square"}],
        ),
        headers={"X-Test": "head", "Cookie": "flavour=salt"},
    )
    seen = written(answer)
    assert seen["triggered"] == "in"
    assert seen["cookies"] == {"flavour": "salt"}
    assert seen["header"] == "head"
    assert seen["path"].startswith(UPDATE)
    assert seen["remote"] == "127.0.0.1"
    assert seen["state"] == "square"


async def test_several_outputs(shaped: httpx.AsyncClient) -> None:
    payload = {
        **body("two.children", {"in.data": 4}),
        "output": "..two.children...three.title..",
        "outputs": [{"id": "two", "property": "children"}, {"id": "three", "property": "title"}],
    }
    answer = await shaped.post(UPDATE, json=payload)
    assert answer.json()["response"] == {"two": {"children": 4}, "three": {"title": "title 4"}}


async def test_patch(shaped: httpx.AsyncClient) -> None:
    answer = await post(shaped, "list.data", 9)
    patch = answer.json()["response"]["list"]["data"]
    assert patch["operations"] == [{"operation": "Append", "location": [], "params": {"value": 9}}]


async def test_wildcards(shaped: httpx.AsyncClient) -> None:
    def part(kind: str, index: int, value: str) -> dict[str, Any]:
        return {"id": {"kind": kind, "index": index}, "property": "value", "value": value}

    payload = {
        "output": '{"index":["MATCH"],"kind":"out"}.children',
        "outputs": {"id": {"index": 3, "kind": "out"}, "property": "children"},
        "inputs": [part("in", 3, "here")],
        "state": [[part("all", 0, "a"), part("all", 1, "b")]],
        "changedPropIds": ['{"index":3,"kind":"in"}.value'],
    }
    answer = await shaped.post(UPDATE, json=payload)
    (props,) = answer.json()["response"].values()
    assert props == {"children": "3: here of ['a', 'b']"}


async def test_cookies_and_headers_reach_the_response(shaped: httpx.AsyncClient) -> None:
    answer = await post(shaped, "cookies.children", 8)
    assert written(answer) == "set"
    assert "seen=8" in answer.headers["Set-Cookie"]
    assert "HttpOnly" in answer.headers["Set-Cookie"]
    assert answer.headers["X-Seen"] == "8"


async def test_set_props_comes_along(shaped: httpx.AsyncClient) -> None:
    answer = await post(shaped, "props.children", "red")
    assert answer.json()["sideUpdate"] == {"shown": {"children": "red"}}


async def test_a_callback_without_outputs(shaped: httpx.AsyncClient) -> None:
    known = (await shaped.get("/_dash-dependencies")).json()
    (entry,) = [each for each in known if each["no_output"]]
    payload = {**body("x.y", {"in.data": "blue"}), "output": entry["output"], "outputs": []}
    answer = await shaped.post(UPDATE, json=payload)
    assert answer.json()["sideUpdate"] == {"shown": {"children": "blue"}}


async def test_on_error_of_the_app(shaped: httpx.AsyncClient) -> None:
    answer = await post(shaped, "handled.children")
    assert answer.json()["sideUpdate"] == {"shown": {"children": "app: broken"}}


async def test_on_error_of_the_callback(shaped: httpx.AsyncClient) -> None:
    assert written(await post(shaped, "handled-here.children")) == "callback: broken"


# --- in the web process -------------------------------------------------------------------------


async def test_def_callbacks_run_beside_the_loop_in_a_bounded_pool(
    shapes: Stack, shaped: httpx.AsyncClient, tag: str
) -> None:
    """Three threads: three run, the fourth waits, and the loop answers all the while."""
    calls = [
        asyncio.create_task(post(shaped, "local-held.children", f"{tag}{number}"))
        for number in range(4)
    ]

    def started() -> int:
        return len(list(shapes.folder.glob(f"{tag}*.started")))

    await eventually(lambda: started() == 3, "three run")
    for value in range(10):
        assert written(await post(shaped, "local-async.children", value)) == value
    assert started() == 3

    for number in range(4):
        (shapes.folder / f"{tag}{number}.go").touch()
    for number, call in enumerate(calls):
        assert written(await call) == f"{tag}{number}"


async def test_context_variables_reach_the_thread(shaped: httpx.AsyncClient) -> None:
    assert written(await post(shaped, "local-context.children")) == "this request"


# --- kinds of apps ------------------------------------------------------------------------------


async def test_queues_have_their_workers(shapes: Stack, shaped: httpx.AsyncClient) -> None:
    """A call waits for a worker of its queue, and another one's does not take it."""
    call = asyncio.create_task(post(shaped, "cpu.children"))
    lane = f"{shapes.namespace}:waiting:cpu:process"
    await eventually(lambda: shapes.redis.client().zcard(lane) == 1, "it waits")
    call.cancel()
    worker = shapes.worker(queues="cpu, gpu")
    try:
        pid = written(await post(shaped, "cpu.children"))
        assert pid in {child.pid for child in psutil.Process(worker.pid).children(recursive=True)}
    finally:
        worker.end()
        shapes.workers.remove(worker)


async def test_an_app_with_a_server_a_prefix_pages_and_compression(
    make_stack: StackFactory,
) -> None:
    stack = make_stack("dressed", prefix="/sub")
    (web,) = stack.up()
    async with http(web) as client:
        assert (await client.get("/own")).text == "a route of the user's"
        index = await client.get("/sub/report")
        assert index.status_code == 200
        config = json.loads(index.text.split("_dash-config")[1].split(">")[1].split("<")[0])
        assert config["websocket"]["worker_url"].startswith("/sub/_dash-dispatch/worker.")
        answer = await post(client, "big.children", 50_000, prefix="/sub/")
        assert written(answer) == "x" * 50_000
        assert answer.headers["Content-Encoding"] in ("br", "gzip", "zstd", "deflate")
        for output in ("paged", "paged-thread"):
            pid, value = written(
                await post(client, f"{output}.children", 3, prefix="/sub/")
            ).split()
            assert value == "3"
            assert int(pid) in children_of(stack)
        (page,) = [part for part in index.text.split('"') if "_dash-dispatch/page" in part]
        for script in (page, config["websocket"]["worker_url"]):
            assert (await client.get(script)).status_code == 200


async def test_an_app_from_a_factory(make_stack: StackFactory) -> None:
    stack = make_stack("factory")
    web = stack.web()
    stack.worker(app="factory:create()")
    async with http(web) as client:
        assert written(await post(client, "made.children", 2)) == "made 2"
