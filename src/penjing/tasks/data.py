"""Rows from a file or the hub, read with `datasets`, with one clear line for whatever is wrong with them."""

import codecs
import gzip
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from penjing.errors import InputError

Row = dict[str, Any]
FORMATS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}


def read_rows(source: str | Path) -> list[Row]:
    """All rows of a JSON Lines, CSV, TSV or Parquet file (also gzipped), or of `name[@config][:split]` on the hub."""
    path = Path(source)
    if path.is_file():
        return _read_file(path)
    if path.suffix or path.is_absolute() or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?(@[\w.-]+)?(:\w+)?", str(source)):
        raise InputError(f"data: {source} is no file; give a file, or a hub name as owner/name:split")
    return _read_hub(str(source))


def _read_file(path: Path) -> list[Row]:
    import datasets

    suffixes = [s for s in path.suffixes if s != ".gz"]
    kind = FORMATS.get(suffixes[-1] if suffixes else "")
    if kind is None:
        raise InputError(f"data: {path} ends in {path.suffix!r}; allowed are {', '.join(FORMATS)}, also with .gz")
    if kind != "parquet":
        _check_text(path)
    options: dict[str, Any] = {"sep": "\t", "quoting": 3} if ".tsv" in suffixes else {}
    if kind == "csv":
        options["keep_default_na"] = False
    datasets.disable_progress_bars()
    try:
        table = datasets.load_dataset(kind, data_files=str(path.resolve()), split="train", **options)
    except OSError as error:
        if error.errno == 28:  # a full disk is no fault of the data
            raise
        raise InputError(f"data: {path} cannot be read ({_first_line(error)})") from error
    except Exception as error:
        cause = error.__cause__ or error
        if "corresponds to no data" in str(error):
            raise InputError(f"data: {path} has no rows; give at least one") from error
        raise InputError(f"data: {path} is not well-formed {suffixes[-1]} ({_first_line(cause)})") from error
    if not len(table):
        raise InputError(f"data: {path} has no rows; give at least one")
    return _plain(table)


def _check_text(path: Path) -> None:
    """An empty file, or one that is not UTF-8, is an error that names the line."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    line, size = 1, 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            while block := file.read(1 << 20):
                size += len(block)
                line += decoder.decode(block).count("\n")
            decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        line += error.object[: error.start].count(b"\n")
        raise InputError(f"data: {path} is not UTF-8 (byte {error.object[error.start]:#04x} in line {line}); convert it") from error
    except (OSError, EOFError) as error:
        raise InputError(f"data: {path} cannot be read ({_first_line(error)})") from error
    if not size:
        raise InputError(f"data: {path} is empty; give at least one row")


def _read_hub(source: str) -> list[Row]:
    import datasets

    match = re.fullmatch(r"([^@:]+)(?:@([^:]+))?(?::(\w+))?", source)
    assert match
    name, config, split = match.groups()
    try:
        return _plain(datasets.load_dataset(name, config, split=split or "train"))
    except Exception as error:
        raise InputError(f"data: {source} is no file here, and the hub did not give it ({_first_line(error)})") from error


def _plain(table: Any) -> list[Row]:
    """Rows as dicts, with class numbers replaced by their names where the table knows them."""
    names: dict[str, Any] = {}
    for column, feature in table.features.items():
        inner = getattr(feature, "feature", feature)
        if hasattr(inner, "int2str"):
            names[column] = inner
    rows: list[Row] = table.to_list()
    for column, feature in names.items():
        for row in rows:
            value = row[column]
            known = value is not None and value != -1
            row[column] = [feature.int2str(v) for v in value] if isinstance(value, list) else feature.int2str(value) if known else None
    return rows


def pick_columns(rows: Sequence[Row], given: Sequence[str], known: Sequence[tuple[str, ...]], what: str, option: str) -> tuple[str, ...]:
    """The columns that hold `what`: those given, or the first known combination that the rows have."""
    columns = set(rows[0])
    for candidate in [tuple(given)] if given else known:
        if columns.issuperset(candidate):
            return candidate
    wanted = " + ".join(given) if given else " or ".join(" + ".join(candidate) for candidate in known)
    raise InputError(f"data: no column {wanted} for the {what}; the columns are {', '.join(sorted(columns))}; name it with {option}")


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__
