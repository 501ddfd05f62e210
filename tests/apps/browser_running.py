"""``running=`` with wildcards, and updates of components that are not on the page.

Runs wait at gates of their own: ``<tag>-<name>-<index or click>``.
"""

import asyncio
import os
from typing import Any

from dash import ALL, ALLSMALLER, MATCH, Input, Output, State, ctx, dcc, html, set_props

from dash_dispatch import Dash, Offload
from tests.apps.browser_gates import apass_gate, note

ROWS = (1, 2, 3)

app = Dash(__name__, prevent_initial_callbacks=True, title="A page")
server = app.server
tag = State("tag", "value")
what = State("what", "value")


def cell(kind: str, index: Any) -> dict[str, Any]:
    return {"type": kind, "index": index}


@app.callback(
    Output(cell("result", MATCH), "children"),
    Input("all", "n_clicks"),
    Input(cell("go", MATCH), "n_clicks"),
    tag,
    what,
    offload=Offload(timeout=60),
    running=[
        (Output(cell("go", MATCH), "disabled"), True, False),
        (Output(cell("state", MATCH), "children"), "busy", "idle"),
        (Output(cell("smaller", ALLSMALLER), "children"), "a later one runs", "no later one runs"),
        (Output(cell("everybody", ALL), "children"), "one runs", "none runs"),
        (Output("one", "children"), "one runs", "none runs"),
    ],
    cancel=[Input(cell("cancel", MATCH), "n_clicks"), Input("cancel-all", "n_clicks")],
)
async def row(everything: int, clicks: int, tag: str, what: str) -> str:
    index = ctx.outputs_list["id"]["index"]
    note("row", tag, index)
    await apass_gate(f"{tag}-row-{index}")
    if what == "raise":
        raise ValueError("no")
    return f"{what} {index}"


def add_end(kind: str, offload: Offload) -> None:
    """A plain callback with ``running=``, for each way to end."""

    def run(clicks: int, tag: str, what: str) -> str:
        note("end", tag, kind)
        if kind == "exit":
            os._exit(3)
        raise ValueError("no")

    async def wait(clicks: int, tag: str, what: str) -> str:
        note("end", tag, kind)
        await asyncio.Event().wait()
        return "never"

    app.callback(
        Output(f"{kind}-result", "children"),
        Input(f"{kind}-start", "n_clicks"),
        tag,
        what,
        offload=offload,
        running=[
            (Output(f"{kind}-start", "disabled"), True, False),
            (Output(f"{kind}-state", "children"), html.B("busy"), "idle"),
        ],
    )(wait if kind == "timeout" else run)


ENDS = {"timeout": Offload(timeout=0.2), "raise": Offload(), "exit": Offload()}
for kind, offload in ENDS.items():
    add_end(kind, offload)


@app.callback(
    Output("absent-result", "children"),
    Input("absent", "n_clicks"),
    offload=True,
    running=[
        (Output("nowhere", "disabled"), True, False),
        (Output(cell("nowhere", 1), "disabled"), True, False),
        (Output("absent-state", "children"), "busy", "idle"),
    ],
)
async def absent(clicks: int) -> str:
    return f"{clicks}"


@app.callback(Output("sets-result", "children"), Input("sets", "n_clicks"), offload=True)
async def sets(clicks: int) -> str:
    set_props("nobody", {"children": "lost"})
    set_props("nobody", {"children": "lost as well"})
    set_props(cell("nobody", 1), {"children": "lost, too"})
    return f"{clicks}"


@app.callback(Output("later-result", "children"), Input("later", "n_clicks"), offload=True)
async def later(clicks: int) -> Any:
    set_props("late", {"children": "too early"})
    return html.Div("in time", id="late")


app.layout = html.Div(
    [
        dcc.Input(id="tag", value="none"),
        dcc.Input(id="what", value="done"),
        html.Button("all", id="all"),
        html.Button("cancel all", id="cancel-all"),
        html.Div("at first", id="one"),
        *(
            html.Div(
                [
                    html.Button("go", id=cell("go", n)),
                    html.Button("cancel", id=cell("cancel", n)),
                    html.Div("at first", id=cell("state", n)),
                    html.Div("at first", id=cell("smaller", n)),
                    html.Div("at first", id=cell("everybody", n)),
                    html.Div("nothing yet", id=cell("result", n)),
                ]
            )
            for n in ROWS
        ),
        *(
            html.Div(
                [
                    html.Button(kind, id=f"{kind}-start"),
                    html.Div("at first", id=f"{kind}-state"),
                    html.Div("nothing yet", id=f"{kind}-result"),
                ]
            )
            for kind in ENDS
        ),
        *(html.Button(name, id=name) for name in ("absent", "sets", "later")),
        *(html.Div(id=f"{name}-result") for name in ("absent", "sets", "later")),
        html.Div("at first", id="absent-state"),
    ]
)
