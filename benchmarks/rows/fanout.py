"""One update to every open page: how long until the last one has it."""

import asyncio
import json
import time
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, replace
from typing import Any

from redis.asyncio import Redis

from benchmarks.clients import BROWSER, DispatchSocket, WrongAnswer
from benchmarks.measures import Measure, Meter, Ratio, Result
from benchmarks.rows.pages import SPARE_FILES, files
from benchmarks.stacks import Bench, Stack
from dash_dispatch.session import Signer

TITLE = "One update to all open pages of one web process"


@dataclass(frozen=True)
class Settings:
    """How many pages, and how often."""

    rounds: int
    pages: int
    opening: int = 50
    limit_s: float = 60.0


FULL = Settings(rounds=3, pages=2000)
QUICK = Settings(rounds=1, pages=40)


def run(bench: Bench) -> Result:
    """Another process pushes; this one holds the pages."""
    settings = QUICK if bench.quick else FULL
    settings = replace(settings, pages=min(settings.pages, files() - SPARE_FILES))
    stack = bench.dash_dispatch()
    heard, last, rate = asyncio.run(_measure(bench, settings, stack))
    ratios = [
        Ratio.plain(f"until the last of {settings.pages} pages has it", last, line="fanout"),
        Ratio.plain("pages that hear of it per second", rate, sense="≥", line="fanout"),
    ]
    notes = [
        "There is no public push: another process writes into each page's mailbox with the store's"
        " own `post`, 64 at once. Both ends are on this machine and have one clock."
    ]
    return Result("fanout", TITLE, asdict(settings), [heard, last, rate], ratios, notes)


async def _measure(
    bench: Bench, settings: Settings, stack: Stack
) -> tuple[Measure, Measure, Measure]:
    heard = Measure("from the push to a page", "ms")
    last = Measure("from the push to the last page", "ms")
    rate = Measure("pages per second", "1/s")
    arrived: list[float] = []
    all_there = asyncio.Event()

    def note(props: dict[str, Any]) -> None:
        arrived.append(1000 * (time.time() - props["data"]))
        if len(arrived) == settings.pages:
            all_there.set()

    async with AsyncExitStack() as opened:
        sessions = await _open(opened, settings, stack, note)
        client = Redis(port=bench.redis_port)
        opened.push_async_callback(client.aclose)
        pusher = bench.pusher(stack, json.dumps(sessions))
        meter = Meter([*stack.procs, pusher])
        for number in range(settings.rounds + 1):
            with meter.running() if number else Meter([]).running():
                await client.lpush("fanout:push", number)
                async with asyncio.timeout(settings.limit_s):
                    await all_there.wait()
            all_there.clear()
            samples = arrived[:]
            arrived.clear()
            if len(samples) != settings.pages:
                raise WrongAnswer(f"{len(samples)} of {settings.pages} pages heard of it")
            # The first time is for warming up.
            if number:
                heard.rounds.append(samples)
                last.rounds.append([max(samples)])
                rate.rounds.append([1000 * settings.pages / max(samples)])
                meter.calls += settings.pages
    meter.note(heard)
    return heard, last, rate


async def _open(opened: AsyncExitStack, settings: Settings, stack: Stack, note: Any) -> list[str]:
    """Pages that listen; returns their sessions."""
    env = stack.env
    signer = Signer(env["DASH_DISPATCH_SECRET_KEY"], env["DASH_DISPATCH_NAMESPACE"])
    sessions: list[str] = []
    while len(sessions) < settings.pages:
        count = min(settings.opening, settings.pages - len(sessions))
        new = [DispatchSocket() for _ in range(count)]
        await asyncio.gather(*(socket.open(stack.address, BROWSER) for socket in new))
        for socket in new:
            opened.callback(socket.close)
            socket.on_props = note
            sessions.append(str(signer.verify(socket.token)))
    return sessions
