"""Quantization-aware training: distillation while the model computes with the rounded numbers of its int8 export."""

from collections.abc import Callable, Collection, Mapping
from typing import Literal, final

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from penjing.engines.network import Ranges
from penjing.engines.onnx.graph import FLOAT_ALWAYS, first_token_layers
from penjing.maths import fake
from penjing.maths.rounding import affine
from penjing.model.building import blueprint_of
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.model.surgery import copy_of
from penjing.model.watch import encoder_of, linear_layers, of_exit
from penjing.steps.bits.calibrate import OF_EXTREMES, Calibration, calibrate
from penjing.steps.bits.sensitivity import best_calibration
from penjing.steps.teach.distill import Distill
from penjing.steps.teach.training import TrainingStep
from penjing.tasks.task import Examples
from penjing.training.lesson import TeachingEvidence
from penjing.training.loop import Hooks
from penjing.training.taught import Taught

MOMENTUM = 0.99
"""Decay of the exponential average of a range at each step."""
TEXTS = 16
"""Texts whose extremes are taken together, as in `calibrate`'s batches: a range grows with their number."""
FROZEN_FROM = 0.8
"""The part of the training after which ranges are frozen, so that the weights settle on the numbers that are shipped."""


@final
class RoundedWeight(nn.Module):
    """A parametrization of one weight by its rounded values, with the straight-through estimator of its gradient.

    `before`, which has a gradient of its own, is applied first. Without gradients (an evaluation runs many batches) the values are
    cached until the weight changes.
    """

    def __init__(self, rounder: Callable[[Tensor], Tensor], before: Callable[[Tensor], Tensor] = lambda w: w) -> None:
        super().__init__()
        self.rounder = rounder
        self.before = before
        self.version = -1
        self.kept: Tensor | None = None

    def forward(self, weight: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            self.kept = None
            w = self.before(weight)
            return fake.straight_through(w, self.rounder(w.detach()))
        if self.kept is None or self.version != weight._version:
            self.kept = self.rounder(self.before(weight))
            self.version = weight._version
        return self.kept


@final
class RoundedInput(nn.Module):
    """Rounded input of a linear layer, over the range [low, high]; in training the range follows the values of real tokens.

    dynamic: each text is rounded over its own extremes instead. first_only: the first token alone is rounded, the only one that the
    exported graph computes.
    """

    low: Tensor
    high: Tensor

    def __init__(self, low: float, high: float, bits: int = 8, first_only: bool = False, dynamic: bool = False) -> None:
        super().__init__()
        self.bits = bits
        self.first_only = first_only
        self.dynamic = dynamic
        self.moving = False
        self.mask: Tensor | None = None
        self.register_buffer("low", torch.tensor(low))
        self.register_buffer("high", torch.tensor(high))

    def forward(self, x: Tensor) -> Tensor:
        if self.first_only and x.shape[1] > 1:
            return torch.cat([self.rounded(x[:, :1]), x[:, 1:]], 1)
        return self.rounded(x)

    def rounded(self, x: Tensor) -> Tensor:
        if self.dynamic:
            return fake.affine_texts(x, self.mask, self.bits)
        if self.moving and self.training:
            self.follow(x.detach())
        scale, zero = affine(self.low.item(), self.high.item(), self.bits)
        return fake.affine(x, float(scale), int(zero), self.bits)

    def follow(self, x: Tensor) -> None:
        """Update the range's exponential average by a batch's extremes, `TEXTS` texts at a time (Jacob et al. 2018, section 3.1)."""
        for name, sign in (("low", 1), ("high", -1)):
            least = (x.amin(-1) if sign > 0 else -x.amax(-1)).float()  # (B, S)
            if self.mask is not None and self.mask.shape == least.shape:
                least = least.masked_fill(~self.mask, torch.inf)
            ends = torch.stack([part.min() for part in least.split(TEXTS)])
            getattr(self, name).lerp_(sign * ends.mean(), 1 - MOMENTUM)


@final
class RoundedInputs:
    """Rounded inputs of the linear layers of a model: attached by the constructor, removed by `finish`."""

    def __init__(
        self, model: PenjingPreTrainedModel, ranges: Ranges, layers: dict[str, nn.Linear], bits: int = 8, dynamic: bool = False
    ) -> None:
        first_only = first_token_layers(blueprint_of(model), fused=dynamic)
        self.layers = layers
        self.modules = {name: RoundedInput(*ranges[name], bits, name in first_only, dynamic) for name in layers}
        self.hooks = [model.base_model.register_forward_pre_hook(self.look, with_kwargs=True)]
        for name, layer in layers.items():
            layer.add_module("input", self.modules[name])
            self.hooks.append(layer.register_forward_pre_hook(lambda module, inputs: module.input(inputs[0])))

    @property
    def ranges(self) -> Ranges:
        """The present range (low, high) of each input."""
        return {name: (module.low.item(), module.high.item()) for name, module in self.modules.items()}

    def look(self, _: nn.Module, __: tuple[Tensor, ...], inputs: Mapping[str, Tensor | None]) -> None:
        """Forward pre-hook of the model that takes the attention mask: which tokens of a batch are real."""
        mask = inputs.get("attention_mask")
        for module in self.modules.values():
            module.mask = None if mask is None else mask.bool()

    def before_step(self, step: int, total: int) -> None:
        """Let the ranges move until the last part of the training."""
        for module in self.modules.values():
            module.moving = step < FROZEN_FROM * total

    def finish(self) -> None:
        """Remove the rounding of the inputs."""
        for hook in self.hooks:
            hook.remove()
        for layer in self.layers.values():
            del layer.input


@final
class FakeQuantization:
    """Fake quantization of a model: from the constructor until `finish` it computes as its int8 export will.

    The export is the portable file, or with `dynamic` the fused one.
    Every linear layer but the last of the head and `float_layers` has weights rounded per output and its input per tensor; the
    word embedding is rounded per row. A row of it depends on itself alone, so only rows that a batch reads are rounded.
    """

    def __init__(
        self, model: PenjingPreTrainedModel, ranges: Ranges, bits: int, float_layers: Collection[str] = (), dynamic: bool = False
    ) -> None:
        left = FLOAT_ALWAYS.union(float_layers)
        self.layers = {name: layer for name, layer in linear_layers(model).items() if name not in left and not of_exit(name)}
        self.inputs = RoundedInputs(model, ranges, self.layers, dynamic=dynamic)
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
    """

    name = "qat"

    def __init__(
        self,
        distill: Distill,
        ranges_from: Examples,
        bits: int = 8,
        calibration: Calibration | Literal["measured"] = "mse",
        dynamic: bool = False,
    ) -> None:
        self.distill = distill
        self.ranges_from = ranges_from
        self.bits = bits
        self.calibration = calibration
        self.dynamic = dynamic

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
        rounding = FakeQuantization(student, ranges, self.bits, dynamic=self.dynamic)
        hooks = Hooks(rounding.inputs.before_step) if calibration in OF_EXTREMES else Hooks()
        history = self.distill.lesson(evidence).teach(student, hooks)
        ranges = ranges | rounding.inputs.ranges
        rounding.finish()
        return Taught(copy_of(student), history, ranges=ranges)
