"""A task of one's own, defined here: its rows, its labels and its metric; a model of it is compressed, and answers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
from conftest import tiny_teacher
from numpy.typing import NDArray

from penjing.engines.description import Description
from penjing.maths.statistics import Stats
from penjing.tasks.metric import SumMetric
from penjing.tasks.sequence import SequenceTask
from penjing.text.rows import Row


@final
class Severe(SumMetric):
    """Accuracy in which a bad review that was taken for a good one counts twice."""

    name = "severe"

    def statistics(self, predicted: Sequence[Any], gold: Sequence[Any]) -> Stats:
        weights = [2.0 if g == "negative" else 1.0 for g in gold]
        return np.array([[w * (p == g), w] for p, g, w in zip(predicted, gold, weights, strict=True)])

    def value(self, total: Stats) -> NDArray[np.float64]:
        return np.asarray(100 * total[..., 0] / np.maximum(total[..., 1], 1))

    def slips(self, stats: Stats) -> Stats:
        return np.stack([-stats[:, 0], np.zeros(len(stats))], 1)


@final
class Review(SequenceTask):
    """A headline and a body, which are read as one text."""

    name = "review"
    text_columns = (("headline", "body"),)
    label_columns = ("mood",)
    takes = "review takes a headline and a body (str) each"

    def input_of(self, value: Any, where: str) -> Any:
        return f"{value[0]} {value[1]}"

    def inputs_of(self, rows: Sequence[Row]) -> list[Any]:
        return [f"{row['headline']} {row['body']}" for row in rows]


def rows(count: int, seed: int) -> list[dict[str, str]]:
    """Moods go by the headline."""
    random = np.random.default_rng(seed)
    words = random.choice(["good", "bad"], (count, 2))
    return [
        {"headline": a, "body": f"{b} film not a film {i}", "mood": "positive" if a == "good" else "negative"}
        for i, (a, b) in enumerate(words)
    ]


def test_it_is_compressed_and_served(shop: Any, tmp_path: Path) -> None:
    teacher = tiny_teacher(tmp_path / "teacher")
    report = shop.compress(Review(metric=Severe()), teacher, train=rows(60, 0), eval=rows(30, 1), max_drop=100.0, recipe=None)
    assert (report.task, report.metric, report.met) == ("review", "severe", True)
    about = Description.read(shop.out / "engine")
    assert about.task == "test_new_task:Review"
    answers = shop.answers([("good", "a film"), ("bad", "film")])
    assert [set(answer) for answer in answers] == [{"label", "score"}] * 2 and {answer["label"] for answer in answers} <= {
        "positive",
        "negative",
    }
