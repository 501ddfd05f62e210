"""Callbacks that send more than a page reads, and one that counts its runs."""

import asyncio
import base64
import os
from pathlib import Path

from dash import Input, Output, dcc, html, set_props

from dash_dispatch import Dash, Offload, websocket

# In a test nobody waits for a minute and a half.
websocket.SILENCE_S = 4.0

app = Dash(__name__)
server = app.server
NAMES = ("floods", "floods-local", "counted", "bar")
app.layout = html.Div([dcc.Store(id="in", data=0), *(html.Div(id=name) for name in NAMES)])
asked = Input("in", "data")


def noise(size):
    """Text that no websocket makes smaller."""
    return base64.b64encode(os.urandom(size))[:size].decode()


@app.callback(Output("floods", "children"), asked, offload=True)
async def floods(value):
    count, size = value
    text = noise(size)
    for step in range(count):
        set_props("bar", {"children": f"{step} {text}"})
        await asyncio.sleep(0)
    return f"{count} updates"


@app.callback(Output("floods-local", "children"), asked, websocket=True)
def floods_local(value):
    count, size = value
    text = noise(size)
    for step in range(count):
        set_props("bar", {"children": f"{step} {text}"})
    return f"{count} updates"


def note_run(tag):
    with open(f"{tag}.runs", "a") as file:
        file.write(f"{os.getpid()}\n")


def released(tag):
    return not tag.startswith("held") or Path(f"{tag}.go").exists()


@app.callback(Output("counted", "children"), asked, offload=Offload(overlap="parallel"))
async def counted(tag):
    note_run(tag)
    while not released(tag):
        await asyncio.sleep(0.01)
    return tag
