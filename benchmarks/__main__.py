"""``python -m benchmarks``: see ``--help``."""

import json
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import click

from benchmarks import machine, plots, publish, report
from benchmarks.measures import Result
from benchmarks.rows import ROWS
from benchmarks.stacks import Bench

HERE = Path(__file__).parent
RESULTS = HERE / "results"
QUICK_RESULTS = HERE / ".quick"

PUBLISH = "publish"


@click.command(epilog=f"Rows: {', '.join(ROWS)}. Without any: all of them.")
@click.argument(
    "rows", nargs=-1, metavar="[ROW ... | publish]", type=click.Choice([*ROWS, PUBLISH])
)
@click.option("--quick", is_flag=True, help="A few seconds per row: proves that it runs, no more.")
@click.option("--no-peers", is_flag=True, help="Only dash_dispatch, with no other environment.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the tables there as well.")
def main(rows: tuple[str, ...], quick: bool, no_peers: bool, out: Path | None) -> None:
    """Run ROWs and print their tables; keep raw numbers in results/, and publish them.

    "publish" alone takes the numbers that are there: it draws the plots, and writes the tables of
    README.md and docs/scaling.md.
    """
    # Whoever stops us must not leave servers behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = QUICK_RESULTS if quick or no_peers else RESULTS
    folder.mkdir(exist_ok=True)
    if PUBLISH in rows:
        for path in publish.publish(RESULTS):
            click.echo(path)
        return
    started = time.monotonic()
    tables, results = [], []
    wanted = rows or tuple(ROWS)
    for result in _results(wanted, quick=quick, peers=not no_peers):
        path = folder / f"{result.row}.json"
        path.write_text(json.dumps(result.as_dict(), indent=None, separators=(",", ":")) + "\n")
        results.append(result)
        tables.append(report.text(result))
        click.echo(tables[-1] + "\n")
    tables.append(report.summary(results, time.monotonic() - started))
    click.echo(tables[-1])
    if folder == RESULTS:
        publish.publish(RESULTS)
    else:
        plots.draw_all(folder)
    if out is not None:
        out.write_text("\n\n".join(tables) + "\n")
    if failed := set(wanted) - {result.row for result in results}:
        raise click.ClickException(f"not measured, see above: {', '.join(sorted(failed))}")


def _results(rows: tuple[str, ...], *, quick: bool, peers: bool) -> Iterator[Result]:
    """Each row has processes of its own, unless it only has to be shown that it runs.

    A row that fails is left out, and does not take the others with it.
    """
    groups = [rows] if quick else [(row,) for row in rows]
    for group in groups:
        with Bench.open(quick=quick, peers=peers) as bench:
            for row in group:
                if (result := _run(bench, row)) is not None:
                    yield result


def _run(bench: Bench, row: str) -> Result | None:
    where, started = machine.describe(), time.monotonic()
    try:
        result = ROWS[row](bench)
    except Exception:  # noqa: BLE001 - whatever it is, it is shown, and the run ends with an error
        # What the servers said is gone with their folder.
        click.echo(f"{bench.logs()}\nrow {row} failed:\n{traceback.format_exc()}", err=True)
        return None
    result.machine = where
    result.took_s = time.monotonic() - started
    return result


if __name__ == "__main__":
    sys.exit(main())
