"""Generators as callbacks over real connections: shown as they come, ended when not wanted."""

import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from tests.client import Client, LongPollClient, WebsocketClient, http, post, written
from tests.conftest import StackFactory
from tests.stack import Stack, body, eventually

PLACES = ["process", "thread", "loop", "local-thread", "local-loop"]
in_every_place = pytest.mark.parametrize("place", PLACES)


@pytest.fixture(scope="module")
def stack(make_shared_stack: StackFactory) -> Iterator[Stack]:
    made = make_shared_stack("streams", processes="2", poll_hold_s="1.5")
    made.up()
    yield made
    for proc in made.webs:
        assert "Task exception was never retrieved" not in proc.log, proc.log


@pytest.fixture
def address(stack: Stack) -> str:
    port = stack.webs[0].name.removeprefix("web-")
    return f"http://127.0.0.1:{port}"


@pytest.fixture(params=[WebsocketClient, LongPollClient], ids=["websocket", "longpoll"])
def client(request: pytest.FixtureRequest, address: str) -> Client:
    made: Client = request.param(address)
    return made


@pytest.fixture
def tag() -> str:
    return uuid.uuid4().hex[:8]


def two_outputs(place: str, value: Any) -> dict[str, Any]:
    names = [f"{place}-a", f"{place}-b"]
    return {
        **body(f"{names[0]}.data", {"in.data": value}),
        "output": f"..{names[0]}.data...{names[1]}.data..",
        "outputs": [{"id": name, "property": "data"} for name in names],
    }


def shown(client: Client) -> list[tuple[str, Any]]:
    """Component and value of each update, in order."""
    return [
        (update["payload"]["componentId"], value)
        for update in client.seen.updates
        for value in update["payload"]["props"].values()
    ]


def appended(value: Any) -> Any:
    (operation,) = value["operations"]
    assert operation["operation"] == "Append"
    return operation["params"]["value"]


@in_every_place
async def test_all_yields_arrive_in_order(client: Client, place: str) -> None:
    async with client:
        await client.ask("r", two_outputs(place, 20))
        outcome = await client.outcome("r")
    assert outcome == {"status": "ok", "data": {"multi": True, "response": {}}}
    steps, patches = shown(client)[:40], shown(client)[40:]
    assert steps == [
        item
        for step in range(20)
        for item in (("shape", step), (f"{place}-a", {"step": step, "all": []}))
    ]
    assert [appended(value) for component, value in patches if component == f"{place}-a"] == [
        0,
        1,
        2,
    ]
    assert [value for component, value in patches if component == f"{place}-b"] == ["in"] * 3


@in_every_place
async def test_over_post_the_end_is_the_same(address: str, place: str) -> None:
    async with http(address) as caller:
        answer = await caller.post("/_dash-update-component", json=two_outputs(place, 5))
    assert answer.status_code == 200
    told = answer.json()
    assert told["sideUpdate"] == {
        "shape": {"children": 4},
        f"{place}-a": {"data": {"step": 4, "all": []}},
    }
    operations = told["response"][f"{place}-a"]["data"]["operations"]
    assert [operation["params"]["value"] for operation in operations] == [0, 1, 2]
    assert told["response"][f"{place}-b"] == {"data": "in"}


@in_every_place
async def test_a_yield_is_shown_while_the_callback_goes_on(
    stack: Stack, client: Client, place: str, tag: str
) -> None:
    async with client:
        await client.call("r", f"{place}-holds.children", tag)
        await client.until(lambda: client.props == [f"{tag} begun"], "the first yield")
        assert "r" not in client.seen.outcomes
        (stack.folder / f"{tag}.go").touch()
        assert (await client.outcome("r"))["status"] == "ok"
        assert client.props == [f"{tag} begun", f"{tag} ended"]
    assert (stack.folder / f"{tag}.closed").exists()


@pytest.mark.parametrize(
    ("place", "end"),
    [
        # In a process it is killed; and a worker's calls go on when their page has gone.
        *((place, "cancel") for place in PLACES if place != "process"),
        ("local-thread", "leave"),
        ("local-loop", "leave"),
    ],
)
async def test_a_generator_that_is_not_wanted_any_more_is_closed(
    stack: Stack, address: str, place: str, tag: str, end: str
) -> None:
    async with WebsocketClient(address) as client:
        await client.call("r", f"{place}-endless.children", tag)
        await eventually((stack.folder / f"{tag}.started").exists, "it streams")
        if end == "cancel":
            await client.cancel("r")
        else:
            await client.say({"type": "bye", "page": client.page})
        await eventually((stack.folder / f"{tag}.closed").exists, "it is closed")


@pytest.mark.parametrize("place", ["local-thread", "local-loop"])
async def test_a_newer_run_in_the_web_process_takes_the_place_of_an_older(
    stack: Stack, client: Client, place: str, tag: str
) -> None:
    async with client:
        await client.call("old", f"{place}-endless.children", f"{tag}-old")
        await client.until(lambda: f"{tag}-old" in client.props, "the older one streams")
        await client.call("new", f"{place}-holds.children", tag)
        await client.call("newer", f"{place}-endless.children", f"{tag}-new")
        await client.until(lambda: f"{tag}-new" in client.props, "the newer one streams")
        await eventually((stack.folder / f"{tag}-old.closed").exists, "the older one is closed")
        newest = client.props.index(f"{tag}-new")
        assert f"{tag}-old" not in client.props[newest:]
        assert "new" not in client.seen.outcomes, "another callback goes on"
        await client.say({"type": "bye", "page": client.page})
        await eventually((stack.folder / f"{tag}-new.closed").exists, "the newer one is closed")


@in_every_place
async def test_prevent_update_ends_quietly(client: Client, address: str, place: str) -> None:
    async with client:
        await client.call("r", f"{place}-fails.children", "prevent")
        assert await client.outcome("r") == {"status": "prevent_update"}
        assert client.props == ["one"]
    async with http(address) as caller:
        assert written(await post(caller, f"{place}-fails.children", "prevent")) == "one"


@in_every_place
async def test_an_error_after_a_yield(client: Client, address: str, place: str) -> None:
    async with client:
        for request, kind in (("r", "value"), ("s", "shape")):
            await client.call(request, f"{place}-fails.children", kind)
            assert (await client.outcome(request))["status"] == "error"
        assert client.props == ["one", "one"]
    async with http(address) as caller:
        assert (await post(caller, f"{place}-fails.children", "value")).status_code == 500


@in_every_place
async def test_on_error_has_the_last_word(client: Client, address: str, place: str) -> None:
    async with client:
        await client.call("r", f"{place}-handled.children", "value")
        assert await client.children("r") == "handled: a user's words"
        assert client.props == ["one"]
    async with http(address) as caller:
        answer = await post(caller, f"{place}-handled.children", "value")
        assert written(answer) == "handled: a user's words"
