"""Rounds of floods, one contestant after the other."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from benchmarks.floods import Flood
from benchmarks.measures import Measure, Meter
from benchmarks.processes import Proc


@dataclass
class Contestant:
    """A server, how it is asked, and how many answers per second it gave."""

    label: str
    procs: tuple[Proc, ...]
    flood: Flood
    rate: Measure = field(init=False)
    meter: Meter = field(init=False)

    def __post_init__(self) -> None:
        self.rate = Measure(self.label, "1/s")
        self.meter = Meter(self.procs)

    async def round(self, window_s: float, warm_up_s: float, *, keep: bool = True) -> None:
        """Count the answers of a window that begins when everything has got going."""
        await self.flood.open()
        try:
            await asyncio.sleep(warm_up_s)
            with self.meter.running() if keep else Meter([]).running():
                before, started = self.flood.answered, time.perf_counter()
                await asyncio.sleep(window_s)
                answers = self.flood.answered - before
                took_s = time.perf_counter() - started
        finally:
            await self.flood.close()
        if keep:
            self.meter.calls += answers
            self.rate.rounds.append([answers / took_s])


async def measure(
    contestants: Mapping[str, Contestant], rounds: int, window_s: float, warm_up_s: float
) -> None:
    """A round to warm up, and then rounds that count, each in another order."""
    for contestant in contestants.values():
        await contestant.round(window_s / 4, warm_up_s, keep=False)
    names = list(contestants)
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            await contestants[name].round(window_s, warm_up_s)
    for contestant in contestants.values():
        contestant.meter.note(contestant.rate)
