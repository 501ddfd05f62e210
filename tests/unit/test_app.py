"""``Dash`` as a drop-in: constructor, page and scripts, by Quart's test client alone."""

import inspect
import json
import re
from typing import Any

import dash
import pytest
from dash import Input, Output, html
from dash.backends._quart import QuartDashServer
from quart import Quart
from quart.typing import TestClientProtocol as Client

import dash_dispatch.server
from dash_dispatch import ConfigError, Dash, Settings
from dash_dispatch.server import DispatchServer, script, script_path

SETTINGS = Settings(redis_url=None)
STOCK = inspect.signature(dash.Dash.__init__).parameters
OWN = ("self", "name", "server", "backend", "obsolete")


def make(*args: Any, **kwargs: Any) -> Dash:
    app = Dash(*(args or ("drop_in",)), dispatch_settings=SETTINGS, **kwargs)
    app.layout = html.Div(id="here")
    return app


JSON = {"Content-Type": "application/json"}


def client(app: Dash) -> Client:
    server = app.server
    assert isinstance(server, Quart)
    return server.test_client()


async def page(app: Dash, path: str = "/") -> str:
    response = await client(app).get(path)
    assert response.status_code == 200
    return await response.get_data(as_text=True)


# --- the constructor -----------------------------------------------------------------------------


def test_it_is_a_dash_app() -> None:
    app = make()
    assert isinstance(app, dash.Dash)
    assert isinstance(app.server, Quart)
    assert isinstance(app.backend, DispatchServer)
    assert app.config.name == "drop_in"


@pytest.mark.parametrize("name", [name for name in STOCK if name not in OWN])
def test_every_argument_of_dash_is_taken(name: str) -> None:
    assert make(**{name: STOCK[name].default}).config.name == "drop_in"


def test_the_positions_of_dash() -> None:
    assert list(STOCK)[:6] == ["self", "name", "server", "backend", "assets_folder", "pages_folder"]
    own = list(inspect.signature(Dash.__init__).parameters)
    assert own[:4] == list(STOCK)[:4]
    app = make("positions", True, None, "my_assets", "")
    assert app.config.assets_folder.endswith("my_assets")
    assert app.pages_folder == ""


def test_an_argument_that_dash_does_not_know_is_refused() -> None:
    with pytest.raises(Exception, match="surprise"):
        make(surprise=1)


def test_options_mean_the_same() -> None:
    options: dict[str, Any] = {
        "title": "A title",
        "update_title": None,
        "suppress_callback_exceptions": True,
        "prevent_initial_callbacks": True,
        "meta_tags": [{"name": "a", "content": "b"}],
        "external_scripts": ["https://example.com/x.js"],
        "requests_pathname_prefix": "/behind/",
        "routes_pathname_prefix": "/",
        "websocket_allowed_origins": ["https://example.com"],
    }
    ours, stock = make(**options), dash.Dash("drop_in", backend="quart", **options)
    assert dict(ours.config) == dict(stock.config)
    assert ours.title == stock.title


def test_the_name_is_that_of_the_callers_module() -> None:
    namespace: dict[str, Any] = {"__name__": "some_app", "SETTINGS": SETTINGS}
    source = "from dash_dispatch import Dash\napp = Dash(dispatch_settings=SETTINGS)\n"
    exec(compile(source, "some_app.py", "exec"), namespace)
    assert namespace["app"].config.name == "some_app"


def test_a_quart_app_of_ones_own() -> None:
    server = Quart("my_server")
    app = make(None, server)
    assert app.server is server
    assert isinstance(app.backend, DispatchServer)
    assert app.config.name == "my_server"
    assert make("named", Quart("other")).config.name == "named"


@pytest.mark.parametrize("server", [False, None])
async def test_a_quart_app_that_comes_later(server: bool | None) -> None:
    app = make("later", server)
    own = Quart("own")
    app.init_app(own)
    assert app.server is own
    assert isinstance(app.backend, DispatchServer)
    assert "_dash-dispatch/page." in await page(app)


def test_a_flask_app_is_refused_in_words() -> None:
    from flask import Flask

    with pytest.raises(ConfigError, match=r"server=.*quart\.Quart"):
        make("x", Flask("x"))


@pytest.mark.parametrize("server", ["x", 1, object(), Quart])
def test_a_server_is_a_quart_app(server: Any) -> None:
    with pytest.raises(ConfigError, match="server="):
        make("x", server)


class MyServer(DispatchServer):
    """A user's own."""


@pytest.mark.parametrize("backend", [None, "quart", DispatchServer, MyServer])
def test_a_backend_that_is_quart(backend: Any) -> None:
    app = make(backend=backend)
    expected = backend if isinstance(backend, type) else DispatchServer
    assert type(app.backend) is expected


@pytest.mark.parametrize("backend", ["flask", "fastapi", "Quart", 1, QuartDashServer, int, ""])
def test_another_backend_is_refused_in_words(backend: Any) -> None:
    with pytest.raises(ConfigError, match=r"backend=.*runs on Quart"):
        make(backend=backend)


def test_a_wrong_setting_is_said_when_the_app_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DASH_DISPATCH_THREADS", "none")
    with pytest.raises(ConfigError, match="DASH_DISPATCH_THREADS"):
        Dash("x")


# --- the page ------------------------------------------------------------------------------------

SCRIPT = re.compile(r"<script[^>]*\bsrc=\"([^\"]+)\"")


async def test_our_script_comes_before_dashs() -> None:
    sources = SCRIPT.findall(await page(make()))
    assert sources[0] == f"/{script_path('page')}"
    assert any("dash_renderer" in source or "dash-renderer" in source for source in sources[1:])
    assert sum("_dash-dispatch" in source for source in sources) == 1


INDEX = """<!doctype html><html><head>{%metas%}{%title%}{%favicon%}{%css%}</head><body>
<p>mine</p>{%app_entry%}<footer>{%config%}{%scripts%}{%renderer%}</footer></body></html>"""


async def test_with_an_index_string() -> None:
    text = await page(make(index_string=INDEX))
    assert "<p>mine</p>" in text
    assert SCRIPT.findall(text)[0] == f"/{script_path('page')}"


@pytest.mark.parametrize("place", ["{config}{scripts}{renderer}", "{scripts}{config}{renderer}"])
async def test_with_an_interpolated_index(place: str) -> None:
    class Mine(Dash):
        def interpolate_index(self, *_: Any, **kwargs: Any) -> str:
            template = f"<html><body>mine {{app_entry}}{place}</body></html>"
            return template.format(**kwargs)

    app = Mine("mine", dispatch_settings=SETTINGS)
    app.layout = html.Div()
    text = await page(app)
    assert "mine" in text
    # Before the renderer starts, wherever the page puts things.
    ours = text.index(script_path("page"))
    assert ours < text.index('id="_dash-renderer"')
    assert ours < text.index("/dash-renderer/build/") if "{config}{scripts}" in place else ours


async def test_with_an_index_hook() -> None:
    app = make()
    text = await page(app)
    assert text.count('id="_dash-config"') == 1
    config = re.search(r'<script id="_dash-config"[^>]*>(.*?)</script>', text)
    assert config is not None
    assert json.loads(config.group(1))["requests_pathname_prefix"] == "/"


async def config_of(app: Dash, path: str = "/") -> dict[str, Any]:
    found = re.search(r'<script id="_dash-config"[^>]*>(.*?)</script>', await page(app, path))
    assert found is not None
    config = json.loads(found.group(1))
    assert isinstance(config, dict)
    return config


async def test_the_page_is_told_of_our_worker_script() -> None:
    app = make()
    app.callback(Output("a", "children"), Input("b", "value"), offload=True)(print)
    config = await config_of(app)
    assert config["websocket"]["worker_url"] == f"/{script_path('worker')}"


@pytest.mark.parametrize(
    "options",
    [
        {"url_base_pathname": "/base/"},
        {"routes_pathname_prefix": "/base/", "requests_pathname_prefix": "/base/"},
    ],
)
async def test_below_a_prefix(options: dict[str, str]) -> None:
    app = make(**options)
    assert SCRIPT.findall(await page(app, "/base/"))[0] == f"/base/{script_path('page')}"
    assert app.worker_script_url() == f"/base/{script_path('worker')}"
    for name in ("page", "worker"):
        assert (await client(app).get(f"/base/{script_path(name)}")).status_code == 200


async def test_behind_a_proxy_that_strips_the_prefix() -> None:
    app = make(routes_pathname_prefix="/", requests_pathname_prefix="/outside/")
    assert SCRIPT.findall(await page(app))[0] == f"/outside/{script_path('page')}"
    assert app.worker_script_url() == f"/outside/{script_path('worker')}"
    assert (await client(app).get(f"/{script_path('page')}")).status_code == 200


# --- the scripts ---------------------------------------------------------------------------------

NAMES = ("worker", "page")


@pytest.mark.parametrize("name", NAMES)
def test_a_scripts_address_has_the_hash_of_its_content(name: str) -> None:
    import hashlib

    digest = hashlib.sha256(script(name)).hexdigest()[:16]
    assert script_path(name) == f"_dash-dispatch/{name}.{digest}.js"


@pytest.mark.parametrize("name", NAMES)
async def test_a_script_is_kept_for_ever_under_its_hash(name: str) -> None:
    response = await client(make()).get(f"/{script_path(name)}")
    assert response.status_code == 200
    assert response.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert response.headers["Content-Type"] == "text/javascript; charset=utf-8"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert await response.get_data() == script(name)


@pytest.mark.parametrize("name", NAMES)
async def test_another_releases_hash_gets_the_present_script_unkept(name: str) -> None:
    response = await client(make()).get(f"/_dash-dispatch/{name}.0123456789abcdef.js")
    assert response.status_code == 200
    assert response.headers["Cache-Control"] == "no-store"
    assert await response.get_data() == script(name)


@pytest.mark.parametrize(
    "path",
    [
        "worker.js",
        "other.0123456789abcdef.js",
        "worker.0123456789abcde.js",
        "worker.0123456789abcdef.js.map",
        "worker.0123456789ABCDEF.js",
        "../errors.py",
        "..%2ferrors.py",
        "worker.0123456789abcdef.js%0a",
        "dispatch-worker.js",
    ],
)
async def test_anything_else_is_not_found(path: str) -> None:
    assert (await client(make()).get(f"/_dash-dispatch/{path}")).status_code == 404


async def test_a_script_is_only_to_be_had() -> None:
    response = await client(make()).post(f"/{script_path('page')}")
    assert response.status_code == 405


# --- callbacks of the web process, without Redis -------------------------------------------------


def request(output: str, value: Any) -> dict[str, Any]:
    name, prop = output.split(".")
    return {
        "output": output,
        "outputs": {"id": name, "property": prop},
        "inputs": [{"id": "in", "property": "value", "value": value}],
        "changedPropIds": ["in.value"],
    }


@pytest.fixture
def app() -> Dash:
    made = make()
    asked = Input("in", "value")

    @made.callback(Output("plain", "children"), asked)
    def plain(value: Any) -> Any:
        return value

    @made.callback(Output("async", "children"), asked)
    async def asynchronous(value: Any) -> Any:
        dash.ctx.response.set_cookie("k", "v")
        return value

    @made.callback(Output("none", "children"), asked)
    def none(value: Any) -> Any:
        raise dash.exceptions.PreventUpdate

    @made.callback(Output("away", "children"), asked, offload=True)
    def away(value: Any) -> Any:
        return value

    return made


@pytest.mark.parametrize("name", ["plain", "async"])
async def test_a_callback_of_the_web_process_needs_no_redis(app: Dash, name: str) -> None:
    response = await client(app).post(
        "/_dash-update-component", json=request(f"{name}.children", 3)
    )
    assert response.status_code == 200
    assert await response.get_json() == {"multi": True, "response": {name: {"children": 3}}}
    assert ("k=v" in response.headers.get("Set-Cookie", "")) == (name == "async")
    app.runtime.threads.close()


async def test_no_update_is_no_content(app: Dash) -> None:
    response = await client(app).post("/_dash-update-component", json=request("none.children", 3))
    assert response.status_code == 204
    app.runtime.threads.close()


@pytest.mark.parametrize(
    ("sent", "status", "words"),
    [
        (b"", 400, "not a callback request"),
        (b"{", 400, "not a callback request"),
        (b"[]", 400, "not a callback request"),
        (b'{"output":"nothing.children"}', 404, "no callback for 'nothing.children'"),
        (b'{"output":"plain.children","inputs":[]}', 400, "has 1 inputs; got 0"),
        (b'{"output":"plain.children","inputs":[3]}', 400, "not a component's property"),
        (b'{"output":"plain.children","inputs":[{"id":"in","property":"value"}],"state":[1]}',
         400, "has 0 state; got 1"),
        (b'{"output":"__proto__"}', 404, "no callback"),
    ],
)  # fmt: skip
async def test_a_bad_request_is_answered_in_words(
    app: Dash, sent: bytes, status: int, words: str
) -> None:
    response = await client(app).post("/_dash-update-component", data=sent, headers=JSON)
    assert response.status_code == status
    assert words in (await response.get_json())["error"]


async def test_a_request_that_is_too_large_is_refused() -> None:
    app = Dash("small", dispatch_settings=Settings(redis_url=None, max_request_bytes=1024))
    app.layout = html.Div()
    response = await client(app).post("/_dash-update-component", data=b"x" * 2000, headers=JSON)
    assert response.status_code == 413
    assert "DASH_DISPATCH_MAX_REQUEST_BYTES" in (await response.get_json())["error"]


async def test_an_offloaded_callback_without_redis_names_the_setting(app: Dash) -> None:
    response = await client(app).post("/_dash-update-component", json=request("away.children", 3))
    assert response.status_code == 500
    assert "DASH_DISPATCH_REDIS_URL" in (await response.get_json())["error"]


async def test_a_server_does_not_start_without_redis(app: Dash) -> None:
    with pytest.raises(ConfigError, match="DASH_DISPATCH_REDIS_URL"):
        await app.runtime.startup()
    await app.runtime.shutdown()


async def test_a_server_does_not_start_without_a_key() -> None:
    made = Dash("x", dispatch_settings=Settings(redis_url="redis://localhost:1", secret_key=None))
    made.layout = html.Div()
    with pytest.raises(ConfigError, match="DASH_DISPATCH_SECRET_KEY"):
        await made.runtime.startup()


def test_dashs_view_keeps_the_name_that_integrations_exempt(app: Dash) -> None:
    view = DispatchServer(app.server).serve_callback(app)
    assert f"{view.__module__}.{view.__qualname__}" == "dash.dash.dispatch"


def test_scripts_are_in_the_package() -> None:
    assert set(dash_dispatch.server.SCRIPTS) == set(NAMES)
    for name in NAMES:
        assert script(name).isascii() or script(name).decode("utf-8")


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [KeyError("no words"), "\ud800"])
async def test_an_error_that_cannot_be_shown_is_answered_all_the_same(words: object) -> None:
    class Odd(Exception):
        def __str__(self) -> str:
            if isinstance(words, Exception):
                raise words
            return str(words)

    app = make()
    app.enable_dev_tools(debug=True, dev_tools_hot_reload=False)

    @app.callback(Output("here", "children"), Input("here", "id"))
    def fails(_: str) -> None:
        raise Odd

    body = {
        "output": "here.children",
        "outputs": {"id": "here", "property": "children"},
        "inputs": [{"id": "here", "property": "id", "value": "here"}],
    }
    answer = await client(app).post("/_dash-update-component", json=body)
    assert answer.status_code == 500
    assert "Odd" in await answer.get_data(as_text=True)
