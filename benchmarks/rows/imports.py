"""How long ``import dash_dispatch`` takes, over ``import dash``."""

import os
import subprocess
import sys
from dataclasses import asdict, dataclass

from benchmarks.measures import Measure, Ratio, Result
from benchmarks.stacks import Bench

TITLE = "Import time"
STATEMENTS = {
    "dash": "from dash import Dash",
    "dash_dispatch": "from dash_dispatch import Dash",
    # What is not imported at once is imported with the first app, with Dash as with us.
    "dash made": "from dash import Dash; Dash('app', backend='quart')",
    "dash_dispatch made": "from dash_dispatch import Dash; Dash('app')",
}
TIMED = "import time; start = time.process_time(); {}; print(1000 * (time.process_time() - start))"


@dataclass(frozen=True)
class Settings:
    """How often."""

    rounds: int


FULL = Settings(rounds=3)
QUICK = Settings(rounds=1)


def run(bench: Bench) -> Result:
    """Each in a fresh interpreter, in turns; CPU time, which others do not add to."""
    settings = QUICK if bench.quick else FULL
    measures = {name: Measure(words, "ms") for name, words in STATEMENTS.items()}
    # The first time writes byte code, where it is to be as installed.
    first = 0 if bench.quick else 1
    for number in range(settings.rounds + first):
        for name, words in STATEMENTS.items():
            took_ms = _import(words, bench)
            if number >= first:
                measures[name].rounds.append([took_ms])
    dash, ours, made, ours_made = measures.values()
    ratios = [
        Ratio.of("dash_dispatch / dash", ours, dash, target=1.15, line="imports"),
        Ratio.of("an app made with it / with dash, on Quart", ours_made, made),
    ]
    return Result("imports", TITLE, asdict(settings), list(measures.values()), ratios)


def _import(words: str, bench: Bench) -> float:
    command = (sys.executable, "-c", TIMED.format(words))
    # As installed: pip leaves byte code for all of it, and a checkout may have none of its own.
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    if not bench.quick:
        env["PYTHONPYCACHEPREFIX"] = str(bench.folder / "byte-code")
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60, env=env)
    return float(done.stdout)
