"""Gradual structured pruning, by learned gates during distillation."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import final

from penjing.errors import InputError
from penjing.files.options import option
from penjing.model.building import blueprint_of
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.model.surgery import copy_of, cut
from penjing.steps.cut.gates import RATE, WARM_UP, Gates, target_part
from penjing.steps.settings import Effects, Trait, effects
from penjing.steps.stage import Context, Work
from penjing.steps.teach.distill import Distill
from penjing.steps.teach.distillation import Rider
from penjing.steps.teach.training import TrainingStep
from penjing.tasks.task import Examples
from penjing.training.lesson import TeachingEvidence
from penjing.training.loop import Hooks
from penjing.training.taught import Taught


@dataclass(frozen=True)
class GradualSettings(Rider):
    """Settings of gradual pruning: the part of the encoder's MACs that is kept, and when, as parts of the steps."""

    name = "gradual"
    paper = "Xia et al. 2022 (CoFi), section 3.1"
    when = "To cut heads and neurons while distilling, where one cut at once loses too much."
    teaching = "gradual"

    part: float = option(0.5, "Part of the encoder's multiply-accumulates that is kept.")
    warmup: float = WARM_UP
    """The part of the steps over which the target falls linearly from 1 to `part` (Xia et al. 2022, section 3.1)."""
    prune_until: float = 0.6
    """The part of the steps after which the gates are fixed, and the weights alone are trained on."""

    def __post_init__(self) -> None:
        if not 0 < self.part <= 1:
            raise InputError(f"gradual: part is {self.part}; it must be above 0 and at most 1")
        if not 0 <= self.warmup <= self.prune_until <= 1:
            raise InputError(f"gradual: 0 <= warmup <= prune_until <= 1 must hold, got {self.warmup} and {self.prune_until}")

    def effects(self, taught: bool) -> Effects:
        """Effects: it takes the training over."""
        return effects(needs=[Trait.ENCODER, Trait.TRAINING], takes=[Trait.TRAINING], makes=[Trait.CUTS])

    @property
    def cuts(self) -> bool:
        return True

    @property
    def structural(self) -> bool:
        return True

    def limits(self) -> Mapping[str, float]:
        return {"macs": self.part}

    def around(self, distill: Distill, work: Work, context: Context) -> "GradualPrune":
        """The pruning step around `distill`; `part` counts in the teacher's MACs, at the teacher's lengths in tokens."""
        length, teacher_length = context.lengths(work)
        blueprint = blueprint_of(context.teacher)
        longer = blueprint.macs(teacher_length) / blueprint.macs(length)
        return GradualPrune(distill, replace(self, part=min(1.0, self.part * longer)), length)


@final
class GradualPrune(TrainingStep[TeachingEvidence]):
    """The step of structured pruning while `distill` teaches the model (Xia et al. 2022, section 3.1).

    Gates and weights are trained together until `prune_until`; then the gates are fixed, at most `part` of the MACs stays, and
    the weights are trained on. MACs are counted for texts of `length` tokens. The layers all stay, a closed block as its bias and norm.
    """

    name = "gradual_prune"

    def __init__(self, distill: Distill, gradual: GradualSettings, length: int) -> None:
        self.distill = distill
        self.gradual = gradual
        self.length = length

    def observe(self, model: PenjingPreTrainedModel, data: Examples) -> TeachingEvidence:
        """The training texts, and the teacher's outputs on them, cached."""
        return self.distill.observe(model, data)

    def teach(self, model: PenjingPreTrainedModel, evidence: TeachingEvidence) -> Taught:
        """Train a copy of `model` and cut it; the result's `selection` is what was kept."""
        gradual = self.gradual
        lesson = self.distill.lesson(evidence)
        gates = Gates(copy_of(model), self.length)

        def before_step(step: int, total: int) -> None:
            gates.target.fill_(target_part(step / total, gradual.part, gradual.warmup))
            if step + 1 >= gradual.prune_until * total:
                gates.fix(gradual.part)

        factor = RATE / self.distill.settings.schedule.learning_rate
        hooks = Hooks(before_step, gates.penalty, rates={"log_alpha": factor, "multipliers": factor}, judge_from=gradual.prune_until)
        history = lesson.teach(gates, hooks)
        gates.fix(gradual.part)  # a schedule that was cut short may have ended before
        selection = gates.selection()
        return Taught(cut(gates.folded(), selection), history, selection=selection)
