"""Structured pruning of heads, neurons, layers and hidden units: importance (observe), selection (plan), cut and repair (apply)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, cast, final, get_args

import numpy as np

from penjing.blueprint import Blueprint
from penjing.errors import InputError
from penjing.files.options import option
from penjing.model.building import blueprint_of
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.model.surgery import cut
from penjing.selection import Selection
from penjing.steps.cut import gates
from penjing.steps.cut.criteria import CRITERIA, Criterion, Score, criterion_of
from penjing.steps.cut.importance import Importance
from penjing.steps.cut.repair import Reconstruction, Repair, repair
from penjing.steps.settings import REWRITES, Effects, Settings, Trait, as_json, check_name, effects
from penjing.steps.stage import Context, Note, Stage, Work, loaded
from penjing.steps.step import Step
from penjing.tasks.task import Examples, Task
from penjing.text.encoded import Encoded
from penjing.training.predict import divergence_of, logits_of

ORDER_TEXTS = 256
"""The largest number of texts for the order of the layers: in every round each layer left is tried."""


KEEP = ("measured", "uniform", "first", "last")
"""Which layers a shallower model keeps."""


@dataclass(frozen=True)
class PruneSettings(Settings):
    """Settings of structured pruning: what is cut, by what importance; where nothing is given, the budget decides.

    macs, latency: the part of the encoder's multiply-accumulates, or of the measured latency, that is kept.
    heads, neurons, blocks (attention or feed-forward, whole), hidden: the part of them that is kept. layers: how many are kept.
    per_layer: so much of every layer, rather than of all layers together.
    repair: weights (least squares), scales (one factor per head and neuron), none.
    head_weights: afterwards, learn a weight per head and fold it in.
    """

    name = "prune"
    paper = "Kwon et al. 2022; Frantar & Alistarh 2022 (obs); Xia et al. 2022 (gates); Michel et al. 2019; Voita et al. 2019 (lrp)"
    when = "To be faster: whole heads, neurons and layers go. Distil afterwards; without training, repair does much."

    texts: int = option(1000, "Training texts that importance and repair look at.", least=1)
    importance: str | Criterion | Score = option("fisher", "What ranks the parts.", allowed=tuple(CRITERIA))
    repair: str = option(
        "weights", "Before any training: weights by least squares, or one factor per head and neuron.", allowed=get_args(Repair)
    )
    macs: float | None = option(None, "Part of the encoder's multiply-accumulates that is kept.")
    latency: float | None = option(None, "Part of the latency, measured here block by block, that is kept.")
    heads: float | None = option(None, "Part of the attention heads that is kept.")
    neurons: float | None = option(None, "Part of the feed-forward neurons that is kept.")
    blocks: float | None = option(None, "Part of the attention and feed-forward blocks that is kept, whole.")
    layers: int | None = option(None, "How many layers are kept.")
    hidden: float | None = option(None, "Part of the hidden units (the residual width) that is kept.")
    per_layer: bool = option(False, "So much of every layer, rather than of all layers together.")
    head_weights: bool = option(False, "Learn a weight per head afterwards, and fold it in.")
    keep: str = option("measured", "Which layers a shallower model keeps.", allowed=KEEP)

    def __post_init__(self) -> None:
        if isinstance(self.importance, str):
            check_name("importance", self.importance, tuple(CRITERIA))
        check_name("repair", self.repair, get_args(Repair))
        check_name("keep", self.keep, KEEP)
        for name in ("macs", "latency", "heads", "neurons", "blocks", "hidden"):
            value = getattr(self, name)
            if value is not None and not (0 < value <= 1 or (value == 0 and name in ("heads", "neurons"))):
                raise InputError(f"{name}: {value} is out of range; give the part that is kept, above 0 and at most 1")
        if self.layers is not None and (self.layers < 1 or type(self.layers) is not int):
            raise InputError(f"layers: {self.layers} is out of range; give how many layers are kept, at least 1")
        if self.limited and (self.heads is not None or self.neurons is not None):
            raise InputError("heads, neurons: `macs` or `latency` says how much is cut in all; give those, or these")
        if self.hidden is not None and self.importance == "gates":
            raise InputError("hidden: `importance` gates scores heads and neurons alone; give another, such as fisher")
        if self.macs is not None and self.latency is not None:
            raise InputError("macs, latency: two limits on the cost; give one")
        if self.latency is not None and self.hidden is not None:
            raise InputError("latency, hidden: blocks are timed at the width that the model has; cut the hidden units in a run before")

    @staticmethod
    def importances() -> tuple[str, ...]:
        """The names of the importance criteria."""
        return tuple(CRITERIA)

    @property
    def criterion(self) -> Criterion:
        """The importance criterion; gates are learned for the part of the MACs that is asked."""
        if self.importance == "gates" and self.macs:
            return replace(CRITERIA["gates"], score=partial(gates.learned_gates, part=self.macs))
        return criterion_of(self.importance)

    @property
    def limited(self) -> bool:
        """Whether these settings limit the cost."""
        return self.macs is not None or self.latency is not None

    @property
    def cuts(self) -> bool:
        """Whether these settings, and not the budget, decide what is cut from the encoder."""
        return self.layers is not None or self._narrows

    @property
    def _narrows(self) -> bool:
        return any(getattr(self, name) is not None for name in ("macs", "latency", "heads", "neurons", "blocks", "hidden"))

    def keeps_all(self, depth: int) -> bool:
        """Whether nothing is cut from an encoder of `depth` layers."""
        return self.layers == depth and not self._narrows

    def effects(self, taught: bool) -> Effects:
        return effects(makes=[Trait.CUTS], undoes=list(REWRITES))

    def stages(self, recipe: Sequence[Settings]) -> Sequence[Stage[Any]]:
        return [ObserveImportance(self), PlanCut(self), Cut(self)]

    @property
    def structural(self) -> bool:
        return self.cuts

    def limits(self) -> Mapping[str, float]:
        limits = {"macs": self.macs, "part of the latency": self.latency}
        return {name: limit for name, limit in limits.items() if limit is not None}


@final
class Prune(Step[Importance, Selection]):
    """The step of structured pruning.

    criterion: scores the parts. choose: makes the selection that is kept of a blueprint and the importance; by default everything (plans
    are made by `search`). calibration, method: texts and method of the repair. removed: how many least missed layers are put in order;
    None: all but one.
    """

    name = "prune"

    def __init__(
        self,
        task: Task,
        criterion: Score,
        calibration: Encoded,
        method: Repair = "weights",
        removed: int | None = None,
        seed: int = 0,
        choose: Callable[[Blueprint, Importance], Selection] = lambda blueprint, _: Selection.all(blueprint),
    ) -> None:
        self.task = task
        self.criterion = criterion
        self.choose = choose
        self.calibration = calibration
        self.method: Repair = method
        self.removed = removed
        self.seed = seed
        self.reconstruction: Reconstruction | None = None

    def observe(self, model: PenjingPreTrainedModel, data: Examples) -> Importance:
        importance = self.criterion(model, self.task, data, self.seed)
        if self.removed == 0:
            return importance
        few = data.take(np.sort(np.random.default_rng(self.seed).permutation(len(data))[:ORDER_TEXTS]))
        return replace(importance, removed=least_missed_layers(model, self.task, few, self.removed))

    def plan(self, blueprint: Blueprint, evidence: Importance) -> Selection:
        return self.choose(blueprint, evidence)

    def apply(self, model: PenjingPreTrainedModel, plan: Selection, evidence: Importance) -> PenjingPreTrainedModel:
        result, self.reconstruction = repair(cut(model, plan), model, plan, self.calibration, self.method)
        return result


def least_missed_layers(model: PenjingPreTrainedModel, task: Task, data: Examples, count: int | None = None) -> list[int]:
    """The order of the layers for removal, the least missed first: `count` of them (None: all but one), greedily.

    In each round the layer is removed whose absence gives the smallest divergence from the whole model's answers.
    """
    answers = task.answer_losses()
    blueprint = blueprint_of(model)
    whole = Selection.all(blueprint)
    reference = logits_of(model, data.encoded)
    kept = list(range(len(blueprint.layers)))
    removed: list[int] = []
    while len(kept) > 1 and len(removed) != count:
        divergence = {
            layer: divergence_of(cut(model, Selection(tuple(whole.layers[i] for i in kept if i != layer))), data, reference, answers)
            for layer in kept
        }
        removed.append(min(kept, key=lambda layer: divergence[layer]))
        kept.remove(removed[-1])
    return removed


# -- stages ------------------------------------------------------------------------------------------------------


def pruner(settings: PruneSettings, work: Work, context: Context, texts: int = 0) -> Prune:
    """The pruning step of these settings, with repair on `texts` texts (0: as many as the settings say)."""
    depth = len(blueprint_of(work.model).layers)
    measured = depth - (settings.layers or depth) if settings.keep == "measured" else 0
    return Prune(
        work.data.task, settings.criterion.score, context.calibration(work, texts or settings.texts).encoded, cast(Repair, settings.repair),
        measured if settings.cuts else None, context.seed,
    )  # fmt: skip


@dataclass(frozen=True)
class ImportanceNote(Note):
    """The record of importance scores."""

    importance: Importance = field(default_factory=lambda: Importance([], []))


@final
class ObserveImportance(Stage[ImportanceNote]):
    """The stage that scores heads, neurons, hidden units and layers."""

    name = "observe"
    record = ImportanceNote
    shared = True

    def __init__(self, settings: PruneSettings) -> None:
        self.settings = settings

    def wanted(self, work: Work, context: Context) -> bool:
        return self.settings.cuts or context.to_budget

    def make(self, work: Work, context: Context, folder: Path) -> ImportanceNote:
        settings = self.settings
        importance = pruner(settings, work, context).observe(work.model, context.calibration(work, settings.texts))
        order = f"; layers missed least first: {importance.removed}" if importance.removed else ""
        return ImportanceNote(f"{as_json(settings.importance)} on {settings.texts} texts{order}", importance=importance)

    def load(self, work: Work, context: Context, record: ImportanceNote, folder: Path) -> Work:
        return replace(work, importance=record.importance)


@dataclass(frozen=True)
class PlanNote(Note):
    """The record of a plan: the selection that is kept."""

    selection: Selection = field(default_factory=lambda: Selection(()))


@final
class PlanCut(Stage[PlanNote]):
    """The stage that plans the selection: for the budget, or as the settings say."""

    name = "plan"
    record = PlanNote

    def __init__(self, settings: PruneSettings) -> None:
        self.settings = settings

    def wanted(self, work: Work, context: Context) -> bool:
        return work.importance is not None

    def make(self, work: Work, context: Context, folder: Path) -> PlanNote:
        selection, note = context.planner.selection(self.settings, work, context)
        return PlanNote(note, selection=selection)

    def load(self, work: Work, context: Context, record: PlanNote, folder: Path) -> Work:
        return replace(work, planned=record.selection)


@dataclass(frozen=True)
class CutNote(Note):
    """The record of a cut. errors: relative squared error of each block's output, before and after its repair."""

    errors: Sequence[tuple[float, float]] = ()


@final
class Cut(Stage[CutNote]):
    """The stage that cuts the model exactly to the selection, and repairs what is left."""

    name = "prune"
    record = CutNote

    def __init__(self, settings: PruneSettings) -> None:
        self.settings = settings

    def wanted(self, work: Work, context: Context) -> bool:
        return work.planned not in (None, Selection.all(blueprint_of(work.model)))

    def make(self, work: Work, context: Context, folder: Path) -> CutNote:
        step = pruner(self.settings, work, context)
        settings = self.settings
        assert work.importance is not None and work.planned is not None
        model = step.apply(work.model, work.planned, work.importance)
        if settings.head_weights:
            texts = context.calibration(work, settings.texts)
            model = gates.learn_head_weights(model, work.data.task, texts, context.seed, teacher=work.model)
        errors = step.reconstruction.errors if step.reconstruction else []
        before, after = (float(np.mean([pair[i] for pair in errors])) if errors else 0.0 for i in (0, 1))
        fitted = f"; repaired: mean error of a block {before:.3f} -> {after:.3f}" if errors else ""
        kept = context.keep(replace(work, model=model), folder, f"cut, not yet trained{fitted}")
        return CutNote(kept.note, kept.quality, kept.bytes, [(float(a), float(b)) for a, b in errors])

    def load(self, work: Work, context: Context, record: CutNote, folder: Path) -> Work:
        assert work.planned is not None
        return replace(loaded(work, folder), selection=work.selection.then(work.planned), planned=None)
