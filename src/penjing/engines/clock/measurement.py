"""Figures: the turns of one subject, and its latency, throughput and speed-up over those that nothing disturbed."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import NamedTuple

import numpy as np

from penjing.engines.clock import quiet
from penjing.files.records import OPTIONAL

AGREE = 1.1
"""A turn that takes more than so many times the fastest is in no figure, and is taken again; a latency of which too few are left is not steady."""


class Speedup(NamedTuple):
    """How many times faster: the ratio of the medians, its range over the rounds, and whether it may be claimed."""

    ratio: float
    low: float
    high: float
    steady: bool


@dataclass(frozen=True)
class Figures:
    """The figures of one subject for a report: milliseconds, texts per second, seconds, MB; None where not measured."""

    latency_ms: float
    latency_p95_ms: float
    latency_p99_ms: float
    end_to_end_ms: float | None
    throughput_per_s: float | None
    load_s: float
    cold_start_s: float | None
    peak_mb: float | None
    steady: bool
    latency_mean_ms: float | None = field(default=None, metadata=OPTIONAL)

    def updated(self, last: "Figures") -> "Figures":
        """The figures of a later measurement where it has them, else these."""
        known = {each.name: getattr(last, each.name) for each in fields(last)}
        return replace(self, **{name: value for name, value in known.items() if value is not None})


@dataclass(frozen=True)
class Turn:
    """Milliseconds of each text in one turn, of the engine alone and end to end; what disturbed it ("": nothing), and how many times
    slower than they can the processors ran."""

    round: int
    ms: Sequence[float]
    end_to_end_ms: Sequence[float] = ()
    load: str = ""
    slowness: float = 1.0

    @property
    def disturbance(self) -> str:
        """What disturbed it, whether counted or only slow; "" where nothing did."""
        return self.load or quiet.slowed(self.slowness)

    @property
    def median_ms(self) -> float:
        """The median over its texts, of the engine alone."""
        return float(np.median(self.ms))

    @property
    def mean_ms(self) -> float:
        """Over its texts."""
        return float(np.mean(self.ms))


@dataclass
class Measurement:
    """The turns of one subject. `rounds` were asked; `peak_mb` is of a process that holds this engine alone, after the latencies."""

    load_s: float
    cold_start_s: float | None = None
    peak_mb: float | None = None
    rounds: int = 1
    turns: list[Turn] = field(default_factory=list)
    rounds_per_s: list[float] = field(default_factory=list)
    throughput_disturbance: str = ""

    @classmethod
    def pooled(cls, measurements: "Sequence[Measurement]") -> "Measurement":
        """The turns of several processes of one subject as one: where a process happens to lie in memory, and on which processors, counts less."""
        start = [max((turn.round for turn in each.turns), default=0) + 1 for each in measurements]
        turns = [replace(turn, round=turn.round + sum(start[:i])) for i, each in enumerate(measurements) for turn in each.turns]
        cold, peak = (
            [value for value in values if value is not None]
            for values in zip(*((m.cold_start_s, m.peak_mb) for m in measurements), strict=True)
        )
        return cls(
            float(np.median([each.load_s for each in measurements])), float(np.median(cold)) if cold else None, max(peak, default=None),
            sum(each.rounds for each in measurements), turns,
        )  # fmt: skip

    @property
    def quiet(self) -> list[Turn]:
        """The turns that the figures are taken of: of the undisturbed ones (of all, where there is none) those that agree with the fastest.

        What slows a turn that nobody was seen to disturb only ever adds time: a host that runs two threads on processors that share no
        cache made a turn take 1.15 times as long for eager PyTorch, and 1.5 times for int8, for seconds on end (LOG.md).
        """
        turns = [turn for turn in self.turns if not turn.disturbance] or self.turns
        fastest = min((turn.median_ms for turn in turns), default=0.0)
        return [turn for turn in turns if turn.median_ms <= AGREE * fastest]

    @property
    def lacking(self) -> bool:
        """Whether fewer than half as many turns are quiet and alike as rounds were asked."""
        return sum(not turn.disturbance for turn in self.quiet) < min(self.rounds, max(2, -(-self.rounds // 2)))

    def _percentile(self, percent: float) -> float:
        return float(np.percentile([ms for turn in self.quiet for ms in turn.ms], percent))

    @property
    def latency_ms(self) -> float:
        """Median over the texts and quiet turns."""
        return self._percentile(50)

    @property
    def latency_mean_ms(self) -> float:
        """Mean over the texts and quiet turns."""
        return float(np.mean([ms for turn in self.quiet for ms in turn.ms]))

    @property
    def latency_p95_ms(self) -> float:
        """Of 100 answers, 95 come within it."""
        return self._percentile(95)

    @property
    def latency_p99_ms(self) -> float:
        """Of 100 answers, 99 come within it."""
        return self._percentile(99)

    @property
    def end_to_end_ms(self) -> float | None:
        """Median of tokenizing one text, running and reading the answer; None where it was not measured."""
        values = [ms for turn in self.quiet for ms in turn.end_to_end_ms]
        return float(np.median(values)) if values else None

    @property
    def throughput_per_s(self) -> float:
        """Median over the rounds; 0 where it was not measured."""
        return float(np.median(self.rounds_per_s)) if self.rounds_per_s else 0.0

    @property
    def disturbance(self) -> str:
        """What makes the figures unsteady, in words; "" where they are steady."""
        disturbed = [turn.disturbance for turn in self.turns if turn.disturbance]
        enough = min(self.rounds, max(2, self.rounds // 3))
        if len(self.turns) - len(disturbed) < enough:
            return disturbed[-1] if disturbed else "too few rounds"
        if len(self.quiet) < enough:
            medians = [turn.median_ms for turn in self.turns if not turn.disturbance]
            return f"its rounds differ, {min(medians):.2f} to {max(medians):.2f} ms"
        return self.throughput_disturbance

    @property
    def steady(self) -> bool:
        """Whether the figures can be believed: enough turns that nothing disturbed, and alike."""
        return not self.disturbance

    def speedup_over(self, other: "Measurement", means: bool = False) -> Speedup:
        """How many times faster than `other`, by the medians or the means. The range is over rounds that are quiet for both; over all of them
        where there is none."""
        ours, theirs = ({turn.round: turn.mean_ms if means else turn.median_ms for turn in each.quiet} for each in (self, other))
        common = ours.keys() & theirs.keys()
        pairs = [(ours[i], theirs[i]) for i in common] or [(a, b) for a in ours.values() for b in theirs.values()]
        ratios = [b / a for a, b in pairs]
        ratio = other.latency_mean_ms / self.latency_mean_ms if means else other.latency_ms / self.latency_ms
        return Speedup(ratio, min(ratios), max(ratios), self.steady and other.steady)

    def figures(self) -> Figures:
        """The figures for the report."""
        return Figures(
            self.latency_ms, self.latency_p95_ms, self.latency_p99_ms, self.end_to_end_ms, self.throughput_per_s if self.rounds_per_s else None,
            self.load_s, self.cold_start_s, self.peak_mb, self.steady, self.latency_mean_ms,
        )  # fmt: skip
