"""Rounded inputs of linear layers while a model is trained, and rounded gradients of their outputs."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Protocol, final

import numpy as np
import torch
from torch import Tensor, nn

from penjing.engines.network import Ranges
from penjing.engines.onnx.graph import first_token_layers
from penjing.maths import fake
from penjing.maths.calibration import squared_error
from penjing.maths.rounding import affine, even_round
from penjing.model.building import blueprint_of
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.model.run import batches
from penjing.model.watch import replacing_outputs, watching_inputs
from penjing.steps.bits.calibrate import calibrate
from penjing.steps.bits.sensitivity import TOGETHER
from penjing.text.encoded import Encoded

MOMENTUM = 0.99
"""Decay of the exponential average of a range at each step."""
TEXTS = 16
"""Texts whose extremes are taken together, as in `calibrate`'s batches: a range grows with their number."""
FROZEN_FROM = 0.8
"""The part of the training after which ranges are frozen, so that the weights settle on the numbers that are shipped."""
RATES: Mapping[str, float] = {"input.alpha": 10.0, "input.beta": 10.0, "input.ends": 100.0}
"""Learning rates of what is learned of the inputs, as multiples of the weights' own; `ends` are logarithms (Jain et al. 2020, TQT)."""


class Inputs(Protocol):
    """Rounded inputs of the linear layers of a model, from the constructor until `finish`."""

    def before_step(self, step: int, total: int) -> None:
        """What changes before a step of training."""

    def finish(self) -> None:
        """Remove the rounding of the inputs."""


@final
class Attached:
    """Modules that round the inputs of linear layers: attached by the constructor as `layer.input`, removed by `finish`."""

    def __init__(self, layers: Mapping[str, nn.Linear], modules: Mapping[str, nn.Module]) -> None:
        self.layers = layers
        self.hooks = []
        for name, layer in layers.items():
            layer.add_module("input", modules[name])
            self.hooks.append(layer.register_forward_pre_hook(lambda module, inputs: module.input(inputs[0])))

    def before_step(self, step: int, total: int) -> None:
        """Nothing to do: what changes in these modules is learned."""

    def finish(self) -> None:
        """Remove the rounding of the inputs."""
        for hook in self.hooks:
            hook.remove()
        for layer in self.layers.values():
            del layer.input


# -- integers ----------------------------------------------------------------------------------------------------


@final
class RoundedInput(nn.Module):
    """Rounded input of a linear layer, over the range [low, high]; in training the range follows the values of real tokens.

    dynamic: each text is rounded over its own extremes instead. first_only: the first token alone is rounded, the only one that the
    exported graph computes. learned: both ends are learned by their gradients (`fake.learned_affine`), each as the logarithm of its
    ratio to where it started, so that a step changes all ranges by the same part and none turns its sign (Jain et al. 2020, TQT,
    section 3.2).
    """

    low: Tensor
    high: Tensor

    def __init__(
        self, low: float, high: float, bits: int = 8, first_only: bool = False, dynamic: bool = False, learned: bool = False
    ) -> None:
        super().__init__()
        self.bits = bits
        self.first_only = first_only
        self.dynamic = dynamic
        self.moving = False
        self.mask: Tensor | None = None
        self.register_buffer("low", torch.tensor(min(low, 0.0) if learned else low))
        self.register_buffer("high", torch.tensor(max(high, 0.0) if learned else high))
        self.ends = nn.Parameter(torch.zeros(2)) if learned else None

    @property
    def range(self) -> tuple[Tensor, Tensor]:
        """The present range."""
        if self.ends is None:
            return self.low, self.high
        low, high = self.ends.exp()
        return self.low * low, self.high * high

    def forward(self, x: Tensor) -> Tensor:
        if self.first_only and x.shape[1] > 1:
            return torch.cat([self.rounded(x[:, :1]), x[:, 1:]], 1)
        return self.rounded(x)

    def rounded(self, x: Tensor) -> Tensor:
        if self.dynamic:
            return fake.affine_texts(x, self.mask, self.bits)
        low, high = self.range
        if self.ends is not None:
            return fake.learned_affine(x, low, high, self.bits)
        if self.moving and self.training:
            self.follow(x.detach())
        scale, zero = affine(low.item(), high.item(), self.bits)
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
    """Inputs of the linear layers of a model, rounded to integers: attached by the constructor, removed by `finish`."""

    def __init__(
        self,
        model: PenjingPreTrainedModel,
        ranges: Ranges,
        layers: Mapping[str, nn.Linear],
        bits: int = 8,
        dynamic: bool = False,
        learned: bool = False,
    ) -> None:
        first_only = first_token_layers(blueprint_of(model), fused=dynamic)
        self.modules = {name: RoundedInput(*ranges[name], bits, name in first_only, dynamic, learned) for name in layers}
        if learned:
            one: dict[str, RoundedInput] = {}
            self.modules = {name: one.setdefault(_tensor(name, name in first_only), module) for name, module in self.modules.items()}
        self.hook = model.base_model.register_forward_pre_hook(self.look, with_kwargs=True)
        self.attached = Attached(layers, self.modules)

    @property
    def ranges(self) -> Ranges:
        """The present range (low, high) of each input."""
        return {name: (low.item(), high.item()) for name, module in self.modules.items() for low, high in [module.range]}

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
        self.hook.remove()
        self.attached.finish()


def _tensor(name: str, first_only: bool) -> str:
    """The name of what a layer reads; query, key and value read one tensor, whose range is one in the exported file."""
    return name.rpartition(".")[0] if name.endswith(TOGETHER) and not first_only else name


# -- few bits ----------------------------------------------------------------------------------------------------


@final
class SignedInput(nn.Module):
    """Binary input of a linear layer, -α or α, by the sign of x - β; scale α and threshold β are learned (Liu et al. 2022, BiT)."""

    def __init__(self, alpha: float) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.tensor(alpha))
        self.beta = nn.Parameter(torch.tensor(0.0))

    def forward(self, x: Tensor) -> Tensor:
        return fake.sign(x, self.alpha.abs(), self.beta)


@final
class RowSigns(nn.Module):
    """Binary input of a linear layer, -K or K by the sign of x, K the mean |x| of each token (Rastegari et al. 2016, section 3.2).

    With binary weights of one scale α per output, the layer is K·α·(a product of signs), which `penjing.maths.popcount` computes.
    """

    def forward(self, x: Tensor) -> Tensor:
        return fake.row_signs(x)


@final
class ClippedInput(nn.Module):
    """Input of a linear layer in 2^bits equal levels from low to high (Zhou et al. 2016, DoReFa, section 2.4).

    In the paper the range is [0, 1], after an activation of that range. What BERT's layers read is of any size and mostly of both
    signs, so the range is [low, high], that of least squared error on texts, and stands still.
    """

    def __init__(self, low: float, high: float, bits: int) -> None:
        super().__init__()
        self.low = low
        self.high = high
        self.bits = bits

    def forward(self, x: Tensor) -> Tensor:
        return fake.clipped_even(x, self.low, self.high, self.bits)


def learned_signs(model: PenjingPreTrainedModel, encoded: Encoded, layers: Mapping[str, nn.Linear]) -> Attached:
    """Binary inputs with learned scales, which start from mean|x| over texts (Rastegari et al. 2016, section 3.2)."""
    seen: dict[str, list[float]] = {name: [] for name in layers}
    with torch.inference_mode(), watching_inputs(layers.items(), lambda name, x: seen[name].append(x.abs().mean().item())):
        for _, feeds in batches(model, encoded, 16, masked=True):
            model(**feeds)
    return Attached(layers, {name: SignedInput(float(np.mean(means))) for name, means in seen.items()})


def clipped_inputs(model: PenjingPreTrainedModel, encoded: Encoded, layers: Mapping[str, nn.Linear], bits: int) -> Attached:
    """Inputs in DoReFa's levels, over the ranges of least squared error on texts."""
    ranges = calibrate(model, encoded, partial(squared_error, rounding=partial(even_round, bits=bits)))
    return Attached(layers, {name: ClippedInput(*ranges[name], bits) for name in layers})


# -- gradients ---------------------------------------------------------------------------------------------------


@contextmanager
def rounded_gradients(layers: Mapping[str, nn.Linear], bits: int) -> Iterator[None]:
    """Context manager in which the gradients of the layers' outputs are rounded to `bits` bits, at random (Zhou et al. 2016, section 2.5).

    Both the gradient of the weights and that of the inputs are then products with the rounded one. bits: 0: nothing is rounded.
    """
    rounded = layers.items() if bits else ()
    with replacing_outputs(rounded, lambda _, __, y: fake.rounded_gradient(y, bits)):
        yield
