"""Waiting for tasks, and ending them for certain."""

import asyncio
from collections.abc import Iterable
from typing import Any

PATIENCE_S = 0.1


async def end(tasks: Iterable["asyncio.Task[Any] | None"]) -> list[Any]:
    """Cancel tasks and wait until they have ended.

    One cancel does not do: on Python 3.11 ``asyncio.wait_for``, which Redis' client uses, swallows
    one that comes as its own wait succeeds (python/cpython#86296).

    Returns:
        Their results and exceptions, as ``asyncio.gather(return_exceptions=True)`` does.
    """
    mine = [task for task in tasks if task is not None]
    pending = {task for task in mine if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=PATIENCE_S)
    return await asyncio.gather(*mine, return_exceptions=True)


class Flag:
    """An ``asyncio.Event`` for one who waits, at a tenth of its size: every idle page has some."""

    __slots__ = ("_set", "_waiter")

    def __init__(self) -> None:
        self._set = False
        self._waiter: asyncio.Future[None] | None = None

    def set(self) -> None:
        """Wake who waits, and let nobody wait until it is cleared."""
        self._set = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def clear(self) -> None:
        """Let the next one wait."""
        self._set = False

    def is_set(self) -> bool:
        """Whether it is set."""
        return self._set

    async def wait(self) -> None:
        """Return when it is set.

        Raises:
            RuntimeError: Somebody waits already.
        """
        if self._set:
            return
        if self._waiter is not None:
            raise RuntimeError("a flag is for one who waits")
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
