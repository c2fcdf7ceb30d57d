"""How good, how sure, and on which examples not: quality with intervals, and a model paired with its teacher."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penjing.maths.intervals import effects_interval, tango, wilson
from penjing.maths.scores import brier, expected_calibration_error, fit_temperature, log_softmax, nll, reliability
from penjing.maths.statistics import Stats, holm, mcnemar, randomization_test
from penjing.tasks.metrics import Accuracy, Metric, counted
from penjing.tasks.tags import entities
from penjing.tasks.task import IGNORED, Examples, Tagging, Task

Logits = Sequence[NDArray[np.float32]]
SHOWN = 50


def statistics_of(task: Task, examples: Examples, logits: Logits) -> Stats:
    """The metric's statistics of each example (N, K)."""
    return task.metric().statistics(task.decode(logits, examples.first_tokens), examples.gold)


def quality_of(task: Task, examples: Examples, logits: Logits) -> float:
    """The metric, in points."""
    return float(task.metric().value(statistics_of(task, examples, logits).sum(0)))


def judge(task: Task, examples: Examples, logits: Logits) -> dict[str, Any]:
    """`quality` and its 95 % interval: Wilson's of an accuracy; of another metric what it lost against perfect answers."""
    metric, stats = task.metric(), statistics_of(task, examples, logits)
    quality = float(metric.value(stats.sum(0)))
    if isinstance(metric, Accuracy):
        low, high = (100 * float(end) for end in wilson(stats[:, 0].sum(), len(stats)))
    else:
        perfect = metric.statistics(examples.gold, examples.gold)
        top, lost = float(metric.value(perfect.sum(0))), difference_interval(perfect, stats, metric)
        low, high = max(metric.least, min(quality, top - lost[1])), min(100.0, max(quality, top - lost[0]))
    return {"quality": quality, "quality_ci95": [low, high]}


def judge_pair(
    task: Task, examples: Examples, logits: Logits, known: Examples, teacher: Logits, seed: int = 0, confidence: float = 0.95
) -> dict[str, Any]:  # fmt: skip
    """`judge`, and the drop against the teacher on paired examples, in points.

    `drop_ci95` is Tango's score interval of an accuracy, else `difference_interval`; `drop_at_most` the upper end of the same two-sided
    interval at `confidence`. `p_value` is of no difference: McNemar's exact test of an accuracy, else a randomization test. It is of
    this comparison alone: of several, as of the forms of one table, take `maths.statistics.holm`.

    Args:
        known: the same examples in the teacher's own encoding, which `teacher` are the logits of.
    """
    metric = task.metric()
    a, b = statistics_of(task, known, teacher), statistics_of(task, examples, logits)
    before, after = (float(metric.value(each.sum(0))) for each in (a, b))
    low, high = drop_interval(a, b, metric, 0.95)
    p = mcnemar(*lost_and_gained(a, b)) if isinstance(metric, Accuracy) else randomization_test(a, b, metric.value, seed=seed)
    return judge(task, examples, logits) | {
        "teacher_quality": before, "drop": before - after, "drop_ci95": [low, high],
        "drop_at_most": drop_interval(a, b, metric, confidence)[1], "p_value": p,
    }  # fmt: skip


def lost_and_gained(a: Stats, b: Stats) -> tuple[int, int]:
    """Of an accuracy's statistics: the examples that a alone gets right, and those that b alone does."""
    return int((a[:, 0] > b[:, 0]).sum()), int((a[:, 0] < b[:, 0]).sum())


def drop_interval(a: Stats, b: Stats, metric: Metric, confidence: float) -> tuple[float, float]:
    """Interval of metric(a) - metric(b), of the same examples, in points."""
    if isinstance(metric, Accuracy):
        low, high = tango(*lost_and_gained(a, b), len(a), confidence)
        return 100 * float(low), 100 * float(high)
    return difference_interval(a, b, metric, confidence)


def difference_interval(a: Stats, b: Stats, metric: Metric, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of metric(a) - metric(b) for any metric, by the effect that each example's change has on it.

    The effects are the changes times the metric's mean gradient between the two sums, so that they add up to the
    difference; its variance for large N is that of the delta method.
    """
    first, second = a.sum(0), b.sum(0)
    nodes, weights = np.polynomial.legendre.leggauss(8)
    gradient = sum(w / 2 * _gradient(metric, second + (1 + t) / 2 * (first - second)) for t, w in zip(nodes, weights, strict=True))
    effects = (a - b) @ gradient
    variance = float(((a @ _gradient(metric, first) - b @ _gradient(metric, second)) ** 2).sum())
    slips = metric.slips(a)
    sizes = metric.value(first + slips[slips.any(-1)]) - metric.value(first)
    size = float(np.sqrt((sizes**2).mean())) if sizes.any() else 100 / len(a)
    low, high = effects_interval(effects, size, variance, confidence)
    rest = float(metric.value(first) - metric.value(second) - effects.sum())
    return low + rest, high + rest


def _gradient(metric: Metric, total: Stats) -> NDArray[np.float64]:
    """The metric's derivatives (K,) by central differences."""
    step = 1e-4 * np.eye(len(total))
    return np.asarray((metric.value(total + step) - metric.value(total - step)) / 2e-4)


def flips(task: Task, examples: Examples, logits: Logits, known: Examples, teacher: Logits) -> dict[str, Any]:
    """Examples that one of the two gets right and the other not: how many, the first `SHOWN`, the lost ones first, and by label."""
    ours, theirs = task.decode(logits, examples.first_tokens), task.decode(teacher, known.first_tokens)
    worse: list[dict[str, str]] = []
    better: list[dict[str, str]] = []
    true = examples.gold
    if isinstance(task, Tagging):
        ours, theirs, true = ([tags for tags, _ in counted(each, true)] for each in (ours, theirs, true))
    for text, gold, mine, old in zip(examples.inputs, true, ours, theirs, strict=True):
        if (mine == gold) == (old == gold):
            continue
        row = {"text": _readable(text), "gold": _readable(gold), "teacher": _readable(old), "result": _readable(mine)}
        (better if mine == gold else worse).append(row)
    by_label = flips_by_label(task, true, ours, theirs)
    return {"worse": len(worse), "better": len(better), "examples": [*worse, *better][:SHOWN], "by_label": by_label}


def flips_by_label(task: Task, gold: Sequence[Any], ours: Sequence[Any], theirs: Sequence[Any]) -> list[dict[str, Any]]:
    """What flipped of each gold label: {label, examples, worse, better, p, p_holm}, the worst first.

    Of tags: the gold entities of each type, found whole or not; where tags mark no spans, the words of each gold tag. p is
    McNemar's exact, as if flips were independent, and p_holm corrected for the number of labels.
    """
    counts: dict[str, list[int]] = {}
    for label, mine, old in _units(task, gold, ours, theirs):
        row = counts.setdefault(label, [0, 0, 0])
        row[0] += 1
        row[1] += old and not mine
        row[2] += mine and not old
    p = {label: mcnemar(worse, better) for label, (_, worse, better) in counts.items()}
    corrected = dict(zip(p, holm(list(p.values())), strict=True))
    rows = [
        {"label": label, "examples": n, "worse": worse, "better": better, "p": p[label], "p_holm": corrected[label]}
        for label, (n, worse, better) in counts.items()
    ]
    return sorted(rows, key=lambda row: (row["p"], row["better"] - row["worse"], row["label"]))


def _units(task: Task, gold: Sequence[Any], ours: Sequence[Any], theirs: Sequence[Any]) -> Iterator[tuple[str, bool, bool]]:
    """Each gold answer: its label, whether we have it, and whether the teacher has."""
    for true, mine, old in zip(gold, ours, theirs, strict=True):
        if not isinstance(task, Tagging):
            yield true, mine == true, old == true
        elif task.scheme is None:
            yield from ((tag, a == tag, b == tag) for tag, a, b in zip(true, mine, old, strict=True))
        else:
            found, known = (set(entities(tags, task.scheme)) for tags in (mine, old))
            yield from ((span[0], span in found, span in known) for span in entities(true, task.scheme))


def labelled(task: Task, examples: Examples, logits: Logits) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Logits (N, C) and label numbers (N,) of what is labelled: texts, or words."""
    targets = task.targets(examples)
    if task.head == "sequence":
        return np.stack(logits).astype(np.float64), np.concatenate(targets)
    rows = [each[target != IGNORED] for each, target in zip(logits, targets, strict=True)]
    known = np.concatenate(targets)
    return np.concatenate(rows).astype(np.float64), known[known != IGNORED]


def scores_of(task: Task, examples: Examples, logits: Logits, temperature: float = 1.0) -> dict[str, Any]:
    """How far the scores softmax(logits / temperature) can be believed, over texts or labelled words: ECE, Brier score, negative
    log-likelihood, and the bins of a reliability diagram."""
    rows, targets = labelled(task, examples, logits)
    rows = rows / temperature
    probabilities = np.exp(log_softmax(rows))
    confidence, right = probabilities.max(1), probabilities.argmax(1) == targets
    return {
        "ece": expected_calibration_error(confidence, right), "brier": brier(probabilities, targets), "nll": nll(rows, targets),
        "reliability": reliability(confidence, right),
    }  # fmt: skip


def temperature_for(task: Task, examples: Examples, logits: Logits, seed: int = 0) -> tuple[float, dict[str, Any]]:
    """The temperature that makes the scores believable, and what it does.

    It is fitted on one half of the texts, drawn by `seed`, and taken where it lowers the negative log-likelihood of the other
    half; then it is fitted again on all. Else it is 1. What is said of before and after is of the other half.
    """
    order = np.random.default_rng(seed).permutation(len(examples))
    halves = [np.sort(each) for each in (order[: len(order) // 2], order[len(order) // 2 :])]
    fitted, other = ((examples.take(each), [logits[i] for i in each]) for each in halves)
    found = _fitted(task, *fitted) if len(halves[0]) else 1.0
    before, after = (scores_of(task, *other, temperature) for temperature in (1.0, found))
    taken = after["nll"] < before["nll"]
    said = {
        "examples": len(halves[0]), "judged_on": len(halves[1]), "fitted": found, "taken": taken,
        **{f"{name}_{when}": each[name] for when, each in (("before", before), ("after", after)) for name in ("nll", "ece", "brier")},
    }  # fmt: skip
    return (_fitted(task, examples, logits) if taken else 1.0), said


def _fitted(task: Task, examples: Examples, logits: Logits) -> float:
    """The likeliest temperature; 1 where nothing is wrong, and the likelihood has no maximum."""
    rows, targets = labelled(task, examples, logits)
    return fit_temperature(rows, targets) if (rows.argmax(1) != targets).any() else 1.0


def _readable(value: Any) -> str:
    """A text as it is, a pair with a bar between, words and tags with spaces."""
    if isinstance(value, tuple):
        return " | ".join(value)
    return value if isinstance(value, str) else " ".join(value)
