"""Quantization-aware training: distillation while the model computes with the rounded numbers of its int8 export."""

from collections.abc import Callable, Collection
from typing import Literal, final

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from penjing.engines.network import Ranges
from penjing.engines.onnx.graph import FLOAT_ALWAYS
from penjing.maths import fake
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.model.surgery import copy_of
from penjing.model.watch import encoder_of, linear_layers, of_exit
from penjing.steps.bits.activations import RATES, RoundedInputs
from penjing.steps.bits.calibrate import OF_EXTREMES, Calibration, calibrate
from penjing.steps.bits.sensitivity import best_calibration
from penjing.steps.teach.distill import Distill
from penjing.steps.teach.training import TrainingStep
from penjing.tasks.task import Examples
from penjing.training.lesson import TeachingEvidence
from penjing.training.loop import Hooks
from penjing.training.taught import Taught


@final
class RoundedWeight(nn.Module):
    """A parametrization of one weight by its rounded values, with the straight-through estimator of its gradient.

    The estimator's gradient is that of `smooth`, what would be rounded; by default the weight itself. Without gradients (an evaluation
    runs many batches) the values are cached until the weight changes.
    """

    def __init__(self, rounder: Callable[[Tensor], Tensor], smooth: Callable[[Tensor], Tensor] = lambda w: w) -> None:
        super().__init__()
        self.rounder = rounder
        self.smooth = smooth
        self.version = -1
        self.kept: Tensor | None = None

    def forward(self, weight: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            self.kept = None
            return fake.straight_through(self.smooth(weight), self.rounder(weight.detach()))
        if self.kept is None or self.version != weight._version:
            self.kept = self.rounder(weight)
            self.version = weight._version
        return self.kept


@final
class FakeQuantization:
    """Fake quantization of a model: from the constructor until `finish` it computes as its int8 export will.

    The export is the portable file, or with `dynamic` the fused one.
    Every linear layer but the last of the head and `float_layers` has weights rounded per output and its input per tensor; the
    word embedding is rounded per row. A row of it depends on itself alone, so only rows that a batch reads are rounded.
    """

    def __init__(
        self,
        model: PenjingPreTrainedModel,
        ranges: Ranges,
        bits: int,
        float_layers: Collection[str] = (),
        dynamic: bool = False,
        learned: bool = False,
    ) -> None:
        left = FLOAT_ALWAYS.union(float_layers)
        self.layers = {name: layer for name, layer in linear_layers(model).items() if name not in left and not of_exit(name)}
        self.inputs = RoundedInputs(model, ranges, self.layers, dynamic=dynamic, learned=learned)
        for layer in self.layers.values():
            parametrize.register_parametrization(layer, "weight", RoundedWeight(lambda w: fake.symmetric_rows(w, bits)))
        word = encoder_of(model).embeddings.word
        self.hook = word.register_forward_hook(lambda _, __, rows: fake.straight_through(rows, fake.symmetric_rows(rows)))

    def finish(self) -> None:
        """Remove the rounding; the float weights underneath remain."""
        self.hook.remove()
        self.inputs.finish()
        for layer in self.layers.values():
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)


@final
class QuantizationAware(TrainingStep[TeachingEvidence]):
    """The step of training for int8 while `distill` teaches (Zafrir et al. 2019, Q8BERT); evidence and losses are those of `distill`.

    ranges_from: texts that the ranges of the activations are calibrated on at the start, by `calibration` (measured: chosen on held-out
    texts). Ranges of extremes then move with the training's batches; a range that clips on purpose stays.
    bits: of the weights, as `safe_weight_bits` says. dynamic: activations are rounded over each text's own extremes.
    learned: both ends of every range are learned by their gradients, from where they were calibrated (Esser et al. 2020, LSQ; see
    `RoundedInput`). Weights keep the scale of their largest, as the exported file has it.
    """

    name = "qat"

    def __init__(
        self,
        distill: Distill,
        ranges_from: Examples,
        bits: int = 8,
        calibration: Calibration | Literal["measured"] = "mse",
        dynamic: bool = False,
        learned: bool = False,
    ) -> None:
        self.distill = distill
        self.ranges_from = ranges_from
        self.bits = bits
        self.calibration = calibration
        self.dynamic = dynamic
        self.learned = learned

    def observe(self, model: PenjingPreTrainedModel, data: Examples) -> TeachingEvidence:
        """The training texts, and the teacher's outputs on them, cached."""
        return self.distill.observe(model, data)

    def teach(self, model: PenjingPreTrainedModel, evidence: TeachingEvidence) -> Taught:
        """Train a copy of `model` in rounded numbers; the result has its float weights, and the `ranges` to export with."""
        if self.calibration == "measured":
            calibration, ranges = best_calibration(model, self.ranges_from, self.distill.dev, self.distill.task.answer_losses())
        else:
            calibration = self.calibration
            ranges = calibrate(model, self.ranges_from.encoded, calibration)
        student = copy_of(model)
        rounding = FakeQuantization(student, ranges, self.bits, dynamic=self.dynamic, learned=self.learned)
        hooks = Hooks(rounding.inputs.before_step, rates=RATES) if calibration in OF_EXTREMES else Hooks(rates=RATES)
        history = self.distill.lesson(evidence).teach(student, hooks)
        ranges = ranges | rounding.inputs.ranges
        rounding.finish()
        return Taught(copy_of(student), history, ranges=ranges)
