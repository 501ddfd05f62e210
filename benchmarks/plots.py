"""Plots, drawn as SVG by hand from the raw numbers: nothing to install, nothing to render."""

import json
import math
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

from benchmarks.measures import Measure, Result

WIDTH = 860
LEFT = 420
RIGHT = 90
OURS, PEERS, FLOOR = "ours", "peer", "floor"

# GitHub shows a picture on the reader's own background, which may be dark.
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #24292f; }
.title { font-size: 16px; font-weight: 600; }
.small { font-size: 11px; fill: #57606a; }
.axis { stroke: #8c959f; stroke-width: 0.5; }
.grid { stroke: #8c959f; stroke-width: 0.5; stroke-opacity: 0.35; }
.busy { fill: #8c959f; fill-opacity: 0.15; }
.ours { fill: #0969da; stroke: #0969da; }
.peer { fill: #cf7d22; stroke: #cf7d22; }
.floor { fill: #6e7781; stroke: #6e7781; }
.whisker { stroke: #24292f; stroke-width: 1; fill: none; }
.dots { fill: none; stroke-width: 3; stroke-linecap: round; stroke-opacity: 0.6; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; } .small { fill: #9198a1; } .whisker { stroke: #e6edf3; }
}
"""


class Picture:
    """Shapes, put together to an SVG file."""

    def __init__(self, title: str, height: int) -> None:
        self._height = height
        self._parts: list[str] = []
        self.text(12, 24, title, "title")

    def text(self, x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> None:
        self._parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">'
            f"{escape(words)}</text>"
        )

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        place = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
        self._parts.append(f'<line {place} class="{kind}"/>')

    def bar(self, x: float, y: float, width: float, height: float, kind: str) -> None:
        place = f'x="{x:.1f}" y="{y:.1f}" width="{max(width, 1):.1f}" height="{height:.1f}"'
        self._parts.append(f'<rect {place} class="{kind}" stroke="none"/>')

    def dots(self, points: Sequence[tuple[float, float]], kind: str) -> None:
        # Lines without length, with round ends: a tenth of the size of circles.
        path = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in points)
        self._parts.append(f'<path d="{path}" class="{kind} dots"/>')

    def save(self, path: Path) -> None:
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {self._height}"'
            f' width="{WIDTH}" height="{self._height}" role="img"><style>{STYLE}</style>'
        )
        path.write_text("\n".join([head, *self._parts, "</svg>"]) + "\n")


class LogScale:
    """Numbers of many orders, on a length."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        self._low = math.floor(math.log10(min(values)))
        self._high = max(math.ceil(math.log10(max(values))), self._low + 1)
        self._start, self._end = start, end

    def __call__(self, value: float) -> float:
        share = (math.log10(value) - self._low) / (self._high - self._low)
        return self._start + share * (self._end - self._start)

    @property
    def ticks(self) -> list[float]:
        return [10.0**power for power in range(self._low, self._high + 1)]


def _number(value: float) -> str:
    if value >= 10_000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _kind(label: str) -> str:
    if "stock" in label:
        return PEERS
    return FLOOR if "floor" in label else OURS


def _bars(picture: Picture, measures: Sequence[Measure], unit: str, top: float) -> None:
    """One bar per measure: the median, and for latencies a whisker up to p95."""
    figures = [measure.at(share) for measure in measures for share in (0.5, 0.95)]
    scale = LogScale(figures, LEFT, WIDTH - RIGHT)
    bottom = top + 30 * len(measures)
    for tick in scale.ticks:
        picture.line(scale(tick), top - 4, scale(tick), bottom, "grid")
        picture.text(scale(tick), bottom + 16, f"{_number(tick)} {unit}", "small", "middle")
    for number, measure in enumerate(measures):
        y = top + 30 * number
        median = measure.at(0.5)
        right = scale(median)
        picture.text(LEFT - 8, y + 15, measure.label.replace("stock Dash", "Dash"), "", "end")
        picture.bar(LEFT, y + 3, right - LEFT, 17, _kind(measure.label))
        if measure.unit == "ms":
            right = scale(measure.at(0.95))
            picture.line(scale(median), y + 11.5, right, y + 11.5, "whisker")
            picture.line(right, y + 7, right, y + 16, "whisker")
        picture.text(right + 8, y + 16, f"{_number(median)} {unit}")


def _latency(result: Result, path: Path) -> None:
    picture = Picture(f"{result.title}: median, and up to p95", 90 + 30 * len(result.measures))
    _bars(picture, result.measures, "ms", 50)
    picture.save(path)


def _throughput(result: Result, path: Path) -> None:
    rates = [measure for measure in result.measures if measure.unit == "1/s"]
    flight = result.settings["in_flight"]
    picture = Picture(f"{result.title}, {flight} in flight", 90 + 30 * len(rates))
    _bars(picture, rates, "/s", 50)
    picture.save(path)


def _stall(result: Result, path: Path) -> None:
    """Every single fast callback of one round, by the moment at which it was due."""
    every_s, window_s = result.settings["every_s"], result.settings["window_s"]
    panels = [m for m in result.measures if m.label.endswith((", idle", ", busy"))]
    top, height, gap = 56, 190, 56
    number_of_panels = len(panels) // 2
    picture = Picture(result.title, top + number_of_panels * (height + gap))
    # One scale for all, so that they can be compared by eye.
    scale_values = [sample for measure in panels for sample in measure.rounds[0]]
    left, right = 70, WIDTH - 20
    for panel in range(number_of_panels):
        idle, busy = panels[2 * panel : 2 * panel + 2]
        y = top + panel * (height + gap)
        scale = LogScale(scale_values, y + height, y)
        middle = (left + right) / 2
        picture.bar(middle, y, right - middle, height, "busy")
        for tick in scale.ticks:
            picture.line(left, scale(tick), right, scale(tick), "grid")
            words = f"{_number(tick)} ms" if tick < 1000 else f"{_number(tick / 1000)} s"
            picture.text(left - 8, scale(tick) + 4, words, "small", "end")
        name = idle.label.removesuffix(", idle")
        for measure, start, when in ((idle, left, "idle"), (busy, middle, "busy")):
            per_s = (middle - left) / window_s
            samples = enumerate(measure.rounds[0])
            points = [(start + k * every_s * per_s + 3, scale(ms)) for k, ms in samples]
            picture.dots(points, PEERS if "stock" in name else OURS)
            words = f"{when}: p50 {_number(measure.at(0.5))} ms, p99 {_number(measure.at(0.99))} ms"
            picture.text(start + 4, y + height + 16, words, "small")
        picture.text(left, y - 8, name)
        picture.text(right, y + height + 16, f"{2 * window_s:g} s", "small", "end")
    picture.save(path)


PLOTS: dict[str, Callable[[Result, Path], None]] = {
    "latency": _latency,
    "stall": _stall,
    "throughput": _throughput,
    "browser": _latency,
}


def draw_all(folder: Path) -> list[Path]:
    """Draw a plot beside each row's raw numbers; returns the plots."""
    drawn = []
    for row, draw in PLOTS.items():
        numbers = folder / f"{row}.json"
        if numbers.exists():
            path = numbers.with_suffix(".svg")
            draw(Result.from_dict(json.loads(numbers.read_text())), path)
            drawn.append(path)
    return drawn
