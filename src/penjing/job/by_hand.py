"""Options of the single steps `prune`, `quantize`, `exits`, `distill` and `replace`, and the recipes that they make."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

from penjing.blueprint import Blueprint
from penjing.errors import InputError
from penjing.files.options import changed, like, option, refuse_idle
from penjing.job.presets import PRESETS, Preset, weights_of
from penjing.job.recipe import Recipe
from penjing.maths.stored import Clip
from penjing.steps.bits.quantize import QuantizeSettings
from penjing.steps.bits.store import STORED, XNOR, StoreSettings
from penjing.steps.cut.gradual import GradualSettings
from penjing.steps.cut.prune import PruneSettings
from penjing.steps.cut.sparsify import IMPORTANCES, SCHEDULES, UNTRAINED, SparsifySettings, sparsity_for
from penjing.steps.cut.vocabulary import VocabularySettings
from penjing.steps.settings import Settings
from penjing.steps.teach.distill import DistillSettings
from penjing.steps.teach.distillation import Distillation, Rider
from penjing.steps.teach.exits import ExitsSettings
from penjing.steps.teach.mutual import MutualSettings
from penjing.steps.teach.replace import ReplaceSettings
from penjing.steps.teach.self_distill import SelfDistillSettings
from penjing.students.names import STUDENTS
from penjing.students.student import Student
from penjing.training.objective import HARD
from penjing.training.state_losses import STATE_LOSSES
from penjing.training.texts import TextSettings


def schedule_of(settings: DistillSettings, epochs: int | None, minutes: float | None = None) -> DistillSettings:
    """Settings of distillation with another schedule: so many epochs, and at most so many minutes."""
    schedule = settings.schedule
    if epochs:
        schedule = replace(schedule, epochs=epochs, least_steps=0)
    return replace(settings, schedule=replace(schedule, minutes=minutes or schedule.minutes))


# -- prune -------------------------------------------------------------------------------------------------------

STRUCTURE = ("macs", "latency", "heads", "neurons", "blocks", "layers", "hidden")


@dataclass(frozen=True)
class Pruning:
    """Options of `prune`: parts and counts that are kept, or the part of single weights that becomes zero."""

    macs: float | None = like(PruneSettings, "macs")
    latency: float | None = like(PruneSettings, "latency")
    heads: float | None = like(PruneSettings, "heads")
    neurons: float | None = like(PruneSettings, "neurons")
    blocks: float | None = like(PruneSettings, "blocks")
    layers: int | None = like(PruneSettings, "layers")
    hidden: float | None = like(PruneSettings, "hidden")
    vocab: float | None = option(None, "Part of the tokens that is kept; 0: all that the training texts produce.")
    corpus: Path | None = like(VocabularySettings, "corpus")
    sparsity: float | None = option(None, "Part of the single weights that becomes zero.")
    stored_mb: float | None = option(None, "In place of `sparsity`: megabytes of the stored weights.", least=None)
    embeddings: bool = like(SparsifySettings, "embeddings")
    importance: str | None = option(
        None, "Of structure, or with `sparsity` of single weights.", allowed=(*PruneSettings.importances(), *IMPORTANCES)
    )
    schedule: str | None = option(None, "With `sparsity`; gradual with `macs` learns gates while it distils.", allowed=SCHEDULES)
    scope: str = option("global", "What is ranked together; row with `sparsity`.", allowed=("global", "layer", "row"))
    repair: str = like(PruneSettings, "repair")
    head_weights: bool = like(PruneSettings, "head_weights")
    texts: int = like(PruneSettings, "texts")
    epochs: int | None = option(None, "Epochs of distillation.", least=1, most=10_000, panel="training")
    no_training: bool = option(False, "Leave distillation out.", panel="training")

    def recipe(self, blueprint: Blueprint | None = None) -> Recipe:
        """The pruning recipe, for a teacher of this blueprint."""
        kept = {name: value for name in STRUCTURE if (value := getattr(self, name)) is not None}
        sparsity = self._sparsity(blueprint, kept)
        sparse = sparsity is not None
        self._check(kept, sparse)
        distill = None if self.no_training else schedule_of(DistillSettings(), self.epochs)
        steps: list[Settings] = []
        if self.vocab is not None:
            steps.append(VocabularySettings(self.vocab, self.corpus))
        if kept and self._gradual(sparse):
            steps.append(GradualSettings(part=kept["macs"]))
        elif kept:
            steps.append(
                PruneSettings(
                    self.texts,
                    self.importance or "fisher",
                    self.repair,
                    per_layer=self.scope == "layer",
                    head_weights=self.head_weights,
                    **kept,
                )
            )
        if distill and (kept or sparse):  # with fewer tokens alone, a model would be its own teacher
            steps.append(Distillation(distill))
        if sparsity is not None:
            when = self.schedule or ("gradual" if distill else "one-shot")
            steps.append(SparsifySettings(sparsity, self.importance or "magnitude", self.scope, when, embeddings=self.embeddings))
        return Recipe(tuple(steps))

    def _gradual(self, sparse: bool) -> bool:
        return self.schedule == "gradual" and not sparse

    def _sparsity(self, blueprint: Blueprint | None, kept: Mapping[str, Any]) -> float | None:
        if self.stored_mb is None:
            return self.sparsity
        if self.sparsity is not None or kept or self.vocab is not None:
            raise InputError("stored_mb: it says how many single weights go, and nothing else; leave out the other cuts")
        assert blueprint is not None, "a size of the stored weights is of a blueprint"
        return sparsity_for(blueprint, 1e6 * self.stored_mb, self.embeddings)

    def _check(self, kept: Mapping[str, Any], sparse: bool) -> None:
        if not kept and not sparse and self.vocab is None:
            asked = ", ".join(f"`{name}`" for name in (*STRUCTURE, "vocab", "sparsity"))
            raise InputError(f"prune: nothing is asked; give {asked}")
        self._check_idle(scored=bool(kept) and not self._gradual(sparse), cut=bool(kept) or sparse, sparse=sparse)
        if self.scope not in ("global", "layer", *(["row"] if sparse else [])):
            raise InputError(f"scope: {self.scope!r} is not allowed; give global or layer, or row with `sparsity`")
        if self.schedule not in (None, "one-shot", "gradual", *(["iterative"] if sparse else [])):
            raise InputError(
                f"schedule: {self.schedule!r} is not allowed; give one-shot, gradual with `macs`, or iterative with `sparsity`"
            )
        if kept and sparse and self.importance not in (None, *UNTRAINED):
            raise InputError(f"importance: {self.importance!r} does not rank both structure and single weights; prune in two runs")
        if self._gradual(sparse) and (set(kept) != {"macs"} or self.vocab is not None or self.importance):
            raise InputError("schedule: gradual structured pruning learns what goes, and takes `macs` alone; give it, or prune in one shot")
        if self.no_training:
            self._check_untrained(sparse)

    def _check_idle(self, *, scored: bool, cut: bool, sparse: bool) -> None:
        """Refuse what goes nowhere. scored: structure goes by its importance; cut: structure or single weights go; sparse: the latter."""
        structure = "give " + ", ".join(f"`{name}`" for name in STRUCTURE)
        anything = f"{structure}, `sparsity`"
        refuse_idle(
            ("corpus", self.corpus and self.vocab is None, "give `vocab` too"),
            ("embeddings", self.embeddings and not sparse, "give `sparsity`"),
            *((name, changed(self, name) and not scored, f"{structure}, in one shot") for name in ("repair", "head_weights")),
            *((name, changed(self, name) and not cut, anything) for name in ("importance", "schedule", "scope", "epochs")),
            ("epochs", self.epochs and self.no_training, "leave out `no_training`"),
        )

    def _check_untrained(self, sparse: bool) -> None:
        """Refuse what is learned in training only."""
        if self._gradual(sparse):
            raise InputError("schedule: gradual structured pruning trains; leave `no_training` out, or prune in one shot")
        schedule = self.schedule or "one-shot"
        importance = self.importance or "magnitude"
        if sparse and (schedule != "one-shot" or importance not in UNTRAINED):
            raise InputError(
                f"no_training: single weights then go with `schedule` one-shot and `importance` {' or '.join(UNTRAINED)}; got {schedule} and"
                f" {importance}"
            )


# -- quantize ----------------------------------------------------------------------------------------------------

SCHEMES = {
    "dynamic-int8": QuantizeSettings(scheme="dynamic"),
    "static-int8": QuantizeSettings(scheme="static"),
    "qat-int8": QuantizeSettings(scheme="static", training=True),
    "qat-dynamic-int8": QuantizeSettings(scheme="dynamic", training=True),
}
"""Schemes of int8 that engines compute in, as `penjing quantize` names them; every other scheme is stored."""
EXITS_RATE, FROZEN_RATE = 2e-5, 1e-3
"""Learning rates of exits on a whole model, low since it is its own teacher, and of exits alone."""
QAT_RATE = 2e-5
"""The learning rate of quantization-aware training, low since the student starts as the teacher."""
TRAINED = ("qat-int8", "qat-dynamic-int8", "ternary", "binary", "dorefa", XNOR)
"""Schemes that lose too much without training."""


@dataclass(frozen=True)
class Quantizing:
    """Options of `quantize`: one scheme, int8 or stored."""

    scheme: str = option(
        "dynamic-int8", "Real, faster: the int8 ones. Stored, smaller: the others; mixed: by the Hessian.", allowed=(*SCHEMES, *STORED),
        required=True,
    )  # fmt: skip
    bits: int | None = option(None, "Of a stored weight (4); with mixed, of the average one.", least=1, most=8)
    group: int = like(StoreSettings, "group")
    clip: str = like(StoreSettings, "clip")
    activation_bits: int = like(StoreSettings, "activation_bits")
    gradient_bits: int = like(StoreSettings, "gradient_bits")
    calibration: str = like(QuantizeSettings, "calibration")
    texts: int = like(QuantizeSettings, "texts")
    divergence: float = like(QuantizeSettings, "divergence")
    smooth: float = like(QuantizeSettings, "smooth")
    ranges: str = like(QuantizeSettings, "ranges")
    epochs: int | None = option(
        None,
        "Epochs of distillation with rounded weights; without it, qat, ternary, binary, dorefa and xnor are trained, the others are not.",
        least=1,
        most=10_000,
        panel="training",
    )
    no_training: bool = option(False, "Leave distillation out.", panel="training")

    @property
    def real(self) -> bool:
        """Whether engines compute in the scheme."""
        return self.scheme in SCHEMES

    def recipe(self) -> Recipe:
        """The quantization recipe of the scheme."""
        stored = self.scheme in STORED
        refuse_idle(
            ("epochs", self.epochs and self.no_training, "leave out `no_training`"),
            ("epochs", self.epochs and self.real and not SCHEMES[self.scheme].training, "give `scheme` qat-int8 or qat-dynamic-int8"),
            *(
                (name, changed(self, name) and stored, "give `scheme` static-int8")
                for name in ("calibration", "texts", "divergence", "smooth")
            ),
            *((name, changed(self, name) and self.real, "give `scheme` linear") for name in ("group", "clip")),
        )
        taught = not self.no_training and (self.scheme in TRAINED or self.epochs is not None)
        distill = schedule_of(DistillSettings(), self.epochs) if taught else None
        if self.real:
            return self._real(distill)
        if not stored:
            raise InputError(f"scheme: {self.scheme!r} is none; allowed are {', '.join((*SCHEMES, *STORED))}")
        if (self.activation_bits or self.gradient_bits) and distill is None:
            raise InputError("activation_bits, gradient_bits: they are rounded while training; give `epochs`")
        store = StoreSettings(
            self.scheme, self.bits, self.group, cast(Clip, self.clip), distill is not None, self.activation_bits,
            gradient_bits=self.gradient_bits,
        )  # fmt: skip
        return Recipe.of(*([distill] if distill else []), store)

    def _real(self, distill: DistillSettings | None) -> Recipe:
        named = SCHEMES[self.scheme]
        if self.bits not in (None, 8) or self.activation_bits or self.gradient_bits:
            raise InputError(f"bits: engines compute in 8 bits, so {self.scheme} has no other; a stored scheme does, such as linear")
        if named.training and distill is None:
            raise InputError(f"no_training: {self.scheme} is trained; give {self.scheme.removeprefix('qat-')}, or leave the option out")
        quantize = replace(
            named, calibration=cast(Any, self.calibration), texts=self.texts, divergence=self.divergence, smooth=self.smooth,
            ranges=self.ranges,
        )  # fmt: skip
        if distill is None:
            return Recipe.of(quantize)
        return Recipe.of(replace(distill, schedule=replace(distill.schedule, learning_rate=QAT_RATE)), quantize)


# -- exits -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Leaving:
    """Options of `exits`: after which layers a text may leave, and when."""

    layers: str = like(ExitsSettings, "layers")
    rule: str = like(ExitsSettings, "rule")
    consistency: float = like(ExitsSettings, "consistency")
    frozen: bool = like(ExitsSettings, "frozen")
    float32: bool = option(False, "Export float32 alone, without int8.")
    epochs: int | None = option(None, "Epochs of distillation by the model itself; 3.", least=1, most=10_000, panel="training")

    def recipe(self, max_drop: float | None = None) -> Recipe:
        """The recipe: the whole model, taught its own answers, and exits. max_drop: points that leaving may lose on texts held out."""
        drop = ExitsSettings.drop if max_drop is None else max_drop
        exits = ExitsSettings(self.layers, self.rule, drop, self.consistency, self.frozen)
        how = schedule_of(DistillSettings(losses={"kl": 1.0}), self.epochs)
        how = replace(how, schedule=replace(how.schedule, learning_rate=FROZEN_RATE if self.frozen else EXITS_RATE))
        return Recipe.of(Distillation(how), exits, *([] if self.float32 else [QuantizeSettings()]))


# -- distill -----------------------------------------------------------------------------------------------------

SHAPE = ("layers", "heads", "neurons", "hidden")
LOSSES_OF: Mapping[str, Sequence[str]] = {
    "relation_heads": ["relations"],
    "levels": ["levels"],
    "alpha": ["kl-entropy"],
    "layer_map": list(STATE_LOSSES),
    "temperature": ["kl", "cross-entropy", "kl-entropy"],
}
"""The losses that need an option."""


@dataclass(frozen=True)
class Distilling:
    """Options of `distill`: a preset, the student's shape, and changes to the preset."""

    preset: str = option(
        "states", "The losses by their paper's name (states is ours), or a student that is no BERT.", allowed=tuple(PRESETS)
    )
    layers: int | None = option(None, "Layers of the student, taken from the teacher.", least=1)
    keep: str | None = option(None, "Which layers it starts from.", allowed=("measured", "uniform", "first", "last"))
    heads: float | None = option(None, "Part of the attention heads that it has.")
    neurons: float | None = option(None, "Part of the feed-forward neurons that it has.")
    hidden: float | None = option(None, "Part of the hidden units that it has.")
    losses: str | None = option(None, "In place of the preset's, names and weights as kl=1,hidden=0.5.")
    alpha: float | None = like(DistillSettings, "alpha", None)
    temperature: float | None = like(DistillSettings, "temperature", None)
    layer_map: str | None = like(DistillSettings, "layer_map", None)
    relation_heads: int | None = like(DistillSettings, "relation_heads", None, least=1)
    levels: int | None = like(DistillSettings, "levels", None, least=1)
    states_first: float | None = like(DistillSettings, "states_first", None)
    anneal: bool = like(DistillSettings, "anneal")
    noise: float | None = like(DistillSettings, "noise", None)
    draws: int | None = like(DistillSettings, "draws", None)
    adversarial: float | None = like(DistillSettings, "adversarial", None)
    peers: int | None = like(MutualSettings, "peers", None)
    self_distill: str | None = like(SelfDistillSettings, "self_distill", None)
    augment: str | None = like(TextSettings, "how", None, name="augment")
    copies: int | None = like(TextSettings, "copies", None)
    part: float = like(TextSettings, "part")
    sample: str | None = like(TextSettings, "by", None, name="sample")
    epochs: int | None = option(None, "3; of a BiLSTM 10.", least=1, most=10_000, panel="training")
    learning_rate: float | None = option(None, "Of the weights, as 1e-4.", least=None, most=1, panel="training")

    def recipe(self, given_student: bool = False) -> Recipe:
        """The distillation recipe, in float32. given_student: whether the student starts from a model of its own."""
        preset = PRESETS.get(self.preset)
        if preset is None:
            raise InputError(f"preset: {self.preset!r} is none; allowed are {', '.join(PRESETS)}")
        kept = {name: value for name in SHAPE if (value := getattr(self, name)) is not None}
        self._check(preset, kept, given_student)
        settings = self._settings(preset)
        texts = self._texts(preset, settings)
        student: list[Student] = [STUDENTS[preset.student]] if preset.student else []
        return Recipe.of(*([self._shape(preset, kept)] if kept else []), Distillation(settings, texts), *self._riders(), *student)

    def _riders(self) -> list[Rider]:
        """The steps that go on during the training."""
        mutual = [] if self.peers is None else [MutualSettings(self.peers)]
        return [*mutual, *([] if self.self_distill is None else [SelfDistillSettings(self.self_distill)])]

    def _check(self, preset: Preset, kept: Mapping[str, Any], given_student: bool) -> None:
        refuse_idle(
            ("sample", self.sample and self.part == 1, "give `part`"),
            ("draws", self.draws and not self.noise, "give `noise`"),
            ("keep", self.keep and self.layers is None, "give `layers`"),
            ("augment", self.augment and self.copies == 0, "give at least one with `copies`"),
        )
        riding = [name for name in ("peers", "self_distill") if getattr(self, name) is not None]
        if len(riding) > 1:
            raise InputError("peers: students beside it and heads on its layers each take the training over; leave `self_distill` out")
        if riding and preset.student:
            raise InputError(f"{riding[0]}: a {self.preset} student has nothing to do with it; leave it out")
        shape = ", ".join(f"`{name}`" for name in (*SHAPE, "keep"))
        if preset.student and (kept or self.keep or given_student):
            raise InputError(f"preset: {self.preset} is no BERT; leave out {shape} and `student`")
        if preset.student and not STUDENTS[preset.student].trained and (self.epochs or self.learning_rate is not None):
            raise InputError(f"preset: {self.preset} is fitted, not trained by epochs; leave out `epochs` and `learning_rate`")
        if not (preset.student or kept or given_student):
            raise InputError("distill: the student would be the teacher itself; give `layers`, or `student` for one to start from")
        if given_student and (kept or self.keep):
            raise InputError(f"student: it is taken as it is; leave out {shape}")

    def _settings(self, preset: Preset) -> DistillSettings:
        """The preset's settings of distillation, with the changes."""
        names = {field.name for field in fields(DistillSettings)} - {"losses", "schedule"}
        changes = {field.name: getattr(self, field.name) for field in fields(self) if field.name in names}
        changes = {name: value for name, value in changes.items() if value is not None and value is not False}
        taught = preset.losses if self.losses is None else weights_of(self.losses)
        unchanged = dict(preset.changes)
        if self.losses is not None and not (set(taught) & set(STATE_LOSSES) and set(taught) - set(STATE_LOSSES)):
            unchanged.pop("states_first", None)  # the preset's part is for states and answers, and only one is taught
        for name, losses in LOSSES_OF.items():
            if name in changes and not set(losses) & set(taught):
                raise InputError(f"{name}: it goes with {', '.join(losses)}, which is not taught; give that with `losses` too")
        return preset.settings(self.epochs, self.learning_rate, unchanged | {"losses": taught} | changes)

    def _texts(self, preset: Preset, settings: DistillSettings) -> TextSettings:
        copies = 1 if self.augment and self.copies is None else self.copies
        if copies is None:
            copies = preset.copies if set(settings.answers) != {HARD} else 0
        return TextSettings(self.part, self.sample or "random", copies, self.augment or "neighbours")

    def _shape(self, preset: Preset, kept: Mapping[str, Any]) -> PruneSettings:
        """The settings that cut the student from its teacher; whole layers need neither costly scores nor repair."""
        fine = {"heads", "neurons", "hidden"} & set(kept)
        importance, repair = ("fisher", "weights") if fine else ("magnitude", "none")
        return PruneSettings(keep=self.keep or preset.keep, importance=importance, repair=repair, **kept)


# -- replace -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Replacing:
    """Options of `replace`: the successor's layers, the replacement rate, and the losses."""

    layers: int | None = option(None, "Layers of the successor, evenly spread over the model's.", least=1)
    schedule: str = like(ReplaceSettings, "schedule")
    rate: float | None = like(ReplaceSettings, "rate")
    until: float = like(ReplaceSettings, "until")
    losses: str = option("hard=1", "Names and weights: hard of the labels; others beside it, as hard=1,states=1.")
    epochs: int | None = option(None, "3.", least=1, most=10_000, panel="training")
    learning_rate: float | None = like(Distilling, "learning_rate")

    def recipe(self) -> Recipe:
        """The recipe of module replacing, in float32; losses on states and answers are taught side by side."""
        if self.layers is None:
            raise InputError("replace: the successor would be the model itself; give `layers`")
        taught = PRESETS["labels"].settings(self.epochs, self.learning_rate, {"losses": weights_of(self.losses), "states_first": 0.0})
        cut = PruneSettings(layers=self.layers, keep="uniform", importance="magnitude", repair="none")
        return Recipe.of(cut, taught, ReplaceSettings(self.schedule, self.rate, self.until))
