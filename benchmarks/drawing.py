"""SVG by hand: nothing to install, nothing to render."""

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Protocol

WIDTH = 860
OURS, PEERS, FLOOR = "ours", "peer", "floor"

# A picture brings its own background. GitHub can be dark where the reader's system is not, and a
# picture hears of the system only.
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #24292f; }
.title { font-size: 16px; font-weight: 600; }
.small { font-size: 11px; fill: #57606a; }
.card { fill: #ffffff; stroke: #d0d7de; }
.axis { stroke: #8c959f; stroke-width: 0.5; }
.grid { stroke: #8c959f; stroke-width: 0.5; stroke-opacity: 0.35; }
.target { stroke: #cf222e; stroke-width: 1; stroke-dasharray: 4 3; }
.busy { fill: #8c959f; fill-opacity: 0.15; }
.ours { fill: #0969da; stroke: #0969da; }
.peer { fill: #cf7d22; stroke: #cf7d22; }
.floor { fill: #6e7781; stroke: #6e7781; }
.whisker { stroke: #24292f; stroke-width: 1; fill: none; }
.curve { fill: none; stroke-width: 2; }
.ideal { fill: none; stroke: #6e7781; stroke-width: 1; stroke-dasharray: 4 3; }
.dots { fill: none; stroke-width: 3; stroke-linecap: round; stroke-opacity: 0.6; }
.big { stroke-width: 9; stroke-opacity: 1; }
.mid { stroke-width: 6; }
@media (prefers-color-scheme: dark) {
  .card { fill: #0d1117; stroke: #30363d; }
  text { fill: #e6edf3; } .small { fill: #9198a1; } .whisker { stroke: #e6edf3; }
  .ours { fill: #4493f8; stroke: #4493f8; } .target { stroke: #f85149; }
}
"""


class Scale(Protocol):
    """Numbers on a length."""

    ticks: Sequence[float]

    def __call__(self, value: float) -> float: ...


class LogScale:
    """Numbers of many orders. A length says nothing here, so only points are drawn on it."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        self._low = math.floor(math.log10(min(values)))
        self._high = max(math.ceil(math.log10(max(values))), self._low + 1)
        self._start, self._end = start, end
        self.ticks = [10.0**power for power in range(self._low, self._high + 1)]

    def __call__(self, value: float) -> float:
        share = (math.log10(value) - self._low) / (self._high - self._low)
        return self._start + share * (self._end - self._start)


class LinearScale:
    """Numbers from zero on, so that lengths can be compared."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        most = max(*values, 1e-9)
        step = 10.0 ** math.floor(math.log10(most))
        step *= next(
            part for part in (0.2, 0.5, 1.0, 2.0) if most / (step * part) <= 5 or part == 2
        )
        self._top = math.ceil(most / step) * step
        self._start, self._end = start, end
        self.ticks = [step * number for number in range(round(self._top / step) + 1)]

    def __call__(self, value: float) -> float:
        return self._start + value / self._top * (self._end - self._start)


class Picture:
    """Shapes, put together to an SVG file."""

    def __init__(self, title: str, height: int) -> None:
        self._height = height
        self._parts: list[str] = []
        self.text(16, 28, title, "title")

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

    def dots(self, points: Sequence[tuple[float, float]], kind: str, size: str = "") -> None:
        # Lines without length, with round ends: a tenth of the size of circles.
        path = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in points)
        self._parts.append(f'<path d="{path}" class="{kind} dots {size}"/>')

    def curve(self, points: Sequence[tuple[float, float]], kind: str) -> None:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        # As a style, which is stronger than the fill of its kind.
        self._parts.append(f'<polyline points="{path}" class="{kind} curve" style="fill: none"/>')

    def whisker(self, low: float, high: float, y: float) -> None:
        self.line(low, y, high, y, "whisker")
        for x in (low, high):
            self.line(x, y - 4, x, y + 4, "whisker")

    def save(self, path: Path) -> None:
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {self._height}"'
            f' width="{WIDTH}" height="{self._height}" role="img"><style>{STYLE}</style>'
        )
        size = f'width="{WIDTH - 1}" height="{self._height - 1}"'
        card = f'<rect x="0.5" y="0.5" {size} rx="6" class="card"/>'
        path.write_text("\n".join([head, card, *self._parts, "</svg>"]) + "\n")
