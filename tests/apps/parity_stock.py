"""The forms on stock Dash."""

import dash

from tests.apps import parity_setup

parity_setup.PLACES["stock"] = dash.callback
app = dash.Dash(__name__, backend="quart", **parity_setup.OPTIONS)
server = app.server
parity_setup.dress(app, {"stock": app.callback})
