"""Records as JSON: there and back again, and nothing that a record does not say."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penjing.blueprint import Blueprint, Layer
from penjing.errors import InputError
from penjing.files.records import EMPTY, MERGED, OPTIONAL, from_json, named, to_json
from penjing.files.whole import Json


class Bin(NamedTuple):
    low: float
    examples: int


@dataclass(frozen=True)
class Quality:
    value: float = field(metadata=named("quality"))
    ci95: tuple[float, float] = field(metadata=named("quality_ci95"))


@dataclass(frozen=True)
class Row:
    name: str
    kind: Literal["fast", "small"]
    steady: bool
    quality: Quality | None = field(metadata=MERGED)
    latency_ms: float | None = None


@dataclass(frozen=True)
class Record:
    VERSION: ClassVar[int] = 3
    quality: Quality = field(metadata=MERGED)
    rows: tuple[Row, ...]
    by_name: Mapping[str, Row]
    bins: Sequence[Bin]
    layers: frozenset[str]
    blueprint: Blueprint | None
    limit: int | str
    place: Path
    sparsity: float | None = field(metadata=OPTIONAL)
    student: Quality | None = field(metadata=EMPTY)
    anything: Any = None


NUMBERS = st.floats(allow_nan=False)
TEXTS = st.text(max_size=5)
QUALITIES = st.builds(Quality, NUMBERS, st.tuples(NUMBERS, NUMBERS))
ROWS = st.builds(Row, TEXTS, st.sampled_from(["fast", "small"]), st.booleans(), st.none() | QUALITIES, st.none() | NUMBERS)
BLUEPRINT = Blueprint(60, 16, 2, 24, 24, 8, (Layer(3, 40), Layer(2, 30)), "sequence", 2)
RECORDS = st.builds(
    Record, QUALITIES, st.lists(ROWS, max_size=3).map(tuple), st.dictionaries(TEXTS, ROWS, max_size=3),
    st.lists(st.builds(Bin, NUMBERS, st.integers()), max_size=3).map(tuple), st.frozensets(TEXTS, max_size=3), st.sampled_from([None, BLUEPRINT]),
    st.integers() | TEXTS, st.just(Path("a/b")), st.none() | NUMBERS, st.none() | QUALITIES,
    st.dictionaries(TEXTS, st.none() | st.integers() | TEXTS, max_size=3),
)  # fmt: skip
RECORD = Record(
    Quality(np.float32(0.5), (0.0, 1)), (Row("a", "fast", np.bool_(True), None),), {}, (Bin(0.1, 4),), frozenset("ba"), BLUEPRINT, 3, Path("a/b"), None, None,
)  # fmt: skip


@given(RECORDS)
def test_what_is_written_is_read_again(record: Record) -> None:
    assert from_json(Record, json.loads(json.dumps(to_json(record))), "here") == record


def test_merged_keys_stand_beside_the_others_and_what_is_none_has_no_key() -> None:
    written = to_json(RECORD)
    assert json.loads(json.dumps(written)) == {
        "version": 3, "quality": 0.5, "quality_ci95": [0.0, 1], "rows": [{"name": "a", "kind": "fast", "steady": True, "latency_ms": None}],
        "by_name": {}, "bins": [[0.1, 4]], "layers": ["a", "b"], "blueprint": BLUEPRINT.to_dict(), "limit": 3, "place": "a/b", "student": {}, "anything": None,
    }  # fmt: skip
    assert type(written["quality"]) is float and type(written["rows"][0]["steady"]) is bool
    assert "sparsity" not in written


WRITTEN = to_json(RECORD)


@pytest.mark.parametrize("key", [key for key in WRITTEN if key != "version"])
def test_a_key_that_is_missing_is_an_error(key: str) -> None:
    with pytest.raises(InputError, match=f"^the file: {key} is missing$"):
        from_json(Record, {name: value for name, value in WRITTEN.items() if name != key}, "the file")


@pytest.mark.parametrize("path", [(), ("rows", 0)])
def test_a_key_that_is_unknown_is_an_error(path: tuple[Any, ...]) -> None:
    changed = json.loads(json.dumps(WRITTEN))
    part = changed
    for key in path:
        part = part[key]
    part["colour"] = 1
    with pytest.raises(InputError, match="'colour' is unknown; known are"):
        from_json(Record, changed, "the file")


@pytest.mark.parametrize(("key", "value", "message"), [
    ("quality", "high", "quality: 'high' is not a number"), ("quality", True, "quality: True is not a number"),
    ("quality", None, "quality: None is not a number"), ("quality_ci95", [1], "is not a list of 2"), ("rows", {}, "rows: {} is not a list"),
    ("rows", [{**WRITTEN["rows"][0], "kind": "big"}], "rows, 0, kind: 'big' is not one of 'fast', 'small'"),
    ("rows", [{**WRITTEN["rows"][0], "steady": 1}], "rows, 0, steady: 1 is not true or false"),
    ("rows", [{**WRITTEN["rows"][0], "quality": 1.0}], "rows, 0: quality_ci95 is missing"),
    ("by_name", [], r"by_name: \[\] is not an object"), ("bins", [[0.1, 4.0]], "bins, 0, 1: 4.0 is not a whole number"),
    ("layers", [1], "layers, 0: 1 is not a text"), ("blueprint", {"hidden": 3}, "not a blueprint's fields"), ("limit", 0.5, "limit: 0.5 is not a text"),
    ("place", 1, "place: 1 is not a path"), ("version", 2, "version: 2 is not version 3"), ("version", None, "version: None is not version 3"),
])  # fmt: skip
def test_a_value_of_another_kind_is_an_error(key: str, value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_json(Record, {**WRITTEN, key: value}, "the file")


@pytest.mark.parametrize("value", [None, [], "text", {1: 2}])
def test_what_is_no_object_is_an_error(value: Any) -> None:
    with pytest.raises(InputError, match=r"the file: .* is not an object"):
        from_json(Record, value, "the file")


class Span:
    """A class that reads itself, and trusts what it is given."""

    def __init__(self, low: int, high: int) -> None:
        self.ends = low, high

    def to_dict(self) -> Json:
        return {"ends": list(self.ends)}

    @classmethod
    def from_dict(cls, content: Json) -> "Span":
        low, high = content["ends"]
        return cls(int(low), int(high))


@pytest.mark.parametrize("value", [{}, {"ends": 3}, {"ends": [1]}, {"ends": ["a", "b"]}, {"end": [1, 2]}, {"ends": None}])
def test_what_a_class_that_reads_itself_cannot_read_is_an_error(value: Json) -> None:
    assert from_json(Span, {"ends": [1, 2]}, "the file").ends == (1, 2)
    with pytest.raises(InputError, match=r"^the file: \{.*\} is none \((Key|Type|Value)Error: ") as caught:
        from_json(Span, value, "the file")
    assert "\n" not in str(caught.value)


def test_what_has_no_form_in_json_is_a_mistake_of_the_program() -> None:
    with pytest.raises(TypeError, match="ndarray has no form in JSON"):
        to_json(Row("a", "fast", True, None, np.zeros(2)))  # type: ignore[arg-type]
