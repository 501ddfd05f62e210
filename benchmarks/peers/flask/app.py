"""Stock Dash on Flask: every callback returns its input."""

from dash import Dash, Input, Output, dcc, html

app = Dash(__name__)
server = app.server
app.layout = html.Div([dcc.Store(id="in", data=0), html.Div(id="plain")])


@app.callback(Output("plain", "children"), Input("in", "data"))
def plain(value):
    return value
