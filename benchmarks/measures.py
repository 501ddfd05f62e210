"""What a row measures: samples by round, ratios within a round, CPU shares beside them."""

import contextlib
import gc
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

import psutil

CLIENT, OTHERS, STEAL = "client", "others", "steal"
"""This process; everything on the machine that belongs to no benchmark; and what the machine did
not get, though it wanted to work: on a virtual one, the time of its neighbours."""

LIMITS = {CLIENT: 0.8, OTHERS: 0.3, STEAL: 0.1}
"""Shares of a core. A client that uses more may be what is measured, and others and neighbours that
use more may have held up whoever is measured: such a figure is marked."""


Sense = Literal["≤", "<", "≥"]


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
        remarks: What whoever measured it found doubtful.
    """

    label: str
    unit: Literal["ms", "1/s", "KB", "µs", ""]
    rounds: list[list[float]] = field(default_factory=list)
    cpu: dict[str, float] = field(default_factory=dict)
    cost_ms: dict[str, float] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    def at(self, share: float) -> float:
        """A quantile over all rounds."""
        return quantile((sample for samples in self.rounds for sample in samples), share)

    def by_round(self, share: float) -> list[float]:
        """The same quantile of every round."""
        return [quantile(samples, share) for samples in self.rounds]

    @property
    def doubts(self) -> list[str]:
        """Why this may not be what it says."""
        found = [
            f"{who} used {self.cpu[who]:.2f} of a core (limit {limit:g})"
            for who, limit in LIMITS.items()
            if self.cpu.get(who, 0.0) > limit
        ]
        return [*found, *self.remarks]


@dataclass
class Ratio:
    """A quotient of two measures, within each round, and what it should be."""

    label: str
    rounds: list[float]
    sense: Sense
    target: float | None
    made_of: list[str] = field(default_factory=list)
    """Labels of the measures."""
    line: str = ""
    """The line of the summary to which it belongs, a key of ``table.LINES``."""

    @classmethod
    def of(
        cls,
        label: str,
        above: Measure,
        below: Measure,
        *,
        share: float = 0.5,
        sense: Sense = "≤",
        target: float | None = None,
        line: str = "",
    ) -> "Ratio":
        """Divide quantiles of the same rounds: of the first ones, where one has no more."""
        pairs = zip(above.by_round(share), below.by_round(share), strict=False)
        made_of = [above.label, below.label]
        return cls(label, [a / b for a, b in pairs], sense, target, made_of, line)

    @classmethod
    def plain(
        cls,
        label: str,
        measure: Measure,
        *,
        share: float = 0.5,
        sense: Sense = "≤",
        target: float | None = None,
        line: str = "",
    ) -> "Ratio":
        """A figure that is to be judged by itself."""
        rounds, words = measure.by_round(share), f"{label}, {measure.unit}"
        return cls(words, rounds, sense, target, [measure.label], line)

    @property
    def value(self) -> float:
        """The median of the rounds."""
        return statistics.median(self.rounds)

    @property
    def met(self) -> bool | None:
        """Whether it is as it should be; None when nothing was asked."""
        return None if self.target is None else self._is_fine(self.value)

    def _is_fine(self, value: float) -> bool:
        assert self.target is not None
        if self.sense == "≥":
            return value >= self.target
        return value <= self.target if self.sense == "≤" else value < self.target

    @property
    def verdict(self) -> str:
        """Whether it is met, in words: by how much not, and how many rounds say otherwise."""
        if self.target is None:
            return ""
        words = "met" if self.met else f"NOT met, off by {abs(self.value / self.target - 1):.0%}"
        agree = sum(self._is_fine(value) == self.met for value in self.rounds)
        if agree < len(self.rounds):
            words += f", in {agree} of {len(self.rounds)} rounds"
        return words


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

    def measure(self, label: str) -> Measure:
        """The measure of that label."""
        return next(one for one in self.measures if one.label == label)

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
    def running(self, *also: Costs) -> Iterator[None]:
        """Measure while this is open. The client's garbage collector waits meanwhile.

        Args:
            *also: Processes that take part this time.
        """
        gc.collect()
        gc.disable()
        before, started = self._snapshot(also), time.perf_counter()
        try:
            yield
        finally:
            self._wall_s += time.perf_counter() - started
            gc.enable()
            for name, spent in self._snapshot(also).items():
                self._spent[name] = self._spent.get(name, 0.0) + spent - before[name]

    def _snapshot(self, also: Iterable[Costs]) -> dict[str, float]:
        spent = {CLIENT: time.process_time()}
        for proc in (*self._procs, *also):
            spent[proc.name] = spent.get(proc.name, 0.0) + proc.cpu_s()
        machine = psutil.cpu_times()
        # Interrupts are left out: most of them carry what client and servers say to each other.
        busy = machine.user + machine.system + getattr(machine, "nice", 0.0)
        steal = getattr(machine, "steal", 0.0)
        return {**spent, OTHERS: busy - sum(spent.values()), STEAL: steal}

    def note(self, measure: Measure) -> None:
        """Write down beside a measure what it took."""
        spent = {name: max(0.0, seconds) for name, seconds in self._spent.items()}
        measure.cpu = {name: seconds / self._wall_s for name, seconds in spent.items()}
        if self.calls:
            own = {name: used for name, used in spent.items() if name not in (OTHERS, STEAL)}
            measure.cost_ms = {name: 1000 * seconds / self.calls for name, seconds in own.items()}
