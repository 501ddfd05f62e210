"""After many calls of every kind, Redis and the processes are as they were before."""

import asyncio
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

from tests.chaos import leftovers
from tests.client import Client, LongPollClient, WebsocketClient
from tests.conftest import StackFactory
from tests.scale import scaled
from tests.stack import RedisServer, Stack, eventually

pytestmark = [pytest.mark.faults, pytest.mark.timeout(scaled(120, 3000))]

CALLS = scaled(1_000, 100_000)
STAGES = (CALLS // 10, CALLS)[scaled(1, 0) :]
"""After how many calls it is looked what there is."""
WAVE = 100
WARM_UP = scaled(5, 50)
"""Waves that are not counted."""
BROWSERS = 16
"""So many ask at once, a wave each."""
SESSION_TTL_S = 10.0
WEIGHTS = {
    "loop": 60, "stream": 4, "retried": 6, "fails": 6, "limited": 6, "shared": 6, "latest": 8,
    "thread": 3, "process": 2, "large": 3,
}  # fmt: skip
CANCELLED = 0.05
ABANDONED = 10
"""One wave in so many is of a browser that never comes back for it."""
ROOM_BYTES = 16 * 2**20
"""What a process may have grown by: its allocator's, not its calls'. 100 000 calls that each left
200 bytes behind would be more."""


class Level(NamedTuple):
    """What there is while nothing runs."""

    web_bytes: int
    worker_bytes: int
    redis_bytes: int
    keys: dict[str, int]


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """One of its own, whose memory is that of these calls alone."""
    folder = tmp_path / "redis"
    folder.mkdir()
    server = RedisServer(folder)
    try:
        yield server
    finally:
        server.end()


async def settled(stack: Stack, raw: Any) -> Level:
    """What there is when everything that ends by itself has ended."""
    await eventually(
        lambda: not leftovers.kinds(raw, stack.namespace).keys() - leftovers.FIXED,
        "only the fixed keys are left",
        SESSION_TTL_S + 10,
    )
    raw.memory_purge()
    # Its log of slow commands: up to 150 KB, where the machine is busy.
    raw.slowlog_reset()
    return level(stack, raw)


def level(stack: Stack, raw: Any) -> Level:
    """What there is now."""
    web, worker = (psutil.Process(procs[0].pid) for procs in (stack.webs, stack.workers))
    family = [worker, *worker.children(recursive=True)]
    return Level(
        web.memory_info().rss,
        sum(process.memory_info().rss for process in family),
        int(raw.info("memory")["used_memory"]),
        leftovers.counted(raw, stack.namespace),
    )


async def ask(client: Client, serial: int, rng: random.Random) -> set[str]:
    """Ask for a number of calls; returns their names."""
    names = set()
    for number in range(WAVE):
        (kind,) = rng.choices(list(WEIGHTS), list(WEIGHTS.values()))
        # Four results are shared by all calls of a wave.
        tag = f"shared-{serial}-{number % 4}" if kind == "shared" else f"{kind}-{serial}-{number}"
        name = f"{kind}-{serial}-{number}"
        await client.call(name, f"{kind}.children", [tag, 0.001])
        if rng.random() < CANCELLED:
            await client.cancel(name)
        names.add(name)
    return names


async def wave(address: str, serial: int) -> int:
    """The calls of one browser, some of them given up; returns how many outcomes came."""
    kind = LongPollClient if serial % 7 == 3 else WebsocketClient
    async with kind(address) as client:
        names = await ask(client, serial, random.Random(serial))
        if serial % ABANDONED == ABANDONED - 1:
            return 0
        await client.until(lambda: not client.pending, "all outcomes", 120)
        await client.ack()
        assert client.seen.outcomes.keys() == names
        assert not client.seen.strays
        return len(names)


async def run(address: str, serials: range) -> int:
    """A wave of each number, several browsers at once; returns how many outcomes came."""
    waiting = iter(serials)

    async def browse() -> int:
        return sum([await wave(address, serial) for serial in waiting])

    async with asyncio.TaskGroup() as group:
        browsing = [group.create_task(browse()) for _ in range(BROWSERS)]
    return sum(task.result() for task in browsing)


async def test_nothing_grows_with_the_number_of_calls(
    make_stack: StackFactory, own_redis: RedisServer
) -> None:
    stack = make_stack(
        "chaotic",
        redis_server=own_redis,
        lease_s="2",
        concurrency="64",
        max_call_rate="1000000",
        session_ttl_s=str(SESSION_TTL_S),
        result_ttl_s="2",
    )
    # Hypercorn holds a connection that its browser has closed for as long as one that it keeps
    # alive: with the 30 s of other tests the level says how fast calls come, not what they leave.
    stack.keep_alive_s = 5
    (address,) = stack.up()
    raw = own_redis.client()
    # What is loaded and allocated once has been, by then.
    await run(address, range(WARM_UP))
    levels = [await settled(stack, raw)] if scaled(0, 1) else [level(stack, raw)]
    done, came, began_s = WARM_UP, 0, time.monotonic()
    for calls in STAGES:
        until = WARM_UP + calls // WAVE
        came += await run(address, range(done, until))
        done = until
        took_s = time.monotonic() - began_s
        levels.append(await settled(stack, raw))
        leftovers.tell(f"{calls} calls, {came} outcomes, {took_s:.0f} s: {levels[-1]}")

    leftovers.tell(f"at the start: {levels[0]}")
    # What an allocator holds on to depends on the worst moment so far, and the first thousands of
    # calls have not seen it: what grows with the calls would go on to do so.
    before, after = levels[-2:]
    assert sum(after.keys.values()) < 20, "as many as lanes and processes"
    assert after.redis_bytes < before.redis_bytes + 2**19
    assert after.web_bytes < before.web_bytes + ROOM_BYTES
    assert after.worker_bytes < before.worker_bytes + ROOM_BYTES
