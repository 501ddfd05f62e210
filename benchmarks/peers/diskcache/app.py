"""Stock Dash on Flask, with background callbacks on Diskcache: every callback returns its input."""

import os

import diskcache
from dash import Dash, DiskcacheManager, Input, Output, dcc, html

cache = diskcache.Cache(os.environ["CACHE_FOLDER"])

app = Dash(__name__, background_callback_manager=DiskcacheManager(cache))
server = app.server
app.layout = html.Div([dcc.Store(id="in", data=0), html.Div(id="background")])


@app.callback(Output("background", "children"), Input("in", "data"), background=True)
def background(value):
    return value
