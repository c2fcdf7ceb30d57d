"""Losses of one's own, defined here, on states and on answers, with a metric of one's own to see what they bring."""

from collections.abc import Sequence
from typing import Any, final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from penjing.maths.statistics import Stats
from penjing.steps.cut.prune import PruneSettings
from penjing.steps.teach.distill import DistillSettings
from penjing.tasks.metric import SumMetric
from penjing.training.loop import Schedule
from penjing.training.state_losses import PerPair

CALLS = {"states": 0, "answers": 0}


@final
class NoError(SumMetric):
    """Share of texts that are wrong, from 100 down."""

    name = "no-error"

    def statistics(self, predicted: Sequence[Any], gold: Sequence[Any]) -> Stats:
        return np.array([[float(p != g), 1.0] for p, g in zip(predicted, gold, strict=True)])

    def value(self, total: Stats) -> NDArray[np.float64]:
        return np.asarray(100 - 100 * total[..., 0] / np.maximum(total[..., 1], 1))

    def slips(self, stats: Stats) -> Stats:
        return np.stack([(stats[:, 0] == 0).astype(float), np.zeros(len(stats))], 1)


def absolute(h: Tensor, g: Tensor) -> Tensor:
    """Mean absolute difference of two layers' states (n, H)."""
    CALLS["states"] += 1
    return (h - g).abs().mean()


def margins(z: Tensor, t: Tensor) -> Tensor:
    """Squared difference of the margins between the largest two logits (n, C)."""
    CALLS["answers"] += 1
    own, teacher = ((two := logits.topk(2, -1).values)[:, 0] - two[:, 1] for logits in (z, t))
    return (own - teacher).square().mean()


def test_they_teach(shop: Any) -> None:
    from penjing.tasks.sequence import Classification

    losses = {"kl": 1.0, margins: 0.1, PerPair(absolute): 1.0}
    settings = DistillSettings(Schedule(epochs=2, learning_rate=1e-3), losses=losses, states_first=0.0)
    report = shop.compress(
        Classification(metric=NoError()), recipe=[PruneSettings(layers=1, importance="magnitude", repair="none"), settings]
    )
    assert CALLS["states"] > 0 and CALLS["answers"] > 0 and report.metric == "no-error"
    assert [step.name for step in report.steps] == ["baseline", "observe", "plan", "prune", "distill", "export", "choose", "verify"]
    assert report.asked is not None and "test_new_loss:margins" in report.asked.step("distill")["how"]["losses"]
