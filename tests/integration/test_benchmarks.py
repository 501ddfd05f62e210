"""``make bench`` cannot rot: a quick form of every row runs, and finds what it is to find."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.measures import Result
from benchmarks.report import summary
from benchmarks.rows import ROWS
from tests.deployment import ROOT
from tests.programs import require_chromium, require_program

TARGETS = {"latency", "stall", "scaling", "idle", "large", "pages", "imports"}
"""Rows with a target that is judged without a peer."""


@pytest.mark.timeout(180)
def test_every_row_runs_and_measures_something() -> None:
    require_program("redis-server")
    require_chromium()
    command = [sys.executable, "-m", "benchmarks", "--quick", "--no-peers"]

    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=170, check=False
    )

    assert done.returncode == 0, done.stderr[-4000:]
    for row in ROWS:
        assert f"## {row}: " in done.stdout
        found = read(ROOT / "benchmarks" / ".quick" / f"{row}.json")
        assert all(samples for measure in found.measures for samples in measure.rounds), row
        judged = f"| {row} " in summary([found])
        assert judged == (row in TARGETS), row


def read(path: Path) -> Result:
    return Result.from_dict(json.loads(path.read_text()))
