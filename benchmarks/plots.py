"""The plots, one per row, drawn from its raw numbers and kept beside them."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.drawing import (
    FLOOR,
    OURS,
    PEERS,
    WIDTH,
    LinearScale,
    LogScale,
    Picture,
    Scale,
)
from benchmarks.measures import Measure, Ratio, Result

LEFT = 430
RIGHT = 120
STEP = 30
TOP = 52

Drawing = Callable[[Result, Path], None]


def _number(value: float) -> str:
    if value >= 10_000:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _kind(label: str) -> str:
    if label.startswith(("stock", "plain arq")):
        return PEERS
    return FLOOR if "floor" in label else OURS


def _name(measure: Measure) -> str:
    label = measure.label.replace("stock Dash", "Dash")
    return label[0].upper() + label[1:]


def _grid(picture: Picture, scale: Scale, bottom: float, unit: str) -> None:
    for tick in scale.ticks:
        picture.line(scale(tick), TOP - 6, scale(tick), bottom, "grid")
        picture.text(scale(tick), bottom + 16, f"{_number(tick)}{unit}", "small", "middle")


def _latencies(result: Result, path: Path, scale_of: type[LogScale | LinearScale]) -> None:
    """A dot at the median, and a line from p5 to p95."""
    measures = result.measures
    bottom = TOP + STEP * len(measures)
    picture = Picture(f"{result.title}: median, p5 to p95", bottom + 32)
    ends = [measure.at(share) for measure in measures for share in (0.05, 0.95)]
    scale = scale_of(ends, LEFT, WIDTH - RIGHT)
    _grid(picture, scale, bottom, " ms")
    for number, measure in enumerate(measures):
        y = TOP + STEP * number + 10
        low, median, high = (scale(measure.at(share)) for share in (0.05, 0.5, 0.95))
        picture.text(LEFT - 14, y + 4, _name(measure), "", "end")
        picture.whisker(low, high, y)
        picture.dots([(median, y)], _kind(measure.label), "big")
        picture.text(high + 10, y + 5, f"{_number(measure.at(0.5))} ms")
    picture.save(path)


def _latency(result: Result, path: Path) -> None:
    _latencies(result, path, LogScale)


def _browser(result: Result, path: Path) -> None:
    _latencies(result, path, LinearScale)


def _rates(baseline: str) -> Drawing:
    """Bars with the range of the rounds, and how many times the baseline each is."""

    def draw(result: Result, path: Path) -> None:
        rates = [measure for measure in result.measures if measure.unit == "1/s"]
        base = next((rate for rate in rates if baseline in rate.label), None)
        bottom = TOP + STEP * len(rates)
        picture = Picture(f"{result.title}: median, range", bottom + 32)
        values = [value for rate in rates for value in rate.by_round(0.5)]
        scale = LinearScale(values, LEFT, WIDTH - RIGHT - 60)
        _grid(picture, scale, bottom, "/s")
        for number, rate in enumerate(rates):
            y = TOP + STEP * number + 10
            found = rate.by_round(0.5)
            picture.text(LEFT - 10, y + 4, _name(rate), "", "end")
            picture.bar(LEFT, y - 8, scale(rate.at(0.5)) - LEFT, 17, _kind(rate.label))
            picture.whisker(scale(min(found)), scale(max(found)), y)
            words = f"{_number(rate.at(0.5))}/s"
            if base is not None and base is not rate:
                # As in the tables: the median of the rounds' quotients.
                words += f" · {_number(Ratio.of('', rate, base).value)}× {baseline}"
            picture.text(scale(max(found)) + 8, y + 5, words)
        picture.save(path)

    return draw


def _stall(result: Result, path: Path) -> None:
    """Every single fast callback of one round, by the moment at which it was due."""
    every_s, window_s = result.settings["every_s"], result.settings["window_s"]
    names = [m.label.removesuffix(", idle") for m in result.measures if m.label.endswith(", idle")]
    whens = ("idle", "busy", "in step")
    panels = [
        (
            name,
            [(when, m) for when in whens for m in result.measures if m.label == f"{name}, {when}"],
        )
        for name in names
    ]
    height, gap, left, right = 170, 56, 70, WIDTH - 20
    picture = Picture(result.title, TOP + 16 + len(panels) * (height + gap))
    # One scale for all, so that they can be compared by eye.
    values = [sample for _, windows in panels for _, one in windows for sample in one.rounds[0]]
    for panel, (name, windows) in enumerate(panels):
        y = TOP + 12 + panel * (height + gap)
        scale = LogScale(values, y + height, y)
        width = (right - left) / len(windows)
        picture.text(left, y - 8, name)
        for number, (when, measure) in enumerate(windows):
            start = left + number * width
            if when != "idle":
                picture.bar(start, y, width - 2 * (number < len(windows) - 1), height, "busy")
            points = [
                (start + 3 + due * every_s / window_s * (width - 6), scale(took_ms))
                for due, took_ms in enumerate(measure.rounds[0])
            ]
            picture.dots(points, PEERS if name.startswith("stock") else OURS)
            figures = f"p50 {_number(measure.at(0.5))} ms, p99 {_number(measure.at(0.99))} ms"
            picture.text(start + 4, y + height + 16, f"{when}: {figures}", "small")
        for tick in scale.ticks:
            picture.line(left, scale(tick), right, scale(tick), "grid")
            words = f"{_number(tick)} ms" if tick < 1000 else f"{_number(tick / 1000)} s"
            picture.text(left - 8, scale(tick) + 4, words, "small", "end")
    picture.save(path)


def _scaling(result: Result, path: Path) -> None:
    """Lines over the number of workers, beside what waiting alone would allow."""
    workers = result.settings["workers"]
    left, right, height = 70, WIDTH - 250, 300
    bottom = TOP + height
    picture = Picture(f"{result.title}: calls per second, range of rounds", bottom + 50)
    across = LinearScale(workers, left, right)
    ideal = [count * result.settings["at_once"] / 0.05 for count in workers]
    values = [value for one in result.measures for value in one.by_round(0.5)]
    up = LinearScale([*values, *ideal], bottom, TOP)
    for tick in up.ticks:
        picture.line(left, up(tick), right, up(tick), "grid")
        picture.text(left - 8, up(tick) + 4, f"{_number(tick)}/s", "small", "end")
    for count in workers:
        words = f"{count} worker{'s' * (count > 1)}"
        picture.text(across(count), bottom + 18, words, "small", "middle")
    picture.curve([(across(c), up(i)) for c, i in zip(workers, ideal, strict=True)], "ideal")
    ends = [(up(ideal[-1]), "what the waiting allows", FLOOR)]
    for name in dict.fromkeys(m.label.rpartition(", ")[0] for m in result.measures):
        measures = [m for m in result.measures if m.label.rpartition(", ")[0] == name]
        points = [(across(c), up(m.at(0.5))) for c, m in zip(workers, measures, strict=True)]
        picture.curve(points, _kind(name))
        picture.dots(points, _kind(name), "mid")
        for count, measure in zip(workers, measures, strict=True):
            found = measure.by_round(0.5)
            picture.line(across(count), up(min(found)), across(count), up(max(found)), "whisker")
        ends.append((points[-1][1], name, _kind(name)))
    # Names that would stand on each other move apart.
    y = 0.0
    for end, name, kind in sorted(ends):
        y = max(end, y + 18)
        picture.dots([(right + 14, y)], kind, "big")
        picture.text(right + 26, y + 4, name)
    picture.save(path)


def _strips(result: Result, path: Path, rows: Sequence[Measure], unit: str, target: float) -> None:
    """A dot for each round, and a line at what is wanted."""
    bottom = TOP + STEP * len(rows)
    picture = Picture(f"{result.title}: each round", bottom + 32)
    values = [sample for row in rows for sample in row.by_round(1)]
    scale = LinearScale([*values, target * 1.2], LEFT, WIDTH - RIGHT)
    _grid(picture, scale, bottom, unit)
    picture.line(scale(target), TOP - 6, scale(target), bottom, "target")
    picture.text(scale(target) + 4, TOP - 2, f"wanted: {_number(target)}{unit}", "small")
    for number, row in enumerate(rows):
        y = TOP + STEP * number + 16
        found = row.by_round(1)
        picture.text(LEFT - 14, y + 4, _name(row), "", "end")
        picture.dots([(scale(value), y) for value in found], _kind(row.label), "mid")
        picture.text(scale(max(found)) + 10, y + 5, f"{_number(row.at(0.5))}{unit}")
    picture.save(path)


def _large(result: Result, path: Path) -> None:
    _strips(result, path, result.measures, " ms", 20)


def _pages(result: Result, path: Path) -> None:
    _strips(result, path, [one for one in result.measures if one.unit == "KB"], " KB", 40)


def _fanout(result: Result, path: Path) -> None:
    """How many pages have heard, by the time since the push; a line for each round."""
    heard = result.measures[0]
    left, right, height = 70, WIDTH - 40, 240
    bottom = TOP + height
    picture = Picture(f"{result.title}: share of {len(heard.rounds[0])} pages", bottom + 36)
    across = LinearScale([sample for one in heard.rounds for sample in one], left, right)
    up = LinearScale([100], bottom, TOP)
    for tick in across.ticks:
        picture.line(across(tick), TOP, across(tick), bottom, "grid")
        picture.text(across(tick), bottom + 18, f"{_number(tick)} ms", "small", "middle")
    for share in (0, 25, 50, 75, 100):
        picture.line(left, up(share), right, up(share), "grid")
        picture.text(left - 8, up(share) + 4, f"{share} %", "small", "end")
    for samples in heard.rounds:
        ordered = sorted(samples)
        every = max(1, len(ordered) // 100)
        shares = [(100 * (n + 1) / len(ordered), ordered[n]) for n in range(len(ordered))]
        kept = [*shares[::every], shares[-1]]
        picture.curve([(across(ms), up(share)) for share, ms in kept], OURS)
    picture.save(path)


PLOTS: dict[str, Drawing] = {
    "stall": _stall,
    "latency": _latency,
    "browser": _browser,
    "throughput": _rates("Celery"),
    "http": _rates("Flask"),
    "websocket": _rates("Flask"),
    "scaling": _scaling,
    "large": _large,
    "pages": _pages,
    "fanout": _fanout,
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
