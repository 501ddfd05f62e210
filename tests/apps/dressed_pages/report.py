"""A page whose callback is offloaded."""

import os

import dash
from dash import Input, Output, html

from dash_dispatch import Offload, callback

dash.register_page(__name__, path="/report")


def layout(**_):
    return html.Div([html.Div(id="paged"), html.Div(id="paged-thread")])


@callback(Output("paged", "children"), Input("in", "data"), offload=True)
def paged(value):
    return f"{os.getpid()} {value}"


@callback(
    Output("paged-thread", "children"), Input("in", "data"), offload=Offload(executor="thread")
)
def paged_thread(value):
    return f"{os.getpid()} {value}"
