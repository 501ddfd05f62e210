"""An app that asks who comes, and what they want."""

from dash import Input, Output, dcc, hooks, html

from dash_dispatch import Dash

app = Dash(__name__)
server = app.server
app.layout = html.Div([dcc.Store(id="in", data=0), html.Div(id="out")])


@hooks.websocket_connect()
async def connect(connection):
    if connection.headers.get("X-User") == "broken":
        raise RuntimeError("a detail of the app's inside")
    return True if connection.headers.get("X-User") == "ann" else (4403, "who are you?")


@hooks.websocket_message()
async def listen(connection, message):
    if message["type"] == "callback_request":
        return message["payload"]["inputs"][0]["value"] != "forbidden"
    return True


@app.callback(Output("out", "children"), Input("in", "data"), offload=True)
async def out(value):
    return value
