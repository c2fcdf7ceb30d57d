"""Cut heads, neurons, layers and hidden units: what each is worth (observe), which go (plan, injected), the cut and its repair (apply)."""

from collections.abc import Callable
from dataclasses import replace
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray

from penjing.arrays import Encoded
from penjing.blueprint import Blueprint
from penjing.checkpoint import blueprint_of
from penjing.maths.losses import soft_kl
from penjing.modeling_penjing import PenjingPreTrainedModel
from penjing.steps.importance import Importance
from penjing.steps.repair import Reconstruction, Repair, repair
from penjing.steps.step import Step
from penjing.surgery import Selection, cut
from penjing.tasks.task import Examples, Task
from penjing.training.predict import answers_of, logits_of

ORDER_TEXTS = 256
"""Texts at most that the order of the layers is found on: every layer left is tried each time."""

Criterion = Callable[[PenjingPreTrainedModel, Task, Examples, int], Importance]


@final
class Prune(Step[Importance, Selection]):
    """Structured pruning.

    `criterion` says what each part is worth, `choose` turns a blueprint and that into the selection that is kept (all of it,
    unless given: `search` makes plans), and what is left is repaired on the texts of `calibration` by `method`. It is also found which `removed` layers are missed least (None:
    their whole order).
    """

    name = "prune"

    def __init__(
        self, task: Task, criterion: Criterion, calibration: Encoded, method: Repair = "weights", removed: int | None = None, seed: int = 0,
        choose: Callable[[Blueprint, Importance], Selection] = lambda blueprint, _: Selection.all(blueprint),
    ) -> None:  # fmt: skip
        self.task, self.criterion, self.choose, self.calibration = task, criterion, choose, calibration
        self.method: Repair = method
        self.removed, self.seed = removed, seed
        self.reconstruction: Reconstruction | None = None

    def observe(self, model: PenjingPreTrainedModel, data: Examples) -> Importance:
        importance = self.criterion(model, self.task, data, self.seed)
        if self.removed == 0:
            return importance
        few = data.take(np.sort(np.random.default_rng(self.seed).permutation(len(data))[:ORDER_TEXTS]))
        return replace(importance, removed=least_missed_layers(model, few, self.removed))

    def plan(self, blueprint: Blueprint, evidence: Importance) -> Selection:
        return self.choose(blueprint, evidence)

    def apply(self, model: PenjingPreTrainedModel, plan: Selection, evidence: Importance) -> PenjingPreTrainedModel:
        result, self.reconstruction = repair(cut(model, plan), model, plan, self.calibration, self.method)
        return result


def least_missed_layers(model: PenjingPreTrainedModel, data: Examples, count: int | None = None) -> list[int]:
    """`count` layers (None: all but one) in the order in which leaving them out changes the model's answers least, greedily.

    Each time the layer goes whose absence gives the smallest KL divergence from the whole model's answers.
    """
    blueprint = blueprint_of(model)
    whole = Selection.all(blueprint)
    reference = logits_of(model, data.encoded)
    kept = list(range(len(blueprint.layers)))
    removed: list[int] = []
    while len(kept) > 1 and len(removed) != count:
        divergence = {
            layer: divergence_of(cut(model, Selection(tuple(whole.layers[i] for i in kept if i != layer))), data, reference)
            for layer in kept
        }
        removed.append(min(kept, key=lambda layer: divergence[layer]))
        kept.remove(removed[-1])
    return removed


def divergence_of(model: PenjingPreTrainedModel, data: Examples, reference: list[NDArray[np.float32]]) -> float:
    """Mean KL divergence of the model's answers from the reference's, per text, or per token that is answered from."""
    per_token = blueprint_of(model).head == "token"
    z, t = (torch.from_numpy(answers_of(data, rows, per_token)) for rows in (logits_of(model, data.encoded), reference))
    return float(soft_kl(z, t))
