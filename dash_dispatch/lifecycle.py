"""``@on_worker_start`` and ``@on_worker_stop``: what a worker does once per process."""

import inspect
import logging
from collections.abc import Callable
from typing import Any, TypeVar

from dash_dispatch.errors import ConfigError

logger = logging.getLogger(__name__)

Hook = Callable[[], Any]
H = TypeVar("H", bound=Hook)

# By place in the source: an app's factory may be called more than once in a process.
_Place = tuple[str, int]
_start: dict[_Place, Hook] = {}
_stop: dict[_Place, Hook] = {}


def on_worker_start(function: H, /) -> H:
    """Run a function at the start of each process that runs offloaded callbacks.

    For what is made once and used by many calls: a model in memory, a pool of connections::

        @dash_dispatch.on_worker_start
        def load():
            global model
            model = joblib.load("model.joblib")

    It runs before the first call, in the order of registration: in the worker's main process,
    where ``async def`` callbacks and those with ``executor="thread"`` run, and again in each of
    its warm processes, whose memory is their own. Never in a web process, but for the embedded
    worker that is a thread of one. An ``async def`` runs, in the main process, on the loop that
    callbacks run on; a plain ``def`` holds that loop up, which nothing else needs yet.

    What it raises keeps the worker from starting, and is said.

    Raises:
        ConfigError: It is no function without arguments.
    """
    return _add(_start, function, "on_worker_start")


def on_worker_stop(function: H, /) -> H:
    """Run a function at the orderly end of each process that runs offloaded callbacks.

    When the worker was asked to stop and its calls have ended, and when a warm process is replaced
    (``DASH_DISPATCH_PROCESS_MAX_CALLS``, ``_MAX_MB``); not when a process is killed, as one is
    whose call was cancelled or came to its time limit. Last registered, first run. What it raises
    is logged, and the next one runs. A warm process has 10 seconds for all of them.

    Raises:
        ConfigError: It is no function without arguments.
    """
    return _add(_stop, function, "on_worker_stop")


def _add(hooks: dict[_Place, Hook], function: H, word: str) -> H:
    # Any other callable has no place of its own.
    if not inspect.isfunction(function) or inspect.isasyncgenfunction(function):
        raise ConfigError(f"{word}: takes a function, not {function!r}")
    needed = [
        parameter.name
        for parameter in inspect.signature(function).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if needed:
        name = function.__qualname__
        raise ConfigError(f"{word}: {name} is called without arguments, and takes {needed[0]!r}")
    hooks[function.__code__.co_filename, function.__code__.co_firstlineno] = function
    return function


def stops() -> bool:
    """Whether there is anything to do at the end."""
    return bool(_stop)


async def start() -> None:
    """A process begins.

    Raises:
        ConfigError: A function raised; the message says which and what.
    """
    for function in list(_start.values()):
        try:
            await _call(function)
        except (Exception, SystemExit) as error:
            # Whatever user code raises: the worker says it, and does not start.
            logger.exception("! on_worker_start: %s failed", function.__qualname__)
            kind = type(error).__name__
            text = f"on_worker_start: {function.__qualname__} failed: {kind}: {error}"
            raise ConfigError(text) from error


async def stop() -> None:
    """A process ends in an orderly way. Raises nothing."""
    for function in reversed(list(_stop.values())):
        try:
            await _call(function)
        except (Exception, SystemExit):
            # Whatever user code raises: the log has it, and the end goes on.
            logger.exception("! on_worker_stop: %s failed", function.__qualname__)


async def _call(function: Hook) -> None:
    result = function()
    if inspect.isawaitable(result):
        await result
