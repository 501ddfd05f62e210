"""How long ``import dash_dispatch`` takes, over ``import dash``."""

import subprocess
import sys
from dataclasses import asdict, dataclass

from benchmarks.measures import Measure, Ratio, Result
from benchmarks.stacks import Bench

TITLE = "Import time"
STATEMENTS = {
    "dash": "from dash import Dash",
    "quart": "from dash import Dash; import dash.backends._quart",
    "dash_dispatch": "from dash_dispatch import Dash",
}
TIMED = "import time; start = time.process_time(); {}; print(1000 * (time.process_time() - start))"


@dataclass(frozen=True)
class Settings:
    """How often."""

    rounds: int


FULL = Settings(rounds=9)
QUICK = Settings(rounds=1)


def run(bench: Bench) -> Result:
    """Each in a fresh interpreter, in turns; CPU time, which others do not add to."""
    settings = QUICK if bench.quick else FULL
    measures = {name: Measure(words, "ms") for name, words in STATEMENTS.items()}
    for number in range(settings.rounds + 1):
        for name, words in STATEMENTS.items():
            took_ms = _import(words)
            # The first time writes byte code.
            if number:
                measures[name].rounds.append([took_ms])
    ours, dash, quart = (measures[name] for name in ("dash_dispatch", "dash", "quart"))
    ratios = [
        Ratio.of("dash_dispatch / dash", ours, dash, target=1.15),
        Ratio.of("dash_dispatch / dash with its Quart backend", ours, quart),
    ]
    return Result("imports", TITLE, asdict(settings), list(measures.values()), ratios)


def _import(words: str) -> float:
    command = (sys.executable, "-c", TIMED.format(words))
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    return float(done.stdout)
