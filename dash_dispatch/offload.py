"""`Offload`: how an offloaded callback is run."""

import inspect
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from dash_dispatch.errors import ConfigError
from dash_dispatch.protocol import Executor, OnLeave, Overlap, lane

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}\Z")
MAX_PRIORITY = 10
MAX_RETRIES = 100


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
        overlap: What a new run does while an earlier one of the same callback instance on the
            same page has not ended: ``"latest"`` supersedes it, ``"queue"`` waits for it,
            ``"parallel"`` runs beside it, ``"drop"`` is not run. None is ``"latest"`` for
            callbacks with outputs and ``"parallel"`` for those without, whose work is their side
            effect.
        on_leave: ``"cancel"`` ends a call whose page was closed, or whose browser has been absent
            for ``DASH_DISPATCH_LEAVE_GRACE_S``; ``"keep"`` lets it go on.
        retries: How many times a call is run again after an exception or the loss of its worker.
            The number of the run is ``dash_dispatch.ctx.attempt``. Not after a time-out.
        backoff: Pause before the first retry in seconds; doubled for each that follows, up to a
            minute, and spread by a random part.
        concurrency: How many of its calls may run at once, in all workers together.
        group: Callbacks of the same group share one ``concurrency``, which all of them name.
        priority: Calls with a higher one start first; -10 to 10.
        cache: Seconds for which a result is kept and answers equal calls; equal ones in flight
            are computed once. None caches nothing.
        scope: Whose equal calls may be answered: ``"user"`` for those of the same browser with the
            same cookies (or the same ``Dash(user=...)``), ``"global"`` for everybody's.

    Raises:
        ConfigError: An option is wrong; the message says which, and what it takes.
    """

    queue: str = "default"
    timeout: float | None = None
    executor: Literal["auto", "thread", "process"] = "auto"
    overlap: Literal["latest", "queue", "parallel", "drop"] | None = None
    on_leave: Literal["keep", "cancel"] = "keep"
    retries: int = 0
    backoff: float = 1.0
    concurrency: int | None = None
    group: str | None = None
    priority: int = 0
    cache: float | None = None
    scope: Literal["user", "global"] = "user"

    def __post_init__(self) -> None:
        positive = "a positive number of seconds"
        name = "a name of letters, digits, '_', '.' and '-'"
        self._check("queue", _is_name(self.queue), name)
        self._check("timeout", _is_optional_duration(self.timeout), f"{positive}, or None")
        self._check_choice("executor", ("auto", "thread", "process"))
        self._check_choice("overlap", (*Overlap, None))
        self._check_choice("on_leave", tuple(OnLeave))
        self._check("retries", _is_count(self.retries, 0, MAX_RETRIES), f"0 to {MAX_RETRIES}")
        self._check("backoff", _is_duration(self.backoff), positive)
        self._check(
            "concurrency",
            self.concurrency is None or _is_count(self.concurrency, 1, 2**31),
            "a whole number from 1 on, or None",
        )
        self._check("group", self.group is None or _is_name(self.group), f"{name}, or None")
        self._check(
            "priority",
            _is_count(self.priority, -MAX_PRIORITY, MAX_PRIORITY),
            f"-{MAX_PRIORITY} to {MAX_PRIORITY}",
        )
        self._check("cache", _is_optional_duration(self.cache), f"{positive}, or None")
        self._check_choice("scope", ("user", "global"))
        if self.group is not None and self.concurrency is None:
            raise ConfigError(
                f"Offload(group={self.group!r}): takes concurrency= as well: how many of the"
                " group's calls may run at once"
            )

    def _check(self, name: str, good: bool, takes: str) -> None:
        if not good:
            raise ConfigError(f"Offload({name}={getattr(self, name)!r}): takes {takes}")

    def _check_choice(self, name: str, choices: tuple[str | None, ...]) -> None:
        value = getattr(self, name)
        good = value is None or isinstance(value, str)
        words = ", ".join("None" if choice is None else str(choice) for choice in choices)
        self._check(name, good and value in choices, f"one of {words}")


def _is_name(value: object) -> bool:
    return isinstance(value, str) and _NAME.match(value) is not None


def _is_count(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _is_optional_duration(value: object) -> bool:
    return value is None or _is_duration(value)


def _is_duration(value: object) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    # An int may be too large for a float, which is what it becomes.
    return 0 < value <= sys.float_info.max


@dataclass(frozen=True)
class Caching:
    """Of what a kept result depends, beside the callback and its arguments.

    Attributes:
        ignore: Positions or names of arguments that do not count.
        ignore_triggered: Whether it does not matter which input triggered the callback.
        by: Functions without arguments whose values count as well.
    """

    ignore: tuple[int | str, ...] = ()
    ignore_triggered: bool = True
    by: tuple[Callable[[], Any], ...] = ()


@dataclass(frozen=True)
class Queued:
    """One element of ``queued=``: a property that says where a waiting call is.

    Attributes:
        output: The property, a ``dash.Output``.
        template: A text for ``str.format`` with ``{position}`` (1 is next) and ``{estimate}``
            (``about 20 s``; empty while unknown), a function of the position and of the estimated
            seconds or None, or any other value, which is shown as it is.
        after: The value once it waits no longer.
    """

    output: Any
    template: Any
    after: Any

    def shown(self, position: int, estimate_s: float | None) -> Any:
        """The value at this position."""
        if callable(self.template):
            return self.template(position, estimate_s)
        if isinstance(self.template, str):
            return self.template.format(position=position, estimate=in_words(estimate_s))
        return self.template


def in_words(estimate_s: float | None) -> str:
    """An estimate, no more exact than it is."""
    if estimate_s is None:
        return ""
    if estimate_s < 60:
        return f"about {max(1, round(estimate_s))} s"
    return f"about {round(estimate_s / 60)} min"


@dataclass(frozen=True)
class Offloaded:
    """An offloaded callback as registered: its options, made definite for its function.

    Attributes:
        options: As given.
        executor: Where it runs.
        overlap: What its runs do to each other.
        gate: The concurrency limit it comes under; empty for none.
        code: A digest of the function's source: a changed function finds no old results.
        caching: On what a kept result depends.
    """

    options: Offload
    executor: Executor
    overlap: Overlap
    gate: str
    code: str
    caching: Caching = Caching()

    def limits(self, timeout_s: float) -> dict[str, Any]:
        """The fields of a `CallSpec` that follow; a time limit where the options name none."""
        return self._limits if self.options.timeout else {**self._limits, "timeout_s": timeout_s}

    @cached_property
    def _limits(self) -> dict[str, Any]:
        return limits(self.options, self.gate, self.executor, 0.0)


def limits(options: Offload, gate: str, executor: Executor, timeout_s: float) -> dict[str, Any]:
    """The fields of a `CallSpec` that follow from `Offload`.

    Args:
        options: As given by the user.
        gate: The limit that it comes under; empty for none.
        executor: Where it runs.
        timeout_s: The time limit where the options name none.
    """
    return {
        "lane": lane(options.queue, executor),
        "timeout_s": options.timeout or timeout_s,
        "gate": gate,
        "limit": options.concurrency or 0,
        "priority": options.priority,
        "retries": options.retries,
        "backoff_s": options.backoff,
        "on_leave": OnLeave(options.on_leave),
        "cache_s": options.cache or 0.0,
    }


def check_executor(offload: Offload, function: Callable[..., Any]) -> Executor:
    """Where this function runs.

    Raises:
        ConfigError: Not where the options say.
    """
    if not (inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)):
        return Executor.THREAD if offload.executor == "thread" else Executor.PROCESS
    if offload.executor != "auto":
        name = getattr(function, "__qualname__", repr(function))
        raise ConfigError(
            f"{name}: Offload(executor={offload.executor!r}) is for plain def callbacks;"
            " an async def runs on the worker's event loop"
        )
    return Executor.LOOP
