"""Callbacks that are to end with their page, and one that is not; files tell what they did."""

import asyncio
from pathlib import Path

from dash import Input, Output, dcc, html

from dash_dispatch import Dash, Offload

app = Dash(__name__)
server = app.server
NAMES = ("ends", "stays", "limited")
app.layout = html.Div([dcc.Store(id="in", data=0), *(html.Div(id=name) for name in NAMES)])
asked = Input("in", "data")


def note(tag, what):
    Path(f"{tag}.{what}").touch()


def released(tag):
    return Path(f"{tag}.go").exists()


async def hold(tag):
    note(tag, "started")
    try:
        while not released(tag):
            await asyncio.sleep(0.01)
    except asyncio.CancelledError:
        note(tag, "cancelled")
        raise
    return tag


ENDS = Offload(overlap="parallel", on_leave="cancel")
STAYS = Offload(overlap="parallel")
LIMITED = Offload(overlap="parallel", on_leave="cancel", concurrency=1)


@app.callback(Output("ends", "children"), asked, offload=ENDS)
async def ends(tag):
    return await hold(tag)


@app.callback(Output("stays", "children"), asked, offload=STAYS)
async def stays(tag):
    return await hold(tag)


@app.callback(Output("limited", "children"), asked, offload=LIMITED)
async def limited(tag):
    return await hold(tag)
