"""Empty offloaded callbacks per second: one web process, one worker, many in flight."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass

from benchmarks.clients import DispatchSocket, Http, WrongAnswer, next_value
from benchmarks.measures import Measure, Meter, Ratio, Result
from benchmarks.processes import Proc
from benchmarks.stacks import Bench, Stack

TITLE = "Offloaded callbacks per second, one web and one worker process"
OFFLOADED = {"async": "async def", "process": "def in processes", "thread": "def in threads"}


@dataclass(frozen=True)
class Settings:
    """How long a round is. Celery's is longer: its polls are steps of ``interval_ms``.

    Celery gets the best that was found, among 2 and 8 threads in front of it, and polls from 0.1
    to 2 s with 25 to 200 in flight: where the machine was quiet (50 at 0.3 s, 100 at 1 s), a call
    cost Flask 6 ms of CPU time either way, and that is what limits it.
    """

    rounds: int
    window_s: float
    celery_window_s: float
    disk_rounds: int
    disk_in_flight: int = 8
    in_flight: int = 50
    interval_ms: int = 300
    warm_up_s: float = 0.8
    drain_s: float = 8.0


FULL = Settings(rounds=3, window_s=1.5, celery_window_s=4, disk_rounds=1)
QUICK = Settings(rounds=1, window_s=0.4, celery_window_s=2, disk_rounds=1, warm_up_s=0.2)


class Crowd:
    """``in_flight`` callers of one callback, each asking again as soon as it is answered."""

    def __init__(
        self,
        label: str,
        procs: tuple[Proc, ...],
        once: Callable[[], Awaitable[bool]],
        settings: Settings,
        window_s: float,
        in_flight: int,
        *,
        may_lose: bool,
    ) -> None:
        self.rate = Measure(label, "1/s")
        self.latency = Measure(f"{label}: latency meanwhile", "ms")
        self.meter = Meter(procs)
        self.lost = 0
        self.answered = 0
        self._once = once
        self._settings = settings
        self._in_flight = in_flight
        self._window_s = window_s
        self._may_lose = may_lose

    async def round(self) -> None:
        """Count the answers of a window that begins when everything has got going."""
        samples: list[float] = []
        ends = asyncio.Event()
        callers = [asyncio.create_task(self._caller(samples, ends)) for _ in range(self._in_flight)]
        try:
            await asyncio.sleep(self._settings.warm_up_s)
            samples.clear()
            started = time.perf_counter()
            with self.meter.running():
                await asyncio.sleep(self._window_s)
                counted, took_s = list(samples), time.perf_counter() - started
            ends.set()
            _, left = await asyncio.wait(callers, timeout=self._settings.drain_s)
            if left and not self._may_lose:
                raise WrongAnswer(f"{self.rate.label}: {len(left)} calls are not answered")
            self.lost += len(left)
            await asyncio.gather(*(caller for caller in callers if caller not in left))
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
    peers = {"celery": bench.celery(), "diskcache": bench.diskcache()} if bench.peers else {}
    crowds = asyncio.run(_measure(settings, ours, peers))
    for crowd in crowds.values():
        crowd.meter.note(crowd.rate)
    measures = [m for crowd in crowds.values() for m in (crowd.rate, crowd.latency)]
    ratios = []
    if peers:
        celery = crowds["celery"].rate
        ratios = [
            Ratio.of(
                f"offloaded {words} / Celery",
                crowds[name].rate,
                celery,
                sense="≥",
                target=10,
                line="throughput",
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


async def _measure(settings: Settings, ours: Stack, peers: dict[str, Stack]) -> dict[str, Crowd]:
    async with AsyncExitStack() as stack:
        crowds = await _ours(stack, settings, ours)
        for name, peer in peers.items():
            crowds[name] = await _peer(stack, settings, name, peer)
        names = list(crowds)
        for number in range(settings.rounds):
            for name in names[number % len(names) :] + names[: number % len(names)]:
                if name != "diskcache" or number < settings.disk_rounds:
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

        window_s, in_flight = settings.window_s, settings.in_flight
        return Crowd(label, ours.procs, once, settings, window_s, in_flight, may_lose=False)

    return {
        "local": crowd("local", "local async def"),
        **{name: crowd(name, f"offloaded {words}") for name, words in OFFLOADED.items()},
    }


async def _peer(stack: AsyncExitStack, settings: Settings, name: str, peer: Stack) -> Crowd:
    http = await stack.enter_async_context(Http(peer.address))

    async def once() -> bool:
        return await http.background("background", next_value(), settings.interval_ms / 1000)

    words = {"celery": "Celery, two processes", "diskcache": "Diskcache, a process per call"}[name]
    label = f"stock Dash, {words}, polled every {settings.interval_ms} ms"
    # It starts as many processes at once.
    in_flight = settings.disk_in_flight if name == "diskcache" else settings.in_flight
    window_s = settings.celery_window_s
    return Crowd(label, peer.procs, once, settings, window_s, in_flight, may_lose=True)
