"""Offloaded calls per second with 1, 2, 4 and 8 workers, each call waiting for 50 ms."""

import asyncio
from dataclasses import asdict, dataclass

from benchmarks.clients import DispatchSocket
from benchmarks.contest import Contestant
from benchmarks.floods import ArqFlood, Flood, SocketFlood
from benchmarks.measures import Measure, Ratio, Result
from benchmarks.stacks import Bench, Stack

TITLE = "Calls that wait for 50 ms, by the number of workers"
WAIT_S = 0.05
OURS = {"wait-thread": "def in threads", "wait-async": "async def"}
ARQ, ARQ_WORDS, ARQ_DATABASE = "wait", "plain arq, looking every 10 ms", 4

Rates = dict[tuple[str, int], Measure]


@dataclass(frozen=True)
class Settings:
    """Each worker runs two calls at once: what limits them is then the waiting, not the cores."""

    workers: tuple[int, ...]
    rounds: int
    window_s: float
    warm_up_s: float = 0.4
    at_once: int = 2
    waiting: int = 2
    arq_poll_s: float = 0.01


FULL = Settings(workers=(1, 2, 4, 8), rounds=1, window_s=1.5)
QUICK = Settings(workers=(1, 2), rounds=1, window_s=0.3, warm_up_s=0.1)


def run(bench: Bench) -> Result:
    """More workers step by step, and then fewer: who is slow for a while is so in both halves."""
    settings = QUICK if bench.quick else FULL
    kinds = OURS | ({ARQ: ARQ_WORDS} if bench.peers else {})
    rates: Rates = {
        (kind, count): Measure(f"{words}, {count} worker{'s' * (count > 1)}", "1/s")
        for kind, words in kinds.items()
        for count in settings.workers
    }
    # The first step has them all run once, which counts for nobody.
    up = settings.workers
    steps = up if bench.quick else (*up, *reversed(up))
    for kind, started in _stacks(bench, settings).items():
        stack = started
        for count in steps:
            stack = stack.resized(count)
            for output in OURS if kind == "ours" else (ARQ,):
                flood = _flood(bench, settings, stack, output, count)
                asyncio.run(_measure(settings, stack, flood, rates[output, count]))
    return Result(
        "scaling", TITLE, asdict(settings), list(rates.values()), _ratios(settings, rates)
    )


def _stacks(bench: Bench, settings: Settings) -> dict[str, Stack]:
    at_once = settings.at_once
    slots = str(at_once)
    ours = bench.dash_dispatch(workers=0, concurrency=slots, worker_threads=slots, processes="1")
    stacks = {"ours": ours}
    if bench.peers:
        stacks["arq"] = bench.arq(0, ARQ_DATABASE, poll_s=settings.arq_poll_s, at_once=at_once)
    return stacks


def _flood(bench: Bench, settings: Settings, stack: Stack, output: str, workers: int) -> Flood:
    in_flight = workers * (settings.at_once + settings.waiting)
    if output == ARQ:
        return ArqFlood(bench.redis_port, ARQ_DATABASE, ARQ, in_flight)
    halves = {"sockets": 2, "in_flight": in_flight // 2}
    return SocketFlood(stack.address, DispatchSocket, output, **halves)


async def _measure(settings: Settings, stack: Stack, flood: Flood, rate: Measure) -> None:
    contestant = Contestant(rate.label, stack.procs, flood)
    for _ in range(settings.rounds):
        await contestant.round(settings.window_s, settings.warm_up_s)
    contestant.meter.note(rate)
    rate.rounds += contestant.rate.rounds


def _ratios(settings: Settings, rates: Rates) -> list[Ratio]:
    most = settings.workers[-1]
    found = []
    for kind in sorted({kind for kind, _ in rates}, key=list(OURS | {ARQ: ""}).index):
        words = (OURS | {ARQ: ARQ_WORDS})[kind]
        one, many = rates[kind, 1], rates[kind, most]
        pairs = zip(many.by_round(0.5), one.by_round(0.5), strict=True)
        label = f"{words}: {most} workers / {most} times one"
        made_of = [many.label, one.label]
        rounds = [above / (most * below) for above, below in pairs]
        target, line = (None, "") if kind == ARQ else (0.95, "scaling")
        found.append(Ratio(label, rounds, "≥", target, made_of, line))
        # One worker that is slow by itself makes the ratio look well; nothing else makes this.
        ideal = most * settings.at_once / WAIT_S
        label = f"{words}: {most} workers / what the waiting alone allows"
        rounds = [value / ideal for value in many.by_round(0.5)]
        found.append(Ratio(label, rounds, "≥", None, [many.label]))
    return found
