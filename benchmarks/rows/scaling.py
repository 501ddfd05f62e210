"""Offloaded calls per second with 1, 2, 4 and 8 workers, each call waiting for 50 ms."""

import asyncio
from dataclasses import asdict, dataclass

from benchmarks.clients import DispatchSocket
from benchmarks.contest import Contestant
from benchmarks.floods import SocketFlood
from benchmarks.measures import Measure, Ratio, Result
from benchmarks.stacks import Bench, Stack

TITLE = "Calls that wait for 50 ms, by the number of workers"
KINDS = {"wait-thread": "def in threads", "wait-async": "async def"}


@dataclass(frozen=True)
class Settings:
    """Each worker runs two calls at once: what limits them is then the waiting, not the cores."""

    workers: tuple[int, ...]
    rounds: int
    window_s: float
    warm_up_s: float = 0.5
    at_once: int = 2
    waiting: int = 2


FULL = Settings(workers=(1, 2, 4, 8), rounds=3, window_s=1.5)
QUICK = Settings(workers=(1, 2), rounds=1, window_s=0.4, warm_up_s=0.2)


def run(bench: Bench) -> Result:
    """More workers step by step; a run cannot take them away again in between."""
    settings = QUICK if bench.quick else FULL
    concurrency = {"concurrency": str(settings.at_once), "processes": "1"}
    stack = bench.dash_dispatch("figures", workers=0, **concurrency)
    measures: dict[tuple[str, int], Measure] = {}
    running = 0
    for count in settings.workers:
        stack = bench.with_workers(stack, count - running)
        running = count
        for output in KINDS:
            measures[output, count] = asyncio.run(_measure(settings, stack, output, count))
    most = settings.workers[-1]
    ratios = [
        Ratio(
            f"{words}: {most} workers / {most} times one",
            [
                many / (most * one)
                for many, one in zip(
                    measures[output, most].by_round(0.5),
                    measures[output, 1].by_round(0.5),
                    strict=True,
                )
            ],
            "≥",
            0.95,
        )
        for output, words in KINDS.items()
    ]
    return Result("scaling", TITLE, asdict(settings), list(measures.values()), ratios)


async def _measure(settings: Settings, stack: Stack, output: str, workers: int) -> Measure:
    in_flight = workers * (settings.at_once + settings.waiting)
    flood = SocketFlood(stack.address, DispatchSocket, output, sockets=2, in_flight=in_flight // 2)
    label = f"{KINDS[output]}, {workers} worker{'s' * (workers > 1)}"
    contestant = Contestant(label, stack.procs, flood)
    for _ in range(settings.rounds):
        await contestant.round(settings.window_s, settings.warm_up_s)
    contestant.meter.note(contestant.rate)
    return contestant.rate
