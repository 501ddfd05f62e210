"""Registering callbacks: what stock Dash gets to see, and what is refused in words."""

import functools
import runpy
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import dash
import pytest
from dash import ALL, ALLSMALLER, MATCH, Input, Output, State, _callback, ctx, html
from dash.background_callback.managers import BaseBackgroundCallbackManager

from dash_dispatch import ConfigError, Dash, Offload, Settings, bridge, callback, task
from dash_dispatch.offload import Caching
from dash_dispatch.protocol import CallbackBody, Executor, RequestSnapshot

SETTINGS = Settings(redis_url=None)


@pytest.fixture(autouse=True)
def no_global_callbacks() -> Iterator[None]:
    """Each test begins and ends without globally registered callbacks."""
    yield
    _callback.GLOBAL_CALLBACK_MAP.clear()
    _callback.GLOBAL_CALLBACK_LIST.clear()
    BaseBackgroundCallbackManager.managers.clear()
    BaseBackgroundCallbackManager.functions.clear()


@pytest.fixture
def app() -> Dash:
    made = Dash("callbacks", dispatch_settings=SETTINGS)
    made.layout = html.Div()
    return made


def plain(*values: Any) -> Any:
    return list(values)


async def coroutine(*values: Any) -> Any:
    return list(values)


def generator(*values: Any) -> Iterator[Any]:
    yield list(values)


async def async_generator(*values: Any) -> AsyncIterator[Any]:
    yield list(values)


# --- wrong options -------------------------------------------------------------------------------


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
        (plain, True, Executor.PROCESS),
        (plain, Offload(executor="process"), Executor.PROCESS),
        (plain, Offload(executor="thread"), Executor.THREAD),
        (coroutine, True, Executor.LOOP),
        (coroutine, Offload(queue="q", timeout=2), Executor.LOOP),
        (generator, True, Executor.PROCESS),
        (generator, Offload(executor="thread"), Executor.THREAD),
        (async_generator, True, Executor.LOOP),
        (functools.partial(plain, 1), True, Executor.PROCESS),
        (functools.partial(coroutine, 1), True, Executor.LOOP),
        (functools.partial(generator, 1), True, Executor.PROCESS),
    ],
)
def test_where_it_runs(
    app: Dash, function: Callable[..., Any], offload: Any, expected: Executor
) -> None:
    app.callback(Output("a", "children"), Input("b", "value"), offload=offload)(function)
    (offloaded,) = bridge.offloaded_of(app).values()
    assert offloaded.executor is expected
    assert offloaded.options == (Offload() if offload is True else offload)
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
    ours = ("callback", bridge.OFFLOADED, bridge.CANCELS, bridge.HANDED)
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
    overlaps = [spec.pop("dispatch") for spec in specs(ours)]
    assert specs(ours) == specs(stock)
    assert overlaps == [
        {"overlap": "parallel" if spec["no_output"] else "latest"} for spec in specs(ours)
    ]
    assert set(bridge.offloaded_of(ours)) == set(ours.callback_map)


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


def request(
    output: str, outputs: Any = None, inputs: Any = (), changed: Sequence[str] = ()
) -> CallbackBody:
    return CallbackBody(output, outputs, list(inputs), None, list(changed))


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
    assert bridge.offloaded_of(app)["a.children"].options == Offload(queue="slow")
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


@pytest.mark.parametrize(
    ("cancel", "wanted"),
    [({"kind": "stop", "index": MATCH}, {"index": 7}), ({"kind": "stop", "index": ALL}, {})],
)
def test_a_cancel_button_of_an_instance_means_calls_of_that_instance(
    app: Dash, cancel: dict[str, Any], wanted: dict[str, Any]
) -> None:
    app.callback(
        Output(wild, "children"), Input(wild, "value"), offload=True, cancel=Input(cancel, "v")
    )(plain)
    app.callback(
        Output("all", "children"), Input("b", "value"), offload=True, cancel=Input(cancel, "v")
    )(plain)
    bridge.ready(app)
    (entry,) = hidden(app)
    pressed = {"id": {"kind": "stop", "index": 7}, "property": "v", "value": 1}
    body = request("x", inputs=[pressed if cancel["index"] is MATCH else [pressed]])
    one, other = bridge.cancel_targets(app, entry, body)
    assert one[1] == wanted
    assert other == ("all.children", {}), "it has no instances"

    target = bridge.entry_of(app, one[0])
    assert target is not None
    for index in (7, 8):
        call = request(
            one[0],
            {"id": {"kind": "x", "index": index}, "property": "children"},
            [{"id": {"kind": "x", "index": index}, "property": "value", "value": 0}],
        )
        agrees = bridge.values_agree(one[1], bridge.match_values(target, call))
        assert agrees is (index == 7 or not wanted)


def test_a_cancel_button_is_not_taken_for_one_that_its_wildcard_could_mean(app: Dash) -> None:
    for name, index in (("a", MATCH), ("c", 1)):
        stop = Input({"kind": "stop", "index": index}, "n_clicks")
        app.callback(Output(name, "v"), Input("b", "v"), offload=True, cancel=stop)(plain)
    assert sorted(entry[bridge.CANCELS] for entry in hidden(app)) == [["a.v"], ["c.v"]]


@pytest.mark.parametrize("id_", ["a string", None, 3, {}, {"index": {}}, {"index": [1]}])
def test_odd_ids_of_a_browser_are_passed_over(app: Dash, id_: Any) -> None:
    app.callback(Input(wild, "value"), offload=True)(plain)
    (entry,) = app.callback_map.values()
    for item in ({"id": id_}, {}, None, [{"id": id_}]):
        assert bridge.match_values(entry, request("x", inputs=[item])) == {}


# --- groups --------------------------------------------------------------------------------------


def test_a_group_has_one_limit(app: Dash) -> None:
    gpu = [Offload(group="gpu", concurrency=n) for n in (2, 2, 3)]
    for number, offload in enumerate(gpu[:2]):
        app.callback(Output(f"a{number}", "v"), Input("b", "v"), offload=offload)(plain)
    bridge.ready(app)
    callback(Output("other", "v"), Input("b", "v"), offload=Offload(concurrency=9))(plain)
    app.callback(Output("a2", "v"), Input("b", "v"), offload=gpu[2])(plain)
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"'gpu'.*=2 .*'a0\.v' .*=3 for .* 'a2\.v'"):
            bridge.ready(app)


def test_a_task_of_the_group_has_the_same_limit(app: Dash, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge, "tasks", {})
    offload = Offload(group="gpu", concurrency=2)
    app.callback(Output("a", "v"), Input("b", "v"), offload=offload)(plain)
    task(group="gpu", concurrency=2)(plain)
    bridge.ready(app)
    task(group="gpu", concurrency=1)(plain)
    with pytest.raises(ConfigError, match=r"=2 for the callback 'a\.v' .*=1 for the task .*plain'"):
        bridge.ready(app)


# --- background=True -----------------------------------------------------------------------------


class Manager(BaseBackgroundCallbackManager):
    """As much of a manager as registering needs."""

    def make_job_fn(self, fn: Any, progress: Any, key: Any = None) -> Any:
        return fn, progress, key


@pytest.fixture
def manager() -> Manager:
    made: Any = Manager
    return cast(Manager, made(None))


BACKGROUND: dict[str, Any] = {
    "background": True,
    "interval": 50,
    "progress": [Output("bar", "value"), Output("bar", "max")],
    "progress_default": [0, 10],
    "cancel": [Input("c", "n_clicks")],
    "running": [(Output("run", "disabled"), True, False)],
    "cache_args_to_ignore": [0],
    "cache_ignore_triggered": False,
}


def test_background_without_a_manager_is_offloaded(app: Dash) -> None:
    app.callback(Output("a", "children"), Input("b", "value"), **BACKGROUND)(plain)
    bridge.ready(app)
    offloaded = bridge.offloaded_of(app)["a.children"]
    assert offloaded.options == Offload()
    assert offloaded.caching == Caching(ignore=(0,), ignore_triggered=False)
    spec = next(spec for spec in app._callback_list if spec["output"] == "a.children")
    assert spec["background"] is None, "nothing polls"
    assert spec["websocket"] is True
    assert spec["running"] == {
        "running": {"run.disabled": True},
        "runningOff": {"run.disabled": False, "bar.value": 0, "bar.max": 10},
    }
    assert [entry[bridge.CANCELS] for entry in hidden(app)] == [["a.children"]]


def test_background_is_another_spelling_of_offload() -> None:
    ours = [Dash(name, dispatch_settings=SETTINGS) for name in ("one", "other")]
    for app, spelling in zip(ours, ({"background": True}, {"offload": True}), strict=True):
        arguments = {**BACKGROUND, "background": False, **spelling}
        app.callback(Output("a", "children"), Input("b", "value"), **arguments)(plain)
    assert specs(ours[0]) == specs(ours[1])
    assert entries(ours[0]) == entries(ours[1])
    assert bridge.offloaded_of(ours[0]) == bridge.offloaded_of(ours[1])


def test_both_spellings_at_once(app: Dash) -> None:
    app.callback(Output("a", "v"), Input("b", "v"), background=True, offload=Offload(queue="gpu"))(
        plain
    )
    assert bridge.offloaded_of(app)["a.v"].options.queue == "gpu"


@pytest.mark.parametrize("where", ["app", "callback", "global"])
def test_background_with_a_manager_is_left_to_dash(manager: Manager, where: str) -> None:
    known = None if where == "callback" else manager
    ours = Dash("ours", dispatch_settings=SETTINGS, background_callback_manager=known)
    stock = dash.Dash("stock", backend="quart", background_callback_manager=known)
    arguments = {**BACKGROUND, **({"manager": manager} if where == "callback" else {})}
    for app, module in ((ours, callback), (stock, dash.callback)):
        app.layout = html.Div()
        register: Any = module if where == "global" else app.callback
        register(Output("before", "v"), Input("b", "v"))(plain)
        register(Output("a", "children"), Input("b", "value"), **arguments)(plain)
        register(Output("after", "v"), Input("b", "v"))(plain)
        bridge.ready(app)
    assert bridge.offloaded_of(ours) == {}
    assert hidden(ours) == []
    assert entries(ours) == entries(stock)
    assert sorted(map(str, specs(ours))) == sorted(map(str, specs(stock)))


def test_a_manager_knows_a_global_callback_before_any_app_does(manager: Manager) -> None:
    """A Celery worker imports the module, and no more."""
    callback(Output("a", "children"), Input("b", "value"), background=True)(plain)
    ((function, progress, _),) = manager.func_registry.values()
    assert (function, progress) == (plain, False)


def test_a_global_background_callback_without_a_manager_is_offloaded(app: Dash) -> None:
    callback(Output("a", "children"), Input("b", "value"), **BACKGROUND)(plain)
    bridge.ready(app)
    assert list(bridge.offloaded_of(app)) == ["a.children"]


def test_two_global_ones_that_share_a_cancel_button_go_back_to_dash(manager: Manager) -> None:
    app = Dash("back", dispatch_settings=SETTINGS, background_callback_manager=manager)
    app.layout = html.Div()
    stop = Input("stop", "n_clicks")
    callback(Output("a", "v"), Input("b", "v"), background=True, cancel=stop)(plain)
    callback(Output("c", "v"), Input("b", "v"), background=True, cancel=stop)(coroutine)
    callback(Output("d", "v"), Input("b", "v"), offload=True, cancel=stop)(plain)
    bridge.ready(app)
    assert list(bridge.offloaded_of(app)) == ["d.v"]
    assert [entry[bridge.CANCELS] for entry in hidden(app)] == [["d.v"]]
    assert [name for name, entry in app.callback_map.items() if entry["background"]] == [
        "a.v",
        "c.v",
    ]


def test_one_without_inputs_goes_back_under_its_name(manager: Manager) -> None:
    app = Dash("back", dispatch_settings=SETTINGS, background_callback_manager=manager)
    app.layout = html.Div()
    for function in (plain, coroutine):
        callback(background=True)(function)
    names = list(_callback.GLOBAL_CALLBACK_MAP)
    bridge.ready(app)
    assert sorted(app.callback_map) == sorted(names)
    assert all(entry["background"] and "callback" in entry for entry in app.callback_map.values())


def test_background_of_plain_dash_needs_a_manager_and_says_what_else_there_is(app: Dash) -> None:
    dash.callback(Output("a", "children"), Input("b", "value"), background=True)(plain)
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"'a\.children'.*import callback from dash_dispatch"):
            bridge.ready(app)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"offload": True, "background": True}, "exclude each other"),
        ({"background": True, "queued": (Output("q", "v"), "x", "")}, "queued=.*manager"),
        ({"background": True, "cache_by": int}, "cache_by=.*manager"),
    ],
)
def test_what_does_not_go_with_a_manager(
    manager: Manager, options: dict[str, Any], words: str
) -> None:
    app = Dash("managed", dispatch_settings=SETTINGS, background_callback_manager=manager)
    app.layout = html.Div()
    with pytest.raises(ConfigError, match=words):
        app.callback(Output("a", "v"), Input("b", "v"), **options)
    assert app.callback_map == {}
    if "offload" not in options:
        callback(Output("a", "v"), Input("b", "v"), **options)(plain)
        with pytest.raises(ConfigError, match=words):
            bridge.ready(app)


def test_a_generator_takes_no_manager(manager: Manager) -> None:
    app = Dash("managed", dispatch_settings=SETTINGS, background_callback_manager=manager)
    app.layout = html.Div()
    with pytest.raises(ConfigError, match=r"generator: .*manager"):
        app.callback(Output("a", "v"), Input("b", "v"), background=True)(generator)
    callback(Output("c", "v"), Input("b", "v"), background=True)(generator)
    with pytest.raises(ConfigError, match=r"generator 'c\.v': .*manager"):
        bridge.ready(app)


# --- progress, queued, cache ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"progress": "bar.value"}, r"progress='bar\.value': takes dash\.Output"),
        ({"progress": Input("bar", "value")}, r"takes dash\.Output"),
        ({"progress_default": 1}, "1 values for 0 outputs"),
        ({"progress": Output("p", "v"), "progress_default": [1, 2]}, "2 values for 1 outputs"),
        ({"progress": Output({"i": ALL}, "v")}, "MATCH, but not ALL"),
        ({"progress": Output({"i": MATCH}, "v")}, "MATCH for 'i'"),
        ({"queued": (Output({"i": MATCH}, "v"), "x", "")}, "MATCH for 'i'"),
        ({"queued": "Position {position}"}, "takes tuples of an Output"),
        ({"queued": [(Output("q", "v"), "x")]}, "takes tuples of an Output"),
        ({"queued": [("q", "x", "")]}, "takes tuples of an Output"),
        ({"queued": [(Output("q", "v"), "{place}", "")]}, "{place}.*{position} and {estimate}"),
        ({"queued": [(Output("q", "v"), "{", "")]}, "{position} and {estimate}"),
        ({"queued": [(Output("q", "v"), "{}", "")]}, "{position} and {estimate}"),
        ({"cache_by": "x"}, "cache_by=.*takes a function"),
    ],
)
def test_a_wrong_argument_is_said_at_once(app: Dash, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        app.callback(Output("a", "v"), Input("b", "v"), offload=True, **options)


@pytest.mark.parametrize("name", ["queued", "cache_by"])
def test_what_only_a_worker_can_do(app: Dash, name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}=: takes offload="):
        app.callback(Output("a", "v"), Input("b", "v"), **{name: [int]})


def test_what_is_shown_while_a_call_waits(app: Dash) -> None:
    def both(position: int, estimate_s: float | None) -> Any:
        return html.B(f"{position}, {estimate_s}")

    app.callback(
        Output(wild, "children"),
        Input(wild, "value"),
        offload=True,
        queued=[
            (Output({"kind": "place", "index": MATCH}, "children"), "{position}: {estimate}", ""),
            (Output("function", "children"), both, None),
            (Output("button", "disabled"), True, False),
        ],
    )(plain)
    (entry,) = app.callback_map.values()
    body = request(
        "x",
        {"id": {"kind": "x", "index": 7}, "property": "children"},
        [{"id": {"kind": "x", "index": 7}, "property": "value", "value": 0}],
    )
    place = r'{"componentId":"{\"index\":7,\"kind\":\"place\"}","props":{"children":%s}}'
    assert [text.decode() for text in bridge.queued_props(entry, body, 3, 20.4)] == [
        place % '"3: about 20 s"',
        '{"componentId":"function","props":{"children":{"props":{"children":"3, 20.4"},'
        '"type":"B","namespace":"dash_html_components"}}}',
        '{"componentId":"button","props":{"disabled":true}}',
    ]
    assert bridge.queued_props(entry, body, 1, None)[0].decode() == place % '"1: "'
    assert [text.decode() for text in bridge.queued_done(entry, body)] == [
        place % '""',
        '{"componentId":"function","props":{"children":null}}',
        '{"componentId":"button","props":{"disabled":false}}',
    ]


def test_one_alone_may_be_queued_without_a_list(app: Dash) -> None:
    app.callback(
        Output("a", "v"), Input("b", "v"), offload=True, queued=(Output("q", "v"), "{position}", "")
    )(plain)
    (entry,) = app.callback_map.values()
    assert len(entry[bridge.QUEUED]) == 1


def test_nothing_is_shown_where_nothing_was_asked_for(app: Dash) -> None:
    app.callback(Output("a", "v"), Input("b", "v"), offload=True)(plain)
    (entry,) = app.callback_map.values()
    assert bridge.queued_props(entry, request("a.v"), 1, None) == []
    assert bridge.queued_done(entry, request("a.v")) == ()


def cache_parts(app: Dash, **changed: Any) -> bytes:
    """Of the one callback ``a.v`` of an app, whose arguments are ``b`` and ``c``."""
    (entry,) = app.callback_map.values()
    values = {"b": 1, "c": {"y": 1, "x": 2}, "cookie": "", "triggered": ["b.v"], **changed}
    body = request(
        "a.v",
        {"id": values.get("out", "a"), "property": "v"},
        [{"id": name, "property": "v", "value": values[name]} for name in ("b", "c")],
        values["triggered"],
    )
    snapshot = RequestSnapshot(cookies={"who": values["cookie"]})
    return bridge.cache_parts(app, entry, body, snapshot)


@pytest.mark.parametrize(
    ("options", "change", "same"),
    [
        ({}, {"b": 2}, False),
        ({}, {"b": "1"}, False),
        ({}, {"c": {"x": 2, "y": 1}}, True),
        ({}, {"triggered": ["c.v"]}, True),
        ({}, {"cookie": "x"}, True),
        ({}, {"out": "elsewhere"}, False),
        ({"cache_args_to_ignore": 0}, {"b": 2}, True),
        ({"cache_args_to_ignore": [0]}, {"c": 2}, False),
        ({"cache_args_to_ignore": [0, 1]}, {"b": 2, "c": 2}, True),
        ({"cache_ignore_triggered": False}, {"triggered": ["c.v"]}, False),
        ({"cache_by": lambda: ctx.cookies["who"]}, {"cookie": "x"}, False),
        ({"cache_by": [lambda: ctx.cookies["who"]]}, {}, True),
    ],
)
def test_what_a_kept_result_depends_on(
    app: Dash, options: dict[str, Any], change: dict[str, Any], same: bool
) -> None:
    app.callback(Output("a", "v"), Input("b", "v"), Input("c", "v"), background=True, **options)(
        plain
    )
    (entry,) = app.callback_map.values()
    assert bridge.cache_needs_thread(entry) is ("cache_by" in options)
    assert (cache_parts(app) == cache_parts(app, **change)) is same


def test_arguments_with_names_are_ignored_by_name(app: Dash) -> None:
    app.callback(
        output=Output("a", "v"),
        inputs={"one": Input("b", "v"), "two": Input("c", "v")},
        offload=True,
        cache_args_to_ignore=["two"],
    )(plain)
    assert cache_parts(app) == cache_parts(app, c="other")
    assert cache_parts(app) != cache_parts(app, b="other")


def test_cache_by_alone_keeps_results_as_dashs_managers_do(app: Dash) -> None:
    app.callback(Output("a", "v"), Input("b", "v"), background=True, cache_by=int)(plain)
    app.callback(Output("c", "v"), Input("b", "v"), offload=Offload(cache=5), cache_by=[int, str])(
        plain
    )
    one, other = bridge.offloaded_of(app).values()
    assert (one.options.cache, one.options.scope) == (3600, "global")
    assert (other.options.cache, other.options.scope) == (5, "user"), "as said"
    assert other.caching.by == (int, str)


@pytest.mark.parametrize("function", [generator, async_generator])
def test_what_a_generator_yields_is_not_kept(app: Dash, function: Any) -> None:
    with pytest.raises(ConfigError, match=r"generator: .*not kept"):
        app.callback(Output("a", "v"), Input("b", "v"), offload=Offload(cache=5))(function)


# --- generators ----------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [generator, async_generator])
@pytest.mark.parametrize("offload", [False, True])
def test_a_generator_comes_over_the_websocket(app: Dash, function: Any, offload: bool) -> None:
    made = app.callback(Output("a", "v"), Input("b", "v"), offload=offload)(function)
    assert made is function
    (entry,) = app.callback_map.values()
    assert bridge.STREAMS in entry
    assert bridge.may_use_websocket(app, entry)
    assert app._callback_list[-1]["websocket"] is True
    assert bridge.is_async(entry) is (function is async_generator)


# --- running one, as far as it needs no request --------------------------------------------------


def test_a_bound_callback_runs_as_dash_runs_it(app: Dash) -> None:
    from dash_dispatch.protocol import decode_callback_body

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
    from dash_dispatch.protocol import decode_callback_body

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
