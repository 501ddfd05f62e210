"""Callbacks that crash, exit, fork, hang and flood: each ends with its reason, and harms nobody."""

import contextlib
import re
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import psutil
import pytest

from tests.client import WebsocketClient
from tests.conftest import StackFactory
from tests.scale import scaled
from tests.stack import Stack, eventually, text_in

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

PLACES = ("loop", "thread", "process")
TIMED_OUT = "did not end within 2 s, and was stopped"
LOG = "log: "
"""Before what is not for the page: the log has it, and the page has the id of the call."""

IN_A_PROCESS = {
    "segfault": "killed by SIGSEGV",
    "abort": "killed by SIGABRT",
    "kill -9": "killed by SIGKILL (out of memory?)",
    "no memory": LOG + "MemoryError",
    "sys.exit": LOG + "SystemExit: 3",
    "os._exit": "it exited with status 4",
    "KeyboardInterrupt": "= went on",
    "fork": "= forked",
    "fork twice": "= parent",
    "blocked signals": TIMED_OUT,
    "prints": "= printed",
    "closed streams": "= closed",
    "closed descriptors": "= closed",
    # Its death is waited for before it is given up: here, for longer than it has time.
    "closed everything": TIMED_OUT,
    "threads": "= left",
    "never ends": TIMED_OUT,
}
"""What is done, and how the call ends: an error's words, or ``= result``."""

IN_THE_WORKER = {
    "no memory": LOG + "MemoryError",
    "sys.exit": LOG + "SystemExit: 3",
    "fork": "= forked",
    "fork twice": "= parent",
    "prints": "= printed",
    "threads": "= left",
    "never ends": TIMED_OUT,
}
"""The same where a callback shares its process with the worker: on the loop, or in a thread."""


class Site(NamedTuple):
    stack: Stack
    address: str


@pytest.fixture(scope="module")
def site(make_shared_stack: StackFactory) -> Iterator[Site]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRINTED_MB", str(scaled(5, 100)))
        stack = make_shared_stack("unruly", lease_s="2", processes="2")
        yield Site(stack, *stack.up())


def agree(expected: str, found: str) -> bool:
    """Whether it ended like that, with these words among others."""
    if expected.startswith("= "):
        return found == expected
    return found.startswith(LOG) == expected.startswith(LOG) and expected.removeprefix(LOG) in found


def words_of(outcome: dict[str, object], log: str, expected: str) -> str:
    """How a call ended, in the form of the tables."""
    if outcome["status"] == "ok":
        data = outcome["data"]
        assert isinstance(data, dict)
        (props,) = data["response"].values()
        return f"= {props['children']}"
    message = str(outcome["message"])
    if expected.startswith(LOG):
        (call,) = re.findall(r"\(call (\w+)\)", message)
        return LOG + log.partition(f"! {call} ")[2].partition("\n20")[0]
    return message


@pytest.mark.parametrize("place", PLACES)
async def test_an_unruly_callback_harms_nobody(site: Site, place: str) -> None:
    (worker,) = site.stack.workers
    folder = site.stack.folder
    tags = {where: f"{place}-{where}" for where in PLACES}
    acts = IN_A_PROCESS if place == "process" else IN_THE_WORKER
    ends = {}
    # What a callback leaves behind on purpose is its own.
    forks = len(copies_of(worker.pid)) + (place != "process")
    async with WebsocketClient(site.address) as client:
        for where, tag in tags.items():
            await client.call(tag, f"neighbour-{where}.children", tag)
        pids = {
            tag: await eventually(partial(text_in, folder / f"{tag}.started"), f"{tag} runs")
            for tag in tags.values()
        }

        for act, expected in acts.items():
            await client.call(act, f"acts-{place}.children", act)
            found = words_of(await client.outcome(act), worker.log, expected)
            ends[act] = expected if agree(expected, found) else found
            # Whoever comes next finds everything as it was.
            await client.call(f"after {act}", f"acts-{place}.children", f"echo {act}")
            assert await client.children(f"after {act}") == f"echo {act}"

        assert ends == acts
        if place == "process":
            for act in (act for act, end in acts.items() if end == TIMED_OUT):
                pid = int((folder / f"{act}.started").read_text())
                await eventually(partial(is_gone, pid), f"the process of {act!r} is gone", 15)
        assert all(tag in client.pending for tag in tags.values())
        for tag in tags.values():
            (folder / f"{tag}.go").touch()
            assert await client.children(tag) == f"{tag} in {pids[tag]}"
        assert not client.seen.strays
    assert worker.process.poll() is None
    await eventually(lambda: len(copies_of(worker.pid)) <= forks, "no copy goes on")


def is_gone(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    return True


def copies_of(pid: int) -> list[int]:
    """Children of a worker that are copies of it: made by a fork, and not ended."""
    command = psutil.Process(pid).cmdline()
    return [child.pid for child in psutil.Process(pid).children() if _command(child) == command]


def _command(process: psutil.Process) -> list[str]:
    # Of one that has ended and is not waited for, too.
    with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
        return process.cmdline()
    return []


async def test_a_thread_that_never_ends_keeps_no_worker_from_ending(
    make_stack: StackFactory,
) -> None:
    """Its call has had its outcome; a deploy does not wait for what nobody waits for."""
    stack = make_stack("unruly", lease_s="2", processes="1", grace_s="1")
    (address,) = stack.up()
    async with WebsocketClient(address) as client:
        await client.call("stuck", "acts-thread.children", "never ends")
        assert TIMED_OUT in (await client.outcome("stuck"))["message"]

        assert stack.workers[0].terminate(within_s=20) == 0
