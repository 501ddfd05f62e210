"""The only file, with ``backend``, that touches Dash's private names.

It registers callbacks, finds them again, and runs one through Dash's own wrapped callback, so that
every meaning (``no_update``, ``Patch``, ``on_error``, grouping, ``ctx``) is Dash's. Which names it
uses, and that they are still there, is pinned by ``tests/unit/test_bridge_names.py``.
"""

import asyncio
import functools
import hashlib
import importlib
import inspect
import itertools
import json
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Final, Protocol, TypeVar, cast

import dash
import msgspec
import orjson
from dash import _callback, _callback_context, _get_app, _pages, _validate
from dash._grouping import flatten_grouping, make_grouping_by_index
from dash._utils import AttributeDict, coerce_to_list, inputs_to_dict, stringify_id, to_json
from dash.backends.base_server import RequestAdapter, ResponseAdapter
from dash.background_callback.managers import BaseBackgroundCallbackManager
from dash.dependencies import DashDependency
from dash.development.base_component import ComponentRegistry
from dash.exceptions import MissingCallbackContextException, PreventUpdate
from werkzeug.datastructures import MultiDict

from dash_dispatch.errors import ConfigError
from dash_dispatch.merging import Updates
from dash_dispatch.offload import Offloaded
from dash_dispatch.protocol import (
    PUBLIC_FAILURES,
    UNKNOWN_CODE,
    CallbackBody,
    CallSpec,
    Outcome,
    RequestSnapshot,
    Status,
    decode_callback_body,
    failed,
)

logger = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., Any])

OFFLOADED: Final = "dash_dispatch_offloaded"
"""Key in a ``callback_map`` entry: its ``Offloaded``. The entry travels with Dash's own moves."""
CANCELS: Final = "dash_dispatch_cancels"
"""Key in a ``callback_map`` entry: ids of the callbacks whose calls it ends."""
QUEUED: Final = "dash_dispatch_queued"
"""Key in a ``callback_map`` entry: its tuple of ``Queued``, shown while a call of it waits."""
STREAMS: Final = "dash_dispatch_streams"
"""Key in a ``callback_map`` entry: present when its function is a generator."""
HANDED: Final = "dash_dispatch_background"
"""Key in a ``callback_map`` entry: how it goes back to Dash, should its app have a manager."""

_HAS_MATCH: Final = "dash_dispatch_has_match"
"""Key in a ``callback_map`` entry: whether it has MATCH, once somebody has asked."""

_CALL: Final = "dash_dispatch_call"
"""Key in Dash's ``g``: the `CallInfo`."""
_COLLECTED: Final = "dash_dispatch_collected"
"""Key in Dash's ``g``: the `Collected`, where a generator's updates have nowhere to go yet."""

_REQUEST: Final = "dash_dispatch_request"
"""Key in Dash's ``g``: the `SnapshotRequest`, for a callback that is not run by its own request."""

DashContext = _callback_context.CallbackContext
"""The class of ``dash.ctx``."""


class UnknownCode(LookupError):
    """A worker's code has nothing for a call: another release of the app has asked for it."""


class DashBase(dash.Dash):
    """``dash.Dash``, with the private methods that have to be overridden."""

    libraries_at_start: frozenset[str] | None = None
    """The component libraries that every page has from its beginning; None before that is known."""

    def worker_script_url(self) -> str:
        """The URL of the browser's worker script."""
        raise NotImplementedError

    def _get_worker_url(self) -> str:
        return self.worker_script_url()

    def _setup_server(self) -> None:
        _hand_back(self)
        _join_cancels(self)
        super()._setup_server()  # type: ignore[no-untyped-call]

    def _execute_callback(self, func: Any, args: Any, outputs_list: Any, g: Any) -> Any:
        if "custom_data" not in g:
            return super()._execute_callback(func, args, outputs_list, g)  # type: ignore[no-untyped-call]
        # Dash's own, but for the custom data, which a worker cannot ask the hooks for: they may
        # look at the request.
        return functools.partial(
            func,
            *args,
            outputs_list=outputs_list,
            background_callback_manager=g.background_callback_manager,
            callback_context=g,
            app=self,
            app_on_error=self._on_error,
            app_use_async=self._use_async,
        )

    def register_with_dash(self, *args: Any, **kwargs: Any) -> Callable[[Any], Any]:
        """Dash's own ``callback``, past the subclass' override."""
        decorate: Callable[[Any], Any] = super().callback(*args, **kwargs)
        return decorate


# --- registration -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Registration:
    """A callback that Dash has taken in: its id, its entry, and Dash's decorator.

    ``spec`` is what the browser gets to know of it.
    """

    id: str
    entry: dict[str, Any]
    spec: dict[str, Any]
    decorate: Callable[[Any], Any]

    def use_websocket(self) -> None:
        """Let it come over the websocket."""
        self.entry["websocket"] = self.spec["websocket"] = True

    def show_when_off(self, output: dash.Output, value: Any) -> None:
        """Let the browser set a property whenever a run has ended, however it did.

        The same as the third value of ``running=``, which the renderer applies after a result, an
        error and a cancel alike.
        """
        running = self.spec.setdefault("running", {"running": {}, "runningOff": {}})
        running["runningOff"][str(output)] = value


def register(
    app: Any, args: Sequence[Any], kwargs: Mapping[str, Any], name: str = ""
) -> Registration:
    """Register a callback with Dash, on an app or globally.

    Dash names a callback without inputs and outputs after the first stack frame outside its own
    folder. That would be a line of this file for all of them, so they get a name of the user's
    line here, or the one given.
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
        return Registration(spec["output"], callback_map[spec["output"]], spec, decorate)
    return _rename(callback_map, spec, decorate, name or _call_site_id(known))


def _registry(app: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    if app is None:
        return _callback.GLOBAL_CALLBACK_MAP, _callback.GLOBAL_CALLBACK_LIST
    return app.callback_map, app._callback_list


def _rename(
    callback_map: dict[str, Any],
    spec: dict[str, Any],
    decorate: Callable[[Any], Any],
    name: str,
) -> Registration:
    given = spec["output"]
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

    return Registration(name, entry, spec, decorate_renamed)


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


def name_of(function: Callable[..., Any]) -> str:
    """``module:qualname``, by which a worker that imports the app finds a function again."""
    module = str(getattr(function, "__module__", ""))
    namespace = vars(sys.modules[module]) if module in sys.modules else {"__name__": module}
    return f"{_module_name(namespace)}:{getattr(function, '__qualname__', repr(function))}"


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
        # By its text: to Dash an id with a wildcard equals every id that it could stand for.
        if entry.get(CANCELS) is not None and str(entry["raw_inputs"][0]) == str(trigger):
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


# --- background=True ----------------------------------------------------------------------------


def has_manager(app: Any) -> bool:
    """Whether the app was given a ``background_callback_manager``."""
    return app._background_manager is not None


def remember_background(
    registration: Registration,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    function: Callable[..., Any],
) -> None:
    """Let a global background callback go back to Dash, if its app turns out to have a manager.

    A global callback is registered before its app is known. It is taken for an offloaded one
    until an app collects it (`_hand_back`). Managers are told of the function at once, as Dash
    tells them: a Celery worker imports the app and never gets as far as collecting.
    """
    BaseBackgroundCallbackManager.register_func(
        function, kwargs.get("progress") is not None, registration.id
    )
    registration.entry[HANDED] = (args, kwargs, function)


def _hand_back(app: Any) -> None:
    """Give global background callbacks to Dash, when the app that collects them has a manager."""
    if not has_manager(app):
        return
    for output, entry in list(_callback.GLOBAL_CALLBACK_MAP.items()):
        if HANDED in entry:
            args, kwargs, function = entry[HANDED]
            beyond = [name for name in ("queued", "cache_by") if kwargs.get(name) is not None]
            if beyond or STREAMS in entry:
                what = f"{beyond[0]}= of the callback" if beyond else "the generator"
                raise ConfigError(
                    f"{what} {output!r}: there is a background callback manager, which knows"
                    " nothing of it"
                )
            _withdraw_global(output)
            register(None, args, kwargs, output).decorate(function)


def _withdraw_global(output: str) -> None:
    gone = {output}
    for name, entry in _callback.GLOBAL_CALLBACK_MAP.items():
        if output in entry.get(CANCELS, ()):
            entry[CANCELS].remove(output)
            if not entry[CANCELS]:
                gone.add(name)
    for name in gone:
        del _callback.GLOBAL_CALLBACK_MAP[name]
    _callback.GLOBAL_CALLBACK_LIST[:] = [
        spec for spec in _callback.GLOBAL_CALLBACK_LIST if spec["output"] not in gone
    ]


def _check_background(app: Any) -> None:
    """Dash itself would find out when such a callback is first called."""
    if has_manager(app):
        return
    for output, entry in app.callback_map.items():
        if entry.get("background") and not entry.get("manager"):
            raise ConfigError(
                f"the callback {output!r} has background=True, and there is no background callback"
                " manager: import callback from dash_dispatch in place of dash, and it runs in a"
                " worker"
            )


tasks: dict[str, Offloaded] = {}
"""All tasks, by name; `remote` puts them here, because their groups are those of callbacks."""


def _check_groups(app: Any) -> None:
    """One group has one limit."""
    users = [(f"the callback {output!r}", found) for output, found in offloaded_of(app).items()]
    users += [(f"the task {name!r}", found) for name, found in tasks.items()]
    named: dict[str, tuple[int | None, str]] = {}
    for user, offloaded in users:
        options = offloaded.options
        if options.group is None:
            continue
        limit, first = named.setdefault(options.group, (options.concurrency, user))
        if limit != options.concurrency:
            raise ConfigError(
                f"group={options.group!r} has concurrency={limit} for {first} and"
                f" concurrency={options.concurrency} for {user}: it takes the same for all"
            )


# --- finding callbacks --------------------------------------------------------------------------


def ready(app: Any) -> None:
    """Take in all that Dash itself takes in at the first request.

    Globally registered callbacks and those of page modules reach ``callback_map`` only then; a
    worker never gets a request.

    Raises:
        ConfigError: The app cannot be set up, for instance because it has no layout, or
            callbacks of it do not go together.
    """
    if not isinstance(app, dash.Dash):
        raise ConfigError(f"{app!r} is no Dash app")
    try:
        app._setup_server()
    except ConfigError:
        app._got_first_request["setup_server"] = False
        raise
    except Exception as error:
        # Whatever Dash or the app's own layout raises is the app's mistake, said at start-up.
        # And said again when asked again: a process is a fork of one that has asked before.
        app._got_first_request["setup_server"] = False
        raise ConfigError(f"the app cannot be set up: {type(error).__name__}: {error}") from error
    _check_background(app)
    _check_groups(app)
    if isinstance(app, DashBase) and app.libraries_at_start is None:
        app.libraries_at_start = frozenset(ComponentRegistry.registry)


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


def offloaded_of(app: Any) -> dict[str, Offloaded]:
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
    elif outputs == {"id": declared.component_id, "property": declared.component_property}:
        # As with most: Dash's own takes ten times as long.
        return True
    try:
        _validate.validate_output_spec(declared, outputs, dash.Output)
    except Exception:  # noqa: BLE001 - whatever an odd request brings up: it is refused
        return False
    return True


# --- wildcards ----------------------------------------------------------------------------------


def matched_keys(entry: Mapping[str, Any]) -> set[str]:
    """The keys of ids that a callback declares with MATCH."""
    patterns = [*_patterns(entry["inputs"]), *_patterns(entry["state"]), *_outputs(entry)]
    return {key for pattern in patterns for key, value in pattern.items() if _is_match(value)}


def match_values(entry: Mapping[str, Any], body: CallbackBody) -> dict[str, Any]:
    """What a request's MATCH keys stand for; empty for a callback without MATCH.

    Two calls of one callback are of the same instance when these are equal.
    """
    if not _has_match(entry):
        return {}
    return _match_values(entry, body.inputs, body.state or [], body.outputs)


def _has_match(entry: Mapping[str, Any]) -> bool:
    """Whether a callback has MATCH at all. Asked for each call, so it is looked up once."""
    known: bool | None = entry.get(_HAS_MATCH)
    if known is None:
        known = cast(dict[str, Any], entry)[_HAS_MATCH] = bool(matched_keys(entry))
    return known


def cancel_targets(
    app: Any, entry: Mapping[str, Any], body: CallbackBody
) -> list[tuple[str, dict[str, Any]]]:
    """Whose calls a cancel callback's request ends.

    Returns:
        Pairs of a callback id and the MATCH values that a call of it must have (`values_agree`
        with its `match_values`): a button of one instance does not end the call of another.
    """
    values = match_values(entry, body)
    targets = []
    for output in entry[CANCELS]:
        target = entry_of(app, output)
        if target is not None:
            keys = matched_keys(target)
            targets.append((output, {k: v for k, v in values.items() if k in keys}))
    return targets


def values_agree(wanted: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
    """Whether a call with these MATCH values is one that is wanted."""
    return all(values.get(key) == value for key, value in wanted.items())


def has_open_wildcard(dependency: DashDependency) -> bool:
    """Whether its id stands for several components: ALL or ALLSMALLER."""
    pattern = _pattern(dependency.component_id_str())
    return any(isinstance(value, list) and not _is_match(value) for value in pattern.values())


def wildcard_keys(dependency: DashDependency) -> set[str]:
    """The keys of its id that are MATCH."""
    pattern = _pattern(dependency.component_id_str())
    return {key for key, value in pattern.items() if _is_match(value)}


def _match_values(
    entry: Mapping[str, Any], inputs: Sequence[Any], states: Sequence[Any], outputs: Any
) -> dict[str, Any]:
    given = [*inputs, *states]
    patterns = [*_patterns(entry["inputs"]), *_patterns(entry["state"])]
    if not entry["no_output"]:
        patterns += _outputs(entry)
        given += outputs if isinstance(entry["output"], list) else [outputs]
    found: dict[str, Any] = {}
    for pattern, items in zip(patterns, given, strict=False):
        for item in items if isinstance(items, list) else [items]:
            found |= _stands_for(pattern, item)
    return found


def _stands_for(pattern: Mapping[str, Any], item: Any) -> dict[str, Any]:
    """A browser's words: what is not as expected is passed over."""
    id_ = item.get("id") if isinstance(item, dict) else None
    if not isinstance(id_, dict):
        return {}
    return {
        key: id_[key]
        for key, value in pattern.items()
        if _is_match(value) and isinstance(id_.get(key), str | int | float)
    }


def _outputs(entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    if entry["no_output"]:
        return []
    return [_pattern(output.component_id_str()) for output in coerce_to_list(entry["output"])]


def _patterns(declared: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [_pattern(item["id"]) for item in declared]


def _pattern(id_: str) -> dict[str, Any]:
    """A declared id, in which Dash writes a wildcard as a list; empty if it is a plain string."""
    return cast(dict[str, Any], json.loads(id_)) if id_.startswith("{") else {}


def _is_match(value: object) -> bool:
    return value == ["MATCH"]


def _concrete(dependency: DashDependency, values: Mapping[str, Any]) -> str:
    """The id of the one component that a dependency means in a request."""
    pattern = _pattern(dependency.component_id_str())
    if not pattern:
        return dependency.component_id_str()
    id_: str = stringify_id({k: values[k] if _is_match(v) else v for k, v in pattern.items()})
    return id_


# --- waiting ------------------------------------------------------------------------------------


def queued_props(
    entry: Mapping[str, Any], body: CallbackBody, position: int, estimate_s: float | None
) -> list[bytes]:
    """JSON texts of the ``set_props`` that say where a waiting call is."""
    values = match_values(entry, body)
    return [
        encode_props(
            _concrete(queued.output, values),
            queued.output.component_property,
            queued.shown(position, estimate_s),
        )
        for queued in entry.get(QUEUED, ())
    ]


def queued_done(entry: Mapping[str, Any], body: CallbackBody) -> tuple[bytes, ...]:
    """JSON texts of the ``set_props`` that are due when a call waits no longer."""
    if QUEUED not in entry:
        return ()
    values = match_values(entry, body)
    return tuple(
        encode_props(
            _concrete(queued.output, values), queued.output.component_property, queued.after
        )
        for queued in entry[QUEUED]
    )


# --- caching ------------------------------------------------------------------------------------


def cache_needs_thread(entry: Mapping[str, Any]) -> bool:
    """Whether `cache_parts` runs the user's ``cache_by`` functions."""
    return bool(entry[OFFLOADED].caching.by)


def cache_parts(
    app: Any, entry: Mapping[str, Any], body: CallbackBody, snapshot: RequestSnapshot
) -> bytes:
    """What a result depends on, in canonical form: equal bytes, equal results.

    The arguments (without those to ignore), with their ids, and the outputs, whose ids are part
    of a result; what triggered it, if that is asked for; and what the ``cache_by`` functions
    return, which may ask ``dash.ctx``.
    """
    caching = entry[OFFLOADED].caching
    items = [_identified(item) for item in [*body.inputs, *(body.state or [])]]
    positional, named = _validate.validate_and_group_input_args(
        items, entry["inputs_state_indices"]
    )
    arguments = named or dict(enumerate(positional))
    parts: dict[str, Any] = {
        "arguments": [[k, v] for k, v in arguments.items() if k not in caching.ignore],
        "outputs": body.outputs,
    }
    if not caching.ignore_triggered:
        parts["triggered"] = sorted(body.changedPropIds)
    if caching.by:
        parts["by"] = _cache_by(app, body, snapshot, caching.by)
    return json.dumps(parts, sort_keys=True, default=repr).encode()


def _identified(item: Any) -> Any:
    if isinstance(item, list):
        return [_identified(part) for part in item]
    return [item.get("id"), item.get("property"), item.get("value")]


def _cache_by(
    app: Any, body: CallbackBody, snapshot: RequestSnapshot, functions: Sequence[Callable[[], Any]]
) -> list[Any]:
    def values() -> list[Any]:
        _get_app.app_context.set(app)
        _callback_context.context_value.set(
            _context(_as_dash(body), snapshot, RecordedResponse(), None)
        )
        return [function() for function in functions]

    return copy_context().run(values)


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


# --- api_endpoint= ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Api:
    """In Dash's list of API paths: an offloaded callback's function, and how it is run.

    Attributes:
        path: Its path, as it was given.
        function: The function.
        offloaded: How it is run.
        handed: Whether it goes back to Dash, should its app have a manager.
    """

    path: str
    function: Callable[..., Any]
    offloaded: Offloaded
    handed: bool


def offer_api(api: Api) -> None:
    """Let a callback's API endpoint run in a worker. For a callback that Dash has taken in."""
    _callback.GLOBAL_API_PATHS[api.path] = api


def api_of(app: Any, path: str) -> Api:
    """The API endpoint with this path, in a worker.

    Raises:
        UnknownCode: This worker's code has no such endpoint.
    """
    # They get from there to here with `app.setup_apis()`, which a worker may not come by.
    found = app.callback_api_paths.get(path) or _callback.GLOBAL_API_PATHS.get(path)
    if not isinstance(found, Api):
        raise UnknownCode(
            f"this worker does not know the api_endpoint {path!r}: web and worker run different"
            " code, or its callback is registered where a worker does not come by"
        )
    return found


def encode_api_result(app: Any, value: Any) -> str:
    """JSON text of what an API endpoint returns, as its web framework makes it.

    Raises:
        TypeError: It has none.
    """
    text: str = app.server.json.dumps(value)
    return text


# --- component libraries ------------------------------------------------------------------------


def _late_libraries(app: Any) -> tuple[str, ...]:
    """Component libraries that were imported after the start, in that order."""
    known = getattr(app, "libraries_at_start", None)
    if known is None:
        return ()
    return tuple(name for name in ComponentRegistry.registry if name not in known)


def _with_libraries(app: Any, text: str, response: "RecordedResponse") -> str:
    """A callback's JSON text, and in it all that a page may lack to show its components.

    Dash tells of a library only in the answer of the very call that imports it into the process.
    The next page, or the same one after another process' call, would never hear of it.
    """
    late = response.libraries = _late_libraries(app)
    if not late or not text:
        return text
    answer = json.loads(text)
    answer["dist"] = []
    for name in late:
        try:
            answer["dist"] += app.get_dist([name])
        except Exception as error:  # noqa: BLE001 - said by Dash in the call that imported it
            logger.warning("! component library %s: %s", name, error)
    return json.dumps(answer)


def _reporting(run: Callable[[], Any], is_async: bool, report: Callable[[str], str]) -> Any:
    if not is_async:
        return lambda: report(run())

    async def run_async() -> str:
        return report(await run())

    return run_async


def import_library(app: Any, name: str) -> None:
    """Import a component library, and let its files be served. For a thread: it may take long."""
    if not all(part.isidentifier() for part in name.split(".")):
        return
    try:
        importlib.import_module(name)
        if name in ComponentRegistry.registry:
            app.get_dist([name])
    except Exception as error:  # noqa: BLE001 - others' code: the page is told that there is no such file
        logger.warning("! component library %s cannot be imported: %s", name, error)


# --- custom data --------------------------------------------------------------------------------


def has_custom_data(app: Any) -> bool:
    """Whether the app has ``custom_data`` hooks, which `custom_data` runs."""
    return bool(app._hooks.get_hooks("custom_data"))


def custom_data(app: Any, body: CallbackBody, snapshot: RequestSnapshot) -> str:
    """JSON of what the app's ``custom_data`` hooks say of a request: user code.

    As Dash has it for its background callbacks, they are asked where the request is.

    Raises:
        TypeError: JSON has nothing for a value; says of which hook.
    """
    request = _as_dash(body)
    context = _context(request, snapshot, RecordedResponse(), None)
    app._prepare_callback(context, request)
    _get_app.app_context.set(app)
    values = {}
    for hook in app._hooks.get_hooks("custom_data"):
        name = hook.data["namespace"]
        value = hook(context)
        try:
            values[name] = json.loads(json.dumps(value))
        except (TypeError, ValueError, RecursionError) as error:
            raise TypeError(
                f"custom_data hook {name!r}: its value ({type(value).__name__}) goes to a worker,"
                f" and JSON cannot carry it: {error}"
            ) from error
    return json.dumps(values)


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


@dataclass(frozen=True)
class CallInfo:
    """What ``dash_dispatch.ctx`` tells of the call that runs.

    Attributes:
        id: The call id; empty over plain HTTP in the web process.
        attempt: The number of the run, from 1.
        worker: The process that runs it.
        sink: Knows whether somebody still wants it.
        offloaded: Whether it runs in a worker.
    """

    id: str = ""
    attempt: int = 1
    worker: str = ""
    sink: Sink | None = None
    offloaded: bool = False

    def is_cancelled(self) -> bool:
        """Whether nobody wants the answer any more."""
        return self.sink is not None and self.sink.is_shutdown


def current_call() -> CallInfo:
    """The call that runs in this context.

    Raises:
        MissingCallbackContextException: None does.
    """
    found: CallInfo | None = _g().get(_CALL)
    return found or CallInfo()


def _g() -> AttributeDict:
    """Dash's ``g`` of the running callback. A thread of the user's has none of its own."""
    try:
        g = _callback_context.context_value.get()
    except LookupError:
        g = None
    if not g:
        raise MissingCallbackContextException("dash_dispatch.ctx is only available in a callback")
    return cast(AttributeDict, g)


class SnapshotRequest(RequestAdapter):
    """What Dash asks of a request, as in ``ctx.record_timing``, where there is only a snapshot."""

    def __init__(self, snapshot: RequestSnapshot, body: dict[str, Any]) -> None:
        self._snapshot = snapshot
        self._body = body
        self._context = SimpleNamespace()

    @property
    def context(self) -> Any:
        """Where Dash keeps what is measured during this callback."""
        return self._context

    @property
    def root(self) -> str:
        """The app's address, as the browser named it."""
        host = self.headers.get("Host", "localhost")
        return f"{self._snapshot.origin or f'http://{host}'}/"

    @property
    def args(self) -> Any:
        """Query parameters."""
        return MultiDict(self._snapshot.args)

    def get_json(self) -> Any:
        """The renderer's request."""
        return self._body

    @property
    def is_json(self) -> bool:
        """It is."""
        return True

    @property
    def cookies(self) -> dict[str, str]:
        """Cookies."""
        return dict(self._snapshot.cookies)

    @property
    def headers(self) -> dict[str, str]:
        """Headers."""
        return dict(self._snapshot.headers)

    @property
    def full_path(self) -> str:
        """The path, with the query."""
        return self._snapshot.path

    @property
    def path(self) -> str:
        """The path, without the query."""
        return self._snapshot.path.partition("?")[0]

    @property
    def url(self) -> str:
        """The whole address."""
        return f"{self.root.rstrip('/')}{self._snapshot.path.rstrip('?')}"

    @property
    def remote_addr(self) -> str:
        """The browser's address."""
        return self._snapshot.remote

    @property
    def origin(self) -> str:
        """The ``Origin`` header."""
        return self._snapshot.origin


_request: ContextVar[SnapshotRequest | None] = ContextVar("dash_dispatch_request", default=None)
"""That of the callback that runs, if it has no HTTP request of its own."""


def snapshot_request() -> SnapshotRequest | None:
    """That of the callback that runs in this context."""
    return _request.get()


class RecordedResponse(ResponseAdapter):
    """``ctx.response`` where there is no response yet: remembers, and is played back later."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[tuple[str, list[Any], dict[str, Any]]] = []
        self.libraries: tuple[str, ...] = ()
        self.measured: Any = None
        """Where `ctx.record_timing` leaves what it is told, if that is to be sent on."""

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
        """JSON of what was set and measured; empty if nothing was."""
        timing = getattr(self.measured, "timing_information", {})
        calls = [*self.calls, *(("record_timing", item, {}) for item in timing.items())]
        return orjson.dumps(calls, default=str) if calls else b""


class UnsentResponse(RecordedResponse):
    """``ctx.response`` where no HTTP response follows that could carry what it is told."""

    def set_cookie(self, key: str, value: str = "", **kwargs: Any) -> None:
        """Raises NotImplementedError."""
        raise NotImplementedError(_unsent(f"the cookie {key!r}"))

    def append_header(self, key: str, value: str) -> None:
        """Raises NotImplementedError."""
        raise NotImplementedError(_unsent(f"the header {key!r}"))

    def set_header(self, key: str, value: str) -> None:
        """Raises NotImplementedError."""
        raise NotImplementedError(_unsent(f"the header {key!r}"))


def _unsent(what: str) -> str:
    return (
        f"ctx.response: {what} cannot be sent, because the answer of this callback goes over a"
        " websocket or a long-poll, which carry no cookies and headers: set it in a callback over"
        " plain HTTP, one without offload=, background=True and websocket=True"
    )


def replay(recorded: bytes, response: Any, timing: dict[str, Any] | None) -> None:
    """Do to a Quart response what a callback did to its `RecordedResponse`.

    Args:
        recorded: What was recorded.
        response: The response.
        timing: Where Dash collects what is measured during this request; None if it does not.
    """
    if not recorded:
        return
    methods: dict[str, Callable[..., Any]] = {
        "record_timing": (timing if timing is not None else {}).setdefault,
        "set_cookie": response.set_cookie,
        "append_header": response.headers.add,
        "set_header": response.headers.set,
    }
    for name, args, kwargs in orjson.loads(recorded):
        if name in methods:
            # Others are of a later release.
            methods[name](*args, **kwargs)


def encode_json(value: Any) -> bytes:
    """JSON text, by Dash's own encoder: with components, figures and arrays inside."""
    text: str = to_json(value)
    return text.encode()


def encode_props(component_id: str, prop_name: str, value: Any) -> bytes:
    """JSON text of a ``set_props``, with components, figures and ``Patch`` inside."""
    text: str = to_json({"componentId": component_id, "props": {prop_name: value}})
    return text.encode()


class Collected:
    """A sink for a generator's updates where nothing can be sent before the response."""

    is_shutdown = False

    def __init__(self) -> None:
        self.updates = Updates()

    def set_prop_sync(self, component_id: str, prop_name: str, value: Any) -> None:
        """Keep an update as it is now: the callback may go on to change the object."""
        self.updates.add(component_id, prop_name, json.loads(to_json(value)))

    async def set_prop(self, component_id: str, prop_name: str, value: Any) -> None:
        """The same, awaitable."""
        self.set_prop_sync(component_id, prop_name, value)

    async def get_prop(self, component_id: str, prop_name: str, timeout: float = 30.0) -> Any:  # noqa: ASYNC109 - Dash's signature
        """Nobody to ask: ``ctx.websocket`` is None over plain HTTP."""
        raise NotImplementedError

    def merged(self, run: Callable[[], str]) -> str:
        """What the callback returns, on top of what it has yielded."""
        try:
            text = run()
        except PreventUpdate:
            if not self.updates:
                raise
            text = '{"multi":true,"response":{}}'
        return self._on_top(text)

    async def merged_async(self, run: Callable[[], Any]) -> str:
        """`merged`, of an ``async def``."""
        try:
            text = await run()
        except PreventUpdate:
            if not self.updates:
                raise
            text = '{"multi":true,"response":{}}'
        return self._on_top(text)

    def _on_top(self, text: str) -> str:
        if not self.updates:
            return text
        response = json.loads(text)
        self.updates.merge_into(response)
        return json.dumps(response)


def current_sink() -> Sink:
    """Where the updates of the running generator go."""
    g = _g()
    return cast(Sink, g.get("dash_websocket") or g[_COLLECTED])


def streams_now() -> bool:
    """Whether updates of the running callback are sent as they happen."""
    return "dash_websocket" in _g()


def concrete_ids(entry: Mapping[str, Any], outputs: Sequence[dash.Output]) -> list[str]:
    """The component ids that these outputs mean in the request of the running callback."""
    g = _g()
    values = _match_values(entry, g.inputs_list, g.states_list, g.outputs_list)
    return [_concrete(output, values) for output in outputs]


Update = tuple[str, str, Any]
"""A component's id, a property, and its value."""


class Shaper:
    """Takes what the running generator yields for what Dash takes a return value for."""

    def __init__(self, registration: Registration) -> None:
        self._id = registration.id
        self._entry = registration.entry
        self._packages = set(ComponentRegistry.registry)
        # As declared: Dash takes a value apart by it, and names it when that fails.
        self._output = self._entry["output"]
        if isinstance(self._output, list):
            self._output = make_grouping_by_index(self._entry["outputs_indices"], self._output)

    def shape(self, value: Any) -> list[Update]:
        """The updates that a value stands for, none for ``no_update``.

        Raises:
            InvalidCallbackReturnValue: Not shaped as the callback's outputs are.
        """
        g, entry = _g(), self._entry
        response: Any = {"multi": True}
        try:
            _callback._prepare_response(
                value,
                g.outputs_list,
                isinstance(entry["output"], list),
                response,
                g,
                _get_app.get_app(),
                self._packages,
                background=None,
                has_update=False,
                has_output=not entry["no_output"],
                output=self._output,
                callback_id=self._id,
                allow_dynamic_callbacks=entry["allow_dynamic_callbacks"],
            )
        except PreventUpdate:
            # Dash's way to say that there is no output.
            return []
        return [
            (component, prop, item)
            for component, props in response["response"].items()
            for prop, item in props.items()
        ]

    def explain(self, value: Any) -> None:
        """Raise Dash's own error about a value that is not JSON, if it finds where it is not."""
        _validate.fail_callback_output(value, self._output)


@dataclass(frozen=True)
class Invocation:
    """A callback, bound to a request, ready to run once.

    ``run()`` returns Dash's JSON text, or an awaitable of it for an ``async def``.
    """

    run: Callable[[], Any]
    is_async: bool
    response: RecordedResponse


def bind(
    app: Any,
    body: CallbackBody,
    snapshot: RequestSnapshot,
    sink: Sink | None,
    call: CallInfo | None = None,
) -> Invocation:
    """Bind the callback that a request names to a context made from its snapshot.

    Args:
        app: The Dash app.
        body: The renderer's request.
        snapshot: What the callback can ask of its HTTP request.
        sink: Where ``set_props`` goes; None collects it into the response.
        call: What ``dash_dispatch.ctx`` tells.
    """
    request = _as_dash(body)
    # What is sent as it happens has no HTTP response at its end.
    response = RecordedResponse() if sink is None else UnsentResponse()
    context = _context(request, snapshot, response, sink)
    context[_CALL] = call or CallInfo()
    asked = context[_REQUEST] = SnapshotRequest(snapshot, request)
    if sink is None:
        response.measured = asked.context
    return _invocation(app, request, context, response)


def _invocation(
    app: Any, request: dict[str, Any], context: Any, response: RecordedResponse
) -> Invocation:
    function = _prepare(app, context, request)
    arguments = app._inputs_to_vals(context.inputs_list + context.states_list)
    is_async = inspect.iscoroutinefunction(function)

    def run() -> Any:
        # `get_app()` answers with this app, also where several live in one process.
        _get_app.app_context.set(app)
        _request.set(context.get(_REQUEST))
        return app._execute_callback(function, arguments, context.outputs_list, context)()

    entry = app.callback_map[request["output"]]
    complete: Callable[[], Any] = run
    if STREAMS in entry and "dash_websocket" not in context:
        collected = context[_COLLECTED] = Collected()
        merged = collected.merged_async if is_async else collected.merged
        complete = functools.partial(merged, run)
    if entry["allow_dynamic_callbacks"]:
        report = functools.partial(_with_libraries, app, response=response)
        complete = _reporting(complete, is_async, report)
    return Invocation(complete, is_async, response)


def _prepare(app: Any, context: Any, request: dict[str, Any]) -> Any:
    """Dash's ``_prepare_callback``, less what few callbacks ask for, which is done when they do.

    All of it at once is a third of what Dash does for a callback with one input, and nearly half
    of it for one with ten.
    """
    entry = app.callback_map[request["output"]]
    if not isinstance(context, _Context) or entry.get("background"):
        return app._prepare_callback(context, request)
    dict.update(
        context,
        background_callback_manager=entry.get("manager") or app._background_manager,
        outputs_list=[] if entry["no_output"] else context["outputs_list"],
    )
    context.__dict__["unprepared"] = app, request
    return entry["callback"]


def bind_call(
    app: Any, spec: CallSpec, sink: Sink, attempt: int = 1, worker: str = ""
) -> Invocation:
    """Bind an offloaded call, in a worker.

    Args:
        app: The Dash app.
        spec: The call.
        sink: Where ``set_props`` goes, and whom ``ctx.is_cancelled()`` asks.
        attempt: The number of this run, from 1.
        worker: Where it runs.

    Raises:
        UnknownCode: This worker's code has no such callback.
    """
    if entry_of(app, spec.output) is None:
        raise UnknownCode(
            f"this worker does not know the callback {spec.output!r}: web and worker run different"
            " code, or the callback is registered where a worker does not come by"
        )
    body = decode_callback_body(spec.payload)
    snapshot = msgspec.json.decode(spec.snapshot, type=RequestSnapshot)
    call = CallInfo(spec.id, attempt, worker, sink, offloaded=True)
    return bind(app, body, snapshot, sink if spec.stream else None, call)


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
    # Not the one of a callback that was run from a snapshot before, in this context.
    _request.set(None)
    context = app._initialize_context(request)

    def answer(text: str) -> Any:
        return context.dash_response.set_response(data=text)

    return _invocation(app, request, context, RecordedResponse()), answer


def bind_plain(
    app: Any, body: CallbackBody, snapshot: RequestSnapshot, response: Any
) -> tuple[Invocation, Callable[[str], Any]]:
    """`bind_request`, from a snapshot of the request; the answer is bytes where that says all.

    Args:
        app: The Dash app.
        body: The renderer's request.
        snapshot: What the callback can ask of its HTTP request.
        response: A ``backend.LateResponse``.
    """
    request = _as_dash(body)
    context = _context(request, snapshot, response, None)

    def answer(text: str) -> Any:
        return response.set_response(data=text) if response.made else text.encode()

    return _invocation(app, request, context, RecordedResponse()), answer


class _Context(AttributeDict):
    """Dash's ``g``, whose groupings are made when somebody asks: else they are half of its cost."""

    def __missing__(self, key: str) -> Any:
        if key not in _GROUPINGS or "unprepared" not in self.__dict__:
            raise KeyError(key)
        app, request = self.__dict__.pop("unprepared")
        app._prepare_callback(self, request)
        return self[key]


_GROUPINGS: Final = frozenset(
    {"args_grouping", "outputs_grouping", "using_args_grouping", "using_outputs_grouping"}
)


def _context(
    request: dict[str, Any],
    snapshot: RequestSnapshot,
    response: ResponseAdapter,
    sink: Sink | None,
) -> Any:
    """Dash's ``g``, as its ``_initialize_context`` makes it from a live request."""
    inputs = inputs_to_dict(request["inputs"])
    # At once: to set an attribute of this class takes longer than all the rest here.
    g = _Context(
        {
            "inputs_list": request["inputs"],
            "states_list": request["state"],
            "outputs_list": request["outputs"] or [],
            "input_values": inputs,
            "state_values": inputs_to_dict(request["state"]),
            "triggered_inputs": [
                {"prop_id": prop, "value": inputs.get(prop)} for prop in request["changedPropIds"]
            ],
            "dash_response": response,
            "cookies": dict(snapshot.cookies),
            "headers": dict(snapshot.headers),
            "args": MultiDict(snapshot.args),
            "path": snapshot.path,
            "remote": snapshot.remote,
            "origin": snapshot.origin or None,
            "updated_props": {},
        }
    )
    if sink is not None:
        g.dash_websocket = sink
    if snapshot.custom_data:
        g.custom_data = AttributeDict(json.loads(snapshot.custom_data))
    return g


def outcome_of(text: str | None, response: RecordedResponse) -> Outcome:
    """The outcome of a callback that returned."""
    return Outcome(Status.OK, (text or "").encode(), response.encode(), response.libraries)


def outcome_of_error(error: BaseException, call: str, worker: str) -> Outcome:
    """The outcome of a callback that raised. ``PreventUpdate`` is no error. Raises nothing."""
    if isinstance(error, PreventUpdate):
        return Outcome(Status.NO_UPDATE)
    try:
        return _told(error, call, worker)
    except BaseException as trouble:  # noqa: BLE001 - an error's own code: the page sees its kind
        return unencodable(type(error).__name__, trouble, call, worker)


def unencodable(kind: str, trouble: BaseException, call: str, worker: str) -> Outcome:
    """The outcome of a callback whose outcome cannot be made, in words that can be sent."""
    return failed(Status.FAILED, kind, untold(trouble), call=call, worker=worker)


def untold(trouble: BaseException) -> str:
    """What is said of an error that cannot even be told."""
    return f"the outcome could not be encoded: {type(trouble).__name__}"


def _words(error: BaseException) -> str:
    try:
        if isinstance(error, SystemExit):
            return f"the callback called sys.exit({error.code!r})"
        return str(error)
    except BaseException as trouble:  # noqa: BLE001 - an error's own code: its traceback is shown
        return untold(trouble)


def _told(error: BaseException, call: str, worker: str) -> Outcome:
    kind = type(error).__name__
    if kind in PUBLIC_FAILURES:
        # The user's own, for all its name: what it says is not for everybody.
        kind = f"{type(error).__module__}.{kind}"
    if isinstance(error, SystemExit):
        kind = "SystemExit"
    if isinstance(error, UnknownCode):
        kind = UNKNOWN_CODE
    return failed(
        Status.FAILED,
        kind,
        encodable(_words(error)),
        traceback=encodable(user_traceback(error)),
        call=call,
        worker=worker,
    )


def encodable(text: str) -> str:
    """The text without lone surrogates, which cannot be sent: errors show the values of users."""
    return text.encode(errors="backslashreplace").decode()


_INVOKED = re.compile(r"# %% callback invoked %%")


def user_traceback(error: BaseException) -> str:
    """The error's traceback from the user's function on, as Dash's own dev tools prune it."""
    frames = traceback.extract_tb(error.__traceback__)
    # The last one: between Dash's and the user's function there may be one of ours.
    marks = [index for index, frame in enumerate(frames) if _INVOKED.search(frame.line or "")]
    if marks:
        frames = traceback.StackSummary.from_list(frames[marks[-1] + 1 :])
    summary = traceback.TracebackException.from_exception(error)
    summary.stack = traceback.StackSummary.from_list(frames)
    return "".join(summary.format())
