"""A recipe: the settings of the steps of a compression, in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from penjing.errors import InputError
from penjing.files.whole import Json
from penjing.steps.bits.quantize import QuantizeSettings
from penjing.steps.cut.prune import PruneSettings
from penjing.steps.names import STEPS
from penjing.steps.settings import Settings, check_effects, in_order, is_taught
from penjing.steps.stage import Applied, Stage
from penjing.steps.step import Step
from penjing.steps.teach.distill import DistillSettings
from penjing.steps.teach.distillation import Distillation
from penjing.students.stage import StudentSettings
from penjing.students.student import Student

S = TypeVar("S", bound=Settings)
Item = Settings | Step[Any, Any] | DistillSettings | Student
"""An entry that a recipe may be written with."""


@dataclass(frozen=True)
class Recipe:
    """A recipe: steps in the order in which they are carried out. Their effects are checked for conflicts.

    Each of Penjing's steps stands in it once at most, and so do settings of one's own. A step or a student of the user's own, and settings of distillation alone, may be entries as they are (`Recipe.of`).
    """

    steps: tuple[Settings, ...] = (PruneSettings(), Distillation(), QuantizeSettings())

    def __post_init__(self) -> None:
        check_effects(self.steps)
        for i, item in enumerate(self.steps):
            if not isinstance(item, Applied) and type(item) in map(type, self.steps[:i]):
                raise InputError(f"recipe: {item.name} stands in it twice; give it once, or do the second on the result of the first")

    @classmethod
    def of(cls, *items: Item) -> Recipe:
        """The recipe of these entries."""
        return cls(tuple(_settings(item) for item in items))

    # -- queries -----------------------------------------------------------------------------------------------

    def get(self, kind: type[S]) -> S | None:
        """The settings of this kind, or None where the recipe has none."""
        return next((item for item in self.steps if isinstance(item, kind)), None)

    @property
    def distillation(self) -> DistillSettings | None:
        """The settings of the losses and the schedule; None without a training."""
        settings = self.get(Distillation)
        return settings.how if settings else None

    @property
    def taught(self) -> bool:
        """Whether the recipe has a training."""
        return is_taught(self.steps)

    @property
    def takers(self) -> list[Settings]:
        """The steps that run during the training, and take it over."""
        return [item for item in self.steps if item.trains(self.taught)]

    @property
    def by_hand(self) -> bool:
        """Whether the recipe, rather than a budget, decides what is cut."""
        return any(item.cuts for item in self.steps)

    @property
    def limits(self) -> Mapping[str, float]:
        """Limits on the result, by the name of the gate that checks them."""
        return {name: limit for item in self.steps for name, limit in item.limits().items()}

    def stages(self) -> list[Stage[Any]]:
        """All stages of the recipe, in order."""
        return [stage for item in in_order(self.steps) for stage in item.stages(self.steps)]

    # -- changes -----------------------------------------------------------------------------------------------

    def with_(self, item: Item) -> Recipe:
        """A recipe with these settings in place of those of the same kind, or at the usual place of such a step."""
        new = _settings(item)
        if not isinstance(new, Applied) and any(type(old) is type(new) for old in self.steps):
            return Recipe(tuple(new if type(old) is type(new) else old for old in self.steps))
        usual = list(STEPS.values())
        place = usual.index(type(new)) if type(new) in usual else len(usual)
        later = [i for i, old in enumerate(self.steps) if type(old) in usual and usual.index(type(old)) > place]
        at = later[0] if later else len(self.steps)
        return Recipe((*self.steps[:at], new, *self.steps[at:]))

    def without(self, *kinds: type[Settings]) -> Recipe:
        """A recipe without the settings of these kinds."""
        return Recipe(tuple(item for item in self.steps if not isinstance(item, kinds)))

    def to_json(self) -> list[Json]:
        """Name and settings of each step as JSON; a resumed run must have the same."""
        return [{item.name: item.to_json()} for item in self.steps]


def _settings(item: Item) -> Settings:
    if isinstance(item, DistillSettings):
        return Distillation(item)
    if isinstance(item, Student):
        return StudentSettings(item)
    return Applied(item) if isinstance(item, Step) else item


def recipe_of(items: Recipe | Sequence[Item] | None) -> Recipe:
    """The recipe of an argument: a recipe as it is, a list of entries, or None for the default."""
    if items is None:
        return Recipe()
    return items if isinstance(items, Recipe) else Recipe.of(*items)
