"""dash_dispatch: what the rows ask of it. Most callbacks return their input."""

import asyncio
import os
import time

from dash import Input, Output, dcc, html, set_props

from dash_dispatch import Dash, Offload

SLOW_S = float(os.environ["SLOW_S"])
WAIT_S = 0.05
TICK_S = 0.001
NAMES = (
    *("local", "local-def", "plain", "fast", "async", "process", "thread"),
    *("slow-plain", "slow-async", "slow-process", "slow-thread"),
    *("wait-thread", "wait-async", "large", "updates", "push"),
)
BUTTONS = ("http", "local", "async", "process")

# A page that is opened is to ask for nothing by itself.
app = Dash(__name__, prevent_initial_callbacks=True)
server = app.server
app.layout = html.Div(
    [
        dcc.Store(id="in", data=0),
        dcc.Store(id="shown"),
        *(html.Div(id=name) for name in NAMES),
        *(html.Button(name, id=f"ask-{name}") for name in BUTTONS),
        *(html.Div(id=f"clicked-{name}") for name in BUTTONS),
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


@app.callback(Output("wait-thread", "children"), asked, offload=IN_THREAD)
def wait_in_thread(value):
    time.sleep(WAIT_S)
    return value


@app.callback(Output("wait-async", "children"), asked, offload=BESIDE)
async def wait_in_loop(value):
    await asyncio.sleep(WAIT_S)
    return value


@app.callback(Output("large", "children"), asked, offload=BESIDE)
async def large(size):
    return "x" * size


@app.callback(Output("updates", "children"), asked, offload=BESIDE)
async def updates(count):
    for number in range(count):
        set_props("shown", {"data": number})
    return count


@app.callback(Output("push", "children"), asked, offload=BESIDE)
async def push(value):
    set_props("shown", {"data": time.time()})
    return value


# The buttons, as anybody would write them.
@app.callback(Output("clicked-http", "children"), Input("ask-http", "n_clicks"))
async def over_http(clicks):
    return clicks


@app.callback(Output("clicked-local", "children"), Input("ask-local", "n_clicks"), websocket=True)
async def over_websocket(clicks):
    return clicks


@app.callback(Output("clicked-async", "children"), Input("ask-async", "n_clicks"), offload=True)
async def clicked_async(clicks):
    return clicks


@app.callback(Output("clicked-process", "children"), Input("ask-process", "n_clicks"), offload=True)
def clicked_process(clicks):
    return clicks


stalls = []


async def tick():
    """Note how much later than due the loop comes to its timers, and how much it worked meanwhile.

    The second is what is left of the first on a machine where nobody else wants the core.
    """
    while True:
        due, worked = time.perf_counter() + TICK_S, time.thread_time()
        await asyncio.sleep(TICK_S)
        stalls.append((time.perf_counter() - due, time.thread_time() - worked))


if os.environ.get("TICK"):

    @server.before_serving
    async def start_ticking():
        server.add_background_task(tick)

    @server.get("/stalls")
    async def tell():
        """The longest since it was asked last, in milliseconds."""
        late, worked = zip(*stalls, strict=True) if stalls else ((0.0,), (0.0,))
        stalls.clear()
        return {"late_ms": 1000 * max(late), "worked_ms": 1000 * max(worked)}
