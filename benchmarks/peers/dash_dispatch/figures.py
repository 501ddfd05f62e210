"""dash_dispatch: what the rows need that ask for more than an empty callback."""

import asyncio
import os
import time

from dash import Input, Output, dcc, html, set_props

from dash_dispatch import Dash, Offload

WAIT_S = 0.05
TICK_S = 0.001

app = Dash(__name__)
server = app.server
NAMES = ("wait-thread", "wait-async", "large", "updates", "push")
app.layout = html.Div(
    [dcc.Store(id="in", data=0), dcc.Store(id="shown"), *(html.Div(id=name) for name in NAMES)]
)

asked = Input("in", "data")
BESIDE = Offload(overlap="parallel")
IN_THREAD = Offload(overlap="parallel", executor="thread")
stalls = []


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
