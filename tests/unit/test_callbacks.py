"""Registering callbacks: what stock Dash gets to see, and what is refused in words."""

import functools
import math
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dash
import pytest
from dash import ALL, ALLSMALLER, MATCH, Input, Output, State, _callback, ctx, html

from dash_dispatch import ConfigError, Dash, Offload, Settings, bridge, callback
from dash_dispatch.offload import Offloaded
from dash_dispatch.protocol import Executor

SETTINGS = Settings(redis_url=None)


@pytest.fixture(autouse=True)
def no_global_callbacks() -> Iterator[None]:
    """Each test begins and ends without globally registered callbacks."""
    yield
    _callback.GLOBAL_CALLBACK_MAP.clear()
    _callback.GLOBAL_CALLBACK_LIST.clear()


@pytest.fixture
def app() -> Dash:
    made = Dash("callbacks", dispatch_settings=SETTINGS)
    made.layout = html.Div()
    return made


def plain(*values: Any) -> Any:
    return list(values)


async def coroutine(*values: Any) -> Any:
    return list(values)


# --- wrong options -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"queue": ""}, "queue=''"),
        ({"queue": "a b"}, "queue='a b'"),
        ({"queue": "a:b"}, "queue='a:b'"),
        ({"queue": "a\n"}, "queue="),
        ({"queue": "x" * 65}, "letters, digits"),
        ({"queue": None}, "queue=None"),
        ({"queue": 3}, "queue=3"),
        ({"queue": b"q"}, "queue=b'q'"),
        ({"timeout": -1}, "timeout=-1"),
        ({"timeout": 0}, "timeout=0"),
        ({"timeout": math.nan}, "timeout=nan"),
        ({"timeout": math.inf}, "timeout=inf"),
        ({"timeout": "x"}, "timeout='x'"),
        ({"timeout": "5"}, "positive number of seconds"),
        ({"timeout": True}, "timeout=True"),
        ({"timeout": 10**400}, "positive number of seconds"),
        ({"timeout": [1]}, "positive number of seconds"),
        ({"executor": "x"}, "auto, thread, process"),
        ({"executor": "loop"}, "auto, thread, process"),
        ({"executor": None}, "executor=None"),
        ({"executor": []}, "executor=\\[\\]"),
    ],
)
def test_a_wrong_option_is_said_at_once(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Offload(**options)


def test_right_options() -> None:
    assert Offload(queue="gpu-1.fast_x", timeout=0.5, executor="thread").timeout == 0.5
    assert Offload(timeout=None).timeout is None
    assert Offload(timeout=3) == Offload(timeout=3.0)


def test_options_do_not_change() -> None:
    with pytest.raises(AttributeError):
        Offload().queue = "x"  # type: ignore[misc]


@pytest.mark.parametrize("offload", ["yes", 1, 0, "", [], Offload, {"queue": "x"}])
def test_offload_is_a_bool_or_options(app: Dash, offload: Any) -> None:
    with pytest.raises(ConfigError, match="takes True, False or Offload"):
        app.callback(Output("a", "children"), Input("b", "value"), offload=offload)
    assert app.callback_map == {}, "nothing is left behind"


@pytest.mark.parametrize("executor", ["thread", "process"])
def test_a_coroutine_runs_on_the_loop_only(app: Dash, executor: Any) -> None:
    decorate = app.callback(
        Output("a", "children"), Input("b", "value"), offload=Offload(executor=executor)
    )
    with pytest.raises(ConfigError, match=f"coroutine: .*{executor}.*plain def"):
        decorate(coroutine)


def test_a_generator_cannot_be_offloaded(app: Dash) -> None:
    def generator(value: Any) -> Iterator[Any]:
        yield value

    async def asynchronous(value: Any) -> Any:
        yield value

    for function in (generator, asynchronous):
        decorate = app.callback(Output("a", "children"), Input("b", "value"), offload=True)
        with pytest.raises(ConfigError, match="generator cannot be offloaded"):
            decorate(function)
        app.callback_map.clear()
        app._callback_list.clear()


def test_offload_and_background_exclude_each_other(app: Dash) -> None:
    with pytest.raises(ConfigError, match="background=True exclude each other"):
        app.callback(Output("a", "children"), Input("b", "value"), offload=True, background=True)
    assert app.callback_map == {}


@pytest.mark.parametrize(
    "cancel",
    [Output("c", "n_clicks"), State("c", "n_clicks"), "c.n_clicks", ("c", "n_clicks"),
     [Input("c", "n_clicks"), "x"]],
)  # fmt: skip
def test_what_cancels_is_an_input(app: Dash, cancel: Any) -> None:
    with pytest.raises(ConfigError, match=r"cancel=.*dash\.Input"):
        app.callback(Output("a", "children"), Input("b", "value"), offload=True, cancel=cancel)


# --- what an offloaded callback becomes ----------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "offload", "expected"),
    [
        (plain, True, Offloaded("default", None, Executor.PROCESS)),
        (plain, Offload(executor="process"), Offloaded("default", None, Executor.PROCESS)),
        (plain, Offload(executor="thread"), Offloaded("default", None, Executor.THREAD)),
        (coroutine, True, Offloaded("default", None, Executor.LOOP)),
        (coroutine, Offload(queue="q", timeout=2), Offloaded("q", 2, Executor.LOOP)),
        (functools.partial(plain, 1), True, Offloaded("default", None, Executor.PROCESS)),
        (functools.partial(coroutine, 1), True, Offloaded("default", None, Executor.LOOP)),
    ],
)
def test_where_it_runs(
    app: Dash, function: Callable[..., Any], offload: Any, expected: Offloaded
) -> None:
    app.callback(Output("a", "children"), Input("b", "value"), offload=offload)(function)
    assert bridge.offloaded_of(app) == {"a.children": expected}
    assert app._callback_list[-1]["websocket"] is True, "its answer may take long"


@pytest.mark.parametrize("offload", [False, None])
def test_what_is_not_offloaded_is_stock(app: Dash, offload: Any) -> None:
    app.callback(Output("a", "children"), Input("b", "value"), offload=offload)(plain)
    assert bridge.offloaded_of(app) == {}
    assert app._callback_list[-1]["websocket"] is False


def test_the_decorator_gives_the_function_back(app: Dash) -> None:
    for decorate in (
        app.callback(Output("a", "children"), Input("b", "value"), offload=True),
        app.callback(Output("c", "children"), Input("b", "value")),
        callback(Output("d", "children"), Input("b", "value"), offload=True),
        app.callback(offload=True),
    ):
        assert decorate(plain) is plain


# --- drop-in: stock Dash sees the same -----------------------------------------------------------

wild = {"kind": "x", "index": MATCH}
FORMS: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    ((Output("a", "children"), Input("b", "value")), {}),
    ((Output("a", "children"), [Input("b", "value")], [State("c", "value")]), {}),
    (([Output("a", "children"), Output("a2", "x")], [Input("b", "value"), Input("b2", "v")]), {}),
    (
        (
            Output("dup", "children", allow_duplicate=True),
            Input("b", "value"),
        ),
        {"prevent_initial_call": True},
    ),
    ((Output(wild, "children"), Input(wild, "value"), State(wild, "id")), {}),
    ((Output("all", "children"), Input({"kind": "x", "index": ALL}, "value")), {}),
    ((Output(wild, "style"), Input({"kind": "x", "index": ALLSMALLER}, "v"), Input(wild, "v")), {}),
    ((Input("only", "value"),), {}),
    ((Input("only", "value"), Input("second", "value"), State("third", "value")), {}),
    (
        (),
        {
            "output": {"x": Output("g", "children"), "y": [Output("h", "children")]},
            "inputs": {"i": Input("b", "value"), "j": (Input("k", "value"), State("l", "value"))},
            "state": {"s": State("c", "value")},
        },
    ),
    (
        (Output("run", "children"), Input("b", "value")),
        {
            "running": [(Output("b", "disabled"), True, False)],
            "prevent_initial_call": True,
            "optional": True,
            "hidden": True,
            "websocket": True,
            "persistent": True,
            "on_error": print,
        },
    ),
    ((Output("c", "children"), Input("b", "value")), {"prevent_initial_call": False}),
]


def specs(app: dash.Dash) -> list[dict[str, Any]]:
    return list(app._callback_list)


def entries(app: dash.Dash) -> dict[str, dict[str, Any]]:
    """The callback map, without functions and without what is ours."""
    ours = ("callback", bridge.OFFLOADED, bridge.CANCELS)
    return {
        output: {key: value for key, value in entry.items() if key not in ours}
        for output, entry in app.callback_map.items()
    }


@pytest.mark.parametrize("prevent", [False, True, "initial_duplicate"])
def test_stock_arguments_pass_through_unchanged(prevent: Any) -> None:
    ours = Dash("ours", dispatch_settings=SETTINGS, prevent_initial_callbacks=prevent)
    stock = dash.Dash("stock", backend="quart", prevent_initial_callbacks=prevent)
    for args, kwargs in FORMS:
        ours.callback(*args, **kwargs)(plain)
        stock.callback(*args, **kwargs)(plain)
    assert entries(ours) == entries(stock)
    assert list(ours.callback_map) == list(stock.callback_map), "in the same order"
    assert specs(ours) == specs(stock)
    assert all("callback" in entry for entry in ours.callback_map.values())


def test_offloading_changes_only_the_transport() -> None:
    ours = Dash("ours", dispatch_settings=SETTINGS)
    stock = dash.Dash("stock", backend="quart")
    for args, kwargs in FORMS:
        ours.callback(*args, **kwargs, offload=True)(plain)
        stock.callback(*args, **{**kwargs, "websocket": True})(plain)
    assert entries(ours) == entries(stock)
    assert list(ours.callback_map) == list(stock.callback_map), "in the same order"
    assert specs(ours) == specs(stock)
    assert set(bridge.offloaded_of(ours)) == set(ours.callback_map)


def test_background_callbacks_are_left_to_dash() -> None:
    ours = Dash("ours", dispatch_settings=SETTINGS)
    stock = dash.Dash("stock", backend="quart")
    for app in (ours, stock):
        app._callback_list.clear()
    arguments = {"interval": 50, "cancel": [Input("c", "n_clicks")], "background": True}
    ours.callback(Output("a", "children"), Input("b", "value"), **arguments)
    stock.callback(Output("a", "children"), Input("b", "value"), **arguments)
    assert entries(ours) == entries(stock)


def test_a_clientside_callback_is_left_to_dash() -> None:
    ours = Dash("ours", dispatch_settings=SETTINGS)
    stock = dash.Dash("stock", backend="quart")
    for app in (ours, stock):
        app.clientside_callback("x => x", Output("a", "children"), Input("b", "value"))
    assert specs(ours)[0].keys() == specs(stock)[0].keys()
    assert list(ours.callback_map) == list(stock.callback_map)


def test_what_dash_refuses_is_refused(app: Dash) -> None:
    with pytest.raises(dash.exceptions.DuplicateCallback):
        app.callback(
            Output("a", "children", allow_duplicate=True), Input("b", "value"), offload=True
        )


# --- callbacks without inputs and outputs --------------------------------------------------------


def test_each_has_a_name_of_its_own(app: Dash) -> None:
    app.callback(offload=True)(plain)
    app.callback(offload=True)(coroutine)
    app.callback()(plain)

    @app.callback(offload=True)
    def third() -> None: ...

    callback(offload=True)(plain)
    bridge.ready(app)
    assert len(app.callback_map) == 5
    assert len(bridge.offloaded_of(app)) == 4
    assert [spec["output"] for spec in app._callback_list] == list(app.callback_map)
    assert all("callback" in entry for entry in app.callback_map.values())
    assert all(spec["no_output"] for spec in app._callback_list)


def test_callbacks_registered_in_a_loop_are_told_apart(app: Dash) -> None:
    for function in (plain, coroutine, plain):
        app.callback(offload=True)(function)
    kinds = [offloaded.executor for offloaded in bridge.offloaded_of(app).values()]
    assert kinds == [Executor.PROCESS, Executor.LOOP, Executor.PROCESS]
    assert [spec["output"] for spec in app._callback_list] == list(app.callback_map)


SOURCE = """
from dash import html
from dash_dispatch import Dash, Settings, callback
app = Dash(__name__, dispatch_settings=Settings(redis_url=None))
app.layout = html.Div()

@app.callback(offload=True)
def first(): ...

@callback(offload=True)
def second(): ...
"""


def test_the_names_are_the_same_wherever_the_app_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The web process runs ``python named_app.py``, a worker imports it from another folder."""
    names = []
    for folder, run in (("here", "__main__"), ("there", None)):
        path = tmp_path / folder / "named_app.py"
        path.parent.mkdir()
        path.write_text(SOURCE)
        if run:
            found = runpy.run_path(str(path), run_name=run)["app"]
        else:
            monkeypatch.syspath_prepend(str(path.parent))
            import named_app  # type: ignore[import-not-found]

            found = named_app.app
        bridge.ready(found)
        names.append(list(found.callback_map))
    sys.modules.pop("named_app", None)
    assert names[0] == names[1]
    assert len(set(names[0])) == 2


# --- global callbacks ----------------------------------------------------------------------------


def test_a_global_callback_lands_on_the_app(app: Dash) -> None:
    @callback(Output("a", "children"), Input("b", "value"), offload=Offload(queue="slow"))
    def function(value: Any) -> Any:
        return value

    assert bridge.offloaded_of(app) == {}
    bridge.ready(app)
    assert bridge.offloaded_of(app) == {"a.children": Offloaded("slow", None, Executor.PROCESS)}
    assert bridge.entry_of(app, "a.children") is not None
    bridge.ready(app)
    assert len(app._callback_list) == 1, "twice is once"


def test_an_app_that_cannot_be_set_up_says_why() -> None:
    app = Dash("no_layout", dispatch_settings=SETTINGS)
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"cannot be set up: .*layout"):
            bridge.ready(app)
    with pytest.raises(ConfigError, match="no Dash app"):
        bridge.ready(object())


# --- cancel --------------------------------------------------------------------------------------


def hidden(app: Dash) -> list[dict[str, Any]]:
    return [entry for entry in app.callback_map.values() if bridge.CANCELS in entry]


def test_callbacks_share_one_hidden_callback_per_cancel_input(app: Dash) -> None:
    stop, other = Input("stop", "n_clicks"), Input("other", "n_clicks")
    app.callback(Output("a", "children"), Input("b", "v"), offload=True, cancel=stop)(plain)
    app.callback(Output("c", "children"), Input("b", "v"), offload=True, cancel=[stop, other])(
        coroutine
    )
    found = {entry["inputs"][0]["id"]: entry[bridge.CANCELS] for entry in hidden(app)}
    assert found == {"stop": ["a.children", "c.children"], "other": ["c.children"]}
    specs = [s for s in app._callback_list if "stop.id" in s["output"]]
    assert [(s["hidden"], s["websocket"], s["prevent_initial_call"]) for s in specs] == [
        (True, True, True)
    ]
    assert all("callback" in entry for entry in hidden(app))
    assert all(bridge.OFFLOADED not in entry for entry in hidden(app))


def test_a_users_own_callback_on_a_cancel_button_stays_apart(app: Dash) -> None:
    stop = Input("stop", "n_clicks")
    app.callback(stop)(plain)
    app.callback(Output("a", "children"), Input("b", "v"), offload=True, cancel=stop)(plain)
    app.callback(Output("stop", "disabled"), stop)(plain)
    assert len(app.callback_map) == 4
    assert len(hidden(app)) == 1
    bridge.ready(app)


def test_app_and_global_callbacks_may_share_a_cancel_button(app: Dash) -> None:
    stop = Input("stop", "n_clicks")
    app.callback(Output("a", "children"), Input("b", "v"), offload=True, cancel=stop)(plain)
    callback(Output("c", "children"), Input("b", "v"), offload=True, cancel=stop)(plain)
    bridge.ready(app)
    assert [entry[bridge.CANCELS] for entry in hidden(app)] == [["a.children", "c.children"]]
    assert [spec["output"] for spec in app._callback_list] == list(app.callback_map)


def test_a_cancel_input_may_match(app: Dash) -> None:
    stop = Input({"kind": "stop", "index": MATCH}, "n_clicks")
    app.callback(Output(wild, "children"), Input(wild, "value"), offload=True, cancel=stop)(plain)
    bridge.ready(app)
    assert len(hidden(app)) == 1
    assert len(hidden(app)[0][bridge.CANCELS]) == 1


def test_cancel_without_offload_is_dashs_own(app: Dash) -> None:
    app.callback(Output("a", "children"), Input("b", "v"), cancel=Input("stop", "n_clicks"))(plain)
    assert len(app.callback_map) == 1


# --- running one, as far as it needs no request --------------------------------------------------


def test_a_bound_callback_runs_as_dash_runs_it(app: Dash) -> None:
    from dash_dispatch.protocol import RequestSnapshot, decode_callback_body

    @app.callback(Output("a", "children"), Input("b", "value"), State("c", "value"), offload=True)
    def function(value: int, state: int) -> Any:
        ctx.response.set_cookie("k", "v")
        return f"{value + state} {ctx.triggered_id} {ctx.cookies['session']} {ctx.headers['X-A']}"

    bridge.ready(app)
    body = decode_callback_body(
        b'{"output":"a.children","outputs":{"id":"a","property":"children"},'
        b'"inputs":[{"id":"b","property":"value","value":2}],'
        b'"state":[{"id":"c","property":"value","value":3}],"changedPropIds":["b.value"]}'
    )
    snapshot = RequestSnapshot(cookies={"session": "s"}, headers={"X-A": "h"})
    invocation = bridge.bind(app, body, snapshot, None)
    assert not invocation.is_async
    outcome = bridge.outcome_of(invocation.run(), invocation.response)
    assert outcome.body == b'{"multi":true,"response":{"a":{"children":"5 b s h"}}}'
    assert outcome.response == b'[["set_cookie",["k","v"],{}]]'


def test_a_traceback_begins_at_the_users_function(app: Dash) -> None:
    from dash_dispatch.protocol import RequestSnapshot, decode_callback_body

    @app.callback(Output("a", "children"), Input("b", "value"), offload=True)
    def breaks(value: int) -> Any:
        raise ValueError("a user's words")

    bridge.ready(app)
    body = decode_callback_body(
        b'{"output":"a.children","outputs":{"id":"a","property":"children"},'
        b'"inputs":[{"id":"b","property":"value","value":2}],"changedPropIds":["b.value"]}'
    )
    invocation = bridge.bind(app, body, RequestSnapshot(), None)
    with pytest.raises(ValueError, match="a user's words") as caught:
        invocation.run()
    failure = bridge.outcome_of_error(caught.value, "call", "worker").failure
    lines = failure.traceback.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert "in breaks" in lines[1]
    assert lines[-1] == "ValueError: a user's words"
    assert (failure.type, failure.message, failure.call) == ("ValueError", "a user's words", "call")
