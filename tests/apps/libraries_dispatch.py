"""Workers whose callbacks import component libraries."""

from dash import html

from dash_dispatch import Dash
from tests.apps import libraries

app = Dash(__name__, websocket_callbacks=True)
server = app.server
app.layout = html.Div(
    [
        part
        for place, callback in libraries.places(app.callback).items()
        for part in libraries.add(callback, place)
    ]
)
app.enable_dev_tools(debug=True, dev_tools_hot_reload=False)
