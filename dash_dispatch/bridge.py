"""The only file that touches Dash's private names.

It registers callbacks, finds them again, and runs one through Dash's own wrapped callback, so that
every meaning (``no_update``, ``Patch``, ``on_error``, grouping, ``ctx``) is Dash's. Which names it
uses, and that they are still there, is pinned by ``tests/unit/test_bridge_names.py``.
"""

import asyncio
import hashlib
import inspect
import itertools
import os
import re
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar, cast

import dash
import msgspec
import orjson
from dash import _callback, _get_app, _pages, _validate
from dash._grouping import flatten_grouping
from dash._utils import AttributeDict, coerce_to_list, inputs_to_dict, to_json
from dash.backends._quart import QuartDashServer
from dash.backends.base_server import ResponseAdapter
from dash.exceptions import PreventUpdate
from werkzeug.datastructures import MultiDict

from dash_dispatch.errors import ConfigError
from dash_dispatch.protocol import (
    PUBLIC_FAILURES,
    CallbackBody,
    CallSpec,
    Outcome,
    RequestSnapshot,
    Status,
    decode_callback_body,
    failed,
)

F = TypeVar("F", bound=Callable[..., Any])

OFFLOADED: Final = "dash_dispatch_offloaded"
"""Key in a ``callback_map`` entry: its ``Offloaded``. The entry travels with Dash's own moves."""
CANCELS: Final = "dash_dispatch_cancels"
"""Key in a ``callback_map`` entry: ids of the callbacks whose calls it ends."""

QuartServer = QuartDashServer


class DashBase(dash.Dash):
    """``dash.Dash``, with the private methods that have to be overridden."""

    def worker_script_url(self) -> str:
        """The URL of the browser's worker script."""
        raise NotImplementedError

    def _get_worker_url(self) -> str:
        return self.worker_script_url()

    def _setup_server(self) -> None:
        _join_cancels(self)
        super()._setup_server()  # type: ignore[no-untyped-call]

    def register_with_dash(self, *args: Any, **kwargs: Any) -> Callable[[Any], Any]:
        """Dash's own ``callback``, past the subclass' override."""
        decorate: Callable[[Any], Any] = super().callback(*args, **kwargs)
        return decorate


# --- registration -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Registration:
    """A callback that Dash has taken in: its id, its entry, and Dash's decorator."""

    id: str
    entry: dict[str, Any]
    decorate: Callable[[Any], Any]


def register(app: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Registration:
    """Register a callback with Dash, on an app or globally.

    Dash names a callback without inputs and outputs after the first stack frame outside its own
    folder. That would be a line of this file for all of them, so they get a name of the user's
    line here.
    """
    callback_map, callback_list = _registry(app)
    known = set(callback_map)
    if app is None:
        decorate = _callback.callback(*args, **kwargs)
    else:
        # Past our own override, to Dash's.
        decorate = app.register_with_dash(*args, **kwargs)
    spec = callback_list[-1]
    if not (spec["no_output"] and not spec["inputs"]):
        return Registration(spec["output"], callback_map[spec["output"]], decorate)
    return _rename(callback_map, spec, decorate, known)


def _registry(app: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    if app is None:
        return _callback.GLOBAL_CALLBACK_MAP, _callback.GLOBAL_CALLBACK_LIST
    return app.callback_map, app._callback_list


def _rename(
    callback_map: dict[str, Any],
    spec: dict[str, Any],
    decorate: Callable[[Any], Any],
    known: set[str],
) -> Registration:
    given, name = spec["output"], _call_site_id(known)
    entry = callback_map.pop(given)
    spec["output"] = name
    callback_map[name] = entry

    def decorate_renamed(function: F) -> F:
        # Dash's decorator looks its entry up under the name that it gave.
        callback_map[given] = entry
        try:
            return cast(F, decorate(function))
        finally:
            del callback_map[given]

    return Registration(name, entry, decorate_renamed)


def _call_site_id(known: set[str]) -> str:
    """A name for the user's line: its module and line number, the same on every machine.

    A line that registers several, as in a loop, counts them.
    """
    own = (os.path.dirname(__file__), os.path.dirname(dash.__file__))
    for frame in inspect.stack(context=0):
        if not frame.filename.startswith(tuple(folder + os.sep for folder in own)):
            site = f"{_module_name(frame.frame.f_globals)}:{frame.lineno}"
            names = (hashlib.sha256(f"{site}#{n}".encode()).hexdigest() for n in itertools.count())
            return next(name for name in names if name not in known)
    raise ConfigError("a callback without inputs and outputs has to be registered from a module")


def _module_name(namespace: Mapping[str, Any]) -> str:
    """A module's name as a worker imports it: ``python app.py`` calls it ``__main__`` here."""
    name = str(namespace.get("__name__", ""))
    if name not in ("__main__", "__mp_main__"):
        return name
    spec = namespace.get("__spec__")
    if spec is not None:
        return str(spec.name)
    return os.path.splitext(os.path.basename(str(namespace.get("__file__", name))))[0]


def register_cancel(app: Any, target: str, cancel: Any) -> None:
    """Make changes of the ``cancel`` inputs end running calls of the callback ``target``."""
    for trigger in coerce_to_list(cancel):
        if not isinstance(trigger, dash.Input):
            raise ConfigError(f"cancel={trigger!r}: takes dash.Input or a list of them")
        entry = _cancel_entry(app, trigger)
        entry[CANCELS].append(target)


def _cancel_entry(app: Any, trigger: dash.Input) -> dict[str, Any]:
    """The one hidden callback of this input; several callbacks may share a Cancel button."""
    callback_map, _ = _registry(app)
    for entry in callback_map.values():
        if entry.get(CANCELS) is not None and entry["raw_inputs"] == [trigger]:
            return cast(dict[str, Any], entry)
    # It writes nothing. The output, as with Dash's own cancel callbacks, keeps its name apart from
    # that of a callback without outputs that the user may have on the same input.
    output = dash.Output(trigger.component_id, "id", allow_duplicate=True)
    registration = register(
        app, [output, trigger], {"prevent_initial_call": True, "hidden": True, "websocket": True}
    )
    registration.entry[CANCELS] = []
    registration.decorate(_nothing)
    return registration.entry


def _join_cancels(app: Any) -> None:
    """A Cancel button of callbacks of the app and of global ones keeps one hidden callback."""
    joined = set()
    for output, entry in list(_callback.GLOBAL_CALLBACK_MAP.items()):
        own = app.callback_map.get(output)
        if own is not None and CANCELS in own and CANCELS in entry:
            own[CANCELS] += entry[CANCELS]
            del _callback.GLOBAL_CALLBACK_MAP[output]
            joined.add(output)
    _callback.GLOBAL_CALLBACK_LIST[:] = [
        spec for spec in _callback.GLOBAL_CALLBACK_LIST if spec["output"] not in joined
    ]


def _nothing(*_: Any) -> Any:
    return dash.no_update


# --- finding callbacks --------------------------------------------------------------------------


def ready(app: Any) -> None:
    """Take in all that Dash itself takes in at the first request.

    Globally registered callbacks and those of page modules reach ``callback_map`` only then; a
    worker never gets a request.

    Raises:
        ConfigError: The app cannot be set up, for instance because it has no layout.
    """
    if not isinstance(app, dash.Dash):
        raise ConfigError(f"{app!r} is no Dash app")
    try:
        app._setup_server()
    except Exception as error:
        # Whatever Dash or the app's own layout raises is the app's mistake, said at start-up.
        # And said again when asked again: a process is a fork of one that has asked before.
        app._got_first_request["setup_server"] = False
        raise ConfigError(f"the app cannot be set up: {type(error).__name__}: {error}") from error


def thread_page_layouts(to_thread: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Let plain layout functions of pages run in threads: Dash would run them on the loop."""
    for page in _pages.PAGE_REGISTRY.values():
        layout = page.get("layout")
        if callable(layout) and not inspect.iscoroutinefunction(layout):
            page["layout"] = to_thread(layout)


def entry_of(app: Any, output: str) -> dict[str, Any] | None:
    """The callback with this id, with a function to run; None if the app has none."""
    entry = app.callback_map.get(output)
    return entry if entry is not None and "callback" in entry else None


def offloaded_of(app: Any) -> dict[str, Any]:
    """All offloaded callbacks: id → ``Offloaded``."""
    return {
        output: entry[OFFLOADED] for output, entry in app.callback_map.items() if OFFLOADED in entry
    }


def code_digest(function: Callable[..., Any]) -> str:
    """A digest of a function's source; of its byte code where there is no source."""
    function = inspect.unwrap(function)
    try:
        text = inspect.getsource(function).encode()
    except (OSError, TypeError):
        code = getattr(function, "__code__", None)
        text = code.co_code if code is not None else repr(function).encode()
    return hashlib.sha256(text).hexdigest()[:16]


def is_async(entry: Mapping[str, Any]) -> bool:
    """Whether the callback is an ``async def``."""
    return inspect.iscoroutinefunction(entry["callback"])


def outputs_match(entry: Mapping[str, Any], outputs: Any) -> bool:
    """Whether a request names the outputs that the callback has.

    Dash's own check, which otherwise comes when the callback runs, and as an error of the server.
    """
    declared = entry["output"]
    if entry["no_output"]:
        return True
    if not isinstance(declared, dash.Output):
        declared = flatten_grouping(declared)
    try:
        _validate.validate_output_spec(declared, outputs, dash.Output)
    except Exception:  # noqa: BLE001 - whatever an odd request brings up: it is refused
        return False
    return True


def may_use_websocket(app: Any, entry: Mapping[str, Any]) -> bool:
    """Dash's rule for which callbacks may come over the websocket."""
    return bool(app._websocket_callbacks or entry.get("websocket"))


def allowed_origins(app: Any) -> list[str]:
    """``websocket_allowed_origins`` of the app."""
    return list(app._websocket_allowed_origins)


def shows_errors(app: Any) -> bool:
    """Whether the dev tools are on, so that details of errors may go to the browser."""
    return bool(app._dev_tools.ui)


def websocket_hooks(app: Any, name: str) -> list[Callable[..., Any]]:
    """The app's ``websocket_connect`` or ``websocket_message`` hooks."""
    return list(app._hooks.get_hooks(name))


def stopping(app: Any) -> asyncio.Event | None:
    """The event by which ``app.run()`` tells connections that the server stops."""
    event: asyncio.Event | None = app.backend._ws_shutdown_event
    return event


# --- running ------------------------------------------------------------------------------------


class Sink(Protocol):
    """What Dash asks of ``ctx.websocket``: where ``set_props`` goes as it happens."""

    @property
    def is_shutdown(self) -> bool:
        """Whether nobody listens any more."""

    def set_prop_sync(self, component_id: str, prop_name: str, value: Any) -> None:
        """Send an update now. Called in the thread of the callback."""

    async def set_prop(self, component_id: str, prop_name: str, value: Any) -> None:
        """The same, awaitable."""

    async def get_prop(self, component_id: str, prop_name: str, timeout: float = 30.0) -> Any:  # noqa: ASYNC109 - Dash's signature
        """Ask the page for a property."""


class RecordedResponse(ResponseAdapter):
    """``ctx.response`` where there is no response yet: remembers, and is played back later."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[tuple[str, list[Any], dict[str, Any]]] = []

    def set_cookie(self, key: str, value: str = "", **kwargs: Any) -> None:
        """As on a response of the web framework."""
        self.calls.append(("set_cookie", [key, value], kwargs))

    def append_header(self, key: str, value: str) -> None:
        """Add a header."""
        self.calls.append(("append_header", [key, value], {}))

    def set_header(self, key: str, value: str) -> None:
        """Set a header in place of others of that name."""
        self.calls.append(("set_header", [key, value], {}))

    def encode(self) -> bytes:
        """JSON of what was set; empty if nothing was."""
        return orjson.dumps(self.calls, default=str) if self.calls else b""


def replay(recorded: bytes, response: Any) -> None:
    """Do to a Quart response what a callback did to its `RecordedResponse`."""
    if not recorded:
        return
    methods = {
        "set_cookie": response.set_cookie,
        "append_header": response.headers.add,
        "set_header": response.headers.set,
    }
    for name, args, kwargs in orjson.loads(recorded):
        methods[name](*args, **kwargs)


def encode_props(component_id: str, prop_name: str, value: Any) -> bytes:
    """JSON text of a ``set_props``, with components, figures and ``Patch`` inside."""
    text: str = to_json({"componentId": component_id, "props": {prop_name: value}})
    return text.encode()


@dataclass(frozen=True)
class Invocation:
    """A callback, bound to a request, ready to run once.

    ``run()`` returns Dash's JSON text, or an awaitable of it for an ``async def``.
    """

    run: Callable[[], Any]
    is_async: bool
    response: RecordedResponse


def bind(app: Any, body: CallbackBody, snapshot: RequestSnapshot, sink: Sink | None) -> Invocation:
    """Bind the callback that a request names to a context made from its snapshot.

    Args:
        app: The Dash app.
        body: The renderer's request.
        snapshot: What the callback can ask of its HTTP request.
        sink: Where ``set_props`` goes; None collects it into the response.
    """
    request = _as_dash(body)
    response = RecordedResponse()
    context = _context(request, snapshot, response, sink)
    function = app._prepare_callback(context, request)
    arguments = app._inputs_to_vals(context.inputs_list + context.states_list)

    def run() -> Any:
        # `get_app()` answers with this app, also where several live in one process.
        _get_app.app_context.set(app)
        return app._execute_callback(function, arguments, context.outputs_list, context)()

    return Invocation(run, inspect.iscoroutinefunction(function), response)


def bind_call(app: Any, spec: CallSpec, sink: Sink) -> Invocation:
    """Bind an offloaded call, in a worker.

    Raises:
        LookupError: This worker's code has no such callback.
    """
    if entry_of(app, spec.output) is None:
        raise LookupError(
            f"this worker does not know the callback {spec.output!r}: web and worker run different"
            " code, or the callback is registered where a worker does not come by"
        )
    body = decode_callback_body(spec.payload)
    snapshot = msgspec.json.decode(spec.snapshot, type=RequestSnapshot)
    return bind(app, body, snapshot, sink if spec.stream else None)


def _as_dash(body: CallbackBody) -> dict[str, Any]:
    return {
        "output": body.output,
        "outputs": body.outputs,
        "inputs": body.inputs,
        "state": body.state or [],
        "changedPropIds": body.changedPropIds,
    }


def bind_request(app: Any, body: CallbackBody) -> tuple[Invocation, Callable[[str], Any]]:
    """Bind a callback to the HTTP request that is being served.

    Returns:
        The callback, and a function that makes the HTTP response of its JSON text, with the
        cookies and headers that the callback set.
    """
    request = _as_dash(body)
    context = app._initialize_context(request)
    function = app._prepare_callback(context, request)
    arguments = app._inputs_to_vals(context.inputs_list + context.states_list)

    def run() -> Any:
        _get_app.app_context.set(app)
        return app._execute_callback(function, arguments, context.outputs_list, context)()

    def answer(text: str) -> Any:
        return context.dash_response.set_response(data=text)

    return Invocation(run, inspect.iscoroutinefunction(function), RecordedResponse()), answer


def _context(
    request: dict[str, Any],
    snapshot: RequestSnapshot,
    response: RecordedResponse,
    sink: Sink | None,
) -> Any:
    """Dash's ``g``, as its ``_initialize_context`` makes it from a live request."""
    g = AttributeDict({})
    g.inputs_list = request["inputs"]
    g.states_list = request["state"]
    g.outputs_list = request["outputs"] or []
    g.input_values = inputs_to_dict(g.inputs_list)
    g.state_values = inputs_to_dict(g.states_list)
    g.triggered_inputs = [
        {"prop_id": prop, "value": g.input_values.get(prop)} for prop in request["changedPropIds"]
    ]
    g.dash_response = response
    g.cookies = dict(snapshot.cookies)
    g.headers = dict(snapshot.headers)
    g.args = MultiDict(snapshot.args)
    g.path = snapshot.path
    g.remote = snapshot.remote
    g.origin = snapshot.origin
    g.updated_props = {}
    if sink is not None:
        g.dash_websocket = sink
    return g


def outcome_of(text: str | None, response: RecordedResponse) -> Outcome:
    """The outcome of a callback that returned."""
    return Outcome(Status.OK, (text or "").encode(), response.encode())


def outcome_of_error(error: BaseException, call: str, worker: str) -> Outcome:
    """The outcome of a callback that raised. ``PreventUpdate`` is no error."""
    if isinstance(error, PreventUpdate):
        return Outcome(Status.NO_UPDATE)
    kind, message = type(error).__name__, str(error)
    if kind in PUBLIC_FAILURES:
        # The user's own, for all its name: what it says is not for everybody.
        kind = f"{type(error).__module__}.{kind}"
    if isinstance(error, SystemExit):
        kind, message = "SystemExit", f"the callback called sys.exit({error.code!r})"
    return failed(
        Status.FAILED,
        kind,
        message,
        traceback=user_traceback(error),
        call=call,
        worker=worker,
    )


_INVOKED = re.compile(r"# %% callback invoked %%")


def user_traceback(error: BaseException) -> str:
    """The error's traceback from the user's function on, as Dash's own dev tools prune it."""
    frames = traceback.extract_tb(error.__traceback__)
    for index, frame in enumerate(frames):
        if frame.line and _INVOKED.search(frame.line):
            frames = traceback.StackSummary.from_list(frames[index + 1 :])
            break
    summary = traceback.TracebackException.from_exception(error)
    summary.stack = traceback.StackSummary.from_list(frames)
    return "".join(summary.format())
