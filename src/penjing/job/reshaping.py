"""Options of the single steps `share`, `factorise` and `project`, and the recipes that they make."""

from dataclasses import dataclass

from penjing.errors import InputError
from penjing.files.options import like, option
from penjing.job.by_hand import schedule_of
from penjing.job.recipe import Recipe
from penjing.steps.reshape.factorise import FactoriseSettings
from penjing.steps.reshape.project import ProjectSettings
from penjing.steps.reshape.share import ShareSettings
from penjing.steps.settings import Settings
from penjing.steps.teach.distill import DistillSettings


@dataclass(frozen=True)
class Retraining:
    """Options of the distillation that follows a step by hand."""

    epochs: int | None = option(None, "Epochs of distillation.", least=1, most=10_000, panel="training")
    no_training: bool = option(False, "Leave distillation out.", panel="training")

    def after(self, step: Settings) -> Recipe:
        """The recipe of a step, and of the distillation after it."""
        if self.no_training and self.epochs is not None:
            raise InputError("epochs: nothing is trained with `no_training`; leave one of the two out")
        return Recipe.of(step, *([] if self.no_training else [schedule_of(DistillSettings(), self.epochs)]))


@dataclass(frozen=True)
class Sharing:
    """Options of `share`: how many distinct layers are left, which share, and what they start from."""

    layers: int = like(ShareSettings, "layers", required=True)
    pattern: str = like(ShareSettings, "pattern")
    start: str = like(ShareSettings, "start")
    texts: int = like(ShareSettings, "texts")

    @property
    def step(self) -> ShareSettings:
        """The settings of the step."""
        return ShareSettings(self.layers, self.pattern, self.start, self.texts)


@dataclass(frozen=True)
class Factorising:
    """Options of `factorise`."""

    rank: int = option(128, "Of the word embedding.", least=1, required=True)

    @property
    def step(self) -> FactoriseSettings:
        """The settings of the step."""
        return FactoriseSettings(self.rank)


@dataclass(frozen=True)
class Projecting:
    """Options of `project`."""

    rank: int = like(ProjectSettings, "rank", required=True)
    kind: str = like(ProjectSettings, "kind")

    def step(self, seed: int) -> ProjectSettings:
        """The settings of the step."""
        return ProjectSettings(self.rank, self.kind, seed)
