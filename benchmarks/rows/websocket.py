"""Plain callbacks per second over the websocket, one process."""

import asyncio
from dataclasses import asdict, dataclass

from benchmarks.clients import CallSocket, DispatchSocket, StockSocket
from benchmarks.contest import Contestant, measure
from benchmarks.floods import HttpFlood, SocketFlood
from benchmarks.measures import Ratio, Result
from benchmarks.stacks import FASTEST, Bench, Stack

TITLE = "Plain callbacks per second over the websocket, one server process"


@dataclass(frozen=True)
class Settings:
    """How long a round is, and how many callbacks are in flight."""

    rounds: int
    window_s: float
    warm_up_s: float = 0.4
    sockets: int = 4
    in_flight: int = 16
    connections: int = 32


FULL = Settings(rounds=4, window_s=1.0)
QUICK = Settings(rounds=1, window_s=0.2, warm_up_s=0.1)


def run(bench: Bench) -> Result:
    """All of them in turns, Flask over HTTP among them."""
    settings = QUICK if bench.quick else FULL
    contestants = asyncio.run(_measure(bench, settings))
    measures = {name: contestant.rate for name, contestant in contestants.items()}
    ratios = []
    if bench.peers:
        ratios = [
            Ratio.of(
                f"{kind} on {server} / Flask + Gunicorn over HTTP",
                measures[f"{server} {kind}"],
                measures["flask"],
                sense="≥",
                target=4,
            )
            for server in ("hypercorn", FASTEST)
            for kind in ("async def", "def")
        ]
        ratios.append(
            Ratio.of("stock websocket / Flask + Gunicorn", measures["quart"], measures["flask"])
        )
    return Result("websocket", TITLE, asdict(settings), list(measures.values()), ratios)


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
        flask = bench.flask()
        flood = HttpFlood(flask.address, "plain", settings.connections)
        label = "stock Dash, Flask + Gunicorn gthread: def, over HTTP"
        contestants["flask"] = Contestant(label, flask.procs, flood)
    await measure(contestants, settings.rounds, settings.window_s, settings.warm_up_s)
    return contestants
