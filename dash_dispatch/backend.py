"""Dash's Quart backend, in its private names: the half of ``bridge`` that only a server needs.

A file of its own, because Quart and what it brings take as long to import as all of Dash.
"""

import inspect
from collections.abc import Callable
from typing import Any, Final, cast

import dash
from dash.backends._quart import QuartDashServer, QuartRequestAdapter, QuartResponseAdapter
from dash.backends.base_server import RequestAdapter

from dash_dispatch import bridge

_FIRST_REQUEST: Final = {
    "_setup_server": "setup_server",
    "Dash._setup_server": "setup_server",
    "Dash.enable_pages.<locals>.router_async": "pages",
}
"""Dash's ``before_request`` functions, and the key under which it notes that they have run."""


class QuartServer(QuartDashServer):
    """Dash's Quart backend, whose ``request_adapter`` knows callbacks without a request, too."""

    def __init__(self, server: Any) -> None:
        super().__init__(server)
        cast(Any, self).request_adapter = _request_adapter

    def before_request(self, func: Callable[[], Any]) -> None:
        """Dash comes by here with what it does at the first request, and then never again."""
        super().before_request(_until_settled(self, func))

    def setup_component_suites(self, dash_app: Any) -> Any:
        """Dash's own, which first looks for a library that this process has not imported."""

        async def serve(package_name: str, fingerprinted_path: str) -> Any:
            if package_name not in dash_app.registered_paths:
                await self.find_library(dash_app, package_name)
            return self.serve_component_suites(dash_app, package_name, fingerprinted_path)

        dash_app._add_url(
            "_dash-component-suites/<string:package_name>/<path:fingerprinted_path>", serve
        )

    async def find_library(self, app: Any, package: str) -> None:
        """Import a component library whose file is asked for, if a callback has imported it."""
        raise NotImplementedError

    def _get_traceback(self, _secret: str, error: Exception) -> str:
        """The dev tools' page of an error."""
        try:
            page: str = super()._get_traceback(_secret, error)
        except Exception as trouble:  # noqa: BLE001 - an error whose own code fails is shown as one
            return f"{type(error).__name__}: {bridge.untold(trouble)}"
        # It may show values that no response can carry.
        return bridge.encodable(page)


def _request_adapter() -> RequestAdapter:
    found = bridge.snapshot_request()
    return QuartRequestAdapter() if found is None else found


def _until_settled(backend: QuartServer, func: Callable[[], Any]) -> Callable[[], Any]:
    """Dash's own hook, past which later requests come without the thread Quart makes for it."""
    step = _FIRST_REQUEST.get(getattr(func, "__qualname__", "").removeprefix("DashBase."))
    app = getattr(func, "__self__", None) or inspect.getclosurevars(func).nonlocals.get("self")
    if step is None or not isinstance(app, dash.Dash):
        return func

    async def hook() -> Any:
        if not app._got_first_request[step]:
            await backend.server.ensure_async(func)()

    cast(Any, hook).settled = lambda: app._got_first_request[step]
    return hook


def is_settled(hook: Callable[[], Any]) -> bool:
    """Whether a ``before_request`` function is one of Dash's that has nothing left to do."""
    settled = getattr(hook, "settled", None)
    return settled is not None and bool(settled())


class LateResponse(QuartResponseAdapter):
    """``ctx.response`` over plain HTTP, whose Quart response is made when a callback needs it."""

    def __init__(self) -> None:
        # Dash's own makes the response.
        pass

    @property
    def made(self) -> bool:
        """Whether a callback has touched it."""
        return "_quart_response" in self.__dict__

    def __getattr__(self, name: str) -> Any:
        if name != "_quart_response":
            raise AttributeError(name)
        self._quart_response = QuartResponseAdapter().callback_response
        return self._quart_response
