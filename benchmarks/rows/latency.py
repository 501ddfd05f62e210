"""An empty callback, one at a time: how much longer does it take somewhere else?"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, replace

from arq.connections import RedisSettings, create_pool
from redis.asyncio import Redis

from benchmarks.clients import (
    CallSocket,
    DispatchSocket,
    Http,
    StockSocket,
    WrongAnswer,
    next_value,
)
from benchmarks.measures import Measure, Meter, Ratio, Result
from benchmarks.stacks import Bench, Stack

TITLE = "An empty callback, one at a time"
ARQ_DATABASE = 3
OFFLOADED = {"async": "async def", "process": "def in a process", "thread": "def in a thread"}


@dataclass(frozen=True)
class Settings:
    """How often what is sampled, per round: short rounds, for the machine changes its pace.

    What is polled takes much longer: it has a turn in the first ``polled_rounds`` alone.
    """

    rounds: int
    calls: int
    polled_rounds: int
    polled_calls: int
    slowly_polled_calls: int
    disk_calls: int
    warm_up: int = 10
    limit_s: float = 120.0


FULL = Settings(
    rounds=12, calls=100, polled_rounds=6, polled_calls=15, slowly_polled_calls=1, disk_calls=3
)
QUICK = Settings(
    rounds=1,
    calls=20,
    polled_rounds=1,
    polled_calls=5,
    slowly_polled_calls=1,
    disk_calls=1,
    warm_up=3,
)


@dataclass
class Probe:
    """One contestant: what to await once per sample.

    Attributes:
        warm: The same where a sample takes a second: asked for more often.
    """

    measure: Measure
    meter: Meter
    once: Callable[[], Awaitable[None]]
    calls: int
    rounds: int
    warm: Callable[[], Awaitable[None]] | None = None

    async def round(self, warm_up: int) -> None:
        """Take samples, once the others' turns are forgotten."""
        for _ in range(warm_up):
            await (self.warm or self.once)()
        samples = []
        with self.meter.running():
            for _ in range(self.calls):
                started = time.perf_counter()
                await self.once()
                samples.append((time.perf_counter() - started) * 1000)
        self.measure.rounds.append(samples)
        self.meter.calls += self.calls


def run(bench: Bench) -> Result:
    """Start all contestants, which idle while it is not their turn."""
    settings = QUICK if bench.quick else FULL
    stacks = {"ours": bench.dash_dispatch(), "floor": bench.floor()}
    if bench.peers:
        stacks |= {"quart": bench.quart(), "celery": bench.celery(), "diskcache": bench.diskcache()}
        stacks["arq"] = bench.arq(1, ARQ_DATABASE, poll_s=0.01, at_once=10)
    probes = asyncio.run(_measure(bench, settings, stacks))
    measures = {name: probe.measure for name, probe in probes.items()}
    for probe in probes.values():
        probe.meter.note(probe.measure)
    notes = [
        f"Each turn of each contestant, the floor's too, begins with {settings.warm_up} calls that"
        " do not count: after the others' turns the first one takes twice as long, or longer."
    ]
    return Result(
        "latency", TITLE, asdict(settings), list(measures.values()), _ratios(measures), notes
    )


def _ratios(measures: dict[str, Measure]) -> list[Ratio]:
    found = []
    for name, words in OFFLOADED.items():
        for other, below in (("local", "local"), ("floor", "Redis floor")):
            label = f"offloaded {words} / {below}"
            ratio = Ratio.of(label, measures[name], measures[other], target=4, line=other)
            found.append(ratio)
    if "celery10" not in measures:
        return found
    # Celery runs a def in a process: that of ours is its like.
    for name in ("process", "async"):
        ours, words = measures[name], OFFLOADED[name]
        for interval_ms, target in ((10, 7), (1000, 350)):
            celery = measures[f"celery{interval_ms}"]
            label = f"Celery polled every {interval_ms} ms / offloaded {words}"
            line = f"celery{interval_ms}"
            found.append(Ratio.of(label, celery, ours, sense="≥", target=target, line=line))
        label = f"Diskcache polled every 10 ms / offloaded {words}"
        found.append(Ratio.of(label, measures["diskcache"], ours))
    label = "plain arq, looked for every 10 ms / offloaded async def"
    found.append(Ratio.of(label, measures["arq"], measures["async"]))
    found.append(Ratio.of("local / stock Dash on Quart", measures["local"], measures["stock"]))
    return found


async def _measure(bench: Bench, settings: Settings, stacks: dict[str, Stack]) -> dict[str, Probe]:
    async with AsyncExitStack() as stack:
        probes = await _ours(stack, settings, stacks["ours"])
        probes["floor"] = await _floor(stack, settings, stacks["floor"], bench.redis_port)
        if bench.peers:
            probes["stock"] = await _stock(stack, settings, stacks["quart"])
            probes |= await _celery(stack, settings, stacks["celery"])
            probes["diskcache"] = await _diskcache(stack, settings, stacks["diskcache"])
            probes["arq"] = await _arq(stack, settings, stacks["arq"], bench.redis_port)
        names = list(probes)
        for number in range(settings.rounds):
            for name in names[number % len(names) :] + names[: number % len(names)]:
                if number < probes[name].rounds:
                    async with asyncio.timeout(settings.limit_s):
                        await probes[name].round(settings.warm_up)
    return probes


def _over(socket: CallSocket, output: str) -> Callable[[], Awaitable[None]]:
    return lambda: socket.call(output, next_value())


async def _ours(stack: AsyncExitStack, settings: Settings, ours: Stack) -> dict[str, Probe]:
    socket = DispatchSocket()
    await socket.open(ours.address)
    stack.callback(socket.close)
    labels = {"local": "local async def, websocket"} | {
        name: f"offloaded {words}, websocket" for name, words in OFFLOADED.items()
    }
    return {
        name: _probe(settings, label, ours, _over(socket, name)) for name, label in labels.items()
    }


async def _floor(stack: AsyncExitStack, settings: Settings, floor: Stack, redis_port: int) -> Probe:
    client = Redis(port=redis_port)
    stack.push_async_callback(client.aclose)

    async def once() -> None:
        sent = str(next_value()).encode()
        await client.lpush("floor:there", sent)
        popped = await client.blpop("floor:back", 10)
        if popped is None or popped[1] != sent:
            raise WrongAnswer(f"the floor answered {popped!r}")

    return _probe(settings, "Redis floor: pushed, popped, pushed back, popped", floor, once)


async def _stock(stack: AsyncExitStack, settings: Settings, quart: Stack) -> Probe:
    socket = StockSocket()
    await socket.open(quart.address)
    stack.callback(socket.close)
    label = "stock Dash on Quart: local async def, websocket"
    return _probe(settings, label, quart, _over(socket, "local"))


def _probe(
    settings: Settings, label: str, stack: Stack, once: Callable[[], Awaitable[None]]
) -> Probe:
    return Probe(Measure(label, "ms"), Meter(stack.procs), once, settings.calls, settings.rounds)


def _polled(http: Http, interval_s: float) -> Callable[[], Awaitable[None]]:
    async def once() -> None:
        # Lost now and then; the page would show nothing, and a person ask again.
        while not await http.background("background", next_value(), interval_s):
            pass

    return once


async def _diskcache(stack: AsyncExitStack, settings: Settings, diskcache: Stack) -> Probe:
    http = await stack.enter_async_context(Http(diskcache.address))
    label = "stock Dash, Diskcache: def in a new process, polled every 10 ms"
    probe = _probe(settings, label, diskcache, _polled(http, 0.01))
    return replace(probe, calls=settings.disk_calls, rounds=settings.polled_rounds)


async def _arq(stack: AsyncExitStack, settings: Settings, arq: Stack, redis_port: int) -> Probe:
    where = RedisSettings(port=redis_port, database=ARQ_DATABASE, conn_timeout=30)
    pool = await create_pool(where)
    stack.push_async_callback(pool.aclose)

    async def once() -> None:
        sent = next_value()
        job = await pool.enqueue_job("empty", sent)
        if job is None or await job.result(timeout=10, poll_delay=0.01) != sent:
            raise WrongAnswer("plain arq answered something else")

    label = "plain arq: an empty job, looked for every 10 ms at both ends"
    probe = _probe(settings, label, arq, once)
    return replace(probe, calls=settings.polled_calls, rounds=settings.polled_rounds)


async def _celery(stack: AsyncExitStack, settings: Settings, celery: Stack) -> dict[str, Probe]:
    http = await stack.enter_async_context(Http(celery.address))

    def probe(interval_ms: int, calls: int) -> Probe:
        label = f"stock Dash, Celery: def in a process, polled every {interval_ms} ms"
        found = _probe(settings, label, celery, _polled(http, interval_ms / 1000))
        warm = _polled(http, 0.01)
        return replace(found, calls=calls, rounds=settings.polled_rounds, warm=warm)

    return {
        "celery10": probe(10, settings.polled_calls),
        "celery1000": probe(1000, settings.slowly_polled_calls),
    }
