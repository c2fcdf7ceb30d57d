"""Learned head weights by themselves: what each head gives is multiplied by a number, which is folded into the weights."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

from penjing.errors import InputError
from penjing.files.options import option
from penjing.steps.cut.gates import learn_head_weights
from penjing.steps.settings import REWRITES, Effects, Settings, effects
from penjing.steps.stage import Context, Note, Stage, Work, loaded


@final
@dataclass(frozen=True)
class HeadWeightsSettings(Settings):
    """Settings of learned head weights. texts: training texts that they are learned on, one in four judges them. steps: of learning."""

    name = "head-weights"
    paper = "Michel et al. 2019 (a gate per head)"
    when = (
        "After anything that changes the heads, where no training follows. Prune does it with head_weights. With distillation it is idle."
    )

    texts: int = option(1000, "Training texts that are learned from, and judged by.", least=1)
    steps: int = option(200, "Steps of learning.", least=1)

    def __post_init__(self) -> None:
        if min(self.texts, self.steps) < 1:
            raise InputError("texts, steps: give at least 1")

    def effects(self, taught: bool) -> Effects:
        return effects(undoes=list(REWRITES))

    def stages(self, recipe: Sequence[Settings]) -> Sequence[Stage[Any]]:
        return [WeightHeads(self)]

    @property
    def cuts(self) -> bool:
        return True


@final
class WeightHeads(Stage[Note]):
    """The stage that learns a weight per head towards the base's answers; an untouched model has none to learn."""

    name = "head-weights"
    record = Note

    def __init__(self, settings: HeadWeightsSettings) -> None:
        self.settings = settings

    def wanted(self, work: Work, context: Context) -> bool:
        return not work.untouched

    def make(self, work: Work, context: Context, folder: Path) -> Note:
        texts = context.calibration(work, self.settings.texts)
        steps = self.settings.steps
        model = learn_head_weights(work.model, work.data.task, texts, context.seed, teacher=work.base, steps=steps)
        return context.keep(replace(work, model=model), folder, "heads weighted")

    def load(self, work: Work, context: Context, record: Note, folder: Path) -> Work:
        return loaded(work, folder)
