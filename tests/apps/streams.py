"""Generators as callbacks, in every place where a callback can run."""

import asyncio
import time
from pathlib import Path
from typing import Any

from dash import Input, Output, Patch, ctx, dcc, html, no_update, set_props
from dash.exceptions import PreventUpdate

from dash_dispatch import Dash, Offload

app = Dash(__name__)
server = app.server
app.layout = html.Div([dcc.Store(id="in", data=0), html.Div(id="shape")])
asked = Input("in", "data")

PLAIN: dict[str, Any] = {
    "process": {"offload": True},
    "thread": {"offload": Offload(executor="thread")},
    "local-thread": {},
}
ASYNC = {"loop": {"offload": True}, "local-loop": {}}


def note(tag, what):
    Path(f"{tag}.{what}").touch()


def released(tag):
    return Path(f"{tag}.go").exists()


def counts(count):
    """Values, set_props between them, and a Patch at the end."""
    for step in range(count):
        set_props("shape", {"children": step})
        yield {"step": step, "all": []}, no_update
    patch = Patch()
    for step in range(3):
        patch["all"].append(step)
        yield patch, ctx.triggered_id
        patch = Patch()


def holds(tag):
    """One at once, and one when the test says so."""
    try:
        yield f"{tag} begun"
        note(tag, "started")
        while not released(tag):
            time.sleep(0.01)
        yield f"{tag} ended"
    finally:
        note(tag, "closed")


def endless(tag):
    try:
        while True:
            yield tag
            note(tag, "started")
            time.sleep(0.01)
    except GeneratorExit:
        note(tag, "closed")
        raise


def fails(kind):
    yield "one"
    if kind == "prevent":
        raise PreventUpdate
    if kind == "shape":
        yield object()
    raise ValueError("a user's words")


def handled(error):
    return f"handled: {error}"


for name, options in PLAIN.items():
    app.callback(Output(f"{name}-a", "data"), Output(f"{name}-b", "data"), asked, **options)(counts)
    app.callback(Output(f"{name}-holds", "children"), asked, **options)(holds)
    app.callback(Output(f"{name}-endless", "children"), asked, **options)(endless)
    app.callback(Output(f"{name}-fails", "children"), asked, **options)(fails)
    app.callback(Output(f"{name}-handled", "children"), asked, on_error=handled, **options)(fails)


async def counts_async(count):
    for value in counts(count):
        yield value


async def holds_async(tag):
    try:
        yield f"{tag} begun"
        note(tag, "started")
        while not released(tag):
            await asyncio.sleep(0.01)
        yield f"{tag} ended"
    except asyncio.CancelledError:
        note(tag, "cancelled")
        raise
    finally:
        await asyncio.sleep(0)
        note(tag, "closed")


async def endless_async(tag):
    try:
        while True:
            yield tag
            note(tag, "started")
            await asyncio.sleep(0.01)
    except asyncio.CancelledError:
        note(tag, "closed")
        raise


async def fails_async(kind):
    for value in fails(kind):
        yield value


for name, options in ASYNC.items():
    app.callback(Output(f"{name}-a", "data"), Output(f"{name}-b", "data"), asked, **options)(
        counts_async
    )
    app.callback(Output(f"{name}-holds", "children"), asked, **options)(holds_async)
    app.callback(Output(f"{name}-endless", "children"), asked, **options)(endless_async)
    app.callback(Output(f"{name}-fails", "children"), asked, **options)(fails_async)
    app.callback(Output(f"{name}-handled", "children"), asked, on_error=handled, **options)(
        fails_async
    )
