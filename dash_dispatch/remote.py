"""``@task``, ``run`` and ``run_sync``: from inside a callback, let a worker do something and wait.

A task is a function with a name, ``module:qualname``, by which a worker finds it again. Its
arguments and its result travel as JSON. It is a call like any other, in the same queues, with the
same limits and leases; its outcome goes to whoever waits instead of to a page.

Who carries a call depends on where the caller runs: in a web process and in a worker it is
``caller.Scope``, in a process of the pool ``child.Asking``. It is put into a context variable
while user code runs (`using`), so several apps in one process do not meet.
"""

import asyncio
import concurrent.futures
import contextlib
import hashlib
import inspect
from collections.abc import Callable, Coroutine, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, fields
from typing import Any, Final, Literal, ParamSpec, Protocol, TypeVar, cast, overload

import msgspec
import orjson
from dash.exceptions import PreventUpdate

from dash_dispatch import bridge
from dash_dispatch.errors import (
    CallCancelled,
    CallError,
    CallExpired,
    CallFailed,
    CallTimedOut,
    ConfigError,
    WorkerLost,
)
from dash_dispatch.offload import Offload, Offloaded, check_executor, limits
from dash_dispatch.protocol import CallSpec, Outcome, Overlap, Status, describe

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])

PREFIX: Final = "task:"
"""How the ``output`` of a task's call begins. No callback's id does: Dash's have a dot."""


@dataclass(frozen=True)
class Task:
    """A registered function.

    Attributes:
        name: ``module:qualname``, the module named as a worker imports it.
        function: The function itself.
        offloaded: How it is run.
    """

    name: str
    function: Callable[..., Any]
    offloaded: Offloaded


_tasks: dict[str, Task] = {}


@overload
def task(function: F, /) -> F: ...


@overload
def task(
    *,
    queue: str = "default",
    timeout: float | None = None,
    executor: Literal["auto", "thread", "process"] = "auto",
    retries: int = 0,
    backoff: float = 1.0,
    concurrency: int | None = None,
    group: str | None = None,
    priority: int = 0,
    cache: float | None = None,
    scope: Literal["user", "global"] = "user",
) -> Callable[[F], F]: ...


def task(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Register a function, so that callbacks can `run` it in a worker.

    ::

        @task
        def square(x): ...

        @task(queue="gpu", timeout=60, retries=2)
        async def predict(rows): ...

    The function stays what it is, and can be called as ever. Its name is its module's and its own,
    so it belongs at the top of a module that the app's import imports; of two functions of one
    name the last one counts. Written above other decorators, `task` takes what they return.

    Args:
        function: A ``def``, which runs in a process of its own, or an ``async def``, which runs on
            a worker's event loop.
        **options: ``queue``, ``timeout``, ``executor``, ``retries``, ``backoff``, ``concurrency``,
            ``group``, ``priority``, ``cache`` and ``scope``, as in `Offload`. With ``cache``, equal
            arguments are answered from it. A function that waits for a task of its own ``group``
            may wait for itself.

    Raises:
        ConfigError: An option is wrong, or it is no such function.
    """
    if function is not None:
        return _register(function, Offload())
    offload = Offload(**_checked(options))
    return lambda decorated: _register(decorated, offload)


# A task belongs to no page: nothing it could overlap with, and nobody who could leave.
_OPTIONS: Final = {field.name for field in fields(Offload)} - {"overlap", "on_leave"}


def _checked(options: dict[str, Any]) -> dict[str, Any]:
    if unknown := sorted(options.keys() - _OPTIONS):
        raise ConfigError(f"task({unknown[0]}=...): takes {', '.join(sorted(_OPTIONS))}")
    return options


def _register(function: F, offload: Offload) -> F:
    if not inspect.isfunction(function) or "<lambda>" in function.__qualname__:
        raise ConfigError(f"task: takes a function with a name of its own, not {function!r}")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise ConfigError(f"task: {function.__qualname__} is a generator; a task returns one value")
    name = bridge.name_of(function)
    executor = check_executor(offload, function)
    gate = ""
    if offload.concurrency is not None:
        gate = f"group.{offload.group}" if offload.group else f"{PREFIX}{name}"
    code = bridge.code_digest(function)
    offloaded = Offloaded(offload, executor, Overlap.PARALLEL, gate, code)
    _tasks[name] = Task(name, function, offloaded)
    bridge.tasks[name] = offloaded
    return cast(F, function)


def registered() -> dict[str, Task]:
    """All tasks, by name."""
    return dict(_tasks)


def is_task(output: str) -> bool:
    """Whether the ``output`` of a call is a task's."""
    return output.startswith(PREFIX)


_API: Final = f"{PREFIX}POST "
"""How the ``output`` of an API endpoint's call begins, which otherwise is a task's."""


def is_api(output: str) -> bool:
    """Whether the ``output`` of a call is an API endpoint's."""
    return output.startswith(_API)


def api_path(output: str) -> str:
    """The path of the API endpoint of a call."""
    return output.removeprefix(_API)


def task_of(output: str) -> Task:
    """The task of a call, in a worker.

    Raises:
        UnknownCode: This worker's code has no such task.
    """
    name = output.removeprefix(PREFIX)
    if name not in _tasks:
        raise bridge.UnknownCode(
            f"this worker does not know the task {name!r}: web and worker run different code, or"
            " importing the app does not import the module that defines it"
        )
    return _tasks[name]


# --- who carries a call -------------------------------------------------------------------------


class Runner(Protocol):
    """Carries a task's call to a worker, for one callback."""

    def submit(self, spec: CallSpec) -> "concurrent.futures.Future[Outcome]":
        """Let it be run. Cancelling the future cancels the call. From any thread.

        Raises:
            RuntimeError: The callback has ended.
        """


_runner: ContextVar[Runner | None] = ContextVar("dash_dispatch_runner", default=None)


@contextlib.contextmanager
def using(runner: Runner) -> Iterator[None]:
    """Let `run` find this runner, in what is called from here."""
    token = _runner.set(runner)
    try:
        yield
    finally:
        _runner.reset(token)


# --- run ----------------------------------------------------------------------------------------


@overload
async def run(
    function: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
) -> R: ...


@overload
async def run(function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...


async def run(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Run a `task` in a worker, wait for it without blocking, and return its result.

    From inside any callback, wherever it runs, and from inside a task::

        totals = await asyncio.gather(*(run(total, region) for region in regions))

    Arguments and result travel as JSON: tuples come back as lists, the keys of dicts as text,
    ``nan`` as None, dates as text, arrays as lists, and figures and components as the dicts that
    Dash makes of them, which can be shown as they are. What the task raises is here a
    `CallFailed` that has its type, words and traceback; ``PreventUpdate`` is itself.

    A call that nobody waits for any more is cancelled: when the one who waits is cancelled, and at
    the latest when its callback ends. Without a worker that serves the task's queue the call
    waits, as any call does, for as long as the callback has time.

    Raises:
        TypeError: An argument cannot be sent as JSON; the message names it.
        ConfigError: The function is no `task`, or Redis is not configured.
        RuntimeError: Not inside a callback.
        CallFailed: The task raised.
        CallTimedOut: It ran for longer than its ``timeout``.
        WorkerLost: Its worker died, and ``retries`` did not allow another run.
        CallCancelled: Somebody else has cancelled it.
        SubmitError: It was refused: the queue is full, or the arguments are too large.
        StoreUnavailable: Redis cannot be reached.
    """
    future, spec = _submit(_registered_as(function), args, kwargs)
    outcome = await asyncio.wrap_future(future)
    return _result(spec.output, outcome)


@overload
def run_sync(
    function: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
) -> R: ...


@overload
def run_sync(function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...


def run_sync(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """`run` for a plain ``def``, which cannot await: blocks its thread, or its process.

    Raises:
        RuntimeError: On an event loop, which it would block; and what `run` raises.
    """
    if _on_a_loop():
        raise RuntimeError("run_sync would block the event loop: write await run(...)")
    future, spec = _submit(_registered_as(function), args, kwargs)
    try:
        outcome = future.result()
    except concurrent.futures.CancelledError as error:
        raise CallCancelled("", f"{spec.output}: the callback that waited for it ended") from error
    return _result(spec.output, outcome)


async def run_api(api: bridge.Api, data: dict[str, Any]) -> bytes:
    """Run an API endpoint's function in a worker; JSON text of what it returns.

    Raises:
        CallError, SubmitError, StoreUnavailable: As `run`.
    """
    output = f"{_API}{api.path}"
    found = Task(output.removeprefix(PREFIX), api.function, api.offloaded)
    future, _ = _submit(found, (), data)
    outcome = await asyncio.wrap_future(future)
    if outcome.status is not Status.OK:
        _result(output, outcome)
    return outcome.body


def _on_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _submit(
    found: Task, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> "tuple[concurrent.futures.Future[Outcome], CallSpec]":
    runner = _runner.get()
    if runner is None:
        raise RuntimeError(
            f"dash_dispatch.run({found.name}) outside of a callback: call it from the code of a"
            " callback or of a task (a thread that you start yourself is outside, too, unless it"
            " is given a copy of the context, as asyncio.to_thread does)"
        )
    spec = _spec(found, _encode_arguments(found.name, args, kwargs))
    return runner.submit(spec), spec


def _registered_as(function: Callable[..., Any]) -> Task:
    name = bridge.name_of(function)
    found = _tasks.get(name)
    if found is None:
        raise ConfigError(f"run({name}): it is no task; put @dash_dispatch.task above its def")
    if found.function is not function:
        raise ConfigError(
            f"run({name}): the task of this name is another function: a decorator above @task has"
            " wrapped it, or a later one has taken its name"
        )
    return found


def _spec(found: Task, payload: bytes) -> CallSpec:
    """A task's call, as far as the one who asks knows it; see ``caller`` for the rest."""
    offloaded = found.offloaded
    options = offloaded.options
    key = b"\0".join((found.name.encode(), offloaded.code.encode(), payload))
    return CallSpec(
        id="",
        session="",
        page="",
        request="",
        output=f"{PREFIX}{found.name}",
        payload=payload,
        snapshot=b"",
        stream=False,
        cache_key=f"{options.scope}:{hashlib.sha256(key).hexdigest()}" if options.cache else "",
        **limits(options, offloaded.gate, offloaded.executor, 0.0),
    )


def _result(output: str, outcome: Outcome) -> Any:
    if outcome.status is Status.OK:
        return orjson.loads(outcome.body)
    if outcome.status is Status.NO_UPDATE:
        raise PreventUpdate
    kind = _ERRORS[outcome.status]
    if not outcome.body:
        raise kind("", f"{output}: {outcome.status.replace('_', ' ')}")
    failure = outcome.failure
    # That of a task of a task has it all in its words already, and would grow from one to the next.
    passed_on = outcome.status is Status.FAILED and failure.type in _PASSED_ON
    text = failure.message if passed_on else describe(failure, debug=True)
    raise kind(failure.call, f"{output}: {text}")


_ERRORS: Final[dict[Status, type[CallError]]] = {
    Status.FAILED: CallFailed,
    Status.TIMED_OUT: CallTimedOut,
    Status.CANCELLED: CallCancelled,
    Status.SUPERSEDED: CallCancelled,
    Status.WORKER_LOST: WorkerLost,
    Status.EXPIRED: CallExpired,
}

_PASSED_ON: Final = {
    f"{module}{kind.__name__}"
    for kind in _ERRORS.values()
    for module in ("", f"{kind.__module__}.")
}
"""As ``bridge.outcome_of_error`` names them."""


# --- cancel -------------------------------------------------------------------------------------

CANCEL: Final = "cancel:"
"""The ``output`` of a request to end the call with this id. It takes the way of a task's call as
far as the store, and is no call itself."""


async def cancel(call_id: str) -> bool:
    """End a call, queued or running: a callback's or a task's, of any page.

    From inside any callback or task. ``dash_dispatch.ctx.call_id`` names the call that runs. Its
    page sees what it sees of a Cancel button: nothing changes, ``running=`` is reset. A queued
    call never starts, an ``async def`` gets ``CancelledError``, a process is killed, and a thread
    can ask ``ctx.is_cancelled()``.

    Returns:
        True if it had not ended before.

    Raises:
        RuntimeError: Not inside a callback.
        StoreUnavailable: Redis cannot be reached.
    """
    outcome = await asyncio.wrap_future(_submit_cancel(call_id))
    return outcome.status is Status.OK


def cancel_sync(call_id: str) -> bool:
    """`cancel` for a plain ``def``, which cannot await.

    Raises:
        RuntimeError: On an event loop, which it would block; and what `cancel` raises.
    """
    if _on_a_loop():
        raise RuntimeError("cancel_sync would block the event loop: write await cancel(...)")
    return _submit_cancel(call_id).result().status is Status.OK


def _submit_cancel(call_id: str) -> "concurrent.futures.Future[Outcome]":
    runner = _runner.get()
    if runner is None:
        raise RuntimeError("dash_dispatch.cancel outside of a callback: call it from inside one")
    if not isinstance(call_id, str):
        raise TypeError(f"cancel({call_id!r}): takes the id of a call, a text")
    request = CallSpec(call_id, "", "", "", CANCEL, "", 0.0, b"", b"")
    return runner.submit(request)


# --- arguments and results ----------------------------------------------------------------------


class Arguments(msgspec.Struct, frozen=True):
    """The payload of a task's call."""

    args: list[Any] = []
    kwargs: dict[str, Any] = {}


def _encode_arguments(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    try:
        return encode({"args": args, "kwargs": kwargs})
    except TypeError:
        for place, value in [*enumerate(args, 1), *kwargs.items()]:
            what = f"argument {place}" if isinstance(place, int) else f"argument {place!r}"
            _check_encodable(value, f"run({name}): {what}")
        raise


def _check_encodable(value: Any, what: str) -> None:
    try:
        encode(value)
    except TypeError as error:
        kind = type(value).__name__
        raise TypeError(f"{what} ({kind}) cannot be sent as JSON: {error}") from error


def encode(value: Any) -> bytes:
    """JSON text of what JSON has, and of what Dash makes JSON of.

    Raises:
        TypeError: It is neither.
    """
    try:
        return orjson.dumps(value)
    except TypeError:
        # Components, figures, arrays. Slower: it looks at every element.
        try:
            return bridge.encode_json(value)
        except RecursionError as error:
            raise TypeError("it is nested too deep, or holds itself") from error


def decode_arguments(payload: bytes) -> tuple[list[Any], dict[str, Any]]:
    """What `run` was given."""
    arguments = msgspec.convert(orjson.loads(payload), Arguments)
    return arguments.args, arguments.kwargs


def encode_result(name: str, value: Any) -> str:
    """JSON text of what a task has returned.

    Raises:
        TypeError: It has none.
    """
    try:
        return encode(value).decode()
    except TypeError as error:
        kind = type(value).__name__
        raise TypeError(
            f"what the task {name} returns ({kind}) cannot be sent as JSON: {error}"
        ) from error
