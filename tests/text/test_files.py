"""Files of rows: what is written is what is read, in every format; a bad file is one clear line that says where."""

import csv
import encodings.aliases
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from penjing.errors import InputError
from penjing.text.data import read_rows
from penjing.text.files import lines_of
from penjing.text.reading import Reading
from penjing.text.rows import place_of

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
CHARACTERS = st.characters(exclude_categories=["Cs"])
MARKS = st.sampled_from(
    [*",;\t\"'\r\n\0\\ |\u2028\x85\ufeff", "007", "1.10", "NA", "null", "None", "2020-01-01", "true", ""],
)
TEXT = st.lists(st.one_of(MARKS, st.text(CHARACTERS, max_size=4)), max_size=5).map("".join)
TABLE = st.lists(st.fixed_dictionaries({"text": TEXT, "label": TEXT}), min_size=1, max_size=6)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), TEXT, st.just("\ud83d")),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=6,
)


def write(path: Path, content: bytes | str) -> Path:
    """A file of this content, gzipped where it is called so."""
    content = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(content, 1) if path.suffix == ".gz" else content)
    return path


def said_of(path: Path, reading: Reading = Reading()) -> str:
    """The one line that a file is refused with."""
    with pytest.raises(InputError) as caught:
        read_rows(path, reading)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    return str(caught.value)


# -- there and back ------------------------------------------------------------------------------------------------


@given(
    TABLE, st.sampled_from([",", ";", "\t", "、"]), st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]), st.booleans()
)
def test_csv_and_tsv_give_back_every_text(tmp_path: Path, rows: list[dict[str, str]], delimiter: str, quoting: int, zipped: bool) -> None:
    file = io.StringIO()
    writer = csv.DictWriter(file, ["text", "label"], delimiter=delimiter, quoting=quoting)  # type: ignore[arg-type]
    writer.writeheader()
    writer.writerows(rows)
    path = write(tmp_path / ("a.tsv" if delimiter == "\t" else "a.csv") if not zipped else tmp_path / "a.csv.gz", file.getvalue())
    assert read_rows(path, Reading(delimiter=delimiter)) == rows


@given(TABLE.filter(lambda rows: not any(mark in text for row in rows for text in row.values() for mark in "\t\r\n")))
def test_tsv_as_glue_writes_it_gives_back_every_text(tmp_path: Path, rows: list[dict[str, str]]) -> None:
    rows = [*rows, {"text": 'he said "no', "label": ""}]
    path = write(tmp_path / "a.tsv", "text\tlabel\n" + "".join(f"{row['text']}\t{row['label']}\n" for row in rows))
    assert read_rows(path) == rows


@given(st.lists(st.dictionaries(TEXT, JSON, max_size=3).map(lambda row: row | {"text": "x"}), min_size=1, max_size=4), st.booleans())
def test_json_gives_back_every_value(tmp_path: Path, rows: list[dict[str, Any]], plain: bool) -> None:
    text = [json.dumps(row, ensure_ascii=not plain) for row in rows]
    lines, array = "".join(f"{line}\n" for line in text), json.dumps(rows, ensure_ascii=not plain, indent=1)
    for name, content in (("a.jsonl", lines), ("a.json.gz", lines), ("b.json", array)):
        path = write(tmp_path / name, content.encode("utf-8", "replace"))
        assert read_rows(path) == json.loads(array.encode("utf-8", "replace"))


@given(
    st.lists(st.tuples(TEXT, st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)), st.lists(TEXT, max_size=3)), min_size=1, max_size=5)
)
def test_parquet_gives_back_every_value(tmp_path: Path, rows: list[tuple[Any, ...]]) -> None:
    table = [dict(zip(("text", "label", "tags"), row, strict=True)) for row in rows]
    file = io.BytesIO()
    schema = pyarrow.schema([("text", pyarrow.string()), ("label", pyarrow.int64()), ("tags", pyarrow.list_(pyarrow.string()))])
    parquet.write_table(pyarrow.Table.from_pylist(table, schema), file)
    for name in ("a.parquet", "a.parquet.gz"):
        assert read_rows(write(tmp_path / name, file.getvalue())) == table


# -- bytes ---------------------------------------------------------------------------------------------------------


def bytes_of(suffix: str) -> bytes:
    """A whole file."""
    if suffix == ".parquet":
        file = io.BytesIO()
        table = pyarrow.table({"text": ["good", "bad"], "label": pyarrow.array(["a", "b"]).dictionary_encode(), "n": [1.5, None]})
        parquet.write_table(table, file, compression="gzip")
        return file.getvalue()
    if suffix in (".jsonl", ".json"):
        return b'{"text": "g\\u00f6od", "label": 1, "n": [1.5, null]}\n{"text": "bad", "label": 0, "n": {"a": true}}\n'
    return f'text{"," if suffix == ".csv" else chr(9)}label\n"good ""film"""{"," if suffix == ".csv" else chr(9)}1\n'.encode()


def read_or_refused(path: Path, reading: Reading = Reading()) -> None:
    """Rows, or one line, and nothing else."""
    try:
        assert read_rows(path, reading)
    except InputError as error:
        assert "\n" not in str(error)


@given(st.sampled_from(SUFFIXES), st.booleans(), st.binary(max_size=200), st.sampled_from(["", "utf-16", "gbk", "utf-7"]))
def test_any_bytes_are_rows_or_one_line(tmp_path: Path, suffix: str, zipped: bool, content: bytes, encoding: str) -> None:
    read_or_refused(write(tmp_path / f"a{suffix}{'.gz' if zipped else ''}", content), Reading(encoding=encoding))


@given(
    st.sampled_from(SUFFIXES),
    st.booleans(),
    st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=4),
    st.integers(0, 4000),
)
def test_a_damaged_file_is_rows_or_one_line(
    tmp_path: Path, suffix: str, zipped: bool, changes: list[tuple[int, int]], cut: int
) -> None:  # fmt: skip
    whole = bytes_of(suffix)
    content = bytearray(gzip.compress(whole) if zipped else whole)
    for place, value in changes:
        content[place % len(content)] = value
    path = tmp_path / f"a{suffix}{'.gz' if zipped else ''}"
    path.write_bytes(content if cut > len(content) else content[:cut])
    read_or_refused(path)


def test_every_encoding_that_python_knows_reads_or_refuses(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "text,label\ngood,1\n")
    for name in sorted({*encodings.aliases.aliases.values(), "idna", "punycode", "unicode_escape", "undefined"}):
        try:
            reading = Reading(encoding=name)
        except InputError:
            continue
        read_or_refused(path, reading)


# -- text as it is written -----------------------------------------------------------------------------------------


def test_every_cell_is_text(tmp_path: Path) -> None:
    cells = ["007", "1.10", "0101", "2020-01-01", "true", "NA", "null", "None", "nan", "", " a ", "1e5", "∞"]
    for suffix, mark in ((".csv", ","), (".tsv", "\t")):
        path = write(tmp_path / f"a{suffix}", "text" + mark + "label\n" + "".join(f"{cell}{mark}{cell}\n" for cell in cells))
        assert read_rows(path) == [{"text": cell, "label": cell} for cell in cells]
    rows = read_rows(write(tmp_path / "a.jsonl", '{"text": "2020-01-01", "n": 12345678901234567890123, "x": 1.0, "y": null}\n'))
    assert rows == [{"text": "2020-01-01", "n": 12345678901234567890123, "x": 1.0, "y": None}]


def test_a_byte_order_mark_windows_ends_and_blank_lines_are_understood(tmp_path: Path) -> None:
    assert read_rows(write(tmp_path / "a.csv", '\ufeff"text", label\r\n\r\ngood,1\r\n\r\n')) == [{"text": "good", "label": "1"}]
    assert read_rows(write(tmp_path / "a.jsonl", '\ufeff\r\n{"text": "good"}\r\n\n')) == [{"text": "good"}]
    assert read_rows(write(tmp_path / "b.csv", "text,label\rgood,1\rbad,0\r"))[1] == {"text": "bad", "label": "0"}
    assert list(lines_of(write(tmp_path / "a.txt", "\ufeffa\nb\n"), "", None)) == ["a\n", "b\n"]


def test_columns_without_a_name_are_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", ",text,label,\n0,good,1,\n1,bad,0,\n")  # as pandas and spreadsheets write them
    assert read_rows(path) == [{"text": "good", "label": "1"}, {"text": "bad", "label": "0"}]


def test_a_long_field_is_read(tmp_path: Path) -> None:
    assert len(read_rows(write(tmp_path / "a.csv", f"text\n{'x' * 300_000}\n"))[0]["text"]) == 300_000


@pytest.mark.parametrize(
    ("lines", "texts"),
    [
        (['"yes, I do"\t1', "no\t0"], ["yes, I do", "no"]),  # Excel quotes for a comma
        (['"yes, I do"\t1', "no, I do not\t0"], ['"yes, I do"', "no, I do not"]),  # nobody does for some of them
        (['"he said ""no"""\t1', "a b\t0"], ['he said "no"', "a b"]),
        (['"he said ""no"""\t1', 'so "what\t0'], ['"he said ""no"""', 'so "what']),
        (['"a\tb"\t1', '"c\nd"\t0'], ["a\tb", "c\nd"]),
        (['"Hello"\t1', "a b\t0"], ['"Hello"', "a b"]),  # Google Sheets and GLUE quote nothing
    ],
)
def test_quotes_in_tsv_are_a_spreadsheets_or_the_texts_own(tmp_path: Path, lines: list[str], texts: list[str]) -> None:
    path = write(tmp_path / "a.tsv", "text\tlabel\n" + "".join(f"{line}\n" for line in lines))
    assert [row["text"] for row in read_rows(path)] == texts


def test_tsv_whose_names_are_quoted_is_quoted_throughout(tmp_path: Path) -> None:
    assert read_rows(write(tmp_path / "a.tsv", '"text"\t"label"\n"good"\t1\n')) == [{"text": "good", "label": "1"}]


def test_options_say_how_a_file_is_read(tmp_path: Path) -> None:
    rows = [{"text": "很好", "label": "1"}]
    for encoding in ("gbk", "utf-16", "utf-16-le", "utf-32"):
        path = write(tmp_path / "a.csv", "text,label\n很好,1\n".encode(encoding))
        assert read_rows(path, Reading(encoding=encoding)) == rows
        path = write(tmp_path / "a.jsonl", '{"text": "很好", "label": "1"}\n'.encode(encoding))
        assert read_rows(path, Reading(encoding=encoding)) == rows
    assert read_rows(write(tmp_path / "a.csv", "text;label\n很好;1\n"), Reading(delimiter=";")) == rows
    assert read_rows(write(tmp_path / "a.csv", "很好,x,1\n"), Reading(header="text,,label")) == rows
    assert read_rows(write(tmp_path / "a.CSV", "text|label\n很好|1\n"), Reading(delimiter="|")) == rows


def test_later_rows_of_json_may_have_another_shape(tmp_path: Path) -> None:
    lines = '{"text": "a", "meta": null}\n{"text": "b", "meta": {"x": 1}, "source": "y"}\n{"meta": "2020-01-01", "text": "c"}\n'
    assert [row["text"] for row in read_rows(write(tmp_path / "a.jsonl", lines))] == ["a", "b", "c"]
    one = '{\n "text": "a",\n "entities": [{"start": 0}]\n}'
    assert read_rows(write(tmp_path / "a.json", one)) == [{"text": "a", "entities": [{"start": 0}]}]


def test_class_numbers_that_datasets_wrote_to_parquet_have_their_names(tmp_path: Path) -> None:
    names = {"names": ["neg", "pos"], "_type": "ClassLabel"}
    features = {"text": {"dtype": "string", "_type": "Value"}, "label": names, "tags": {"feature": names, "_type": "List"}, "old": [names]}
    table = pyarrow.table({"text": ["a", "b"], "label": [1, -1], "tags": [[0, 1], [-100]], "old": [[1], []]})
    about = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    parquet.write_table(table.replace_schema_metadata(about), tmp_path / "a.parquet")
    assert read_rows(tmp_path / "a.parquet") == [
        {"text": "a", "label": "pos", "tags": ["neg", "pos"], "old": ["pos"]},
        {"text": "b", "label": None, "tags": [-100], "old": []},
    ]


def test_a_row_knows_where_it_stands(tmp_path: Path) -> None:
    rows = read_rows(write(tmp_path / "a.csv", 'text\n\n"a\nb"\nc\n'))
    assert [place_of(rows, i) for i in range(2)] == [f"{tmp_path / 'a.csv'}, line {n}" for n in (3, 5)]
    assert place_of(read_rows(write(tmp_path / "a.json", '[{"a": 1}, {"a": 2}]')), 1).endswith("a.json, row 2")


# -- bad files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", b"", "is empty; give at least one row"),
        ("a.parquet", b"", "is empty"),
        ("a.csv", b"text,label\n", "has no rows; give at least one"),
        ("a.json", b"[]", "has no rows"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "\xff\xfe"}\n', "is not UTF-8 (byte 0xff in line 2); give its own with `encoding`"),
        ("a.csv", "text\n很好\n".encode("gbk"), "is not UTF-8 (byte 0xba in line 2); give its own with `encoding`"),
        ("a.csv", "text\na\n".encode("utf-16"), "give `encoding` utf-16, which is how it begins"),
        ("a.csv", "text\na\n".encode("utf-16-le"), "line 1 holds a NUL character"),
        ("a.csv", "text\na\n".encode("utf-32"), "give `encoding` utf-32"),
        ("a.csv", gzip.compress(b"text\na\n", mtime=0), "it is gzipped: end its name in .gz"),
        ("a.csv", b"PK\x03\x04\x14\x00\xff", "it is an archive, as .xlsx is: write it as CSV"),
        ("a.csv", b"text\na\xe5", "is not UTF-8 (byte 0xe5 in line 2)"),
        ("a.txt", b"hello", "ends in '.txt'; allowed are .jsonl, .json, .csv, .tsv, .parquet"),
        ("a.gz", b"hello", "ends in '.gz'"),
        ("a.jsonl.gz", b"not gzip", "cannot be read"),
        ("a.csv.gz", gzip.compress(b"text\n" + bytes(range(65, 90)) * 99, mtime=0)[:-12], "cannot be read"),
        ("a.parquet", b"PAR1 no", "not well-formed .parquet"),
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', "line 2 is not well-formed JSON (Expecting value, column 9"),
        ("a.jsonl", b'\n{"text": \n', "line 2 is not well-formed JSON"),
        ("a.jsonl", b'{"text": "a"}\n["text"]\n', "line 2 is a list; give an object"),
        ("a.jsonl", b"7\n", "line 1 is a number; give an object"),
        ("a.jsonl", b'["text", "label"]\n["a", "b"]\n', "line 2 is not well-formed JSON (Extra data"),
        ("a.json", b'[{"text": "a"}, null]', "row 2 is null; give an object"),
        ("a.jsonl", b'{"text": "a", "text": "b"}\n', "the key 'text' stands twice in one object"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "a", "text": "b"}\n', "line 2 is not well-formed JSON (the key 'text' stands twice"),
        ("a.jsonl", b"[" * 100_000, "stand in one another too deep"),
        ("a.jsonl", b'{"n": ' + b"9" * 5000 + b"}\n", "not well-formed JSON (Exceeds the limit"),
        ("a.json", b'{"version": "1.1", "data": [{"title": "x", "paragraphs": []}]}', "is nested as SQuAD is (data > paragraphs > qas)"),
        ("a.json", b'{\n"data": [{"text": "a"}]\n}', "is one object that holds rows under data; give the rows alone"),
        ("a.csv", b"text,label\ngood film, really,positive\n", "line 2 has 3 fields and the line of names has 2; a text that holds ','"),
        ("a.csv", b"text,label\n\ngood\n", "line 3 has 1 field and the line of names has 2"),
        ("a.tsv", b"text\tlabel\ngood\t1\nbad\t0\tx\n", "line 3 has 3 fields and the line of names has 2; a text may hold no tab"),
        ("b.csv", b"text,label\ngood,1,\n", "line 2 has 3 fields and the line of names has 2; leave out the ',' at its end"),
        ("a.csv", b'text,label\n"good,1\nbad,0\n', "line 2: unexpected end of data, in a field that begins with a quote"),
        ("a.csv", b'text,label\ngood,1\n"good" film,1\n', "line 3: ',' expected after"),
        ("a.csv", b"text, text\na,b\n", "line 1 names the column 'text' twice; rename one"),
        ("a.csv", b",\na,b\n", "line 1 names no column; give the names there, or with `header`"),
    ],
)
def test_a_bad_file_is_one_clear_line(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert said in said_of(tmp_path / name)


def test_names_that_are_given_are_held_against_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "text,label\ngood,1\n")
    assert "line 1 of" in said_of(path, Reading(header="text,label")) and "leave the option out" in said_of(
        path, Reading(header="text,label")
    )
    assert "line 1 has 2 fields and `header` names 3" in said_of(path, Reading(header="id,text,label"))


@pytest.mark.parametrize("about", ["{", "[]", '{"info": 7}', '{"info": {"features": {"text": 7}}}', '{"info": {"features": {"text": []}}}'])
def test_damaged_names_of_classes_are_refused(tmp_path: Path, about: str) -> None:
    table = pyarrow.table({"text": ["a"]}).replace_schema_metadata({b"huggingface": about.encode()})
    parquet.write_table(table, tmp_path / "a.parquet")
    assert "not well-formed .parquet" in said_of(tmp_path / "a.parquet")


def test_parquet_with_two_columns_of_one_name_is_refused(tmp_path: Path) -> None:
    table = pyarrow.Table.from_arrays([pyarrow.array(["a"]), pyarrow.array(["b"])], names=["text", "text"])
    parquet.write_table(table, tmp_path / "a.parquet")
    assert "has two columns of one name, of text, text" in said_of(tmp_path / "a.parquet")
