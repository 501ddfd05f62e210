"""A fast callback while slow ones run: does anybody else notice them?

The fast one is sent over HTTP at a fixed rate, come what may, and its latency counts from the
moment at which it was due: a server that stands still for two seconds delays all that was due in
them, and that is what is reported.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass

from benchmarks.clients import CallSocket, DispatchSocket, Http, StockSocket, next_value
from benchmarks.measures import Measure, Meter, Ratio, Result
from benchmarks.stacks import Bench, Stack

TITLE = "A fast callback every 20 ms while slow ones run"
SPIN_S = 0.0015
"""The loop's timer is a millisecond coarse; the rest is waited for by looking at the clock."""


@dataclass(frozen=True)
class Settings:
    """Lengths of the windows. After each, all that it has started is waited for.

    A peer that stands still takes most of a minute for that: one round shows it.
    """

    rounds: int
    window_s: float
    peer_rounds: int = 1
    slow_s: float = 3.0
    every_s: float = 0.02
    warm_up: int = 50
    limit_s: float = 120.0
    plain: int = 8


FULL = Settings(rounds=3, window_s=6)
QUICK = Settings(rounds=1, window_s=1.5, slow_s=0.2, warm_up=10)

# 200 slow ones, which need not be equal: those in processes wait in line for the two there are.
OURS = {"slow-async": 186, "slow-thread": 12, "slow-process": 2}
STOCK = {"slow-async": 20}


class Contestant:
    """One server, its idle and its busy figures."""

    def __init__(
        self,
        name: str,
        stack: Stack,
        http: Http,
        protocol: type[CallSocket],
        slow: dict[str, int],
    ) -> None:
        self.idle = Measure(f"{name}, idle", "ms")
        self.busy = Measure(f"{name}, busy", "ms")
        self.late = Measure(f"{name}: sent later than due", "ms")
        self.slow_calls = 0
        self.lost = 0
        self._meters = {id(m): Meter(stack.procs) for m in (self.idle, self.busy)}
        self._address = stack.address
        self._http = http
        self._protocol = protocol
        self._socket: CallSocket | None = None
        self._connecting = asyncio.Lock()
        self._slow = slow

    async def __aenter__(self) -> "Contestant":
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._socket is not None:
            self._socket.close()

    async def _connected(self) -> CallSocket:
        async with self._connecting:
            if self._socket is None or self._socket.closed:
                socket = self._protocol()
                await socket.open(self._address)
                self._socket = socket
        return self._socket

    async def warm_up(self, calls: int) -> None:
        for _ in range(calls):
            await self._http.call("fast", next_value())

    async def round(self, settings: Settings) -> None:
        """An idle window, then a busy one."""
        self.late.rounds.append([])
        async with asyncio.timeout(settings.limit_s):
            await self._window(self.idle, settings, asyncio.Event())
        ends = asyncio.Event()
        async with asyncio.timeout(settings.limit_s), asyncio.TaskGroup() as group:
            for call in self._slow_ones(settings):
                group.create_task(self._again(call, ends))
            await self._window(self.busy, settings, ends)

    def _slow_ones(self, settings: Settings) -> list[Callable[[], Awaitable[None]]]:
        found = [lambda: self._http.call("slow-plain", next_value())] * settings.plain
        for output, count in self._slow.items():
            found += [lambda output=output: self._over_websocket(output)] * count
        return found

    async def _over_websocket(self, output: str) -> None:
        await (await self._connected()).call(output, next_value())

    async def _again(self, call: Callable[[], Awaitable[None]], ends: asyncio.Event) -> None:
        while not ends.is_set():
            try:
                await call()
                self.slow_calls += 1
            except ConnectionError:
                # A browser would connect again, and so do we; the result is gone.
                self.lost += 1

    async def _window(self, measure: Measure, settings: Settings, ends: asyncio.Event) -> None:
        """Send at a fixed rate, say when that ``ends``, and return when all is answered."""
        count = round(settings.window_s / settings.every_s)
        meter = self._meters[id(measure)]
        with meter.running():
            start = time.perf_counter() + 0.05
            tasks = []
            for number in range(count):
                due = start + number * settings.every_s
                await _until(due)
                self.late.rounds[-1].append((time.perf_counter() - due) * 1000)
                tasks.append(asyncio.create_task(self._fast(due)))
            ends.set()
            measure.rounds.append(list(await asyncio.gather(*tasks)))
        meter.note(measure)

    async def _fast(self, due: float) -> float:
        await self._http.call("fast", next_value())
        return (time.perf_counter() - due) * 1000


async def _until(due: float) -> None:
    left = due - time.perf_counter() - SPIN_S
    if left > 0:
        await asyncio.sleep(left)
    while time.perf_counter() < due:  # noqa: ASYNC110 - a clock has no event to wait for
        await asyncio.sleep(0)


def run(bench: Bench) -> Result:
    """Windows of ours and of the peer in turns."""
    settings = QUICK if bench.quick else FULL
    ours = bench.dash_dispatch(slow_s=settings.slow_s)
    quart = bench.quart(slow_s=settings.slow_s) if bench.peers else None
    contestants = asyncio.run(_measure(settings, ours, quart))
    measures, ratios = [], []
    for name, one in contestants.items():
        measures += [one.idle, one.busy, one.late]
        target = 1.5 if name == "dash_dispatch" else None
        ratios += [
            Ratio.of(
                f"{name}: busy p99 / idle p99",
                one.busy,
                one.idle,
                share=0.99,
                target=target,
            ),
            Ratio.of(f"{name}: busy p50 / idle p50", one.busy, one.idle),
        ]
    notes = [
        f"Busy: {settings.plain} plain def callbacks over HTTP and more over the websocket, of"
        f" {settings.slow_s:g} s each, always that many in flight while the window is open:"
        f" {sum(OURS.values())} that dash_dispatch offloads, {sum(STOCK.values())} that stock Dash"
        " awaits.",
        *(
            f"{name}: {one.slow_calls} slow calls answered, {one.lost} lost with their connection"
            for name, one in contestants.items()
        ),
    ]
    return Result("stall", TITLE, asdict(settings), measures, ratios, notes)


async def _measure(settings: Settings, ours: Stack, quart: Stack | None) -> dict[str, Contestant]:
    async with AsyncExitStack() as stack:

        async def enter(
            name: str, one: Stack, protocol: type[CallSocket], slow: dict[str, int]
        ) -> Contestant:
            http = await stack.enter_async_context(Http(one.address))
            contestant = Contestant(name, one, http, protocol, slow)
            return await stack.enter_async_context(contestant)

        found = {"dash_dispatch": await enter("dash_dispatch", ours, DispatchSocket, OURS)}
        if quart is not None:
            name = "stock Dash on Quart"
            found[name] = await enter(name, quart, StockSocket, STOCK)
        for one in found.values():
            await one.warm_up(settings.warm_up)
        for number in range(settings.rounds):
            for name, one in found.items():
                if name == "dash_dispatch" or number < settings.peer_rounds:
                    await one.round(settings)
    return found
