"""Limits over real workers: never exceeded, and no slot is kept by the dead."""

import signal
import time
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.client import WebsocketClient
from tests.conftest import StackFactory
from tests.stack import Stack, eventually

pytestmark = pytest.mark.faults

LIMIT = 2
CALLS = 50
WORKERS = 4
LEASE_S = 2.0


class Note(NamedTuple):
    """A line that a callback wrote."""

    what: str
    tag: str
    at_s: float
    pid: int


def notes(stack: Stack) -> list[Note]:
    """What the callbacks of the group did, in order."""
    path = stack.folder / "runs"
    lines = path.read_text().splitlines() if path.exists() else []
    found = [line.split() for line in lines]
    return sorted(
        (Note(what, tag, float(at), int(pid)) for what, tag, at, pid in found),
        key=lambda note: note.at_s,
    )


def most_at_once(found: list[Note]) -> int:
    """How many ran at the same time."""
    runs, most = 0, 0
    for note in found:
        runs += 1 if note.what == "start" else -1
        most = max(most, runs)
    return most


@pytest.fixture
def stack(make_stack: StackFactory) -> Iterator[Stack]:
    made = make_stack("limits", lease_s=str(LEASE_S), processes="1")
    yield made
    for web in made.webs:
        assert "Traceback" not in web.log, web.log


async def test_a_group_never_exceeds_its_limit_over_several_workers(stack: Stack) -> None:
    """Over all executors; and what is under no limit is not delayed."""
    (address,) = stack.up(workers=WORKERS)
    tags = [f"{('loop', 'thread', 'process')[n % 3]}-{n}" for n in range(CALLS)]
    async with WebsocketClient(address) as client:
        for tag in tags:
            await client.call(tag, f"{tag.partition('-')[0]}.children", tag)
        await client.call("free", "free.children", "free")
        assert await client.children("free") == "free"
        assert len(client.pending) > CALLS / 2, "it did not wait for the group"
        for tag in tags:
            assert await client.children(tag, within_s=40) == tag
    found = notes(stack)
    assert sorted(note.tag for note in found if note.what == "end") == sorted(tags)
    assert len(found) == 2 * CALLS, "each ran once"
    assert most_at_once(found) == LIMIT
    assert len({note.pid for note in found}) > WORKERS, "several workers and processes took part"


async def test_the_slots_of_a_killed_worker_are_free_within_the_lease(stack: Stack) -> None:
    (address,) = stack.up(workers=1)
    async with WebsocketClient(address) as client:
        for n in range(LIMIT):
            await client.call(f"dies-{n}", "dies.children", f"dies-{n}")
        await eventually(lambda: len(notes(stack)) == LIMIT, "all slots are taken")
        await client.call("loop-1", "loop.children", "loop-1")
        stack.worker()
        stack.workers[0].signal(signal.SIGKILL)
        killed_s = time.monotonic()
        assert await client.children("loop-1") == "loop-1"
        assert [(await client.outcome(f"dies-{n}"))["status"] for n in range(LIMIT)] == [
            "error"
        ] * 2
    starts_s = next(note.at_s for note in notes(stack) if note.tag == "loop-1")
    # A second for a slow machine: a sweep itself takes some milliseconds.
    assert killed_s < starts_s < killed_s + LEASE_S + 1


async def test_a_worker_that_comes_back_says_what_it_can_do(stack: Stack) -> None:
    """It was silent for longer than its lease; estimates count with it again."""
    stack.up(workers=1)
    redis, name = stack.redis.client(), f"{stack.namespace}:"
    stack.workers[0].signal(signal.SIGSTOP)
    await eventually(lambda: not redis.exists(f"{name}capacity", f"{name}workers"), "it is lost")
    stack.workers[0].signal(signal.SIGCONT)
    await eventually(lambda: redis.hlen(f"{name}capacity") == 1, "it is back")
    assert redis.zcard(f"{name}workers") == 1
