"""Stored quantization: weights in few bits on disk, decoded to floats when they are loaded."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast, final, get_args

from penjing.errors import InputError
from penjing.files.options import option
from penjing.maths.stored import BITS, Clip, Kind, Scheme
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.model.watch import matrices_of, of_exit
from penjing.steps.bits.gptq import round_model
from penjing.steps.bits.lowbit import InputLevels, LowBit
from penjing.steps.settings import Effects, Settings, Trait, check_name, effects
from penjing.steps.stage import Context, Note, Stage, Work, loaded
from penjing.steps.teach.distill import Distill
from penjing.steps.teach.distillation import Rider
from penjing.training.taught import Taught

SMALL = ("embeddings.position.weight", "embeddings.token_type.weight", "embeddings.word_map.weight", "head.out.weight")
"""Matrices that are about 1 % of the bytes and matter much to the quality: always 8 bits, a scale per row."""
MIXED = "mixed"
XNOR = "xnor"
ROUNDING_TEXTS = 256
"""Training texts that rounding is calibrated on."""
STORED = (*get_args(Kind), MIXED, XNOR)
"""Names of the schemes."""
CURVATURE = ("gauss-newton", "trace", "eigenvalue")


@dataclass(frozen=True)
class StoreSettings(Rider):
    """Settings of stored quantization: how weights are stored.

    scheme: linear, affine, log, kmeans, ternary, binary; mixed: linear, with more bits where the Hessian says that it matters; dorefa:
        the levels of DoReFa-Net, on the tanh of weights in training; xnor: XNOR-Net, binary weights with a scale per output (whatever
        the group) and in training the signs of the inputs with a scale per token.
    bits: bits of a weight, by default 4 or what the scheme has; with mixed, of the average weight.
    group: entries of a row that share a scale or codebook; 0: the whole matrix shares one.
    clip: the range of linear, affine and log.
    training: weights are rounded during distillation too.
    activation_bits: bits of the inputs of linear layers during distillation; 0: float; with xnor always 1.
    gradient_bits: bits of the gradients of linear layers' outputs during distillation; 0: float.
    curvature: how mixed weighs errors: gauss-newton, trace, eigenvalue (see `penjing.steps.bits.hessian`).
    squash, halves: see `LowBit`.
    """

    name = "store"
    paper = (
        "Han et al. 2016; Zhang et al. 2020 (TernaryBERT); Bai et al. 2021 (BinaryBERT); Dong et al. 2020 (HAWQ-V2, mixed);"
        " Rastegari et al. 2016 (XNOR-Net); Zhou et al. 2016 (DoReFa-Net)"
    )
    when = "Where the bytes on disk count: few bits a weight, floats again once loaded, so the speed stays."
    teaching = "low-bit"

    scheme: str = option("linear", "How a weight is stored.", allowed=STORED)
    bits: int | None = option(None, "Of a weight (4); with mixed, of the average one.", least=1, most=8)
    group: int = option(128, "Entries of a row that share a scale or codebook; 0: the whole matrix.")
    clip: Clip = option("mse", "The range of linear and affine.", allowed=get_args(Clip))
    training: bool = False
    activation_bits: int = option(0, "Of the inputs of linear layers, in training; 0: float.", most=8)
    curvature: str = option("gauss-newton", "What mixed weighs errors by.", allowed=CURVATURE)
    squash: bool = False
    halves: bool = False
    gradient_bits: int = option(0, "Of the gradients of linear layers' outputs, in training; 0: float.", most=8)

    def __post_init__(self) -> None:
        check_name("scheme", self.scheme, STORED)
        check_name("curvature", self.curvature, CURVATURE)
        check_name("clip", self.clip, get_args(Clip))
        allowed = self._allowed
        if type(self.width) is not int or self.width not in allowed:
            raise InputError(f"bits: {self.scheme} has no {self.bits}; allowed are {', '.join(map(str, allowed))}")
        if not 0 <= self.activation_bits <= 8:
            raise InputError(f"activation_bits: {self.activation_bits} is out of range; give 1 to 8, or 0 for float")
        if not 0 <= self.gradient_bits <= 8:
            raise InputError(f"gradient_bits: {self.gradient_bits} is out of range; give 1 to 8, or 0 for float")
        if (self.activation_bits or self.gradient_bits or self.squash or self.halves) and not self.training:
            raise InputError(
                "activation_bits, gradient_bits, squash, halves: they say how it is trained, and nothing is; give `epochs`, or"
                " training: true"
            )
        if self.scheme == XNOR:
            self._check_xnor()
        if self.halves and self.scheme != "ternary":
            raise InputError(f"recipe: halves splits ternary weights, and the scheme is {self.scheme}; give ternary")
        if self.group < 0:
            raise InputError(f"group: {self.group} is out of range; give how many entries share a scale, or 0 for the whole matrix")

    def _check_xnor(self) -> None:
        if not self.training:
            raise InputError("scheme: xnor rounds the inputs too, which is trained; give `epochs` or training: true, or the scheme binary")
        if self.activation_bits > 1:
            raise InputError(f"activation_bits: xnor reads the signs of its inputs, and {self.activation_bits} were given; leave it out")

    @property
    def kind(self) -> Kind:
        """The kind of the matrices' storage schemes, where all have one."""
        return "binary" if self.scheme == XNOR else cast(Kind, self.scheme)

    @property
    def _allowed(self) -> tuple[int, ...]:
        return tuple(range(1, 9)) if self.scheme == MIXED else BITS[self.kind]

    @property
    def width(self) -> int:
        """Bits of a weight: those given, else 4 or the fewest of the scheme."""
        return self.bits if self.bits is not None else 4 if 4 in self._allowed else self._allowed[0]

    def effects(self, taught: bool) -> Effects:
        """Effects: rounding undoes zeros; with `training` it takes the training over."""
        if self.training:
            return effects([Trait.ENCODER, Trait.TRAINING], takes=[Trait.TRAINING], makes=[Trait.CODES], undoes=[Trait.ZEROS, Trait.RANGES])
        return effects(makes=[Trait.CODES], undoes=[Trait.ZEROS, Trait.RANGES])

    def trains(self, taught: bool) -> bool:
        return self.training and taught

    def stages(self, recipe: Sequence[Settings]) -> Sequence[Stage[Any]]:
        return [] if self.training else [AllotBits(self), StoreWeights()]

    def before(self) -> Sequence[Stage[Any]]:
        return [AllotBits(self)]

    def around(self, distill: Distill, work: Work, context: Context) -> LowBit:
        """The step of low-bit training around `distill`."""
        levels: Mapping[str, InputLevels] = {XNOR: "rows", "dorefa": "even"}
        squash = self.squash or (self.scheme == "dorefa" and self.width > 1)
        return LowBit(
            distill, work.schemes, self.input_bits or None, levels=levels.get(self.scheme, "integers"), gradient_bits=self.gradient_bits,
            squash=[name for name in work.schemes if squash and not name.endswith(SMALL)], halves=self.halves,
        )  # fmt: skip

    @property
    def input_bits(self) -> int:
        """Bits of the inputs of linear layers in training; 0: float."""
        return 1 if self.scheme == XNOR else self.activation_bits

    def told(self, taught: Taught) -> str:
        steps = f"{taught.history.steps} steps"
        if not self.input_bits:
            return steps
        bits = f"{self.input_bits} bits" if self.input_bits > 1 else "1 bit"
        return f"inputs in float; {steps}, {taught.history.best:.2f} with inputs in {bits} on texts held out"


def scheme_of(name: str, width: int, scheme: Scheme) -> Scheme:
    """The storage scheme of the matrix `name`, of `width` entries a row: `scheme`, or 8 bits for the small matrices."""
    return Scheme("linear", 8, width) if name.endswith(SMALL) or of_exit(name) else scheme


def uniform(model: PenjingPreTrainedModel, settings: StoreSettings) -> dict[str, Scheme]:
    """Uniform storage: one scheme for every matrix but the small ones."""
    widths = {name: model.get_parameter(name).shape[1] for name in matrices_of(model)}
    groups = widths if settings.scheme == XNOR else dict.fromkeys(widths, settings.group)
    return {
        name: scheme_of(name, width, Scheme(settings.kind, settings.width, groups[name], settings.clip)) for name, width in widths.items()
    }


@dataclass(frozen=True)
class BitsNote(Note):
    """The record of allotted bits: the storage scheme of each matrix."""

    schemes: Mapping[str, Scheme] = field(default_factory=dict)


@final
class AllotBits(Stage[BitsNote]):
    """The stage that allots bits to matrices: one scheme for all, or mixed precision by the Hessian and the requested size."""

    name = "bits"
    record = BitsNote

    def __init__(self, settings: StoreSettings) -> None:
        self.settings = settings

    def make(self, work: Work, context: Context, folder: Path) -> BitsNote:
        settings = self.settings
        if settings.scheme != MIXED:
            groups = "a scale per row" if settings.scheme == XNOR else f"groups of {settings.group}"
            note = f"{settings.scheme}, {settings.width} bits, {groups}"
            return BitsNote(note, schemes=uniform(work.model, settings))
        schemes = context.planner.schemes(settings, work, context)
        counts = Counter(scheme.bits for scheme in schemes.values())
        return BitsNote(", ".join(f"{n} matrices in {bits} bits" for bits, n in sorted(counts.items())), schemes=schemes)

    def load(self, work: Work, context: Context, record: BitsNote, folder: Path) -> Work:
        return replace(work, schemes=dict(record.schemes))


@final
class StoreWeights(Stage[Note]):
    """The stage that rounds the weights at once, without a training."""

    name = "store"
    record = Note

    def make(self, work: Work, context: Context, folder: Path) -> Note:
        texts = context.calibration(work, ROUNDING_TEXTS).encoded
        model, coded = round_model(work.model, texts, work.schemes, context.seed)
        return context.keep(replace(work, model=model), folder, "rounded, not trained", coded)

    def load(self, work: Work, context: Context, record: Note, folder: Path) -> Work:
        return loaded(work, folder, codes=True)
