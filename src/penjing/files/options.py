"""What a field of settings tells of itself: help, range and allowed names, for the command line and for YAML."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

KEY = "option"
PANELS = ("data", "budget", "method", "training", "machine", "output")
"""The groups in which the command line shows options."""


@dataclass(frozen=True)
class Option:
    """Of one field.

    least, most: of a number; least None: it has to be above 0. allowed: names; empty: any. name: of the option on the command line, where it is not the
    field's own. panel: one of `PANELS`. required: whether the command line asks for it.
    """

    help: str = ""
    least: float | None = 0
    most: float = math.inf
    allowed: Sequence[str] = ()
    name: str = ""
    panel: str = "method"
    required: bool = False


def option(default: Any, help: str = "", **details: Any) -> Any:
    """A field of a dataclass with this default, or `default_factory` where it is a function, and what `Option` says of it."""
    metadata = {KEY: Option(help, **details)}
    if callable(default):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def option_of(field: "dataclasses.Field[Any]") -> Option | None:
    """What a field tells of itself; None where it tells nothing."""
    found = field.metadata.get(KEY)
    return found if isinstance(found, Option) else None


def like(kind: Any, name: str, /, default: Any = dataclasses.MISSING, **changes: Any) -> Any:
    """A field like that of another dataclass, with another default or other details where they are given."""
    field = next(each for each in dataclasses.fields(kind) if each.name == name)
    described = dataclasses.replace(option_of(field) or Option(), **changes)
    metadata = {KEY: described}
    if default is not dataclasses.MISSING:
        return dataclasses.field(default=default, metadata=metadata)
    if field.default_factory is not dataclasses.MISSING:
        return dataclasses.field(default_factory=field.default_factory, metadata=metadata)
    return dataclasses.field(default=field.default, metadata=metadata)
