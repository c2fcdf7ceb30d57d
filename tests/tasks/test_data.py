"""Reading data: every format gives the same rows, and bad files one clear line."""

import gzip
import json
from pathlib import Path

import pytest

from penjing.errors import InputError
from penjing.tasks.data import read_rows

ROWS = [{"text": "很好,\t真的 “不错”", "label": "1"}, {"text": "not bad\tat all", "label": "0"}, {"text": "null", "label": "NA"}]


def _write(folder: Path, kind: str) -> Path:
    import pandas

    path = folder / f"rows.{kind}"
    frame = pandas.DataFrame(ROWS)
    if kind.startswith("jsonl"):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
        path.write_bytes(gzip.compress(text.encode()) if kind.endswith("gz") else text.encode())
    elif kind.startswith("csv"):
        frame.to_csv(path, index=False)
    elif kind == "parquet":
        frame.to_parquet(path)
    return path


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "csv", "csv.gz", "parquet"])
def test_every_format_gives_the_same_rows(tmp_path: Path, kind: str) -> None:
    assert [{k: str(v) for k, v in row.items()} for row in read_rows(_write(tmp_path, kind))] == ROWS


def test_tsv_takes_quotes_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "rows.tsv"
    path.write_text('text\tlabel\nhe said "no\t1\nfine\t0\n')
    assert read_rows(path) == [{"text": 'he said "no', "label": 1}, {"text": "fine", "label": 0}]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", b"", "is empty"),
        ("a.csv", b"text,label\n", "has no rows"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "\xff\xfe"}\n', "is not UTF-8 (byte 0xff in line 2)"),
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', "not well-formed"),
        ("a.txt", b"hello", "allowed are .jsonl"),
        ("a.jsonl.gz", b"not gzip", "cannot be read"),
        ("a.parquet", b"PAR1 no", "not well-formed"),
    ],
)
def test_a_bad_file_is_one_clear_line(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_rows(tmp_path / name)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no file"):
        read_rows(tmp_path / "none.jsonl")
