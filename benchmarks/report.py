"""The table of a row, in words and figures."""

from benchmarks.measures import CLIENT, OTHERS, Measure, Ratio, Result


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


def summary(results: list[Result]) -> str:
    """Every target in one table."""
    rows = [["row", "what", "found", "target", ""]]
    for result in results:
        for ratio in result.ratios:
            if ratio.target is not None:
                target = f"{ratio.sense} {ratio.target:g}"
                met = "met" if ratio.met else "NOT met"
                met += ", doubtful" if result.doubts(ratio) else ""
                found = f"{ratio.value:.2f} ({min(ratio.rounds):.2f} to {max(ratio.rounds):.2f})"
                rows.append([result.row, ratio.label, found, target, met])
    rows.append(["all", "seconds", f"{sum(result.took_s for result in results):.0f}", "≤ 600", ""])
    return "\n".join(["## targets", "", *_table(rows)])


def _measures(measures: list[Measure]) -> list[str]:
    rows = [
        ["what", "p50", "p95", "p99", "n", "CPU: client", "others", "servers", "CPU ms per call"]
    ]
    for measure in measures:
        figures = [_figure(measure, share) for share in (0.5, 0.95, 0.99)]
        if measure.unit != "ms":
            figures[1:] = ["", ""]
        count = sum(len(samples) for samples in measure.rounds)
        rows.append([measure.label, *figures, str(count), *_cpu(measure)])
    return _table(rows)


def _cpu(measure: Measure) -> list[str]:
    if not measure.cpu:
        return [""] * 4
    servers = [name for name in measure.cpu if name not in (CLIENT, OTHERS)]
    shares = ", ".join(f"{name} {measure.cpu[name]:.2f}" for name in servers)
    costs = ", ".join(f"{name} {cost:.2f}" for name, cost in measure.cost_ms.items())
    return [f"{measure.cpu[CLIENT]:.2f}", f"{measure.cpu[OTHERS]:.2f}", shares, costs]


def _figure(measure: Measure, share: float) -> str:
    value = measure.at(share)
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:.{digits}f} {measure.unit}"


def _ratios(ratios: list[Ratio]) -> list[str]:
    rows = [["ratio or figure", "median of rounds", "rounds", "target", ""]]
    for ratio in ratios:
        low, high = min(ratio.rounds), max(ratio.rounds)
        target = "" if ratio.target is None else f"{ratio.sense} {ratio.target:g}"
        met = {None: "", True: "met", False: "NOT met"}[ratio.met]
        rows.append([ratio.label, f"{ratio.value:.2f}", f"{low:.2f} to {high:.2f}", target, met])
    return _table(rows)


def _table(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return lines
