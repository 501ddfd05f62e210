"""``dash.hooks.custom_data`` for offloaded callbacks: asked where the request is."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import msgspec
import orjson
import pytest
from dash import Input, Output, ctx, hooks, html

from dash_dispatch import Dash, Settings, bridge
from dash_dispatch.errors import CallFailed
from dash_dispatch.protocol import RequestSnapshot
from dash_dispatch.store import Store
from dash_dispatch.submit import Asked, Submitter
from dash_dispatch.threads import Threads
from tests.stack import body

# Never connected to.
SETTINGS = Settings(redis_url="redis://localhost:1", secret_key="a secret for tests only")
request: ContextVar[str] = ContextVar("request")
Hook = Callable[[str, Callable[[Any], Any]], None]


@pytest.fixture
def hook() -> Iterator[Hook]:
    """Registers hooks for one test."""
    known = hooks._ns["custom_data"]

    def register(name: str, function: Callable[[Any], Any]) -> None:
        hooks.custom_data(name)(function)

    hooks._ns["custom_data"] = []
    yield register
    hooks._ns["custom_data"] = known


@pytest.fixture
def app() -> Dash:
    made = Dash("custom_data_hooks", dispatch_settings=SETTINGS)
    made.layout = html.Div(id="out")

    @made.callback(Output("out", "children"), Input("in", "value"), offload=True)
    def run(value: Any) -> Any:
        return [value, ctx.custom_data]

    bridge.ready(made)
    return made


ASKED = orjson.dumps(body("out.children", {"in.value": 7}))


async def snapshot_of(app: Dash) -> RequestSnapshot:
    submitter = Submitter(app, Store(SETTINGS), SETTINGS, Threads(1))
    given = RequestSnapshot(cookies={"k": "v"})
    return await submitter._with_custom_data("call", Asked(app, ASKED, 10_000), given)


async def test_hooks_see_the_request_from_a_thread(app: Dash, hook: Hook) -> None:
    request.set("here")
    hook("a", lambda g: [request.get(), g.cookies["k"], g.inputs_list[0]["value"]])
    hook("b", lambda _: {"thread": threading.current_thread() is threading.main_thread()})
    found = await snapshot_of(app)
    assert orjson.loads(found.custom_data) == {"a": ["here", "v", 7], "b": {"thread": False}}


async def test_a_worker_has_what_they_said_and_does_not_ask(app: Dash, hook: Hook) -> None:
    asked: list[Any] = []

    def counts(context: Any) -> Any:
        asked.append(context)
        return 1, None

    hook("a", counts)
    snapshot = msgspec.json.decode(
        msgspec.json.encode(await snapshot_of(app)), type=RequestSnapshot
    )
    invocation = bridge.bind(app, Asked(app, ASKED, 10_000).body, snapshot, None)
    text = await asyncio.to_thread(invocation.run)
    assert orjson.loads(text)["response"]["out"]["children"] == [7, {"a": [1, None]}]
    assert len(asked) == 1


async def test_what_json_cannot_carry_is_said(app: Dash, hook: Hook) -> None:
    hook("odd", lambda _: object())
    with pytest.raises(CallFailed, match=r"custom_data hook 'odd': its value \(object\) goes to"):
        await snapshot_of(app)


async def test_an_app_without_hooks_asks_nobody(app: Dash, hook: Hook) -> None:
    assert (await snapshot_of(app)).custom_data == ""
