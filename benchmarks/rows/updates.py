"""Updates (``set_props``) per second from one offloaded callback to its page, all in order."""

import asyncio
import time
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.clients import DispatchSocket, WrongAnswer
from benchmarks.measures import Measure, Meter, Ratio, Result
from benchmarks.stacks import Bench, Stack

TITLE = "Updates per second from one offloaded callback to its page"


@dataclass(frozen=True)
class Settings:
    """How many updates a call sends."""

    rounds: int
    updates: int


FULL = Settings(rounds=5, updates=3000)
QUICK = Settings(rounds=1, updates=200)


def run(bench: Bench) -> Result:
    """No peer sends updates from another process as they happen."""
    settings = QUICK if bench.quick else FULL
    stack = bench.dash_dispatch()
    measure = asyncio.run(_measure(settings, stack))
    notes = ["From the request to the answer, which comes behind the last update."]
    ratios = [Ratio.plain("updates to one page", measure, sense="≥", line="updates")]
    return Result("updates", TITLE, asdict(settings), [measure], ratios, notes)


async def _measure(settings: Settings, stack: Stack) -> Measure:
    measure = Measure("set_props from an offloaded async def, over the websocket", "1/s")
    meter = Meter(stack.procs)
    async with DispatchSocket() as socket:
        await socket.open(stack.address)
        for number in range(settings.rounds + 1):
            seen: list[int] = []
            socket.on_props = lambda props, seen=seen: _note(seen, props)
            started = time.perf_counter()
            with meter.running() if number else Meter([]).running():
                await socket.call("updates", settings.updates)
            took_s = time.perf_counter() - started
            if seen != list(range(settings.updates)):
                raise WrongAnswer(f"{len(seen)} of {settings.updates} updates, or out of order")
            if number:
                measure.rounds.append([settings.updates / took_s])
                meter.calls += settings.updates
    meter.note(measure)
    return measure


def _note(seen: list[int], props: dict[str, Any]) -> None:
    seen.append(props["data"])
