"""From the record of a call to something that can be run: a callback's, or a task's."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from dash_dispatch import bridge, remote
from dash_dispatch.protocol import CallSpec


def bind_call(
    app: Any, spec: CallSpec, sink: bridge.Sink, attempt: int = 1, worker: str = ""
) -> bridge.Invocation:
    """Bind a call, in a worker.

    Args:
        app: The Dash app.
        spec: The call.
        sink: Where ``set_props`` goes; a task has no page, and none.
        attempt: The number of this run, from 1.
        worker: Who runs it.

    Raises:
        UnknownCode: This worker's code has no such callback or task; says both code versions.
    """
    try:
        return _found(app, spec, sink, attempt, worker)
    except bridge.UnknownCode as error:
        own = app.runtime.settings.code_version
        asks, has = (version or "none" for version in (spec.code_version, own))
        raise bridge.UnknownCode(
            f"{error}. DASH_DISPATCH_CODE_VERSION of who asks: {asks}; of this worker: {has}"
        ) from None


def _found(
    app: Any, spec: CallSpec, sink: bridge.Sink, attempt: int, worker: str
) -> bridge.Invocation:
    if remote.is_api(spec.output):
        api = bridge.api_of(app, remote.api_path(spec.output))
        return _bind(spec, api.function, lambda value: bridge.encode_api_result(app, value))
    if remote.is_task(spec.output):
        found = remote.task_of(spec.output)
        encode = functools.partial(remote.encode_result, found.name)
        return _bind(spec, found.function, encode)
    return bridge.bind_call(app, spec, sink, attempt, worker)


def _bind(
    spec: CallSpec, function: Callable[..., Any], encode: Callable[[Any], str]
) -> bridge.Invocation:
    args, kwargs = remote.decode_arguments(spec.payload)

    # The comments tell `bridge.user_traceback` where the user's own frames begin.
    def run() -> str:
        result = function(*args, **kwargs)  # %% callback invoked %%
        return encode(result)

    async def run_async() -> str:
        result = await function(*args, **kwargs)  # %% callback invoked %%
        return encode(result)

    is_async = inspect.iscoroutinefunction(function)
    return bridge.Invocation(run_async if is_async else run, is_async, bridge.RecordedResponse())
