"""Labels of the data as text: parsing, checks, and their order in the model's outputs."""

import math
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from penjing.errors import InputError
from penjing.text.encoding import readable

IGNORED = -100
"""The label number of a token or text that carries none, and the tag in data of a word that does not count."""
_MANY = 20
"""Different labels from which on they may be scores, or each row's own."""


def label_text(value: Any) -> str | None:
    """A label as text: a name without the spaces around it, a number the same however it is written (1 and 1.0), True or False.

    "" where it is missing (null, NaN, nothing but spaces); None where it is no label but a list or the like.
    """
    if isinstance(value, str):
        return str(readable(value)).strip()
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    return str(value) if isinstance(value, int) else None


def is_number(name: str) -> bool:
    """Whether a label is a whole number, as it is usually written."""
    return re.fullmatch(r"0|-?[1-9][0-9]{0,17}", name) is not None


def is_score(value: Any) -> bool:
    """Whether a value is a number that is not whole, and so no class."""
    return isinstance(value, float) and math.isfinite(value) and not value.is_integer()


def ordered(names: Iterable[str]) -> list[str]:
    """Label names in the order of the model's outputs: numbers by value, tags by type with O first."""
    names = set(names)
    if all(map(is_number, names)):
        return sorted(names, key=int)
    return sorted(names, key=lambda name: (name != "O", name[2:] if name[1:2] == "-" else name, name))


def check_classes(counts: Counter[str], column: str) -> None:
    """Check that labels, counted by row, are classes to learn; else `InputError`."""
    if len(counts) < 2:
        raise InputError(f"data: the only label is {next(iter(counts), 'none')}; training needs at least two")
    if len(counts) > _MANY and all(re.fullmatch(r"-?[0-9]+(\.[0-9]*)?", name) for name in counts) and any("." in name for name in counts):
        raise InputError(scores_said(f"{column} has {len(counts)} different numbers, as {next(iter(counts))}"))
    if len(counts) > _MANY and 2 * len(counts) > counts.total():
        raise InputError(
            f"data: {column} has {len(counts)} different labels in {counts.total()} rows, as {next(iter(counts))!r}; a class needs several: give"
            " the labels' column with `label_column`"
        )


def scores_said(what: str) -> str:
    """The message on scores in place of classes."""
    return f"data: {what}: these are scores, and regression is not supported; give classes: round the scores or group them, and write them as text"
