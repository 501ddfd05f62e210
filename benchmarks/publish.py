"""What readers see, written from the raw numbers: the plots, and the tables of README and docs.

A table stands between ``<!-- benchmarks: NAME -->`` and ``<!-- benchmarks end -->``. It is never
written by hand; a test compares it with the numbers.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path

from benchmarks.measures import Ratio, Result
from benchmarks.plots import draw_all
from benchmarks.report import figure, spread
from benchmarks.rows import ROWS
from benchmarks.table import LINES, by_line, limits

ROOT = Path(__file__).parents[1]
DOCUMENTS = (ROOT / "README.md", ROOT / "docs" / "benchmarks.md", ROOT / "docs" / "scaling.md")
SECTION = re.compile(
    r"(?P<begin><!-- benchmarks: (?P<name>[\w-]+) -->\n).*?(?P<end><!-- benchmarks end -->)",
    re.DOTALL,
)

Results = dict[str, Result]


def load(folder: Path) -> Results:
    """The kept results, by row, in the order in which they are run."""
    files = {row: folder / f"{row}.json" for row in ROWS}
    return {
        row: Result.from_dict(json.loads(file.read_text()))
        for row, file in files.items()
        if file.exists()
    }


def publish(folder: Path) -> list[Path]:
    """Draw the plots, and write the tables; returns what was written."""
    results = load(folder)
    for document in DOCUMENTS:
        document.write_text(rendered(document.read_text(), results))
    return [*draw_all(folder), *DOCUMENTS]


def rendered(text: str, results: Results) -> str:
    """A document with its tables as the results have them."""

    def section(match: re.Match[str]) -> str:
        lines = SECTIONS[match["name"]](results)
        return match["begin"] + "\n".join(lines) + "\n" + match["end"]

    return SECTION.sub(section, text)


def _summary(results: Results) -> list[str]:
    """A line per target, with the medians alone."""
    rows = [["", "found", "wanted", ""]]
    for name, found in by_line(list(results.values())).items():
        judged = [ratio for _, ratio in found if ratio.target is not None]
        if not judged:
            continue
        words = ", ".join(
            figure(ratio.value) + f" ({_short(ratio)})" * (len(judged) > 1) for ratio in judged
        )
        met = sum(bool(ratio.met) for ratio in judged)
        verdict = {0: "**not met**", len(judged): "met"}.get(met, f"{met} of {len(judged)} met")
        rows.append([LINES[name].what, words, f"{judged[0].sense} {judged[0].target:g}", verdict])
    return _table(rows)


def _targets(results: Results) -> list[str]:
    rows = [["what", "found: median (range of the rounds)", "wanted", ""]]
    for name, found in by_line(list(results.values())).items():
        line = LINES[name]
        first = True
        # What stands beside it and is not judged is only printed.
        judged = [one for one in found if one[1].target is not None] or found
        for result, ratio in judged:
            words = f"{_with_unit(ratio)}{'' if len(judged) == 1 else ': ' + _short(ratio)}"
            target = "" if ratio.target is None else f"{ratio.sense} {ratio.target:g}"
            doubt = "doubtful" if result.doubts(ratio) else ""
            verdict = "; ".join(word for word in (ratio.verdict, doubt) if word)
            rows.append([line.what if first else "", words, target, verdict])
            first = False
    lines = _table(rows)
    if reasons := limits(list(results.values())):
        lines += ["", "What limits those that are not met:", "", *reasons]
    return lines


def _short(ratio: Ratio) -> str:
    """Which of several figures of one line this is."""
    label = ratio.label
    if " / " not in label:
        return label.rpartition(", ")[0]
    above, _, below = label.partition(" / ")
    return (
        f"over {below}"
        if above.startswith("Celery")
        else above.removeprefix("dash_dispatch: ").partition(": ")[0]
    )


def _with_unit(ratio: Ratio) -> str:
    _, comma, unit = ratio.label.rpartition(", ")
    return f"{spread(ratio)} {unit}" if comma and " / " not in ratio.label else spread(ratio)


def _table(rows: list[list[str]]) -> list[str]:
    """Not padded: it is not read as text."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return [lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]


def _conditions(results: Results) -> list[str]:
    """Where, when, and how much of it is doubtful."""
    where = [result.machine for result in results.values()]
    packages = where[0]["packages"]
    judged = [
        (r, ratio) for r in results.values() for ratio in r.ratios if ratio.target is not None
    ]
    doubtful = sum(result.doubts(ratio) for result, ratio in judged)
    met = sum(bool(ratio.met) for _, ratio in judged)
    days = sorted({one["when"][:10] for one in where})
    return [
        f"{met} of {len(judged)} targets are met. {doubtful} of these figures are doubtful: others"
        " on the machine, or its host, took more than a little meanwhile.",
        f"Measured {' and '.join(days)} on {where[0]['cores']} cores ({where[0]['cpu']}), which the"
        f" client shared: {where[0]['system']}, CPython {where[0]['python']},"
        f" Dash {packages['dash']}, Hypercorn {packages['hypercorn']}.",
    ]


def _latency(results: Results) -> list[str]:
    rows = [["an empty callback, one at a time", "p50", "p95", "p99"]]
    for name in ("latency", "browser"):
        result = results[name]
        for measure in result.measures:
            words = f"{measure.label}{', in Chromium, click to result' * (name == 'browser')}"
            shares = (f"{figure(measure.at(share))} ms" for share in (0.5, 0.95, 0.99))
            rows.append([words, *shares])
    return _table(rows)


def _stall(results: Results) -> list[str]:
    rows = [["a fast callback every 20 ms", "p50", "p99", "slowest"]]
    for measure in results["stall"].measures:
        if "sent later" not in measure.label:
            shares = (f"{figure(measure.at(share))} ms" for share in (0.5, 0.99, 1))
            rows.append([measure.label, *shares])
    return _table(rows)


class Costs:
    """What a call costs, and what the model of docs/scaling.md makes of that."""

    WHO = ("web", "worker", "redis")
    WORKERS, WEBS = 200, 20

    def __init__(self, result: Result) -> None:
        self.rates = [int(rate) for rate in result.settings["rates"]]
        self.full = result.measure("as many as go")
        self.at_rate = {
            rate: {who: result.measure(f"{who}, {rate} calls/s").at(0.5) for who in self.WHO}
            for rate in self.rates
        }
        self.at_full = {who: 1000 * self.full.cost_ms[who] for who in self.WHO}
        self.traffic = {
            rate: [
                result.measure(f"{label}, {rate} calls/s").at(0.5)
                for label in ("bytes to Redis", "bytes from Redis")
            ]
            for rate in self.rates
        }
        executed = "commands executed, those of scripts included"
        self.executed = {
            rate: result.measure(f"{executed}, {rate} calls/s").at(0.5) for rate in self.rates
        }
        # One web process and one worker idle together.
        self.idle = result.measure("redis, idle: CPU per second").at(0.5) / 2

    @property
    def idle_share(self) -> float:
        """Of Redis' core, used by the processes of the model while nothing happens."""
        return (self.WORKERS + self.WEBS) * self.idle / 1e6

    def redis_rate(self, costs: dict[str, float]) -> float:
        """Calls per second that one Redis bears."""
        return max(0.0, 1 - self.idle_share) * 1e6 / costs["redis"]


def _rounded(value: float) -> str:
    """Two digits: more of a model would be pretence."""
    digits = 10 ** max(0, len(str(int(value))) - 2)
    found = round(value / digits) * digits
    return f"{found:,}".replace(",", " ") if found >= 10_000 else str(found)


def _inputs(results: Results) -> list[str]:
    costs = Costs(results["costs"])
    heads = [f"{rate} calls/s" for rate in costs.rates]
    rows = [["symbol", "what", *heads, f"as many as go ({_rounded(costs.full.at(0.5))}/s)"]]
    for symbol, who, words in zip(
        "wkr", costs.WHO, ("web process", "worker", "Redis"), strict=True
    ):
        values = [f"{costs.at_rate[rate][who]:.0f}" for rate in costs.rates]
        cells = [*values, f"{costs.at_full[who]:.0f}"]
        rows.append([f"`{symbol}`", f"{words}, µs per call", *cells])
    traffic = [" / ".join(f"{b:.0f}" for b in costs.traffic[rate]) for rate in costs.rates]
    rows.append(["", "bytes to / from Redis per call", *traffic, ""])
    executed = [f"{costs.executed[rate]:.0f}" for rate in costs.rates]
    rows.append(["", "commands executed per call, those of scripts included", *executed, ""])
    rows.append(
        [
            "`i`",
            "Redis, µs per second and idle process",
            f"{costs.idle:.0f}",
            *[""] * len(costs.rates),
        ]
    )
    return _table(rows)


def _model(results: Results) -> list[str]:
    costs = Costs(results["costs"])
    rate = costs.rates[-1]
    columns = (costs.at_rate[rate], costs.at_full)
    most = [costs.redis_rate(column) for column in columns]
    traffic = sum(costs.traffic[rate]) / 1e6

    def limit(words: str, who: str, count: int) -> list[str]:
        return [words, *(f"{_rounded(count * 1e6 / column[who])}/s" for column in columns)]

    idle = f"{costs.idle_share:.0%}"
    rows = [
        ["limit", f"with the costs at {rate} calls/s", "with those of many at once"],
        limit(f"web: {costs.WEBS} / `w`", "web", costs.WEBS),
        limit(f"workers, empty calls: {costs.WORKERS} / `k`", "worker", costs.WORKERS),
        ["workers, 1 s of computing, 2 processes each", "400/s", "400/s"],
        ["workers, 1 s of waiting, 32 at once", "6400/s", "6400/s"],
        [f"Redis, idle share: {costs.WORKERS + costs.WEBS} × `i`", f"{idle} of its core", idle],
        ["**Redis: what is left / `r`**", *(f"**{_rounded(value)}/s**" for value in most)],
        ["its network at that rate", *(f"{value * traffic:.0f} MB/s" for value in most)],
    ]
    computing, waiting = 2 * costs.WORKERS / most[0], 32 * costs.WORKERS / most[0]
    return [
        *_table(rows),
        "",
        f"**The first bottleneck is Redis' one core, at {_rounded(most[0])} to {_rounded(most[1])}"
        " calls per second.** Whether it is ever reached depends on `t`: 200 workers that compute"
        " for a second per call end at 400 calls/s. It is reached when calls are shorter than"
        f" {computing:.2g} s of computing, or {waiting:.2g} s of waiting at 32 at once. With 50"
        " workers of four times the `PROCESSES` the idle share is"
        f" {70 * costs.idle / 1e6:.0%} in place of {idle}.",
    ]


def _checked(results: Results) -> list[str]:
    result = results["costs"]
    found = next(ratio for ratio in result.ratios if "predicted" in ratio.label).value
    measured = result.measure("as many as go")
    shares = measured.cpu
    return [
        f"On {result.machine['cores']} cores, with client, web, worker and Redis on them, as many"
        f" as go: predicted {_rounded(measured.at(0.5) / found)}/s (all cores over the CPU time of"
        f" a call), measured {_rounded(measured.at(0.5))}/s, {found:.2f} of it. Worker and web"
        f" process wait for each other, and were busy for {shares['worker']:.2f} and"
        f" {shares['web']:.2f} of a core; others on the machine took {shares['others']:.2f}.",
    ]


SECTIONS: dict[str, Callable[[Results], list[str]]] = {
    "conditions": _conditions,
    "summary": _summary,
    "targets": _targets,
    "latency": _latency,
    "stall": _stall,
    "inputs": _inputs,
    "model": _model,
    "checked": _checked,
}
