"""Thirteen slow callbacks at once when the page is loaded, and one behind them all."""

from typing import Any

import dash
from dash import Input, Output, html

from dash_dispatch import Dash
from tests.apps.browser_gates import apass_gate, note

WIDTH = 13


def furnish(app: dash.Dash, **where: Any) -> None:
    """Give an app its layout and its callbacks.

    Args:
        app: Stock or ours.
        where: How its callbacks are to be run.
    """
    names = [f"link-{number}" for number in range(WIDTH)]
    app.layout = html.Div([html.Div(id=name) for name in ["start", *names, "end"]])

    def add_link(number: int) -> None:
        @app.callback(Output(names[number], "children"), Input("start", "children"), **where)
        async def link(_start: None) -> str:
            note(f"link {number}")
            await apass_gate("chain-links")
            return f"{number}"

    for number in range(WIDTH):
        add_link(number)

    inputs = [Input(name, "children") for name in names]

    @app.callback(Output("end", "children"), inputs, **where)
    async def end(*links: str | None) -> str:
        note("end", *links)
        return " ".join(map(str, links))


app = Dash(__name__)
server = app.server
furnish(app, offload=True)
