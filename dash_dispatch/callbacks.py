"""``offload=True``: an offloaded callback's options, and ``callback`` for pages and modules."""

import inspect
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast

from dash_dispatch import bridge
from dash_dispatch.errors import ConfigError
from dash_dispatch.protocol import Executor

F = TypeVar("F", bound=Callable[..., Any])

_QUEUE = re.compile(r"[A-Za-z0-9_.-]{1,64}\Z")
_EXECUTORS = ("auto", "thread", "process")


@dataclass(frozen=True, kw_only=True)
class Offload:
    """How an offloaded callback is run. ``offload=True`` means ``Offload()``.

    Attributes:
        queue: Name of the queue its calls wait in; served by workers whose
            ``DASH_DISPATCH_QUEUES`` lists it.
        timeout: Time limit of one run in seconds; None for ``DASH_DISPATCH_TIMEOUT_S`` of the
            web process (300 by default).
        executor: Where a plain ``def`` runs in the worker: in a ``"process"`` of its own, which
            can be killed, or in a ``"thread"``, which is cheaper and cannot. ``"auto"`` is a
            process. An ``async def`` runs on the worker's event loop, and takes only ``"auto"``.

    Raises:
        ConfigError: An option is wrong; the message says which, and what it takes.
    """

    queue: str = "default"
    timeout: float | None = None
    executor: Literal["auto", "thread", "process"] = "auto"

    def __post_init__(self) -> None:
        if not _is_name(self.queue):
            raise ConfigError(
                f"Offload(queue={self.queue!r}): takes a name of letters, digits, '_', '.' and '-'"
            )
        if self.timeout is not None and not _is_duration(self.timeout):
            raise ConfigError(
                f"Offload(timeout={self.timeout!r}): takes a positive number of seconds, or None"
            )
        if self.executor not in _EXECUTORS:
            raise ConfigError(
                f"Offload(executor={self.executor!r}): takes one of {', '.join(_EXECUTORS)}"
            )


def _is_name(value: object) -> bool:
    return isinstance(value, str) and _QUEUE.match(value) is not None


def _is_duration(value: object) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    # An int may be too large for a float, which is what it becomes.
    return 0 < value <= sys.float_info.max


@dataclass(frozen=True)
class Offloaded:
    """An offloaded callback as registered: its options, made definite for its function."""

    queue: str
    timeout_s: float | None
    executor: Executor


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
        registration.entry[bridge.OFFLOADED] = _settle(offload, function)
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


def _settle(offload: Offload, function: Callable[..., Any]) -> Offloaded:
    name = getattr(function, "__qualname__", repr(function))
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise ConfigError(f"{name}: a generator cannot be offloaded; use dash.set_props to stream")
    if not inspect.iscoroutinefunction(function):
        executor = Executor.THREAD if offload.executor == "thread" else Executor.PROCESS
        return Offloaded(offload.queue, offload.timeout, executor)
    if offload.executor != "auto":
        raise ConfigError(
            f"{name}: Offload(executor={offload.executor!r}) is for plain def callbacks;"
            " an async def runs on the worker's event loop"
        )
    return Offloaded(offload.queue, offload.timeout, Executor.LOOP)
