"""Callbacks that are asked for again while they run, for each way in which runs may overlap.

Each run waits at a gate of its own: ``<tag>-<mode>-<click>``.
"""

import asyncio
from typing import Any

from dash import MATCH, Input, Output, Patch, State, ctx, dcc, html, set_props

from dash_dispatch import Dash, Offload
from tests.apps.browser_gates import apass_gate, note

MODES: tuple[Any, ...] = ("latest", "queue", "parallel", "drop")
SIBLINGS = (1, 2)

app = Dash(__name__, prevent_initial_callbacks=True, title="A page")
server = app.server
tag = State("tag", "value")
what = State("what", "value")


async def passed(tag: str, mode: str, clicks: object) -> None:
    """Wait at the gate of a run, and say when it begins, ends and is cancelled."""
    note("start", tag, mode, clicks)
    try:
        await apass_gate(f"{tag}-{mode}-{clicks}")
    except asyncio.CancelledError:
        note("cancelled", tag, mode, clicks)
        raise
    note("end", tag, mode, clicks)


def add_mode(mode: Any) -> None:
    @app.callback(
        Output(f"{mode}-answer", "children"),
        Output(f"{mode}-list", "data"),
        Input(mode, "n_clicks"),
        tag,
        what,
        offload=Offload(overlap=mode),
        running=[(Output(f"{mode}-state", "children"), "busy", "idle")],
    )
    async def run(clicks: int, tag: str, what: str) -> tuple[Any, Patch]:
        if what == "state":
            set_props(f"{mode}-state", {"children": "at work"})
        await passed(tag, mode, clicks)
        if what == "raise":
            raise ValueError(f"run {clicks} of {tag}")
        seen = Patch()
        seen.append(clicks)
        if what == "component":
            inner = html.Button("inner", id={"type": "inner", "mode": mode, "click": clicks})
            return inner, seen
        return f"{tag} {mode} {clicks}", seen

    # Dependants: one of the browser, one of the web process.
    app.clientside_callback(
        "list => list.join(' ')", Output(f"{mode}-all", "children"), Input(f"{mode}-list", "data")
    )

    @app.callback(Output(f"{mode}-after", "children"), Input(f"{mode}-answer", "children"))
    async def after(answer: Any) -> str:
        return f"after {answer}"

    @app.callback(
        Output({"type": "cell", "mode": mode, "index": MATCH}, "children"),
        Input({"type": "ask", "mode": mode, "index": MATCH}, "n_clicks"),
        tag,
        offload=Offload(overlap=mode),
    )
    async def sibling(clicks: int, tag: str) -> str:
        await passed(tag, f"{mode}-sibling", f"{ctx.triggered_id['index']}-{clicks}")
        return f"{ctx.triggered_id['index']}: {clicks}"

    @app.callback(
        Input(f"silent-{mode}", "n_clicks"),
        tag,
        what,
        offload=Offload(overlap=mode),
        running=[(Output(f"silent-{mode}-state", "children"), "busy", "idle")],
    )
    async def silent(clicks: int, tag: str, what: str) -> None:
        await passed(tag, f"silent-{mode}", clicks)
        if what == "raise":
            raise ValueError(f"silent run {clicks} of {tag}")
        set_props(f"silent-{mode}-answer", {"children": f"{clicks}"})


@app.callback(
    Output("inner-answer", "children"),
    Input({"type": "inner", "mode": "parallel", "click": 1}, "n_clicks"),
)
async def inner(clicks: int) -> str:
    return f"inner {clicks}"


for mode in MODES:
    add_mode(mode)

app.layout = html.Div(
    [
        dcc.Input(id="tag", value="none"),
        dcc.Input(id="what", value="text"),
        html.Div(id="inner-answer"),
        *(
            html.Div(
                [
                    html.Button(mode, id=mode),
                    html.Div(dcc.Loading(html.Div(id=f"{mode}-answer")), id=f"{mode}-loading"),
                    dcc.Store(id=f"{mode}-list", data=[]),
                    html.Div(id=f"{mode}-all"),
                    html.Div(id=f"{mode}-after"),
                    html.Div("at first", id=f"{mode}-state"),
                    html.Button("silent", id=f"silent-{mode}"),
                    html.Div(id=f"silent-{mode}-answer"),
                    html.Div("at first", id=f"silent-{mode}-state"),
                    *(
                        html.Div(
                            [
                                html.Button("ask", id={"type": "ask", "mode": mode, "index": n}),
                                html.Div(id={"type": "cell", "mode": mode, "index": n}),
                            ]
                        )
                        for n in SIBLINGS
                    ),
                ]
            )
            for mode in MODES
        ),
    ]
)
