"""An app with all that an app can have: a Quart server of its own, a prefix, pages, compression."""

from dash import Input, Output, dcc, html, page_container
from quart import Quart

from dash_dispatch import Dash

server = Quart("dressed")


@server.get("/own")
async def own():
    return "a route of the user's"


app = Dash(
    "dressed",
    server=server,
    url_base_pathname="/sub/",
    compress=True,
    use_pages=True,
    pages_folder="dressed_pages",
)
app.layout = html.Div([dcc.Store(id="in", data=0), html.Div(id="big"), page_container])


@app.callback(Output("big", "children"), Input("in", "data"), offload=True)
def big(size):
    return "x" * size
