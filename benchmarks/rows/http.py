"""Plain callbacks per second over HTTP, one process: what the serving path itself costs."""

import asyncio
from dataclasses import asdict, dataclass

from benchmarks.contest import Contestant, measure
from benchmarks.floods import HttpFlood
from benchmarks.measures import Ratio, Result
from benchmarks.stacks import FASTEST, Bench, Stack

TITLE = "Plain callbacks per second over HTTP, one server process"


@dataclass(frozen=True)
class Settings:
    """How long a round is."""

    rounds: int
    window_s: float
    warm_up_s: float = 0.4
    connections: int = 32


FULL = Settings(rounds=3, window_s=1.0)
QUICK = Settings(rounds=1, window_s=0.2, warm_up_s=0.1)


def run(bench: Bench) -> Result:
    """All of them in turns."""
    settings = QUICK if bench.quick else FULL
    contestants = asyncio.run(_measure(bench, settings))
    measures = {name: contestant.rate for name, contestant in contestants.items()}
    ratios = []
    if bench.peers:
        flask = measures["flask"]
        for server, target in (("hypercorn", 1.8), (FASTEST, 3.0)):
            ratios += [
                Ratio.of(
                    f"{kind} on {server} / Flask + Gunicorn",
                    measures[f"{server} {kind}"],
                    flask,
                    sense="≥",
                    target=target,
                )
                for kind in ("async def", "def")
            ]
            bare = measures[f"bare {server}"]
            ratios.append(Ratio.of(f"a bare answer on {server} / Flask + Gunicorn", bare, flask))
    return Result("http", TITLE, asdict(settings), list(measures.values()), ratios)


async def _measure(bench: Bench, settings: Settings) -> dict[str, Contestant]:
    contestants: dict[str, Contestant] = {}

    def enter(name: str, label: str, stack: Stack, output: str) -> None:
        flood = HttpFlood(stack.address, output, settings.connections)
        contestants[name] = Contestant(label, stack.procs, flood)

    for server in ("hypercorn", FASTEST):
        ours = bench.dash_dispatch(server=server, workers=0)
        enter(f"{server} async def", f"async def, {server}", ours, "fast")
        enter(f"{server} def", f"def, {server}", ours, "plain")
    if bench.peers:
        enter("flask", "stock Dash, Flask + Gunicorn gthread: def", bench.flask(), "plain")
        enter("quart", "stock Dash, Quart + Hypercorn: async def", bench.quart(), "fast")
        enter("fastapi", "stock Dash, FastAPI + Uvicorn: async def", bench.fastapi(), "fast")
        for server in ("hypercorn", FASTEST):
            enter(f"bare {server}", f"floor: a bare answer, {server}", bench.bare(server), "fast")
    await measure(contestants, settings.rounds, settings.window_s, settings.warm_up_s)
    return contestants
