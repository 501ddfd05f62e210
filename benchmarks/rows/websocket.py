"""Plain callbacks per second over the websocket, one process."""

import asyncio
from dataclasses import asdict, dataclass

from benchmarks.clients import CallSocket, DispatchSocket, StockSocket
from benchmarks.contest import Contestant, headroom, measure
from benchmarks.floods import HttpFlood, SocketFlood
from benchmarks.measures import Result
from benchmarks.stacks import FASTEST, Bench, Stack

TITLE = "Plain callbacks per second over the websocket, one server process"


@dataclass(frozen=True)
class Settings:
    """How long a round is, and how many callbacks are in flight."""

    rounds: int
    window_s: float
    warm_up_s: float = 0.2
    sockets: int = 4
    in_flight: int = 16
    connections: int = 32


FULL = Settings(rounds=4, window_s=0.7)
QUICK = Settings(rounds=1, window_s=0.2, warm_up_s=0.05)


def run(bench: Bench) -> Result:
    """All of them in turns, Flask over HTTP among them."""
    settings = QUICK if bench.quick else FULL
    contestants = asyncio.run(_measure(bench, settings))
    measures = [one for contestant in contestants.values() for one in contestant.measures]
    ratios = []
    if bench.peers:
        flask = contestants["flask"]
        ours = [
            (server, kind) for server in ("hypercorn", FASTEST) for kind in ("async def", "def")
        ]
        for server, kind in ours:
            label = f"{kind} on {server}"
            ratios.append(contestants[f"{server} {kind}"].over(flask, label, 4, "websocket"))
        for name, label in (("quart", "stock Dash on Quart"), ("fastapi", "stock Dash on FastAPI")):
            ratios.append(contestants[name].over(flask, label))
        ratios += [
            contestants[f"{server} {kind}"].over_by_work(flask, f"{kind} on {server}")
            for server, kind in ours
        ]
    notes = headroom(contestants.values())
    return Result("websocket", TITLE, asdict(settings), measures, ratios, notes)


async def _measure(bench: Bench, settings: Settings) -> dict[str, Contestant]:
    contestants: dict[str, Contestant] = {}

    def enter(name: str, label: str, stack: Stack, protocol: type[CallSocket], output: str) -> None:
        counts = {"sockets": settings.sockets, "in_flight": settings.in_flight}
        flood = SocketFlood(stack.address, protocol, output, **counts)
        contestants[name] = Contestant(label, stack.procs, flood)

    for server in ("hypercorn", FASTEST):
        ours = bench.dash_dispatch(server=server, workers=0)
        enter(f"{server} async def", f"async def, {server}", ours, DispatchSocket, "local")
        enter(f"{server} def", f"def, {server}", ours, DispatchSocket, "local-def")
    if bench.peers:
        quart, label = bench.quart(), "stock Dash, Quart + Hypercorn: async def"
        enter("quart", label, quart, StockSocket, "local")
        fastapi, label = bench.fastapi(), "stock Dash, FastAPI + Uvicorn: async def"
        enter("fastapi", label, fastapi, StockSocket, "local")
        flask = bench.flask()
        flood = HttpFlood(flask.address, "plain", settings.connections)
        label = "stock Dash, Flask + Gunicorn gthread: def, over HTTP"
        contestants["flask"] = Contestant(label, flask.procs, flood)
        # Shows what the client can do.
        label = f"floor: a bare answer, {FASTEST}"
        enter("bare", label, bench.bare(FASTEST), StockSocket, "local")
    await measure(contestants, settings.rounds, settings.window_s, settings.warm_up_s)
    return contestants
