"""How good, how sure, and on which examples not: quality with intervals, and a model paired with its teacher."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from penjing.maths.scores import ReliabilityBin, brier, expected_calibration_error, fit_temperature, log_softmax, nll, reliability
from penjing.maths.statistics import Stats, holm, mcnemar
from penjing.tasks.metric import Metric
from penjing.tasks.task import Examples, Task
from penjing.text.encoded import Logits

SHOWN = 50
"""Flipped examples that are written out at most."""


# -- records -------------------------------------------------------------------------------------------------------


@final
@dataclass(frozen=True)
class Quality:
    """The quality of one model: the metric in points, and its 95 % interval."""

    quality: float
    quality_ci95: tuple[float, float]


@final
@dataclass(frozen=True)
class PairedQuality:
    """The quality of a model beside its teacher's on the same examples, in points.

    `drop_at_most` is the upper end of the drop's two-sided interval at the confidence that was asked for; `p_value` is of no difference.
    """

    quality: float
    quality_ci95: tuple[float, float]
    teacher_quality: float
    drop: float
    drop_ci95: tuple[float, float]
    drop_at_most: float
    p_value: float


@final
@dataclass(frozen=True)
class FlippedExample:
    """An example that one of teacher and result answers rightly and the other does not, as readable texts."""

    text: str
    gold: str
    teacher: str
    result: str


@final
@dataclass(frozen=True)
class FlippedLabel:
    """The flips of one gold label: its examples, how many got worse and better, p of McNemar's exact test, and p corrected (Holm)."""

    label: str
    examples: int
    worse: int
    better: int
    p: float
    p_holm: float


@final
@dataclass(frozen=True)
class Flips:
    """The flips between teacher and result: how many, the first examples (lost ones first), and the counts by gold label."""

    worse: int
    better: int
    examples: tuple[FlippedExample, ...]
    by_label: tuple[FlippedLabel, ...]


@final
@dataclass(frozen=True)
class Scores:
    """The calibration of scores: expected calibration error, Brier score, negative log-likelihood, and the bins of a reliability diagram."""

    ece: float
    brier: float
    nll: float
    reliability: tuple[ReliabilityBin, ...]


@final
@dataclass(frozen=True)
class TemperatureFit:
    """A temperature fitted on `examples` texts and judged on `judged_on` other ones, before and after; taken where it helps those."""

    examples: int
    judged_on: int
    fitted: float
    taken: bool
    nll_before: float
    ece_before: float
    brier_before: float
    nll_after: float
    ece_after: float
    brier_after: float


# -- quality -------------------------------------------------------------------------------------------------------


def statistics_of(task: Task, examples: Examples, logits: Logits) -> Stats:
    """The metric's statistics of each example (N, K)."""
    return task.metric().statistics(task.decode(logits, examples.first_tokens), examples.gold)


def quality_of(task: Task, examples: Examples, logits: Logits) -> float:
    """The metric, in points."""
    return task.metric().points(statistics_of(task, examples, logits))


def judge(task: Task, examples: Examples, logits: Logits) -> Quality:
    """The quality of a model's logits, and its 95 % interval by the metric (`Metric.interval`)."""
    return _judged(task.metric(), statistics_of(task, examples, logits), examples)


def _judged(metric: Metric, stats: Stats, examples: Examples) -> Quality:
    return Quality(metric.points(stats), metric.interval(stats, metric.statistics(examples.gold, examples.gold)))


def judge_pair(
    task: Task, examples: Examples, logits: Logits, known: Examples, teacher: Logits, confidence: float = 0.95
) -> PairedQuality:  # fmt: skip
    """The quality of a model's logits, and the drop against the teacher on paired examples, in points.

    `drop_ci95` is the metric's interval of the drop (Tango's score interval of an accuracy, else `metric.difference_interval` or a
    bootstrap); `drop_at_most` the upper end of the same two-sided interval at `confidence`. `p_value` is of no difference: McNemar's exact
    test of an accuracy, else a randomization test. It is of this comparison alone: of several, as of the forms of one table, take
    `maths.statistics.holm`.

    Args:
        known: the same examples in the teacher's own encoding, which `teacher` are the logits of.
    """
    metric = task.metric()
    a = statistics_of(task, known, teacher)
    b = statistics_of(task, examples, logits)
    before = metric.points(a)
    judged = _judged(metric, b, examples)
    return PairedQuality(
        judged.quality, judged.quality_ci95, before, before - judged.quality, metric.drop_interval(a, b, 0.95),
        metric.drop_interval(a, b, confidence)[1], metric.p_value(a, b),
    )  # fmt: skip


# -- flips ---------------------------------------------------------------------------------------------------------


def flips(task: Task, examples: Examples, logits: Logits, known: Examples, teacher: Logits) -> Flips:
    """Examples that one of the two gets right and the other not: how many, the first `SHOWN`, the lost ones first, and by label."""
    gold = task.counted(examples.gold, examples.gold)
    ours = task.counted(task.decode(logits, examples.first_tokens), examples.gold)
    theirs = task.counted(task.decode(teacher, known.first_tokens), examples.gold)
    worse: list[FlippedExample] = []
    better: list[FlippedExample] = []
    for text, true, mine, old in zip(examples.inputs, gold, ours, theirs, strict=True):
        if (mine == true) == (old == true):
            continue
        row = FlippedExample(_readable(text), _readable(true), _readable(old), _readable(mine))
        (better if mine == true else worse).append(row)
    by_label = flips_by_label(task, gold, ours, theirs)
    return Flips(len(worse), len(better), tuple([*worse, *better][:SHOWN]), by_label)


def flips_by_label(task: Task, gold: Sequence[Any], ours: Sequence[Any], theirs: Sequence[Any]) -> tuple[FlippedLabel, ...]:
    """The flips of each gold label, the worst first.

    Of tags: the gold entities of each type, found whole or not; where tags mark no spans, the words of each gold tag. p is
    McNemar's exact, as if flips were independent, and p_holm corrected for the number of labels.
    """
    counts: dict[str, list[int]] = {}
    for true, mine, old in zip(gold, ours, theirs, strict=True):
        for (label, has), (_, had) in zip(task.units(true, mine), task.units(true, old), strict=True):
            row = counts.setdefault(label, [0, 0, 0])
            row[0] += 1
            row[1] += had and not has
            row[2] += has and not had
    p = {label: mcnemar(worse, better) for label, (_, worse, better) in counts.items()}
    corrected = dict(zip(p, holm(list(p.values())), strict=True))
    rows = [FlippedLabel(label, n, worse, better, p[label], corrected[label]) for label, (n, worse, better) in counts.items()]
    return tuple(sorted(rows, key=lambda row: (row.p, row.better - row.worse, row.label)))


# -- scores --------------------------------------------------------------------------------------------------------


def scores_of(task: Task, examples: Examples, logits: Logits, temperature: float = 1.0) -> Scores:
    """How far the scores softmax(logits / temperature) can be believed, over texts or labelled words: ECE, Brier score, negative
    log-likelihood, and the bins of a reliability diagram."""
    rows, targets = task.labelled(examples, logits)
    rows = rows / temperature
    probabilities = np.exp(log_softmax(rows))
    confidence, right = probabilities.max(1), probabilities.argmax(1) == targets
    return Scores(
        expected_calibration_error(confidence, right), brier(probabilities, targets), nll(rows, targets),
        tuple(reliability(confidence, right)),
    )  # fmt: skip


def temperature_for(task: Task, examples: Examples, logits: Logits) -> tuple[float, TemperatureFit]:
    """The temperature that makes the scores believable, and what it does.

    It is fitted on one half of the texts, drawn at random, and taken where it lowers the negative log-likelihood of the other
    half; then it is fitted again on all. Else it is 1. What is said of before and after is of the other half.
    """
    order = np.random.default_rng(0).permutation(len(examples))
    halves = [np.sort(each) for each in (order[: len(order) // 2], order[len(order) // 2 :])]
    fitted, other = ((examples.take(each), [logits[i] for i in each]) for each in halves)
    found = _fitted(task, *fitted) if len(halves[0]) else 1.0
    before, after = (scores_of(task, *other, temperature) for temperature in (1.0, found))
    taken = after.nll < before.nll
    fit = TemperatureFit(
        len(halves[0]), len(halves[1]), found, taken, before.nll, before.ece, before.brier, after.nll, after.ece, after.brier
    )
    return (_fitted(task, examples, logits) if taken else 1.0), fit


def _fitted(task: Task, examples: Examples, logits: Logits) -> float:
    """The likeliest temperature; 1 where nothing is wrong, and the likelihood has no maximum."""
    rows, targets = task.labelled(examples, logits)
    return fit_temperature(rows, targets) if (rows.argmax(1) != targets).any() else 1.0


def _readable(value: Any) -> str:
    """A text as it is, several texts with a bar between, words and tags with spaces, a number as Python writes it."""
    if isinstance(value, tuple):
        return " | ".join(value)
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
