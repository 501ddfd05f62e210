"""Plain callbacks per second over HTTP, one process: what the serving path itself costs."""

import asyncio
from dataclasses import asdict, dataclass

from benchmarks.contest import Contestant, headroom, measure
from benchmarks.floods import HttpFlood
from benchmarks.measures import Result
from benchmarks.stacks import FASTEST, Bench, Stack

TITLE = "Plain callbacks per second over HTTP, one server process"

SERVERS = {
    "hypercorn": (1.8, "http hypercorn"),
    FASTEST: (3.0, f"http {FASTEST}"),
}
"""Key of ``ASGI`` → target, and the line of the table."""


@dataclass(frozen=True)
class Settings:
    """How long a round is."""

    rounds: int
    window_s: float
    warm_up_s: float = 0.2
    connections: int = 32


FULL = Settings(rounds=5, window_s=0.7)
QUICK = Settings(rounds=1, window_s=0.2, warm_up_s=0.05)


def run(bench: Bench) -> Result:
    """All of them in turns."""
    settings = QUICK if bench.quick else FULL
    contestants = asyncio.run(_measure(bench, settings))
    measures = [one for contestant in contestants.values() for one in contestant.measures]
    ratios = []
    if bench.peers:
        flask = contestants["flask"]
        for server, (target, line) in SERVERS.items():
            for kind in ("async def", "def"):
                label = f"{kind} on {server}"
                ratios.append(contestants[f"{server} {kind}"].over(flask, label, target, line))
        for name, label in (("quart", "stock Dash on Quart"), ("fastapi", "stock Dash on FastAPI")):
            ratios.append(contestants[name].over(flask, label))
        ratios += [
            contestants[f"bare {server}"].over(flask, f"a bare answer on {server}")
            for server in SERVERS
        ]
        ratios += [
            contestants[f"{server} {kind}"].over_by_work(flask, f"{kind} on {server}")
            for server in SERVERS
            for kind in ("async def", "def")
        ]
    notes = headroom(contestants.values())
    return Result("http", TITLE, asdict(settings), measures, ratios, notes)


async def _measure(bench: Bench, settings: Settings) -> dict[str, Contestant]:
    contestants: dict[str, Contestant] = {}

    def enter(name: str, label: str, stack: Stack, output: str) -> None:
        flood = HttpFlood(stack.address, output, settings.connections)
        contestants[name] = Contestant(label, stack.procs, flood)

    for server in SERVERS:
        ours = bench.dash_dispatch(server=server, workers=0)
        enter(f"{server} async def", f"async def, {server}", ours, "fast")
        enter(f"{server} def", f"def, {server}", ours, "plain")
    if bench.peers:
        enter("flask", "stock Dash, Flask + Gunicorn gthread: def", bench.flask(), "plain")
        enter("quart", "stock Dash, Quart + Hypercorn: async def", bench.quart(), "fast")
        enter("fastapi", "stock Dash, FastAPI + Uvicorn: async def", bench.fastapi(), "fast")
        for server in SERVERS:
            enter(f"bare {server}", f"floor: a bare answer, {server}", bench.bare(server), "fast")
    await measure(contestants, settings.rounds, settings.window_s, settings.warm_up_s)
    return contestants
