"""Callbacks of every kind, each run of which is written down: what faults are let loose on."""

import asyncio
import os
import time
from typing import Any

from dash import Input, Output, dcc, html, set_props

from dash_dispatch import Dash, Offload, ctx

app = Dash(__name__)
server = app.server
NAMES = (
    "loop", "thread", "process", "stream", "stream-process", "stream-retried", "retried", "fails",
    "limited", "web", "shared", "late", "latest", "large",
)  # fmt: skip
app.layout = html.Div(
    [dcc.Store(id="in", data=0), html.Div(id="shape"), *(html.Div(id=name) for name in NAMES)]
)
asked = Input("in", "data")
BESIDE: dict[str, Any] = {"overlap": "parallel"}
AGAIN: dict[str, Any] = {**BESIDE, "retries": 20, "backoff": 0.05}


def note(tag: str, attempt: int) -> None:
    """One line per run; short ones of several processes do not mix."""
    with open("runs", "a") as file:
        file.write(f"{tag} {attempt} {os.getpid()} {time.monotonic():.2f}\n")


def begin(value: list[Any]) -> tuple[str, float]:
    """What every callback is asked with: its tag, and how long it takes."""
    tag, lasts_s = value
    note(tag, ctx.attempt)
    return tag, lasts_s


async def on_loop(value):
    tag, lasts_s = begin(value)
    await asyncio.sleep(lasts_s)
    return tag


def blocks(value):
    tag, lasts_s = begin(value)
    time.sleep(lasts_s)
    return tag


app.callback(Output("loop", "children"), asked, offload=Offload(**BESIDE))(on_loop)
app.callback(Output("thread", "children"), asked, offload=Offload(executor="thread", **BESIDE))(
    blocks
)
app.callback(Output("process", "children"), asked, offload=Offload(**BESIDE))(blocks)
app.callback(Output("limited", "children"), asked, offload=Offload(concurrency=3, **BESIDE))(
    on_loop
)
app.callback(Output("web", "children"), asked, websocket=True)(on_loop)


app.callback(Output("late", "children"), asked, offload=Offload(timeout=1.5, **BESIDE))(on_loop)


app.callback(Output("latest", "children"), asked, offload=Offload(overlap="latest"))(on_loop)


@app.callback(Output("large", "children"), asked, offload=Offload(**BESIDE))
async def large(value):
    return "x" * 100_000


@app.callback(Output("shared", "children"), asked, offload=Offload(cache=5, **BESIDE))
async def shared(value):
    await asyncio.sleep(value[1])
    return value[0]


STEPS = 8


def show(tag: str, step: int) -> None:
    set_props("shape", {"children": [tag, ctx.attempt, step]})


async def streams(value):
    tag, lasts_s = begin(value)
    for step in range(STEPS):
        show(tag, step)
        await asyncio.sleep(lasts_s / STEPS)
    return tag


app.callback(Output("stream", "children"), asked, offload=Offload(**BESIDE))(streams)
app.callback(Output("stream-retried", "children"), asked, offload=Offload(**AGAIN))(streams)


@app.callback(Output("stream-process", "children"), asked, offload=Offload(**BESIDE))
def stream_process(value):
    tag, lasts_s = begin(value)
    for step in range(STEPS):
        show(tag, step)
        time.sleep(lasts_s / STEPS)
    return tag


@app.callback(Output("retried", "children"), asked, offload=Offload(**AGAIN))
async def retried(value):
    tag, lasts_s = begin(value)
    await asyncio.sleep(lasts_s)
    if ctx.attempt == 1:
        raise ValueError("the first run")
    return tag


@app.callback(Output("fails", "children"), asked, offload=Offload(**BESIDE))
async def fails(value):
    tag, lasts_s = begin(value)
    await asyncio.sleep(lasts_s)
    raise ValueError(tag)
