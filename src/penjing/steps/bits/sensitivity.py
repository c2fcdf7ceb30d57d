"""Sensitivity of linear layers to int8, measured by rounding each alone; and the choice of layers that stay in float.

Everything runs in PyTorch with the arithmetic of the exported integers: weights per output channel, activations per
tensor over the calibrated range (static) or over the text's own (dynamic). The last linear layer of the head is float
in every form and the word embedding is integers in every form, so neither is up for a choice.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from penjing.engines.clock.machine import safe_weight_bits
from penjing.engines.network import Ranges
from penjing.engines.onnx.graph import FLOAT_ALWAYS, first_token_layers
from penjing.maths import fake
from penjing.maths.answers import AnswerLosses
from penjing.maths.rounding import affine, symmetric
from penjing.model.building import blueprint_of
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.model.run import batches
from penjing.model.surgery import copy_of
from penjing.model.watch import encoder_of, linear_layers, of_exit, replacing_inputs
from penjing.steps.bits.calibrate import Calibration, calibrate
from penjing.tasks.task import Examples
from penjing.text.encoded import Encoded
from penjing.training.predict import answering, logits_of

CANDIDATES: tuple[Calibration, ...] = ("mse", "percentile", "moving-average")
"""Calibration methods that are compared by measurement: entropy was never the best, min-max hardly differs from moving-average."""
TOGETHER = (".query", ".key", ".value")
"""Linear layers of an attention block that the fused graph rounds only together."""


def roundable(model: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers that int8 rounds, by name (without `encoder.`), in the order in which they run; the exits' heads stay in float."""
    return {name: layer for name, layer in linear_layers(model).items() if name not in FLOAT_ALWAYS and not of_exit(name)}


@contextmanager
def rounded(model: PenjingPreTrainedModel, names: Collection[str], ranges: Ranges | None, weight_bits: int) -> Iterator[None]:
    """Context manager in which the named linear layers compute with rounded weights and inputs, as the exported int8 graph does.

    Args:
        ranges: of the static form; None rounds each text over its own range, as the dynamic form does.
    """
    modules = roundable(model)
    first_only = first_token_layers(blueprint_of(model), fused=ranges is None)
    weights = {name: modules[name].weight.data for name in names}

    def round_input(name: str, x: Tensor) -> Tensor:
        if ranges is not None:
            S, Z = affine(*ranges[name])
            return fake.affine(x, float(S), int(Z))
        read = x[:, :1] if name in first_only else x
        axes = tuple(range(1, x.ndim))
        return fake.affine_rounded(x, read.amin(axes, keepdim=True), read.amax(axes, keepdim=True))

    with replacing_inputs(((name, modules[name]) for name in names), round_input):
        try:
            for name, w in weights.items():
                q, S = symmetric(w.numpy(), axis=0, bits=weight_bits)
                modules[name].weight.data = torch.from_numpy(q * S[:, None])
            yield
        finally:
            for name, w in weights.items():
                modules[name].weight.data = w


def emulated(
    model: PenjingPreTrainedModel, texts: Encoded, ranges: Ranges | None, float_layers: Collection[str]
) -> list[NDArray[np.float32]]:
    """Emulated logits of the exported int8 graph: the word embedding and every layer but `float_layers` rounded.

    The dynamic graph takes query, key and value together: one of them in float leaves all three.
    """
    blocks = {name.rpartition(".")[0] for name in float_layers if ranges is None and name.endswith(TOGETHER)}
    left = {*float_layers, *(block + part for block in blocks for part in TOGETHER)}
    copy = _with_rounded_words(model)
    with rounded(copy, [name for name in roundable(copy) if name not in left], ranges, safe_weight_bits()):
        return logits_of(copy, texts, batch=1)


def _with_rounded_words(model: PenjingPreTrainedModel) -> PenjingPreTrainedModel:
    """A copy of the model with the rounded word embedding of every int8 form."""
    copy = copy_of(model).eval()
    word = encoder_of(copy).embeddings.word.weight
    q, S = symmetric(word.detach().numpy(), axis=0)
    word.data = torch.from_numpy(q * S[:, None])
    return copy


@final
class Divergence:
    """The divergence from the float model of the same model with some layers rounded, on the same texts.

    KL(p ‖ q) of the classes in nats, p the float model's; for a regression the squared difference. It is a mean over texts (sequence),
    tokens with a label (token), or texts' starts and ends (question).

    Args:
        answers: the losses of the task's answers (`Task.answer_losses`).
    """

    def __init__(self, model: PenjingPreTrainedModel, examples: Examples, ranges: Ranges | None, answers: AnswerLosses) -> None:
        self.ranges = ranges
        self.answers = answers
        self.blueprint = blueprint_of(model)
        encoded = examples.encoded
        self.read = answering(examples)
        self.batches = list(batches(model, encoded, 32, masked=True))
        self.expected = self._logits(model)
        self.model = _with_rounded_words(model)
        self.layers = tuple(roundable(self.model))

    @torch.inference_mode()
    def _logits(self, model: PenjingPreTrainedModel) -> list[Tensor]:
        outputs = [(rows, _answer(model(**feeds))) for rows, feeds in self.batches]
        return [self.read(z, rows) if self.blueprint.head.per_token else z for rows, z in outputs]

    def __call__(self, names: Collection[str]) -> float:
        """The divergence of the model with these layers in int8, the others in float."""
        with rounded(self.model, names, self.ranges, safe_weight_bits()):
            rounded_logits = self._logits(self.model)
        total = sum(float(self._one(p, q).sum()) for p, q in zip(self.expected, rounded_logits, strict=True))
        return total / sum(self._one(p, p).numel() for p in self.expected)

    def _one(self, p: Tensor, q: Tensor) -> Tensor:
        return self.answers.divergences(p, q, axis=1 if self.blueprint.head.answers == "span" else -1)


def _answer(output: Mapping[str, Tensor]) -> Tensor:
    """The logits of an output, (B, C) or (B, S, C), in float64; of a span, its start and end as two classes."""
    value = output["logits"] if "logits" in output else torch.stack([output["start_logits"], output["end_logits"]], -1)
    return value.double()


def best_calibration(model: PenjingPreTrainedModel, seen: Examples, apart: Examples, answers: AnswerLosses) -> tuple[Calibration, Ranges]:
    """The best calibration method of `CANDIDATES` and its ranges: those of `seen` that move the answers on the texts `apart` least.

    No method is the best for every model: clipping a few outliers helps one and ruins another.
    """
    ranges = {method: calibrate(model, seen.encoded, method) for method in CANDIDATES}
    divergence = Divergence(model, apart, None, answers)
    moved = {}
    for method, method_ranges in ranges.items():
        divergence.ranges = method_ranges
        moved[method] = divergence(divergence.layers)
    best = min(CANDIDATES, key=lambda method: moved[method])
    return best, ranges[best]


def sensitivity(divergence: Divergence) -> dict[str, float]:
    """Sensitivities of linear layers: what rounding each alone adds to the divergence; the largest first."""
    none = divergence(())
    added = {name: divergence((name,)) - none for name in divergence.layers}
    return dict(sorted(added.items(), key=lambda item: -item[1]))


def left_float(
    model: PenjingPreTrainedModel, apart: Examples, ranges: Ranges | None, limit: float, answers: AnswerLosses
) -> tuple[float, frozenset[str]]:
    """The divergence with every layer rounded, and the layers to leave in float so that it is at most `limit` (see `Divergence`)."""
    divergence = Divergence(model, apart, ranges, answers)
    moved = divergence(divergence.layers)
    return moved, frozenset() if moved <= limit else keep_float(sensitivity(divergence), divergence, limit)


def keep_float(sensitivities: dict[str, float], divergence: Callable[[Collection[str]], float], limit: float) -> frozenset[str]:
    """The fewest layers to leave in float, the most sensitive first, so that the divergence of all others rounded is ≤ `limit`.

    Each set is measured as a whole: errors of layers do not simply add up. Where no set reaches the limit, it is every layer.
    """
    order = sorted(sensitivities, key=lambda name: -sensitivities[name])
    for count in range(len(order)):
        if divergence(order[count:]) <= limit:
            return frozenset(order[:count])
    return frozenset(order)
