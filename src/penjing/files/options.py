"""Metadata of settings fields: help, range and allowed names, for the command line and for YAML."""

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from penjing.errors import InputError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

KEY = "option"
PANELS = ("data", "budget", "method", "training", "machine", "output")
"""The help panels in which the command line groups options."""


@dataclass(frozen=True)
class Option:
    """The metadata of one field.

    least, most: range of a number; least None: it must be above 0. allowed: names; empty: any. name: of the option on the command line,
    where it is not the field's own. panel: one of `PANELS`. required: whether the command line requires it.
    """

    help: str = ""
    least: float | None = 0
    most: float = math.inf
    allowed: Sequence[str] = ()
    name: str = ""
    panel: str = "method"
    required: bool = False


def option(default: Any, help: str = "", **details: Any) -> Any:
    """A dataclass field with this default (a function is its `default_factory`) and the metadata of an `Option`."""
    metadata = {KEY: Option(help, **details)}
    if callable(default):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def option_of(field: "dataclasses.Field[Any]") -> Option | None:
    """The metadata of a field; None where it has none."""
    described = field.metadata.get(KEY)
    return described if isinstance(described, Option) else None


def refuse_idle(*options: tuple[str, object, str]) -> None:
    """An `InputError` for the first option that would go nowhere: each a name, whether it is given in vain, and what to do about it."""
    for name, idle, fix in options:
        if idle:
            raise InputError(f"{name}: nothing asks for it; {fix}")


def changed(options: "DataclassInstance", name: str) -> bool:
    """Whether an option is given: a value that is not its field's default."""
    return bool(getattr(options, name) != next(field.default for field in dataclasses.fields(options) if field.name == name))


def like(kind: Any, name: str, /, default: Any = dataclasses.MISSING, **changes: Any) -> Any:
    """A dataclass field like that of another class, with another default or other metadata where they are given."""
    field = next(field for field in dataclasses.fields(kind) if field.name == name)
    described = dataclasses.replace(option_of(field) or Option(), **changes)
    metadata = {KEY: described}
    if default is not dataclasses.MISSING:
        return dataclasses.field(default=default, metadata=metadata)
    if field.default_factory is not dataclasses.MISSING:
        return dataclasses.field(default_factory=field.default_factory, metadata=metadata)
    return dataclasses.field(default=field.default, metadata=metadata)


def parts_of(options: Mapping[str, Any], *kinds: Any, unread: Collection[str] = ()) -> list[Any]:
    """Instances of these dataclasses, made of the options that are their fields; `InputError` for one that is unknown, or unread."""
    known = {field.name for kind in kinds for field in dataclasses.fields(kind)} - {*unread}
    unknown = [name for name in options if name not in known]
    if unknown:
        raise InputError(f"{unknown[0]}: there is no such option; allowed are {', '.join(sorted(known))}")
    parts = []
    for kind in kinds:
        names = [field.name for field in dataclasses.fields(kind) if field.name in options]
        parts.append(kind(**{name: options[name] for name in names}))
    return parts
