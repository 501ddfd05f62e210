"""Imported by the fork server: it imports the app, so that each process is born with it."""

import contextlib
import os

from dash_dispatch import bridge, memory
from dash_dispatch.child import PRELOAD
from dash_dispatch.errors import DispatchError
from dash_dispatch.loading import load_app

# A failure is not said here: the processes try for themselves, and their words reach the worker.
with contextlib.suppress(DispatchError):
    bridge.ready(load_app(os.environ[PRELOAD]))
    memory.settle()
