"""Plotly Dash whose slow callbacks run somewhere else.

``from dash_dispatch import Dash`` in place of ``from dash import Dash``, and ``offload=True`` on a
callback that blocks.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dash_dispatch.app import Dash
from dash_dispatch.callbacks import callback
from dash_dispatch.context import ctx
from dash_dispatch.errors import (
    BadRequest,
    CallCancelled,
    CallError,
    CallExpired,
    CallFailed,
    CallTimedOut,
    ConfigError,
    DecodeError,
    DispatchError,
    Forbidden,
    NotOffloaded,
    PayloadTooLarge,
    ProtocolError,
    QueueFull,
    StoreError,
    StoreUnavailable,
    SubmitError,
    UnsupportedVersion,
    WorkerLost,
)
from dash_dispatch.lifecycle import on_worker_start, on_worker_stop
from dash_dispatch.offload import Offload
from dash_dispatch.remote import cancel, cancel_sync, run, run_sync, task

if TYPE_CHECKING:
    from types import ModuleType

    from dash_dispatch.config import Settings

    worker: ModuleType

__all__ = [
    "BadRequest",
    "CallCancelled",
    "CallError",
    "CallExpired",
    "CallFailed",
    "CallTimedOut",
    "ConfigError",
    "Dash",
    "DecodeError",
    "DispatchError",
    "Forbidden",
    "NotOffloaded",
    "Offload",
    "PayloadTooLarge",
    "ProtocolError",
    "QueueFull",
    "Settings",
    "StoreError",
    "StoreUnavailable",
    "SubmitError",
    "UnsupportedVersion",
    "WorkerLost",
    "callback",
    "cancel",
    "cancel_sync",
    "ctx",
    "on_worker_start",
    "on_worker_stop",
    "run",
    "run_sync",
    "task",
]


def __getattr__(name: str) -> Any:
    # `arq dash_dispatch.worker` reads it as an attribute. Importing it starts a worker's
    # preparations, so it is not imported with the package.
    if name == "worker":
        return import_module("dash_dispatch.worker")
    # Few apps name it, and pydantic-settings takes a tenth of the time that Dash takes.
    if name == "Settings":
        return import_module("dash_dispatch.config").Settings
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
