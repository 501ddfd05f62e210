"""``set_progress`` and ``tqdm``, as far as it needs no connection."""

import asyncio
import importlib.util
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from dash import MATCH, Input, Output, Patch, _callback, html, no_update

from dash_dispatch import Dash, Offload, Settings, bridge, ctx, progress
from dash_dispatch.protocol import CallbackBody, RequestSnapshot
from tests.unit.test_streaming import Sink

IN = Input("in", "value")
BAR = [Output("bar", "value"), Output("bar", "max"), Output("bar", "label")]


@pytest.fixture
def app() -> Iterator[Dash]:
    made = Dash("progress", dispatch_settings=Settings(redis_url=None))
    made.layout = html.Div()
    yield made
    _callback.GLOBAL_CALLBACK_MAP.clear()
    _callback.GLOBAL_CALLBACK_LIST.clear()


def bind(
    app: Dash, sink: Sink | None, *, index: int | None = None, offloaded: bool = True
) -> bridge.Invocation:
    """The app's first callback: ``in.value`` = 3, or of the MATCH instance ``index``."""
    bridge.ready(app)
    name = next(iter(app.callback_map))
    id_: Any = "in" if index is None else {"kind": "in", "index": index}
    out: Any = "a" if index is None else {"kind": "a", "index": index}
    body = CallbackBody(
        name,
        {"id": out, "property": "children"},
        [{"id": id_, "property": "value", "value": 3}],
        None,
        ["in.value" if index is None else f'{{"index":{index},"kind":"in"}}.value'],
    )
    call = bridge.CallInfo("id", sink=sink, offloaded=offloaded)
    return bridge.bind(app, body, RequestSnapshot(), sink, call)


Add = Callable[..., Callable[[Any], Any]]


def values(sink: Sink, prop: str) -> list[Any]:
    return [value for _, name, value in sink.sent if name == prop]


@pytest.fixture
def add(app: Dash) -> Add:
    """Decorates the app's one callback."""

    def made(**options: Any) -> Callable[[Any], Any]:
        return app.callback(Output("a", "children"), IN, background=True, **options)

    return made


# --- set_progress --------------------------------------------------------------------------------


def test_a_value_or_one_for_each_output(app: Dash, add: Add) -> None:
    patch = Patch()
    patch.append(1)

    @add(progress=BAR[:2])
    def function(set_progress: Any, value: int) -> Any:
        set_progress((0, value))
        set_progress([1, no_update])
        set_progress((html.B("x"), patch, "one too many, as with Dash"))
        return value

    sink = Sink()
    assert '"children":3' in bind(app, sink).run()
    assert [(name, prop) for name, prop, _ in sink.sent] == [
        ("bar", "value"),
        ("bar", "max"),
        ("bar", "value"),
        ("bar", "value"),
        ("bar", "max"),
    ]
    assert values(sink, "value")[:2] == [0, 1]
    assert values(sink, "value")[2]["type"] == "B"
    assert values(sink, "max")[1]["operations"][0]["operation"] == "Append"


def test_one_output_takes_a_value_alone(app: Dash, add: Add) -> None:
    @add(progress=Output("bar", "value"))
    def function(set_progress: Any, value: int) -> Any:
        for step in ("a", ["b"], ("c",), {"d": 1}):
            set_progress(step)

    sink = Sink()
    bind(app, sink).run()
    assert values(sink, "value") == ["a", "b", "c", {"d": 1}]


def test_too_few_values_are_said(app: Dash, add: Add) -> None:
    @add(progress=BAR)
    def function(set_progress: Any, value: int) -> Any:
        set_progress((1, 2))

    with pytest.raises(ValueError, match=r"set_progress: 3 values are due.*got 2"):
        bind(app, Sink()).run()


async def test_of_a_coroutine(app: Dash, add: Add) -> None:
    @add(progress=Output("bar", "value"))
    async def function(set_progress: Any, value: int) -> Any:
        set_progress(1)
        await asyncio.sleep(0)
        set_progress(2)

    sink = Sink()
    await bind(app, sink).run()
    assert values(sink, "value") == [1, 2]


def test_of_a_generator_and_from_a_thread_of_its_own(app: Dash, add: Add) -> None:
    @add(progress=Output("bar", "value"))
    def function(set_progress: Any, value: int) -> Any:
        yield "first"
        thread = threading.Thread(target=set_progress, args=("from a thread",))
        thread.start()
        thread.join()
        yield "second"

    sink = Sink()
    bind(app, sink).run()
    assert [value for _, _, value in sink.sent] == ["first", "from a thread", "second"]


def test_of_the_instance_that_is_meant(app: Dash) -> None:
    def wild(kind: str) -> dict[str, Any]:
        return {"kind": kind, "index": MATCH}

    @app.callback(
        Output(wild("a"), "children"),
        Input(wild("in"), "value"),
        offload=True,
        progress=Output(wild("bar"), "value"),
    )
    def function(set_progress: Any, value: int) -> Any:
        set_progress(value)

    sink = Sink()
    bind(app, sink, index=7).run()
    assert sink.sent == [('{"index":7,"kind":"bar"}', "value", 3)]


@pytest.mark.parametrize("default", [None, 0])
def test_without_a_connection_the_last_one_stays_or_what_is_due_at_the_end(
    app: Dash, add: Add, default: Any
) -> None:
    @add(progress=Output("bar", "value"), progress_default=default)
    def function(set_progress: Any, value: int) -> Any:
        set_progress(1)
        set_progress(2)

    text = bind(app, None).run()
    assert ('"sideUpdate":{"bar":{"value":2}}' in text) is (default is None)


def test_arguments_by_name(app: Dash) -> None:
    @app.callback(
        output=Output("a", "children"),
        inputs={"value": IN},
        background=True,
        progress=Output("bar", "value"),
    )
    def function(set_progress: Any, value: int) -> Any:
        set_progress(value)

    sink = Sink()
    bind(app, sink).run()
    assert values(sink, "value") == [3]


def test_an_error_comes_with_the_users_part_of_its_traceback(app: Dash, add: Add) -> None:
    @add(progress=Output("bar", "value"))
    def breaks(set_progress: Any, value: int) -> Any:
        raise ValueError("why")

    with pytest.raises(ValueError, match="why") as caught:
        bind(app, Sink()).run()
    assert bridge.user_traceback(caught.value).splitlines()[1].endswith("in breaks")


# --- tqdm ----------------------------------------------------------------------------------------


def loop(kind: str) -> Callable[..., Any]:
    """``tqdm`` in its forms, drawn at every step."""
    import tqdm
    import tqdm.auto

    given = {"mininterval": 0, "miniters": 1}
    forms: dict[str, Callable[..., Any]] = {
        "tqdm": lambda n, **more: tqdm.tqdm(range(n), **given, **more),
        "auto": lambda n, **more: tqdm.auto.tqdm(range(n), **given, **more),
        "trange": lambda n, **more: tqdm.trange(n, **given, **more),
    }
    return forms[kind]


@pytest.mark.parametrize("kind", ["tqdm", "auto", "trange"])
def test_a_loop_moves_the_bar(app: Dash, add: Add, kind: str) -> None:
    @add(progress=[*BAR, Output("bar", "color")])
    def function(_: Any, value: int) -> Any:
        for _step in loop(kind)(4):
            pass

    sink = Sink()
    bind(app, sink).run()
    assert values(sink, "value")[0] == 0
    assert values(sink, "value")[-1] == 4
    assert sorted(values(sink, "value")) == values(sink, "value")
    assert set(values(sink, "max")) == {4}
    assert values(sink, "label")[-2:] == ["100%", "100%"]
    assert values(sink, "color") == [], "it means nothing there"


def test_a_loop_without_an_end_has_words_of_its_own(app: Dash, add: Add) -> None:
    import tqdm

    @add(progress=[Output("text", "children"), Output("bar", "max")])
    def function(_: Any, value: int) -> Any:
        for _step in tqdm.tqdm(iter("abc"), mininterval=0):
            pass

    sink = Sink()
    bind(app, sink).run()
    assert values(sink, "children")[-1].startswith("3it [")
    assert values(sink, "max") == []


def test_the_outer_loop_counts_and_then_the_next(app: Dash, add: Add) -> None:
    @add(progress=Output("bar", "max"))
    def function(_: Any, value: int) -> Any:
        step = loop("trange")
        for _outer in step(2):
            for _inner in step(9):
                pass
        for _next in step(5):
            pass

    sink = Sink()
    bind(app, sink).run()
    assert list(dict.fromkeys(values(sink, "max"))) == [2, 5]


def test_a_bar_that_is_kept_is_over_when_it_is_closed(app: Dash, add: Add) -> None:
    @add(progress=Output("bar", "max"))
    def function(_: Any, value: int) -> Any:
        kept = [loop("trange")(2), loop("trange")(5)]
        for bar in kept:
            list(bar)

    sink = Sink()
    bind(app, sink).run()
    assert list(dict.fromkeys(values(sink, "max"))) == [2, 5]


def test_a_bar_belongs_to_the_run_that_made_it(app: Dash, add: Add) -> None:
    """It may be closed late, or drawn by another thread: tqdm's monitor."""
    left: list[Any] = []

    @add(progress=Output("bar", "max"))
    def function(_: Any, value: int) -> Any:
        if left:
            left.pop().close()
        else:
            left.append(loop("trange")(2))
            drawing = threading.Thread(target=left[0].refresh)
            drawing.start()
            drawing.join()

    first, second = Sink(), Sink()
    bind(app, first).run()
    assert values(first, "max") == [2, 2]
    bind(app, second).run()
    assert second.sent == []
    assert values(first, "max") == [2, 2]


def test_a_loop_that_is_left_leaves_the_bar_to_the_next(app: Dash, add: Add) -> None:
    @add(progress=[Output("bar", "value"), Output("bar", "max")])
    def function(_: Any, value: int) -> Any:
        for step in loop("trange")(10):
            if step == 3:
                break
        for _step in loop("trange")(2):
            pass

    sink = Sink()
    bind(app, sink).run()
    assert list(dict.fromkeys(values(sink, "max"))) == [10, 2]
    assert values(sink, "value")[-1] == 2


async def test_each_call_has_its_own_bars(app: Dash) -> None:
    """Two calls on one loop, in turns."""
    wild = {"kind": "in", "index": MATCH}

    @app.callback(
        Output({"kind": "a", "index": MATCH}, "children"),
        Input(wild, "value"),
        offload=True,
        progress=Output("bar", "max"),
    )
    async def function(_: Any, value: int) -> Any:
        for _step in loop("trange")(ctx.triggered_id.index):
            await asyncio.sleep(0)

    sinks = {5: Sink(), 9: Sink()}
    await asyncio.gather(*(bind(app, sink, index=n).run() for n, sink in sinks.items()))
    for count, sink in sinks.items():
        assert set(values(sink, "max")) == {count}


def test_a_loop_outside_of_a_worker_moves_nothing(app: Dash, add: Add) -> None:
    @add(progress=Output("bar", "value"))
    def function(_: Any, value: int) -> Any:
        for _step in loop("trange")(3):
            pass

    sink = Sink()
    bind(app, sink, offloaded=False).run()
    assert sink.sent == []


def test_a_loop_of_a_callback_without_progress_moves_nothing(app: Dash) -> None:
    @app.callback(Output("a", "children"), IN, offload=Offload())
    def function(value: int) -> Any:
        for _step in loop("trange")(3):
            pass

    sink = Sink()
    bind(app, sink).run()
    assert sink.sent == []


def test_tqdm_need_not_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert progress._hook_tqdm.__wrapped__() is False
