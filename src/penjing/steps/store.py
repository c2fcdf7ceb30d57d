"""Stored quantization: weights in few bits on disk, floats again when they are loaded."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

import torch

from penjing.errors import InputError
from penjing.maths.stored import Clip, Kind, Scheme, quantize
from penjing.modeling_penjing import PenjingPreTrainedModel
from penjing.packing import Coded
from penjing.surgery import copy_of

SMALL = ("embeddings.position.weight", "embeddings.token_type.weight", "embeddings.word_map.weight", "head.out.weight")
"""Matrices that are a hundredth of the bytes and much of the quality: always 8 bits, a scale per row."""
MIXED = "mixed"


@dataclass(frozen=True)
class StoreSettings:
    """How weights are stored.

    scheme: linear, affine, log, kmeans, ternary, binary; mixed: linear, of more bits where the Hessian says that it matters.
    bits: of a weight; with mixed, of the average one. group: entries of a row that share a scale or codebook; 0: the whole matrix
    does. clip: the range of linear and affine. training: rounded while distilling too. activation_bits: of the inputs of linear
    layers while distilling; 0: float. squash, halves: see `LowBit`.
    """

    scheme: str = "linear"
    bits: int = 4
    group: int = 128
    clip: Clip = "mse"
    training: bool = False
    activation_bits: int = 0
    squash: bool = False
    halves: bool = False

    def __post_init__(self) -> None:
        schemes = (*get_args(Kind), MIXED)
        if self.scheme not in schemes:
            raise InputError(f"--scheme: {self.scheme!r} is none; allowed are {', '.join(schemes)}")
        if self.clip not in get_args(Clip):
            raise InputError(f"--clip: {self.clip!r} is none; allowed are {', '.join(get_args(Clip))}")
        if not 1 <= self.bits <= 8 or type(self.bits) is not int:
            raise InputError(f"--bits: {self.bits} is out of range; give 1 to 8")
        if self.group < 0:
            raise InputError(f"--group: {self.group} is out of range; give how many entries share a scale, or 0 for the whole matrix")


def matrices(model: PenjingPreTrainedModel) -> list[str]:
    """Names of the parameters that are stored in few bits: every one that is a matrix and not empty."""
    return [name for name, p in model.named_parameters() if p.ndim == 2 and p.numel()]


def scheme_of(name: str, width: int, scheme: Scheme) -> Scheme:
    """How the matrix `name`, `width` entries a row, is stored where the others are as `scheme` says."""
    return Scheme("linear", 8, width) if name.endswith(SMALL) else scheme


def uniform(model: PenjingPreTrainedModel, settings: StoreSettings) -> dict[str, Scheme]:
    """One scheme for every matrix, but for the small ones."""
    scheme = Scheme(settings.scheme, settings.bits, settings.group, settings.clip)  # type: ignore[arg-type]
    return {name: scheme_of(name, model.get_parameter(name).shape[1], scheme) for name in matrices(model)}


@torch.no_grad()
def store(model: PenjingPreTrainedModel, schemes: Mapping[str, Scheme], seed: int = 0) -> tuple[PenjingPreTrainedModel, dict[str, Coded]]:
    """A copy of the model whose matrices have the values that their codes stand for, and the codes by the parameter's name."""
    result, coded = copy_of(model), {}
    for name, scheme in schemes.items():
        weight = result.get_parameter(name)
        coded[name] = quantize(weight, scheme, seed)
        weight.copy_(torch.from_numpy(coded[name].values()))
    return result, coded
