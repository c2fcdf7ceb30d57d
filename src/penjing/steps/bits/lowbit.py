"""Low-bit training for stored quantization: distillation while weights have the few values that will be on disk."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal, cast, final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.hooks import RemovableHandle

from penjing.errors import InputError
from penjing.maths import fake
from penjing.maths.calibration import affine_levels, squared_error
from penjing.maths.stored import Scheme, quantize, split_ternary
from penjing.model.coded import Coded, powers
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.model.surgery import copy_of
from penjing.model.watch import encoder_of
from penjing.steps.bits.activations import (
    FROZEN_FROM,
    RATES,
    Attached,
    Inputs,
    RoundedInputs,
    RowSigns,
    clipped_inputs,
    learned_signs,
    rounded_gradients,
)
from penjing.steps.bits.calibrate import calibrate
from penjing.steps.bits.qat import RoundedWeight
from penjing.steps.bits.sensitivity import roundable
from penjing.steps.teach.distill import Distill
from penjing.steps.teach.training import TrainingStep
from penjing.tasks.task import Examples
from penjing.text.encoded import Encoded
from penjing.training.lesson import TeachingEvidence
from penjing.training.loop import Hooks
from penjing.training.taught import Taught

InputLevels = Literal["integers", "rows", "even"]
REFRESHES = 20
"""How often in a training the scales are fitted again; in between, each weight is rounded with the scales as they are."""
CALIBRATED_ON = 256
"""Texts that the ranges of the inputs are calibrated on at the start."""


# -- weights -----------------------------------------------------------------------------------------------------


@final
class Levels(nn.Module):
    """The quantization levels of a matrix's groups, and the rounding of its weights to them. All state is in the state dict.

    The scales are those of `quantize`. Fitting them (as by the clip of the least squared error) takes many times as long as a step
    of training, and they hardly move from one step to the next, so they are fitted again only now and then.

    squash: a weight goes through tanh first, on scales of the whole matrix (`fake.squashed`); that is what the levels are of.
    """

    scale: Tensor
    zero: Tensor
    powers: Tensor
    unit: Tensor
    gain: Tensor

    def __init__(self, weight: Tensor, scheme: Scheme, squash: bool = False) -> None:
        super().__init__()
        self.scheme = scheme
        self.squash = squash
        if squash:
            unit, gain = fake.squash_scales(weight)
            self.register_buffer("unit", unit)
            self.register_buffer("gain", gain)
        self.like = quantize(self.squashed(weight), scheme)
        parameters = self.like.parameters
        zero = parameters.get("zero", np.zeros(1, np.float32))
        self.top = int(2 * zero[0]) if scheme.kind != "affine" else 2**scheme.bits - 1
        self.m = 2 ** (scheme.bits - 1) - 1
        self.register_buffer("scale", torch.from_numpy(parameters["scale"].copy()).to(weight.device))
        self.register_buffer("zero", torch.from_numpy(zero.copy()).to(weight.device))
        self.register_buffer("powers", torch.from_numpy(powers(scheme.bits)), persistent=False)

    def refresh(self, weight: Tensor) -> None:
        """Fit the scales to a weight that has changed."""
        if self.squash:
            unit, gain = fake.squash_scales(weight)
            self.unit.copy_(unit)
            self.gain.copy_(gain)
        for name, value in quantize(self.squashed(weight), self.scheme).parameters.items():
            cast(Tensor, getattr(self, name)).copy_(torch.from_numpy(value))

    def squashed(self, weight: Tensor) -> Tensor:
        """What is rounded of a weight, with its gradient: the weight itself, or its tanh."""
        return fake.squashed(weight, self.unit, self.gain) if self.squash else weight

    def forward(self, weight: Tensor, rows: Tensor | None = None) -> Tensor:
        """Weights (R, C) rounded to the nearest levels; rows (R,): their row numbers in the matrix, None: all rows."""
        return self._regrouped(self.squashed(weight), rows, self._values)

    def codes(self, weight: Tensor) -> Coded:
        """The codes of a weight, as they are stored."""
        codes = self._regrouped(self.squashed(weight), None, self._codes).to(torch.uint8).cpu().numpy()
        buffers = {name: cast(Tensor, getattr(self, name)).cpu().numpy() for name in self.like.parameters}
        return replace(self.like, codes=codes, parameters=buffers)

    def _codes(self, w: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        if self.scheme.bits == 1:  # sign(0) = 1, as in the stored codes
            return (w >= 0).to(w)
        return fake.power_codes(w, scale, self.m) if self.scheme.kind == "log" else fake.grid_codes(w, scale, zero, self.top)

    def _values(self, w: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        codes = self._codes(w, scale, zero)
        if self.scheme.kind == "log":
            return self.powers[codes.int()].mul_(scale)
        return codes.sub_(zero).mul_(scale)

    def _regrouped(self, w: Tensor, rows: Tensor | None, function: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        """`function` of the weights as (R, groups, g) and of their groups' scales and zeros; a row's last group may be shorter."""
        count, columns = w.shape
        size = min(self.scheme.group or columns, columns)
        short = -columns % size
        blocks = (F.pad(w, (0, short)) if short else w).view(count, -1, size)  # (R, groups, g)
        result = function(blocks, self._shared(self.scale, rows), self._shared(self.zero, rows)).view(count, -1)
        return result[:, :columns] if short else result

    def _shared(self, parameter: Tensor, rows: Tensor | None) -> Tensor:
        """A parameter of the groups as (R, groups, 1), or (1, 1, 1) where all share one."""
        if len(parameter) == 1:
            return parameter.view(1, 1, 1)
        grouped = parameter.view(self.like.shape[0], -1, 1)
        return grouped if rows is None else grouped[rows]


@final
class Codebook(nn.Module):
    """A codebook parametrization of one weight: the table is trained, the index of each weight stays.

    The gradient of an entry is the sum over its weights (Han et al. 2016, section 3.3). Tables have half precision, as on disk.
    """

    index: Tensor

    def __init__(self, weight: Tensor, scheme: Scheme, seed: int) -> None:
        super().__init__()
        self.like = quantize(weight, scheme, seed)
        count, columns = weight.shape
        size = min(scheme.group or columns, columns)
        levels = self.like.parameters["table"].shape[1]
        groups = torch.arange(count)[:, None] * -(-columns // size) + torch.arange(columns) // size if scheme.group else 0
        index = torch.from_numpy(self.like.codes).int() + (groups * levels)  # (rows, columns)
        self.register_buffer("index", index.int().to(weight.device), persistent=False)

    def right_inverse(self, weight: Tensor) -> Tensor:
        return torch.from_numpy(self.like.parameters["table"].astype(np.float32)).flatten().to(weight.device)

    def forward(self, table: Tensor) -> Tensor:
        return fake.looked_up(fake.straight_through(table, table.detach().half().float()), self.index)

    def codes(self, table: Tensor) -> Coded:
        """The codes of a weight with the trained table, as they are stored."""
        values = table.detach().half().float().cpu().numpy()
        return replace(self.like, parameters={"table": values.reshape(self.like.parameters["table"].shape)})


@final
class Halves(nn.Module):
    """A parametrization of one weight as the sum of two binary ones, split from a ternary one (Bai et al. 2021, section 3.2)."""

    def __init__(self, weight: Tensor, ternary: Tensor, group: int) -> None:
        super().__init__()
        self.start = split_ternary(weight, ternary, group)
        self.levels = tuple(Levels(w, Scheme("binary", 1, group)) for w in self.start)  # also registered in `each`
        self.each = nn.ModuleList(RoundedWeight(levels) for levels in self.levels)

    def right_inverse(self, weight: Tensor) -> Sequence[Tensor]:
        return self.start

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        a, b = self.each
        return cast(Tensor, a(first) + b(second))

    def refresh(self, *weights: Tensor) -> None:
        """Fit the scales of both halves."""
        for levels, weight in zip(self.levels, weights, strict=True):
            levels.refresh(weight)

    def codes(self, *weights: Tensor) -> Coded:
        """The codes of the sum: a 2-bit codebook of the four values ±α₁ ± α₂ of each group."""
        a, b = (levels.codes(weight) for levels, weight in zip(self.levels, weights, strict=True))
        first, second = (np.outer(half.parameters["scale"], np.array([-0.5, 0.5], np.float32)) for half in (a, b))
        table = (first[:, :, None] + second[:, None, :]).reshape(-1, 4)  # (groups, 4)
        return Coded("codebook", 2, a.shape, a.group, 2 * a.codes + b.codes, {"table": table})


@final
class LowBitWeights:
    """The low-bit weights of a model: rounded from the constructor on; `finish` makes the values permanent and returns their codes.

    A row of the word embedding depends on itself and its scales alone, so only the rows that a batch reads are rounded.
    """

    def __init__(self, model: PenjingPreTrainedModel, schemes: Mapping[str, Scheme], squash: Collection[str], seed: int) -> None:
        self.model = model
        self.schemes = schemes
        word = encoder_of(model).embeddings.word
        self.hooks: list[RemovableHandle] = []
        for name, scheme in schemes.items():
            module, attribute = self.place(name)
            weight = getattr(module, attribute).detach()
            if scheme.kind == "kmeans":
                parametrize.register_parametrization(module, attribute, Codebook(weight, scheme, seed))
            elif module is word:
                module.add_module("levels", Levels(weight, scheme, name in squash))
                self.hooks.append(module.register_forward_hook(_round_rows))
            else:
                levels = Levels(weight, scheme, name in squash)
                parametrize.register_parametrization(module, attribute, RoundedWeight(levels, levels.squashed))

    def place(self, name: str) -> tuple[nn.Module, str]:
        """The module and attribute name of a parameter."""
        owner, _, attribute = name.rpartition(".")
        return self.model.get_submodule(owner), attribute

    def before_step(self, step: int, total: int) -> None:
        """Fit the scales again, `REFRESHES` times; in the last part of the training they are frozen."""
        if step and step % max(1, total // REFRESHES) == 0 and step < FROZEN_FROM * total:
            for name in self.schemes:
                rounding, weights = self._latent(name)
                if not isinstance(rounding, Codebook):
                    rounding.refresh(*weights)

    @torch.no_grad()
    def split(self) -> None:
        """Replace each ternary weight by two binary ones."""
        for name, scheme in self.schemes.items():
            if scheme.kind == "ternary":
                rounding, (weight,) = self._latent(name)
                latent = rounding.squashed(weight) if isinstance(rounding, Levels) else weight
                halves = Halves(latent, rounding(weight), scheme.group)
                self._remove(name, weight)
                parametrize.register_parametrization(*self.place(name), halves)

    @torch.no_grad()
    def finish(self) -> dict[str, Coded]:
        """Replace each weight by its rounded values; returns their codes by name."""
        coded = {}
        for name in self.schemes:
            rounding, weights = self._latent(name)
            coded[name] = rounding.codes(*weights)
            self._remove(name, torch.from_numpy(coded[name].values()))
        return coded

    def _latent(self, name: str) -> tuple[Levels | Codebook | Halves, tuple[Tensor, ...]]:
        """The rounding module of a parameter, and the float weights (or the table) that it rounds."""
        module, attribute = self.place(name)
        if not parametrize.is_parametrized(module, attribute):
            return cast(Levels, module.levels), (getattr(module, attribute).detach(),)
        chain = cast(parametrize.ParametrizationList, module.get_submodule(f"parametrizations.{attribute}"))
        names = ("original",) if chain.is_tensor else ("original0", "original1")
        weights = tuple(chain.get_parameter(name).detach() for name in names)
        if isinstance(chain[0], RoundedWeight):
            return cast(Levels, chain[0].rounder), weights
        return cast(Codebook | Halves, chain[0]), weights

    def _remove(self, name: str, value: Tensor) -> None:
        """Remove the rounding of a parameter, which becomes a plain one of this value."""
        module, attribute = self.place(name)
        if parametrize.is_parametrized(module, attribute):
            parametrize.remove_parametrizations(module, attribute)
        else:
            del module.levels
            for hook in self.hooks:
                hook.remove()
        getattr(module, attribute).copy_(value)


def _round_rows(module: nn.Module, inputs: tuple[Tensor], rows: Tensor) -> Tensor:
    """Forward hook of an embedding that has `levels`: the looked-up rows, rounded."""
    flat = rows.detach().flatten(0, -2)  # (B · S, E)
    levels = cast(Levels, module.levels)
    return fake.straight_through(levels.squashed(rows), levels(flat, inputs[0].flatten()).view_as(rows))


# -- the step ----------------------------------------------------------------------------------------------------


@final
class LowBit(TrainingStep[TeachingEvidence]):
    """The step of low-bit training while `distill` teaches (Zhang et al. 2020, TernaryBERT; Han et al. 2016 for codebooks).

    schemes: how each matrix is stored, by the parameter's name; the others stay float.
    activation_bits: of the inputs of the linear layers while training; None leaves them float, as they are when the stored model is
        loaded.
    levels: of those inputs. integers: 8 bits as TernaryBERT, 1 by signs with a learned scale and threshold (Liu et al. 2022, BiT,
        after BiBERT, Qin et al. 2022, without its attention of zeros and ones). rows: signs with a scale per token (`RowSigns`).
        even: DoReFa's (`ClippedInput`).
    gradient_bits: of the gradients of the linear layers' outputs (Zhou et al. 2016, DoReFa, section 2.5); 0: float.
    squash: names of the weights that go through tanh before they are rounded (`fake.squashed`).
    halves: after a training with ternary weights these are split into sums of two binary ones, and trained once more (Bai et al.
        2021, BinaryBERT).
    """

    name = "low-bit"

    def __init__(
        self,
        distill: Distill,
        schemes: Mapping[str, Scheme],
        activation_bits: int | None = None,
        *,
        levels: InputLevels = "integers",
        gradient_bits: int = 0,
        squash: Collection[str] = (),
        halves: bool = False,
    ) -> None:
        if activation_bits is not None and not 1 <= activation_bits <= 8:
            raise InputError(f"activation bits: {activation_bits} is out of range; give 1 to 8, or none for float")
        if levels == "rows" and activation_bits != 1:
            raise InputError(f"activation bits: {activation_bits} do not go with a scale per token, which is of signs; give 1")
        if halves and not any(scheme.kind == "ternary" for scheme in schemes.values()):
            raise InputError("halves: no weight is ternary, and only those are split into binary ones; give the scheme ternary")
        self.distill = distill
        self.schemes = schemes
        self.activation_bits = activation_bits
        self.levels = levels
        self.gradient_bits = gradient_bits
        self.squash = squash
        self.halves = halves

    def observe(self, model: PenjingPreTrainedModel, data: Examples) -> TeachingEvidence:
        """The training texts, and the teacher's outputs on them, cached."""
        return self.distill.observe(model, data)

    def teach(self, model: PenjingPreTrainedModel, evidence: TeachingEvidence) -> Taught:
        """Train a copy of `model`, evaluated as rounded; the result has the rounded values, and their codes in `coded`."""
        student = copy_of(model)
        lesson = self.distill.lesson(evidence)
        inputs = self.inputs(student, evidence.data.encoded)
        weights = LowBitWeights(student, self.schemes, self.squash, self.distill.settings.schedule.seed)

        def before_step(step: int, total: int) -> None:
            weights.before_step(step, total)
            if inputs is not None:
                inputs.before_step(step, total)

        hooks = Hooks(before_step, rates=RATES)
        for phase in ("", "-halves")[: 1 + self.halves]:
            if phase:
                weights.split()
            taught = replace(lesson, state_file=lesson.state_file.with_stem(lesson.state_file.stem + phase))
            with rounded_gradients(roundable(student), self.gradient_bits):
                history = taught.teach(student, hooks)
        if inputs is not None:
            inputs.finish()
        coded = weights.finish()
        return Taught(copy_of(student), history, coded=coded)

    def inputs(self, student: PenjingPreTrainedModel, encoded: Encoded) -> Inputs | None:
        """Round the inputs of every linear layer but the head's last, from now on; None: inputs stay in float."""
        if self.activation_bits is None:
            return None
        texts = encoded.take(encoded.sample(CALIBRATED_ON, self.distill.settings.schedule.seed))
        layers = roundable(student)
        if self.levels == "rows":
            return Attached(layers, {name: RowSigns() for name in layers})
        if self.levels == "even":
            return clipped_inputs(student, texts, layers, self.activation_bits)
        if self.activation_bits == 1:
            return learned_signs(student, texts, layers)
        rounding = affine_levels(self.activation_bits)
        return RoundedInputs(student, calibrate(student, texts, partial(squared_error, rounding=rounding)), layers, self.activation_bits)
