"""dash_dispatch: a page of buttons, each with a callback that returns how often it was clicked."""

from dash import Input, Output, html

from dash_dispatch import Dash

NAMES = ("http", "local", "async", "process")

app = Dash(__name__)
server = app.server
app.layout = html.Div(
    [html.Div([html.Button(name, id=f"ask-{name}"), html.Div(id=name)]) for name in NAMES]
)


@app.callback(Output("http", "children"), Input("ask-http", "n_clicks"))
async def over_http(clicks):
    return clicks


@app.callback(Output("local", "children"), Input("ask-local", "n_clicks"), websocket=True)
async def local(clicks):
    return clicks


@app.callback(Output("async", "children"), Input("ask-async", "n_clicks"), offload=True)
async def in_loop(clicks):
    return clicks


@app.callback(Output("process", "children"), Input("ask-process", "n_clicks"), offload=True)
def in_process(clicks):
    return clicks
