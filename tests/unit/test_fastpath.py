"""Callbacks over plain HTTP: the way past Quart's machinery answers exactly as Quart's own does."""

import asyncio
import copy
import logging
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
import quart
from asgiref.sync import async_to_sync
from dash import Input, Output, State, ctx, dcc, get_relative_path, html, no_update
from dash.exceptions import PreventUpdate
from quart import Quart, request_started
from quart.asgi import ASGIHTTPConnection
from werkzeug.exceptions import Conflict

from dash_dispatch import Dash, bridge, fastpath
from dash_dispatch.config import Settings
from dash_dispatch.threads import Threads

UPDATE = "/_dash-update-component"
Answer = tuple[int, list[tuple[bytes, bytes]], bytes]


class Teapot(Exception):
    """Has an error handler."""


async def loop_of_caller() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


async def short_and_stout(_: Teapot) -> Any:
    return "short and stout", 418, {"X-Kettle": "1"}


def fill(app: Dash) -> None:
    names = [
        "async", "def", "none", "no-update", "prevent", "dressed", "context", "request", "session",
        "later", "fails", "fails-in-thread", "teapot", "conflict", "exits", "offloaded", "g",
        "background", "url",
    ]  # fmt: skip
    app.layout = html.Div([dcc.Store(id="in"), *(html.Div(id=name) for name in names)])

    def callback(name: str, **kwargs: Any) -> Callable[[Any], Any]:
        asked = Input("in", "data"), State("in", "modified_timestamp")
        return app.callback(Output(name, "children"), *asked, **kwargs)

    answer(callback)
    look_around(callback)
    fail(callback)
    app.server.register_error_handler(Teapot, short_and_stout)


Register = Callable[..., Callable[[Any], Any]]


def answer(callback: Register) -> None:
    """What a callback can return, and put beside it."""

    @callback("async")
    async def in_loop(value: Any, _: Any) -> Any:
        return [value, "äöü €", {"a": [1, 2.5, None]}]

    @callback("def")
    def in_thread(value: Any, _: Any) -> Any:
        return [value, threading.current_thread() is threading.main_thread()]

    @callback("none")
    async def none(value: Any, _: Any) -> Any:
        return None

    @callback("no-update")
    async def nothing(value: Any, _: Any) -> Any:
        return no_update

    @callback("prevent")
    def prevent(value: Any, _: Any) -> Any:
        ctx.response.set_cookie("lost", "1")
        raise PreventUpdate

    @callback("dressed")
    def dressed(value: Any, _: Any) -> Any:
        ctx.response.set_cookie("first", "1", max_age=10, path="/a")
        ctx.response.append_header("X-One", "1")
        ctx.response.append_header("X-One", "2")
        ctx.response.set_header("Content-Language", "de")
        return value


def look_around(callback: Register) -> None:
    """What a callback can ask of its request."""

    @callback("context")
    def context(value: Any, _: Any) -> Any:
        return [
            dict(ctx.cookies), dict(ctx.headers), list(ctx.args.items()), ctx.path, ctx.remote,
            ctx.origin, ctx.triggered, ctx.triggered_id, ctx.inputs, ctx.states, ctx.args_grouping,
            ctx.outputs_grouping, ctx.using_args_grouping, ctx.using_outputs_grouping,
        ]  # fmt: skip

    @callback("request")
    async def request(value: Any, _: Any) -> Any:
        asked = quart.request
        return [
            asked.method, asked.path, asked.url, asked.host, list(asked.headers.items()),
            asked.endpoint, asked.remote_addr, await asked.get_json(), quart.current_app.name,
            quart.has_request_context(), asked.cookies, quart.url_for(asked.endpoint or ""),
        ]  # fmt: skip

    @callback("session")
    async def session(value: Any, _: Any) -> Any:
        quart.session["seen"] = quart.session.get("seen", 0) + 1
        return quart.session["seen"]

    @callback("later")
    def later(value: Any, _: Any) -> Any:
        @quart.after_this_request
        async def dress(response: Any) -> Any:
            response.headers["X-Late"] = "1"
            return response

        return value

    @callback("g")
    def uses_g(value: Any, _: Any) -> Any:
        found = getattr(quart.g, "found", None)
        quart.g.found = value
        ctx.record_timing("step", 0.1)
        return [found, quart.g.found]

    @callback("background")
    def meets_the_loop(value: Any, _: Any) -> Any:
        loop: Any = async_to_sync(loop_of_caller)()
        return getattr(loop, "of_test", False)

    @callback("url")
    async def url(value: Any, _: Any) -> Any:
        return [get_relative_path("/x"), quart.request.root_url]


def fail(callback: Register) -> None:
    """How a callback can fail."""

    @callback("fails")
    async def fails(value: Any, _: Any) -> Any:
        return 1 // 0

    @callback("fails-in-thread")
    def fails_in_thread(value: Any, _: Any) -> Any:
        quart.session["seen"] = "and failed"
        raise StopIteration

    @callback("teapot")
    async def teapot(value: Any, _: Any) -> Any:
        raise Teapot

    @callback("conflict")
    async def conflict(value: Any, _: Any) -> Any:
        raise Conflict("somebody else was faster")

    @callback("exits")
    def exits(value: Any, _: Any) -> Any:
        raise SystemExit(3)

    @callback("offloaded", offload=True)
    async def offloaded(value: Any, _: Any) -> Any:
        return value


@pytest.fixture(scope="module")
def app() -> Dash:
    settings = Settings(redis_url=None, secret_key="x" * 20, max_request_bytes=2000)
    made = Dash("fastpath", dispatch_settings=settings)
    fill(made)
    bridge.ready(made)
    return made


@pytest.fixture
def server(app: Dash) -> Iterator[Quart]:
    """The server, whose registries are put back in order after the test."""
    server = app.server
    kept = (
        "before_request_funcs", "after_request_funcs", "teardown_request_funcs",
        "url_value_preprocessors", "view_functions",
    )  # fmt: skip
    before = {
        name: {key: copy.copy(value) for key, value in getattr(server, name).items()}
        for name in kept
    }
    yield server
    for name, registry in before.items():
        getattr(server, name).clear()
        getattr(server, name).update(registry)
    server.teardown_appcontext_funcs.clear()
    server.secret_key = None
    server.testing = server.debug = False


def body(output: str = "async", **changes: Any) -> bytes:
    asked = {
        "output": f"{output}.children",
        "outputs": {"id": output, "property": "children"},
        "inputs": [{"id": "in", "property": "data", "value": 7}],
        "state": [{"id": "in", "property": "modified_timestamp", "value": 8}],
        "changedPropIds": ["in.data"],
    }
    return orjson.dumps(asked | changes)


def scope_of(raw: bytes, **changes: Any) -> dict[str, Any]:
    headers = [
        (b"host", b"example.org:8050"),
        (b"user-agent", b"tests"),
        (b"origin", b"http://example.org:8050"),
        (b"content-type", b"application/json"),
        (b"cookie", b"a=1; b=two"),
        (b"x-twice", b"1"),
        (b"x-twice", b"2"),
        (b"content-length", str(len(raw)).encode()),
    ]
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": UPDATE,
        "raw_path": UPDATE.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": headers,
        "client": ("10.1.2.3", 4567),
        "server": ("127.0.0.1", 8050),
        "extensions": {},
    } | changes


class Client:
    """One request's end of ASGI."""

    def __init__(self, *parts: bytes) -> None:
        self.gone = asyncio.Event()
        self.sent: list[dict[str, Any]] = []
        self._parts = list(parts)

    async def receive(self) -> dict[str, Any]:
        if self._parts:
            part = self._parts.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(self._parts)}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)

    @property
    def answer(self) -> Answer:
        start, *chunks = self.sent
        assert not chunks[-1].get("more_body", False)
        return start["status"], start["headers"], b"".join(chunk["body"] for chunk in chunks)


async def fast(server: Quart, raw: bytes, *, parts: int = 1, **changes: Any) -> Answer:
    """As it is served."""
    size = -(-len(raw) // parts) or 1
    client = Client(*[raw[at : at + size] for at in range(0, len(raw), size)] or [b""])
    asgi: Any = server
    await asyncio.create_task(asgi(scope_of(raw, **changes), client.receive, client.send))
    return client.answer


async def slow(server: Quart, raw: bytes, **changes: Any) -> Answer:
    """As Quart alone serves it."""
    client = Client(raw)
    connection: Any = ASGIHTTPConnection(server, scope_of(raw, **changes))  # type: ignore[arg-type]
    await asyncio.create_task(connection(client.receive, client.send))
    return client.answer


async def is_fast(server: Quart, **changes: Any) -> bool:
    async def entered() -> bool:
        entrance: Any = server.asgi_http_class
        return isinstance(entrance(server, scope_of(body(), **changes)), fastpath._Connection)

    return await asyncio.create_task(entered())


# --- the same answers ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "output",
    [
        "async", "def", "none", "no-update", "prevent", "dressed", "context", "request", "later",
        "fails", "teapot", "conflict", "exits", "g", "url", "fails-in-thread",
    ],
)  # fmt: skip
@pytest.mark.parametrize("secret", [None, "a secret key"])
async def test_both_ways_answer_the_same(server: Quart, output: str, secret: str | None) -> None:
    server.secret_key = secret
    assert await is_fast(server)

    answer = await fast(server, body(output))

    assert answer == await slow(server, body(output))


async def test_a_session_is_kept_and_sent_as_by_quart(server: Quart) -> None:
    server.secret_key = "a secret key"
    status, headers, text = await fast(server, body("session"))
    assert (status, orjson.loads(text)["response"]["session"]["children"]) == (200, 1)
    [cookie] = [value for name, value in headers if name == b"set-cookie"]
    assert (b"vary", b"Cookie") in headers

    sent = cookie.split(b";")[0]
    with_session = [*scope_of(body("session"))["headers"], (b"cookie", sent)]
    status, _, text = await fast(server, body("session"), headers=with_session)

    assert (status, orjson.loads(text)["response"]["session"]["children"]) == (200, 2)


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        pytest.param(b"", 400, id="empty"),
        pytest.param(b"{", 400, id="no JSON"),
        pytest.param(body("unknown"), 404, id="unknown"),
        pytest.param(body(inputs=[]), 400, id="without inputs"),
        pytest.param(body(outputs={"id": "def", "property": "children"}), 400, id="other output"),
        pytest.param(body(more="x" * 2000), 413, id="too large"),
    ],
)
async def test_what_is_refused_is_refused_in_the_same_words(
    server: Quart, raw: bytes, status: int
) -> None:
    answer = await fast(server, raw)

    assert answer == await slow(server, raw)
    assert answer[0] == status


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "GET"},
        {"method": "HEAD"},
        {"method": "OPTIONS"},
        {"method": "PUT"},
        {"query_string": b"a=1&a=2"},
        {"path": "/_dash-layout", "method": "GET"},
        {"path": f"{UPDATE}/"},
        {"root_path": "/sub", "path": f"/sub{UPDATE}"},
        {"headers": [(b"host", b"a b"), (b"content-length", b"5")]},
        {"http_version": "1.0", "headers": [(b"content-length", b"5")]},
    ],
    ids=str,
)
async def test_other_requests_go_quarts_way(server: Quart, changes: dict[str, Any]) -> None:
    assert not await is_fast(server, **changes)
    ours = await fast(server, body("context"), **changes)
    quarts = await slow(server, body("context"), **changes)

    # A page is never the same twice: it has a key of its own.
    same = slice(2) if b"<html>" in quarts[2] else slice(3)
    assert ours[same] == quarts[same]


async def test_a_body_in_parts_is_put_together(server: Quart) -> None:
    whole = await fast(server, body("request"))

    assert await fast(server, body("request"), parts=3) == whole
    assert await fast(server, body("unknown"), parts=3) == await slow(server, body("unknown"))


async def test_a_failure_is_logged_as_by_quart(
    server: Quart, caplog: pytest.LogCaptureFixture
) -> None:
    def record() -> tuple[str, Any, Any]:
        [found] = caplog.records
        caplog.clear()
        assert found.exc_info is not None
        return found.getMessage(), found.levelno, found.exc_info[0]

    with caplog.at_level(logging.INFO):
        await slow(server, body("fails"))
        expected = record()
        await fast(server, body("fails"))

    assert record() == expected


async def test_async_to_sync_in_a_thread_finds_the_loop(server: Quart) -> None:
    loop: Any = asyncio.get_running_loop()
    loop.of_test = True

    _, _, text = await fast(server, body("background"))

    assert orjson.loads(text)["response"]["background"]["children"] is True


# --- whoever has to see a request, sees it ------------------------------------------------------


async def seen(*_: Any) -> None:
    return None


async def passes(response: Any) -> Any:
    return response


WATCHERS: dict[str, Callable[[Any], Any]] = {
    "before_request": lambda server: server.before_request(seen),
    "after_request": lambda server: server.after_request(passes),
    "teardown_request": lambda server: server.teardown_request(seen),
    "teardown_appcontext": lambda server: server.teardown_appcontext(seen),
    "url_value_preprocessor": lambda server: server.url_value_preprocessor(seen),
    "a view put around Dash's": lambda server: server.view_functions.update({UPDATE: seen}),
    "debug": lambda server: setattr(server, "debug", True),
    "testing": lambda server: setattr(server, "testing", True),
}


@pytest.mark.parametrize("watcher", WATCHERS)
async def test_a_hook_that_is_registered_later_is_honoured(server: Quart, watcher: str) -> None:
    assert await is_fast(server)

    WATCHERS[watcher](server)

    assert not await is_fast(server)


async def test_a_request_hook_is_run(server: Quart) -> None:
    async def halt() -> Any:
        return "not today", 403

    server.before_request(halt)

    status, _, text = await fast(server, body())

    assert (status, text) == (403, b"not today")


async def test_a_signal_has_its_receivers_called(server: Quart) -> None:
    with request_started.connected_to(seen):
        assert not await is_fast(server)
    assert await is_fast(server)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("session_interface", SimpleNamespace()),
        ("request_class", object),
        ("full_dispatch_request", seen),
        ("handle_exception", seen),
    ],
)
async def test_replaced_parts_of_quart_are_used(
    server: Quart, monkeypatch: pytest.MonkeyPatch, name: str, value: Any
) -> None:
    monkeypatch.setattr(server, name, value)

    assert not await is_fast(server)


async def test_a_method_that_is_patched_in_quart_itself_is_used(
    server: Quart, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Quart, "dispatch_request", seen)

    assert not await is_fast(server)


async def test_a_session_cookie_goes_quarts_way(server: Quart) -> None:
    server.secret_key = "a secret key"
    headers = [*scope_of(body())["headers"], (b"cookie", b"session=x")]

    assert not await is_fast(server, headers=headers)


def test_a_server_with_a_way_of_its_own_keeps_it() -> None:
    class Own(ASGIHTTPConnection):
        """Somebody else's."""

    server = Quart("own")
    server.asgi_http_class = Own

    Dash("of_own", server=server, dispatch_settings=Settings())

    assert server.asgi_http_class is Own


async def test_two_apps_of_one_server_are_told_apart() -> None:
    server = Quart("two")
    apps = []
    for prefix in ("/one/", "/two/"):
        app = Dash(prefix, server=server, url_base_pathname=prefix, dispatch_settings=Settings())
        fill_with(app, prefix)
        bridge.ready(app)
        apps.append(app)

    for prefix in ("/one/", "/two/"):
        path = f"{prefix}{UPDATE[1:]}"
        assert await is_fast(server, path=path)
        answer = await fast(server, body("name"), path=path)
        assert answer == await slow(server, body("name"), path=path)
        assert orjson.loads(answer[2])["response"]["name"]["children"] == prefix


def fill_with(app: Dash, name: str) -> None:
    app.layout = html.Div([dcc.Store(id="in"), html.Div(id="name")])

    @app.callback(
        Output("name", "children"), Input("in", "data"), State("in", "modified_timestamp")
    )
    async def own_name(*_: Any) -> str:
        return name


async def test_the_first_request_of_an_app_goes_quarts_way() -> None:
    """Dash sets an app up in a hook of its first request."""
    app = Dash("first", dispatch_settings=Settings())
    fill_with(app, "first")
    assert not await is_fast(app.server)

    status, _, _ = await fast(app.server, body("name"))

    assert status == 200
    assert await is_fast(app.server)


# --- who goes away ------------------------------------------------------------------------------


@pytest.fixture
def waiting() -> Iterator[tuple[Dash, asyncio.Event, list[str]]]:
    app = Dash("waiting", dispatch_settings=Settings())
    app.layout = html.Div([dcc.Store(id="in"), html.Div(id="name")])
    begun, ends = asyncio.Event(), list[str]()

    @app.callback(
        Output("name", "children"), Input("in", "data"), State("in", "modified_timestamp")
    )
    async def waits(*_: Any) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ends.append("cancelled")
            raise

    bridge.ready(app)
    return app, begun, ends  # type: ignore[return-value]


async def test_a_client_that_goes_away_cancels_its_callback(
    waiting: tuple[Dash, asyncio.Event, list[str]],
) -> None:
    app, begun, ends = waiting
    client = Client(body("name"))
    asgi: Any = app.server
    serving = asyncio.create_task(asgi(scope_of(body("name")), client.receive, client.send))
    await begun.wait()

    client.gone.set()
    await serving

    assert ends == ["cancelled"]
    assert client.sent == []


async def test_a_server_that_stops_cancels_a_callback(
    waiting: tuple[Dash, asyncio.Event, list[str]],
) -> None:
    app, begun, ends = waiting
    client = Client(body("name"))
    asgi: Any = app.server
    serving = asyncio.create_task(asgi(scope_of(body("name")), client.receive, client.send))
    await begun.wait()

    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving

    assert ends == ["cancelled"]


async def test_a_body_that_does_not_come_is_given_up(app: Dash, server: Quart) -> None:
    client = Client()
    asgi: Any = server
    server.config["BODY_TIMEOUT"] = 0.01
    try:
        await asgi(scope_of(body()), client.receive, client.send)
    finally:
        server.config["BODY_TIMEOUT"] = 60

    assert client.answer[0] == 408


# --- threads ------------------------------------------------------------------------------------


async def test_a_thread_whose_callback_nobody_waits_for_is_not_counted_as_free() -> None:
    threads = Threads(2)
    go, begun = threading.Event(), threading.Event()

    def holds() -> None:
        begun.set()
        go.wait(10)

    left = asyncio.create_task(threads.run(holds))
    await asyncio.to_thread(begun.wait, 10)
    left.cancel()
    with pytest.raises(asyncio.CancelledError):
        await left

    assert await asyncio.wait_for(threads.run(lambda: "ran"), 10) == "ran"
    go.set()
    threads.close()


async def test_what_has_not_begun_is_not_begun_for_nobody() -> None:
    threads = Threads(1)
    go, begun = threading.Event(), threading.Event()
    ran: list[int] = []

    def holds() -> None:
        begun.set()
        go.wait(10)

    first = asyncio.create_task(threads.run(holds))
    await asyncio.to_thread(begun.wait, 10)
    second = asyncio.create_task(threads.run(lambda: ran.append(1)))
    await asyncio.sleep(0)
    second.cancel()
    go.set()
    await first

    assert await threads.run(lambda: list(ran)) == []
    threads.close()
