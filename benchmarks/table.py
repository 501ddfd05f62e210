"""The lines of the summary: what is wanted of dash_dispatch, and what limits it.

Each ratio of a row names the line it belongs to. What limits was found with profiles, with traces
of single calls through all processes, and with the CPU times that the rows print; it is shown
beside a line only when that is not met.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.measures import Ratio, Result


@dataclass(frozen=True)
class Line:
    """One line.

    Attributes:
        row: Of the benchmark that measures it.
        what: In words.
        limits: Why it is not better.
    """

    row: str
    what: str
    limits: str = ""


LINES = {
    "stall": Line(
        "stall",
        "a fast callback's p99 with 200 slow offloaded calls in flight / the same idle",
        "calls in step end and come all at once, for 0.2 s in 3: web, worker, Redis and their"
        " client then want the same cores, of which the web process uses half a one, in turns of a"
        " millisecond or two",
    ),
    "local": Line(
        "latency",
        "an empty offloaded callback, one at a time over the websocket, p50 / the same in process",
        "three processes that wake each other: at a call that comes alone each has gone to sleep",
    ),
    "floor": Line(
        "latency",
        "… / a message through Redis and back",
        "the floor is four commands and four wake-ups; a call is eight wake-ups of processes that"
        " sleep, with caches that others have used since, three scripts of some 40 commands that"
        " make it durable and its outcome single (0.3 ms), and Python: 0.25 ms from the browser's"
        " message to Redis, and as much from the claim to the outcome",
    ),
    "celery10": Line(
        "latency",
        "Celery background callback polled every 10 ms, p50 / ours",
        "our own latency: Celery's is a poll or two and what Flask takes for each of them",
    ),
    "celery1000": Line(
        "latency",
        "… polled every 1000 ms, Dash's default, p50 / ours",
        "a poll is 1000 ms, so ours would have to be below 2.9 ms at the median",
    ),
    "throughput": Line(
        "throughput",
        "offloaded callbacks per second, one web and one worker process / Celery's best with one"
        " web and two processes",
        "the worker, beside a web process, a Redis and a client that want the same cores; a def in"
        " a process costs it more, for the way there and back through a pipe",
    ),
    "http hypercorn": Line(
        "http",
        "plain callbacks per second over HTTP, one process, on Hypercorn / Flask + Gunicorn"
        " gthread",
        "Hypercorn: a bare answer takes 0.6 of what ours takes, more than a third of it in h11's"
        " parser, the rest in its tasks, its writes and a timer per request",
    ),
    "http uvicorn": Line(
        "http",
        "the same on Uvicorn, the fastest ASGI server that is supported / the same Flask",
        "Dash's own handling of a callback, which is most of a request here",
    ),
    "websocket": Line(
        "websocket",
        "plain callbacks per second over the websocket / the same Flask",
        "a def needs a thread, and the way there and back is up to a third of its time; the rest is"
        " Dash's own handling of a callback and the server's frames",
    ),
    "scaling": Line(
        "scaling",
        "8 workers / 8 times one, calls that wait for 50 ms",
        "the cores of the machine, which client, web process, Redis and workers share",
    ),
    "idle": Line(
        "idle",
        "commands to Redis per second from an idle worker and an idle web process with 100 pages",
        "heartbeats and leases: what notices a dead process within seconds",
    ),
    "large": Line(
        "large",
        "the event loop's longest stall in the web process while a result of 20 MB passes",
        "what the loop itself does in one step is printed as CPU time; the rest of the stall is"
        " waiting for a core, which the client and the worker use for the same 20 MB",
    ),
    "updates": Line("updates", "updates (set_props) per second to one page, all of them in order"),
    "fanout": Line("fanout", "one push to 2000 open pages, until the last has it"),
    "memory": Line(
        "pages",
        "memory of the web process per idle page, of 5000",
        "half of a page is the server's: its task, its websocket and its buffers",
    ),
    "push": Line(
        "pages",
        "… and a push to one of them, p99",
        "the core that the web process, the worker and the pages' own pings share",
    ),
    "imports": Line(
        "imports",
        "import time of dash_dispatch / that of dash",
        "Quart and what it imports, which the stock backend only imports with the first app",
    ),
}


def limits(results: Sequence[Result]) -> list[str]:
    """What limits the lines that are not met, and what a call costs there: a list in Markdown."""
    found = []
    for name, ratios in by_line(results).items():
        missed = [(result, ratio) for result, ratio in ratios if ratio.met is False]
        if missed:
            words = f"- *{LINES[name].what}*: {LINES[name].limits}."
            costs = dict.fromkeys(_costs(result, ratio) for result, ratio in missed)
            found.append(" ".join([words, *filter(None, costs)]))
    return found


def _costs(result: Result, ratio: Ratio) -> str:
    """CPU time per call of what is measured, by process; nothing where calls are not counted."""
    measure = next((one for one in result.measures if one.label in ratio.made_of), None)
    if measure is None or not measure.cost_ms:
        return ""
    parts = ", ".join(f"{name} {cost:.2f}" for name, cost in measure.cost_ms.items())
    return f"CPU ms per call, {measure.label}: {parts}."


def by_line(results: Sequence[Result]) -> dict[str, list[tuple[Result, Ratio]]]:
    """The ratios of each line, of the rows that ran."""
    found: dict[str, list[tuple[Result, Ratio]]] = {}
    for result in results:
        for name in (name for name, line in LINES.items() if line.row == result.row):
            found[name] = [(result, ratio) for ratio in result.ratios if ratio.line == name]
    return {name: found[name] for name in LINES if name in found}
