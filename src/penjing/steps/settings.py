"""What a recipe is a list of: the settings of a step, and what the step needs, makes and undoes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from functools import partial
from inspect import isfunction
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from penjing.errors import InputError
from penjing.files.references import reference_of
from penjing.files.whole import Json

if TYPE_CHECKING:
    from penjing.steps.stage import Stage


class Trait(Enum):
    """What a model has at a place in a recipe, and the words for it in a message."""

    ENCODER = "the encoder"
    TRAINING = "the training"
    CUTS = "what was cut"
    ZEROS = "the zeros"
    CODES = "the codes of few bits"
    RANGES = "the ranges that int8 was trained in"


@dataclass(frozen=True)
class Effects:
    """What a step does to the traits of a model.

    needs: traits that have to be there. takes: those that no step after it finds (a training teaches one thing at a time). makes, undoes:
    traits that are there, or spoilt, afterwards.
    """

    needs: frozenset[Trait] = frozenset()
    takes: frozenset[Trait] = frozenset()
    makes: frozenset[Trait] = frozenset()
    undoes: frozenset[Trait] = frozenset()


REWRITES = frozenset({Trait.ZEROS, Trait.CODES, Trait.RANGES})
"""What a step that gives weights new values undoes."""


def effects(
    needs: Sequence[Trait] = (Trait.ENCODER,), takes: Sequence[Trait] = (), makes: Sequence[Trait] = (), undoes: Sequence[Trait] = ()
) -> Effects:  # fmt: skip
    """`Effects` from any sequences; most steps need an encoder."""
    return Effects(frozenset(needs), frozenset(takes), frozenset(makes), frozenset(undoes))


class Settings(ABC):
    """The settings of one step of a recipe: a frozen dataclass that stands beside its step.

    `name` is what YAML and the run's folder call it; `paper` and `when` are its lines in `penjing methods`.
    """

    name: ClassVar[str]
    paper: ClassVar[str] = ""
    when: ClassVar[str] = ""

    @abstractmethod
    def effects(self, taught: bool) -> Effects:
        """What the step needs, makes and undoes, where the recipe has a training (`taught`) or has none."""

    @abstractmethod
    def stages(self, recipe: Sequence[Settings]) -> Sequence[Stage[Any]]:
        """The stages that carry the step out in this recipe; none where it goes on during the training (`trains`)."""

    def trains(self, taught: bool) -> bool:
        """Whether the step goes on while the recipe's training teaches."""
        return False

    @property
    def cuts(self) -> bool:
        """Whether it is said here, and not by the budget, what of the model is cut."""
        return False

    @property
    def structural(self) -> bool:
        """Whether it is stated here how much of the encoder is left, which a budget of speed or size would state too."""
        return False

    def limits(self) -> Mapping[str, float]:
        """What the result is held against, by the name of the gate."""
        return {}

    def to_json(self) -> Json:
        """The settings as a JSON object; a run that goes on compares it."""
        assert is_dataclass(self)
        return {each.name: told(getattr(self, each.name)) for each in fields(self)}


def told(value: Any) -> Any:
    """A setting as JSON: what is an object of one's own by its reference and its attributes."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {str(told(key)): told(each) for key, each in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [told(each) for each in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, type) or isfunction(value):
        return reference_of(value)
    if isinstance(value, partial):
        return told(value.func)
    if is_dataclass(value):
        return {each.name: told(getattr(value, each.name)) for each in fields(value)}
    return {"object": reference_of(type(value))} | {name: told(each) for name, each in sorted(vars(value).items())}


def check_effects(items: Sequence[Settings]) -> None:
    """Refuse a recipe in which a step lacks what it needs, or undoes what a step before it made.

    Steps that go on during the training count in its place.
    """
    taught = is_taught(items)
    state: dict[Trait, str] = {Trait.ENCODER: "model"}
    takers: dict[Trait, str] = {}
    for item in in_order(items):
        does = item.effects(taught)
        for trait in sorted(does.needs - set(state), key=lambda each: each.name):
            raise InputError(_missing(item.name, trait, takers.get(trait)))
        for trait in sorted(does.undoes & set(state), key=lambda each: each.name):
            raise InputError(
                f"recipe: {item.name} would undo {trait.value} of {state[trait]}; leave one of them out, or do {item.name} in a run before"
            )
        for trait in does.takes:
            state.pop(trait, None)
            takers[trait] = item.name
        state |= dict.fromkeys(does.makes, item.name)


def is_taught(items: Sequence[Settings]) -> bool:
    """Whether a recipe has a training."""
    return any(Trait.TRAINING in item.effects(True).makes for item in items)


def in_order(items: Sequence[Settings]) -> list[Settings]:
    """The steps in the order in which they count: those that go on during the training directly after it."""
    taught = is_taught(items)
    order: list[Settings] = []
    for item in items:
        if taught and item.trains(taught):
            continue
        order.append(item)
        if Trait.TRAINING in item.effects(taught).makes:
            order += [each for each in items if each.trains(taught)]
    return order


def _missing(name: str, trait: Trait, taker: str | None) -> str:
    if trait is Trait.ENCODER:
        return f"recipe: {taker} is no encoder, and has nothing that {name} could change; leave one of them out"
    if taker is None:
        return f"recipe: {name} is learned while distilling, and nothing is taught; add distill, or leave {name} out"
    return f"recipe: {taker} and {name} do not go in one run, since each takes the training over; do the second on the result of the first"


def check_name(field: str, value: Any, allowed: Sequence[str]) -> None:
    """Refuse a name that is none of the allowed ones."""
    if value not in allowed:
        raise InputError(f"{field}: {value!r} is none; allowed are {', '.join(allowed)}")
