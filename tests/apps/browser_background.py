"""Background callbacks as an app written for Dash has them, without a manager.

Runs wait at gates: ``<tag>-<name>-<step>``.
"""

from typing import Any

import dash
from dash import ALL, MATCH, Input, Output, State, ctx, dcc, html, no_update, set_props
from dash.exceptions import PreventUpdate

from dash_dispatch import Dash
from tests.apps.browser_gates import note, pass_gate

STEPS = 3
ROWS = (1, 2)

tag = State("tag", "value")


def part(kind: str, index: Any) -> dict[str, Any]:
    return {"type": kind, "index": index}


def clicked(name: str) -> Input:
    return Input(name, "n_clicks")


def shown(name: str) -> Output:
    return Output(name, "children")


def add_report(app: dash.Dash) -> None:
    @app.callback(
        shown("report"),
        clicked("start"),
        tag,
        background=True,
        prevent_initial_call=True,
        running=[(Output("start", "disabled"), True, False), (shown("state"), "busy", "idle")],
        cancel=[clicked("cancel"), Input("abandon", "value")],
        progress=[Output("bar", "value"), Output("bar", "max"), shown("words")],
        progress_default=["0", "1", "nothing runs"],
        interval=100,
    )
    def report(set_progress: Any, clicks: int, tag: str) -> str:
        note("report", tag, clicks)
        for step in range(1, STEPS + 1):
            set_progress((str(step), str(STEPS), html.B(f"step {step}")))
            pass_gate(f"{tag}-report-{step}")
        return f"report {clicks}"


def add_results(app: dash.Dash) -> None:
    @app.callback(
        [shown("several-status"), *(shown(f"several-{n}") for n in range(3))],
        [clicked("several")],
        background=True,
        prevent_initial_call=True,
    )
    def several(clicks: int) -> list[Any]:
        return [f"click {clicks}", *range(clicks), *[no_update] * (3 - clicks)]

    @app.callback(
        shown("moody"),
        clicked("mood"),
        background=True,
        prevent_initial_call=True,
        running=[(Output("mood", "disabled"), True, False)],
    )
    def moody(clicks: int) -> str:
        if clicks == 2:
            raise PreventUpdate
        if clicks == 3:
            raise ValueError("a bad mood")
        return f"mood {clicks}"

    @app.callback(
        shown("handled"),
        clicked("fail"),
        background=True,
        prevent_initial_call=True,
        on_error=lambda error: f"handled: {type(error).__name__}",
    )
    def fail(clicks: int) -> str:
        raise ValueError("no")

    @app.callback(shown("sets"), clicked("set"), tag, background=True, prevent_initial_call=True)
    def sets(clicks: int, tag: str) -> str:
        set_props("first", {"children": "one", "title": "with a title"})
        set_props("second", {"children": html.Button("made", id="made")})
        pass_gate(f"{tag}-set-1")
        set_props("first", {"children": "two"})
        return "all set"

    @app.callback(clicked("quiet"), background=True, prevent_initial_call=True)
    def quiet(clicks: int) -> None:
        set_props("quietly", {"children": f"done {clicks}"})

    @app.callback(shown("made-answer"), clicked("made"), prevent_initial_call=True)
    def made(clicks: int) -> str:
        return f"made {clicks}"


def add_patterns(app: dash.Dash) -> None:
    @app.callback(
        shown("who"),
        Input(part("button", ALL), "n_clicks"),
        background=True,
        prevent_initial_call=True,
    )
    def who(clicks: list[int | None]) -> str:
        return f"{ctx.triggered_id['index']} of {clicks}"

    @app.callback(
        Output(part("result", MATCH), "children"),
        Input(part("go", MATCH), "n_clicks"),
        tag,
        background=True,
        prevent_initial_call=True,
        running=[(Output(part("state", MATCH), "children"), "busy", "idle")],
        progress=Output(part("step", MATCH), "children"),
        cancel=Input(part("stop", MATCH), "n_clicks"),
    )
    def row(set_progress: Any, clicks: int, tag: str) -> str:
        index = ctx.triggered_id["index"]
        note("row", tag, index)
        set_progress(f"step of {index}")
        pass_gate(f"{tag}-row-{index}")
        return f"row {index}"


def add_chains(app: dash.Dash) -> None:
    @app.callback(shown("loaded"), Input("seed", "data"), background=True)
    def loaded(seed: int) -> str:
        return f"loaded {seed}"

    @app.callback(shown("middle"), Input("loaded", "children"), prevent_initial_call=True)
    def middle(text: str) -> str:
        return f"{text}, passed on"

    @app.callback(
        shown("end"), Input("middle", "children"), background=True, prevent_initial_call=True
    )
    def end(text: str) -> str:
        return f"{text}, ended"

    @app.callback(
        shown("newest"),
        Input("word", "value"),
        tag,
        background=True,
        prevent_initial_call=True,
        running=[(shown("newest-state"), "busy", "idle")],
    )
    def newest(word: str, tag: str) -> str:
        note("newest", tag, word)
        pass_gate(f"{tag}-newest-{word}")
        return f"the word is {word}"


def build(app: dash.Dash) -> dash.Dash:
    """All of it, for an app of any kind."""
    for add in (add_report, add_results, add_patterns, add_chains):
        add(app)
    buttons = ("start", "cancel", "several", "mood", "fail", "set", "quiet")
    places = (
        "report", "state", "words", "several-status", "several-0", "several-1", "several-2",
        "moody", "handled", "sets", "first", "second", "quietly", "made-answer", "who", "loaded",
        "middle", "end", "newest", "newest-state",
    )  # fmt: skip
    app.layout = html.Div(
        [
            *(dcc.Input(id=name) for name in ("tag", "abandon", "word")),
            dcc.Store(id="seed", data=7),
            html.Progress(id="bar", value="0", max="1"),
            *(html.Button(name, id=name) for name in buttons),
            *(html.Button(f"button {n}", id=part("button", n)) for n in ROWS),
            *(html.Button(f"go {n}", id=part("go", n)) for n in ROWS),
            *(html.Button(f"stop {n}", id=part("stop", n)) for n in ROWS),
            *(html.Div(id=part(kind, n)) for n in ROWS for kind in ("result", "state", "step")),
            *(html.Div(id=name) for name in places),
        ]
    )
    return app


app = build(Dash(__name__, title="A page", suppress_callback_exceptions=True))
server = app.server
