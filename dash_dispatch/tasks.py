"""Ending tasks for certain."""

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
