"""What one offloaded call costs in each process and in Redis: the inputs of docs/scaling.md.

Calls come at a fixed rate, so that batches are as small as they are on a site that is not full;
then as many as go, to compare with what the costs predict for this machine.
"""

import asyncio
import os
import time
from dataclasses import asdict, dataclass
from typing import Any

from redis.asyncio import Redis

from benchmarks.clients import DispatchSocket, next_value
from benchmarks.contest import Contestant
from benchmarks.floods import SocketFlood
from benchmarks.measures import Measure, Ratio, Result
from benchmarks.stacks import Bench, Stack

TITLE = "What an empty offloaded async def costs, by process"
OUTPUT = "async"
WHO = ("web", "worker", "redis")


@dataclass(frozen=True)
class Settings:
    """Calls per second, and for how long."""

    rates: tuple[int, ...]
    window_s: float
    rounds: int
    idle_s: float
    sockets: int = 4
    in_flight: int = 16


FULL = Settings(rates=(50, 200), window_s=3, rounds=2, idle_s=6)
QUICK = Settings(rates=(50,), window_s=0.5, rounds=1, idle_s=0.5)


class Books:
    """What has been used so far, by process and by Redis, and what that came to in between."""

    def __init__(self, stack: Stack, client: Any) -> None:
        self.measures: dict[str, Measure] = {}
        self._stack = stack
        self._client = client

    def note(self, label: str, unit: Any, value: float) -> None:
        self.measures.setdefault(label, Measure(label, unit)).rounds.append([value])

    async def read(self) -> dict[str, float]:
        info = await self._client.info()
        stats = await self._client.info("commandstats")
        asked = stats.get("cmdstat_info", {"calls": 0})["calls"]
        used_s = {who: proc.cpu_s() for who, proc in zip(WHO, self._stack.procs, strict=True)}
        # The system counts in steps of 10 ms, which is more than an idle Redis takes in seconds.
        used_s["redis"] = info["used_cpu_user"] + info["used_cpu_sys"]
        return {
            "at": time.perf_counter(),
            "in": info["total_net_input_bytes"],
            "out": info["total_net_output_bytes"],
            "executed": sum(stat["calls"] for stat in stats.values()) - asked,
        } | used_s


def run(bench: Bench) -> Result:
    """One web process and one worker."""
    settings = QUICK if bench.quick else FULL
    stack = bench.dash_dispatch()
    books, full = asyncio.run(_measure(bench, settings, stack))
    rate = settings.rates[-1]
    costs = {who: books.measures[f"{who}, {rate} calls/s"].at(0.5) for who in WHO}
    predicted = (os.cpu_count() or 1) * 1000 / sum(full.cost_ms.values())
    ratios = [
        Ratio.plain("measured, as many as go", full),
        Ratio(
            "measured / predicted: all cores over the CPU time of a call, the client's included",
            [full.at(0.5) / predicted],
            "≤",
            None,
            [full.label],
        ),
    ]
    words = ", ".join(f"{who} {cost:.0f}" for who, cost in costs.items())
    notes = [f"µs per call at {rate} calls/s: {words}"]
    return Result("costs", TITLE, asdict(settings), [*books.measures.values(), full], ratios, notes)


async def _measure(bench: Bench, settings: Settings, stack: Stack) -> tuple[Books, Measure]:
    sockets = [DispatchSocket() for _ in range(settings.sockets)]
    for socket in sockets:
        await socket.open(stack.address)
        await socket.call(OUTPUT, next_value())
    async with Redis(port=bench.redis_port) as client:
        books = Books(stack, client)
        idle = await _idle(books, settings.idle_s)
        for _ in range(settings.rounds):
            for rate in settings.rates:
                await _at_rate(books, sockets, rate, settings.window_s, idle)
    for socket in sockets:
        socket.close()
    many = {"sockets": settings.sockets, "in_flight": settings.in_flight}
    full = Contestant(
        "as many as go", stack.procs, SocketFlood(stack.address, DispatchSocket, OUTPUT, **many)
    )
    for _ in range(settings.rounds):
        await full.round(settings.window_s / 2, 0.5)
    full.meter.note(full.rate)
    return books, full.rate


async def _idle(books: Books, window_s: float) -> dict[str, float]:
    """CPU seconds per second of nothing: beats, leases, pings. They are taken off the rest."""
    before = await books.read()
    await asyncio.sleep(window_s)
    after = await books.read()
    took_s = after["at"] - before["at"]
    for who in WHO:
        books.note(f"{who}, idle: CPU per second", "µs", 1e6 * (after[who] - before[who]) / took_s)
    executed = (after["executed"] - before["executed"]) / took_s
    books.note("idle: commands executed, those of scripts included", "1/s", executed)
    return {who: (after[who] - before[who]) / took_s for who in WHO}


async def _at_rate(
    books: Books,
    sockets: list[DispatchSocket],
    rate: int,
    window_s: float,
    idle: dict[str, float],
) -> None:
    calls = int(rate * window_s)
    before = await books.read()
    async with asyncio.TaskGroup() as group:
        for number in range(calls):
            due = before["at"] + number / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            group.create_task(sockets[number % len(sockets)].call(OUTPUT, next_value()))
    after = await books.read()
    took_s = after["at"] - before["at"]
    for who in WHO:
        used_s = after[who] - before[who] - idle[who] * took_s
        books.note(f"{who}, {rate} calls/s", "µs", 1e6 * used_s / calls)
    for word, label in (
        ("in", "bytes to Redis"),
        ("out", "bytes from Redis"),
        ("executed", "commands executed, those of scripts included"),
    ):
        books.note(f"{label}, {rate} calls/s", "", (after[word] - before[word]) / calls)
