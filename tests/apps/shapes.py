"""What callbacks can mean: every shape of input, output, context and error."""

import asyncio
import contextvars
import os
import subprocess
import sys
import time
from pathlib import Path

from dash import ALL, MATCH, Input, Output, Patch, State, ctx, dcc, html, set_props

from dash_dispatch import Dash, Offload


def note_error(error):
    """The app's own handler."""
    set_props("shown", {"children": f"app: {error}"})


app = Dash(__name__, on_error=note_error)
server = app.server
app.layout = html.Div(
    [dcc.Store(id="in", data=0), dcc.Store(id="list", data=[]), html.Div(id="shown")]
)
asked = Input("in", "data")
who = contextvars.ContextVar("who", default="nobody")


@server.before_request
async def name_the_request():
    who.set("this request")


def note(tag, what):
    with open(f"{tag}.{what}", "a") as file:
        file.write(f"{os.getpid()}\n")


def released(tag):
    return Path(f"{tag}.go").exists()


def hold(tag):
    note(tag, "started")
    while not released(tag):
        time.sleep(0.01)


@app.callback(Output("two", "children"), Output("three", "title"), asked, offload=True)
def several(value):
    return value, f"title {value}"


@app.callback(Output("list", "data"), asked, offload=True)
def patched(value):
    patch = Patch()
    patch.append(value)
    return patch


@app.callback(
    Output({"kind": "out", "index": MATCH}, "children"),
    Input({"kind": "in", "index": MATCH}, "value"),
    State({"kind": "all", "index": ALL}, "value"),
    offload=True,
)
def matched(value, others):
    return f"{ctx.triggered_id['index']}: {value} of {others}"


@app.callback(Output("keyword", "children"), inputs={"value": asked}, offload=True)
def keyword(value):
    return {"keyword": value}


@app.callback(Output("cookies", "children"), asked, offload=True)
def sets_cookies(value):
    ctx.response.set_cookie("seen", str(value), httponly=True)
    ctx.response.append_header("X-Seen", str(value))
    return "set"


@app.callback(Output("props", "children"), asked, offload=True)
def sets_props(value):
    set_props("shown", {"children": value})
    return "done"


@app.callback(Output("handled", "children"), asked, offload=True)
def handled_by_app(value):
    raise ValueError("broken")


@app.callback(
    Output("handled-here", "children"),
    asked,
    on_error=lambda error: f"callback: {error}",
    offload=True,
)
async def handled_by_itself(value):
    raise ValueError("broken")


@app.callback(asked, offload=True)
def without_output(value):
    set_props("shown", {"children": value})


@app.callback(Output("family", "children"), asked, offload=Offload(timeout=1))
def family(tag):
    child = subprocess.Popen(["sleep", "1000"])
    Path(f"{tag}.child").write_text(str(child.pid))
    child.wait()


@app.callback(Output("held", "children"), asked, offload=True)
def held(tag):
    hold(tag)
    return tag


@app.callback(Output("held-async", "children"), asked, offload=True)
async def held_async(tag):
    note(tag, "started")
    try:
        while not released(tag):
            await asyncio.sleep(0.01)
    except asyncio.CancelledError:
        note(tag, "cancelled")
        raise
    return tag


@app.callback(Output("noisy", "children"), asked, offload=True)
def noisy(value):
    for _ in range(100):
        sys.stdout.write("x" * 10_000)
    return "printed"


@app.callback(Output("cpu", "children"), asked, offload=Offload(queue="cpu"))
def elsewhere(value):
    return os.getpid()


# --- in the web process -------------------------------------------------------------------------


@app.callback(Output("local-held", "children"), asked)
def local_held(tag):
    hold(tag)
    return tag


@app.callback(Output("local-async", "children"), asked)
async def local_async(value):
    return value


@app.callback(Output("local-context", "children"), asked)
def local_context(value):
    return who.get()


@app.callback(Output("local-exit", "children"), asked, on_error=None)
def local_exit(value):
    raise SystemExit(value)
