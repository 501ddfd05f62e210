"""Gates: callbacks that wait until a test lets them go, and a log of what they did.

Web processes, workers and tests share a folder, the working directory of the processes. Nothing
here knows of time: a slow callback is as slow as its test needs it.
"""

import asyncio
import time
from pathlib import Path

GATES = Path("gates")
LOG = Path("calls.log")


def note(*words: object) -> None:
    """Write a line into the log."""
    with LOG.open("a") as log:
        log.write(" ".join(map(str, words)) + "\n")


def _is_open(name: str) -> bool:
    # A test opens all gates of its tag when it ends, whatever became of it.
    return (GATES / name).exists() or (GATES / name.partition("-")[0]).exists()


def pass_gate(name: str) -> None:
    """Wait at a gate, in a ``def``. The name begins with a tag and ``-``."""
    while not _is_open(name):
        time.sleep(0.02)


async def apass_gate(name: str) -> None:
    """Wait at a gate, in an ``async def``."""
    while not _is_open(name):
        await asyncio.sleep(0.02)
