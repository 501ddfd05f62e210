"""Callbacks of one group, in all executors, that write down when they run."""

import asyncio
import os
import time
from typing import Any

from dash import Input, Output, dcc, html

from dash_dispatch import Dash, Offload

app = Dash(__name__)
server = app.server
NAMES = ("loop", "thread", "process", "dies", "free")
app.layout = html.Div([dcc.Store(id="in", data=0), *(html.Div(id=name) for name in NAMES)])
asked = Input("in", "data")
GROUP: dict[str, Any] = {"overlap": "parallel", "concurrency": 2, "group": "gpu"}
LASTS_S = 0.05


def note(what, tag):
    """One line: all processes write into the same file, and have the same clock."""
    with open("runs", "a") as file:
        file.write(f"{what} {tag} {time.monotonic()} {os.getpid()}\n")


@app.callback(Output("loop", "children"), asked, offload=Offload(**GROUP))
async def on_loop(tag):
    note("start", tag)
    await asyncio.sleep(LASTS_S)
    note("end", tag)
    return tag


def blocks(tag):
    note("start", tag)
    time.sleep(LASTS_S)
    note("end", tag)
    return tag


@app.callback(Output("thread", "children"), asked, offload=Offload(executor="thread", **GROUP))
def in_thread(tag):
    return blocks(tag)


@app.callback(Output("process", "children"), asked, offload=Offload(**GROUP))
def in_process(tag):
    return blocks(tag)


@app.callback(Output("dies", "children"), asked, offload=Offload(**GROUP))
async def dies(tag):
    note("start", tag)
    await asyncio.sleep(60)


@app.callback(Output("free", "children"), asked, offload=Offload(overlap="parallel"))
async def free(tag):
    return tag
