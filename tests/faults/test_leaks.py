"""After many calls of every kind, Redis and the processes are as they were before."""

import random
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
WAVE = 100
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


async def settled(stack: Stack, raw: Any) -> None:
    """Wait until everything that ends by itself has ended."""
    await eventually(
        lambda: not leftovers.kinds(raw, stack.namespace).keys() - leftovers.FIXED,
        "only the fixed keys are left",
        SESSION_TTL_S + 10,
    )
    raw.memory_purge()


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


async def wave(client: Client, serial: int, rng: random.Random) -> list[str]:
    """Ask for a number of calls; returns their names."""
    names = []
    for number in range(WAVE):
        (kind,) = rng.choices(list(WEIGHTS), list(WEIGHTS.values()))
        # Four results are shared by all calls of a wave.
        tag = f"shared-{serial}-{number % 4}" if kind == "shared" else f"{kind}-{serial}-{number}"
        name = f"{kind}-{serial}-{number}"
        await client.call(name, f"{kind}.children", [tag, 0.001])
        if rng.random() < CANCELLED:
            await client.cancel(name)
        names.append(name)
    return names


async def run(address: str, calls: int, rng: random.Random) -> int:
    """So many calls, some of them given up; returns how many outcomes came."""
    came = 0
    for serial in range(calls // WAVE):
        kind = LongPollClient if serial % 7 == 3 else WebsocketClient
        async with kind(address) as client:
            names = await wave(client, serial, rng)
            if serial % ABANDONED == ABANDONED - 1:
                continue
            await client.until(lambda: not client.pending, "all outcomes", 60)
            await client.ack()
            assert client.seen.outcomes.keys() == set(names)
            assert not client.seen.strays
            came += len(names)
    return came


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
    (address,) = stack.up()
    raw, rng = own_redis.client(), random.Random(5)
    # What is loaded and allocated once has been, by then.
    await run(address, scaled(5, 20) * WAVE, rng)
    if scaled(0, 1):
        await settled(stack, raw)
    before = level(stack, raw)

    came = await run(address, CALLS, rng)

    during = level(stack, raw)
    await settled(stack, raw)
    after = level(stack, raw)
    leftovers.tell(
        f"{CALLS} calls, {came} outcomes\nbefore {before}\nat their end {during}\nafter  {after}"
    )
    assert sum(after.keys.values()) < 20, "as many as lanes and processes"
    assert after.redis_bytes < before.redis_bytes + 2**19
    assert after.web_bytes < before.web_bytes + ROOM_BYTES
    assert after.worker_bytes < before.worker_bytes + ROOM_BYTES
