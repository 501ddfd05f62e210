"""The rows, one file each: ``run(bench)`` starts what it compares, measures, and divides."""

from collections.abc import Callable

from benchmarks.measures import Result
from benchmarks.rows import (
    browser,
    costs,
    fanout,
    http,
    idle,
    imports,
    large,
    latency,
    pages,
    scaling,
    stall,
    throughput,
    updates,
    websocket,
)
from benchmarks.stacks import Bench

ROWS: dict[str, Callable[[Bench], Result]] = {
    "latency": latency.run,
    "stall": stall.run,
    "throughput": throughput.run,
    "http": http.run,
    "websocket": websocket.run,
    "scaling": scaling.run,
    "idle": idle.run,
    "large": large.run,
    "updates": updates.run,
    "fanout": fanout.run,
    "pages": pages.run,
    "imports": imports.run,
    "costs": costs.run,
    "browser": browser.run,
}
