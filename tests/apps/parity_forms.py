"""Every form of callback that Dash users write, to be put on any app.

A form is a function that is given a `Kit`: it puts components on the page, registers callbacks
through the kit, and says what a user does. The very same functions run on stock Dash and on
dash_dispatch, once for every place where a callback can run.
"""

import datetime as dt
import decimal
import enum
import os
import threading
import time
import uuid
import warnings
from typing import Any

import numpy as np
import pandas as pd
import plotly.express as px
import plotly.graph_objects as go
from dash import (
    ALL,
    ALLSMALLER,
    MATCH,
    ClientsideFunction,
    Input,
    Output,
    Patch,
    State,
    ctx,
    dcc,
    get_app,
    get_asset_url,
    get_relative_path,
    html,
    no_update,
    set_props,
)
from dash.exceptions import PreventUpdate

FORMS: dict[str, Any] = {}
PAGE_FORMS: dict[str, Any] = {}
"""Those whose callbacks are registered globally, in the module of a page."""

RAW = {
    "a_cookie_on_the_response",
    "api_endpoint",
    "ctx_custom_data",
    "ctx_custom_data_on_the_request",
    "ctx_grouping",
    "ctx_of_a_pattern",
    "ctx_of_the_request",
    "ctx_timing",
    "ctx_triggered",
    "one_output_that_is_all",
    "set_props_of_odd_values",
    "the_app_at_hand",
    "downloads",
    "headers_on_the_response",
    "set_props_of_nobody",
}
"""Forms for a model of a page only: their values are none that an element can show, or what they
end in is said otherwise over a websocket."""

REQUEST: dict[str, Any] = {
    "cookies": {"flavour": "salt"},
    "header": ("X-Parity", "head"),
    "agent": "parity",
}
"""What every request of the tests has."""


def form(function):
    """Take a form in, under its name."""
    FORMS[function.__name__] = function
    return function


class Kit:
    """What a form is written with.

    Args:
        tag: Where the callbacks run. Part of every id, so that one page can hold the form once
            for each place.
        name: The form's name.
        callback: Registers a callback as ``app.callback`` does; None only collects the steps.
        clientside: The same for ``app.clientside_callback``.
    """

    def __init__(self, tag, name, callback=None, clientside=None):
        self.tag = tag
        self.name = name
        self._callback = callback
        self._clientside = clientside
        self.components = []
        self.steps = []
        self.streamed = None
        self.lost_by_stock = None
        self.worded = None
        self.refused = None
        self.visits = None

    def id(self, name):
        """A component's id."""
        return f"{self.tag}~{self.name}~{name}"

    def many(self, name, index):
        """A pattern-matching id."""
        return {"kind": self.id(name), "index": index}

    def page(self, *components):
        """Components of the form."""
        self.components += components

    def output(self, name="out", prop="children", **kwargs):
        """An output."""
        return Output(self.id(name), prop, **kwargs)

    def input(self, name="in", prop="n_clicks", **kwargs):
        """An input."""
        return Input(self.id(name), prop, **kwargs)

    def state(self, name="store", prop="data", **kwargs):
        """A state."""
        return State(self.id(name), prop, **kwargs)

    def button(self, name="in"):
        """A button nobody has clicked, on the page."""
        self.page(html.Button(name, id=self.id(name), n_clicks=0))

    def div(self, *names):
        """Empty elements, on the page."""
        self.page(*(html.Div(id=self.id(name)) for name in names or ("out",)))

    def callback(self, *args, **kwargs):
        """``app.callback``, in the place of this kit."""
        if self._callback is None:
            return lambda function: function
        return self._callback(*args, **kwargs)

    def clientside(self, *args, **kwargs):
        """``app.clientside_callback``."""
        if self._clientside is not None:
            self._clientside(*args, **kwargs)

    def step(self, *changes):
        """What a user does at once: ``(id, prop, value)`` each."""
        self.steps.append(list(changes))

    def click(self, *names, count=1):
        """A user clicks buttons, all at once."""
        self.step(*((self.id(name), "n_clicks", count) for name in names or ("in",)))

    def streams(self, why):
        """Stock's page ends otherwise over its websocket than over POST, and why."""
        self.streamed = why

    def words(self, why):
        """An error of this form is told otherwise than over stock's POST, and why."""
        self.worded = why

    def refuses(self, why):
        """Over a stream the form ends in an error that says so, and why."""
        self.refused = why

    def lost(self, why):
        """Stock's websocket lacks what the form asks for; its POST is what is meant."""
        self.lost_by_stock = why


def build(
    tag: str,
    callback: Any = None,
    clientside: Any = None,
    *,
    pages: bool = False,
    browser: bool = False,
) -> Any:
    """Forms in one place: those of pages or all others, all or what a browser can show."""
    kits = []
    for name, define in (PAGE_FORMS if pages else FORMS).items():
        if browser and name in RAW:
            continue
        kit = Kit(tag, name, callback, clientside)
        define(kit)
        kits.append(kit)
    return kits


def layout_of(kits):
    """The page: one element per form."""
    return [html.Section(kit.components) for kit in kits]


# --- outputs ------------------------------------------------------------------------------------


def simple(define):
    """A form with one button and one output."""

    def whole(kit):
        kit.button()
        kit.div()
        define(kit)
        if not kit.steps:
            kit.click()

    whole.__name__ = define.__name__
    return form(whole)


@simple
def one_output(kit):
    @kit.callback(kit.output(), kit.input())
    def run(n_clicks):
        return f"clicked {n_clicks}"


@simple
def two_outputs(kit):
    @kit.callback(kit.output(), kit.output(prop="title"), kit.input())
    def run(n_clicks):
        return f"clicked {n_clicks}", f"title {n_clicks}"


@simple
def list_of_outputs(kit):
    @kit.callback([kit.output(), kit.output(prop="title")], [kit.input()])
    def run(n_clicks):
        return [f"clicked {n_clicks}", f"title {n_clicks}"]


@simple
def list_of_one_output(kit):
    @kit.callback([kit.output()], [kit.input()])
    def run(n_clicks):
        return [n_clicks]


@simple
def dict_of_outputs(kit):
    @kit.callback(
        output={"text": kit.output(), "title": kit.output(prop="title")},
        inputs={"clicks": kit.input()},
    )
    def run(clicks):
        return {"title": f"title {clicks}", "text": [clicks, "text"]}


@simple
def nested_outputs(kit):
    @kit.callback(
        output={
            "text": kit.output(),
            "more": (kit.output(prop="title"), {"deep": kit.output(prop="className")}),
        },
        inputs={"one": kit.input(), "more": [kit.input(prop="id")]},
    )
    def run(one, more):
        return {"text": one, "more": (f"title {more[0]}", {"deep": f"class-{one}"})}


@simple
def tuple_of_outputs(kit):
    @kit.callback(output=(kit.output(), kit.output(prop="title")), inputs=(kit.input(),))
    def run(n_clicks):
        return n_clicks, "title"


@simple
def set_of_ids_in_a_loop(kit):
    names = [f"out{number}" for number in range(3)]
    kit.div(*names)

    @kit.callback([kit.output(name) for name in names], kit.input())
    def run(n_clicks):
        return [f"{name} {n_clicks}" for name in names]


@simple
def callbacks_made_in_a_loop(kit):
    for number in range(3):
        kit.div(f"out{number}")

        def run(n_clicks, number=number):
            return f"{number}: {n_clicks}"

        kit.callback(kit.output(f"out{number}"), kit.input())(run)


@simple
def stacked_decorators(kit):
    kit.button("other")

    @kit.callback(kit.output(), kit.input())
    @kit.callback(kit.output(prop="title"), kit.input("other"))
    def run(n_clicks):
        return f"clicked {n_clicks}"

    kit.click()
    kit.click("other", count=4)


# --- inputs and state ---------------------------------------------------------------------------


@simple
def several_inputs_and_state(kit):
    kit.button("other")
    kit.page(dcc.Store(id=kit.id("store"), data={"a": [1, 2, None]}))

    @kit.callback(kit.output(), kit.input(), kit.input("other"), kit.state())
    def run(one, other, store):
        return f"{one} {other} {store} {ctx.triggered_id}"

    kit.click()
    kit.click("other", count=3)
    kit.click("in", "other", count=5)


@simple
def lists_of_inputs_and_state(kit):
    kit.page(dcc.Store(id=kit.id("store"), data=7))

    @kit.callback(kit.output(), [kit.input()], [kit.state(), kit.state("in", "id")])
    def run(n_clicks, data, id_):
        return f"{n_clicks} {data} {id_}"


@simple
def interleaved_inputs_and_state(kit):
    kit.page(dcc.Store(id=kit.id("store"), data=7))
    kit.button("other")

    @kit.callback(kit.output(), kit.input(), kit.state(), kit.input("other"))
    def run(one, data, other):
        return f"{one} {data} {other} {ctx.using_args_grouping}"


@simple
def dict_of_inputs_and_state(kit):
    kit.page(dcc.Store(id=kit.id("store"), data=7))

    @kit.callback(
        kit.output(),
        inputs={"clicks": kit.input()},
        state={"data": kit.state(), "id": kit.state("in", "id")},
    )
    def run(id, data, clicks):  # noqa: A002 - a user's name
        return f"{clicks} {data} {id}"


@simple
def nested_inputs(kit):
    kit.page(dcc.Store(id=kit.id("store"), data=7))
    kit.button("other")

    @kit.callback(
        output={"o": kit.output()},
        inputs={
            "pair": (kit.input(), kit.input("other")),
            "deep": {"data": kit.state(), "list": [kit.state("in", "id")]},
        },
    )
    def run(pair, deep):
        return {"o": f"{pair} {deep}"}

    kit.click("other")


@simple
def tuple_inputs_as_one_argument(kit):
    kit.page(dcc.Store(id=kit.id("store"), data=7))

    @kit.callback(kit.output(), (kit.input(), kit.state()))
    def run(*args):
        return f"{len(args)} {args}"


@simple
def inputs_by_keyword(kit):
    kit.page(dcc.Store(id=kit.id("store"), data=7))

    @kit.callback(output=kit.output(), inputs=[kit.input()], state=[kit.state()])
    def run(*args):
        return f"{args}"


@simple
def component_objects_as_dependencies(kit):
    button = html.Button("more", id=kit.id("more"), n_clicks=2)
    kit.page(button)

    @kit.callback(kit.output(), Input(button, "n_clicks"))
    def run(n_clicks):
        return f"component {n_clicks}"

    kit.click("more", count=3)


@simple
def a_prop_that_is_not_set(kit):
    kit.page(dcc.Store(id=kit.id("store")))

    @kit.callback(kit.output(), kit.input(), kit.state(), kit.state("store", "clear_data"))
    def run(n_clicks, data, clear):
        return f"{data} {clear} {ctx.states}"


@simple
def odd_values(kit):
    kit.page(dcc.Store(id=kit.id("store")))

    @kit.callback(kit.output(), kit.input("store", "data"))
    def run(data):
        return [repr(data), str(type(data))]

    numbers: list[Any] = [0, 1.5, 2**53, -0.0]
    for value in [*numbers, None, False, "", [], {}, "ä€😀\u2028", [[1], {"a": None}]]:
        kit.step((kit.id("store"), "data", value))


@simple
def chained_callbacks(kit):
    kit.div("middle", "last")

    @kit.callback(kit.output("middle"), kit.input())
    def first(n_clicks):
        return f"middle {n_clicks}"

    @kit.callback(kit.output(), kit.input("middle", "children"))
    def second(text):
        return f"second of {text}"

    @kit.callback(kit.output("last"), kit.input("out", "children"), kit.state("middle", "children"))
    def third(text, middle):
        return f"third of {text} with {middle} by {ctx.triggered_id}"


@simple
def circular_callback(kit):
    kit.page(dcc.Input(id=kit.id("a"), value=1), dcc.Input(id=kit.id("b"), value=2))

    @kit.callback(
        kit.output("a", "value"),
        kit.output("b", "value"),
        kit.input("a", "value"),
        kit.input("b", "value"),
    )
    def run(a, b):
        if ctx.triggered_id == kit.id("a"):
            return no_update, a * 2
        return b / 2, no_update

    kit.step((kit.id("a"), "value", 10))
    kit.step((kit.id("b"), "value", 7))


# --- pattern matching ---------------------------------------------------------------------------


@form
def match(kit):
    for index in range(3):
        kit.page(
            html.Button(id=kit.many("in", index), n_clicks=index),
            html.Div(id=kit.many("out", index)),
        )

    @kit.callback(
        Output(kit.many("out", MATCH), "children"),
        Input(kit.many("in", MATCH), "n_clicks"),
        State(kit.many("in", MATCH), "id"),
    )
    def run(n_clicks, id_):
        return f"{n_clicks} {id_} {ctx.triggered_id} {ctx.outputs_list}"

    kit.step((kit.many("in", 1), "n_clicks", 10))
    kit.step((kit.many("in", 2), "n_clicks", 20), (kit.many("in", 0), "n_clicks", 30))


@form
def all_inputs(kit):
    kit.div()
    for index in ("a", "b", 3, 1.5):
        kit.page(dcc.Input(id=kit.many("in", index), value=f"v{index}"))

    @kit.callback(
        kit.output(),
        Input(kit.many("in", ALL), "value"),
        State(kit.many("in", ALL), "id"),
    )
    def run(values, ids):
        return [str(values), str(ids), str(ctx.triggered_id), str(ctx.inputs_list)]

    kit.step((kit.many("in", "b"), "value", "changed"))


@form
def all_of_none(kit):
    kit.button()
    kit.div()

    @kit.callback(kit.output(), kit.input(), Input(kit.many("nobody", ALL), "value"))
    def run(n_clicks, values):
        return f"{n_clicks} {values}"

    kit.click()


@form
def allsmaller(kit):
    for index in range(4):
        kit.page(
            dcc.Input(id=kit.many("in", index), value=index * 10),
            html.Div(id=kit.many("out", index)),
        )

    @kit.callback(
        Output(kit.many("out", MATCH), "children"),
        Input(kit.many("in", MATCH), "value"),
        Input(kit.many("in", ALLSMALLER), "value"),
        prevent_initial_call=True,
    )
    def run(value, smaller):
        return f"{value} after {smaller} by {ctx.triggered_prop_ids}"

    kit.step((kit.many("in", 2), "value", 5))


@form
def all_outputs(kit):
    kit.button()
    for index in range(3):
        kit.page(html.Div(id=kit.many("out", index)))

    @kit.callback(
        Output(kit.many("out", ALL), "children"),
        Output(kit.many("out", ALL), "title"),
        kit.input(),
    )
    def run(n_clicks):
        count = len(ctx.outputs_list[0])
        return [f"{n_clicks} {n}" for n in range(count)], [no_update, "title", no_update]

    kit.click()


@form
def one_output_that_is_all(kit):
    kit.button()
    for index in range(3):
        kit.page(html.Div(id=kit.many("out", index)))

    @kit.callback(Output(kit.many("out", ALL), "children"), kit.input())
    def run(n_clicks):
        return [f"{n_clicks}", no_update, {"dict": n_clicks}]

    kit.click()


@form
def match_and_all(kit):
    for group in ("x", "y"):
        kit.page(html.Div(id={"kind": kit.id("sum"), "group": group}))
        for index in range(2):
            kit.page(
                dcc.Input(
                    id={"kind": kit.id("in"), "group": group, "index": index}, value=index + 1
                )
            )

    @kit.callback(
        Output({"kind": kit.id("sum"), "group": MATCH}, "children"),
        Input({"kind": kit.id("in"), "group": MATCH, "index": ALL}, "value"),
    )
    def run(values):
        return f"{sum(values)} {ctx.triggered_id} {ctx.inputs}"

    kit.step(({"kind": kit.id("in"), "group": "y", "index": 1}, "value", 40))


@form
def wildcards_in_a_dict(kit):
    kit.div()
    for index in range(2):
        kit.page(dcc.Input(id=kit.many("in", index), value=index))

    @kit.callback(
        output={"text": kit.output(), "values": Output(kit.many("in", ALL), "placeholder")},
        inputs={"values": Input(kit.many("in", ALL), "value")},
    )
    def run(values):
        grouping = ctx.args_grouping["values"]
        return {
            "text": str([(part["id"], part["value"], part["triggered"]) for part in grouping]),
            "values": [f"p{value}" for value in values],
        }

    kit.step((kit.many("in", 1), "value", 11))


# --- which outputs, and when --------------------------------------------------------------------


@simple
def allow_duplicate(kit):
    kit.button("other")

    @kit.callback(kit.output(), kit.input())
    def first(n_clicks):
        return f"first {n_clicks}"

    @kit.callback(kit.output(allow_duplicate=True), kit.input("other"), prevent_initial_call=True)
    def second(n_clicks):
        return f"second {n_clicks} {ctx.outputs_list['property'].split('@')[0]}"

    kit.click()
    kit.click("other", count=2)


@simple
def allow_duplicate_of_several(kit):
    kit.button("other")

    @kit.callback(
        kit.output(allow_duplicate=True),
        kit.output(prop="title", allow_duplicate=True),
        kit.input(),
        prevent_initial_call=True,
    )
    def first(n_clicks):
        return f"first {n_clicks}", "first"

    @kit.callback(kit.output(allow_duplicate=True), kit.input("other"), prevent_initial_call=True)
    def second(n_clicks):
        return f"second {n_clicks}"

    kit.click("other")
    kit.click(count=2)


@simple
def initial_duplicate(kit):
    @kit.callback(
        kit.output(allow_duplicate=True), kit.input(), prevent_initial_call="initial_duplicate"
    )
    def run(n_clicks):
        return f"initially {n_clicks} {bool(ctx.triggered)}"


@simple
def prevent_initial_call(kit):
    @kit.callback(kit.output(), kit.input(), prevent_initial_call=True)
    def prevented(n_clicks):
        return f"{n_clicks} {bool(ctx.triggered)}"

    @kit.callback(kit.output(prop="title"), kit.input(), prevent_initial_call=False)
    def wanted(n_clicks):
        return f"{n_clicks} {bool(ctx.triggered)} {ctx.triggered} {ctx.triggered_id}"


@simple
def no_outputs(kit):
    @kit.callback(kit.input())
    def run(n_clicks):
        set_props(kit.id("out"), {"children": f"set {n_clicks}"})


@simple
def no_outputs_and_nothing_set(kit):
    @kit.callback(kit.input())
    def run(n_clicks):
        pass


@simple
def no_outputs_with_a_return_value(kit):
    @kit.callback(kit.input(), prevent_initial_call=True)
    def run(n_clicks):
        return "not wanted"


@simple
def empty_list_of_outputs(kit):
    @kit.callback([], kit.input())
    def run(n_clicks):
        set_props(kit.id("out"), {"title": f"set {n_clicks}"})


@simple
def no_outputs_by_keyword(kit):
    @kit.callback(inputs={"clicks": kit.input()})
    def run(clicks):
        set_props(kit.id("out"), {"title": f"set {clicks}"})


# Without inputs: the renderer runs it once, at the start.
@form
def no_inputs(kit):
    kit.div()

    @kit.callback(kit.output())
    def run():
        return f"without inputs {ctx.triggered_id} {ctx.inputs}"


@form
def only_state(kit):
    kit.div()
    kit.page(dcc.Store(id=kit.id("store"), data=7))

    @kit.callback(kit.output(), kit.state())
    def run(data):
        return f"state {data}"


@form
def nothing_at_all(kit):
    kit.div()

    @kit.callback()
    def run():
        set_props(kit.id("out"), {"children": "from nowhere"})


# --- not updating -------------------------------------------------------------------------------


@simple
def no_update_whole(kit):
    @kit.callback(kit.output(), kit.input())
    def run(n_clicks):
        return no_update if n_clicks else "initial"


@simple
def no_update_whole_of_several(kit):
    @kit.callback(kit.output(), kit.output(prop="title"), kit.input())
    def run(n_clicks):
        return no_update if n_clicks else ("initial", "title")


@simple
def no_update_in_parts(kit):
    @kit.callback(kit.output(), kit.output(prop="title"), kit.input())
    def run(n_clicks):
        return (no_update, f"title {n_clicks}") if n_clicks else ("initial", no_update)


@simple
def no_update_in_a_dict(kit):
    @kit.callback(
        output={"a": kit.output(), "b": [kit.output(prop="title"), kit.output(prop="className")]},
        inputs=kit.input(),
    )
    def run(n_clicks):
        return {"a": no_update, "b": [f"{n_clicks}", no_update]}


@simple
def no_update_and_set_props(kit):
    @kit.callback(kit.output(), kit.input())
    def run(n_clicks):
        set_props(kit.id("out"), {"title": f"set {n_clicks}"})
        return no_update


@simple
def prevent_update(kit):
    @kit.callback(kit.output(), kit.input())
    def run(n_clicks):
        if n_clicks:
            raise PreventUpdate
        return "initial"


@simple
def prevent_update_after_set_props(kit):
    kit.streams("what was set is on the page before the callback changes its mind")

    @kit.callback(kit.output(), kit.input())
    def run(n_clicks):
        set_props(kit.id("out"), {"title": f"set {n_clicks}"})
        raise PreventUpdate


@simple
def prevent_update_without_outputs(kit):
    @kit.callback(kit.input())
    def run(n_clicks):
        raise PreventUpdate


@simple
def returns_nothing(kit):
    kit.page(html.Div("before", id=kit.id("before")))

    @kit.callback(kit.output("before"), kit.input())
    def run(n_clicks):
        return None


# --- Patch --------------------------------------------------------------------------------------


@form
def patch_of_a_list(kit):
    kit.button()
    kit.page(dcc.Store(id=kit.id("store"), data=[3, 1, 2, 1]))

    @kit.callback(kit.output("store", "data"), kit.input(), prevent_initial_call=True)
    def run(n_clicks):
        patch = Patch()
        patch.append(n_clicks)
        patch.prepend("first")
        patch.insert(1, {"inserted": True})
        patch.insert(-1, "before the last")
        patch.extend([7, 8])
        patch += [9]
        patch.remove(1)
        patch.reverse()
        del patch[0]
        patch[0] = "assigned"
        patch[-1] = "the last"
        return patch

    kit.click()
    kit.click(count=2)


@form
def patch_of_a_dict(kit):
    kit.button()
    data = {"a": 1, "deep": {"list": [1, 2, [3]], "n": 10, "x": {}}, "gone": 1, "also": 2}
    kit.page(dcc.Store(id=kit.id("store"), data=data))

    @kit.callback(kit.output("store", "data"), kit.input(), prevent_initial_call=True)
    def run(n_clicks):
        patch: Any = Patch()
        patch["a"] += 5
        patch.deep["n"] -= 3
        patch["deep"].n *= 4
        patch.deep["n"] /= 7
        patch["deep"]["list"][2].append("in")
        patch.deep.list[-1] += ["more"]
        patch.deep.x.update({"u": 1}, v=2)
        patch |= {"merged": n_clicks, "deep2": {}}
        patch.new = {"fresh": [html.B("bold")]}
        del patch["gone"]
        del patch.also
        patch.deep.list.clear()
        return patch

    kit.click()


@form
def patch_of_a_figure(kit):
    kit.button()
    kit.page(
        dcc.Graph(id=kit.id("graph"), figure=go.Figure(go.Scatter(y=[1, 2, 3])).to_plotly_json())
    )

    @kit.callback(kit.output("graph", "figure"), kit.input(), prevent_initial_call=True)
    def run(n_clicks):
        patch = Patch()
        patch["data"][0]["y"].append(n_clicks)
        patch["data"].append(go.Bar(y=np.arange(3)))
        patch["layout"]["title"] = {"text": f"title {n_clicks}"}
        patch["layout"]["shapes"] = [{"x0": np.float64(1.5), "x1": pd.Timestamp("2024-01-02")}]
        return patch

    kit.click()


@form
def patch_of_children(kit):
    kit.button()
    kit.page(html.Ul([html.Li("one")], id=kit.id("list"), title="t"))

    @kit.callback(
        kit.output("list"), kit.output("list", "title"), kit.input(), prevent_initial_call=True
    )
    def run(n_clicks):
        patch = Patch()
        patch.append(html.Li([f"{n_clicks}", html.B("bold")], id=kit.many("li", n_clicks)))
        patch[0]["props"]["children"] = "changed"
        return patch, no_update

    kit.click()
    kit.click(count=2)


@form
def patch_within_outputs(kit):
    kit.button()
    for index in range(2):
        kit.page(dcc.Store(id=kit.many("store", index), data=[index]))

    @kit.callback(Output(kit.many("store", ALL), "data"), kit.input(), prevent_initial_call=True)
    def run(n_clicks):
        patches = [Patch(), Patch()]
        for patch in patches:
            patch.append(n_clicks)
        return patches

    kit.click()
    kit.click(count=2)


@form
def patch_of_nothing(kit):
    kit.button()
    kit.page(dcc.Store(id=kit.id("store"), data=[1]))

    @kit.callback(kit.output("store", "data"), kit.input(), prevent_initial_call=True)
    def run(n_clicks):
        return Patch()

    kit.click()


@form
def patch_in_set_props(kit):
    kit.button()
    kit.div()
    kit.page(dcc.Store(id=kit.id("store"), data=[1]))

    @kit.callback(kit.output(), kit.input(), prevent_initial_call=True)
    def run(n_clicks):
        patch = Patch()
        patch.append(n_clicks)
        set_props(kit.id("store"), {"data": patch})
        return "patched"

    kit.click()
    kit.click(count=2)


# --- set_props ----------------------------------------------------------------------------------


@simple
def set_props_of_several(kit):
    kit.div("one", "two")

    @kit.callback(kit.output(), kit.input())
    def run(n_clicks):
        set_props(kit.id("one"), {"children": f"one {n_clicks}", "title": "both"})
        set_props(kit.id("two"), {"children": 1})
        set_props(kit.id("two"), {"children": 2, "title": None})
        set_props(kit.id("two"), {"children": 3})
        return "done"


@simple
def set_props_by_ctx(kit):
    kit.div("one")

    @kit.callback(kit.output(), kit.input())
    def run(n_clicks):
        ctx.set_props(kit.id("one"), {"children": f"one {n_clicks}"})
        return "done"


@simple
def set_props_of_a_pattern(kit):
    kit.page(html.Div(id=kit.many("out", 1)), html.Div(id=kit.many("out", "two")))

    @kit.callback(kit.output(), kit.input())
    def run(n_clicks):
        set_props(kit.many("out", 1), {"children": f"one {n_clicks}"})
        set_props({"index": "two", "kind": kit.id("out")}, {"title": f"two {n_clicks}"})
        return "done"


@simple
def set_props_with_components(kit):
    kit.div("one")

    @kit.callback(kit.output(), kit.input())
    def run(n_clicks):
        set_props(
            kit.id("one"),
            {
                "children": [
                    html.B("bold"),
                    dcc.Graph(id=kit.id("g"), figure=px.line(y=[1, n_clicks])),
                ]
            },
        )
        return "done"


@simple
def set_props_of_odd_values(kit):
    kit.div("one")

    @kit.callback(kit.output(), kit.input())
    def run(n_clicks):
        set_props(
            kit.id("one"),
            {
                "title": np.int64(3),
                "children": [dt.date(2024, 1, 2), np.arange(3), pd.Timestamp("2024-02-03")],
            },
        )
        return "done"


@simple
def set_props_of_what_cannot_be_sent(kit):
    kit.words("it is encoded when it is set, over POST with the answer")

    @kit.callback(kit.output(), kit.input(), prevent_initial_call=True)
    def run(n_clicks):
        set_props(kit.id("out"), {"title": object()})
        return "done"


@simple
def set_props_of_the_output(kit):
    @kit.callback(kit.output(), kit.input())
    def run(n_clicks):
        set_props(kit.id("out"), {"children": "overwritten"})
        return f"returned {n_clicks}"


@simple
def set_props_of_nobody(kit):
    @kit.callback(kit.output(), kit.input())
    def run(n_clicks):
        set_props(kit.id("nobody"), {"children": "lost"})
        return f"returned {n_clicks}"


@simple
def set_props_that_trigger(kit):
    kit.div("one", "two")

    @kit.callback(kit.output(), kit.input(), prevent_initial_call=True)
    def run(n_clicks):
        set_props(kit.id("one"), {"children": f"one {n_clicks}"})
        return "done"

    @kit.callback(kit.output("two"), kit.input("one", "children"), prevent_initial_call=True)
    def follow(text):
        return f"follows {text} {ctx.triggered_id}"


@simple
def set_props_in_order(kit):
    kit.div("one")

    @kit.callback(kit.output(), kit.input(), prevent_initial_call=True)
    def run(n_clicks):
        for number in range(50):
            set_props(kit.id("one"), {"children": number})
        return "done"


# --- errors -------------------------------------------------------------------------------------


class Unusual(Exception):
    """An error of the user's own."""


class ForTheApp(Exception):
    """An error that the app's own handler takes.

    Args:
        target: The id of a component whose title it sets.
        value: What the callback returns then.
    """

    def __init__(self, target, value):
        super().__init__(f"for the app: {value}")
        self.target = target
        self.value = value


def handle_for_the_app(error):
    """The ``on_error`` of every app that has the forms."""
    if not isinstance(error, ForTheApp):
        raise error
    set_props(error.target, {"title": f"{error} after {ctx.triggered_id}"})
    return error.value


@simple
def on_error_of_the_app(kit):
    @kit.callback(kit.output(), kit.input(), prevent_initial_call=True)
    def run(n_clicks):
        raise ForTheApp(kit.id("out"), f"value {n_clicks}")


@simple
def on_error_of_the_app_returns_nothing(kit):
    @kit.callback(kit.output(), kit.input(), prevent_initial_call=True)
    def run(n_clicks):
        raise ForTheApp(kit.id("out"), None)


@simple
def on_error_of_the_app_without_outputs(kit):
    @kit.callback(kit.input(), prevent_initial_call=True)
    def run(n_clicks):
        raise ForTheApp(kit.id("out"), None)


@simple
def error_raised(kit):
    @kit.callback(kit.output(), kit.input(), prevent_initial_call=True)
    def run(n_clicks):
        raise ValueError(f"broken {n_clicks}")


@simple
def error_of_a_users_class(kit):
    @kit.callback(kit.output(), kit.input(), prevent_initial_call=True)
    def run(n_clicks):
        try:
            return ctx.inputs["nothing"]
        except KeyError as error:
            raise Unusual("unusual <&> “quotes”") from error


@simple
def error_after_set_props(kit):
    kit.streams("what was set is on the page before the callback fails")

    @kit.callback(kit.output(), kit.input(), prevent_initial_call=True)
    def run(n_clicks):
        set_props(kit.id("out"), {"title": "set"})
        raise ValueError("broken")


@simple
def error_without_outputs(kit):
    @kit.callback(kit.input(), prevent_initial_call=True)
    def run(n_clicks):
        raise ZeroDivisionError("no outputs")


@simple
def wrong_number_of_values(kit):
    @kit.callback(kit.output(), kit.output(prop="title"), kit.input(), prevent_initial_call=True)
    def run(n_clicks):
        return ["only one"]


@simple
def not_a_list_of_values(kit):
    @kit.callback(kit.output(), kit.output(prop="title"), kit.input(), prevent_initial_call=True)
    def run(n_clicks):
        return 5


@simple
def wrong_keys_of_values(kit):
    @kit.callback(
        output={"a": kit.output(), "b": kit.output(prop="title")},
        inputs={"n": kit.input()},
        prevent_initial_call=True,
    )
    def run(n):
        return {"a": 1, "c": 2}


@form
def wrong_number_of_wildcards(kit):
    kit.button()
    kit.page(*(html.Div(id=kit.many("out", index)) for index in range(2)))

    @kit.callback(Output(kit.many("out", ALL), "children"), kit.input(), prevent_initial_call=True)
    def run(n_clicks):
        return [1, 2, 3]

    kit.click()


@simple
def not_json(kit):
    @kit.callback(kit.output(), kit.input(), prevent_initial_call=True)
    def run(n_clicks):
        return {"deep": [object()]}


@simple
def not_json_among_several(kit):
    @kit.callback(kit.output(), kit.output(prop="title"), kit.input(), prevent_initial_call=True)
    def run(n_clicks):
        return "fine", {1, 2}


@simple
def not_json_bytes(kit):
    @kit.callback(kit.output(), kit.input(), prevent_initial_call=True)
    def run(n_clicks):
        return b"bytes"


@simple
def not_json_function(kit):
    @kit.callback(kit.output(), kit.input(), prevent_initial_call=True)
    def run(n_clicks):
        return html.Div(run)


@simple
def wrong_arguments(kit):
    @kit.callback(kit.output(), kit.input(), prevent_initial_call=True)
    def run():
        return "not called"


@simple
def assertion(kit):
    @kit.callback(kit.output(), kit.input(), prevent_initial_call=True)
    def run(n_clicks):
        assert n_clicks == 0, "not zero"
        return ""


@simple
def on_error_of_the_callback(kit):
    def handle(error):
        return f"{type(error).__name__}: {error}, asked by {ctx.triggered_id}"

    @kit.callback(kit.output(), kit.input(), on_error=handle, prevent_initial_call=True)
    def run(n_clicks):
        raise ValueError("broken")


@simple
def on_error_that_sets_props(kit):
    def handle(error):
        set_props(kit.id("out"), {"title": f"{error}"})

    @kit.callback(kit.output(), kit.input(), on_error=handle, prevent_initial_call=True)
    def run(n_clicks):
        set_props(kit.id("out"), {"className": "before"})
        raise ValueError("broken")


@simple
def on_error_of_several_outputs(kit):
    def handle(error):
        return [f"{error}", no_update]

    @kit.callback(
        kit.output(),
        kit.output(prop="title"),
        kit.input(),
        on_error=handle,
        prevent_initial_call=True,
    )
    def run(n_clicks):
        raise ValueError("broken")


@simple
def on_error_without_outputs(kit):
    def handle(error):
        set_props(kit.id("out"), {"title": f"{error}"})

    @kit.callback(kit.input(), on_error=handle, prevent_initial_call=True)
    def run(n_clicks):
        raise ValueError("broken")


@simple
def on_error_that_fails(kit):
    def handle(error):
        raise RuntimeError(f"while handling {error}")

    @kit.callback(kit.output(), kit.input(), on_error=handle, prevent_initial_call=True)
    def run(n_clicks):
        raise ValueError("broken")


@simple
def on_error_never_sees_prevent_update(kit):
    def handle(error):
        return "seen"

    @kit.callback(kit.output(), kit.input(), on_error=handle, prevent_initial_call=True)
    def run(n_clicks):
        raise PreventUpdate


@simple
def on_error_never_sees_a_wrong_return(kit):
    def handle(error):
        return "seen"

    @kit.callback(kit.output(), kit.input(), on_error=handle, prevent_initial_call=True)
    def run(n_clicks):
        return object()


# --- what is said about a callback --------------------------------------------------------------


@simple
def running(kit):
    kit.div("status")

    @kit.callback(
        kit.output(),
        kit.input(),
        running=[
            (kit.output("in", "disabled"), True, False),
            (kit.output("status"), "busy", "ready"),
        ],
    )
    def run(n_clicks):
        return f"done {n_clicks}"


@simple
def running_of_one(kit):
    @kit.callback(
        kit.output(),
        kit.input(),
        running=(kit.output("in", "disabled"), True, False),
        prevent_initial_call=True,
    )
    def run(n_clicks):
        return f"done {n_clicks}"


@simple
def running_and_an_error(kit):
    @kit.callback(
        kit.output(),
        kit.input(),
        running=[(kit.output("in", "disabled"), True, False)],
        prevent_initial_call=True,
    )
    def run(n_clicks):
        raise ValueError("broken")


@simple
def running_and_prevent_update(kit):
    @kit.callback(
        kit.output(),
        kit.input(),
        running=[(kit.output("in", "disabled"), True, False)],
        prevent_initial_call=True,
    )
    def run(n_clicks):
        raise PreventUpdate


@simple
def running_and_set_props(kit):
    kit.div("status")

    @kit.callback(
        kit.output(),
        kit.input(),
        running=[(kit.output("status"), "busy", "ready")],
        prevent_initial_call=True,
    )
    def run(n_clicks):
        set_props(kit.id("status"), {"children": "set"})
        return "done"


@form
def running_of_a_pattern(kit):
    for index in range(2):
        kit.page(
            html.Button(id=kit.many("in", index), n_clicks=0),
            html.Div(id=kit.many("out", index)),
        )

    @kit.callback(
        Output(kit.many("out", MATCH), "children"),
        Input(kit.many("in", MATCH), "n_clicks"),
        running=[(Output(kit.many("in", MATCH), "disabled"), True, False)],
        prevent_initial_call=True,
    )
    def run(n_clicks):
        return f"done {n_clicks}"

    kit.step((kit.many("in", 1), "n_clicks", 1))


@simple
def optional_hidden_persistent(kit):
    @kit.callback(
        kit.output(),
        kit.input(),
        kit.input("nobody", "n_clicks", allow_optional=True),
        optional=True,
        hidden=True,
        persistent=True,
    )
    def run(n_clicks, nobody):
        return f"{n_clicks} {nobody}"


@simple
def mcp_options(kit):
    @kit.callback(kit.output(), kit.input(), mcp_enabled=False, mcp_expose_docstring=True)
    def run(n_clicks):
        """Not exposed."""
        return f"{n_clicks}"


@simple
def websocket_option(kit):
    @kit.callback(kit.output(), kit.input(), websocket=True)
    def run(n_clicks):
        return f"{n_clicks}"


@simple
def api_endpoint(kit):
    @kit.callback(kit.output(), kit.input(), api_endpoint=f"/api/{kit.tag}")
    def run(n_clicks=0):
        return {"clicked": n_clicks}


@simple
def api_endpoint_of_odd_values(kit):
    @kit.callback(
        kit.output(), kit.input(), api_endpoint=f"/odd/{kit.tag}", prevent_initial_call=True
    )
    def run(n_clicks=0, what="values"):
        match what:
            case "nothing":
                return None
            case "prevented":
                raise PreventUpdate
            case "component":
                return html.Div("none of JSON's")
        return {
            "b": [dt.date(2024, 1, 2), decimal.Decimal("1.50"), uuid.UUID(int=5), (1, 2)],
            "a": [float("nan"), 2**70, "ä\ud800"],
        }


@simple
def api_endpoint_that_tells_where(kit):
    @kit.callback(kit.output(), kit.input(), api_endpoint=f"/where/{kit.tag}")
    def run(n_clicks=0, seconds=None):
        return f"{n_clicks}" if seconds is None else [os.getpid(), threading.get_ident()]


@simple
def api_endpoint_that_fails(kit):
    @kit.callback(
        kit.output(),
        kit.input(),
        api_endpoint=f"/broken/{kit.tag}",
        prevent_initial_call=True,
    )
    def run(n_clicks=0):
        raise ValueError(f"broken {n_clicks}")


@simple
def clientside_beside(kit):
    kit.div("client", "asset")
    kit.clientside("n => `client ${n}`", kit.output("client"), kit.input())
    kit.clientside(
        ClientsideFunction("parity", "asset"), kit.output("asset"), kit.input("client", "children")
    )

    @kit.callback(kit.output(), kit.input())
    def run(n_clicks):
        return f"server {n_clicks}"


# --- values -------------------------------------------------------------------------------------


def value_form(name, make, *, prop="children", fails=False):
    """A form whose callback returns this value."""
    if prop == "children":
        RAW.add(name)

    def define(kit):
        @kit.callback(kit.output(prop=prop), kit.input(), prevent_initial_call=fails)
        def run(n_clicks):
            return make()

    define.__name__ = name
    simple(define)


class Colour(enum.Enum):
    """A user's enum."""

    RED = "red"


class Text(str):
    """A user's string."""

    __slots__ = ()


FRAME = {"n": [1, 2], "x": [0.5, np.nan], "t": pd.to_datetime(["2024-01-01", "2024-06-30"])}

value_form("a_component", lambda: html.Div([html.B("b"), "t", None, 1, html.Br()], style={"a": 1}))
value_form("nested_components", lambda: {"a": [html.I(html.B(html.A("deep", href="/x")))]})
value_form("a_figure", lambda: go.Figure(go.Scatter(x=[1, 2], y=np.array([1.5, np.nan]))))
value_form(
    "an_express_figure",
    lambda: px.bar(pd.DataFrame(FRAME), x="t", y="n", color="x", title="ä"),
)
value_form("a_graph", lambda: dcc.Graph(figure=px.scatter(x=range(3), y=np.arange(3) ** 2)))
value_form("records", lambda: pd.DataFrame(FRAME).to_dict("records"))
value_form("a_data_frame", lambda: pd.DataFrame(FRAME), fails=True)
value_form("a_series", lambda: pd.Series([1, 2, 3]))
value_form(
    "dates",
    lambda: [
        dt.date(2024, 1, 2),
        dt.datetime(2024, 1, 2, 3, 4, 5, 678),  # noqa: DTZ001 - as users have them
        dt.datetime(2024, 1, 2, tzinfo=dt.timezone(dt.timedelta(hours=2))),
        dt.time(3, 4),
        pd.Timestamp("2024-01-02T03:04:05.000006", tz="Europe/Berlin"),
    ],
)
value_form("a_missing_date", lambda: [pd.NaT, None], fails=True)
value_form("a_time_delta", lambda: dt.timedelta(seconds=5), fails=True)
value_form(
    "numpy_values",
    lambda: [
        np.int64(5),
        np.float32(0.5),
        np.bool_(True),
        np.array([[1, 2], [3, 4]]),
        np.datetime64("2024-01-02"),
        np.str_("text"),
        np.array(["a", "b"]),
        np.array([1, "a", None], dtype=object),
    ],
)
value_form("not_a_number", lambda: [float("nan"), float("inf"), -float("inf"), np.nan])
value_form("a_decimal", lambda: decimal.Decimal("1.50"), fails=True)
value_form("a_uuid", lambda: uuid.UUID(int=5), fails=True)
value_form("an_enum", lambda: Colour.RED, fails=True)
value_form("a_users_string", lambda: Text("text"), fails=True)
value_form("a_tuple", lambda: (1, (2, 3)))
value_form("a_set", lambda: {1}, fails=True)
value_form("a_range", lambda: range(3), fails=True)
value_form("a_generator", lambda: (n for n in range(3)), fails=True)
value_form("a_complex_number", lambda: 1j, fails=True)
value_form("a_large_integer", lambda: [2**31, 2**53 + 1, 2**63 - 1, -(2**63)])
value_form("a_very_large_integer", lambda: 2**64, fails=True)
value_form("keys_that_are_numbers", lambda: {1: "one", 2.5: "two", None: 3, False: 4})
value_form("floats", lambda: [0.1, 1e300, 1e-7, -0.0, 1.0, 12345678901234567.0])
value_form("unicode", lambda: "ä€😀 \u2028\u2029 </script> \x00 \x1f \\ \" ' & <b>", prop="title")

value_form("a_long_text", lambda: "long " * 100_000, prop="title")
value_form("an_empty_list", list)
value_form("zero", lambda: 0)
value_form("false", lambda: False)


@simple
def a_lone_surrogate(kit):
    kit.words("stock's page of the error fails on the value that it shows")

    @kit.callback(kit.output(), kit.input(), prevent_initial_call=True)
    def run(n_clicks):
        return "\ud800"


@form
def downloads(kit):
    kit.button()
    for name in ("csv", "excel", "bytes", "string", "file"):
        kit.page(dcc.Download(id=kit.id(name)))
    frame = pd.DataFrame({"a": [1, 2], "ä": ["x", "ü"]})

    @kit.callback(kit.output("csv", "data"), kit.input(), prevent_initial_call=True)
    def csv(n_clicks):
        return dcc.express.send_data_frame(frame.to_csv, "frame.csv", index=False)

    @kit.callback(kit.output("bytes", "data"), kit.input(), prevent_initial_call=True)
    def raw(n_clicks):
        return dcc.express.send_bytes(b"\x00\xff" * 10, "raw.bin")

    @kit.callback(kit.output("string", "data"), kit.input(), prevent_initial_call=True)
    def text(n_clicks):
        return dcc.express.send_string(lambda buffer: buffer.write("text ä"), "text.txt")

    @kit.callback(kit.output("file", "data"), kit.input(), prevent_initial_call=True)
    def file(n_clicks):
        return {"content": "plain", "filename": "plain.txt"}

    kit.click()


# --- ctx ----------------------------------------------------------------------------------------


@simple
def ctx_triggered(kit):
    kit.button("other")

    @kit.callback(kit.output(), kit.input(), kit.input("other"), kit.state("in", "id"))
    def run(one, other, id_):
        return {
            "triggered": list(ctx.triggered),
            "any": bool(ctx.triggered),
            "id": ctx.triggered_id,
            "ids": dict(ctx.triggered_prop_ids),
            "first": ctx.triggered[0]["prop_id"],
            "inputs": ctx.inputs,
            "states": ctx.states,
            "args": ctx.args_grouping,
            "outputs": ctx.outputs_grouping,
            "grouped": [ctx.using_args_grouping, ctx.using_outputs_grouping],
            "lists": [ctx.inputs_list, ctx.states_list, ctx.outputs_list],
        }

    kit.click()
    kit.click("other", "in", count=2)


@simple
def ctx_grouping(kit):
    kit.button("other")

    @kit.callback(
        output={"a": kit.output(), "b": kit.output(prop="title")},
        inputs={"one": kit.input(), "other": kit.input("other")},
        state={"more": [kit.state("in", "id")]},
    )
    def run(one, other, more):
        grouping = ctx.args_grouping
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            lists = [ctx.inputs_list, ctx.states_list, ctx.outputs_list]
        return {
            "a": {
                "one": grouping.one.triggered,
                "other": grouping["other"],
                "more": grouping.more,
                "outputs": ctx.outputs_grouping,
                "lists": lists,
                "grouped": [ctx.using_args_grouping, ctx.using_outputs_grouping],
                "warned": [str(each.message) for each in caught],
            },
            "b": ctx.outputs_grouping.b["property"],
        }

    kit.click("other")


@form
def ctx_of_a_pattern(kit):
    kit.div()
    for index in range(2):
        kit.page(html.Button(id=kit.many("in", index), n_clicks=0))

    @kit.callback(kit.output(), Input(kit.many("in", ALL), "n_clicks"))
    def run(values):
        return {
            "triggered": list(ctx.triggered),
            "id": ctx.triggered_id,
            "index": ctx.triggered_id and ctx.triggered_id.index,
            "ids": dict(ctx.triggered_prop_ids),
            "args": ctx.args_grouping,
            "inputs": ctx.inputs,
        }

    kit.step((kit.many("in", 1), "n_clicks", 1))


@simple
def ctx_of_the_request(kit):
    kit.lost("its websocket context has no cookies, headers, path, args, remote and origin")

    @kit.callback(kit.output(), kit.input())
    def run(n_clicks):
        return {
            "cookies": ctx.cookies,
            "header": ctx.headers.get("X-Parity"),
            "lower": ctx.headers.get("x-parity"),
            "agent": ctx.headers.get("User-Agent"),
            "path": ctx.path,
            "args": dict(ctx.args),
            "several": ctx.args.getlist("many"),
            "remote": ctx.remote,
            "origin": ctx.origin,
        }


@simple
def ctx_custom_data(kit):
    kit.lost("its websocket context has no cookies")

    @kit.callback(kit.output(), kit.input())
    def run(n_clicks):
        return {"whole": ctx.custom_data, "part": ctx.custom_data.parity["flavour"]}


@simple
def ctx_custom_data_on_the_request(kit):
    """As a form of its own, so that it is played without others."""
    kit.lost("its websocket's threads have no context of the web framework")

    @kit.callback(kit.output(), kit.input())
    def run(n_clicks):
        return ctx.custom_data.request


@simple
def ctx_timing(kit):
    kit.lost("timing needs an HTTP request there")

    @kit.callback(kit.output(), kit.input())
    def run(n_clicks):
        ctx.record_timing("parity", 0.25, "a resource")
        return ctx.timing_information["parity"]


@simple
def ctx_without_websocket(kit):
    kit.streams("there is one only over a websocket")

    @kit.callback(kit.output(), kit.input())
    def run(n_clicks):
        return ctx.websocket is None


@simple
def a_cookie_on_the_response(kit):
    kit.refuses("a websocket's answer has no cookies; stock loses them")

    @kit.callback(kit.output(), kit.input(), prevent_initial_call=True)
    def run(n_clicks):
        ctx.response.set_cookie("seen", f"{n_clicks}", httponly=True, path="/here")
        return "set"


@simple
def headers_on_the_response(kit):
    kit.refuses("a websocket's answer has no headers; stock loses them")

    @kit.callback(kit.output(), kit.input(), prevent_initial_call=True)
    def run(n_clicks):
        ctx.response.append_header("X-Many", "one")
        ctx.response.append_header("X-Many", "two")
        ctx.response.set_header("X-One", "one")
        ctx.response.set_header("X-One", f"{n_clicks}")
        return "set"


@simple
def the_app_at_hand(kit):
    @kit.callback(kit.output(), kit.input())
    def run(n_clicks):
        app = get_app()
        return {
            "title": app.title,
            "asset": get_asset_url("logo.png").partition("?")[0],
            "relative": get_relative_path("/page"),
            "config": app.config.suppress_callback_exceptions,
            "logger": app.logger.name != "",
        }


@simple
def helpers_deep_down(kit):
    """`ctx` and `set_props` are used in a function that the callback calls."""

    def helper():
        set_props(kit.id("out"), {"title": "deep"})
        return ctx.triggered_id

    @kit.callback(kit.output(), kit.input())
    def run(n_clicks):
        time.sleep(0)
        return f"{helper()}"


@simple
def a_method_as_callback(kit):
    class Model:
        def run(self, n_clicks):
            return f"method {n_clicks}"

    kit.callback(kit.output(), kit.input())(Model().run)


@simple
def a_lambda_as_callback(kit):
    kit.callback(kit.output(), kit.input())(lambda n_clicks: f"lambda {n_clicks}")


@simple
def keyword_only_arguments(kit):
    @kit.callback(kit.output(), inputs={"clicks": kit.input()})
    def run(*, clicks, more="default"):
        return f"{clicks} {more}"


@simple
def components_that_bring_callbacks(kit):
    """The children that a callback returns have ids that another callback listens to."""
    kit.div("inner")

    @kit.callback(kit.output(), kit.input())
    def make(n_clicks):
        return dcc.Input(id=kit.id("made"), value=f"made {n_clicks}")

    @kit.callback(kit.output("inner"), kit.input("made", "value"))
    def follow(value):
        return f"inner {value}"


# --- pages --------------------------------------------------------------------------------------


def page_form(define):
    """A form on a page of its own."""

    def whole(kit):
        kit.visits = f"/{kit.tag}/{define.__name__}"
        kit.button()
        kit.div()
        define(kit)
        kit.click()

    whole.__name__ = define.__name__
    PAGE_FORMS[define.__name__] = whole
    return whole


@page_form
def a_callback_of_a_page(kit):
    @kit.callback(kit.output(), kit.input())
    def run(n_clicks):
        return f"page {n_clicks} {ctx.triggered_id}"


@page_form
def a_callback_of_a_page_with_a_pattern(kit):
    kit.page(*(html.Div(id=kit.many("out", index)) for index in range(2)))

    @kit.callback(
        output={"all": Output(kit.many("out", ALL), "children"), "text": kit.output()},
        inputs={"clicks": kit.input()},
        prevent_initial_call=True,
    )
    def run(clicks):
        set_props(kit.id("out"), {"title": "set"})
        return {"all": [clicks, no_update], "text": "text"}


@page_form
def a_callback_of_a_page_without_outputs(kit):
    @kit.callback(kit.input())
    def run(n_clicks):
        set_props(kit.id("out"), {"children": f"set {n_clicks}"})


@page_form
def a_callback_of_a_page_that_fails(kit):
    @kit.callback(kit.output(), kit.input(), prevent_initial_call=True)
    def run(n_clicks):
        raise ValueError("broken")
