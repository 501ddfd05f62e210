"""What the apps of the parity tests have in common: all but where their callbacks run."""

import functools
from typing import Any

import dash
import quart
from dash import html

from tests.apps.parity_forms import build, handle_for_the_app, layout_of

PLACES: dict[str, Any] = {}
"""Where callbacks run: name → a function of ``callback`` arguments, for those of page modules."""

OPTIONS: dict[str, Any] = {
    "use_pages": True,
    "pages_folder": "parity_pages",
    "on_error": handle_for_the_app,
    "websocket_callbacks": True,
    "title": "Parity",
    "suppress_callback_exceptions": True,
    "background_callback_manager": None,
}
"""Arguments of ``Dash`` for all of them."""


def as_async(function):
    """The function as an ``async def``."""

    @functools.wraps(function)
    async def run(*args, **kwargs):
        return function(*args, **kwargs)

    return run


def on_the_loop(callback):
    """``callback``, whose functions become ``async def``."""

    @functools.wraps(callback)
    def register(*args, **kwargs):
        decorate = callback(*args, **kwargs)

        def decorator(function):
            decorate(as_async(function))
            return function

        return decorator

    return register


@dash.hooks.custom_data("parity")
def custom_data(context):
    """As a user's hook: what it knows is from the context."""
    return {"flavour": context.cookies.get("flavour") if "cookies" in context else None}


@dash.hooks.custom_data("request")
def of_the_request(context):
    """As a user's hook that asks the web framework."""
    if quart.has_websocket_context():
        headers = quart.websocket.headers
    elif quart.has_request_context():
        headers = quart.request.headers
    else:
        return None
    return [headers.get("X-Parity"), len(context.inputs_list)]


def dress(app, callbacks, *, browser=False):
    """Put all forms on an app.

    Args:
        app: A ``Dash``.
        callbacks: Place → what registers a callback there.
        browser: Only what a browser can show, and without the dev tools.
    """
    kits = []
    for place, callback in callbacks.items():
        kits += build(place, callback, app.clientside_callback, browser=browser)
    app.layout = html.Div([*layout_of(kits), dash.page_container])
    app.setup_apis()
    if not browser:
        app.enable_dev_tools(debug=True, dev_tools_hot_reload=False)
