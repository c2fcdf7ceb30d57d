"""How good, how sure, and on which examples not: quality with intervals, and a model paired with its teacher."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penjing.maths.statistics import Stats, bootstrap, paired_bootstrap, randomization_test
from penjing.tasks.task import Examples, Task

Logits = Sequence[NDArray[np.float32]]
SHOWN = 50


def statistics_of(task: Task, examples: Examples, logits: Logits) -> Stats:
    """The metric's statistics of each example (N, K)."""
    return task.metric().statistics(task.decode(logits, examples.first_tokens), examples.gold)


def quality_of(task: Task, examples: Examples, logits: Logits) -> float:
    """The metric, in points."""
    return float(task.metric().value(statistics_of(task, examples, logits).sum(0)))


def judge(task: Task, examples: Examples, logits: Logits, seed: int = 0) -> dict[str, Any]:
    """`quality` and its 95 % interval."""
    stats, value = statistics_of(task, examples, logits), task.metric().value
    return {"quality": float(value(stats.sum(0))), "quality_ci95": list(bootstrap(stats, value, seed=seed))}


def judge_pair(task: Task, examples: Examples, logits: Logits, known: Examples, teacher: Logits, seed: int = 0) -> dict[str, Any]:
    """`judge`, and the drop against the teacher: points, 95 % interval, p of no difference, all on paired examples.

    `known` are the same examples in the teacher's own encoding, which `teacher` are the logits of.
    """
    a, b = statistics_of(task, known, teacher), statistics_of(task, examples, logits)
    value = task.metric().value
    return judge(task, examples, logits, seed) | {
        "teacher_quality": float(value(a.sum(0))),
        "drop": float(value(a.sum(0)) - value(b.sum(0))),
        "drop_ci95": list(paired_bootstrap(a, b, value, seed=seed)),
        "p_value": randomization_test(a, b, value, seed=seed),
    }


def flips(task: Task, examples: Examples, logits: Logits, known: Examples, teacher: Logits) -> dict[str, Any]:
    """Examples that one of the two gets right and the other not: how many, and the first `SHOWN`, the lost ones first."""
    ours, theirs = task.decode(logits, examples.first_tokens), task.decode(teacher, known.first_tokens)
    worse: list[dict[str, str]] = []
    better: list[dict[str, str]] = []
    for text, gold, mine, old in zip(examples.inputs, examples.gold, ours, theirs, strict=True):
        if (mine == gold) == (old == gold):
            continue
        row = {"text": _readable(text), "gold": _readable(gold), "teacher": _readable(old), "result": _readable(mine)}
        (better if mine == gold else worse).append(row)
    return {"worse": len(worse), "better": len(better), "examples": [*worse, *better][:SHOWN]}


def _readable(value: Any) -> str:
    """A text as it is, a pair with a bar between, words and tags with spaces."""
    if isinstance(value, tuple):
        return " | ".join(value)
    return value if isinstance(value, str) else " ".join(value)
