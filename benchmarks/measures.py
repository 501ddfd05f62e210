"""What a row measures: samples by round, ratios within a round, CPU shares beside them."""

import contextlib
import gc
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

import psutil

CLIENT, OTHERS = "client", "others"
"""This process; and everything on the machine that belongs to no benchmark."""

CLIENT_LIMIT, OTHERS_LIMIT = 0.8, 0.3
"""Shares of a core. A client that uses more may be what is measured, and others that use more may
have held up whoever is measured: such a figure is marked."""


def quantile(samples: Iterable[float], share: float) -> float:
    """The smallest sample that at least this share of them does not exceed (nearest rank)."""
    ordered = sorted(samples)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


@dataclass
class Measure:
    """One figure of one contestant.

    Attributes:
        label: What was measured, in words.
        unit: ``ms`` (samples are single latencies), or that of one figure per round.
        rounds: The samples of each round, in the order in which they were taken.
        cpu: CPU seconds per second, by process, while it was measured.
        cost_ms: CPU milliseconds per call, by process. Steadier than any latency on a machine
            that has something else to do, too.
    """

    label: str
    unit: Literal["ms", "1/s", "KB", "µs", ""]
    rounds: list[list[float]] = field(default_factory=list)
    cpu: dict[str, float] = field(default_factory=dict)
    cost_ms: dict[str, float] = field(default_factory=dict)

    def at(self, share: float) -> float:
        """A quantile over all rounds."""
        return quantile((sample for samples in self.rounds for sample in samples), share)

    def by_round(self, share: float) -> list[float]:
        """The same quantile of every round."""
        return [quantile(samples, share) for samples in self.rounds]

    @property
    def doubts(self) -> list[str]:
        """Why this may not be what it says."""
        shares = ((CLIENT, CLIENT_LIMIT), (OTHERS, OTHERS_LIMIT))
        return [
            f"{who} used {self.cpu[who]:.2f} of a core (limit {limit:g})"
            for who, limit in shares
            if self.cpu.get(who, 0.0) > limit
        ]


@dataclass
class Ratio:
    """A quotient of two measures, within each round, and what it should be."""

    label: str
    rounds: list[float]
    sense: Literal["≤", "<", "≥"]
    target: float | None
    made_of: list[str] = field(default_factory=list)
    """Labels of the measures."""

    @classmethod
    def of(
        cls,
        label: str,
        above: Measure,
        below: Measure,
        *,
        share: float = 0.5,
        sense: Literal["≤", "<", "≥"] = "≤",
        target: float | None = None,
    ) -> "Ratio":
        """Divide quantiles of the same rounds."""
        pairs = zip(above.by_round(share), below.by_round(share), strict=True)
        return cls(label, [a / b for a, b in pairs], sense, target, [above.label, below.label])

    @classmethod
    def plain(
        cls,
        label: str,
        measure: Measure,
        *,
        share: float = 0.5,
        sense: Literal["≤", "<", "≥"] = "≤",
        target: float | None = None,
    ) -> "Ratio":
        """A figure that is to be judged by itself."""
        rounds, words = measure.by_round(share), f"{label}, {measure.unit}"
        return cls(words, rounds, sense, target, [measure.label])

    @property
    def value(self) -> float:
        """The median of the rounds."""
        return statistics.median(self.rounds)

    @property
    def met(self) -> bool | None:
        """Whether it is as it should be; None when nothing was asked."""
        if self.target is None:
            return None
        if self.sense == "≥":
            return self.value >= self.target
        return self.value <= self.target if self.sense == "≤" else self.value < self.target


@dataclass
class Result:
    """What a row found."""

    row: str
    title: str
    settings: dict[str, Any]
    measures: list[Measure]
    ratios: list[Ratio]
    notes: list[str] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=dict)
    took_s: float = 0.0

    def doubts(self, ratio: Ratio) -> bool:
        """Whether one of the measures that a ratio is made of is doubtful."""
        return any(m.doubts for m in self.measures if m.label in ratio.made_of)

    def as_dict(self) -> dict[str, Any]:
        """For JSON; microseconds are as fine as it gets."""
        found = asdict(self)
        for measure in found["measures"]:
            measure["rounds"] = [[round(s, 3) for s in samples] for samples in measure["rounds"]]
            for kind in ("cpu", "cost_ms"):
                measure[kind] = {name: round(value, 3) for name, value in measure[kind].items()}
        for ratio in found["ratios"]:
            ratio["rounds"] = [round(value, 3) for value in ratio["rounds"]]
        return found

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> "Result":
        """What `as_dict` made."""
        measures = [Measure(**measure) for measure in found["measures"]]
        ratios = [Ratio(**ratio) for ratio in found["ratios"]]
        return cls(**{**found, "measures": measures, "ratios": ratios})


class Costs(Protocol):
    """Whatever uses CPU time: ``processes.Proc``, for one."""

    @property
    def name(self) -> str: ...

    def cpu_s(self) -> float: ...


class Meter:
    """CPU time of the processes that take part, summed over all rounds of one measure.

    Attributes:
        calls: Answered meanwhile; whoever measures counts them.
    """

    def __init__(self, procs: Iterable[Costs]) -> None:
        self._procs = list(procs)
        self._spent: dict[str, float] = {}
        self._wall_s = 0.0
        self.calls = 0

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Measure while this is open. The client's garbage collector waits meanwhile."""
        gc.collect()
        gc.disable()
        before, started = self._snapshot(), time.perf_counter()
        try:
            yield
        finally:
            self._wall_s += time.perf_counter() - started
            gc.enable()
            for name, spent in self._snapshot().items():
                self._spent[name] = self._spent.get(name, 0.0) + spent - before[name]

    def _snapshot(self) -> dict[str, float]:
        spent = {CLIENT: time.process_time()}
        for proc in self._procs:
            spent[proc.name] = spent.get(proc.name, 0.0) + proc.cpu_s()
        all_of_it = psutil.cpu_times()
        busy = sum(all_of_it) - all_of_it.idle - getattr(all_of_it, "iowait", 0.0)
        # Linux counts guests in user time, too.
        busy -= getattr(all_of_it, "guest", 0.0) + getattr(all_of_it, "guest_nice", 0.0)
        return {**spent, OTHERS: busy - sum(spent.values())}

    def note(self, measure: Measure) -> None:
        """Write down beside a measure what it took."""
        spent = {name: max(0.0, seconds) for name, seconds in self._spent.items()}
        measure.cpu = {name: seconds / self._wall_s for name, seconds in spent.items()}
        if self.calls:
            own = {name: seconds for name, seconds in spent.items() if name != OTHERS}
            measure.cost_ms = {name: 1000 * seconds / self.calls for name, seconds in own.items()}
