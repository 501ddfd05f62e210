"""The pages of the parity tests: their callbacks are registered without an app at hand."""

import functools

import dash
from dash import html

from tests.apps import parity_setup
from tests.apps.parity_forms import build


def layout(kit, **_):
    """A page's layout."""
    return html.Main(kit.components)


for place, callback in parity_setup.PLACES.items():
    for kit in build(place, callback, dash.clientside_callback, pages=True):
        dash.register_page(
            f"{place}.{kit.name}", path=kit.visits, layout=functools.partial(layout, kit)
        )
