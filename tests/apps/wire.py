"""Callbacks that a test holds, releases and counts through files in the process' folder."""

import asyncio
import os
import subprocess
import time
from pathlib import Path

from dash import Input, Output, ctx, dcc, html, set_props

from dash_dispatch import Dash, Offload, cancel, cancel_sync

app = Dash(__name__)
server = app.server
NAMES = (
    "echo", "held", "held-async", "held-thread", "counted", "counted-held", "steps", "large",
    "family", "endless", "cancellable", "clash", "many",
    "local-plain", "local", "local-def", "local-held", "local-held-def", "local-get",
    "local-get-def", "local-stream", "local-steps", "shape",
    "cancels-web", "cancels-web-def", "cancels-loop", "cancels-thread", "cancels-process",
)  # fmt: skip
app.layout = html.Div([dcc.Store(id="in", data=0), *(html.Div(id=name) for name in NAMES)])
asked = Input("in", "data")
# Tests ask for many calls of one callback at once, as many pages would.
BESIDE = Offload(overlap="parallel")


def note(tag, what):
    """Write down that this happened in this process."""
    with open(f"{tag}.{what}", "a") as file:
        file.write(f"{os.getpid()}\n")


def released(tag):
    return Path(f"{tag}.go").exists()


def hold(tag):
    note(tag, "started")
    while not released(tag):
        time.sleep(0.01)


async def hold_async(tag):
    note(tag, "started")
    try:
        while not released(tag):
            await asyncio.sleep(0.01)
    except asyncio.CancelledError:
        note(tag, "cancelled")
        raise


@app.callback(Output("echo", "children"), asked, offload=BESIDE)
async def echo(value):
    return value


@app.callback(Output("held", "children"), asked, offload=BESIDE)
def held(tag):
    hold(tag)
    return f"{tag} in {os.getpid()}"


@app.callback(Output("held-async", "children"), asked, offload=BESIDE)
async def held_async(tag):
    await hold_async(tag)
    return f"{tag} in {os.getpid()}"


@app.callback(
    Output("held-thread", "children"), asked, offload=Offload(executor="thread", overlap="parallel")
)
def held_thread(tag):
    hold(tag)
    return f"{tag} in {os.getpid()}"


@app.callback(Output("counted", "children"), asked, offload=BESIDE)
async def counted(tag):
    note(tag, "runs")
    return tag


@app.callback(Output("counted-held", "children"), asked, offload=BESIDE)
async def counted_held(tag):
    note(tag, "runs")
    await hold_async(tag)
    return tag


@app.callback(Output("steps", "children"), asked, offload=BESIDE)
def steps(count):
    for step in range(count):
        set_props("shape", {"children": step})
    return f"{count} steps"


@app.callback(Output("many", "children"), asked, offload=BESIDE)
async def many(value):
    """Steps before and after a hold."""
    tag, count = value
    for step in range(count):
        set_props("shape", {"children": step})
        await asyncio.sleep(0)
    await hold_async(tag)
    for step in range(count, 2 * count):
        set_props("shape", {"children": step})
        await asyncio.sleep(0)
    return f"{2 * count} steps"


@app.callback(Output("large", "children"), asked, offload=BESIDE)
def large(size):
    return "x" * size


@app.callback(Output("family", "children"), asked, offload=Offload(overlap="parallel", timeout=1.5))
def family(tag):
    """Starts a process of its own, and never ends."""
    child = subprocess.Popen(["sleep", "1000"])
    Path(f"{tag}.child").write_text(str(child.pid))
    note(tag, "started")
    child.wait()


@app.callback(
    Output("cancellable", "children"),
    asked,
    offload=BESIDE,
    cancel=[Input("stop", "n_clicks")],
)
def cancellable(tag):
    hold(tag)
    return tag


# --- in the web process, over the websocket -----------------------------------------------------


@app.callback(Output("local-plain", "children"), asked)
async def local_plain(value):
    return value


@app.callback(Output("local", "children"), asked, websocket=True)
async def local(value):
    note("local", "runs")
    return f"web {os.getpid()} {value}"


@app.callback(Output("local-def", "children"), asked, websocket=True)
def local_def(value):
    return f"web {os.getpid()} {value}"


@app.callback(Output("local-held", "children"), asked, websocket=True)
async def local_held(tag):
    await hold_async(tag)
    return f"{tag} in {os.getpid()}"


@app.callback(Output("local-held-def", "children"), asked, websocket=True)
def local_held_def(tag):
    hold(tag)
    return f"{tag} in {os.getpid()}"


@app.callback(Output("local-get", "children"), asked, websocket=True)
async def local_get(value):
    return f"the page says {await ctx.websocket.get_prop('shape', 'children')}"


@app.callback(Output("local-get-def", "children"), asked, websocket=True)
def local_get_def(value):
    return f"the page says {asyncio.run(ctx.websocket.get_prop('shape', 'children'))}"


@app.callback(Output("local-steps", "children"), asked, websocket=True)
def local_steps(count):
    for step in range(count):
        set_props("shape", {"children": step})
    return f"{count} steps"


@app.callback(Output("local-stream", "children"), asked, websocket=True)
async def local_stream(tag):
    """Streams until its page has gone."""
    note(tag, "started")
    step = 0
    try:
        while True:
            set_props("shape", {"children": step})
            step += 1
            await asyncio.sleep(0.05)
    finally:
        note(tag, "ended")


async def cancels(call):
    return await cancel(call)


def cancels_sync(call):
    return cancel_sync(call)


for place, function, options in (
    ("web", cancels, {"websocket": True}),
    ("web-def", cancels_sync, {"websocket": True}),
    ("loop", cancels, {"offload": True}),
    ("thread", cancels_sync, {"offload": Offload(executor="thread")}),
    ("process", cancels_sync, {"offload": True}),
):
    app.callback(Output(f"cancels-{place}", "children"), asked, **options)(function)
