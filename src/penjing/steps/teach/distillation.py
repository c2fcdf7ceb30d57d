"""The training stage of a recipe: distillation, by itself or with pruning or quantization during the training."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, final

from penjing.files.whole import Json
from penjing.model.building import with_exits
from penjing.steps.settings import REWRITES, Effects, Settings, Trait, effects
from penjing.steps.stage import Context, Note, Stage, Work, loaded
from penjing.steps.teach.distill import Distill, DistillSettings
from penjing.steps.teach.multitask import Multitask
from penjing.steps.teach.training import TrainingStep
from penjing.training.loop import shown
from penjing.training.objective import HARD
from penjing.training.state import History
from penjing.training.taught import Taught
from penjing.training.texts import TextSettings

ALSO = "also"
"""Name of the folder of companion models: further tasks that share the encoder."""


class Rider(Settings):
    """The base class of settings whose step can run during the recipe's training, around its distillation."""

    teaching: ClassVar[str]
    """The name of the training's stage then."""
    teaches_exits: ClassVar[bool] = False
    """Whether exits are taught too; else a model that has some loses them, since they answer from states that are no more."""

    def effects(self, taught: bool) -> Effects:
        """Effects: it takes the training over."""
        return effects(needs=[Trait.ENCODER, Trait.TRAINING], takes=[Trait.TRAINING])

    def trains(self, taught: bool) -> bool:
        return taught

    def stages(self, recipe: Sequence[Settings]) -> Sequence[Stage[Any]]:
        """The stages beside the training: none."""
        return []

    @abstractmethod
    def around(self, distill: Distill, work: Work, context: Context) -> TrainingStep[Any]:
        """The training step that wraps `distill` and prunes or quantizes meanwhile."""

    def before(self) -> Sequence[Stage[Any]]:
        """Stages that must run before the training."""
        return []

    def told(self, taught: Taught) -> str:
        """The training's part of the note."""
        return f"{taught.history.steps} steps"


@final
@dataclass(frozen=True)
class Distillation(Settings):
    """Settings of the recipe's training. how: losses and schedule. texts: which texts are learned from."""

    name = "distill"
    paper = "Hinton et al. 2015; each preset names its own"
    when = "After anything is cut; or to teach a smaller student from the start."

    how: DistillSettings = field(default_factory=DistillSettings)
    texts: TextSettings = field(default_factory=TextSettings)

    def to_json(self) -> Json:
        """The settings as a JSON object, as `DistillSettings` gives them."""
        return {"how": self.how.to_json(), "texts": asdict(self.texts)}

    def effects(self, taught: bool) -> Effects:
        """Effects of a training: it gives every weight a new value."""
        return effects(needs=(), makes=[Trait.TRAINING], undoes=list(REWRITES))

    def stages(self, recipe: Sequence[Settings]) -> Sequence[Stage[Any]]:
        """The training's stage, after those that the step which takes it over needs first.

        None where that step has training stages of its own.
        """
        takers = [item for item in recipe if item.trains(True)]
        if any(not isinstance(item, Rider) for item in takers):
            return []
        rider = next((item for item in takers if isinstance(item, Rider)), None)
        return [*(rider.before() if rider else []), Teach(self, rider)]


@dataclass(frozen=True)
class TaughtNote(Note):
    """The record of a training: its history; the input ranges of linear layers, where it was trained in int8; if codes exist."""

    history: History = field(default_factory=History)
    ranges: Mapping[str, tuple[float, float]] | None = None
    codes: bool = False


@final
class Teach(Stage[TaughtNote]):
    """The training stage: the base teaches the model.

    The teacher's outputs and the state of the training live in partial/ until the stage is whole.
    """

    record = TaughtNote

    def __init__(self, settings: Distillation, rider: Rider | None = None) -> None:
        self.settings = settings
        self.rider = rider
        self.name = rider.teaching if rider else settings.name

    def wanted(self, work: Work, context: Context) -> bool:
        """False for an untouched float model that would be its own teacher, and be taught nothing but its own answers."""
        more = context.material
        other = more.student or more.companions or more.teachers or more.general or more.unlabelled
        how = self.settings.how
        return not work.untouched or self.rider is not None or HARD in how.answers or bool(other or how.noise)

    def make(self, work: Work, context: Context, folder: Path) -> TaughtNote:
        teaching = context.teaching(work, self.settings.how, self.settings.texts)
        with shown(context.progress, self.name) as report:
            dev, train = teaching.split()
            distill = teaching.distill(dev, work.selection, report)
            step: TrainingStep[Any] = self.rider.around(distill, work, context) if self.rider else distill
            companions = teaching.companions(work.selection)
            if companions:
                step = Multitask(distill, companions)
            stale = bool(work.model.config.exits) and not (self.rider and self.rider.teaches_exits)
            student = with_exits(work.model, ()) if stale else work.model
            taught = step.teach(student, step.observe(student, train))
        note = self.rider.told(taught) if self.rider else f"{taught.history.steps} steps"
        if companions:
            note += "; " + ", ".join(teaching.keep_companions(folder / ALSO, taught.others))
        kept = context.keep(replace(work, model=taught.model), folder, note, taught.coded)
        for state in context.run.partial.glob("state*.pt"):
            state.unlink()
        return TaughtNote(kept.note, kept.quality, kept.bytes, taught.history, taught.ranges, taught.coded is not None)

    def load(self, work: Work, context: Context, record: TaughtNote, folder: Path) -> Work:
        return replace(loaded(work, folder, codes=record.codes), ranges=dict(record.ranges) if record.ranges else None)
