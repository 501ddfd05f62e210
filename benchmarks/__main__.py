"""``python -m benchmarks``: see ``--help``."""

import json
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click

from benchmarks import machine, plots, report
from benchmarks.measures import Result
from benchmarks.rows import ROWS
from benchmarks.stacks import Bench

HERE = Path(__file__).parent
RESULTS = HERE / "results"
QUICK_RESULTS = HERE / ".quick"

PLOT = "plot"


@click.command(epilog=f"Rows: {', '.join(ROWS)}. Without any: all of them.")
@click.argument("rows", nargs=-1, metavar="[ROW ... | plot]", type=click.Choice([*ROWS, PLOT]))
@click.option("--quick", is_flag=True, help="A few seconds per row: proves that it runs, no more.")
@click.option("--no-peers", is_flag=True, help="Only dash_dispatch, with no other environment.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the tables there as well.")
def main(rows: tuple[str, ...], quick: bool, no_peers: bool, out: Path | None) -> None:
    """Run ROWs and print their tables; raw numbers and plots are kept in results/.

    "plot" draws the plots anew from the numbers that are there.
    """
    # Whoever stops us must not leave servers behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = QUICK_RESULTS if quick or no_peers else RESULTS
    folder.mkdir(exist_ok=True)
    if PLOT in rows:
        for path in plots.draw_all(RESULTS):
            click.echo(path)
        return
    tables, results = [], []
    for result in _results(rows or tuple(ROWS), quick=quick, peers=not no_peers):
        path = folder / f"{result.row}.json"
        path.write_text(json.dumps(result.as_dict(), indent=None, separators=(",", ":")) + "\n")
        results.append(result)
        tables.append(report.text(result))
        click.echo(tables[-1] + "\n")
    tables.append(report.summary(results))
    click.echo(tables[-1])
    plots.draw_all(folder)
    if out is not None:
        out.write_text("\n\n".join(tables) + "\n")


def _results(rows: tuple[str, ...], *, quick: bool, peers: bool) -> Iterator[Result]:
    """Each row has processes of its own, unless it only has to be shown that it runs."""
    groups = [rows] if quick else [(row,) for row in rows]
    for group in groups:
        with Bench.open(quick=quick, peers=peers) as bench:
            for row in group:
                yield _run(bench, row)


def _run(bench: Bench, row: str) -> Result:
    where, started = machine.describe(), time.monotonic()
    try:
        result = ROWS[row](bench)
    except Exception as error:
        # What the servers said is gone with their folder.
        click.echo(bench.logs(), err=True)
        if isinstance(error, EOFError):
            # Click would say "Aborted!" and nothing else.
            raise RuntimeError(f"row {row}: {error!r}") from error
        raise
    result.machine = where
    result.took_s = time.monotonic() - started
    return result


if __name__ == "__main__":
    sys.exit(main())
