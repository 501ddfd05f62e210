"""An app in two releases: this one, and with ``NEXT_RELEASE`` set the one that follows.

The next release knows one callback more, and its package writes more into every record than this
one can know: that is what old and new processes meet in Redis during a deploy.
"""

import os
from typing import Any

import msgspec
from dash import Input, Output, ctx, dcc, html, set_props

from dash_dispatch import Dash, Offload, bridge, store

NEXT = "NEXT_RELEASE" in os.environ


def become_the_next_release(store: Any, responses: Any) -> None:
    """Let the package write more than this release knows."""
    encode_spec, event_fields = store.encode_spec, store._event_fields
    encode_response = responses.encode

    def encode_more(spec):
        return msgspec.msgpack.encode(msgspec.msgpack.decode(encode_spec(spec)) | {"mood": "sunny"})

    def more_fields(*args, **kwargs):
        return event_fields(*args, **kwargs) | {"z": b"more"}

    def encode_more_calls(self):
        known = msgspec.json.decode(encode_response(self) or b"[]")
        return msgspec.json.encode([*known, ["set_weather", ["sunny"], {}]])

    store.encode_spec, store._event_fields = encode_more, more_fields
    store.ActiveCall = msgspec.defstruct(
        "ActiveCall", [("mood", str, "sunny")], bases=(store.ActiveCall,), omit_defaults=False
    )
    responses.encode = encode_more_calls


if NEXT:
    become_the_next_release(store, bridge.RecordedResponse)

app = Dash(__name__)
server = app.server
NAMES = ("both", "added", "patient", "bar", "removed")
app.layout = html.Div([dcc.Store(id="in", data=0), *(html.Div(id=name) for name in NAMES)])
asked = Input("in", "data")


@app.callback(Output("both", "children"), asked, offload=True)
def both(value):
    """Uses what it can of the wire: updates, a cookie, a measured time."""
    for step in range(5):
        set_props("bar", {"children": step})
    ctx.record_timing("step", 0.25, "a resource")
    if value == "baked":
        ctx.response.set_cookie("release", "next" if NEXT else "this")
    return f"{value} by the {'next' if NEXT else 'this'} release"


if NEXT:

    @app.callback(Output("added", "children"), asked, offload=True)
    def added(value):
        return f"added {value}"

    @app.callback(Output("patient", "children"), asked, offload=Offload(retries=20, backoff=0.2))
    async def patient(value):
        return f"patient {value}"

else:

    @app.callback(Output("removed", "children"), asked, offload=True)
    def removed(value):
        return f"removed {value}"
