"""Hears that a server is about to stop, from one that has a way to tell.

Hypercorn lets what is open go on for as long as its patience lasts, and then cancels it: a
websocket ends without a word (on Python 3.11 with a traceback for each), a long-poll without an
answer. Its apps hear of the stop when all that is over. Uvicorn closes websockets by itself.
"""

import asyncio
from collections.abc import Callable
from typing import Any


class Watch:
    """Calls a function when the server stops.

    Args:
        stop: What is called.
    """

    def __init__(self, stop: Callable[[], None]) -> None:
        self._stop = stop
        self._watched: Any = None
        self._watching: asyncio.Task[None] | None = None

    def look(self, send: Any) -> None:
        """Ask the server to tell, by the ``send`` of any of its connections. Once asks for all."""
        context = getattr(getattr(send, "__self__", None), "context", None)
        stopped = getattr(context, "terminated", None)
        if stopped is not self._watched and hasattr(stopped, "wait"):
            self._watched = stopped
            self._watching = asyncio.create_task(self._await_end(stopped), name="end of server")

    async def _await_end(self, stopped: Any) -> None:
        await stopped.wait()
        self._stop()
