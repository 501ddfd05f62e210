"""Callbacks of every place that run tasks of every kind, as they are told; and worker hooks."""

import asyncio
import os
import time
from datetime import date
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from dash import Input, Output, dcc, html
from dash.exceptions import PreventUpdate

from dash_dispatch import (
    Dash,
    DispatchError,
    Offload,
    on_worker_start,
    on_worker_stop,
    run,
    run_sync,
    task,
)

app = Dash(__name__)
server = app.server
app.layout = html.Div(
    [
        dcc.Store(id="in", data=0),
        *(html.Div(id=name) for name in ("web-async", "web-def", "loop", "thread", "process")),
    ]
)
asked = Input("in", "data")
places = Path(os.environ.get("PLACES", "."))


# --- tasks ---------------------------------------------------------------------------------------


@task
def square(x, power=2):
    return x**power


@task
async def doubled(x):
    await asyncio.sleep(0)
    return 2 * x


@task(executor="thread")
def negative(x):
    return -x


@task
def pid(seconds=0.0):
    time.sleep(seconds)
    return os.getpid()


@task(queue="gpu")
def on_gpu():
    return os.environ.get("DASH_DISPATCH_QUEUES", "default")


@task(queue="nobody")
async def on_nobody():
    """No worker serves this queue."""


@task
def fails(why):
    raise ValueError(why)


@task(retries=1, backoff=0.01)
def fails_once(name):
    place = places / name
    if not place.exists():
        place.touch()
        raise ValueError("the first time")
    return "the second time"


@task
def prevents():
    raise PreventUpdate


@task(timeout=0.3)
async def too_slow():
    await asyncio.sleep(30)


@task
def dies():
    os._exit(3)


@task
def odd():
    return object()


@task
def shapes():
    return {"tuple": (1, 2), 3: float("nan"), "date": date(2026, 1, 2), "box": html.B("bold")}


@task
def figure():
    return go.Figure(go.Scatter(y=[1, 2]))


@task
def echo(value):
    return value


@task
def factorial(n):
    return 1 if n == 0 else n * run_sync(factorial, n - 1)


@task
async def without_end():
    await run(without_end)


@task
async def waits(name):
    """Say that it runs, and whether it was cancelled."""
    (places / f"{name}.begun").touch()
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        (places / f"{name}.cancelled").touch()
        raise


@task(cache=60, scope="global")
def cached():
    return time.monotonic_ns()


@task(cache=60)
def cached_for_one():
    return time.monotonic_ns()


def plain():
    """Never registered."""


TASKS = dict(globals())


# --- callbacks -----------------------------------------------------------------------------------


async def told(value):
    """``[name, arguments, keyword arguments, how many at once]``"""
    name, args, kwargs, times = value
    function = TASKS[name]
    try:
        return await asyncio.gather(*(run(function, *args, **kwargs) for _ in range(times)))
    except (DispatchError, RuntimeError, TypeError) as error:
        return f"{type(error).__name__}: {error}"


def told_sync(value):
    name, args, kwargs, times = value
    try:
        if times > 1:
            return asyncio.run(told(value))
        return [run_sync(TASKS[name], *args, **kwargs)]
    except (DispatchError, RuntimeError, TypeError) as error:
        return f"{type(error).__name__}: {error}"


@app.callback(Output("web-async", "children"), asked, websocket=True)
async def web_async(value):
    return await told(value)


@app.callback(Output("web-def", "children"), asked, websocket=True)
def web_def(value):
    return told_sync(value)


@app.callback(Output("loop", "children"), asked, offload=True)
async def loop(value):
    return await told(value)


@app.callback(Output("thread", "children"), asked, offload=Offload(executor="thread"))
def thread(value):
    return told_sync(value)


@app.callback(Output("process", "children"), asked, offload=True)
def process(value):
    return told_sync(value)


@app.callback(Output("long", "children"), asked)
async def long(size):
    return await told(["echo", ["x" * size], {}, 1])


@app.callback(Output("raises", "children"), asked, websocket=True)
async def raises(value):
    await run(fails, value)


@app.callback(Output("sync-on-loop", "children"), asked, offload=True)
async def sync_on_loop(value):
    try:
        return run_sync(square, 3)
    except RuntimeError as error:
        return str(error)


@app.callback(Output("object", "children"), asked, offload=True)
async def unsendable(value):
    errors = []
    for args, kwargs in (((1, object()), {}), ((), {"x": {"deep": [{1}]}})):
        try:
            await run(square, *args, **kwargs)
        except TypeError as error:
            errors.append(str(error))
    return errors


kept: list[Any] = []


@app.callback(Output("leaves", "children"), asked, offload=True)
async def leaves(name):
    task = asyncio.create_task(run(waits, name))
    while not (places / f"{name}.begun").exists():
        await asyncio.sleep(0.01)
    kept.append(task)
    return "left"


@app.callback(Output("process-leaves", "children"), asked, offload=True)
def process_leaves(name):
    async def main():
        task = asyncio.create_task(run(waits, name))
        while not (places / f"{name}.begun").exists():
            await asyncio.sleep(0.01)
        task.cancel()
        return "left"

    return asyncio.run(main())


@app.callback(Output("mine", "children"), asked, offload=True)
async def mine(value):
    return [await run(cached_for_one), await run(cached)]


# --- hooks ---------------------------------------------------------------------------------------


facts: dict[str, Any] = {}


@on_worker_start
def begin():
    (places / f"begun.{os.getpid()}").touch()
    facts["pid"] = os.getpid()


@on_worker_start
async def begin_async():
    facts["loop"] = asyncio.get_running_loop()


@on_worker_stop
async def end():
    (places / f"ended.{os.getpid()}.{facts['loop'] is asyncio.get_running_loop()}").touch()


@app.callback(Output("begun", "children"), asked, offload=True)
def begun(value):
    return [facts["pid"], os.getpid()]


if __name__ == "__main__":
    app.run()
