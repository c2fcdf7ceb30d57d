"""Recipes from YAML: a list of steps, each a name or a name with settings that differ."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml

from penjing.errors import InputError, reason_of, shown
from penjing.files.options import option, option_of, refuse_idle
from penjing.files.run import Tell
from penjing.files.whole import Json
from penjing.job.by_hand import schedule_of
from penjing.job.presets import PRESETS
from penjing.job.recipe import Recipe
from penjing.steps.cut.prune import PruneSettings
from penjing.steps.cut.vocabulary import VocabularySettings
from penjing.steps.names import STEPS
from penjing.steps.settings import Settings, Trait
from penjing.steps.teach.distill import DistillSettings
from penjing.steps.teach.distillation import Distillation
from penjing.students.names import STUDENTS
from penjing.students.stage import StudentSettings
from penjing.training.texts import TextSettings

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")
LARGEST = 1e300
"""The largest number that a setting may be."""
STUDENT = "student"
OLD = "recipe: a mapping of steps is the old form, read for one more release; write a list, as - prune: {macs: 0.5}"


@dataclass(frozen=True)
class Compressing:
    """Options of `compress` beside the budget: a recipe's file, and the length of the training."""

    recipe: Path | None = option(None, "YAML with the steps in order, and their settings.")
    epochs: int | None = option(None, "Epochs of distillation.", least=1, most=10_000, panel="training")
    minutes: float | None = option(None, "Minutes of training, at most.", least=None, panel="training")
    no_training: bool = option(False, "Leave distillation out.", panel="training")

    def read(self, tell: Tell) -> Recipe:
        """The recipe of the options."""
        recipe = read_recipe(self.recipe, tell) if self.recipe else Recipe()
        distillation = recipe.get(Distillation)
        student = recipe.get(StudentSettings)
        for name in ("epochs", "minutes"):
            given = getattr(self, name) is not None
            refuse_idle(
                (name, given and self.no_training, "leave out `no_training`"),
                (name, given and distillation is None, "add distill to the `recipe`"),
                (name, given and student and not student.student.trained, "the student is fitted, not trained by epochs"),
            )
        if distillation is None:
            return recipe
        if self.no_training:
            return _untrained(recipe)
        return recipe.with_(replace(distillation, how=schedule_of(distillation.how, self.epochs, self.minutes)))


def _untrained(recipe: Recipe) -> Recipe:
    """The recipe without its training; an `InputError` where a step of it is learned in that."""
    learned = [item.name for item in recipe.steps if Trait.TRAINING in item.effects(False).needs]
    if learned:
        raise InputError(f"no_training: {learned[0]} of the recipe is learned in the training; leave one of them out")
    return recipe.without(Distillation)


def read_recipe(path: Path, tell: Tell = lambda text: None) -> Recipe:
    """A recipe from YAML: a list of steps in their order, each a name, or a mapping of one name to the settings that differ.

    The old form, a mapping that changes the default recipe, is read with a note.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, OverflowError, RecursionError, yaml.YAMLError) as error:  # a ValueError: 2026-02-30 is no date
        raise InputError(f"recipe: {path} cannot be read as YAML ({reason_of(error)})") from error
    if content is None:
        return Recipe()
    if isinstance(content, list):
        return Recipe(tuple(_step(entry, f"{path}: step {number}") for number, entry in enumerate(content, 1)))
    if isinstance(content, dict):
        tell(OLD)
        return _old(content, str(path))
    raise InputError(f"recipe: {path} is {shown(content)}; give a list of steps, as - prune: {{macs: 0.5}}")


def _step(entry: Any, where: str) -> Settings:
    """The settings of one entry of the list."""
    if isinstance(entry, str):
        entry = {entry: None}
    if not isinstance(entry, dict) or len(entry) != 1:
        raise InputError(f"recipe: {where} is {shown(entry)}; give a step's name, or one name and a mapping of settings")
    ((name, changes),) = entry.items()
    if name == STUDENT:
        return _student(changes, where)
    return _settings(name, {} if changes in (None, True) else changes, where)


def _settings(name: Any, changes: Any, where: str) -> Settings:
    if name in STUDENTS:
        student: Any = STUDENTS[name]
        return StudentSettings(merged(student, changes, f"{where}: {name}"))
    if not isinstance(name, str) or name not in STEPS:
        raise InputError(f"recipe: {where} has {shown(name)}; allowed are {', '.join((*STEPS, *STUDENTS))}")
    if name == Distillation.name:
        return _distillation(changes, f"{where}: {name}")
    step: Any = STEPS[name]()
    settings: Settings = merged(step, changes, f"{where}: {name}")
    return settings


def _student(name: Any, where: str) -> StudentSettings:
    if not isinstance(name, str) or name not in STUDENTS:
        raise InputError(f"recipe: {where}: the student {shown(name)} is none; allowed are {', '.join(STUDENTS)}")
    return StudentSettings(STUDENTS[name])


def _distillation(changes: Any, where: str) -> Distillation:
    """Settings of `DistillSettings`; beside them `preset`, `epochs`, and `texts`, which are those of `TextSettings`."""
    changes = dict(_mapping(changes, where))
    preset, epochs, texts = (changes.pop(name, None) for name in ("preset", "epochs", "texts"))
    if preset is not None and (not isinstance(preset, str) or preset not in PRESETS or PRESETS[preset].student):
        named = [name for name, known in PRESETS.items() if not known.student]
        raise InputError(f"recipe: {where}: preset is {shown(preset)}; allowed are {', '.join(named)}")
    settings = PRESETS[preset].settings() if preset else DistillSettings()
    if epochs is not None:
        _check_number(epochs, 1, 1, f"{where}: epochs", example=3)
        settings = schedule_of(settings, epochs)
    return Distillation(merged(settings, changes, where), merged(TextSettings(), {} if texts is None else texts, f"{where}: texts"))


def merged(settings: T, changes: Any, where: str) -> T:
    """Settings merged with `changes`, strictly: an unknown name or a value of another type is an `InputError`."""
    known = {field.name: field for field in fields(settings)}
    result = Json()
    for name, value in _mapping(changes, where).items():
        if name not in known:
            raise InputError(f"recipe: {where} has {shown(name)}; allowed are {', '.join(known)}")
        result[name] = _value(getattr(settings, name), known[name], value, where)
    return replace(settings, **result)


def _mapping(changes: Any, where: str) -> Mapping[Any, Any]:
    if not isinstance(changes, dict):
        raise InputError(f"recipe: {where} is {shown(changes)}; give a mapping of settings")
    return changes


def _value(old: Any, field: Any, value: Any, where: str) -> Any:
    """The checked value of a field whose default is `old`."""
    name = field.name
    described = option_of(field)
    if "Path" in str(field.type):
        return None if value is None else Path(str(value))
    if isinstance(value, str) and (old is None or isinstance(old, float)):
        with suppress(ValueError):  # YAML takes 1e-4 for a text, and 1.0e-4 for a number
            value = float(value)
    if is_dataclass(old) and not isinstance(old, type):
        return merged(old, {} if value in (None, True) else value, f"{where}: {name}")
    if isinstance(old, Mapping):
        numbers = isinstance(value, dict) and all(_is_number(weight, int | float) and abs(weight) <= LARGEST for weight in value.values())
        if not numbers:
            raise InputError(f"recipe: {where}: {name} is {shown(value)}; give a mapping of names to weights, like {dict(old)}")
        return value
    if isinstance(old, str | bool):
        if type(value) is not type(old):
            raise InputError(f"recipe: {where}: {name} is {shown(value)}; give a value like {old!r}")
        return value
    if old is None and value is None:
        return None
    least = described.least if described and described.least is not None else 1 if isinstance(old, int) and described is None else 0
    _check_number(value, least, old, f"{where}: {name}", example=3 if old is None else old)
    return value


def _check_number(value: Any, least: float, old: Any, where: str, example: Any) -> None:
    kind: Any = int if isinstance(old, int) else int | float
    if not (_is_number(value, kind) and least <= value <= LARGEST):
        raise InputError(f"recipe: {where} is {shown(value)}; give a number like {example!r}, not below {least:g}")


def _is_number(value: Any, kind: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


# -- the old form --------------------------------------------------------------------------------------------------


def _old(content: Mapping[Any, Any], where: str) -> Recipe:
    """The recipe of the old form: the default one with a mapping's steps changed, added, or left out where they are `false`."""
    content = dict(content)
    student = content.pop(STUDENT, None)
    texts = content.pop("texts", None)
    if student:  # nothing is cut or rounded by default then
        content = {PruneSettings.name: False, "quantize": False} | content
    for name in content:
        if not isinstance(name, str) or name not in STEPS:
            raise InputError(f"recipe: {where} has {shown(name)}; allowed are {', '.join((*STEPS, 'texts', STUDENT))}")
    recipe = Recipe()
    steps = {item.name: item for item in recipe.steps}
    for name, changes in content.items():
        if changes is False:
            steps.pop(name, None)
            continue
        changes = {} if changes in (None, True) else changes
        if name == PruneSettings.name and isinstance(changes, dict) and "vocabulary" in changes:
            changes = dict(changes)
            part = changes.pop("vocabulary")
            if part is not None:
                steps[VocabularySettings.name] = _settings(VocabularySettings.name, {"part": part}, where)
        steps[name] = _settings(name, changes, where)
    if "gradual" in steps and not steps.get(PruneSettings.name, PruneSettings()).cuts:
        steps.pop(PruneSettings.name, None)
    distillation = steps.get(Distillation.name)
    if isinstance(distillation, Distillation) and texts:
        steps[Distillation.name] = replace(distillation, texts=merged(TextSettings(), {} if texts is True else texts, f"{where}: texts"))
    ordered = [steps[name] for name in STEPS if name in steps]
    return Recipe((*ordered, *([_student(student, where)] if student else [])))
