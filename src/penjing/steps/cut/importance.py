"""Importance scores of heads, neurons and hidden units, for pruning.

Every criterion has the signature `(model, task, data, seed) -> Importance`; the formulas are those of `penjing.maths.importance`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from penjing.files.whole import Json
from penjing.maths import importance as formulas
from penjing.maths.repair import RIDGE, ridged
from penjing.model.building import blueprint_of
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.model.run import GRADIENT_TOKENS, batches, blocks_of
from penjing.model.watch import (
    BlockKey,
    closing_layers,
    encoder_of,
    layers_of,
    own_layers,
    replacing_outputs,
    watching_inputs,
    watching_outputs,
)
from penjing.tasks.task import IGNORED, Examples, Task
from penjing.training.predict import answering, pad_rows

Scores = NDArray[np.float64]
CHUNKS = 48
"""Rounds in which a layer's neurons are eliminated."""
BATCH = 32
"""The largest number of texts in a batch."""


@dataclass(frozen=True)
class Importance:
    """Importance scores, higher where more would be lost.

    heads, neurons: one array per layer. removed: numbers of layers, the least missed first; empty where the order was not measured.
    hidden: scores of the hidden units (the residual width); empty where they have none.
    """

    heads: list[Scores]
    neurons: list[Scores]
    removed: list[int] = field(default_factory=list)
    hidden: Scores = field(default_factory=lambda: np.zeros(0))

    def to_dict(self) -> Json:
        """The scores as a JSON object."""
        return {
            "heads": [a.tolist() for a in self.heads],
            "neurons": [a.tolist() for a in self.neurons],
            "removed": self.removed,
            "hidden": self.hidden.tolist(),
        }

    @classmethod
    def from_dict(cls, fields: Json) -> "Importance":
        """The importance of a JSON object that `to_dict` made."""
        heads, neurons = ([np.array(a) for a in fields[name]] for name in ("heads", "neurons"))
        return cls(heads, neurons, list(fields["removed"]), np.array(fields["hidden"]))


# -- of the weights alone ------------------------------------------------------------------------------------------


def random(model: PenjingPreTrainedModel, task: Task, data: Examples, seed: int) -> Importance:
    """The criterion "random": uniform random numbers, which any criterion has to beat."""
    generator = np.random.default_rng(seed)
    blueprint = blueprint_of(model)
    heads, neurons = ([generator.random(getattr(layer, kind)) for layer in blueprint.layers] for kind in ("heads", "neurons"))
    return Importance(heads, neurons, [], generator.random(blueprint.hidden))


def magnitude_l1(model: PenjingPreTrainedModel, task: Task, data: Examples, seed: int) -> Importance:
    """The criterion "magnitude-l1": the sum of the absolute weights (Li et al. 2017, section 3.1)."""
    return _of_weights(model, lambda weight: weight.abs())


def magnitude_l2(model: PenjingPreTrainedModel, task: Task, data: Examples, seed: int) -> Importance:
    """The criterion "magnitude": the root of the sum of the squared weights."""
    squares = _of_weights(model, lambda weight: weight.square())
    return Importance([np.sqrt(a) for a in squares.heads], [np.sqrt(a) for a in squares.neurons], [], np.sqrt(squares.hidden))


def _of_weights(model: PenjingPreTrainedModel, value: Callable[[Tensor], Tensor]) -> Importance:
    """Sums of `value` (as large as the parameter) over the weights of each head, neuron and hidden unit."""
    blueprint = blueprint_of(model)
    heads = []
    neurons = []
    hidden = torch.zeros(blueprint.hidden)
    with torch.no_grad():
        for layer in layers_of(model):
            attention = layer.attention
            feed_forward = layer.feed_forward
            parts = list(attention.projections.values())
            # (heads · width,)
            features = sum((value(part.weight).sum(1) + value(part.bias) for part in parts), value(attention.output.weight).sum(0))
            heads.append(features.view(-1, blueprint.head_width).sum(1).double().numpy())
            neuron = value(feed_forward.down.weight).sum(0)  # (neurons,)
            if feed_forward.up is not None:
                neuron = neuron + value(feed_forward.up.weight).sum(1) + value(feed_forward.up.bias)
                hidden += value(feed_forward.up.weight).sum(0)
            neurons.append(neuron.double().numpy())
            hidden += value(feed_forward.down.weight).sum(1) + value(attention.output.weight).sum(1)
            for part in parts:
                hidden += value(part.weight).sum(0)
    return Importance(heads, neurons, [], hidden.double().numpy())


# -- of activations and gradients ----------------------------------------------------------------------------------


def activation(model: PenjingPreTrainedModel, task: Task, data: Examples, seed: int) -> Importance:
    """The criterion "activation": mean norm of outputs, over texts and tokens (as Muralidharan et al. 2024, section 2.2)."""

    def norms(a: Tensor, width: int) -> Tensor:
        return a.view(*a.shape[:2], -1, width).norm(dim=-1).mean(1)  # (B, S, groups · width) → (B, groups)

    with torch.no_grad():
        seen = _observe(model, task, data, lambda a, _, width: norms(a, width), loss=None)
    return _importance(model, seen, lambda rows: rows.mean(0))


def gradient(model: PenjingPreTrainedModel, task: Task, data: Examples, seed: int) -> Importance:
    """The criterion "gradient": expected sensitivity to the gate, |Σ a·g|, normalised per layer (Michel et al. 2019, section 4.1)."""
    return _importance(model, _observe(model, task, data, _gates, label_loss(task, data)), formulas.sensitivity)


def fisher(model: PenjingPreTrainedModel, task: Task, data: Examples, seed: int) -> Importance:
    """The criterion "fisher": the diagonal of the Fisher information of the gates (Kwon et al. 2022, section 4.1)."""
    return _importance(model, _observe(model, task, data, _gates, label_loss(task, data)), formulas.fisher)


def block_fisher(model: PenjingPreTrainedModel, task: Task, data: Examples, seed: int) -> Importance:
    """The criterion "block-fisher": greedy elimination by a block's full Fisher information (Kwon et al. 2022, section 4.2)."""
    seen = _observe(model, task, data, _gates, label_loss(task, data))
    return _importance(model, seen, lambda G: formulas.eliminate(G.T @ G / len(G)))


def taylor(model: PenjingPreTrainedModel, task: Task, data: Examples, seed: int) -> Importance:
    """The criterion "taylor": first-order Taylor expansion of the loss in the weights, Σ (w·g)² (Molchanov et al. 2019, equation 8).

    g is the gradient of a batch's mean loss. In the mean over batches, a batch counts by its number of texts.
    """
    sums: list[Importance] = []

    def collect(texts: int) -> None:  # the gradient is of a sum: (w·g / texts)²·texts
        sums.append(_of_weights(model, lambda w: torch.zeros_like(w) if w.grad is None else (w * w.grad).square() / texts))

    _observe(model, task, data, _gates, label_loss(task, data), after_batch=collect)
    heads, neurons = (
        [np.sum([getattr(batch, kind)[i] for batch in sums], axis=0) / len(data) for i in range(len(layers_of(model)))]
        for kind in ("heads", "neurons")
    )
    return Importance(heads, neurons, [], np.sum([batch.hidden for batch in sums], axis=0) / len(data))


def relevance(model: PenjingPreTrainedModel, task: Task, data: Examples, seed: int) -> Importance:
    """The criterion "lrp": layer-wise relevance propagation to heads and neurons (Voita et al. 2019, section 4.1).

    It starts from the largest logit, in tagging that of every token with a label; the rules are those of `relevance_rules`.
    """
    read = answering(data)

    def answer(logits: Tensor, rows: NDArray[np.int64]) -> Tensor:
        return read(logits, rows).max(-1).values.sum()

    with relevance_rules(model):
        seen = _observe(model, task, data, _gates, answer)
    return _importance(model, seen, formulas.relative_relevance)


def reconstruction(model: PenjingPreTrainedModel, task: Task, data: Examples, seed: int) -> Importance:
    """The criterion "obs": elimination with the optimal-brain-surgeon correction (Kurtić et al. 2023, ZipLM, section 3.1).

    The error at a block's output is weighted by the second moments of the gradient there, so that blocks are comparable.
    """
    blueprint = blueprint_of(model)
    moments = _moments(model, task, data)
    heads: list[Scores] = []
    neurons: list[Scores] = []
    for key, closing in closing_layers(model).items():
        scores, width = (heads, blueprint.head_width) if key[1] == "heads" else (neurons, 1)
        if not closing.in_features:
            scores.append(np.zeros(0))
            continue
        A, C = moments[key]
        chunk = 1 if width > 1 else -(-closing.in_features // CHUNKS)
        scores.append(formulas.eliminate_by_reconstruction(closing.weight.detach(), ridged(A, RIDGE), C, width, chunk).numpy())
    return Importance(heads, neurons, [], fisher(model, task, data, seed).hidden)


# -- observation --------------------------------------------------------------------------------------------------

Key = tuple[int, str]
"""The number of a layer, and the kind of its groups."""
HIDDEN: Key = (-1, "hidden")
Look = Callable[[Tensor, Tensor | None, int], Tensor]
Loss = Callable[[Tensor, NDArray[np.int64]], Tensor]


def _gates(a: Tensor, g: Tensor | None, width: int) -> Tensor:
    assert g is not None
    return formulas.gate_gradients(a, g, width)


def label_loss(task: Task, data: Examples) -> Loss:
    """The task's loss on gold answers, of classes the cross-entropy: summed, so that a text's gradient does not depend on its batch."""
    targets = task.targets(data)
    answers = task.answer_losses()

    def loss(logits: Tensor, rows: NDArray[np.int64]) -> Tensor:
        gold = pad_rows([targets[i] for i in rows], logits.shape[1]).flatten()
        known = (gold != IGNORED) & ~gold.isnan()
        return answers.hard(logits.flatten(0, -2), gold, known.sum().double())

    return loss


def _observe(
    model: PenjingPreTrainedModel,
    task: Task,
    data: Examples,
    look: Look,
    loss: Loss | None,
    after_batch: Callable[[int], None] = lambda texts: None,
) -> dict[Key, Tensor]:
    """Statistics `look(activations, gradients, width)` of the heads' contexts, the neurons' activations and the hidden states.

    Returns:
        (texts, groups) by (layer, kind); "hidden" is under layer -1, summed over all places where the residual stream is read.
    """
    blueprint = blueprint_of(model)
    widths = {"heads": blueprint.head_width, "neurons": 1, "hidden": 1}
    seen: list[tuple[Key, Tensor]] = []
    statistics: dict[Key, list[Tensor]] = {}

    def keep(key: Key, tensor: Tensor) -> None:
        if tensor.shape[-1]:
            if tensor.requires_grad:
                tensor.retain_grad()
            seen.append((key, tensor))

    streams = [encoder_of(model).embeddings, *(block.norm for block in blocks_of(model))]
    hidden = watching_outputs(((HIDDEN, module) for module in streams), lambda key, _, output: keep(key, output))
    groups = watching_inputs(closing_layers(model).items(), keep)
    try:
        with hidden, groups:
            for rows, feeds in batches(model, data.encoded, BATCH, GRADIENT_TOKENS):
                seen.clear()
                logits = model(**feeds).logits
                if loss is not None:
                    model.zero_grad()
                    loss(logits, rows).backward()
                total: dict[Key, Tensor] = {}
                for key, a in seen:
                    value = look(a.detach(), a.grad, widths[key[1]])
                    total[key] = value if key not in total else total[key] + value
                for key, value in total.items():
                    statistics.setdefault(key, []).append(value)
                after_batch(len(rows))
    finally:
        model.zero_grad()
    return {key: torch.cat(values) for key, values in statistics.items()}


def _importance(model: PenjingPreTrainedModel, seen: dict[Key, Tensor], reduce: Callable[[Tensor], Tensor]) -> Importance:
    def scores(kind: str, i: int) -> Scores:
        return reduce(seen[i, kind]).double().numpy() if (i, kind) in seen else np.zeros(0)

    count = len(layers_of(model))
    return Importance([scores("heads", i) for i in range(count)], [scores("neurons", i) for i in range(count)], [], scores("hidden", -1))


def _moments(model: PenjingPreTrainedModel, task: Task, data: Examples) -> dict[BlockKey, tuple[Tensor, Tensor]]:
    """Second moments of each block's closing layer: A (K, K) of its inputs, C (H, H) of the gradient at its outputs.

    Where the head reads the first token alone, the last layer's other tokens do not count.
    """
    loss = label_loss(task, data)
    end = len(layers_of(model)) - 1
    first_only = end if task.head.first_only and end in own_layers(model) else None
    sums: dict[BlockKey, tuple[Tensor, Tensor]] = {}

    def watch(key: BlockKey, x: Tensor, output: Tensor) -> None:
        def used(y: Tensor) -> Tensor:
            return (y[:, 0] if key[0] == first_only else y.flatten(0, 1)).detach()  # (B, K) or (B·S, K)

        a = used(x)
        A = a.T @ a

        def backward(g: Tensor) -> None:
            rows = used(g)
            C = rows.T @ rows
            sums[key] = (sums[key][0] + A, sums[key][1] + C) if key in sums else (A, C)

        output.register_hook(backward)

    try:
        with watching_outputs(closing_layers(model).items(), watch):
            for rows, feeds in batches(model, data.encoded, BATCH, GRADIENT_TOKENS):
                loss(model(**feeds).logits, rows).backward()
    finally:
        model.zero_grad()
    tokens = int(data.encoded.offsets[-1])
    # A: mean over tokens. C: sum over the tokens of a text, mean over texts.
    return {key: (A / (len(data) if key[0] == first_only else tokens), C / len(data)) for key, (A, C) in sums.items()}


@contextmanager
def relevance_rules(model: PenjingPreTrainedModel) -> Iterator[None]:
    """Context manager in which gradient × activation is the relevance of layer-wise relevance propagation (rule LRP-0).

    Attention's weights, the norms' deviations and the ratios activation(x) / x are taken as constants, so that every
    layer, and the head, is linear in what it passes on: without biases no relevance is lost (Voita et al. 2019,
    appendix A; Ali et al. 2022, "XAI for Transformers", section 3).
    """

    def norm(module: nn.LayerNorm, x: Tensor, _: Tensor) -> Tensor:
        scale = (x.var(-1, unbiased=False, keepdim=True) + module.eps).rsqrt().detach()
        return (x - x.mean(-1, keepdim=True)) * scale * module.weight + module.bias

    def ratio(_: str, x: Tensor, output: Tensor) -> Tensor:
        return x * torch.where(x == 0, 0.0, output / x).detach()

    norms = [(module, module) for module in model.modules() if isinstance(module, nn.LayerNorm)]
    activations = [(name, module) for name, module in model.named_modules() if name.endswith(".activation")]
    attentions = [layer.attention for layer in layers_of(model)]
    weights = [(None, part) for attention in attentions for name, part in attention.projections.items() if name != "value"]
    with (
        replacing_outputs(norms, norm),
        replacing_outputs(activations, ratio),
        replacing_outputs(weights, lambda _, __, output: output.detach()),
    ):
        yield
