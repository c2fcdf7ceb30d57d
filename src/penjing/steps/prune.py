"""Cut heads, neurons and layers: what each is worth (observe), which go (plan, injected), and the exact cut (apply)."""

from collections.abc import Callable
from typing import Any, cast, final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from penjing.blueprint import Blueprint
from penjing.checkpoint import blueprint_of
from penjing.maths.importance import fisher, gate_gradients
from penjing.maths.losses import soft_kl
from penjing.modeling_penjing import PenjingPreTrainedModel
from penjing.steps.importance import Importance
from penjing.steps.step import Step
from penjing.surgery import Selection, cut
from penjing.tasks.task import IGNORED, Examples, Task
from penjing.training.predict import logits_of, pad_rows


@final
class Prune(Step[Importance, Selection]):
    """Structured pruning; `choose` turns a blueprint and importance into the selection that is kept."""

    name = "prune"

    def __init__(self, task: Task, choose: Callable[[Blueprint, Importance], Selection]) -> None:
        self.task, self.choose = task, choose

    def observe(self, model: PenjingPreTrainedModel, data: Examples) -> Importance:
        heads, neurons = gate_importance(model, self.task, data)
        return Importance(heads, neurons, least_missed_layers(model, data))

    def plan(self, blueprint: Blueprint, evidence: Importance) -> Selection:
        return self.choose(blueprint, evidence)

    def apply(self, model: PenjingPreTrainedModel, plan: Selection, evidence: Importance) -> PenjingPreTrainedModel:
        return cut(model, plan)


def gate_importance(
    model: PenjingPreTrainedModel, task: Task, data: Examples
) -> tuple[list[NDArray[np.float64]], list[NDArray[np.float64]]]:
    """Fisher importance of every head and of every neuron, per layer, on labelled texts."""
    blueprint, targets = blueprint_of(model), task.targets(data)
    seen: dict[tuple[int, str], Tensor] = {}
    gradients: dict[tuple[int, str], list[Tensor]] = {}

    def keep(key: tuple[int, str]) -> Callable[..., None]:
        def hook(_: Any, inputs: tuple[Tensor, ...]) -> None:
            if inputs[0].requires_grad and inputs[0].shape[-1]:
                inputs[0].retain_grad()
                seen[key] = inputs[0]

        return hook

    hooks = []
    for i, layer in enumerate(cast(Any, model.base_model).layers):
        hooks.append(layer.attention.output.register_forward_pre_hook(keep((i, "heads"))))
        hooks.append(layer.feed_forward.down.register_forward_pre_hook(keep((i, "neurons"))))
    try:
        for rows in data.encoded.exact_batches(32):
            feeds = {name: torch.from_numpy(value) for name, value in data.encoded.feeds(rows).items()}
            labels = pad_rows([targets[i] for i in rows], feeds["input_ids"].shape[1])
            logits = model(**feeds).logits
            loss = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=IGNORED, reduction="sum")
            model.zero_grad()
            loss.backward()
            for key, a in seen.items():
                assert a.grad is not None
                width = blueprint.head_width if key[1] == "heads" else 1
                gradients.setdefault(key, []).append(gate_gradients(a.detach(), a.grad, width))
    finally:
        for handle in hooks:
            handle.remove()
        model.zero_grad()

    def scores(kind: str) -> list[NDArray[np.float64]]:
        result = []
        for i in range(len(blueprint.layers)):
            each = gradients.get((i, kind))
            result.append(fisher(torch.cat(each)).double().numpy() if each else np.zeros(0))
        return result

    return scores("heads"), scores("neurons")


def least_missed_layers(model: PenjingPreTrainedModel, data: Examples) -> list[int]:
    """Layers in the order in which leaving them out changes the model's answers least, greedily, all but one.

    Each time the layer goes whose absence gives the smallest KL divergence from the whole model's answers.
    """
    blueprint = blueprint_of(model)
    whole = Selection.all(blueprint)
    reference = logits_of(model, data.encoded)
    kept = list(range(len(blueprint.layers)))
    removed: list[int] = []
    while len(kept) > 1:
        divergence = {
            layer: divergence_of(cut(model, Selection(tuple(whole.layers[i] for i in kept if i != layer))), data, reference)
            for layer in kept
        }
        removed.append(min(kept, key=lambda layer: divergence[layer]))
        kept.remove(removed[-1])
    return removed


def divergence_of(model: PenjingPreTrainedModel, data: Examples, reference: list[NDArray[np.float32]]) -> float:
    """Mean KL divergence of the model's answers from the reference's, per text or per token."""
    stack = [np.concatenate([np.atleast_2d(row) for row in rows]) for rows in (logits_of(model, data.encoded), reference)]
    return float(soft_kl(torch.from_numpy(stack[0]), torch.from_numpy(stack[1])))
