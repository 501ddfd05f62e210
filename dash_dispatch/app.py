"""``dash_dispatch.Dash``: ``dash.Dash`` on Quart, whose callbacks can be offloaded."""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dash_dispatch import bridge
from dash_dispatch.callbacks import F, register
from dash_dispatch.errors import ConfigError
from dash_dispatch.protocol import RequestSnapshot

if TYPE_CHECKING:
    from quart import Quart

    from dash_dispatch.config import Settings

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
        server: "bool | Quart | None" = True,
        backend: str | type | None = None,
        *args: Any,
        dispatch_settings: "Settings | None" = None,
        user: Callable[[RequestSnapshot], str] | None = None,
        **kwargs: Any,
    ) -> None:
        # With the first app, as Dash loads a backend of its own, and not with this module: Quart,
        # the client of Redis and all else that only a server needs take longer than Dash itself.
        from dash_dispatch import server as serving  # noqa: PLC0415

        backend_class = serving.check_backend(backend)
        own_server = serving.check_server(server)
        if user is not None and not callable(user):
            raise ConfigError(f"user={user!r}: takes a function of the request, or None")
        self.user_of = user
        self.runtime = serving.runtime_of(self, dispatch_settings)
        self._script_path = serving.script_path
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

    async def end_login(self, user: str) -> None:
        """Close the connections of a user whose login has ended, in all web processes.

        Websockets and long-polls that came in as this user, as ``Dash(user=...)`` said then, are
        closed, and updates and results that waited for them are removed. Calls that run go on.
        The browser comes again with the cookies that it has then, and the ``websocket_connect``
        hooks decide. Call it last: when the login is gone from wherever the hooks look.

        From a route or a callback of the web process, from a worker, from a script; from a plain
        ``def`` with ``asyncio.run`` or asgiref's ``async_to_sync``.

        Raises:
            ConfigError: The app has no ``Dash(user=...)``, or Redis is not configured.
            StoreUnavailable: Redis cannot be reached.
        """
        await self.runtime.end_login(user)

    def index(self, *args: Any, **kwargs: Any) -> str:
        """The page: Dash's, with our script before Dash's own."""
        html: str = super().index(*args, **kwargs)  # type: ignore[no-untyped-call]
        source = f"{self.config.requests_pathname_prefix}{self._script_path('page')}"
        # Dash checks that every index has this element, however it was written.
        return _CONFIG_TAG.sub(
            lambda match: f'<script src="{source}"></script>\n{match.group()}', html, count=1
        )

    def worker_script_url(self) -> str:
        """Where the browser's worker script is; part of what the page is told."""
        return f"{self.config.requests_pathname_prefix}{self._script_path('worker')}"
