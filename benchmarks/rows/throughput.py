"""Empty offloaded callbacks per second: one web process, one worker, many in flight."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass

from benchmarks.clients import DispatchSocket, Http, next_value
from benchmarks.measures import Measure, Meter, Ratio, Result
from benchmarks.stacks import Bench, Stack

TITLE = "Offloaded callbacks per second, one web and one worker process"
OFFLOADED = {"async": "async def", "process": "def in processes", "thread": "def in threads"}


@dataclass(frozen=True)
class Settings:
    """How long a round is. Celery's is longer: its polls are steps of ``interval_ms``."""

    rounds: int
    window_s: float
    celery_window_s: float
    in_flight: int = 50
    interval_ms: int = 300
    warm_up_s: float = 1.0
    drain_s: float = 30.0


FULL = Settings(rounds=3, window_s=2, celery_window_s=6)
QUICK = Settings(rounds=1, window_s=1, celery_window_s=2, warm_up_s=0.3)


class Crowd:
    """``in_flight`` callers of one callback, each asking again as soon as it is answered."""

    def __init__(
        self,
        label: str,
        procs: tuple,
        once: Callable[[], Awaitable[bool]],
        settings: Settings,
        window_s: float,
    ) -> None:
        self.rate = Measure(label, "1/s")
        self.latency = Measure(f"{label}: latency meanwhile", "ms")
        self.meter = Meter(procs)
        self.lost = 0
        self.answered = 0
        self._once = once
        self._settings = settings
        self._window_s = window_s

    async def round(self) -> None:
        """Count the answers of a window that begins when everything has got going."""
        samples: list[float] = []
        ends = asyncio.Event()
        callers = [
            asyncio.create_task(self._caller(samples, ends))
            for _ in range(self._settings.in_flight)
        ]
        try:
            await asyncio.sleep(self._settings.warm_up_s)
            samples.clear()
            started = time.perf_counter()
            with self.meter.running():
                await asyncio.sleep(self._window_s)
                counted, took_s = list(samples), time.perf_counter() - started
            ends.set()
            async with asyncio.timeout(self._settings.drain_s):
                await asyncio.gather(*callers)
        finally:
            for caller in callers:
                caller.cancel()
        self.meter.calls += len(counted)
        self.rate.rounds.append([len(counted) / took_s])
        self.latency.rounds.append(counted or [self._window_s * 1000])

    async def _caller(self, samples: list[float], ends: asyncio.Event) -> None:
        while not ends.is_set():
            started = time.perf_counter()
            found = await self._once()
            self.answered += 1
            if found:
                samples.append((time.perf_counter() - started) * 1000)
            else:
                self.lost += 1


def run(bench: Bench) -> Result:
    """Measure ours and Celery in turns."""
    settings = QUICK if bench.quick else FULL
    ours = bench.dash_dispatch()
    celery = bench.celery() if bench.peers else None
    crowds = asyncio.run(_measure(settings, ours, celery))
    for crowd in crowds.values():
        crowd.meter.note(crowd.rate)
    measures = [m for crowd in crowds.values() for m in (crowd.rate, crowd.latency)]
    ratios = []
    if celery is not None:
        ratios = [
            Ratio.of(
                f"{words} / Celery", crowds[name].rate, crowds["celery"].rate, sense="≥", target=10
            )
            for name, words in OFFLOADED.items()
        ]
    notes = [
        "The local callback shows what this client and the web process can do without a worker.",
        *(
            f"{crowd.rate.label}: {crowd.lost} of {crowd.answered} results lost"
            for crowd in crowds.values()
            if crowd.lost
        ),
    ]
    return Result("throughput", TITLE, asdict(settings), measures, ratios, notes)


async def _measure(settings: Settings, ours: Stack, celery: Stack | None) -> dict[str, Crowd]:
    async with AsyncExitStack() as stack:
        crowds = await _ours(stack, settings, ours)
        if celery is not None:
            crowds["celery"] = await _celery(stack, settings, celery)
        names = list(crowds)
        for number in range(settings.rounds):
            for name in names[number % len(names) :] + names[: number % len(names)]:
                await crowds[name].round()
    return crowds


async def _ours(stack: AsyncExitStack, settings: Settings, ours: Stack) -> dict[str, Crowd]:
    socket = DispatchSocket()
    await socket.open(ours.address)
    stack.callback(socket.close)

    def crowd(output: str, label: str) -> Crowd:
        async def once() -> bool:
            await socket.call(output, next_value())
            return True

        return Crowd(label, ours.procs, once, settings, settings.window_s)

    return {
        "local": crowd("local", "local async def"),
        **{name: crowd(name, f"offloaded {words}") for name, words in OFFLOADED.items()},
    }


async def _celery(stack: AsyncExitStack, settings: Settings, celery: Stack) -> Crowd:
    http = await stack.enter_async_context(Http(celery.address))

    async def once() -> bool:
        return await http.background("background", next_value(), settings.interval_ms / 1000)

    label = f"stock Dash, Celery, two processes, polled every {settings.interval_ms} ms"
    return Crowd(label, celery.procs, once, settings, settings.celery_window_s)
