"""A callback that a test steers from outside, token by token."""

import os

import redis.asyncio
from dash import Input, Output, dcc, html, set_props

from dash_dispatch import Dash

app = Dash(__name__)
server = app.server
app.layout = html.Div([dcc.Store(id="in", data=""), html.Div(id="shown")])


@app.callback(Output("shown", "children"), Input("in", "data"), offload=True)
async def steered(tag):
    """Do what comes on the list of this tag: tell a step, return, or fail."""
    async with redis.asyncio.Redis.from_url(os.environ["DASH_DISPATCH_REDIS_URL"]) as client:
        while True:
            _, token = await client.blpop(f"steer:{tag}")
            what, _, serial = token.decode().partition(" ")
            if what == "step":
                set_props("shown", {"title": int(serial)})
            elif what == "fail":
                raise ValueError(serial)
            else:
                return int(serial)
