"""JSON records: a frozen dataclass is written as a JSON object, which is read back strictly as the dataclass.

The fields of a record are its keys; its annotations are the types of the values. Metadata of a field change that:

    value: float = field(metadata=named("quality"))     another key
    times: Times = field(metadata=MERGED)               the keys of the inner record stand beside this record's own
    sparsity: float | None = field(metadata=OPTIONAL)   None is written as no key at all
    student: Student | None = field(metadata=EMPTY)     None is written as {}

A record class with `VERSION: ClassVar[int]` is written with the key "version" and reads that version alone. A class that has `to_dict`
and the classmethod `from_dict` says its own object. Sequences are read as tuples, sets as frozensets.
"""

import dataclasses
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from collections.abc import Set as AbstractSet
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin

import numpy as np

from penjing.errors import InputError, reason_of, shown
from penjing.files.whole import Json

T = TypeVar("T")
MERGED: Mapping[str, Any] = {"merged": True}
"""Metadata of a field: the inner record's keys stand beside the outer record's; where it may be None, there are none of them."""
OPTIONAL: Mapping[str, Any] = {"optional": True}
"""Metadata of a field that may be None: None has no key."""
EMPTY: Mapping[str, Any] = {"empty": True}
"""Metadata of a field that may be None: None is the empty object."""
VERSION_KEY = "version"
ABSENT: Any = object()


def named(key: str) -> dict[str, Any]:
    """Metadata of a field whose key is not its name."""
    return {"key": key}


def to_json(record: object) -> Json:
    """The JSON object of a record."""
    value = _written(record)
    assert isinstance(value, dict), record
    return value


def from_json(kind: type[T], value: object, where: str) -> T:
    """The record of class `kind` in a JSON object.

    Raises:
        InputError: its message begins with `where`, and names the key that is missing, unknown or of another type.
    """
    return cast(T, _read(kind, value, where))


# -- writing ---------------------------------------------------------------------------------------------------


def _written(value: object) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Path):
        return str(value)
    if _says_its_own(type(value)):
        return cast(Any, value).to_dict()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _object_of(value)
    if isinstance(value, Mapping):
        assert all(isinstance(key, str) for key in value), value
        return {key: _written(part) for key, part in value.items()}
    if isinstance(value, AbstractSet):
        return sorted(_written(part) for part in value)
    if isinstance(value, (list, tuple)):
        return [_written(part) for part in value]
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def _object_of(record: Any) -> Json:
    pairs = list(_version_of(type(record)))
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if field.metadata.get("merged"):
            pairs += [] if value is None else _object_of(value).items()
        elif value is not None or not field.metadata.get("optional"):
            pairs.append((_key(field), {} if value is None and field.metadata.get("empty") else _written(value)))
    result = dict(pairs)
    assert len(result) == len(pairs), f"{type(record).__name__}: a key stands twice in {[key for key, _ in pairs]}"
    return result


def _version_of(kind: Any) -> Iterator[tuple[str, int]]:
    if hasattr(kind, "VERSION"):
        yield VERSION_KEY, kind.VERSION


def _key(field: "dataclasses.Field[Any]") -> str:
    return str(field.metadata.get("key", field.name))


def _says_its_own(kind: Any) -> bool:
    return hasattr(kind, "to_dict") and hasattr(kind, "from_dict")


# -- reading ---------------------------------------------------------------------------------------------------


def _read(kind: Any, value: object, where: str) -> Any:
    """A JSON value read as the annotation `kind`."""
    if kind in (Any, object):
        return value
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _read_union(get_args(kind), value, where)
    if origin is Literal:
        options = get_args(kind)
        return _checked(
            value, any(type(value) is type(option) and value == option for option in options), f"one of {_listed(options)}", where
        )
    if kind in _SIMPLE:
        return _SIMPLE[kind](value, where)
    if isinstance(kind, type) and _says_its_own(kind):
        fields = _mapping(value, where)
        try:
            return cast(Any, kind).from_dict(fields)
        except (LookupError, TypeError, ValueError) as error:
            raise InputError(f"{where}: {shown(value)} is none ({type(error).__name__}: {reason_of(error)})") from error
    if dataclasses.is_dataclass(kind):
        return _read_record(kind, _mapping(value, where), where)
    return _read_collection(origin or kind, get_args(kind), value, where)


def _read_union(options: Collection[Any], value: object, where: str) -> Any:
    """A value read as the first option of a union that fits; where none does, the error of the last."""
    if value is None and type(None) in options:
        return None
    others = [option for option in options if option is not type(None)]
    for option in others[:-1]:
        try:
            return _read(option, value, where)
        except InputError:
            continue
    return _read(others[-1], value, where)


def _read_record(kind: Any, given: Mapping[str, object], where: str) -> Any:
    keys = _keys(kind)
    for key in given:
        if key not in keys:
            raise InputError(f"{where}: {shown(key)} is unknown; known are {', '.join(sorted(keys))}")
    for key, version in _version_of(kind):
        _checked(given.get(key), given.get(key) == version, f"version {version}", f"{where}, {key}")
    hints = _hints(kind)
    values = dict[str, Any]()
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        if field.metadata.get("merged"):
            inner = _record_in(hint)
            own = {key: given[key] for key in given if key in _keys(inner)}
            values[field.name] = None if not own and inner is not hint else _read_record(inner, own, where)
            continue
        value = given.get(_key(field), None if field.metadata.get("optional") else ABSENT)
        if value is ABSENT:
            raise InputError(f"{where}: {_key(field)} is missing")
        values[field.name] = None if value == {} and field.metadata.get("empty") else _read(hint, value, f"{where}, {_key(field)}")
    return kind(**values)


def _read_collection(kind: Any, parts: tuple[Any, ...], value: object, where: str) -> Any:
    if isinstance(kind, type) and issubclass(kind, Mapping):
        inner = parts[1] if parts else Any
        return {key: _read(inner, part, f"{where}, {key}") for key, part in _mapping(value, where).items()}
    if not (isinstance(kind, type) and issubclass(kind, Collection)):
        raise TypeError(f"{where}: {kind} has no form in JSON")
    if not isinstance(value, (list, tuple)):
        raise InputError(f"{where}: {shown(value)} is not a list")
    if hasattr(kind, "_fields"):  # a NamedTuple
        hints = _hints(kind)
        return kind(*_read_each([hints[name] for name in kind._fields], value, where))
    if kind is tuple and parts and parts[-1] is not Ellipsis:
        return tuple(_read_each(parts, value, where))
    read = [_read(parts[0] if parts else Any, part, f"{where}, {number}") for number, part in enumerate(value)]
    return frozenset(read) if issubclass(kind, AbstractSet) else read if kind is list else tuple(read)


def _read_each(kinds: Collection[Any], values: Collection[object], where: str) -> list[Any]:
    _checked(values, len(values) == len(kinds), f"a list of {len(kinds)}", where)
    return [_read(kind, value, f"{where}, {number}") for number, (kind, value) in enumerate(zip(kinds, values, strict=True))]


def _checked(value: Any, right: bool, wanted: str, where: str) -> Any:
    if not right:
        raise InputError(f"{where}: {shown(value)} is not {wanted}")
    return value


def _mapping(value: object, where: str) -> dict[str, Any]:
    right = isinstance(value, Mapping) and all(isinstance(key, str) for key in value)
    return dict(_checked(value, right, "an object", where))


def _number(value: Any, where: str) -> float:
    return cast(float, _checked(value, isinstance(value, (int, float)) and not isinstance(value, bool), "a number", where))


_SIMPLE: dict[Any, Callable[[Any, str], Any]] = {
    bool: lambda value, where: _checked(value, type(value) is bool, "true or false", where),
    int: lambda value, where: _checked(value, type(value) is int, "a whole number", where),
    float: _number,
    str: lambda value, where: _checked(value, type(value) is str, "a text", where),
    Path: lambda value, where: Path(_checked(value, type(value) is str, "a path", where)),
    type(None): lambda value, where: _checked(value, value is None, "null", where),
}
"""Readers of the types that JSON has itself."""


# -- annotations of a record class ------------------------------------------------------------------------------


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


@cache
def _keys(kind: Any) -> frozenset[str]:
    """The keys that a record's object may have."""
    keys = {key for key, _ in _version_of(kind)}
    for field in dataclasses.fields(kind):
        keys |= _keys(_record_in(_hints(kind)[field.name])) if field.metadata.get("merged") else {_key(field)}
    return frozenset(keys)


def _record_in(hint: Any) -> Any:
    """The record class of an annotation that may allow None."""
    options = [option for option in get_args(hint) if option is not type(None)] or [hint]
    assert len(options) == 1 and dataclasses.is_dataclass(options[0]), f"{hint}: only a record can be merged"
    return options[0]


def _listed(options: Collection[object]) -> str:
    return ", ".join(map(repr, options))
