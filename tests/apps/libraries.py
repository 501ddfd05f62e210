"""Callbacks that import a component library, which the test has made for each of them."""

import functools
import importlib
from typing import Any

from dash import Input, Output, html

from tests.apps.parity_setup import on_the_loop

WAYS = ("websocket", "long-poll", "post")
"""How they are asked for. Each has libraries of its own: the first import is what counts."""
PLACES = ("worker-loop", "worker-thread", "worker-process")


def name_of(place: str, way: str, allowed: bool) -> str:
    """The library of a callback, and how its components' ids begin."""
    return f"tiny_{place}_{way}_{'may' if allowed else 'not'}".replace("-", "_")


def add(callback: Any, place: str) -> list[Any]:
    """Register the callbacks of a place; their components."""
    page = []
    for way in WAYS:
        for allowed in (True, False):
            name = name_of(place, way, allowed)
            page += [html.Button(name, id=f"{name}-in"), html.Div(id=f"{name}-out")]

            def run(n_clicks: int, name: str = name) -> Any:
                library: Any = importlib.import_module(name)
                return library.Badge(f"badge {n_clicks}", id=f"{name}-badge")

            callback(
                Output(f"{name}-out", "children"),
                Input(f"{name}-in", "n_clicks"),
                prevent_initial_call=True,
                _allow_dynamic_callbacks=allowed,
            )(run)

    return page


def places(callback: Any) -> dict[str, Any]:
    """The places of a worker → what registers a callback there."""
    from dash_dispatch import Offload

    return {
        "worker-loop": on_the_loop(functools.partial(callback, offload=True)),
        "worker-thread": functools.partial(callback, offload=Offload(executor="thread")),
        "worker-process": functools.partial(callback, offload=True),
    }
