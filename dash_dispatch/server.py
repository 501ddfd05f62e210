"""Dash's Quart backend, with our dispatch in place of its own."""

import asyncio
import hashlib
import inspect
import logging
import re
from collections.abc import Callable
from functools import cache
from importlib import resources
from typing import Any, cast

import orjson
from dash.exceptions import PreventUpdate
from quart import Quart, Response, abort, g, request

from dash_dispatch import backend, bridge, fastpath, guards, longpoll, remote, sockets
from dash_dispatch import websocket as websocket_transport
from dash_dispatch.config import Settings
from dash_dispatch.errors import (
    CallFailed,
    CallTimedOut,
    ConfigError,
    DispatchError,
    Forbidden,
    StoreError,
    SubmitError,
)
from dash_dispatch.loading import refuse_while_loading
from dash_dispatch.offload import Offloaded
from dash_dispatch.protocol import (
    SILENT,
    CallSpec,
    Event,
    Outcome,
    RequestSnapshot,
    Status,
    describe,
)
from dash_dispatch.runtime import Runtime
from dash_dispatch.stopping import Watch
from dash_dispatch.submit import Asked

logger = logging.getLogger(__name__)

SCRIPTS = {"worker": "dispatch-worker.js", "page": "dispatch-page.js"}
_SCRIPT_PATH = re.compile(r"(worker|page)\.([0-9a-f]{16})\.js\Z")
_IMMUTABLE = "public, max-age=31536000, immutable"


@cache
def script(name: str) -> bytes:
    """The text of one of the browser scripts."""
    return resources.files("dash_dispatch").joinpath("static", SCRIPTS[name]).read_bytes()


@cache
def script_path(name: str) -> str:
    """Its path below the app's prefix: the same on every replica that has the same script."""
    digest = hashlib.sha256(script(name)).hexdigest()[:16]
    return f"_dash-dispatch/{name}.{digest}.js"


class DispatchServer(backend.QuartServer):
    """The server of a ``dash_dispatch.Dash``.

    Callbacks of the web process run on the loop (``async def``) or in threads (``def``); offloaded
    ones are handed to the workers.
    """

    runtime: Runtime

    def setup_backend(self, dash_app: Any) -> None:
        """Called by Dash when it takes a Quart app over."""
        super().setup_backend(dash_app)
        self.runtime = dash_app.runtime
        server = self.server
        server.config["MAX_CONTENT_LENGTH"] = self.runtime.settings.max_request_bytes
        server.before_serving(self._start)
        server.after_serving(self._stop)

    async def _start(self) -> None:
        try:
            await self.runtime.startup()
        except (ConfigError, StoreError) as error:
            # Of Redis: a refusal, as of the password. One that cannot be reached does not end here.
            # An error raised here would be shown at the bottom of the server's own traceback, and
            # so would this exit, by the loop's handler for what is left of its tasks.
            asyncio.get_running_loop().set_exception_handler(lambda *_: None)
            raise SystemExit(f"dash_dispatch: {error}") from None

    async def _stop(self) -> None:
        await self.runtime.shutdown()

    # --- callbacks over plain HTTP -------------------------------------------------------------

    def serve_callback(self, dash_app: Any) -> Callable[[], Any]:
        """The view of ``_dash-update-component``."""

        async def dispatch() -> Response:
            try:
                refusal = guards.refuse_form(request.headers)
                if refusal is not None:
                    raise Forbidden(refusal)
                limit = self.runtime.settings.max_request_bytes
                asked = Asked(dash_app, await longpoll.read_body(), limit)
                if asked.cancels is not None:
                    # There is no session here whose calls could be meant.
                    return Response("", 204)
                if asked.offloaded is not None:
                    return await self._offloaded(dash_app, asked, asked.offloaded)
                snapshot = guards.snapshot(dash_app, request)
                return await self._local(*bridge.bind_request(dash_app, asked.body), snapshot)
            except CallFailed as error:
                # Code of the app, before there was a call: no refusal, whose words would go out.
                raise RuntimeError(str(error)) from error
            except DispatchError as error:
                logger.warning("! refused: %s", error)
                return longpoll.problem(error)

        # Integrations exempt Dash's view from CSRF checks by this name.
        dispatch.__qualname__ = "dispatch"
        dispatch.__module__ = "dash.dash"
        self._serve_fast(dash_app, dispatch)
        return dispatch

    def _serve_fast(self, app: Any, view: Callable[[], Any]) -> None:
        async def run(asked: Asked, snapshot: RequestSnapshot) -> bytes | Response:
            try:
                bound = bridge.bind_plain(app, asked.body, snapshot, backend.LateResponse())
                return await self._local(*bound, snapshot)
            except DispatchError as error:
                logger.warning("! refused: %s", error)
                return longpoll.problem(error)

        path = f"{app.config.routes_pathname_prefix}_dash-update-component"
        fastpath.install(self.server, path, fastpath.Way(app, path, view, run))

    async def _local(
        self,
        invocation: bridge.Invocation,
        answer: Callable[[str], Response],
        snapshot: RequestSnapshot,
    ) -> Response:
        run = invocation.run
        try:
            with self.runtime.scope(snapshot) as scope, remote.using(scope):
                text = await (run() if invocation.is_async else self.runtime.threads.run(run))
        except PreventUpdate:
            return Response("", 204)
        except DispatchError as error:
            # Of a task that it has run. It is no refusal, whose words would go to the browser.
            raise RuntimeError(f"{type(error).__name__}: {error}") from error
        except SystemExit as error:
            # It would end the whole web process.
            raise RuntimeError(f"the callback called sys.exit({error.code!r})") from error
        return answer(text)

    async def _offloaded(self, app: Any, asked: Asked, offloaded: Offloaded) -> Response:
        """Hold the request until the outcome, within ``post_timeout_s``."""
        services = self.runtime.services()
        name = services.sessions.signer.new()
        snapshot = guards.snapshot(app, request, request.full_path)
        try:
            async with await services.relay.attach(name, None) as reader:
                spec, admission = await services.submitter.submit(
                    asked,
                    offloaded,
                    snapshot,
                    session=name,
                    page=name,
                    request="post",
                    stream=False,
                )
                if isinstance(admission, Outcome):
                    return self._answer(app, spec, Event(name, "post", spec.id, admission))
                event = None
                try:
                    event = await reader.outcome(spec.id, self.runtime.settings.post_timeout_s)
                finally:
                    if event is None:
                        # Late, or the caller went away: nobody else can ever get it.
                        await services.store.cancel(spec.id)
        finally:
            await services.store.discard(name)
        return self._answer(app, spec, event)

    def _answer(self, app: Any, spec: CallSpec, event: Event | None) -> Response:
        if event is None:
            limit = self.runtime.settings.post_timeout_s
            late = f"no outcome within {limit:g} s (DASH_DISPATCH_POST_TIMEOUT_S); call {spec.id}"
            raise CallTimedOut(spec.id, late)
        outcome = cast(Outcome, event.outcome)
        if outcome.status in SILENT:
            return Response("", 204)
        if outcome.status is Status.OK:
            response = longpoll.SlicedResponse(outcome.body, content_type="application/json")
            bridge.replay(outcome.response, response, getattr(g, "timing_information", None))
            return response
        text = describe(outcome.failure, debug=bridge.shows_errors(app))
        status = CallTimedOut.http_status if outcome.status is Status.TIMED_OUT else 500
        return Response(text, status=status, content_type="text/plain")

    # --- the browser scripts and their transports ----------------------------------------------

    def serve_websocket_callback(self, dash_app: Any) -> None:
        """Register the websocket, its long-poll twin, and the scripts."""
        server = self.server
        prefix = dash_app.config.routes_pathname_prefix

        async def websocket_view() -> None:
            await websocket_transport.serve(dash_app, self.runtime)

        path = f"{prefix}_dash-ws-callback"
        server.add_websocket(path, path, websocket_view)
        end = Watch(self.runtime.stop)
        sockets.install(server, path, self.runtime.settings.max_request_bytes, end)
        fastpath.watch(server, f"{prefix}_dash-dispatch/poll", end)

        async def send_view() -> Response:
            return await longpoll.send(dash_app, self.runtime)

        async def poll_view() -> Response:
            return await longpoll.poll(dash_app, self.runtime)

        async def health_view() -> Response:
            return Response(
                orjson.dumps(await self.runtime.health()), content_type="application/json"
            )

        async def script_view(name: str) -> Response:
            return _serve_script(name)

        for path, view, method in (
            ("send", send_view, "POST"),
            ("poll", poll_view, "POST"),
            ("health", health_view, "GET"),
            ("<path:name>", script_view, "GET"),
        ):
            rule = f"{prefix}_dash-dispatch/{path}"
            self.add_url_rule(rule, view, endpoint=rule, methods=[method])

    # --- component libraries -------------------------------------------------------------------

    async def find_library(self, app: Any, package: str) -> None:
        """Import a component library whose file is asked for, if a worker has told of it.

        Any other name is nothing to import: it comes from a browser.
        """
        try:
            names = await self.runtime.services().store.libraries()
        except (ConfigError, StoreError) as error:
            logger.warning("! component library %s: %s", package, error)
            return
        for name in names:
            if name == package or name.startswith(f"{package}."):
                await asyncio.to_thread(bridge.import_library, app, name)

    # --- the rest of Dash's backend ------------------------------------------------------------

    def register_callback_api_routes(self, callback_api_paths: dict[str, Any]) -> None:
        """``api_endpoint=``: plain functions run in threads here as well, offloaded in workers."""
        super().register_callback_api_routes(
            {path: self._api_handler(handler) for path, handler in callback_api_paths.items()}
        )

    def _api_handler(self, handler: Any) -> Callable[..., Any]:
        if isinstance(handler, bridge.Api):
            if not (handler.handed and bridge.has_manager(self.runtime.app)):
                return self._in_worker(handler)
            handler = handler.function
        if inspect.iscoroutinefunction(handler):
            return cast(Callable[..., Any], handler)
        return self._threaded(handler)

    def _in_worker(self, api: bridge.Api) -> Callable[..., Any]:
        async def offloaded(**data: Any) -> Any:
            limit = self.runtime.settings.post_timeout_s
            snapshot = guards.snapshot(self.runtime.app, request, request.full_path)
            try:
                async with asyncio.timeout(limit):
                    with self.runtime.scope(snapshot) as scope, remote.using(scope):
                        text = await remote.run_api(api, data)
            except (TimeoutError, CallTimedOut) as error:
                logger.warning("! %s: %s", api.path, error)
                late = "no outcome in time: over its timeout=, or DASH_DISPATCH_POST_TIMEOUT_S"
                abort(longpoll.problem(CallTimedOut("", late)))
            except (SubmitError, StoreError) as error:
                logger.warning("! refused: %s", error)
                abort(longpoll.problem(error))
            return self.server.json.loads(text)

        return offloaded

    def _threaded(self, handler: Callable[..., Any]) -> Callable[..., Any]:
        async def threaded(*args: Any, **kwargs: Any) -> Any:
            return await self.runtime.threads.wrap(handler)(*args, **kwargs)

        return threaded

    def enable_compression(self) -> None:
        """``compress=True``: responses, not websockets.

        Raises:
            ConfigError: The extra is not installed.
        """
        try:
            from starlette_compress import CompressMiddleware  # an extra  # noqa: PLC0415
        except ImportError as error:
            raise ConfigError(
                "compress=True needs an extra: pip install 'dash_dispatch[compress]'"
            ) from error
        server = cast(Any, self.server)
        # The lowest levels: the loop waits while a response is packed.
        packed = CompressMiddleware(server.asgi_app, zstd_level=1, brotli_quality=1, gzip_level=1)
        server.asgi_app = _Compressed(server.asgi_app, packed)

    def run(self, dash_app: Any, host: str, port: int, debug: bool, **kwargs: Any) -> None:
        """``app.run()``: with no Redis configured, brings one and a worker along."""
        # The worker has a Redis and would serve, too.
        refuse_while_loading()
        runtime = self.runtime
        if runtime.settings.redis_url is not None:
            super().run(dash_app, host, port, debug, **kwargs)
            return
        # Not at the top: it brings arq and the worker along, and production never comes by here.
        from dash_dispatch.embedded import Embedded  # noqa: PLC0415

        configured = runtime.settings
        embedded = Embedded.start(dash_app, configured, debug=debug)
        try:
            runtime.configure(embedded.settings)
            super().run(dash_app, host, port, debug, **kwargs)
        finally:
            runtime.configure(configured)
            embedded.close()


class _Compressed:
    """Compresses answers over HTTP, all but polls: those are small, many, or large results."""

    def __init__(self, plain: Any, packed: Any) -> None:
        self._plain = plain
        self._packed = packed

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        poll = scope["type"] == "http" and scope["path"].endswith("/_dash-dispatch/poll")
        await (self._plain if poll else self._packed)(scope, receive, send)


def _serve_script(name: str) -> Response:
    match = _SCRIPT_PATH.match(name)
    if match is None:
        return Response("not found", 404)
    kind = match.group(1)
    response = Response(script(kind), content_type="text/javascript; charset=utf-8")
    # During a rolling deploy a page may ask for a script of another release: the current one
    # serves it, and must not be kept under that name.
    current = name == script_path(kind).partition("/")[2]
    response.headers["Cache-Control"] = _IMMUTABLE if current else "no-store"
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response


# --- what an app is made with -------------------------------------------------------------------


def runtime_of(app: Any, settings: Settings | None) -> Runtime:
    """The runtime of a new app, with these settings or else those of the environment.

    Raises:
        ConfigError: A setting is wrong.
    """
    return Runtime(app, settings or Settings.read())


def check_backend(backend: object) -> type[DispatchServer]:
    """The class that an app's ``backend`` stands for.

    Raises:
        ConfigError: It is not ours.
    """
    if backend is None or backend == "quart":
        return DispatchServer
    if isinstance(backend, type) and issubclass(backend, DispatchServer):
        return backend
    raise ConfigError(f"backend={backend!r}: dash_dispatch runs on Quart; leave it out")


def check_server(server: object) -> Quart | None:
    """The Quart app that an app's ``server`` is, if it is one and not a yes or no.

    Raises:
        ConfigError: It is something else.
    """
    if server is None or isinstance(server, bool):
        return None
    if isinstance(server, Quart):
        return server
    raise ConfigError(
        f"server={server!r}: takes a quart.Quart (a Flask app has to be ported to Quart first)"
    )
