"""The rows, one file each: ``run(bench)`` starts what it compares, measures, and divides."""

from collections.abc import Callable

from benchmarks.measures import Result
from benchmarks.rows import browser, latency, stall, throughput
from benchmarks.stacks import Bench

ROWS: dict[str, Callable[[Bench], Result]] = {
    "latency": latency.run,
    "stall": stall.run,
    "throughput": throughput.run,
    "browser": browser.run,
}
