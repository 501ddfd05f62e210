"""Stock Dash, whose callbacks import component libraries."""

import dash
from dash import html

from tests.apps import libraries

app = dash.Dash(__name__, backend="quart", websocket_callbacks=True)
server = app.server
app.layout = html.Div(
    [part for place in libraries.PLACES for part in libraries.add(app.callback, f"stock-{place}")]
)
app.enable_dev_tools(debug=True, dev_tools_hot_reload=False)
