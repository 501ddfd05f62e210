"""``background=True`` without a manager: progress, cancel and the rest, pushed and not polled."""

import uuid
from typing import Any

import httpx
import pytest

from tests.client import Client, LongPollClient, WebsocketClient, http, post, written
from tests.conftest import StackFactory
from tests.stack import Stack, body, eventually

PLACES = ["process", "thread", "loop"]
in_every_place = pytest.mark.parametrize("place", PLACES)


@pytest.fixture(scope="module")
def stack(make_shared_stack: StackFactory) -> Stack:
    made = make_shared_stack("background", processes="2", poll_hold_s="1.5")
    made.up()
    return made


@pytest.fixture
def address(stack: Stack) -> str:
    return f"http://127.0.0.1:{stack.webs[0].name.removeprefix('web-')}"


@pytest.fixture(params=[WebsocketClient, LongPollClient], ids=["websocket", "longpoll"])
def client(request: pytest.FixtureRequest, address: str) -> Client:
    made: Client = request.param(address)
    return made


@pytest.fixture
def tag() -> str:
    return uuid.uuid4().hex[:8]


def shown(client: Client, component: str, prop: str) -> list[Any]:
    """All values of a property, in order."""
    payloads = [update["payload"] for update in client.seen.updates]
    return [
        p["props"][prop] for p in payloads if p["componentId"] == component and prop in p["props"]
    ]


# --- progress ------------------------------------------------------------------------------------


@in_every_place
async def test_all_reports_arrive_in_order(client: Client, place: str) -> None:
    """With components and patches inside."""
    async with client:
        await client.call("r", f"{place}.children", 20)
        assert await client.children("r") == "20 steps"
    assert shown(client, "bar", "value") == list(range(20))
    assert shown(client, "bar", "max") == [20] * 20
    *words, patch = shown(client, "words", "children")
    assert [word["props"]["children"] for word in words] == [f"step {n}" for n in range(20)]
    assert patch["operations"][0]["params"] == {"value": "patched"}


async def test_over_post_only_the_end_is_seen(address: str) -> None:
    async with http(address) as caller:
        with_default = await post(caller, "process.children", 3)
        without = await post(caller, "thread.children", 3)
    assert written(with_default) == written(without) == "3 steps"
    assert "sideUpdate" not in with_default.json(), "what is due at the end stays"
    assert without.json()["sideUpdate"]["bar"] == {"value": 2, "max": 3}


async def test_an_error_comes_after_the_reports(client: Client) -> None:
    async with client:
        await client.call("r", "breaks.children")
        assert (await client.outcome("r"))["status"] == "error"
    assert shown(client, "words", "children") == ["so far"]


async def test_the_browser_is_told_what_is_due_when_nothing_runs(address: str) -> None:
    async with http(address) as caller:
        specs = (await caller.get("/_dash-dependencies")).json()
    spec = next(spec for spec in specs if spec["output"] == "process.children")
    assert spec["running"] == {
        "running": {"run.disabled": True},
        "runningOff": {
            "run.disabled": False,
            "bar.value": 0,
            "bar.max": 1,
            "words.children": "",
        },
    }
    assert spec["background"] is None
    assert spec["dispatch"] == {"overlap": "latest"}


@in_every_place
async def test_a_tqdm_loop_is_progress(client: Client, place: str) -> None:
    async with client:
        await client.call("r", f"tqdm-{place}.children", 5)
        assert await client.children("r") == 5
    values = shown(client, "bar", "value")
    assert values == sorted(values)
    assert set(values) == set(range(6))
    assert set(shown(client, "bar", "max")) == {5}, "the loop inside does not count"
    assert shown(client, "words", "children")[-1] == "100%"


async def test_tqdm_loops_at_once_keep_to_their_own_page(address: str) -> None:
    async with WebsocketClient(address) as one, WebsocketClient(address) as other:
        for place in PLACES:
            await one.call(f"r-{place}", f"tqdm-{place}.children", 4)
            await other.call(f"r-{place}", f"tqdm-{place}.children", 6)
        for place in PLACES:
            assert await one.children(f"r-{place}") == 4
            assert await other.children(f"r-{place}") == 6
        assert set(shown(one, "bar", "max")) == {4}
        assert set(shown(other, "bar", "max")) == {6}


# --- wildcards -----------------------------------------------------------------------------------


def of(kind: str, index: int) -> dict[str, Any]:
    return {"kind": kind, "index": index}


def instance(index: int, tag: str) -> dict[str, Any]:
    """A request of the MATCH callback."""
    run = {"id": of("run", index), "property": "n_clicks", "value": 1}
    return {
        "output": '{"index":["MATCH"],"kind":"result"}.children',
        "outputs": {"id": of("result", index), "property": "children"},
        "inputs": [run],
        "state": [{"id": of("tag", index), "property": "data", "value": tag}],
        "changedPropIds": [f'{{"index":{index},"kind":"run"}}.n_clicks'],
    }


async def cancel_output(caller: httpx.AsyncClient, component: str) -> str:
    """The id of the hidden callback that this Cancel button calls."""
    specs = (await caller.get("/_dash-dependencies")).json()
    outputs: list[str] = [spec["output"] for spec in specs]
    return next(output for output in outputs if output.startswith(f"{component}.id@"))


async def test_progress_and_cancel_of_an_instance(
    stack: Stack, address: str, client: Client, tag: str
) -> None:
    tags = [f"{tag}-{index}" for index in (1, 2)]
    async with http(address) as caller:
        stop = await cancel_output(caller, '{"index":["MATCH"],"kind":"stop"}')
    async with client:
        for index, name in enumerate(tags, 1):
            await client.ask(f"r{index}", instance(index, name))
        await client.until(lambda: len(client.seen.updates) == 2, "both have begun")
        bars = ['{"index":1,"kind":"bar"}', '{"index":2,"kind":"bar"}']
        assert [shown(client, bar, "value") for bar in bars] == [[name] for name in tags]

        pressed = {
            "output": stop,
            "outputs": {"id": of("stop", 1), "property": "id"},
            "inputs": [{"id": of("stop", 1), "property": "n_clicks", "value": 1}],
            "changedPropIds": ['{"index":1,"kind":"stop"}.n_clicks'],
        }
        await client.ask("stop", pressed)
        assert (await client.outcome("r1"))["status"] == "prevent_update"
        assert "r2" not in client.seen.outcomes
        (stack.folder / f"{tags[1]}.go").touch()
        assert await client.children("r2") == tags[1]


# --- the context ---------------------------------------------------------------------------------


async def test_a_thread_can_ask_whether_it_is_cancelled(
    stack: Stack, address: str, tag: str
) -> None:
    async with WebsocketClient(address) as client:
        await client.call("r", "polite.children", tag)
        await eventually((stack.folder / f"{tag}.started").exists, "it runs")
        assert not (stack.folder / f"{tag}.cancelled").exists()
        await client.cancel("r")
        await eventually((stack.folder / f"{tag}.cancelled").exists, "it is told")


async def test_what_a_call_is_told_of_itself(client: Client, address: str) -> None:
    async with client:
        await client.call("r", "told.children")
        call, attempt, worker, cancelled, triggered = await client.children("r")
    assert len(call) > 10
    assert worker
    assert (attempt, cancelled, triggered) == (1, False, "in")
    async with http(address) as caller:
        again, attempt, worker, *_ = written(await post(caller, "told.children"))
    assert again != call
    assert worker
    assert attempt == 1


@pytest.mark.parametrize("output", ["cookie.children", "local-cookie.children"])
async def test_a_cookie_that_nothing_can_carry_is_an_error(
    stack: Stack, client: Client, address: str, output: str
) -> None:
    async with client:
        await client.call("r", output, 7)
        assert (await client.outcome("r"))["status"] == "error"
    logs = "".join(proc.log for proc in [*stack.webs, *stack.workers])
    assert "the cookie 'baked' cannot be sent" in logs
    async with http(address) as caller:
        answer = await post(caller, output, 7)
    assert written(answer) == "set"
    assert answer.cookies["baked"] == "7"


# --- with a manager ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["of-app", "of-page"])
async def test_with_a_manager_it_is_dashs_own_way(make_stack: StackFactory, name: str) -> None:
    """By ``app.callback`` and by ``callback``: a job, polled over plain HTTP, and no worker."""
    address = make_stack("managed").web()
    async with http(address) as caller:
        specs = (await caller.get("/_dash-dependencies")).json()
        spec = next(spec for spec in specs if spec["output"] == f"{name}.children")
        assert spec["background"] == {"interval": 1000}
        assert "dispatch" not in spec

        job = (await post(caller, f"{name}.children", 4)).json()
        assert job["progressDefault"] == {"bar.value": 1}
        handles = {"cacheKey": job["cacheKey"], "job": job["job"]}
        polled = await caller.post(
            "/_dash-update-component",
            params=handles,
            json=body(f"{name}.children", {"in.data": None}),
        )
        assert polled.json()["progress"] == {"bar.value": 4}
        assert written(polled) == [5, "/_dash-update-component?"]
