"""Stored quantization: weights in few bits on disk, floats again when they are loaded."""

from dataclasses import dataclass
from typing import cast, get_args

from penjing.errors import InputError
from penjing.maths.stored import BITS, Clip, Kind, Scheme
from penjing.model.modeling_penjing import PenjingPreTrainedModel

SMALL = ("embeddings.position.weight", "embeddings.token_type.weight", "embeddings.word_map.weight", "head.out.weight")
"""Matrices that are a hundredth of the bytes and much of the quality: always 8 bits, a scale per row."""
MIXED = "mixed"
CURVATURE = ("gauss-newton", "trace", "eigenvalue")


@dataclass(frozen=True)
class StoreSettings:
    """How weights are stored.

    scheme: linear, affine, log, kmeans, ternary, binary; mixed: linear, of more bits where the Hessian says that it matters.
    bits: of a weight, 4 or what the scheme has; with mixed, of the average one. group: entries of a row that share a scale or codebook; 0: the whole matrix
    does. clip: the range of linear, affine and log. training: rounded while distilling too. activation_bits: of the inputs of linear
    layers while distilling; 0: float. curvature: what mixed
    weighs errors by: gauss-newton, trace, eigenvalue (see steps/hessian.py). squash, halves: see `LowBit`.
    """

    scheme: str = "linear"
    bits: int | None = None
    group: int = 128
    clip: Clip = "mse"
    training: bool = False
    activation_bits: int = 0
    curvature: str = "gauss-newton"
    squash: bool = False
    halves: bool = False

    def __post_init__(self) -> None:
        schemes = (*get_args(Kind), MIXED)
        if self.scheme not in schemes:
            raise InputError(f"--scheme: {self.scheme!r} is none; allowed are {', '.join(schemes)}")
        if self.curvature not in CURVATURE:
            raise InputError(f"--recipe: curvature {self.curvature!r} is none; allowed are {', '.join(CURVATURE)}")
        if self.clip not in get_args(Clip):
            raise InputError(f"--clip: {self.clip!r} is none; allowed are {', '.join(get_args(Clip))}")
        allowed = self._allowed
        if type(self.width) is not int or self.width not in allowed:
            raise InputError(f"--bits: {self.scheme} has no {self.bits}; allowed are {', '.join(map(str, allowed))}")
        if not 0 <= self.activation_bits <= 8:
            raise InputError(f"--activation-bits: {self.activation_bits} is out of range; give 1 to 8, or 0 for float")
        if (self.activation_bits or self.squash or self.halves) and not self.training:
            raise InputError(
                "--activation-bits, squash, halves: they say how it is trained, and nothing is; give --epochs, or training: true"
            )
        if self.halves and self.scheme != "ternary":
            raise InputError(f"--recipe: halves splits ternary weights, and the scheme is {self.scheme}; give ternary")
        if self.group < 0:
            raise InputError(f"--group: {self.group} is out of range; give how many entries share a scale, or 0 for the whole matrix")

    @property
    def _allowed(self) -> tuple[int, ...]:
        return tuple(range(1, 9)) if self.scheme == MIXED else BITS[cast(Kind, self.scheme)]

    @property
    def width(self) -> int:
        """Bits of a weight."""
        return self.bits if self.bits is not None else 4 if 4 in self._allowed else self._allowed[0]


def matrices(model: PenjingPreTrainedModel) -> list[str]:
    """Names of the parameters that are stored in few bits: every one that is a matrix and not empty."""
    return [name for name, p in model.named_parameters() if p.ndim == 2 and p.numel()]


def scheme_of(name: str, width: int, scheme: Scheme) -> Scheme:
    """How the matrix `name`, `width` entries a row, is stored where the others are as `scheme` says."""
    return Scheme("linear", 8, width) if name.endswith(SMALL) else scheme


def uniform(model: PenjingPreTrainedModel, settings: StoreSettings) -> dict[str, Scheme]:
    """One scheme for every matrix, but for the small ones."""
    scheme = Scheme(cast(Kind, settings.scheme), settings.width, settings.group, settings.clip)
    return {name: scheme_of(name, model.get_parameter(name).shape[1], scheme) for name in matrices(model)}
