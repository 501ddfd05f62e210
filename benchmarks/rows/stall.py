"""A fast callback while slow ones run: does anybody else notice them?

The fast one is sent over HTTP at a fixed rate, come what may, and its latency counts from the
moment at which it was due: a server that stands still for two seconds delays all that was due in
them, and that is what is reported. The slow ones have a client of their own, in another process.
The fast one's is served first, in idle windows as in busy ones: it stands for a browser, which has
a machine of its own, and here it would wait for a core behind the very ones that it looks at.
"""

import asyncio
import time
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass

from benchmarks.clients import Http, next_value
from benchmarks.measures import Measure, Meter, Ratio, Result
from benchmarks.processes import END_S, Proc, served_first
from benchmarks.stacks import QUICK_S, Bench, Stack

TITLE = "A fast callback every 20 ms while slow ones run"
SPIN_S = 0.0015
"""The loop's timer is a millisecond coarse; the rest is waited for by looking at the clock."""

LATE_MS = 5.0
"""A client that sends more than one of a hundred later than this may be what is measured."""

OURS, STOCK = "dash_dispatch", "stock Dash on Quart"


@dataclass(frozen=True)
class Settings:
    """Lengths of the windows. After each, all that it has started is waited for.

    A peer that stands still takes half a minute for that: one round shows it.
    """

    rounds: int
    window_s: float
    peer_rounds: int = 1
    slow_s: float = 3.0
    every_s: float = 0.02
    warm_up: int = 50
    limit_s: float = 120.0


FULL = Settings(rounds=3, window_s=4)
QUICK = Settings(rounds=1, window_s=0.6, slow_s=QUICK_S, warm_up=10)

# 200 slow ones, and a worker that runs that many at once. Those that it had to put in line would
# come bit by bit, and still be there in the next window.
AT_ONCE = "256"
SLOW = {
    OURS: ("slow-plain=8", "slow-async=186", "slow-thread=12", "slow-process=2"),
    STOCK: ("slow-plain=8", "slow-async=10"),
}
PROTOCOLS = {OURS: "ours", STOCK: "stock"}

# How the slow ones come: over the time that one takes, or all at once and so in step ever after.
WAYS = {"busy": True, "in step": False}


class Contestant:
    """One server, its idle and its busy figures."""

    def __init__(self, name: str, stack: Stack, http: Http, ways: tuple[str, ...]) -> None:
        self.name = name
        self.ways = ways
        self.measures = {when: Measure(f"{name}, {when}", "ms") for when in ("idle", *ways)}
        self.late = {
            when: Measure(f"{name}, {when}: sent later than due", "ms") for when in self.measures
        }
        self.slow_calls = 0
        self.lost = 0
        self.first = False
        self._meters = {when: Meter(stack.procs) for when in self.measures}
        self._address = stack.address
        self._http = http

    async def warm_up(self, calls: int) -> None:
        """What is slow only once is not measured."""
        for _ in range(calls):
            await self._http.call("fast", next_value())

    async def round(self, bench: Bench, settings: Settings) -> None:
        """An idle window, then the busy ones."""
        async with asyncio.timeout(settings.limit_s):
            await self._window("idle", settings)
        for way in self.ways:
            spread_s = settings.slow_s if WAYS[way] else 0.0
            load = bench.load(self._address, PROTOCOLS[self.name], str(spread_s), *SLOW[self.name])
            async with asyncio.timeout(settings.limit_s):
                await asyncio.to_thread(load.wait_until, lambda load=load: "in flight" in load.log)
                await self._window(way, settings, load)
            # A peer that stands still would keep it waiting: it has seen enough.
            await asyncio.to_thread(load.end, END_S if self.name == OURS else 0.5)
            self._count(load.log)

    def _count(self, told: str) -> None:
        # Where slow calls are in each other's way, they had not ended when the load was killed.
        if "ended " in told:
            answered, lost = told.partition("ended ")[2].split()
            self.slow_calls += int(answered)
            self.lost += int(lost)
        elif self.name == OURS:
            self.measures["idle"].remarks.append("slow calls of the window before had not ended")

    async def _window(self, when: str, settings: Settings, *load: Proc) -> None:
        """Send at a fixed rate, and return when all is answered."""
        late: list[float] = []
        with self._meters[when].running(*load), served_first() as self.first:
            start = time.perf_counter() + 0.05
            tasks = []
            for number in range(round(settings.window_s / settings.every_s)):
                due = start + number * settings.every_s
                await _until(due)
                late.append((time.perf_counter() - due) * 1000)
                tasks.append(asyncio.create_task(self._fast(due)))
            for one in load:
                # Nothing is due any more: no slow one follows those that are in flight.
                one.ask_to_end()
            self.measures[when].rounds.append(list(await asyncio.gather(*tasks)))
        self.late[when].rounds.append(late)

    async def _fast(self, due: float) -> float:
        await self._http.call("fast", next_value())
        return (time.perf_counter() - due) * 1000

    def results(self) -> list[Measure]:
        """All measures; doubtful where the client itself was late."""
        for when, measure in self.measures.items():
            self._meters[when].note(measure)
            if (late_ms := self.late[when].at(0.99)) > LATE_MS:
                measure.remarks.append(f"sent up to {late_ms:.0f} ms later than due (p99)")
        return [*self.measures.values(), *self.late.values()]

    def ratios(self) -> list[Ratio]:
        """Each busy window over the idle one of its round."""
        ours = self.name == OURS
        found = []
        for way in self.ways:
            busy, idle = self.measures[way], self.measures["idle"]
            label = f"{self.name}: {way} p99 / idle p99"
            target, line = (1.5 if ours else None), "stall"
            found.append(Ratio.of(label, busy, idle, share=0.99, target=target, line=line))
            found.append(Ratio.of(f"{self.name}: {way} p50 / idle p50", busy, idle))
        return found


async def _until(due: float) -> None:
    left = due - time.perf_counter() - SPIN_S
    if left > 0:
        await asyncio.sleep(left)
    while time.perf_counter() < due:  # noqa: ASYNC110 - a clock has no event to wait for
        await asyncio.sleep(0)


def run(bench: Bench) -> Result:
    """Windows of ours and of the peer in turns."""
    settings = QUICK if bench.quick else FULL
    stacks = {OURS: bench.dash_dispatch(slow_s=settings.slow_s, concurrency=AT_ONCE)}
    if bench.peers:
        stacks[STOCK] = bench.quart(slow_s=settings.slow_s)
    contestants = asyncio.run(_measure(bench, settings, stacks))
    measures = [measure for one in contestants for measure in one.results()]
    ratios = [ratio for one in contestants for ratio in one.ratios()]
    first = all(one.first for one in contestants)
    notes = [
        f"Busy: 8 plain def callbacks over HTTP and more over the websocket, of {settings.slow_s:g}"
        " s each, always that many in flight while the window is open: 200 that dash_dispatch"
        " offloads and one worker runs, 10 that stock Dash awaits. Their first ones come over the"
        " time that one takes; where they are in step, all at once. When the last fast one has been"
        " sent, no more slow ones are: a server that stands still, as stock Dash does, is not kept"
        " standing until all fast ones are answered, and its figures are the better for it.",
        "The fast ones' client is served before all others on the machine, idle or busy (SCHED_RR)."
        if first
        else "The fast ones' client waits for a core as all others do: SCHED_RR is not permitted.",
        *(
            f"{one.name}: {one.slow_calls} slow calls answered, {one.lost} lost"
            for one in contestants
            if one.slow_calls
        ),
    ]
    return Result("stall", TITLE, asdict(settings), measures, ratios, notes)


async def _measure(bench: Bench, settings: Settings, stacks: dict[str, Stack]) -> list[Contestant]:
    async with AsyncExitStack() as stack:
        found = []
        for name, started in stacks.items():
            http = await stack.enter_async_context(Http(started.address))
            # To see it in step as well would take the peer another half a minute.
            ways = tuple(WAYS) if name == OURS else ("busy",)
            found.append(Contestant(name, started, http, ways))
        for one in found:
            await one.warm_up(settings.warm_up)
        for number in range(settings.rounds):
            for one in found:
                if one.name == OURS or number < settings.peer_rounds:
                    await one.round(bench, settings)
    return found
