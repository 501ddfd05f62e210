"""``dash_dispatch.Dash``: ``dash.Dash`` on Quart, whose callbacks can be offloaded."""

import re
from collections.abc import Callable
from typing import Any

from quart import Quart

from dash_dispatch import bridge
from dash_dispatch.callbacks import F, register
from dash_dispatch.config import Settings
from dash_dispatch.errors import ConfigError
from dash_dispatch.protocol import RequestSnapshot
from dash_dispatch.runtime import Runtime
from dash_dispatch.server import DispatchServer, script_path

_CONFIG_TAG = re.compile(r"<script[^>]*id=[\"']_dash-config[\"']")


class Dash(bridge.DashBase):
    """A drop-in for ``dash.Dash``: takes the same arguments and means the same.

    ``async def`` callbacks run on the event loop, ``def`` callbacks in a bounded pool of threads,
    and callbacks with ``offload=True`` in worker processes, started with
    ``arq dash_dispatch.worker`` on as many machines as the work needs. ``app.server`` is an ASGI
    app: ``hypercorn app:server``.

    Args:
        name: As for ``dash.Dash``.
        server: A ``quart.Quart`` to serve from, ``True`` to make one, or ``False`` to be given
            one later with ``init_app``.
        backend: Only Quart: ``None`` or ``"quart"``.
        dispatch_settings: `Settings` in place of those from the environment.
        user: A function that says who the user of a request is: users take turns in a queue, and
            share results with ``Offload(cache=..., scope="user")``. It is given the request
            (``cookies``, ``headers``, ``args``, ``path``, ``remote``, ``origin``) and returns a
            text. Without one it is the browser with its cookies.
        **kwargs: As for ``dash.Dash``.

    Raises:
        ConfigError: A setting or an argument is wrong.
    """

    def __init__(
        self,
        name: str | None = None,
        server: bool | Quart | None = True,
        backend: str | type | None = None,
        *args: Any,
        dispatch_settings: Settings | None = None,
        user: Callable[[RequestSnapshot], str] | None = None,
        **kwargs: Any,
    ) -> None:
        backend_class = _check_backend(backend)
        own_server = _check_server(server)
        if user is not None and not callable(user):
            raise ConfigError(f"user={user!r}: takes a function of the request, or None")
        self.user_of = user
        self.runtime = Runtime(self, dispatch_settings or Settings.read())
        if own_server is None:
            super().__init__(name, bool(server), backend_class, *args, **kwargs)
            return
        # Dash takes a given server and a backend class only one after the other.
        super().__init__(name or own_server.name, False, backend_class, *args, **kwargs)
        self.init_app(own_server)

    def callback(self, *_args: Any, **_kwargs: Any) -> Callable[[F], F]:
        """``dash.Dash.callback``, and more arguments.

        Args:
            *_args, **_kwargs: As for `dash_dispatch.callback`.

        Raises:
            ConfigError: A wrong combination of options.
        """
        return register(self, _args, _kwargs)

    def index(self, *args: Any, **kwargs: Any) -> str:
        """The page: Dash's, with our script before Dash's own."""
        html: str = super().index(*args, **kwargs)  # type: ignore[no-untyped-call]
        source = f"{self.config.requests_pathname_prefix}{script_path('page')}"
        # Dash checks that every index has this element, however it was written.
        return _CONFIG_TAG.sub(
            lambda match: f'<script src="{source}"></script>\n{match.group()}', html, count=1
        )

    def worker_script_url(self) -> str:
        """Where the browser's worker script is; part of what the page is told."""
        return f"{self.config.requests_pathname_prefix}{script_path('worker')}"


def _check_backend(backend: object) -> type[DispatchServer]:
    if backend is None or backend == "quart":
        return DispatchServer
    if isinstance(backend, type) and issubclass(backend, DispatchServer):
        return backend
    raise ConfigError(f"backend={backend!r}: dash_dispatch runs on Quart; leave it out")


def _check_server(server: object) -> Quart | None:
    if server is None or isinstance(server, bool):
        return None
    if isinstance(server, Quart):
        return server
    raise ConfigError(
        f"server={server!r}: takes a quart.Quart (a Flask app has to be ported to Quart first)"
    )
