"""The forms on dash_dispatch for a browser: in one place, so that the page keeps to a size."""

from tests.apps.parity_places import make

app = make(__name__, ("worker-process",), browser=True)
server = app.server
