"""What one idle worker and one idle web process with open pages ask of Redis."""

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass

from redis.asyncio import Redis
from redis.asyncio.client import Monitor

from benchmarks.clients import SOCKET_PING_S, DispatchSocket, beat
from benchmarks.measures import Measure, Ratio, Result
from benchmarks.stacks import Bench, Stack

TITLE = "Commands to Redis per second while nothing happens"
OWN = "cmdstat_info"


@dataclass(frozen=True)
class Settings:
    """How long nothing happens, and how many pages are open meanwhile."""

    rounds: int
    window_s: float
    settle_s: float
    pages: int = 100
    ping_s: float = SOCKET_PING_S


FULL = Settings(rounds=2, window_s=12, settle_s=3)
QUICK = Settings(rounds=1, window_s=0.5, settle_s=0.2, pages=10)


def run(bench: Bench) -> Result:
    """Count what Redis is sent, and what it does for that."""
    settings = QUICK if bench.quick else FULL
    stack = bench.dash_dispatch()
    sent, executed, names = asyncio.run(_measure(bench, settings, stack))
    ratios = [
        Ratio.plain(f"commands sent, {settings.pages} pages open", sent, target=2, line="idle"),
        Ratio.plain("with those that scripts run", executed, line="idle"),
    ]
    words = ", ".join(f"{name} {count}" for name, count in sorted(names.items()))
    return Result("idle", TITLE, asdict(settings), [sent, executed], ratios, [f"Sent: {words}"])


async def _measure(
    bench: Bench, settings: Settings, stack: Stack
) -> tuple[Measure, Measure, Counter[str]]:
    sent = Measure("sent by one worker and one web process", "1/s")
    executed = Measure("executed, those of scripts included", "1/s")
    names: Counter[str] = Counter()
    async with AsyncExitStack() as opened:
        client = Redis(port=bench.redis_port, decode_responses=True)
        opened.push_async_callback(client.aclose)
        pages = [DispatchSocket() for _ in range(settings.pages)]
        for socket in pages:
            await socket.open(stack.address)
            opened.callback(socket.close)
        pinging = asyncio.create_task(beat(pages, settings.ping_s))
        opened.callback(pinging.cancel)
        await asyncio.sleep(settings.settle_s)
        monitor = await opened.enter_async_context(client.monitor())
        listening = asyncio.create_task(_listen(monitor, names))
        opened.callback(listening.cancel)
        for _ in range(settings.rounds):
            before = names.total(), await _executed(client)
            await asyncio.sleep(settings.window_s)
            after = names.total(), await _executed(client)
            for measure, start, end in zip((sent, executed), before, after, strict=True):
                measure.rounds.append([(end - start) / settings.window_s])
    return sent, executed, names


async def _executed(client: Redis) -> int:
    """What Redis has executed, without what asks for it."""
    found = await client.info("commandstats")
    return sum(stat["calls"] for name, stat in found.items() if name != OWN)


async def _listen(monitor: Monitor, heard: Counter[str]) -> None:
    """Count what clients send, by name; scripts by the beginning of their digest."""
    while True:
        command = await monitor.next_command()
        words = command["command"].split()
        name = words[0].lower()
        if command["client_type"] != "lua" and name != "info":
            heard[f"{name} {words[1][:8]}" if name == "evalsha" else name] += 1
