"""Thousands of idle pages on one web process: what each costs, and if one of them still hears.

Pages open their websocket as Chromium does, which offers compression.
"""

import asyncio
import resource
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import psutil

from benchmarks.clients import (
    BROWSER,
    SOCKET_PING_S,
    CallSocket,
    DispatchSocket,
    StockSocket,
    beat,
    next_value,
)
from benchmarks.measures import Measure, Meter, Ratio, Result
from benchmarks.stacks import Bench, Stack

TITLE = "Idle pages on one web process, and updates to one of them"
SPARE_FILES = 500
"""Beside the sockets, a process has other files open."""


@dataclass(frozen=True)
class Settings:
    """How many pages, and how many of them hear something."""

    pages: int
    first: int
    updates: int
    peer_pages: int
    every_s: float = 0.05
    opening: int = 50
    ping_s: float = SOCKET_PING_S


FULL = Settings(pages=5000, first=200, updates=150, peer_pages=800)
QUICK = Settings(pages=60, first=20, updates=5, peer_pages=60)


def run(bench: Bench) -> Result:
    """One process of ours holds the other ends."""
    settings = QUICK if bench.quick else FULL
    settings = replace(settings, pages=min(settings.pages, files() - SPARE_FILES))
    stack = bench.dash_dispatch()
    memory, called, heard, pushed = asyncio.run(_measure(settings, stack))
    measures = [memory, called, heard, pushed]
    if bench.peers:
        measures += asyncio.run(_peer(settings, bench.quart()))
    # Few pages tell nothing: what they need fits into memory that the process has already.
    enough = settings.pages >= 1000
    ratios = [
        Ratio.plain(
            "memory of the web process per page",
            memory,
            target=40 if enough else None,
            line="memory",
        ),
        Ratio.plain("update to one of them, p99", pushed, share=0.99, target=200, line="push"),
    ]
    notes = [
        "Memory: resident, of the web process, between"
        f" {settings.first} and {settings.pages} pages (stock Dash: {settings.peer_pages}).",
        "Once, in a process of its own: unlike a latency it does not depend on who else is busy.",
        f"Files that a process may have open here: {files()}.",
    ]
    return Result("pages", TITLE, asdict(settings), measures, ratios, notes)


def files() -> int:
    """How many files a process may have open; those that are started from here inherit it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard if hard != resource.RLIM_INFINITY else 1_000_000


async def _measure(settings: Settings, stack: Stack) -> tuple[Measure, ...]:
    memory = Measure(f"memory per page, {settings.pages} pages", "KB")
    called = Measure("memory per page, after a callback of each", "KB")
    heard = Measure("click to answer of one of them", "ms")
    pushed = Measure("set_props in a worker to the page", "ms")
    meter = Meter(stack.procs)
    async with AsyncExitStack() as opened:
        sockets = await _open(opened, stack, settings.first, settings.opening, DispatchSocket)
        for socket in sockets[:: max(1, settings.first // 10)]:
            await socket.call("push", next_value())
        before = _resident(stack)
        more = settings.pages - settings.first
        sockets += await _open(opened, stack, more, settings.opening, DispatchSocket)
        memory.rounds.append([(_resident(stack) - before) / more / 1024])
        pinging = asyncio.create_task(beat(sockets, settings.ping_s))
        opened.callback(pinging.cancel)
        with meter.running():
            await _push(settings, sockets, heard, pushed)
        await _call_each(sockets[settings.first :], settings.opening)
        called.rounds.append([(_resident(stack) - before) / more / 1024])
    meter.note(pushed)
    return memory, called, heard, pushed


async def _peer(settings: Settings, stack: Stack) -> list[Measure]:
    """The memory of stock Dash's pages."""
    memory = Measure("stock Dash on Quart: memory per page", "KB")
    called = Measure("stock Dash on Quart: memory per page, after a callback of each", "KB")
    async with AsyncExitStack() as opened:
        first, more = settings.first, settings.peer_pages - settings.first
        for socket in await _open(opened, stack, first, settings.opening, StockSocket):
            await socket.call("local", next_value())
        before = _resident(stack)
        sockets = await _open(opened, stack, more, settings.opening, StockSocket)
        memory.rounds.append([(_resident(stack) - before) / more / 1024])
        await _call_each(sockets, settings.opening)
        called.rounds.append([(_resident(stack) - before) / more / 1024])
    return [memory, called]


async def _call_each(sockets: Sequence[CallSocket], at_once: int) -> None:
    for start in range(0, len(sockets), at_once):
        some = sockets[start : start + at_once]
        await asyncio.gather(*(socket.call("local", next_value()) for socket in some))


S = TypeVar("S", bound=CallSocket)


async def _open(
    opened: AsyncExitStack, stack: Stack, count: int, at_once: int, protocol: type[S]
) -> list[S]:
    sockets: list[S] = []
    while len(sockets) < count:
        new = [protocol() for _ in range(min(at_once, count - len(sockets)))]
        await asyncio.gather(*(socket.open(stack.address, BROWSER) for socket in new))
        for socket in new:
            opened.callback(socket.close)
        sockets += new
    return sockets


def _resident(stack: Stack) -> int:
    web = psutil.Process(stack.procs[0].pid)
    return sum(one.memory_info().rss for one in (web, *web.children(recursive=True)))


async def _push(
    settings: Settings, sockets: list[DispatchSocket], heard: Measure, pushed: Measure
) -> None:
    """One page after the other, at a fixed rate."""
    clicks: list[float] = []
    pushes: list[float] = []

    def note(props: dict[str, Any]) -> None:
        # Both ends are on this machine, and have one clock.
        pushes.append(1000 * (time.time() - props["data"]))

    async def click(socket: DispatchSocket, due: float) -> None:
        await socket.call("push", next_value())
        clicks.append(1000 * (time.perf_counter() - due))

    start = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in range(settings.updates):
            due = start + number * settings.every_s
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            socket = sockets[number * 7919 % len(sockets)]
            socket.on_props = note
            group.create_task(click(socket, due))
    heard.rounds.append(clicks)
    pushed.rounds.append(pushes)
