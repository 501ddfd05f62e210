"""A component library that only a callback imports.

Each run makes one up, so that it is new to whatever process it runs in; the test is the server of
its script.
"""

import sys
from types import ModuleType
from typing import Any

from dash import Input, Output, State, dcc, html, set_props
from dash.development.base_component import ComponentRegistry

from dash_dispatch import Dash

app = Dash(__name__, prevent_initial_callbacks=True, title="A page")
server = app.server
tag = State("tag", "value")


def import_library(name: str, url: str) -> None:
    """Do what importing a component library does."""
    module: Any = ModuleType(name)
    module._js_dist = [{"external_url": url, "namespace": name}]
    sys.modules[name] = module
    ComponentRegistry.registry.add(name)


def add(where: str, **options: Any) -> None:
    @app.callback(
        Output(f"{where}-place", "children"),
        Input(where, "n_clicks"),
        tag,
        _allow_dynamic_callbacks=True,
        **options,
    )
    def build(clicks: int, tag: str) -> Any:
        name = f"parts_{tag}_{where}_{clicks}"
        set_props("told", {"children": f"{where} {clicks}"})
        import_library(name, f"/parts/{tag}.js")
        props = {"id": f"{where}-badge", "children": f"badge {clicks}"}
        return {"type": "Badge", "namespace": name, "props": props}


KINDS: dict[str, dict[str, Any]] = {"offloaded": {"offload": True}, "web": {"websocket": True}}
for where, options in KINDS.items():
    add(where, **options)

app.layout = html.Div(
    [
        dcc.Input(id="tag", value="none"),
        html.Div(id="told"),
        *(html.Button(where, id=where) for where in KINDS),
        *(html.Div(id=f"{where}-place") for where in KINDS),
    ]
)
