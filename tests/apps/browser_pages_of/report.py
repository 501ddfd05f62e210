"""A page with offloaded callbacks of its own."""

import os

import dash
from dash import Input, Output, dcc, html

from dash_dispatch import callback

dash.register_page(__name__, path="/report")
layout = html.Div([dcc.Input(id="city"), html.Div(id="pid"), html.Div(id="report")])


@callback(Output("report", "children"), Input("city", "value"), offload=True)
def report(city: str | None) -> str:
    return f"report on {city}"


@callback(Output("pid", "children"), Input("city", "value"), offload=True)
async def where(city: str | None) -> str:
    return f"{os.getpid()}"
