"""How long the web process' event loop stands still while a result of 20 MB passes through it."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Any

import orjson

from benchmarks.clients import DispatchSocket, Http, WrongAnswer, body
from benchmarks.measures import Measure, Meter, Ratio, Result
from benchmarks.stacks import Bench, Stack

TITLE = "The event loop's longest stall while a result of 20 MB passes"


@dataclass(frozen=True)
class Settings:
    """How large the result is, and how often it passes."""

    rounds: int
    megabytes: int = 20
    idle_s: float = 1.0


FULL = Settings(rounds=5)
QUICK = Settings(rounds=1, megabytes=2, idle_s=0.1)


def run(bench: Bench) -> Result:
    """The loop's own clock tells: a timer of a millisecond, and how late it comes."""
    settings = QUICK if bench.quick else FULL
    stack = bench.dash_dispatch(ticking=True)
    found = asyncio.run(_measure(settings, stack))
    ratios = [
        Ratio.plain(
            "longest stall, over the websocket", found["websocket"], target=20, line="large"
        ),
        Ratio.plain("longest stall, over HTTP", found["http"], target=20, line="large"),
        Ratio.plain("longest stall of an idle second", found["idle"]),
        Ratio.plain("longest step, over the websocket, CPU time", found["websocket worked"]),
        Ratio.plain("longest step, over HTTP, CPU time", found["http worked"]),
    ]
    return Result("large", TITLE, asdict(settings), list(found.values()), ratios)


async def _measure(settings: Settings, stack: Stack) -> dict[str, Measure]:
    size = settings.megabytes * 1_000_000
    found = {
        "idle": Measure("an idle second", "ms"),
        "websocket": Measure(f"{settings.megabytes} MB over the websocket", "ms"),
        "http": Measure(f"{settings.megabytes} MB over HTTP", "ms"),
    }
    meters = {name: Meter(stack.procs) for name in found}
    found |= {
        f"{name} worked": Measure(f"{measure.label}: CPU time of the longest step", "ms")
        for name, measure in found.items()
    }
    async with Http(stack.address) as http, DispatchSocket() as socket:
        await socket.open(stack.address)

        async def over_websocket() -> None:
            _check(await socket.ask("large", size), size)

        async def over_http() -> None:
            status, answer = await http.post(orjson.dumps(body("large", size)))
            if status != 200:
                raise WrongAnswer(f"HTTP {status}: {answer[:300]!r}")
            _check(orjson.loads(answer), size)

        async def idle() -> None:
            await asyncio.sleep(settings.idle_s)

        passes: dict[str, Callable[[], Awaitable[None]]] = {
            "idle": idle,
            "websocket": over_websocket,
            "http": over_http,
        }
        for number in range(settings.rounds + 1):
            for name, once in passes.items():
                await http.get("/stalls")
                with meters[name].running():
                    await once()
                stalls = await http.get("/stalls")
                # The first time is for warming up.
                if number:
                    found[name].rounds.append([stalls["late_ms"]])
                    found[f"{name} worked"].rounds.append([stalls["worked_ms"]])
    for name, meter in meters.items():
        meter.note(found[name])
    return found


def _check(answer: Any, size: int) -> None:
    if answer["response"]["large"]["children"] != "x" * size:
        raise WrongAnswer(f"not the {size} bytes that the callback returned")
