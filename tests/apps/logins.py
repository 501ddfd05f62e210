"""An app with logins that it keeps itself: files named after what stands in a cookie."""

import asyncio
from pathlib import Path

from dash import Input, Output, dcc, hooks, html
from quart import request

from dash_dispatch import Dash, Offload


def user_of(asked):
    """The user whose login this is; fails when there is none."""
    return Path(f"login-{asked.cookies['login']}").read_text()


app = Dash(__name__, user=user_of)
server = app.server
NAMES = ("echo", "logout-in-worker")
app.layout = html.Div([dcc.Store(id="in", data=0), *(html.Div(id=name) for name in NAMES)])


@hooks.websocket_connect()
def is_known(connection):
    banned = Path(f"banned-{connection.cookies.get('login')}").exists()
    return (4403, "you have to log in") if banned else True


@server.post("/logout")
async def logout():
    """The login ends, here and wherever else it is in use."""
    user = take(request.cookies["login"])
    await app.end_login(user)
    return {"ended": user}


def take(login):
    path = Path(f"login-{login}")
    user = path.read_text()
    path.unlink()
    return user


@app.callback(Output("echo", "children"), Input("in", "data"), offload=Offload(overlap="parallel"))
async def echo(value):
    return value


@app.callback(Output("logout-in-worker", "children"), Input("in", "data"), offload=True)
def logout_in_worker(user):
    asyncio.run(app.end_login(user))
    return user
