"""``make bench`` cannot rot: a quick form of every row runs, and finds what it is to find."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.measures import Result
from benchmarks.plots import PLOTS
from benchmarks.publish import DOCUMENTS, SECTIONS, load, rendered
from benchmarks.report import summary
from benchmarks.rows import ROWS
from benchmarks.table import LINES, by_line
from tests.deployment import ROOT
from tests.programs import require_chromium, require_program

WITH_PEERS = {"celery10", "celery1000", "throughput", "http hypercorn", "http uvicorn", "websocket"}
"""Lines that nothing can be found for without a peer."""

REPORTED = {"updates", "fanout", "memory"}
"""Lines without a target: nobody else does it, or too few pages were opened to say."""


@pytest.mark.timeout(180)
def test_every_row_runs_and_measures_something() -> None:
    require_program("redis-server")
    require_chromium()
    command = [sys.executable, "-m", "benchmarks", "--quick", "--no-peers"]

    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=170, check=False
    )

    assert done.returncode == 0, done.stderr[-4000:]
    folder = ROOT / "benchmarks" / ".quick"
    for row in ROWS:
        assert f"## {row}: " in done.stdout
        found = read(folder / f"{row}.json")
        assert all(samples for measure in found.measures for samples in measure.rounds), row
        assert (folder / f"{row}.svg").exists() == (row in PLOTS), row
    lines = by_line([read(folder / f"{row}.json") for row in ROWS])
    assert {name for name, ratios in lines.items() if not ratios} == WITH_PEERS
    judged = {name for name, ratios in lines.items() for _, ratio in ratios if ratio.target}
    assert judged == set(LINES) - WITH_PEERS - REPORTED


def test_what_is_published_is_what_was_measured() -> None:
    results = load(ROOT / "benchmarks" / "results")

    assert set(results) == set(ROWS)
    lines = by_line(list(results.values()))
    assert set(lines) == set(LINES)
    assert all(lines.values()), "a line of the summary was not measured"
    texts = [document.read_text() for document in DOCUMENTS]
    assert all(f"<!-- benchmarks: {name} -->" in "".join(texts) for name in SECTIONS)
    for document, text in zip(DOCUMENTS, texts, strict=True):
        assert rendered(text, results) == text, f"{document.name}: python -m benchmarks publish"


def test_a_target_that_is_missed_is_told_with_what_limits_it() -> None:
    found = read(ROOT / "benchmarks" / "results" / "latency.json")
    ratio = next(ratio for ratio in found.ratios if ratio.line == "floor")
    ratio.rounds, ratio.target = [9.0, 10.0, 3.0], 4

    told = summary([found], 601)

    assert "NOT met, off by 125%, in 2 of 3 rounds" in told
    assert LINES["floor"].limits in told
    assert re.search(r"\| 601 +\| ≤ 600 +\| NOT met", told)


def read(path: Path) -> Result:
    return Result.from_dict(json.loads(path.read_text()))
