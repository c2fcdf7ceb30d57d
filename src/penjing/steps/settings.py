"""The settings of a step of a recipe, and the step's effects: the traits that it needs, makes and undoes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from functools import partial
from inspect import isroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from torch import Tensor

from penjing.errors import InputError
from penjing.files.references import reference_of
from penjing.files.whole import Json

if TYPE_CHECKING:
    from penjing.steps.stage import Stage


class Trait(Enum):
    """A trait of the model at a place in a recipe; the values are its words in messages."""

    ENCODER = "the encoder"
    TRAINING = "the training"
    CUTS = "what was cut"
    ZEROS = "the zeros"
    CODES = "the codes of few bits"
    RANGES = "the ranges that int8 was trained in"


@dataclass(frozen=True)
class Effects:
    """The effects of a step on the traits of a model.

    needs: traits that must be there before it. takes: traits that it uses up, so that no step after it has them (a training teaches
    one thing at a time). makes: traits that are there afterwards. undoes: traits that it spoils.
    """

    needs: frozenset[Trait] = frozenset()
    takes: frozenset[Trait] = frozenset()
    makes: frozenset[Trait] = frozenset()
    undoes: frozenset[Trait] = frozenset()


REWRITES = frozenset({Trait.ZEROS, Trait.CODES, Trait.RANGES})
"""Traits that are undone by a step that gives weights new values."""


def effects(
    needs: Sequence[Trait] = (Trait.ENCODER,), takes: Sequence[Trait] = (), makes: Sequence[Trait] = (), undoes: Sequence[Trait] = ()
) -> Effects:
    """`Effects` from any sequences; most steps need an encoder."""
    return Effects(frozenset(needs), frozenset(takes), frozenset(makes), frozenset(undoes))


class Settings(ABC):
    """The base class of a step's settings in a recipe: a frozen dataclass that stands beside its step.

    `name` is what YAML and the run's folder call it; `paper` and `when` are its lines in `penjing methods`.
    """

    name: ClassVar[str]
    paper: ClassVar[str] = ""
    when: ClassVar[str] = ""

    @abstractmethod
    def effects(self, taught: bool) -> Effects:
        """The step's effects, in a recipe with a training (`taught`) or without one."""

    @abstractmethod
    def stages(self, recipe: Sequence[Settings]) -> Sequence[Stage[Any]]:
        """The stages that carry the step out in this recipe; none where it runs during the training (`trains`)."""

    def trains(self, taught: bool) -> bool:
        """Whether the step runs during the recipe's training."""
        return False

    @property
    def cuts(self) -> bool:
        """Whether these settings, and not the budget, decide what is cut from the model."""
        return False

    @property
    def structural(self) -> bool:
        """Whether these settings fix how much of the encoder is left, which a budget of speed or size would decide too."""
        return False

    def limits(self) -> Mapping[str, float]:
        """Limits on the result, by the name of the gate that checks them."""
        return {}

    def to_json(self) -> Json:
        """The settings as a JSON object; a resumed run must have the same."""
        assert is_dataclass(self)
        return {field.name: as_json(getattr(self, field.name)) for field in fields(self)}


def as_json(value: Any, reference: Callable[[Any], str] = reference_of) -> Any:
    """A setting as JSON; an object or function of the user's own by its reference and its attributes.

    reference: names a class or function; by default "module:name", which has to be found again.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (np.ndarray, np.generic, Tensor)):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(as_json(key, reference)): as_json(item, reference) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(item, reference) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted((as_json(item, reference) for item in value), key=repr)
    if isinstance(value, type) or isroutine(value):
        return reference(value)
    if isinstance(value, partial):
        given = {"arguments": as_json(value.args, reference)} | as_json(value.keywords, reference)
        return {"object": reference(value.func)} | given if value.args or value.keywords else reference(value.func)
    names = [field.name for field in fields(value)] if is_dataclass(value) else sorted(vars(value))
    return {"object": reference(type(value))} | {name: as_json(getattr(value, name), reference) for name in names}


def check_effects(items: Sequence[Settings]) -> None:
    """Check the effects of a recipe's steps: each has the traits that it needs, and undoes none that a step before it made.

    Steps that run during the training count in its place.

    Raises:
        InputError: a trait is missing, or would be undone.
    """
    taught = is_taught(items)
    state: dict[Trait, str] = {Trait.ENCODER: "model"}
    takers: dict[Trait, str] = {}
    for item in in_order(items):
        own = item.effects(taught)
        for trait in sorted(own.needs - set(state), key=lambda trait: trait.name):
            raise InputError(_missing(item.name, trait, takers.get(trait)))
        for trait in sorted(own.undoes & set(state), key=lambda trait: trait.name):
            before = "" if Trait.ENCODER in own.takes else f", or do {item.name} in a run before"
            raise InputError(f"recipe: {item.name} would undo {trait.value} of {state[trait]}; leave one of them out{before}")
        for trait in own.takes:
            state.pop(trait, None)
            takers[trait] = item.name
        state |= dict.fromkeys(own.makes, item.name)


def is_taught(items: Sequence[Settings]) -> bool:
    """Whether a recipe contains a training."""
    return any(Trait.TRAINING in item.effects(True).makes for item in items)


def in_order(items: Sequence[Settings]) -> list[Settings]:
    """The steps in the order in which their effects count: those that run during the training directly after it."""
    taught = is_taught(items)
    order: list[Settings] = []
    for item in items:
        if taught and item.trains(taught):
            continue
        order.append(item)
        if Trait.TRAINING in item.effects(taught).makes:
            order += [rider for rider in items if rider.trains(taught)]
    return order


def _missing(name: str, trait: Trait, taker: str | None) -> str:
    if trait is Trait.ENCODER:
        return f"recipe: {taker} is no encoder, and has nothing that {name} could change; leave one of them out"
    if trait is Trait.CUTS:
        return f"recipe: {name} trains what was cut, and nothing is cut before distill; add prune, or leave {name} out"
    if taker is None:
        return f"recipe: {name} is learned while distilling, and nothing is taught; add distill, or leave {name} out"
    return f"recipe: {taker} and {name} do not go in one run, since each takes the training over; do the second on the result of the first"


def check_name(field: str, value: Any, allowed: Sequence[str]) -> None:
    """Check that the value of a field is one of the allowed names; else `InputError`."""
    if value not in allowed:
        raise InputError(f"{field}: {value!r} is none; allowed are {', '.join(allowed)}")
