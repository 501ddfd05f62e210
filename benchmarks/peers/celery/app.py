"""Stock Dash on Flask, with background callbacks on Celery: every callback returns its input."""

import os

from celery import Celery
from dash import CeleryManager, Dash, Input, Output, dcc, html

celery_app = Celery(__name__, broker=os.environ["BROKER_URL"], backend=os.environ["BACKEND_URL"])

app = Dash(__name__, background_callback_manager=CeleryManager(celery_app))
server = app.server
app.layout = html.Div([dcc.Store(id="in", data=0), html.Div(id="background")])


@app.callback(Output("background", "children"), Input("in", "data"), background=True)
def background(value):
    return value
