"""Generators as callbacks, as far as it needs no connection: shapes, order, ends."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from dash import ALL, Input, Output, Patch, _callback, ctx, html, no_update, set_props
from dash.exceptions import InvalidCallbackReturnValue, PreventUpdate

from dash_dispatch import Dash, Settings, bridge
from dash_dispatch.protocol import CallbackBody, RequestSnapshot

IN = Input("in", "value")
Send = Callable[[Any], None]


@pytest.fixture(autouse=True)
def no_global_callbacks() -> Iterator[None]:
    yield
    _callback.GLOBAL_CALLBACK_MAP.clear()
    _callback.GLOBAL_CALLBACK_LIST.clear()


@pytest.fixture
def app() -> Dash:
    made = Dash("streaming", dispatch_settings=Settings(redis_url=None))
    made.layout = html.Div()
    return made


class Sink:
    """Keeps what it is sent, as JSON; and may be told that nobody listens any more."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str, Any]] = []
        self.is_shutdown = False
        self.room = asyncio.Event()
        self.room.set()

    def set_prop_sync(self, component_id: str, prop_name: str, value: Any) -> None:
        text = json.loads(bridge.encode_props(component_id, prop_name, value))
        self.sent.append((component_id, prop_name, text["props"][prop_name]))

    async def set_prop(self, component_id: str, prop_name: str, value: Any) -> None:
        self.set_prop_sync(component_id, prop_name, value)
        await self.room.wait()

    async def get_prop(self, component_id: str, prop_name: str, timeout: float = 30.0) -> Any:  # noqa: ASYNC109 - Dash's signature
        raise NotImplementedError


def bind(app: Dash, sink: Sink | None, outputs: Any = None) -> bridge.Invocation:
    """The app's one callback with the input ``in.value`` = 2."""
    bridge.ready(app)
    ((name, entry),) = app.callback_map.items()
    declared = entry["output"]
    if outputs is None and declared:
        items = declared if isinstance(declared, list) else [declared]
        made = [{"id": o.component_id, "property": o.component_property} for o in items]
        outputs = made if isinstance(declared, list) else made[0]
    inputs = [{"id": "in", "property": "value", "value": 2}]
    body = CallbackBody(name, outputs, inputs, None, ["in.value"])
    call = bridge.CallInfo("id", sink=sink)
    return bridge.bind(app, body, RequestSnapshot(), sink, call)


def run(app: Dash, sink: Sink | None, outputs: Any = None) -> dict[str, Any]:
    invocation = bind(app, sink, outputs)
    text = asyncio.run(invocation.run()) if invocation.is_async else invocation.run()
    answer: dict[str, Any] = json.loads(text)
    return answer


def of_both_kinds(function: Callable[..., Iterator[Any]]) -> list[Callable[..., Any]]:
    """A generator, and an ``async`` one that does the same."""

    async def asynchronous(*args: Any) -> Any:
        for value in function(*args):
            yield value

    asynchronous.__name__ = function.__name__
    return [function, asynchronous]


def by_kind(function: Callable[..., Iterator[Any]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("function", of_both_kinds(function), ids=["sync", "async"])


# --- shapes --------------------------------------------------------------------------------------


def counts(value: int) -> Iterator[Any]:
    yield from range(value)
    yield no_update
    yield html.B("x")


@by_kind(counts)
def test_each_yield_is_sent_when_it_comes(app: Dash, function: Any) -> None:
    sink = Sink()
    app.callback(Output("a", "children"), IN, offload=True)(function)
    answer = run(app, sink)
    bold = {"props": {"children": "x"}, "type": "B", "namespace": "dash_html_components"}
    assert sink.sent == [("a", "children", 0), ("a", "children", 1), ("a", "children", bold)]
    assert answer == {"multi": True, "response": {}}


@by_kind(counts)
def test_without_a_connection_the_last_one_is_the_response(app: Dash, function: Any) -> None:
    app.callback(Output("a", "children"), IN, offload=True)(function)
    assert run(app, None)["response"]["a"]["children"]["type"] == "B"


def pairs(_: int) -> Iterator[Any]:
    yield 1, no_update
    yield [no_update, 2]
    yield no_update
    yield {"x": 1}, None


@by_kind(pairs)
@pytest.mark.parametrize("connected", [True, False])
def test_several_outputs(app: Dash, function: Any, connected: bool) -> None:
    sink = Sink()
    app.callback([Output("a", "p"), Output("b", "q")], IN)(function)
    answer = run(app, sink if connected else None)
    if connected:
        assert sink.sent == [("a", "p", 1), ("b", "q", 2), ("a", "p", {"x": 1}), ("b", "q", None)]
        assert answer["response"] == {}
    else:
        assert answer["response"] == {"a": {"p": {"x": 1}}, "b": {"q": None}}


def test_outputs_with_names_and_wildcards(app: Dash) -> None:
    sink = Sink()
    every = {"kind": "row", "index": ALL}

    @app.callback(
        output={"one": Output("a", "p"), "rest": [Output(every, "q"), Output("c", "r")]},
        inputs={"value": IN},
    )
    def function(value: int) -> Iterator[Any]:
        yield {"one": value, "rest": [[1, no_update], 3]}

    rows = [{"id": {"index": index, "kind": "row"}, "property": "q"} for index in (0, 1)]
    outputs = [{"id": "a", "property": "p"}, rows, {"id": "c", "property": "r"}]
    run(app, sink, outputs)
    row = '{"index":0,"kind":"row"}'
    assert sink.sent == [("a", "p", 2), (row, "q", 1), ("c", "r", 3)]


def patches(_: int) -> Iterator[Any]:
    patch = Patch()
    patch["k"] = 1
    yield patch
    patch["k"] = 2
    yield patch
    yield {"k": 0}
    last = Patch()
    last["k"] += 5
    yield last


@by_kind(patches)
def test_patches_are_applied_one_by_one(app: Dash, function: Any) -> None:
    sink = Sink()
    app.callback(Output("a", "figure"), IN)(function)
    run(app, sink)
    assert [len(value.get("operations", "")) for _, _, value in sink.sent] == [1, 2, 0, 1]


@by_kind(patches)
def test_without_a_connection_patches_come_on_top(app: Dash, function: Any) -> None:
    app.callback(Output("a", "figure"), IN)(function)
    answer = run(app, None)
    assert answer["sideUpdate"] == {"a": {"figure": {"k": 0}}}
    (operation,) = answer["response"]["a"]["figure"]["operations"]
    assert operation["operation"] == "Add"


@pytest.mark.parametrize(
    ("outputs", "value", "words"),
    [
        (
            [Output("a", "p"), Output("b", "q")],
            1,
            "value of type <class 'int'>",
        ),
        ([Output("a", "p"), Output("b", "q")], (1, 2, 3), r"Output `a\.p`"),
        ([Output("a", "p"), Output("b", "q")], None, "value of type <class 'NoneType'>"),
        ([], 1, "No-output callback received return value"),
        (Output("a", "p"), object(), "not JSON serializable"),
    ],
)
@pytest.mark.parametrize("connected", [True, False])
def test_a_value_of_a_wrong_shape(
    app: Dash, outputs: Any, value: Any, words: str, connected: bool
) -> None:
    ended = threading.Event()

    @app.callback(outputs, IN)
    def function(_: int) -> Iterator[Any]:
        try:
            yield value
        finally:
            ended.set()

    with pytest.raises(InvalidCallbackReturnValue, match=words):
        run(app, Sink() if connected else None)
    assert ended.is_set(), "the generator is closed"


def silent(_: int) -> Iterator[Any]:
    set_props("b", {"x": 1})
    yield
    yield None


@by_kind(silent)
def test_without_outputs_it_yields_nothing(app: Dash, function: Any) -> None:
    sink = Sink()
    app.callback(IN)(function)
    with pytest.raises(PreventUpdate):
        run(app, sink)
    assert sink.sent == [("b", "x", 1)]
    assert run(app, None) == {"multi": True, "sideUpdate": {"b": {"x": 1}}, "response": {}}


# --- ends ----------------------------------------------------------------------------------------


def test_what_a_generator_returns_is_its_last_yield(app: Dash) -> None:
    @app.callback(Output("a", "p"), IN)
    def function(_: int) -> Any:
        yield 1
        return 2

    sink = Sink()
    run(app, sink)
    assert [value for _, _, value in sink.sent] == [1, 2]
    assert run(app, None)["response"] == {"a": {"p": 2}}


def prevents(_: int) -> Iterator[Any]:
    yield 1
    raise PreventUpdate


@by_kind(prevents)
def test_prevent_update_ends_it_quietly(app: Dash, function: Any) -> None:
    sink = Sink()
    app.callback(Output("a", "p"), IN, offload=True)(function)
    with pytest.raises(PreventUpdate):
        run(app, sink)
    assert sink.sent == [("a", "p", 1)]
    assert run(app, None)["response"] == {"a": {"p": 1}}


def test_prevent_update_before_anything(app: Dash) -> None:
    @app.callback(Output("a", "p"), IN)
    def function(value: int) -> Any:
        if value:
            raise PreventUpdate
        yield

    with pytest.raises(PreventUpdate):
        run(app, None)


def fails(value: int) -> Iterator[Any]:
    yield value, 1
    raise ValueError("why")


@by_kind(fails)
@pytest.mark.parametrize("connected", [True, False])
def test_on_error_has_the_last_word(app: Dash, function: Any, connected: bool) -> None:
    def handle(error: Exception) -> Any:
        return no_update, str(error)

    sink = Sink()
    app.callback([Output("a", "p"), Output("b", "q")], IN, on_error=handle)(function)
    answer = run(app, sink if connected else None)
    if connected:
        assert sink.sent == [("a", "p", 2), ("b", "q", 1)]
        assert answer["response"] == {"b": {"q": "why"}}
    else:
        assert answer["response"] == {"a": {"p": 2}, "b": {"q": "why"}}


@by_kind(fails)
def test_an_error_comes_with_the_users_part_of_its_traceback(app: Dash, function: Any) -> None:
    app.callback([Output("a", "p"), Output("b", "q")], IN)(function)
    with pytest.raises(ValueError, match="why") as caught:
        run(app, Sink())
    lines = bridge.user_traceback(caught.value).splitlines()
    assert lines[1].endswith(f"in {function.__code__.co_name}")


def test_a_generator_in_a_thread_is_closed_when_nobody_listens(app: Dash) -> None:
    sink, closed = Sink(), []

    @app.callback(Output("a", "p"), IN)
    def function(_: int) -> Iterator[Any]:
        try:
            yield 1
            sink.is_shutdown = True
            yield 2
            closed.append("it went on")
        except GeneratorExit:
            closed.append("closed")
            raise

    run(app, sink)
    assert sink.sent == [("a", "p", 1)]
    assert closed == ["closed"]


@pytest.mark.parametrize("where", ["await", "yield"])
async def test_an_async_generator_is_told_that_it_is_cancelled(app: Dash, where: str) -> None:
    sink, told, begun = Sink(), [], asyncio.Event()

    @app.callback(Output("a", "p"), IN)
    async def function(_: int) -> Any:
        try:
            begun.set()
            if where == "await":
                await asyncio.Event().wait()
            yield 1
        except asyncio.CancelledError:
            told.append("cancelled")
            raise
        finally:
            await asyncio.sleep(0)
            told.append("ended")

    sink.room.clear()
    task = asyncio.create_task(bind(app, sink).run())
    await begun.wait()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert told == ["cancelled", "ended"]


async def test_others_have_their_turn_between_yields(app: Dash) -> None:
    sink, seen = Sink(), []

    @app.callback(Output("a", "p"), IN)
    async def function(_: int) -> Any:
        for step in range(5):
            yield step

    task = asyncio.create_task(bind(app, sink).run())
    while not task.done():
        await asyncio.sleep(0)
        seen.append(len(sink.sent))
    assert len(set(seen)) == 5, "one at a time"


def test_the_context_is_there_in_every_step(app: Dash) -> None:
    @app.callback(Output("a", "p"), IN, offload=True)
    def function(_: int) -> Iterator[Any]:
        yield ctx.triggered_id
        yield ctx.outputs_list["id"]

    sink = Sink()
    run(app, sink)
    assert [value for _, _, value in sink.sent] == ["in", "a"]
