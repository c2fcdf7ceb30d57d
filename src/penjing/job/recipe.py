"""The settings of every step, from Python or from a YAML file, and the names that they go by."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import yaml

from penjing.engines.clock.machine import safe_weight_bits
from penjing.errors import InputError, reason_of, shown
from penjing.maths.stored import Clip, Kind, Scheme
from penjing.steps.bits.lowbit import LowBit
from penjing.steps.bits.qat import QuantizationAware
from penjing.steps.bits.quantize import QuantizeSettings
from penjing.steps.bits.store import MIXED, StoreSettings
from penjing.steps.cut.gates import GradualPrune, GradualSettings
from penjing.steps.cut.prune import PruneSettings
from penjing.steps.cut.sparsify import UNTRAINED, Sparsify, SparsifySettings
from penjing.steps.teach.distill import Distill, DistillSettings
from penjing.tasks.task import Examples
from penjing.training.texts import TextSettings

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")

STUDENTS = ("bilstm", "logistic", "trees", "static")
"""Students that are no BERT."""
LARGEST = 1e300
"""What no setting goes beyond."""


@dataclass(frozen=True)
class Recipe:
    """The steps of a compression; one that is None is left out.

    texts: which texts distillation learns from; None: all training texts as they are. gradual: cut heads and neurons while distilling, in place of prune. sparsify: single weights, while distilling or at once.
    store: weights in few bits on disk. quantize: integers in the engine. student: what it is where it is no BERT: bilstm, logistic,
    trees or static; then distillation is all that is done.
    """

    prune: PruneSettings | None = field(default_factory=PruneSettings)
    gradual: GradualSettings | None = None
    sparsify: SparsifySettings | None = None
    texts: TextSettings | None = None
    distill: DistillSettings | None = field(default_factory=DistillSettings)
    store: StoreSettings | None = None
    quantize: QuantizeSettings | None = field(default_factory=QuantizeSettings)
    student: str = ""

    def __post_init__(self) -> None:
        if self.student not in ("", *STUDENTS):
            raise InputError(f"--recipe: the student {self.student!r} is none; allowed are {', '.join(STUDENTS)}")
        if self.student and not self.distill:
            raise InputError(f"--no-training: a {self.student} is nothing before it is taught; leave the option out")
        beside = [name for name in ("prune", "gradual", "sparsify", "store", "quantize") if getattr(self, name)]
        if self.student and beside:
            raise InputError(
                f"--recipe: a {self.student} has nothing that {beside[0]} could change; set {', '.join(beside)} to false, or leave student out"
            )
        if self.gradual and not self.distill:
            raise InputError("--schedule: gradual structured pruning trains; leave --no-training out, or prune in one shot")
        if self.sparsify and not self.distill and (self.sparsify.schedule != "one-shot" or self.sparsify.importance not in UNTRAINED):
            raise InputError(
                f"--no-training: single weights then go with --schedule one-shot and --importance {' or '.join(UNTRAINED)}; got"
                f" {self.sparsify.schedule} and {self.sparsify.importance}"
            )
        trained = [name for name, step in self._trained.items() if step]
        if trained and not self.distill:
            raise InputError(f"--no-training: {trained[0]} is learned while distilling; leave the option out")
        if len(trained) > 1:
            raise InputError(f"--recipe: {' and '.join(trained)} do not go in one run; do the second on the result of the first")
        if self.store and self.sparsify:
            raise InputError("--recipe: store would fill the zeros of sparsify again; leave one of them out")
        if self.quantize and self.quantize.training and self.store:
            raise InputError("--recipe: store would undo quantization-aware training; store with training in place of it")
        if self.quantize and self.quantize.smooth and (self.store or self.quantize.training):
            raise InputError("--smooth: what is stored or trained rounded is fixed by then; leave it out, or do it in a run before")

    @property
    def _trained(self) -> dict[str, bool]:
        """What each of the steps that take distillation over says."""
        return {
            "gradual pruning": bool(self.gradual),
            "sparsity": bool(self.sparsify and self.distill),
            "quantization-aware training": bool(self.quantize and self.quantize.training),
            "training in few bits": bool(self.store and self.store.training),
        }

    @property
    def teaching(self) -> str:
        """The name of the step that trains."""
        if self.gradual:
            return "gradual"
        if self.sparsify:
            return "sparsify"
        if self.quantize and self.quantize.training:
            return "qat"
        return "low-bit" if self.store and self.store.training else "distill"

    @property
    def by_hand(self) -> bool:
        """Whether the recipe, rather than a budget, says what is cut."""
        return bool(self.gradual or self.sparsify or (self.prune and (self.prune.cuts or self.prune.vocabulary is not None)))

    @property
    def macs(self) -> float | None:
        """The part of the multiply-accumulates that is kept, where it is said."""
        return self.gradual.part if self.gradual else self.prune.macs if self.prune else None

    def to_dict(self) -> dict[str, Any]:
        """A JSON object."""
        return asdict(self)


def pruning(
    kept: dict[str, Any], sparsity: float | None, importance: str | None, schedule: str | None, scope: str,
    distill: DistillSettings | None, *, repair: str, texts: int, head_weights: bool, embeddings: bool,
) -> Recipe:  # fmt: skip
    """The recipe of one `penjing prune`, in float32: `kept` are the parts and counts of `PruneSettings` that are asked."""
    if not kept and sparsity is None:
        raise InputError(
            "prune: nothing is asked; give --macs, --latency, --heads, --neurons, --blocks, --layers, --hidden, --vocab, --sparsity"
        )
    structure, sparse = set(kept) - {"vocabulary"}, sparsity is not None
    if scope not in ("global", "layer", *(["row"] if sparse else [])):
        raise InputError(f"--scope: {scope!r} is not allowed; give global or layer, or row with --sparsity")
    if schedule not in (None, "one-shot", "gradual", *(["iterative"] if sparse else [])):
        raise InputError(f"--schedule: {schedule!r} is not allowed; give one-shot, gradual with --macs, or iterative with --sparsity")
    if structure and sparse and importance not in (None, *UNTRAINED):
        raise InputError(f"--importance: {importance!r} does not rank both structure and single weights; prune in two runs")
    gradual = schedule == "gradual" and not sparse
    if gradual and (set(kept) != {"macs"} or importance):
        raise InputError("--schedule: gradual structured pruning learns what goes, and takes --macs alone; give it, or prune in one shot")
    prune, sparsify = None, None
    if kept and not gradual:
        prune = PruneSettings(texts, importance or "fisher", repair, per_layer=scope == "layer", head_weights=head_weights, **kept)
    if sparsity is not None:
        when = schedule or ("gradual" if distill else "one-shot")
        sparsify = SparsifySettings(sparsity, importance or "magnitude", scope, when, embeddings=embeddings)
    return Recipe(
        prune=prune,
        gradual=GradualSettings(part=kept["macs"]) if gradual else None,
        sparsify=sparsify,
        distill=distill if structure or sparse else None,  # a model that lost tokens alone would be taught by itself
        quantize=None,
    )


SCHEMES = {
    "dynamic-int8": QuantizeSettings(scheme="dynamic"),
    "static-int8": QuantizeSettings(scheme="static"),
    "qat-int8": QuantizeSettings(scheme="static", training=True),
    "qat-dynamic-int8": QuantizeSettings(scheme="dynamic", training=True),
}
"""Real quantization, as `penjing quantize` calls it; every other scheme is stored."""
QAT_RATE = 2e-5
"""The learning rate of quantization-aware training: the student is the teacher, and has little to learn."""
TRAINED = ("qat-int8", "qat-dynamic-int8", "ternary", "binary")
"""Schemes that lose too much where nothing is trained."""


def quantizing(
    scheme: str, bits: int | None, distill: DistillSettings | None, *, group: int, clip: Clip, activation_bits: int,
    calibration: Any, texts: int, divergence: float, smooth: float,
) -> Recipe:  # fmt: skip
    """The recipe of one `penjing quantize`; `distill` None: nothing is trained."""
    if scheme in SCHEMES:
        if bits not in (None, 8) or activation_bits:
            raise InputError(f"--bits: engines compute in 8 bits, so {scheme} has no other; a stored scheme does, such as linear")
        if SCHEMES[scheme].training and distill is None:
            raise InputError(f"--no-training: {scheme} is trained; give {scheme.removeprefix('qat-')}, or leave the option out")
        quantize = replace(SCHEMES[scheme], calibration=calibration, texts=texts, divergence=divergence, smooth=smooth)
        if distill and quantize.training:
            return Recipe(
                prune=None, distill=replace(distill, schedule=replace(distill.schedule, learning_rate=QAT_RATE)), quantize=quantize
            )
        return Recipe(prune=None, distill=None, quantize=quantize)
    if scheme not in (*get_args(Kind), MIXED):
        raise InputError(f"--scheme: {scheme!r} is none; allowed are {', '.join((*SCHEMES, *get_args(Kind), MIXED))}")
    if activation_bits and distill is None:
        raise InputError("--activation-bits: activations are rounded while training; give --epochs")
    store = StoreSettings(scheme, bits, group, clip, distill is not None, activation_bits)
    return Recipe(prune=None, distill=distill, store=store, quantize=None)


def teaching_step(
    recipe: Recipe, distill: Distill, calibration: Callable[[int], Examples], length: int, schemes: Mapping[str, Scheme]
) -> Distill | GradualPrune | Sparsify | QuantizationAware | LowBit:  # fmt: skip
    """Distillation, by itself or with what the recipe does meanwhile.

    Args:
        calibration: so many training texts.
        length: tokens of the text whose multiply-accumulates are counted.
        schemes: how each matrix is stored.
    """
    store, quantize = recipe.store, recipe.quantize
    if recipe.gradual:
        return GradualPrune(distill, recipe.gradual, length)
    if recipe.sparsify:
        return Sparsify(distill, recipe.sparsify)
    if quantize and quantize.training:
        return QuantizationAware(
            distill, calibration(quantize.texts), safe_weight_bits(), calibration=quantize.calibration, dynamic=quantize.scheme == "dynamic"
        )  # fmt: skip
    if store and store.training:
        return LowBit(distill, schemes, store.activation_bits or None, squash=store.squash, halves=store.halves)
    return distill


OPTIONAL = {"texts": TextSettings(), "gradual": GradualSettings(), "sparsify": SparsifySettings(), "store": StoreSettings()}
"""Where the settings of a step that a recipe leaves out begin from."""


def read_recipe(path: Path) -> Recipe:
    """A recipe from YAML: the steps by name, each `false` or a mapping of settings that differ."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, ValueError, OverflowError, RecursionError, yaml.YAMLError) as error:  # a ValueError: 2026-02-30 is no date
        raise InputError(f"--recipe: {path} cannot be read as YAML ({reason_of(error)})") from error
    if isinstance(content, dict) and content.get("student"):  # nothing is cut or rounded by default then
        content = {"prune": False, "quantize": False} | content
    return _merge(Recipe(), content, str(path))


def _merge(settings: T, changes: Any, where: str) -> T:
    """`settings` with `changes`, strictly: an unknown name or a value of another type is an error."""
    if not isinstance(changes, dict):
        raise InputError(f"--recipe: {where} is {shown(changes)}; give a mapping of settings")
    known = {f.name: getattr(settings, f.name) for f in fields(settings)}
    result: dict[str, Any] = {}
    for name, value in changes.items():
        if name not in known:
            raise InputError(f"--recipe: {where} has {shown(name)}; allowed are {', '.join(known)}")
        old: Any = known[name] if known[name] is not None else OPTIONAL.get(name)
        if isinstance(value, str) and (old is None or isinstance(old, float)):
            with suppress(ValueError):  # YAML takes 1e-4 for a text, and 1.0e-4 for a number
                value = float(value)
        if is_dataclass(old) and not isinstance(old, type):
            result[name] = None if value is False else _merge(old, {} if value in (None, True) else value, f"{where}: {name}")
        elif isinstance(old, Mapping):
            if not isinstance(value, dict) or not all(
                isinstance(v, int | float) and not isinstance(v, bool) and not abs(v) > LARGEST for v in value.values()
            ):
                raise InputError(f"--recipe: {where}: {name} is {shown(value)}; give a mapping of names to weights, like {dict(old)}")
            result[name] = value
        elif isinstance(old, str | bool):
            if type(value) is not type(old):
                raise InputError(f"--recipe: {where}: {name} is {shown(value)}; give a value like {old!r}")
            result[name] = value
        elif not _fits(value, old, name):
            raise InputError(
                f"--recipe: {where}: {name} is {shown(value)}; give a number like {3 if old is None else old!r}, not below {_least(old, name)}"
            )
        else:
            result[name] = value
    return replace(settings, **result)


def _least(old: Any, name: str) -> int:
    return (
        1
        if isinstance(old, int) and name not in ("seed", "least_steps", "group", "activation_bits", "copies", "levels", "relation_heads")
        else 0
    )


def _fits(value: Any, old: Any, name: str) -> bool:
    """Whether a setting may be `value`, where its default is `old`."""
    if old is None and value is None:
        return True
    kind: Any = int if isinstance(old, int) else int | float
    return isinstance(value, kind) and not isinstance(value, bool) and _least(old, name) <= value <= LARGEST
