"""The forms on dash_dispatch, once for every place where a callback can run."""

from tests.apps.parity_places import make

app = make(__name__, ("loop", "thread", "worker-loop", "worker-thread", "worker-process"))
server = app.server
