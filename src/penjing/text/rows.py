"""Rows of data with their place in the source, and the choice of columns by name."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, final

from penjing.errors import InputError
from penjing.text.encoding import readable

Row = dict[str, Any]
_SHOWN = 30
"""Names that a message lists at most."""


@dataclass(frozen=True)
class Origin:
    """The source of rows: its name ("" where they were given), the unit that its rows are counted in, and whether it has a header line."""

    source: str
    unit: str = "row"
    header: bool = False


@final
class Placed(Row):
    """A row with its origin and number."""

    __slots__ = ("number", "origin")

    def __init__(self, columns: Iterable[tuple[str, Any]], origin: Origin, number: int) -> None:
        super().__init__(columns)
        self.origin = origin
        self.number = number


def place_of(rows: Sequence[Row], i: int) -> str:
    """The place of row i for a message, as "x.csv, line 3"; of a given row, its number from 1."""
    row = rows[i]
    if not isinstance(row, Placed):
        return f"row {i + 1}"
    return ", ".join(filter(None, (row.origin.source, f"{row.origin.unit} {row.number}")))


def columns_in(rows: Iterable[Row]) -> dict[str, str]:
    """The columns that any of the rows has, by their names, and by those without the spaces around them."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name.strip(): name for name in names} | {name: name for name in names}


def pick_columns(rows: Sequence[Row], given: Sequence[str], known: Sequence[tuple[str, ...]], what: str, option: str) -> tuple[str, ...]:
    """The columns that hold `what`: those given, or the first known combination that the first row has, or else any row.

    Spaces around a name do not count, unless there is a column of exactly that name.
    """
    for some in (rows[:1], rows):
        columns = columns_in(some)
        for candidate in [tuple(given)] if given else known:
            present = [columns.get(name, columns.get(name.strip())) for name in candidate]
            if None not in present:
                return tuple(name for name in present if name is not None)
    wanted = " + ".join(given) if given else " or ".join(" + ".join(candidate) for candidate in known)
    raise InputError(f"data: {_source(rows)}no column {wanted} for the {what}; {_advice(rows, option)}")


def text_in(value: Any, column: str, rows: Sequence[Row], i: int) -> str:
    """What row i has in a column of texts."""
    if isinstance(value, str):
        return str(readable(value))
    if value is None:
        raise InputError(f"data: {place_of(rows, i)} has no {column}; every row needs one")
    fix = (
        "words and their tags are for `task` tagging"
        if isinstance(value, list)
        else "write it in quotes, or name the column with `text_columns`"
    )
    raise InputError(f"data: {place_of(rows, i)}: {column} is {kind_of(value)}, and a text is needed; {fix}")


def words_in(value: Any, column: str, rows: Sequence[Row], i: int) -> list[str]:
    """What row i has in a column of words."""
    if not isinstance(value, list):
        raise InputError(
            f"data: {place_of(rows, i)}: {column} is {kind_of(value)}, and tagging takes a list of words; split it, in JSON Lines or Parquet"
        )
    for number, word in enumerate(value, 1):
        if not isinstance(word, str):
            raise InputError(
                f"data: {place_of(rows, i)}: word {number} of {column} is {kind_of(word)}, and a text is needed; write it in quotes"
            )
    return [str(readable(word)) for word in value]


def kind_of(value: Any) -> str:
    """What a value is, as JSON calls it, for a message."""
    kinds = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "a text",
        list: "a list",
        dict: "an object",
        type(None): "null",
    }
    return kinds.get(type(value)) or f"a {type(value).__name__}"


def enumerated(names: Iterable[str]) -> str:
    """Names in a message: in quotes where spaces or the like would hide, and not too many of them."""
    names = list(names)
    shown = [repr(name) if name != name.strip() or not name.isprintable() or not name else name for name in names[:_SHOWN]]
    return ", ".join(shorter(name, 60) for name in shown) + (", ..." if len(names) > _SHOWN else "")


def shorter(text: str, most: int) -> str:
    """The beginning of a text, for a message."""
    return text if len(text) <= most else text[:most] + " ..."


def class_names(value: Any, names: Sequence[str]) -> Any:
    """A class number, or each of a list of them, by its name; -1 is that of no class, and other numbers stay as they are."""
    if isinstance(value, list):
        return [class_names(number, names) for number in value]
    if not isinstance(value, int) or not -1 <= value < len(names):
        return value
    return None if value == -1 else names[value]


def _source(rows: Sequence[Row]) -> str:
    return f"{rows[0].origin.source}: " if isinstance(rows[0], Placed) and rows[0].origin.source else ""


def _advice(rows: Sequence[Row], option: str) -> str:
    """The columns there are, and what to do about one that is missing."""
    names = sorted({name for row in rows for name in row})
    advice = f"the columns are {enumerated(names)}; name it with `{option}`"
    origin = rows[0].origin if isinstance(rows[0], Placed) else Origin("")
    if not origin.header:
        return advice
    other = re.search(r"[;|\t,]", names[0]) if len(names) == 1 else None
    if other:
        return f"{advice}, or give what stands between two fields, as `delimiter` {'tab' if other[0] == chr(9) else repr(other[0])}"
    return f"{advice}, or, where the file has no line of names, all columns with `header`"
