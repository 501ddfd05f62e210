"""``offload=True``: an offloaded callback's options, and ``callback`` for pages and modules."""

import inspect
from collections.abc import Callable
from typing import Any, TypeVar, cast

from dash_dispatch import bridge
from dash_dispatch.errors import ConfigError
from dash_dispatch.offload import Offload, Offloaded, check_executor
from dash_dispatch.protocol import Overlap

F = TypeVar("F", bound=Callable[..., Any])


def callback(*args: Any, **kwargs: Any) -> Callable[[F], F]:
    """``dash.callback`` with ``offload=``: for pages and modules that have no ``app`` at hand.

    Takes all that ``dash.callback`` takes, and:

    Args:
        offload: ``True`` or an `Offload` runs the callback in a worker; ``False`` does not.
        cancel: ``Input`` or list of them that end a running call of this callback on this page
            when they change. Only with ``offload``.

    Raises:
        ConfigError: A wrong combination of options.
    """
    return register(None, args, kwargs)


def register(app: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[F], F]:
    """Register a callback with Dash, and remember how it is to be run.

    Args:
        app: The ``dash_dispatch.Dash`` that ``@app.callback`` was asked of, or None for a
            global one.
        args, kwargs: As for ``dash.callback``, with ``offload`` and ``cancel``.
    """
    offload = _checked(kwargs.pop("offload", False))
    cancel = kwargs.pop("cancel", None) if offload else None
    if offload is None:
        return bridge.register(app, args, kwargs).decorate
    if kwargs.get("background"):
        raise ConfigError(
            "offload= and background=True exclude each other: an offloaded callback needs no"
            " background manager"
        )
    # Its answer may take long, and may not hold one of the browser's few HTTP connections.
    registration = bridge.register(app, args, {**kwargs, "websocket": True})
    if cancel is not None:
        bridge.register_cancel(app, registration.id, cancel)

    def decorator(function: F) -> F:
        registration.entry[bridge.OFFLOADED] = _settle(offload, function, registration)
        return cast(F, registration.decorate(function))

    return decorator


def _checked(offload: object) -> Offload | None:
    if offload is True:
        return Offload()
    if offload is False or offload is None:
        return None
    if isinstance(offload, Offload):
        return offload
    raise ConfigError(f"offload={offload!r}: takes True, False or Offload(...)")


def _settle(offload: Offload, function: Callable[..., Any], registration: Any) -> Offloaded:
    name = getattr(function, "__qualname__", repr(function))
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise ConfigError(f"{name}: a generator cannot be offloaded; use dash.set_props to stream")
    without = bool(registration.entry["no_output"])
    overlap = Overlap(offload.overlap or ("parallel" if without else "latest"))
    return Offloaded(
        offload,
        check_executor(offload, function),
        overlap,
        _gate(offload, registration.id),
        bridge.code_digest(function),
    )


def _gate(offload: Offload, output: str) -> str:
    """The name of the limit: the group's, or the callback's own."""
    if offload.concurrency is None:
        return ""
    return f"group.{offload.group}" if offload.group else f"callback.{output}"
