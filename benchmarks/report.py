"""The table of a row, in words and figures."""

from benchmarks.measures import CLIENT, OTHERS, STEAL, Measure, Ratio, Result
from benchmarks.table import LINES, by_line, limits

LONGEST_S = 600


def text(result: Result) -> str:
    """The row as text, also readable as Markdown."""
    parts = [f"## {result.row}: {result.title}", ""]
    parts += _measures(result.measures)
    if result.ratios:
        parts += ["", *_ratios(result.ratios)]
    notes = [*result.notes, f"Took {result.took_s:.0f} s."]
    notes += [
        f"DOUBTFUL: {measure.label}: {doubt}"
        for measure in result.measures
        for doubt in measure.doubts
    ]
    parts += ["", *(f"- {note}" for note in notes)]
    return "\n".join(parts)


def summary(results: list[Result], took_s: float) -> str:
    """Every line that was asked for, with its target, and what limits those that fall short."""
    rows = [["row", "what", "found", "target", ""]]
    for name, found in by_line(results).items():
        line = LINES[name]
        rows.append([line.row, line.what, "" if found else "not measured: no peers", "", ""])
        for result, ratio in found:
            target = "" if ratio.target is None else f"{ratio.sense} {ratio.target:g}"
            doubt = "doubtful" if result.doubts(ratio) else ""
            verdict = ", ".join(word for word in (ratio.verdict, doubt) if word)
            rows.append(["", f"  {ratio.label}", spread(ratio), target, verdict])
    judged = f"{'NOT ' * (took_s > LONGEST_S)}met"
    rows.append(["all", "seconds", f"{took_s:.0f}", f"≤ {LONGEST_S}", judged])
    lines = ["## targets", "", *table(rows)]
    if reasons := limits(results):
        lines += ["", "What limits those that are not met:", "", *reasons]
    return "\n".join(lines)


def spread(ratio: Ratio) -> str:
    """A figure and its rounds."""
    low, high = min(ratio.rounds), max(ratio.rounds)
    return figure(ratio.value) + (f" ({figure(low)} to {figure(high)})" if low < high else "")


def figure(value: float) -> str:
    """Three digits of it, or more if it has them before the point."""
    if value >= 10_000:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _measures(measures: list[Measure]) -> list[str]:
    rows = [
        [
            *("what", "p50", "p95", "p99", "n"),
            *("CPU: client", "others", "steal", "servers", "CPU ms per call"),
        ]
    ]
    for measure in measures:
        figures = [_figure(measure, share) for share in (0.5, 0.95, 0.99)]
        if measure.unit != "ms":
            figures[1:] = ["", ""]
        count = sum(len(samples) for samples in measure.rounds)
        rows.append([measure.label, *figures, str(count), *_cpu(measure)])
    return table(rows)


def _cpu(measure: Measure) -> list[str]:
    if not measure.cpu:
        return [""] * 5
    servers = [name for name in measure.cpu if name not in (CLIENT, OTHERS, STEAL)]
    shares = ", ".join(f"{name} {measure.cpu[name]:.2f}" for name in servers)
    costs = ", ".join(f"{name} {cost:.2f}" for name, cost in measure.cost_ms.items())
    # Numbers that were kept before it was measured have no steal.
    known = [f"{measure.cpu.get(who, 0.0):.2f}" for who in (CLIENT, OTHERS, STEAL)]
    return [*known, shares, costs]


def _figure(measure: Measure, share: float) -> str:
    value = measure.at(share)
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:.{digits}f} {measure.unit}"


def _ratios(ratios: list[Ratio]) -> list[str]:
    rows = [["ratio or figure", "median of rounds", "rounds", "target", ""]]
    for ratio in ratios:
        low, high = min(ratio.rounds), max(ratio.rounds)
        target = "" if ratio.target is None else f"{ratio.sense} {ratio.target:g}"
        rows.append(
            [ratio.label, f"{ratio.value:.2f}", f"{low:.2f} to {high:.2f}", target, ratio.verdict]
        )
    return table(rows)


def table(rows: list[list[str]]) -> list[str]:
    """A Markdown table; the first row is its head."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return lines
