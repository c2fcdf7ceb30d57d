"""Where rows come from: a file, read anew each time, or the hub; else one clear line."""

import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest

from penjing.errors import InputError
from penjing.text.data import read_rows
from penjing.text.rows import pick_columns, place_of


def test_a_file_that_changed_under_its_old_time_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    for text in ("good", "bad!"):
        path.write_text(f'{{"text": "{text}"}}\n')
        os.utime(path, (1e9, 1e9))
        assert read_rows(path) == [{"text": text}]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("none.jsonl", "is no file; give a file, or a hub name"),
        ("a/b/c", "is no file"),
        ("folder", "is a folder; give a file"),
        ("x" * 5000 + ".csv", "cannot be read (.*too long"),
        ("a\0b", "is no file"),
    ],
)
def test_what_is_no_file_is_named(tmp_path: Path, source: str, said: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=said.replace("(", r"\(")):
        read_rows(str(tmp_path / source))


def test_a_row_that_was_given_keeps_its_number_and_one_of_a_file_its_line(tmp_path: Path) -> None:
    rows = read_rows([{"text": str(i)} for i in range(5)])
    assert place_of(rows[3:], 0) == "row 4"
    with pytest.raises(InputError, match=r"^data: no column x for the text; the columns are text; name it with `text_columns`$"):
        pick_columns(rows, ["x"], [], "text", "text_columns")
    (tmp_path / "rows.jsonl").write_text('{"text": "good"}\n\n{"text": "bad"}\n')
    read = read_rows(tmp_path / "rows.jsonl")
    again = read_rows(read[1:])
    assert place_of(again, 0) == f"{tmp_path / 'rows.jsonl'}, line 3" and again[0] is not read[1] and again == read[1:]


class Named:
    """As `datasets.ClassLabel`."""

    names = ("negative", "positive")
    int2str = names.__getitem__


class Listed:
    """As `datasets.List`."""

    feature = Named()


class Table:
    """As `datasets.Dataset`."""

    features: ClassVar = {"text": object(), "label": Named(), "tags": Listed()}

    def to_list(self) -> list[dict[str, Any]]:
        return [{"text": "good", "label": 1, "tags": [0, -100]}, {"text": "?", "label": -1, "tags": None}]


def test_the_hub_is_read_by_datasets_with_the_names_of_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    fake = ModuleType("datasets")
    fake.disable_progress_bars = lambda: None  # type: ignore[attr-defined]
    fake.load_dataset = lambda *given, **options: asked.append((given, options)) or Table()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", fake)
    assert read_rows("owner/name@config:test") == [
        {"text": "good", "label": "positive", "tags": ["negative", -100]},
        {"text": "?", "label": None, "tags": None},
    ]
    assert asked == [(("owner/name", "config"), {"split": "test"})]
