"""Module replacing: while training, layers of the teacher are replaced by the student's at random, more and more of them (Xu et al. 2020).

The model that is left is the successor, its teacher the predecessor. A module is a group of the predecessor's consecutive layers, and the
successor's one or several that stand for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor, nn

from penjing.errors import InputError
from penjing.files.options import option
from penjing.model.building import blueprint_of
from penjing.model.modeling_penjing import Layer, PenjingPreTrainedModel
from penjing.model.surgery import copy_of
from penjing.model.watch import PROJECTIONS, encoder_of, layers_of
from penjing.steps.settings import Effects, Trait, check_name, effects
from penjing.steps.stage import Context, Work
from penjing.steps.teach.distill import Distill
from penjing.steps.teach.distillation import Rider
from penjing.steps.teach.training import TrainingStep
from penjing.tasks.task import Examples
from penjing.training.layer_map import Pair, layer_map
from penjing.training.lesson import TeachingEvidence
from penjing.training.loop import Hooks
from penjing.training.taught import Taught

SCHEDULES = {"linear": 0.3, "constant": 0.5}
"""Schedules of the replacement rate, and the rate that each has by default: at the start, or throughout (Xu et al. 2020)."""

Module = tuple[range, range]
"""The successor's layers and the predecessor's that they stand for, from 0."""


NOTHING_CUT = "replace: no layer is cut, so nothing would be replaced; keep fewer or thinner layers, as by `layers` of prune"
"""What is said where the successor would be the predecessor."""


@dataclass(frozen=True)
class ReplaceSettings(Rider):
    """Settings of module replacing: how often modules are replaced, and when the successor alone is trained."""

    name = "replace"
    paper = "Xu et al. 2020 (BERT-of-Theseus)"
    when = "To train fewer or thinner layers on labels alone, in the place of the teacher's: no loss between the two is chosen."
    teaching = "replace"

    schedule: str = option("linear", "The replacement rate rises to 1, or stays.", allowed=tuple(SCHEDULES))
    rate: float | None = option(
        None, "Part of the modules that is replaced: linear, at the start (0.3); constant, throughout (0.5).", most=1
    )
    until: float = option(0.6, "Part of the steps after which the successor alone is trained.", most=1)

    def __post_init__(self) -> None:
        check_name("schedule", self.schedule, tuple(SCHEDULES))
        if not 0 <= self.first_rate <= 1 or (self.first_rate == 0 and self.schedule == "constant"):
            raise InputError(f"rate: {self.rate} is out of range; give at most 1, and more than 0 where it is constant")
        if not 0 <= self.until <= 1:
            raise InputError(f"until: {self.until} is out of range; give a part of the steps, from 0 to 1")

    def effects(self, taught: bool) -> Effects:
        """Effects: it takes the training over, of a model that was cut."""
        return effects(needs=[Trait.ENCODER, Trait.TRAINING, Trait.CUTS], takes=[Trait.TRAINING])

    @property
    def first_rate(self) -> float:
        """The replacement rate of the first step."""
        return SCHEDULES[self.schedule] if self.rate is None else self.rate

    def rate_after(self, done: float) -> float:
        """The replacement rate after the part `done` of the steps: p = min(1, k t + b), or constant; 1 from `until` on.

        Xu et al. 2020, section 3.3; the successor's fine-tuning (section 3.2) is the rate 1.
        """
        if done >= self.until:
            return 1.0
        rising = (1 - self.first_rate) * done / self.until if self.schedule == "linear" else 0.0
        return min(1.0, self.first_rate + rising)

    def around(self, distill: Distill, work: Work, context: Context) -> "Replace":
        """The replacing step around `distill`; `InputError` where the layers are the teacher's."""
        if blueprint_of(work.model).layers == blueprint_of(work.base).layers:
            raise InputError(NOTHING_CUT)
        return Replace(distill, self)


def modules_of(pairs: Sequence[Pair], successor: int, predecessor: int) -> list[Module]:
    """The modules that end at the matched layers (pairs of a layer map, from 1); the last one takes in all layers that are left.

    Where several of the successor's layers are matched to one of the predecessor's, they are one module.
    """
    by_end = {theirs: own for own, theirs in pairs if own and theirs}
    ends = [(own, theirs) for theirs, own in by_end.items()][:-1]
    starts = [(0, 0), *ends]
    modules = [(range(a, c), range(b, d)) for (a, b), (c, d) in zip(starts, [*ends, (successor, predecessor)], strict=True)]
    if not all(own and theirs for own, theirs in modules):
        raise InputError(f"layer_map: {', '.join(f'{a}:{b}' for a, b in pairs)} does not ascend on both sides, which modules to replace do")
    return modules


@final
class Slot(Layer):
    """A layer of the successor, in whose place the predecessor's layers may be run while training; in eval mode it is the layer itself.

    It shares the layer's parameters, under their names. The predecessor's layers are in a tuple, which torch does not register: they are
    no part of the state, no optimizer sees them, and they stay in eval mode.
    """

    def __init__(self, layer: Layer, predecessor: Sequence[Layer]) -> None:
        nn.Module.__init__(self)
        own = layer._modules  # none of a layer that runs another's blocks
        (self._modules if own else self.__dict__).update(attention=layer.attention, feed_forward=layer.feed_forward)
        self.predecessor = tuple(predecessor)
        self.replaced = True

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, S, H) → (B, S, H)."""
        if self.replaced or not self.training:
            return super().forward(x, mask)
        for layer in self.predecessor:
            x = layer(x, mask)
        return x


@final
class Hybrid:
    """A copy of the successor, `model`, whose modules can be run as the predecessor's. Of several layers the last holds the predecessor's."""

    def __init__(self, successor: PenjingPreTrainedModel, predecessor: PenjingPreTrainedModel, pairs: Sequence[Pair]) -> None:
        self.model = copy_of(successor)
        self.predecessor: nn.Module = copy_of(predecessor).requires_grad_(False)
        own, theirs = layers_of(self.model), layers_of(self.predecessor)
        self.slots = [
            [Slot(own[i], [theirs[k] for k in replaced] if i == layers[-1] else []) for i in layers]
            for layers, replaced in modules_of(pairs, len(own), len(theirs))
        ]
        encoder_of(self.model).layers = nn.ModuleList(slot for module in self.slots for slot in module)
        self.adopted = [weight for name, weight in self.model.named_parameters() if "layers." not in name]
        """The parameters of embeddings and head, which the successor takes over from the predecessor."""

    def draw(self, rate: float, seed: Sequence[int]) -> None:
        """Draw for each module whether the next batch finds it replaced: Bernoulli of `rate` (Xu et al. 2020, section 3.1)."""
        replaced = np.random.default_rng(seed).random(len(self.slots)) < rate
        for module, each in zip(self.slots, replaced.tolist(), strict=True):
            for slot in module:
                slot.replaced = each

    def train_adopted(self, trained: bool) -> None:
        """Train embeddings and head, or hold them: they are frozen while modules are replaced (Xu et al. 2020, section 3.1)."""
        for weight in self.adopted:
            weight.requires_grad_(trained)


@final
class Replace(TrainingStep[TeachingEvidence]):
    """The step of module replacing, with the losses of `distill`: in the paper the task's alone (Xu et al. 2020).

    The predecessor has no dropout: what is replaced is noise enough, and its states are what the successor's layers must fit in with.
    Weights are judged as the successor's alone.
    """

    name = "replace"

    def __init__(self, distill: Distill, settings: ReplaceSettings) -> None:
        self.distill = distill
        self.settings = settings

    def observe(self, model: PenjingPreTrainedModel, data: Examples) -> TeachingEvidence:
        """The training texts, and the teacher's outputs on them, cached."""
        self._check(model)
        return self.distill.observe(model, data)

    def teach(self, model: PenjingPreTrainedModel, evidence: TeachingEvidence) -> Taught:
        """Train a copy of `model` in the place of the teacher's layers, and from `until` on by itself."""
        lesson = self.distill.lesson(evidence)
        hybrid = Hybrid(model, self.distill.teachers.teacher, self._pairs(model))
        nothing = torch.zeros((), requires_grad=True)  # so that a batch in which no module is replaced has a gradient too

        def before_step(step: int, total: int) -> None:
            hybrid.predecessor.to(hybrid.model.device)
            hybrid.draw(self.settings.rate_after(step / total), (lesson.settings.schedule.seed, step))
            hybrid.train_adopted(step / total >= self.settings.until)

        history = lesson.teach(hybrid.model, Hooks(before_step, lambda: nothing, judge_from=self.settings.until))
        return Taught(copy_of(hybrid.model), history)

    def _pairs(self, model: PenjingPreTrainedModel) -> list[Pair]:
        """The layers at which modules end: those that the layer map matches, by default the teacher's that are kept."""
        kept = [layer.layer for layer in self.distill.selection.layers] if self.distill.selection else None
        return layer_map(self.distill.settings.layer_map, len(layers_of(model)), len(layers_of(self.distill.teachers.teacher)), kept)

    def _check(self, model: PenjingPreTrainedModel) -> None:
        own, theirs = (encoder_of(each).config.hidden_size for each in (model, self.distill.teachers.teacher))
        if own != theirs:
            raise InputError(f"replace: the successor has {own} hidden units and the predecessor {theirs}; cut no hidden units")
        objective = self.distill.objective(model)
        inner = sorted({part.kind for part in objective.student_parts if part.kind in PROJECTIONS}) if objective else []
        if inner:
            raise InputError(
                f"losses: {', '.join(inner)} of a layer are read, which is not run while it is not replaced; give losses on states between layers"
            )
