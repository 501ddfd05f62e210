"""Stock Dash on FastAPI: every callback returns its input."""

from dash import Dash, Input, Output, dcc, html

app = Dash(__name__, backend="fastapi")
server = app.server
app.layout = html.Div([dcc.Store(id="in", data=0), html.Div(id="fast"), html.Div(id="local")])


@app.callback(Output("fast", "children"), Input("in", "data"))
async def fast(value):
    return value


@app.callback(Output("local", "children"), Input("in", "data"), websocket=True)
async def local(value):
    return value
