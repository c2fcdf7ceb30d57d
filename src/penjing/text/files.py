"""Files of rows: JSON Lines, a JSON array, CSV, TSV and Parquet, also gzipped.

Values are read as they are written: a cell of CSV and TSV is text, whatever it looks like; JSON and Parquet have types of their own.
Nothing is cached.
"""

import codecs
import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import IO, Any, TextIO, cast

from penjing.errors import InputError, reason_of
from penjing.files.whole import Json
from penjing.text.reading import Reading
from penjing.text.rows import Origin, Placed, Row, class_names, enumerated, kind_of

_LONGEST_FIELD = 2**31 - 1
_BEGINNINGS = {
    codecs.BOM_UTF32_LE: "give `encoding` utf-32, which is how it begins",  # before UTF-16's mark, which begins it
    codecs.BOM_UTF32_BE: "give `encoding` utf-32, which is how it begins",
    codecs.BOM_UTF16_LE: "give `encoding` utf-16, which is how it begins",
    codecs.BOM_UTF16_BE: "give `encoding` utf-16, which is how it begins",
    b"\x1f\x8b": "it is gzipped: end its name in .gz",
    b"PK\x03\x04": "it is an archive, as .xlsx is: write it as CSV",
    b"PAR1": "it is Parquet: end its name in .parquet",
}
"""What to do with a file that is no text, by its first bytes."""


def read_file(path: Path, reading: Reading) -> list[Row]:
    """Read all rows of a file, at least one; an `InputError` tells what is wrong, and where."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    kind = "".join(suffixes[-2:-1] if suffixes[-1:] == [".gz"] else suffixes[-1:])
    if kind not in _READERS:
        raise InputError(f"data: {path} ends in {path.suffix!r}; allowed are {', '.join(_READERS)}, also with .gz")
    try:
        try:
            rows = _READERS[kind](path, reading)
        except UnicodeError as error:
            raise InputError(_undecodable(path, reading.encoding)) from error
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"data: {path} cannot be read ({reason_of(error)})") from error
    if not rows:
        raise InputError(f"data: {path} has no rows; give at least one")
    return rows


def lines_of(path: Path, encoding: str, newline: str | None) -> Iterator[str]:
    """The lines of a text file, also gzipped, with their ends, but no byte order mark; `newline` is that of `open`.

    OSError, EOFError, zlib.error and UnicodeError where it cannot be read.
    """
    with _opened(path) as file, io.TextIOWrapper(file, encoding or "utf-8", newline=newline) as text:
        yield from _unmarked(text)


def _opened(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path) if path.suffix.lower() == ".gz" else open(path, "rb"))


def _unmarked(text: TextIO) -> Iterator[str]:
    yield text.readline().removeprefix("\ufeff")
    yield from text


def _rows_of_text(path: Path, reading: Reading, newline: str) -> Iterator[str]:
    """The lines of a file that has any."""
    lines = lines_of(path, reading.encoding, newline)
    first = next(lines)
    if not first:
        raise InputError(f"data: {path} is empty; give at least one row")
    if "\0" in first:
        raise InputError(
            f"data: {path}, line 1 holds a NUL character, as UTF-16 read as another encoding does; give its own with `encoding`"
        )
    return chain([first], lines)


def _undecodable(path: Path, encoding: str) -> str:
    """What a file that is not in its encoding is told, with the line."""
    name = encoding.upper() or "UTF-8"
    decoder = codecs.getincrementaldecoder(encoding or "utf-8")()
    line = 1
    where = ""
    with _opened(path) as file:
        begun = file.read(4)
        try:
            for block in chain([begun], iter(lambda: file.read(1 << 16), b""), [b""]):
                line += decoder.decode(block, final=not block).count("\n")
        except UnicodeDecodeError as bad:
            line += bad.object[: bad.start].count(b"\n")
            where = f" (byte {bad.object[bad.start]:#04x} in line {line})"
        except UnicodeError as bad:
            where = f" ({reason_of(bad)})"
    known = (fix for mark, fix in _BEGINNINGS.items() if begun.startswith(mark))
    fix = next(known, "give its own with `encoding`, as gbk or cp1252, or convert it")
    return f"data: {path} is not {name}{where}; {fix}"


# -- JSON ----------------------------------------------------------------------------------------------------------


def _json(path: Path, reading: Reading) -> list[Row]:
    """An object a line, or an array of objects."""
    decoder = _decoder()
    origin = Origin(str(path), "line")
    lines = _rows_of_text(path, reading, "\n")
    rows: list[Row] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            value = _decoded(decoder, line)
        except ValueError as error:
            if rows:
                raise InputError(_malformed(path, error, number, f", line {number}")) from error
            value = []
        if isinstance(value, list) and not rows:  # no row, but where an array or one long object begins
            return _whole(path, decoder, chain([line], lines), number)
        if not isinstance(value, dict):
            raise InputError(f'data: {path}, line {number} is {kind_of(value)}; give an object, as {{"text": "...", "label": "..."}}')
        rows.append(Placed(value.items(), origin, number))
    if len(rows) == 1:
        _check_flat(path, rows[0])
    return rows


def _whole(path: Path, decoder: json.JSONDecoder, lines: Iterable[str], begun: int) -> list[Row]:
    """A file that is one array of objects, or a single object over several lines."""
    text = "".join(lines)
    try:
        value = _decoded(decoder, text)
    except ValueError as error:
        raise InputError(_malformed(path, error, begun)) from error
    if isinstance(value, dict):
        _check_flat(path, value)
        value = [value]
    for i, row in enumerate(value, 1):
        if not isinstance(row, dict):
            raise InputError(f'data: {path}, row {i} is {kind_of(row)}; give an object, as {{"text": "...", "label": "..."}}')
    origin = Origin(str(path))
    return [Placed(row.items(), origin, i) for i, row in enumerate(value, 1)]


def _decoder() -> json.JSONDecoder:
    """A JSON decoder that refuses repeated keys in an object; equal keys of many rows share one string."""
    names: dict[str, str] = {}

    def whole(pairs: list[tuple[str, Any]]) -> Json:
        row = {names.setdefault(name, name): value for name, value in pairs}
        if len(row) < len(pairs):
            keys = [name for name, _ in pairs]
            raise ValueError(f"the key {next(name for name in keys if keys.count(name) > 1)!r} stands twice in one object")
        return row

    return json.JSONDecoder(object_pairs_hook=whole)


def _decoded(decoder: json.JSONDecoder, text: str) -> Any:
    try:
        return decoder.decode(text.rstrip(" \t\r\n"))  # so that what is missing at the end is missed in the last line
    except RecursionError:
        raise ValueError("lists or objects stand in one another too deep") from None


def _malformed(path: Path, error: ValueError, begun: int, place: str = "") -> str:
    """The message on malformed JSON that begins in line `begun`; `place` is used where the error has no line."""
    reason = reason_of(error)
    if isinstance(error, json.JSONDecodeError):
        place = f", line {begun + error.lineno - 1}"
        reason = f"{error.msg}, column {error.colno}"
    return f"data: {path}{place} is not well-formed JSON ({reason}); give an object a line, or one array of objects"


def _check_flat(path: Path, value: Row) -> None:
    """A file's only object is a row, unless it holds rows and no text."""
    held = [name for name, cell in value.items() if isinstance(cell, list) and cell and all(isinstance(row, dict) for row in cell)]
    if not held or any(isinstance(cell, str) for name, cell in value.items() if name != "version"):
        return
    if any("paragraphs" in row for row in value[held[0]]):
        raise InputError(
            f"data: {path} is nested as SQuAD is ({held[0]} > paragraphs > qas); answering questions is no task here: give rows of a text and a label"
        )
    raise InputError(f"data: {path} is one object that holds rows under {enumerated(held)}; give the rows alone, as an array or one a line")


# -- CSV and TSV ---------------------------------------------------------------------------------------------------


def _csv(path: Path, reading: Reading) -> list[Row]:
    return _delimited(path, reading, reading.separator or ",")


def _tsv(path: Path, reading: Reading) -> list[Row]:
    return _delimited(path, reading, reading.separator or "\t")


def _delimited(path: Path, reading: Reading, delimiter: str) -> list[Row]:
    """Rows of as many fields as there are names; every cell is text."""
    csv.field_size_limit(_LONGEST_FIELD)
    lines = _rows_of_text(path, reading, "")
    literal = False
    if delimiter == "\t":
        kept = list(lines)
        lines = iter(kept)
        literal = not (any('"' in line for line in kept) and _quoted("".join(kept)))
    reader = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE if literal else csv.QUOTE_MINIMAL, strict=True)
    names = reading.names
    rows = list[Row]()
    begun = 1
    origin = Origin(str(path), "line", header=not names)
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise InputError(
                f"data: {path}, line {begun}: {error}, in a field that begins with a quote; write quotes inside it twice, and one at its end"
            ) from error
        number = begun
        begun = reader.line_num + 1
        if cells is None:
            return rows
        if not cells:
            continue
        if not names:
            names = _header(path, cells, number)
            continue
        if len(cells) != len(names):
            there = "the line of names has" if origin.header else "`header` names"
            fix = "a text may hold no tab" if literal else f"a text that holds {delimiter!r} needs quotes around it"
            if len(cells) > len(names) and not any(cells[len(names) :]):
                fix = f"leave out the {delimiter!r} at its end"
            raise InputError(
                f"data: {path}, line {number} has {len(cells)} field{'s' if len(cells) > 1 else ''} and {there} {len(names)}; {fix}"
            )
        if not rows and not origin.header and [cell.strip() for cell in cells] == names:
            raise InputError(f"header: line {number} of {path} names these columns already; leave the option out")
        rows.append(Placed(((name, cell) for name, cell in zip(names, cells, strict=True) if name), origin, number))


def _header(path: Path, cells: list[str], number: int) -> list[str]:
    """The columns' names, without spaces around them; what has none is left out of the rows."""
    names = [cell.strip() for cell in cells]
    twice = next((name for i, name in enumerate(names) if name and name in names[:i]), None)
    if twice is not None:
        raise InputError(f"data: {path}, line {number} names the column {twice!r} twice; rename one")
    if not any(names):
        raise InputError(f"data: {path}, line {number} names no column; give the names there, or with `header`")
    return names


_FIELD = re.compile(r'(?:"([^"]*+(?:""[^"]*+)*+)"|([^"\t\r\n]*+))(\t|\r\n|\n|\r|\Z)')
_NEEDS = (re.compile(r'["\t\r\n]'), re.compile(r'["\t\r\n,]'))
"""What a field is quoted for: by pandas, LibreOffice and the csv module; by Excel."""


def _quoted(text: str) -> bool:
    """Whether the quotes of a TSV file stand around fields, as a spreadsheet writes them, or are part of the texts, as in GLUE.

    They stand around fields where all of them do, and either the names have them too, or exactly those fields have them that a spreadsheet
    would give them.
    """
    at = 0
    header = True
    named = False
    fields = list[tuple[bool, str]]()
    while at < len(text):
        match = _FIELD.match(text, at)
        if match is None:
            return False
        inside, plain, end = match.groups()
        named |= header and inside is not None
        header = header and end == "\t"
        if inside or plain:
            fields.append((inside is not None, inside or plain))
        at = match.end()
    return named or any(all(quoted == bool(need.search(field)) for quoted, field in fields) for need in _NEEDS)


# -- Parquet -------------------------------------------------------------------------------------------------------


def _parquet(path: Path, reading: Reading) -> list[Row]:
    import pyarrow
    from pyarrow import parquet

    with _opened(path) as file:
        content = file.read()
    if not content:
        raise InputError(f"data: {path} is empty; give at least one row")
    try:
        table = parquet.ParquetFile(io.BytesIO(content)).read(use_threads=False)
        names = table.column_names
        classes = _classes(table.schema.metadata)
    except (pyarrow.ArrowException, OSError, ValueError, LookupError, TypeError, AttributeError, MemoryError) as error:
        raise InputError(f"data: {path} is not well-formed .parquet ({reason_of(error)}); write it again") from error
    if len(set(names)) < len(names):
        raise InputError(f"data: {path} has two columns of one name, of {enumerated(names)}; rename one")
    columns: list[list[Any]] = []
    for name in names:
        try:
            values = table.column(name).to_pylist()
        except (pyarrow.ArrowException, ValueError, OverflowError, MemoryError, ImportError) as error:
            raise InputError(f"data: {path}: the column {name} cannot be read ({reason_of(error)}); leave it out") from error
        columns.append([class_names(value, classes[name]) for value in values] if name in classes else values)
    origin = Origin(str(path))
    return [Placed(zip(names, values, strict=True), origin, i) for i, values in enumerate(zip(*columns, strict=True), 1)]


def _classes(metadata: dict[bytes, bytes] | None) -> dict[str, list[str]]:
    """The names of class numbers by column, as `datasets` writes them beside the table."""
    about = (metadata or {}).get(b"huggingface")
    features = json.loads(about)["info"]["features"] if about else {}
    classes = {}
    for column, feature in features.items():
        inner = feature[0] if isinstance(feature, list) else feature.get("feature", feature)
        if isinstance(inner, dict) and inner.get("_type") == "ClassLabel":
            classes[column] = [str(name) for name in inner["names"]]
    return classes


_READERS: dict[str, Callable[[Path, Reading], list[Row]]] = {
    ".jsonl": _json, ".json": _json, ".csv": _csv, ".tsv": _tsv, ".parquet": _parquet,
}  # fmt: skip
