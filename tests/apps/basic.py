"""An app of anyone's, with callbacks that do what callbacks do."""

import asyncio
import os
import sys
import time

from dash import Input, Output, State, ctx, dcc, html, no_update, set_props
from dash.exceptions import PreventUpdate

from dash_dispatch import Dash, Offload

app = Dash(__name__)
server = app.server
app.layout = html.Div(
    [
        dcc.Store(id="in", data=0),
        *(
            html.Div(id=name)
            for name in (
                "plain", "plain-async", "def", "async", "thread", "slow", "large", "exit", "raise",
                "none", "prevent", "ctx", "steps", "sleeps", "shape", "segfault", "sys-exit",
                "limited", "web-slow",
            )
        ),
    ]
)  # fmt: skip

asked = Input("in", "data")
# Tests ask for many calls of one callback at once, as many pages would.
BESIDE = Offload(overlap="parallel")


@app.callback(Output("plain", "children"), asked)
def plain(value):
    return f"web {os.getpid()} {value}"


@app.callback(Output("plain-async", "children"), asked)
async def plain_async(value):
    return f"web {os.getpid()} {value}"


@app.callback(Output("web-slow", "children"), asked)
def web_slow(value):
    time.sleep(float(value))
    return value


@app.callback(Output("def", "children"), asked, offload=BESIDE)
def offloaded_def(value):
    return f"process {os.getpid()} {value}"


@app.callback(Output("async", "children"), asked, offload=BESIDE)
async def offloaded_async(value):
    await asyncio.sleep(0)
    return f"loop {os.getpid()} {value}"


@app.callback(
    Output("thread", "children"), asked, offload=Offload(executor="thread", overlap="parallel")
)
def offloaded_thread(value):
    return f"thread {os.getpid()} {value}"


@app.callback(Output("slow", "children"), asked, offload=BESIDE)
async def slow(value):
    await asyncio.sleep(float(value))
    return f"slow {value}"


@app.callback(Output("sleeps", "children"), asked, offload=BESIDE)
def sleeps(value):
    time.sleep(float(value))
    return f"slept {value}"


@app.callback(Output("large", "children"), asked, offload=BESIDE)
def large(size):
    return "x" * size


@app.callback(Output("exit", "children"), asked, offload=BESIDE)
def exits(value):
    os._exit(value)


@app.callback(Output("sys-exit", "children"), asked, offload=BESIDE)
async def sys_exits(value):
    sys.exit(value)


@app.callback(Output("segfault", "children"), asked, offload=BESIDE)
def segfaults(value):
    import ctypes

    ctypes.string_at(0)


@app.callback(Output("raise", "children"), asked, offload=BESIDE)
def raises(value):
    raise ValueError(f"a secret detail: {value}")


@app.callback(Output("none", "children"), asked, offload=BESIDE)
def updates_nothing(value):
    return no_update


@app.callback(Output("prevent", "children"), asked, offload=BESIDE)
def prevents(value):
    raise PreventUpdate


@app.callback(
    Output("limited", "children"), asked, offload=Offload(overlap="parallel", timeout=0.3)
)
def limited(value):
    time.sleep(30)


@app.callback(Output("steps", "children"), asked, offload=BESIDE)
def steps(count):
    for step in range(count):
        set_props("shape", {"children": step})
    return f"{count} steps"


@app.callback(Output("ctx", "children"), asked, State("shape", "children"), offload=BESIDE)
def context(value, state):
    return {
        "triggered": ctx.triggered_id,
        "cookies": dict(ctx.cookies),
        "header": ctx.headers.get("X-Test"),
        "path": ctx.path,
        "remote": ctx.remote,
        "state": state,
    }


if __name__ == "__main__":
    app.run()
