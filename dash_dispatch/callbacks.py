"""``callback``: registers with Dash, and settles where and how the function runs."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import dash

from dash_dispatch import bridge
from dash_dispatch.errors import ConfigError
from dash_dispatch.offload import Caching, Offload, Offloaded, Queued, check_executor
from dash_dispatch.progress import Progress
from dash_dispatch.protocol import Overlap
from dash_dispatch.streaming import Stream

F = TypeVar("F", bound=Callable[..., Any])

CACHE_BY_S = 3600.0
"""For how long a result is kept when only ``cache_by=`` asks for it."""

_IN_WORKERS = "takes offload= or background=True as well"


def callback(*args: Any, **kwargs: Any) -> Callable[[F], F]:
    """``dash.callback``, for pages and modules that have no ``app`` at hand.

    Takes all that ``dash.callback`` takes. A generator function streams: each of its yields is
    shaped like a return value, and shown when it comes.

    Args:
        offload: ``True`` or an `Offload` runs the callback in a worker; ``False`` does not.
        background: ``True``, with neither ``manager=`` here nor a ``background_callback_manager``
            of the app, means ``offload=True``. With one of them it is Dash's own.
        queued: With ``offload``: what shows where a waiting call is, in the manner of
            ``running=``: tuples of an ``Output``, a text with ``{position}`` and ``{estimate}``
            (or a function of both), and the value once it waits no longer.
        cancel: ``Input`` or list of them that end a running call of this callback on this page
            when they change. With MATCH, of the same instance only.
        progress, progress_default: As for Dash's background callbacks; with MATCH, too.
        cache_args_to_ignore, cache_ignore_triggered: As for Dash's background callbacks, for
            ``Offload(cache=...)``.
        cache_by: As for Dash's managers: a function without arguments, or a list of them, on
            whose values a kept result depends. Without ``Offload(cache=...)``, results are kept
            for an hour and are for everybody, as with those managers.
        interval: Accepted, and without meaning: progress and results are pushed.

    Raises:
        ConfigError: A wrong combination of options.
    """
    return register(None, args, kwargs)


def register(app: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[F], F]:
    """Register a callback with Dash, and remember how it is to be run.

    Args:
        app: The ``dash_dispatch.Dash`` that ``@app.callback`` was asked of, or None for a
            global one.
        args, kwargs: As for `callback`.
    """
    given = dict(kwargs)
    own: dict[str, Any] = {
        name: kwargs.pop(name, None) for name in ("offload", "queued", "cache_by")
    }
    offload = _where(app, own.get("offload"), kwargs)
    if offload is None:
        for name in ("queued", "cache_by"):
            if own.get(name) is not None:
                raise ConfigError(f"{name}=: {_IN_WORKERS}, and no background callback manager")
        return _local(bridge.register(app, args, kwargs), bool(kwargs.get("background")))
    extras = _Extras.take(offload, own, kwargs)
    kwargs.pop("background", None)
    # Its answer may take long, and may not hold one of the browser's few HTTP connections.
    registration = bridge.register(app, args, {**kwargs, "websocket": True})
    extras.install(app, registration)
    # Whether an app with a manager collects it is not known yet.
    returns = app is None and bool(given.get("background")) and not own.get("offload")

    def decorator(function: F) -> F:
        offloaded = extras.settle(function, registration)
        registration.entry[bridge.OFFLOADED] = offloaded
        registration.decorate(_wrapped(function, registration, extras.progress))
        if path := given.get("api_endpoint"):
            # It has no page: nothing that it could overlap with, and nothing that a cache knows of.
            options = dataclasses.replace(offloaded.options, cache=None)
            alone = dataclasses.replace(offloaded, options=options, overlap=Overlap.PARALLEL)
            bridge.offer_api(bridge.Api(path, function, alone, returns))
        if returns:
            stock = {name: value for name, value in given.items() if name != "offload"}
            bridge.remember_background(registration, args, stock, function)
        return function

    return decorator


def _where(app: Any, offload: object, kwargs: Mapping[str, Any]) -> Offload | None:
    """How a callback is offloaded; None if it is not."""
    managed = kwargs.get("manager") is not None or (app is not None and bridge.has_manager(app))
    background = bool(kwargs.get("background"))
    if offload is None and background and not managed:
        return Offload()
    checked = _checked(offload)
    if checked is not None and background and managed:
        raise ConfigError(
            "offload= and background=True with a manager exclude each other: an offloaded callback"
            " needs no background callback manager"
        )
    return checked


def _checked(offload: object) -> Offload | None:
    if offload is True:
        return Offload()
    if offload is False or offload is None:
        return None
    if isinstance(offload, Offload):
        return offload
    raise ConfigError(f"offload={offload!r}: takes True, False or Offload(...)")


# --- callbacks of the web process ---------------------------------------------------------------


def _local(registration: bridge.Registration, background: bool) -> Callable[[F], F]:
    def decorator(function: F) -> F:
        if not _is_generator(function):
            return cast(F, registration.decorate(function))
        if background:
            name = getattr(function, "__qualname__", repr(function))
            raise ConfigError(f"{name}: a generator takes no background callback manager")
        # Over plain HTTP there is nothing to be seen before the end.
        registration.use_websocket()
        registration.decorate(_wrapped(function, registration, None))
        return function

    return decorator


def _is_generator(function: Callable[..., Any]) -> bool:
    return inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)


# --- callbacks of the workers -------------------------------------------------------------------


@dataclass(frozen=True)
class _Extras:
    """What an offloaded callback was given beside what Dash's plain callbacks know."""

    offload: Offload
    progress: Progress | None
    progress_default: Sequence[Any]
    cancel: Any
    queued: tuple[Queued, ...]
    caching: Caching

    @classmethod
    def take(cls, offload: Offload, own: Mapping[str, Any], kwargs: dict[str, Any]) -> "_Extras":
        """Take them out of what goes on to Dash.

        Raises:
            ConfigError: One is wrong.
        """
        progress = _as_list(kwargs.pop("progress", None))
        default = _as_list(kwargs.pop("progress_default", None))
        for output in progress:
            if not isinstance(output, dash.Output):
                raise ConfigError(f"progress={output!r}: takes dash.Output or a list of them")
        if default and len(default) != len(progress):
            raise ConfigError(
                f"progress_default= has {len(default)} values for {len(progress)} outputs of"
                " progress=: it takes one for each"
            )
        by = _as_list(own.get("cache_by"))
        if not all(callable(function) for function in by):
            raise ConfigError(f"cache_by={by!r}: takes a function or a list of them")
        if by and offload.cache is None:
            # Dash's managers keep results, for everybody, as soon as they have it.
            offload = dataclasses.replace(offload, cache=CACHE_BY_S, scope="global")
        kwargs.pop("interval", None)
        kwargs.pop("manager", None)
        return cls(
            offload,
            Progress(tuple(progress), bool(default)) if progress else None,
            default,
            kwargs.pop("cancel", None),
            _parse_queued(own.get("queued")),
            Caching(
                tuple(_as_list(kwargs.pop("cache_args_to_ignore", None))),
                bool(kwargs.pop("cache_ignore_triggered", True)),
                tuple(by),
            ),
        )

    def install(self, app: Any, registration: bridge.Registration) -> None:
        """Let Dash's own record of the callback have its part of it."""
        outputs = self.progress.outputs if self.progress else ()
        for output in (*outputs, *(queued.output for queued in self.queued)):
            _check_wildcards(output, registration)
        for output, value in zip(outputs, self.progress_default, strict=False):
            registration.show_when_off(output, value)
        if self.queued:
            registration.entry[bridge.QUEUED] = self.queued
        registration.spec["dispatch"] = {"overlap": str(self._overlap(registration))}
        if self.cancel is not None:
            bridge.register_cancel(app, registration.id, self.cancel)

    def settle(self, function: Callable[..., Any], registration: bridge.Registration) -> Offloaded:
        """All of it, made definite for its function."""
        if self.offload.cache is not None and _is_generator(function):
            name = getattr(function, "__qualname__", repr(function))
            raise ConfigError(
                f"{name}: what a generator yields is not kept; leave out cache= and cache_by="
            )
        return Offloaded(
            self.offload,
            check_executor(self.offload, function),
            self._overlap(registration),
            _gate(self.offload, registration.id),
            bridge.code_digest(function),
            self.caching,
        )

    def _overlap(self, registration: bridge.Registration) -> Overlap:
        without = bool(registration.entry["no_output"])
        return Overlap(self.offload.overlap or ("parallel" if without else "latest"))


def _gate(offload: Offload, output: str) -> str:
    """The name of the limit: the group's, or the callback's own."""
    if offload.concurrency is None:
        return ""
    return f"group.{offload.group}" if offload.group else f"callback.{output}"


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _parse_queued(given: Any) -> tuple[Queued, ...]:
    if given is None:
        return ()
    if isinstance(given, tuple) and given and isinstance(given[0], dash.Output):
        given = [given]
    if not isinstance(given, list | tuple):
        raise ConfigError(f"queued={given!r}: {_QUEUED}")
    return tuple(_parse_one_queued(item) for item in given)


_QUEUED = "takes tuples of an Output, what it shows while the call waits, and its value afterwards"


def _parse_one_queued(item: Any) -> Queued:
    if not (isinstance(item, list | tuple) and len(item) == 3 and isinstance(item[0], dash.Output)):
        raise ConfigError(f"queued={item!r}: {_QUEUED}")
    queued = Queued(*item)
    if isinstance(queued.template, str):
        try:
            queued.shown(1, None)
        except (LookupError, ValueError, AttributeError) as error:
            raise ConfigError(
                f"queued={queued.template!r}: takes {{position}} and {{estimate}} in braces"
            ) from error
    return queued


def _check_wildcards(output: dash.Output, registration: bridge.Registration) -> None:
    """A worker does not know the page: which component is meant has to follow from the request."""
    if bridge.has_open_wildcard(output):
        raise ConfigError(f"{output!r}: progress= and queued= take MATCH, but not ALL")
    unknown = bridge.wildcard_keys(output) - bridge.matched_keys(registration.entry)
    if unknown:
        raise ConfigError(
            f"{output!r}: MATCH for {', '.join(sorted(unknown))!r}, for which no input or output"
            " of the callback has MATCH"
        )


# --- around the function ------------------------------------------------------------------------


def _wrapped(
    function: Callable[..., Any], registration: bridge.Registration, progress: Progress | None
) -> Callable[..., Any]:
    """What Dash calls: the function itself, or what gives it ``set_progress`` and shows its yields.

    The marks are those by which Dash finds the user's part of a traceback.
    """
    streams = _is_generator(function)
    if streams:
        registration.entry[bridge.STREAMS] = True
    elif progress is None:
        return function
    entry = registration.entry

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        with _first(progress, entry) as first:
            result = function(*first, *args, **kwargs)  # %% callback invoked %%
            if not streams:
                return result
            Stream(registration).run(result)
            return _nothing(entry)

    @functools.wraps(function)
    async def run_async(*args: Any, **kwargs: Any) -> Any:
        with _first(progress, entry) as first:
            result = function(*first, *args, **kwargs)
            if not streams:
                return await result  # %% callback invoked %%
            await Stream(registration).run_async(result)
            return _nothing(entry)

    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        return run_async
    return run


@contextmanager
def _first(progress: Progress | None, entry: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    """The arguments that come before those of the user."""
    if progress is None:
        yield ()
        return
    with progress.reporting(entry) as set_progress:
        yield (set_progress,)


def _nothing(entry: Mapping[str, Any]) -> Any:
    """All is shown: Dash's word for a callback with outputs, and for one without."""
    return None if entry["no_output"] else dash.no_update
