"""Rounds of floods, one contestant after the other."""

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from benchmarks.floods import Flood
from benchmarks.measures import CLIENT, Measure, Meter, Ratio
from benchmarks.processes import Proc


@dataclass
class Contestant:
    """A server, how it is asked, and how many answers per second it gave.

    Attributes:
        work: CPU time of the web process per answer. Others on the machine take a server's time
            away, but they add little to this.
    """

    label: str
    procs: tuple[Proc, ...]
    flood: Flood
    rate: Measure = field(init=False)
    work: Measure = field(init=False)
    meter: Meter = field(init=False)

    def __post_init__(self) -> None:
        self.rate = Measure(self.label, "1/s")
        self.work = Measure(f"{self.label}: CPU time of the web process", "µs")
        self.meter = Meter(self.procs)

    @property
    def measures(self) -> list[Measure]:
        """How many answers, and what each took."""
        return [self.rate, self.work]

    def over(
        self, other: "Contestant", label: str, target: float | None = None, line: str = ""
    ) -> Ratio:
        """Its answers per second over those of another."""
        label = f"{label} / {other.label}"
        return Ratio.of(label, self.rate, other.rate, sense="≥", target=target, line=line)

    def over_by_work(self, other: "Contestant", label: str) -> Ratio:
        """The same by the CPU time of the web processes: by how much less it takes."""
        return Ratio.of(f"{label} / {other.label}, by CPU time", other.work, self.work, sense="≥")

    async def round(self, window_s: float, warm_up_s: float, *, keep: bool = True) -> None:
        """Count the answers of a window that begins when everything has got going."""
        await self.flood.open()
        try:
            await asyncio.sleep(warm_up_s)
            with self.meter.running() if keep else Meter([]).running():
                before, started = self.flood.answered, time.perf_counter()
                used_s = self.procs[0].cpu_s()
                await asyncio.sleep(window_s)
                answers = self.flood.answered - before
                took_s = time.perf_counter() - started
                used_s = self.procs[0].cpu_s() - used_s
        finally:
            await self.flood.close()
        if keep:
            self.meter.calls += answers
            self.rate.rounds.append([answers / took_s])
            self.work.rounds.append([1e6 * used_s / max(1, answers)])


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


def headroom(contestants: Iterable[Contestant]) -> list[str]:
    """What the client had left, in words: how much it has been seen to do, and what it used."""
    rates = sorted(((one.rate.at(0.5), one) for one in contestants), key=lambda found: found[0])
    most, fastest = rates[-1]
    shares = [one.rate.cpu[CLIENT] for _, one in rates]
    return [
        f"The client is not what limits: it got {most:.0f}/s out of {fastest.label!r}, and used"
        f" {min(shares):.2f} to {max(shares):.2f} of a core."
    ]
