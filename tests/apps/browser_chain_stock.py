"""The same on Dash as it comes."""

import dash

from tests.apps.browser_chain import furnish

app = dash.Dash(__name__, backend="quart")
server = app.server
furnish(app, websocket=True)
