"""What one web process shares among its requests and connections, and its life."""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

from dash_dispatch import bridge, memory
from dash_dispatch.caller import Caller, Scope
from dash_dispatch.config import Settings
from dash_dispatch.errors import ConfigError, StoreError, StoreUnavailable
from dash_dispatch.identity import Identity
from dash_dispatch.local import LocalCalls
from dash_dispatch.logins import Logins
from dash_dispatch.positions import Positions
from dash_dispatch.protocol import CallSpec, Outcome, RequestSnapshot
from dash_dispatch.relay import Relay
from dash_dispatch.session import Sessions, Signer
from dash_dispatch.store import Store
from dash_dispatch.submit import Submitter
from dash_dispatch.sweeper import Sweeper
from dash_dispatch.threads import Threads

logger = logging.getLogger(__name__)

MISSING_URL = (
    "DASH_DISPATCH_REDIS_URL is not set: offloaded callbacks need a Redis that web and workers"
    " share, as in redis://localhost:6379/0. (Started with `python app.py`, an app brings its own.)"
)
MISSING_KEY = (
    "DASH_DISPATCH_SECRET_KEY is not set: it signs the browsers' session handles, and has to be"
    " the same on every web process. Make one with:"
    ' python -c "import secrets; print(secrets.token_urlsafe(32))"'
)


class Services:
    """All that needs Redis."""

    def __init__(self, app: Any, settings: Settings, threads: Threads) -> None:
        if settings.redis_url is None:
            raise ConfigError(MISSING_URL)
        if settings.secret_key is None:
            raise ConfigError(MISSING_KEY)
        self._app = app
        self.store = Store(settings)
        self.logins = Logins(app, threads)
        self.relay = Relay(self.store, self.logins.end)
        self._positions = Positions(app, self.store, threads)
        self.submitter = Submitter(app, self.store, settings, threads, self._positions.wake)
        self.caller = Caller(self.store, settings, self.relay)
        web = f"web {socket.gethostname()}:{os.getpid()}"
        self.local = LocalCalls(app, threads, web, self.scope)
        signer = Signer(settings.secret_key.get_secret_value(), settings.namespace)
        self.sessions = Sessions(app, self.store, settings, self.submitter, self.local, signer)
        self._sweeper = Sweeper(self.store, settings)

    def start(self) -> None:
        """Begin to listen and to look after lost workers."""
        self.relay.start()
        self._sweeper.start()
        if any(bridge.QUEUED in entry for entry in self._app.callback_map.values()):
            self._positions.start()

    def scope(self, session: str, snapshot: RequestSnapshot, *, stream: bool = True) -> Scope:
        """For a callback of this process: what carries its tasks."""

        async def who() -> Identity:
            return await self.submitter.identify(session, snapshot, stream=stream)

        return Scope(self.caller.ask, who)

    async def close(self) -> None:
        """End everything, mail included."""
        await self._positions.close()
        await self._sweeper.close()
        await self.local.close()
        await self.sessions.shutdown()
        await self.caller.close()
        await self.relay.close()
        await self.store.close()


class Runtime:
    """A web process' threads, and its services, which start with the server.

    An app under test without a server (Quart's ``test_client``) runs its own callbacks without
    Redis: then the services do not start at all.
    """

    def __init__(self, app: Any, settings: Settings) -> None:
        self.app = app
        self.settings = settings
        self.threads = Threads(settings.threads)
        self._services: Services | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ends: set[Callable[[], object]] = set()
        self.stopped = False
        """Whether the server is about to stop, as far as it can be told."""

    def configure(self, settings: Settings) -> None:
        """Take other settings, before the start (the embedded mode brings a Redis)."""
        self.settings = settings

    async def startup(self) -> None:
        """The server starts.

        Raises:
            ConfigError: A setting is missing that this app needs.
        """
        self.stopped = False
        await asyncio.to_thread(bridge.ready, self.app)
        bridge.thread_page_layouts(self.threads.wrap)
        memory.settle()
        offloaded = bridge.offloaded_of(self.app)
        services = self.services()
        try:
            await services.store.publish_callbacks("web", offloaded)
            known = await services.store.known_callbacks("worker")
            workers = await services.store.live_workers()
        except StoreUnavailable as error:
            # The page is served, offloaded callbacks answer 503, and all mends itself later.
            logger.warning("! Redis at %s: %s", self.settings.display_url, error)
            return
        if workers and (missing := sorted(set(offloaded) - known)):
            logger.warning("! the workers do not know %s: do they run older code?", missing)

    def services(self) -> Services:
        """The services, started.

        Raises:
            ConfigError: Redis or the key is not configured.
        """
        loop = asyncio.get_running_loop()
        if self._services is None or self._loop is not loop:
            # Another loop: a test client, or a server that was started again in this process.
            self._services = Services(self.app, self.settings, self.threads)
            self._loop = loop
            self._services.start()
        return self._services

    def scope(self, snapshot: RequestSnapshot) -> Scope:
        """For a callback over plain HTTP: what carries its tasks.

        Redis is needed with the first task only.
        """

        async def ask(spec: CallSpec, scope: Scope) -> Outcome:
            return await self.services().caller.ask(spec, scope)

        async def who() -> Identity:
            return await self.services().submitter.identify("", snapshot, stream=False)

        return Scope(ask, who)

    async def health(self) -> dict[str, Any]:
        """How this web process is: it serves; whether Redis answers; how many workers are alive."""
        try:
            workers = await self.services().store.live_workers()
        except (StoreError, ConfigError) as error:
            return {"status": "ok", "redis": str(error), "workers": 0}
        return {"status": "ok", "redis": "ok", "workers": workers}

    async def end_login(self, user: str) -> None:
        """Tell all web processes that the logins of a user have ended. From any process.

        Raises:
            ConfigError: Redis is not configured, or the app does not say who its users are.
            StoreUnavailable: Redis cannot be reached.
        """
        if self.app.user_of is None:
            raise ConfigError("end_login: who the users are is for Dash(user=...) to say")
        if self.settings.redis_url is None:
            raise ConfigError(MISSING_URL)
        # A connection of its own: this may be a worker, a script, or a thread's own loop.
        store = Store(self.settings)
        try:
            await store.end_login(user)
        finally:
            await store.close()

    def stopping(self) -> asyncio.Event | None:
        """Set when a server that ``app.run()`` started is asked to stop; else None."""
        return bridge.stopping(self.app)

    @contextlib.contextmanager
    def until_stopped(self, end: Callable[[], object]) -> Iterator[None]:
        """Have this called if the server stops meanwhile."""
        self._ends.add(end)
        try:
            yield
        finally:
            self._ends.discard(end)

    def stop(self) -> None:
        """The server is about to stop: connections are to end."""
        self.stopped = True
        for end in list(self._ends):
            end()

    async def shutdown(self) -> None:
        """The server stops."""
        services, self._services = self._services, None
        if services is not None and self._loop is asyncio.get_running_loop():
            with contextlib.suppress(StoreError):
                await services.close()
        self.threads.close()
