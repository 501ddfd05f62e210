"""Callbacks of the web process over plain HTTP, past most of what Quart does for a request.

For each request Quart makes two tasks, a request, two contexts, a session and a response, matches
the URL, and sends six signals: more than Dash and an empty callback take together. A callback
mostly uses none of it. So this stands where Quart takes a request over from the ASGI server,
below every middleware, and answers by itself where nobody could tell the difference:

* The app must have nothing that sees requests (`_nobody_watches`). That is asked of Quart's own
  registries for each request, so a hook that is registered later is honoured.
* Whatever is not an ordinary request of Dash's renderer for a callback of this process goes
  Quart's way, with its body put back (`_replayed`).
* A callback that uses ``quart.request``, ``session``, ``after_this_request`` finds Quart's own
  context, made when it looks (`_LateContext`); from then on, and after any error, the rest of
  Quart's way is taken: `Quart.handle_user_exception`, `finalize_request`, `handle_exception`.
"""

import asyncio
import re
import threading
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter
from typing import Any, Final, Literal, TypeVar, cast

from quart import Quart, Request, Response, signals
from quart.asgi import ASGIHTTPConnection
from quart.ctx import AppContext, RequestContext
from quart.globals import _cv_app, _cv_request
from quart.sessions import SecureCookieSessionInterface
from werkzeug.datastructures import ImmutableMultiDict
from werkzeug.exceptions import RequestTimeout
from werkzeug.http import parse_cookie

from dash_dispatch import backend, tasks
from dash_dispatch.errors import DispatchError
from dash_dispatch.protocol import RequestSnapshot
from dash_dispatch.stopping import Watch
from dash_dispatch.submit import Asked

T = TypeVar("T")
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Guard = asyncio.TimerHandle | asyncio.Task[None]

UNNOTICED_S: Final = 0.05
"""Most requests are answered before a timeout, or somebody who looks out for a client that goes
away, would be worth its while: that is set up for those that take longer than this."""

_METHODS: Final = (
    "app_context",
    "asgi_http_class",
    "create_url_adapter",
    "dispatch_request",
    "do_teardown_appcontext",
    "do_teardown_request",
    "finalize_request",
    "full_dispatch_request",
    "handle_exception",
    "handle_request",
    "handle_user_exception",
    "make_response",
    "preprocess_request",
    "process_response",
    "request_class",
    "request_context",
)
"""What Quart does with a request, and may have been replaced by others."""

# As of the import of this module; `functools.wraps`, by which most are patched, tells of earlier.
_UNTOUCHED: Final = not any(hasattr(getattr(Quart, name), "__wrapped__") for name in _METHODS)
_of_class = attrgetter(*_METHODS)
_QUARTS_OWN: Final = _of_class(Quart)
_REPLACEABLE: Final = frozenset(_METHODS) - {"asgi_http_class"}
_SIGNALS: Final = (
    signals.appcontext_popped,
    signals.appcontext_pushed,
    signals.appcontext_tearing_down,
    signals.request_finished,
    signals.request_started,
    signals.request_tearing_down,
)
_HOST: Final = re.compile(rb"[A-Za-z0-9.-]+(:[0-9]+)?|\[[0-9a-fA-F:.]+\](:[0-9]+)?")
_making = threading.Lock()


@dataclass(frozen=True)
class Way:
    """One Dash app's way past Quart.

    Attributes:
        app: The Dash app.
        endpoint, view: What Quart would call, for as long as nobody has put something around it.
        run: Runs a callback: JSON text, or a response where that does not say all.
    """

    app: Any
    endpoint: str
    view: Callable[..., Any]
    run: Callable[[Asked, RequestSnapshot], Awaitable[bytes | Response]]


def install(server: Quart, path: str, way: Way) -> None:
    """Take this way for POST requests to this path, unless the server has a way of its own."""
    if (entrance := _entrance(server)) is not None:
        entrance.ways[path] = way


def watch(server: Quart, path: str, end: Watch) -> None:
    """Show the server to this watch with each request to this path, under the same condition.

    For requests that wait, and are to be answered before the server stops.
    """
    if (entrance := _entrance(server)) is not None:
        entrance.watches[path] = end


def _entrance(server: Quart) -> "_Entrance | None":
    entrance = cast(Any, server).asgi_http_class
    if entrance is ASGIHTTPConnection:
        entrance = cast(Any, server).asgi_http_class = _Entrance()
    return entrance if isinstance(entrance, _Entrance) else None


class _Entrance:
    """In place of ``Quart.asgi_http_class``: decides who handles a request."""

    def __init__(self) -> None:
        self.ways: dict[str, Way] = {}
        self.watches: dict[str, Watch] = {}

    def __call__(self, server: Quart, scope: Any) -> ASGIHTTPConnection:
        path = scope["path"]
        if path in self.watches:
            return _Watched(server, scope, self.watches[path])
        way = self.ways.get(path)
        if way is None or not _is_ordinary(scope) or not _nobody_watches(server, way):
            return ASGIHTTPConnection(server, scope)
        snapshot = _snapshot(server, scope)
        task = asyncio.current_task()
        # Some servers run a request in something that cannot be cancelled.
        if snapshot is None or type(task) is not asyncio.Task:
            return ASGIHTTPConnection(server, scope)
        return _Connection(server, scope, way, snapshot, task)


class _Watched(ASGIHTTPConnection):
    """A request that goes Quart's way, and shows its server on the way."""

    def __init__(self, server: Quart, scope: Any, end: Watch) -> None:
        super().__init__(server, scope)
        self._end = end

    async def __call__(self, receive: Any, send: Any) -> None:
        self._end.look(send)
        await super().__call__(receive, send)


def _is_ordinary(scope: Any) -> bool:
    return (
        scope["method"] == "POST"
        and not scope["query_string"]
        and not scope.get("root_path")
        and scope["http_version"] >= "1.1"
        and "_quart._preserve_context" not in scope
    )


def _nobody_watches(server: Quart, way: Way) -> bool:
    """Whether the app has nothing that has to see this request."""
    config = server.config
    return (
        type(server) is Quart
        and _UNTOUCHED
        and _of_class(Quart) == _QUARTS_OWN
        and server.__dict__.keys().isdisjoint(_REPLACEABLE)
        and server.view_functions.get(way.endpoint) is way.view
        and not server.after_request_funcs.get(None)
        and not server.teardown_request_funcs.get(None)
        and not server.teardown_appcontext_funcs
        and not server.url_value_preprocessors.get(None)
        and all(map(backend.is_settled, server.before_request_funcs.get(None, ())))
        and not any(signal.receivers for signal in _SIGNALS)
        and type(server.session_interface) is SecureCookieSessionInterface
        and config["SERVER_NAME"] is None
        and not server.url_map.host_matching
        and not server.subdomain_matching
        and not (server.debug or server.testing or config["PROPAGATE_EXCEPTIONS"])
    )


@lru_cache(1024)
def _title(name: bytes) -> str:
    return name.decode("latin1").title()


def _snapshot(server: Quart, scope: Any) -> RequestSnapshot | None:
    """What Dash asks of every request; None for one that is better left to Quart."""
    remote = (scope.get("client") or ["<local>"])[0]
    # As in a Quart request, the first of several of a name counts.
    headers = {"Remote-Addr": remote}
    cookie = ""
    hosts = 0
    is_json = False
    for name, value in scope["headers"]:
        if name == b"host":
            hosts += 1
            if _HOST.fullmatch(value) is None:
                return None
        elif name == b"content-type":
            is_json = value.partition(b";")[0] == b"application/json"
        elif name == b"cookie":
            cookie += f";{value.decode('latin1')}" if cookie else value.decode("latin1")
        headers.setdefault(_title(name), value.decode("latin1"))
    if hosts != 1 or (server.secret_key and server.config["SESSION_COOKIE_NAME"] in cookie):
        return None
    if not is_json:
        # Refused there: it may be the form of another site.
        return None
    cookies = dict(parse_cookie(cookie, cls=ImmutableMultiDict)) if cookie else {}
    path = f"{scope['path']}?"
    return RequestSnapshot(cookies, headers, [], path, remote, headers.get("Origin", ""))


class _Connection(ASGIHTTPConnection):
    """One request."""

    def __init__(
        self,
        app: Quart,
        scope: Any,
        way: Way,
        snapshot: RequestSnapshot,
        task: "asyncio.Task[Any]",
    ) -> None:
        super().__init__(app, scope)
        self._way = way
        self._snapshot = snapshot
        self._task = task
        self._slow = False
        self._arm: Callable[[], Guard] | None = None
        self._guard: Guard | None = None
        self._cut = False

    async def __call__(self, receive: Any, send: Any) -> None:
        # To ask for the running loop is a system call on Python 3.11.
        noticing = self._task.get_loop().call_later(UNNOTICED_S, self._notice)
        try:
            await self._serve(receive, send)
        finally:
            noticing.cancel()

    def _notice(self) -> None:
        self._slow = True
        if self._arm is not None:
            self._guard = self._arm()

    async def _guarded(self, arm: Callable[[], Guard], awaited: Coroutine[Any, Any, T]) -> T | None:
        """Await it; None when the guard has cut it short."""
        self._arm = arm
        if self._slow:
            self._guard = arm()
        try:
            try:
                return await awaited
            finally:
                self._arm = None
                guard, self._guard = self._guard, None
                if isinstance(guard, asyncio.Task):
                    await tasks.end([guard])
                elif guard is not None:
                    guard.cancel()
        except asyncio.CancelledError:
            if not self._cut or self._task.uncancel() > 0:
                raise
            return None

    def _cut_short(self) -> None:
        self._cut = True
        self._task.cancel()

    def _timer(self, setting: str) -> Callable[[], Guard]:
        """A guard against what takes longer than Quart allows."""
        timeout_s = self.app.config[setting]

        def arm() -> Guard:
            never = timeout_s is None
            loop = asyncio.get_running_loop()
            return loop.call_later(
                0 if never else timeout_s, (lambda: None) if never else self._cut_short
            )

        return arm

    async def _serve(self, receive: Receive, send: Send) -> None:
        messages: list[Message] = []
        heard = await self._guarded(self._timer("BODY_TIMEOUT"), self._hear(receive, messages))
        if heard is False:
            await super().__call__(cast(Any, _replayed(messages, receive)), cast(Any, send))
            return
        raw = b"".join(message["body"] for message in messages)

        def watcher() -> Guard:
            return asyncio.create_task(self._look_out(receive), name="disconnect")

        self._cut = False
        response = await self._guarded(watcher, self._respond(heard or RequestTimeout(), raw))
        if response is not None:
            # A client that does not read is given up, as by Quart.
            await self._guarded(self._timer("RESPONSE_TIMEOUT"), self._finish(send, response))

    async def _look_out(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._cut_short()

    async def _hear(self, receive: Receive, messages: list[Message]) -> Asked | Literal[False]:
        """The request, if it is for a callback of this process."""
        size, limit = 0, self._way.app.runtime.settings.max_request_bytes
        most = self.app.config["MAX_CONTENT_LENGTH"]
        if most is not None:
            limit = min(limit, most)
        while True:
            message = await receive()
            messages.append(message)
            if message["type"] != "http.request":
                return False
            size += len(message.setdefault("body", b""))
            if size > limit:
                return False
            if not message.get("more_body", False):
                break
        raw = b"".join(part["body"] for part in messages) if len(messages) > 1 else message["body"]
        try:
            asked = Asked(self._way.app, raw, limit)
        except DispatchError:
            return False
        return asked if asked.offloaded is None and asked.cancels is None else False

    async def _respond(self, asked: Asked | Exception, raw: bytes) -> Any:
        """As `Quart.handle_request` does it."""
        app = self.app
        late = _LateContext(self, raw)
        app_token = _cv_app.set(AppContext(app))
        request_token = _cv_request.set(late)
        try:
            try:
                if isinstance(asked, Exception):
                    raise asked
                result: Any = await self._way.run(asked, self._snapshot)
                if not late.made:
                    return result
                if isinstance(result, bytes):
                    result = Response(result, content_type="application/json")
            except Exception as error:  # noqa: BLE001 - Quart's own handling of what a view raises
                result = await app.handle_user_exception(error)
            return await app.finalize_request(result, late)
        except Exception as error:  # noqa: BLE001 - and of what its handlers raise: logged, a 500
            return await app.handle_exception(error)
        finally:
            await late.close()
            _cv_request.reset(request_token)
            _cv_app.reset(app_token)

    async def _finish(self, send: Send, response: Any) -> None:
        if isinstance(response, bytes):
            await send(_start(len(response)))
            await send({"type": "http.response.body", "body": response})
        else:
            await self._send_response(cast(Any, send), response)

    def request(self, raw: bytes) -> Request:
        """Quart's request of this connection, whose body is here."""
        request = self._create_request_from_scope(cast(Any, _no_push))
        request.body.append(raw)
        request.body.set_complete()
        return request


async def _no_push(_: Message) -> None:
    """Server push is gone from the browsers."""


def _start(size: int) -> Message:
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % size)]
    return {"type": "http.response.start", "status": 200, "headers": headers}


def _replayed(messages: list[Message], receive: Receive) -> Any:
    """The messages that have been heard, and then those that follow."""
    heard = iter(messages)

    async def again() -> Message:
        for message in heard:
            return message
        return await receive()

    return again


class _LateContext(RequestContext):
    """Quart's context of a request, made when somebody looks at it."""

    def __init__(self, connection: _Connection, raw: bytes) -> None:
        # Quart's own comes in `_make`.
        self._late = (connection, raw)

    @property
    def made(self) -> bool:
        """Whether anybody has looked."""
        return "session" in self.__dict__

    def __getattr__(self, name: str) -> Any:
        # Called for what is not there: of a context that has not been made, everything.
        if name.startswith("__") or self.made:
            raise AttributeError(name)
        with _making:
            if not self.made:
                self._make()
        return getattr(self, name)

    def _make(self) -> None:
        connection, raw = self.__dict__["_late"]
        context = RequestContext(connection.app, connection.request(raw))
        interface = context.app.session_interface
        session = _at_once(interface.open_session(context.app, context.request))
        if session is None:
            session = _at_once(interface.make_null_session(context.app))
        context.session = session
        context.match_request()
        self.__dict__.update(context.__dict__)

    def copy(self) -> RequestContext:
        """For `quart.copy_current_request_context`."""
        return RequestContext(self.app, self.request, self.session)

    async def close(self) -> None:
        """The request has been answered."""
        if self.made:
            await self.request.close()


def _at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that does not wait, as those of cookie sessions do not."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return cast(T, done.value)
    raise RuntimeError("this session cannot be opened here")
