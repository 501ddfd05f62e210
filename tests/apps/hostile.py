"""Callbacks that give back what they get, of every kind; and what the web process holds."""

import asyncio
import gc
import os
from pathlib import Path

import psutil
from dash import Input, Output, State, ctx, dcc, html

from dash_dispatch import Dash, Offload

NAMES = (
    "offloaded", "in-process", "plain", "local", "local-def", "asks", "fails", "fails-local",
    "noted", "noted-in-worker",
)  # fmt: skip
DETAIL = "a detail of the app's inside"


def layout():
    if Path("broken").exists():
        raise RuntimeError(DETAIL)
    return html.Div([dcc.Store(id="in", data=0), *(html.Div(id=name) for name in NAMES)])


def user_of(asked):
    if "broken" in asked.cookies:
        raise RuntimeError(DETAIL)
    return "everybody"


app = Dash(__name__, websocket_allowed_origins=["https://partner.example"], user=user_of)
server = app.server
app.layout = layout
asked = (Input("in", "data"), State("in", "id"))
BESIDE = Offload(overlap="parallel")


@app.callback(Output("offloaded", "children"), *asked, offload=BESIDE)
async def offloaded(value, _):
    return str(value)


@app.callback(Output("in-process", "children"), *asked, offload=BESIDE)
def in_process(value, _):
    return str(value)


@app.callback(Output("plain", "children"), *asked)
async def plain(value, _):
    return str(value)


@app.callback(Output("local", "children"), *asked, websocket=True)
async def local(value, _):
    return str(value)


@app.callback(Output("local-def", "children"), *asked, websocket=True)
def local_def(value, _):
    return str(value)


@app.callback(Output("asks", "children"), *asked, websocket=True)
async def asks(value, _):
    return await ctx.websocket.get_prop("in", "data")


@app.callback(Output("fails", "children"), *asked, offload=BESIDE)
async def fails(value, _):
    raise RuntimeError(f"{DETAIL}: {value}")


@app.callback(Output("fails-local", "children"), *asked, websocket=True)
def fails_local(value, _):
    raise RuntimeError(f"{DETAIL}: {value}")


@app.callback(Output("noted", "children"), *asked)
async def noted(value, _):
    print("the callback has run:", value)  # noqa: T201 - what a test looks for
    return value


@app.callback(Output("noted-in-worker", "children"), *asked, offload=BESIDE)
async def noted_in_worker(value, _):
    print("the callback has run:", value)  # noqa: T201 - what a test looks for
    return value


@server.route("/held")
async def held():
    """What would grow if something leaked."""
    tasks = sorted(task.get_name() for task in asyncio.all_tasks())
    process = psutil.Process()
    return {
        "pid": os.getpid(),
        "tasks": tasks,
        "rss_mb": process.memory_info().rss / 2**20,
        "files": process.num_fds(),
        "settled": gc.get_freeze_count(),
    }
