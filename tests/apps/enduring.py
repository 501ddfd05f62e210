"""Callbacks that take their time and say how far they are, per executor; a file counts runs."""

import asyncio
import os
import time
from pathlib import Path

from dash import Input, Output, dcc, html, set_props

from dash_dispatch import Dash, Offload

app = Dash(__name__)
server = app.server
NAMES = ("loop", "thread", "process", "local", "bar")
app.layout = html.Div([dcc.Store(id="in", data=0), *(html.Div(id=name) for name in NAMES)])
asked = Input("in", "data")


def count_run(tag):
    """One line per run; appended in one write, so that processes do not mix theirs."""
    with Path("runs").open("a") as file:
        file.write(f"{tag} {os.getpid()}\n")


async def steps(value):
    tag, count, pause_s = value
    count_run(tag)
    for step in range(count):
        set_props("bar", {"children": step})
        await asyncio.sleep(pause_s)
    return tag


def steps_def(value):
    tag, count, pause_s = value
    count_run(tag)
    for step in range(count):
        set_props("bar", {"children": step})
        time.sleep(pause_s)
    return tag


def parallel(executor):
    return Offload(executor=executor, overlap="parallel")


for name, executor, function in (
    ("loop", "auto", steps),
    ("thread", "thread", steps_def),
    ("process", "process", steps_def),
):
    app.callback(Output(name, "children"), asked, offload=parallel(executor))(function)


@app.callback(Output("local", "children"), asked, websocket=True)
async def local(value):
    """In the web process, which may be killed meanwhile."""
    tag, _, pause_s = value
    count_run(tag)
    await asyncio.sleep(pause_s)
    return tag
