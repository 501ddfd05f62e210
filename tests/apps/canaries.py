"""An app that logs all there is to log, with callbacks that see what must not be seen in a log."""

import asyncio
import logging
from pathlib import Path

from dash import Input, Output, ctx, dcc, html

from dash_dispatch import Dash, Offload

logging.basicConfig(level=logging.DEBUG)
app = Dash(__name__)
server = app.server
NAMES = ("sees", "cached", "fails")
app.layout = html.Div([dcc.Store(id="in", data=0), *(html.Div(id=name) for name in NAMES)])
asked = Input("in", "data")


@app.callback(Output("sees", "children"), asked, offload=Offload(overlap="parallel"))
async def sees(tag):
    """Whether it was given cookie and header; waits where it is told to."""
    Path(f"{tag}.started").touch()  # noqa: ASYNC240
    while not Path(f"{tag}.go").exists():  # noqa: ASYNC240
        await asyncio.sleep(0.01)
    return [ctx.cookies["login"] != "", ctx.headers["X-Canary"] != ""]


@app.callback(Output("cached", "children"), asked, offload=Offload(cache=60, scope="global"))
def cached(value):
    return f"computed from {value}"


@app.callback(Output("fails", "children"), asked, offload=Offload(overlap="parallel"))
def fails(value):
    cookie = ctx.cookies["login"]
    raise ValueError(f"with a cookie of {len(cookie)} characters")
