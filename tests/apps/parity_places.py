"""Where a callback can run on dash_dispatch."""

import functools

import dash

import dash_dispatch
from dash_dispatch import Dash, Offload
from tests.apps import parity_setup
from tests.apps.parity_setup import on_the_loop


def places(callback, plain):
    """Place → what registers a callback there.

    Args:
        callback: That of dash_dispatch.
        plain: What may stand for it where nothing is offloaded.
    """
    return {
        "loop": on_the_loop(callback),
        "thread": plain,
        "worker-loop": on_the_loop(functools.partial(callback, offload=True)),
        "worker-thread": functools.partial(callback, offload=Offload(executor="thread")),
        "worker-process": functools.partial(callback, offload=True),
    }


def make(name, wanted, **options):
    """An app with all forms in these places.

    Args:
        name: The app's.
        wanted: Names of places.
        options: Those of `parity_setup.dress`.
    """
    found = places(dash_dispatch.callback, dash.callback)
    parity_setup.PLACES.update({place: found[place] for place in wanted})
    app = Dash(name, **parity_setup.OPTIONS)
    found = places(app.callback, app.callback)
    parity_setup.dress(app, {place: found[place] for place in wanted}, **options)
    return app
