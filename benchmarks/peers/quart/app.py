"""Stock Dash on Quart: every callback returns its input."""

import asyncio
import os
import time

from dash import Dash, Input, Output, dcc, html

SLOW_S = float(os.environ["SLOW_S"])

app = Dash(__name__, backend="quart")
server = app.server
app.layout = html.Div(
    [
        dcc.Store(id="in", data=0),
        *(html.Div(id=name) for name in ("local", "fast", "slow-plain", "slow-async")),
    ]
)

asked = Input("in", "data")


@app.callback(Output("local", "children"), asked, websocket=True)
async def local(value):
    return value


@app.callback(Output("fast", "children"), asked)
async def fast(value):
    return value


@app.callback(Output("slow-plain", "children"), asked)
def slow_plain(value):
    time.sleep(SLOW_S)
    return value


@app.callback(Output("slow-async", "children"), asked, websocket=True)
async def slow_async(value):
    await asyncio.sleep(SLOW_S)
    return value
