"""Dash's private names: ``bridge`` and ``backend`` alone use them, and Dash has them as expected.

When one of these fails with a new Dash, read what became of the name, and change those files.
"""

import ast
import functools
import inspect
import subprocess
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import dash
import pytest
from dash import (
    MATCH,
    Dash,
    Input,
    Output,
    State,
    _callback,
    _callback_context,
    _get_app,
    _pages,
    _validate,
    html,
)
from dash._grouping import make_grouping_by_index
from dash._utils import (
    AttributeDict,
    coerce_to_list,
    create_callback_id,
    inputs_to_dict,
    stringify_id,
    to_json,
)
from dash.backends import _quart, base_server
from dash.background_callback import managers as background_managers
from dash.development.base_component import ComponentRegistry
from quart import Quart

import dash_dispatch

PACKAGE = Path(str(dash_dispatch.__file__)).parent
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py"))


@pytest.fixture(scope="module")
def app() -> Dash:
    """Stock Dash on Quart with one callback."""
    made = Dash("bridge_names", backend="quart")
    made.layout = html.Div(id="a")

    @made.callback(Output("a", "children"), Input("b", "value"), State("c", "value"))
    def function(value: Any, state: Any) -> Any:
        return value

    return made


def parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


# --- modules and functions -----------------------------------------------------------------------


def test_the_global_registry() -> None:
    assert isinstance(_callback.GLOBAL_CALLBACK_MAP, dict), "_callback.GLOBAL_CALLBACK_MAP"
    assert isinstance(_callback.GLOBAL_CALLBACK_LIST, list), "_callback.GLOBAL_CALLBACK_LIST"


def test_the_decorator_of_the_module_and_of_the_app() -> None:
    for name in ("hidden", "websocket", "cancel", "background"):
        assert name in parameters(_callback.callback), f"_callback.callback({name}=)"
    assert parameters(Dash.callback) == ["self", "_args", "_kwargs"], "Dash.callback"


def test_the_arguments_of_background_callbacks() -> None:
    names = parameters(_callback.callback)
    for name in (
        "progress", "progress_default", "interval", "manager", "running", "cache_args_to_ignore",
        "cache_ignore_triggered",
    ):  # fmt: skip
        assert name in names, f"_callback.callback({name}=)"


def test_the_managers() -> None:
    managers = background_managers.BaseBackgroundCallbackManager
    assert parameters(managers.register_func) == ["fn", "progress", "callback_id"]


def test_how_a_return_value_is_taken_apart() -> None:
    assert parameters(_callback._prepare_response) == [
        "output_value", "output_spec", "multi", "response", "callback_ctx", "app",
        "original_packages", "background", "has_update", "has_output", "output", "callback_id",
        "allow_dynamic_callbacks",
    ]  # fmt: skip
    assert parameters(_validate.fail_callback_output) == ["output_value", "output"]
    assert parameters(_validate.validate_and_group_input_args) == [
        "flat_args",
        "arg_index_grouping",
    ]
    assert make_grouping_by_index({"x": 0, "y": [1]}, ["a", "b"]) == {"x": "a", "y": ["b"]}
    assert "dash" in set(ComponentRegistry.registry), "ComponentRegistry.registry"


def test_the_context_of_the_running_callback() -> None:
    assert isinstance(_callback_context.context_value, ContextVar)
    assert type(dash.ctx) is _callback_context.CallbackContext, "dash.ctx"


def test_how_an_id_is_written() -> None:
    assert stringify_id({"b": 1, "a": MATCH}) == '{"a":["MATCH"],"b":1}', "_utils.stringify_id"
    assert Output({"b": 1, "a": MATCH}, "x").component_id_str() == '{"a":["MATCH"],"b":1}'


def test_the_frame_that_is_looked_for_in_a_traceback() -> None:
    for name in ("_invoke_callback", "_async_invoke_callback"):
        source = inspect.getsource(getattr(_callback, name))
        assert "# %% callback invoked %%" in source, f"_callback.{name}"


def test_the_current_app() -> None:
    token = _get_app.app_context.set("an app")
    try:
        assert _get_app.get_app() == "an app", "_get_app.app_context"
    finally:
        _get_app.app_context.reset(token)


def test_the_pages() -> None:
    assert hasattr(_pages.PAGE_REGISTRY, "values"), "_pages.PAGE_REGISTRY"
    assert '"layout"' in inspect.getsource(_pages) or "layout=" in inspect.getsource(_pages)


def test_small_helpers() -> None:
    assert coerce_to_list(1) == [1], "_utils.coerce_to_list"
    assert coerce_to_list([1]) == [1], "_utils.coerce_to_list"
    given = [{"id": "a", "property": "b", "value": 1}]
    assert inputs_to_dict(given) == {"a.b": 1}, "_utils.inputs_to_dict"
    assert to_json(html.Div("x")) == (
        '{"props":{"children":"x"},"type":"Div","namespace":"dash_html_components"}'
    ), "_utils.to_json"
    attributes = AttributeDict({})
    attributes.name = 1
    assert attributes["name"] == 1, "_utils.AttributeDict"


def test_how_a_callback_without_inputs_and_outputs_is_named() -> None:
    # By the first frame outside Dash: that would be a line of bridge.py. Hence its own name.
    assert "stack" in inspect.getsource(create_callback_id), "_utils.create_callback_id"
    assert parameters(create_callback_id) == ["output", "inputs", "no_output"]


# --- entries ---------------------------------------------------------------------------------


def test_an_entry_of_the_callback_map(app: Dash) -> None:
    entry = app.callback_map["a.children"]
    for key in (
        "callback", "inputs", "state", "raw_inputs", "inputs_state_indices", "websocket", "output",
        "no_output", "outputs_indices", "background", "manager", "allow_dynamic_callbacks",
    ):  # fmt: skip
        assert key in entry, f"callback_map[…][{key!r}]"
    assert entry["raw_inputs"] == [Input("b", "value")], "callback_map[…]['raw_inputs']"
    assert entry["inputs"] == [{"id": "b", "property": "value"}], "callback_map[…]['inputs']"
    assert entry["state"] == [{"id": "c", "property": "value"}], "callback_map[…]['state']"


def test_an_entry_of_the_callback_list(app: Dash) -> None:
    spec = app._callback_list[-1]
    assert spec["output"] == "a.children", "_callback_list[…]['output']"
    assert spec["inputs"], "_callback_list[…]['inputs']"
    assert spec["no_output"] is False, "_callback_list[…]['no_output']"
    assert spec["websocket"] is False, "_callback_list[…]['websocket']"


def test_running_in_an_entry_of_the_callback_list() -> None:
    made = Dash("running", backend="quart")
    made.callback(Output("a", "x"), Input("b", "y"), running=[(Output("c", "z"), 1, 0)])
    assert made._callback_list[-1]["running"] == {"running": {"c.z": 1}, "runningOff": {"c.z": 0}}


# --- the app -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("_setup_server", ["self"]),
        ("_initialize_context", ["self", "body"]),
        ("_prepare_callback", ["self", "g", "body"]),
        ("_inputs_to_vals", ["self", "inputs"]),
        ("_execute_callback", ["self", "func", "args", "outputs_list", "g"]),
        ("_get_worker_url", ["self"]),
        ("_add_url", ["self", "name", "view_func", "methods"]),
        ("get_dist", ["self", "libraries"]),
    ],
)
def test_a_method_of_the_app(name: str, expected: list[str]) -> None:
    assert parameters(getattr(Dash, name)) == expected, f"Dash.{name}"


def test_attributes_of_the_app(app: Dash) -> None:
    assert app._websocket_callbacks is False, "Dash._websocket_callbacks"
    assert app._background_manager is None, "Dash._background_manager"
    assert app._websocket_allowed_origins == [], "Dash._websocket_allowed_origins"
    assert app._got_first_request["setup_server"] is False, "Dash._got_first_request"
    assert app._hooks.get_hooks("websocket_connect") == [], "Dash._hooks.get_hooks"
    assert app._hooks.get_hooks("websocket_message") == [], "Dash._hooks.get_hooks"
    app.enable_dev_tools(debug=False)
    assert app._dev_tools.ui is False, "Dash._dev_tools.ui"
    app.enable_dev_tools(debug=True)
    assert app._dev_tools.ui is True, "Dash._dev_tools.ui"


def test_the_worker_url_reaches_the_page(app: Dash) -> None:
    source = inspect.getsource(Dash._config)
    assert "self._get_worker_url()" in source, "Dash._config"


def test_what_dash_puts_into_the_context_of_a_callback() -> None:
    source = inspect.getsource(Dash._initialize_context)
    for name in (
        "inputs_list", "states_list", "outputs_list", "input_values", "state_values",
        "triggered_inputs", "dash_response", "cookies", "headers", "args", "path", "remote",
        "origin", "updated_props",
    ):  # fmt: skip
        assert f"g.{name} = " in source, f"Dash._initialize_context: g.{name}"


def test_where_dash_looks_for_a_live_connection() -> None:
    from dash import _callback_context

    assert "dash_websocket" in inspect.getsource(_callback_context), "ctx.websocket"


# --- the backend ---------------------------------------------------------------------------------


def test_the_quart_backend() -> None:
    server = _quart.QuartDashServer(Quart("x"))
    assert server._ws_shutdown_event is None, "QuartDashServer._ws_shutdown_event"
    for name, expected in {
        "setup_backend": ["self", "dash_app"],
        "serve_callback": ["self", "dash_app"],
        "serve_websocket_callback": ["self", "dash_app"],
        "register_callback_api_routes": ["self", "callback_api_paths"],
        "setup_component_suites": ["self", "dash_app"],
        "serve_component_suites": ["self", "dash_app", "package_name", "fingerprinted_path"],
        "_get_traceback": ["self", "_secret", "error"],
        "enable_compression": ["self"],
        "add_url_rule": ["self", "rule", "view_func", "endpoint", "methods"],
    }.items():
        assert parameters(getattr(_quart.QuartDashServer, name))[: len(expected)] == expected, name
    run = parameters(_quart.QuartDashServer.run)
    assert run[:5] == ["self", "dash_app", "host", "port", "debug"], "QuartDashServer.run"


def test_the_response_adapter() -> None:
    for name, expected in {
        "set_cookie": ["self", "key", "value", "kwargs"],
        "append_header": ["self", "key", "value"],
        "set_header": ["self", "key", "value"],
    }.items():
        assert parameters(getattr(_quart.QuartResponseAdapter, name)) == expected, name
    assert hasattr(base_server, "ResponseAdapter")


def test_the_installed_dash_is_one_that_this_was_read_in() -> None:
    assert dash.__version__.startswith("4.4."), "read Dash's changes before allowing another minor"


# --- nobody else does ----------------------------------------------------------------------------


@functools.cache
def tree(module: str) -> ast.Module:
    return ast.parse((PACKAGE / f"{module}.py").read_text(), module)


def imports(module: str) -> Iterator[str]:
    """Full names of what a module imports, wherever in the file."""
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@functools.cache
def private_names() -> frozenset[str]:
    """What stock Dash and its Quart server keep to themselves."""
    app = Dash("private_names", backend="quart")
    server = _quart.QuartDashServer(Quart("x"))
    names = {*dir(app), *dir(server), *dir(dash)}
    return frozenset(n for n in names if n.startswith("_") and not n.endswith("__"))


@pytest.mark.parametrize("module", [name for name in MODULES if name not in ("bridge", "backend")])
def test_no_other_file_uses_a_private_name_of_dash(module: str) -> None:
    for name in imports(module):
        parts = name.split(".")
        if parts[0] == "dash":
            assert not any(part.startswith("_") for part in parts), f"{module} imports {name}"
            assert parts[1:2] != ["backends"], f"{module} imports {name}"
    private = private_names()
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Attribute) and node.attr in private:
            raise AssertionError(f"{module}.py:{node.lineno} uses Dash's {node.attr}")
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name in private:
            raise AssertionError(f"{module}.py:{node.lineno} overrides Dash's {node.name}")


FENCES: dict[str, set[str]] = {
    "redis": {"connection", "multiplexer", "wire"},
    "arq": {"engine", "worker"},
    "quart": {"app", "server", "websocket", "longpoll", "fastpath", "sockets"},
    "hypercorn": set(),
    "multiprocessing": {"child", "processes"},
}
"""What is spoken in these files alone."""


@pytest.mark.parametrize("library", FENCES)
def test_a_library_is_spoken_behind_its_fence(library: str) -> None:
    users = {
        module
        for module in MODULES
        if any(name.split(".")[0] == library for name in imports(module))
    }
    assert users <= FENCES[library]


ENVIRONMENT: dict[str, str] = {
    "cli": "a root",
    "embedded": "a root",
    "supervisor": "hands its own on to its child",
    "processes": "tells the fork server which app to import",
    "preload": "is told by it",
}
"""Who may look at the environment, and why; all others are handed `Settings`."""


@pytest.mark.parametrize("module", [name for name in MODULES if name not in ENVIRONMENT])
def test_the_environment_is_read_at_the_roots(module: str) -> None:
    for node in ast.walk(tree(module)):
        named = isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv", "environb"}
        assert not named, f"{module}.py:{node.lineno} reads the environment"  # type: ignore[attr-defined]


def test_imports_point_down() -> None:
    done = subprocess.run(
        [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"],
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert done.returncode == 0, done.stdout


def test_where_dash_asks_for_the_request_of_a_callback(app: Dash) -> None:
    from dash import _callback_context

    assert app.backend.request_adapter is _quart.QuartRequestAdapter, "backend.request_adapter"
    source = inspect.getsource(_callback_context.CallbackContext.record_timing)
    assert "get_app().backend.request_adapter()" in source, "ctx.record_timing"
    assert "request.context" in source, "ctx.record_timing"
    assert {
        "context", "root", "args", "get_json", "is_json", "cookies", "headers", "full_path",
        "url", "remote_addr", "origin", "path",
    } == base_server.RequestAdapter.__abstractmethods__, "RequestAdapter"  # fmt: skip


def test_how_the_files_of_component_libraries_are_served(app: Dash) -> None:
    source = inspect.getsource(_quart.QuartDashServer.setup_component_suites)
    assert '"_dash-component-suites/<string:package_name>/<path:fingerprinted_path>"' in source
    assert app.registered_paths == {}, "Dash.registered_paths"


def test_where_api_endpoints_are_kept(app: Dash) -> None:
    assert isinstance(_callback.GLOBAL_API_PATHS, dict), "_callback.GLOBAL_API_PATHS"
    assert app.callback_api_paths == {}, "Dash.callback_api_paths"


def test_how_a_callback_is_called_with_custom_data_that_is_known() -> None:
    ours = dash_dispatch.Dash("custom_data")
    context = AttributeDict({"background_callback_manager": None})
    stock = Dash._execute_callback(ours, print, [1], [2], context)
    carried = AttributeDict({"background_callback_manager": None, "custom_data": {}})
    made = ours._execute_callback(print, [1], [2], carried)
    assert made.func is stock.func is print
    assert made.args == stock.args
    stock.keywords["callback_context"] = carried
    assert made.keywords == stock.keywords
