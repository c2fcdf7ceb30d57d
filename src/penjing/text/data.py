"""Where rows come from: the user's own files, or the hub, read with `datasets`; one clear line for whatever is wrong with them."""

import re
from pathlib import Path

from penjing.errors import InputError, reason_of
from penjing.text.files import read_file
from penjing.text.reading import Reading
from penjing.text.rows import Origin, Placed, Row, class_names

_HUB = re.compile(r"([\w.-]+(?:/[\w.-]+)?)(?:@([\w.-]+))?(?::(\w+))?")
"""owner/name@config:split."""


def read_rows(source: str | Path, reading: Reading = Reading()) -> list[Row]:
    """All rows of a JSON Lines, CSV, TSV or Parquet file (also gzipped), or of `name[@config][:split]` on the hub."""
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
