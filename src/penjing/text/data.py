"""Data sources: rows from the user's files, from the hub by `datasets`, or given; errors are one-line `InputError`s."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from penjing.errors import InputError, reason_of
from penjing.text.files import read_file
from penjing.text.reading import Reading
from penjing.text.rows import Origin, Placed, Row, class_names

_HUB = re.compile(r"([\w.-]+(?:/[\w.-]+)?)(?:@([\w.-]+))?(?::(\w+))?")
"""owner/name@config:split."""


Source = str | Path | Sequence[Mapping[str, Any]]
"""A data source: a file, a name on the hub, or the rows themselves."""


def read_rows(source: Source, reading: Reading = Reading()) -> list[Row]:
    """Read all rows of a data source.

    source: a JSON Lines, CSV, TSV or Parquet file (also gzipped), `name[@config][:split]` on the hub, or the rows themselves.
    """
    if not isinstance(source, (str, Path)):
        return _given(source)
    path = Path(source)
    try:
        if path.is_file():
            return read_file(path, reading)
        folder = path.is_dir()
    except OSError as error:
        raise InputError(f"data: {source} cannot be read ({reason_of(error)})") from error
    if folder or path.suffix or path.is_absolute() or not _HUB.fullmatch(str(source)):
        raise InputError(f"data: {source} is {'a folder' if folder else 'no file'}; give a file, or a hub name as owner/name:split")
    return _read_hub(str(source))


def named(source: Source, what: str = "data") -> str:
    """The name of a source in a message: its own, or `what` where rows were given."""
    return str(source) if isinstance(source, (str, Path)) else f"the rows of {what}"


def _given(rows: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Given rows, checked and copied; each with its place, that in a file where it was read from one."""
    if not rows or not all(isinstance(row, Mapping) and all(isinstance(name, str) for name in row) for row in rows):
        raise InputError("data: rows are given that are none; give at least one, each a mapping of column names to values")
    places = ((row.origin, row.number) if isinstance(row, Placed) else (Origin(""), i) for i, row in enumerate(rows, 1))
    return [Placed(row.items(), *place) for row, place in zip(rows, places, strict=True)]


def _read_hub(source: str) -> list[Row]:
    import datasets

    match = _HUB.fullmatch(source)
    assert match
    name, config, split = match.groups()
    datasets.disable_progress_bars()
    try:
        table = datasets.load_dataset(name, config, split=split or "train")
        rows = table.to_list()
    except Exception as error:
        raise InputError(f"data: {source} is no file here, and the hub did not give it ({reason_of(error)})") from error
    if not rows:
        raise InputError(f"data: {source} has no rows; give at least one")
    inner = {column: getattr(feature, "feature", feature) for column, feature in table.features.items()}
    classes = {column: feature.names for column, feature in inner.items() if hasattr(feature, "int2str")}
    origin = Origin(source)
    return [
        Placed(((column, class_names(value, classes[column]) if column in classes else value) for column, value in row.items()), origin, i)
        for i, row in enumerate(rows, 1)
    ]
