"""dash_dispatch: every callback returns its input."""

import asyncio
import os
import time

from dash import Input, Output, dcc, html

from dash_dispatch import Dash, Offload

SLOW_S = float(os.environ["SLOW_S"])
NAMES = (
    "local",
    "local-def",
    "plain",
    "async",
    "process",
    "thread",
    "fast",
    "slow-async",
    "slow-process",
    "slow-thread",
)

app = Dash(__name__)
server = app.server
app.layout = html.Div(
    [
        dcc.Store(id="in", data=0),
        html.Div(id="slow-plain"),
        *(html.Div(id=name) for name in NAMES),
    ]
)

asked = Input("in", "data")

# One page asks for many at once, and wants each.
BESIDE = Offload(overlap="parallel")
IN_THREAD = Offload(overlap="parallel", executor="thread")


@app.callback(Output("local", "children"), asked, websocket=True)
async def local(value):
    return value


@app.callback(Output("local-def", "children"), asked, websocket=True)
def local_def(value):
    return value


@app.callback(Output("plain", "children"), asked)
def plain(value):
    return value


@app.callback(Output("fast", "children"), asked)
async def fast(value):
    return value


@app.callback(Output("async", "children"), asked, offload=BESIDE)
async def in_loop(value):
    return value


@app.callback(Output("process", "children"), asked, offload=BESIDE)
def in_process(value):
    return value


@app.callback(Output("thread", "children"), asked, offload=IN_THREAD)
def in_thread(value):
    return value


@app.callback(Output("slow-plain", "children"), asked)
def slow_plain(value):
    time.sleep(SLOW_S)
    return value


@app.callback(Output("slow-async", "children"), asked, offload=BESIDE)
async def slow_async(value):
    await asyncio.sleep(SLOW_S)
    return value


@app.callback(Output("slow-process", "children"), asked, offload=BESIDE)
def slow_process(value):
    time.sleep(SLOW_S)
    return value


@app.callback(Output("slow-thread", "children"), asked, offload=IN_THREAD)
def slow_thread(value):
    time.sleep(SLOW_S)
    return value
