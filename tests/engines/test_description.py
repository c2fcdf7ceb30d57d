"""engine.json: what is written is read, what is unknown or wrong is refused, and files are held against their checksums."""

import json
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penjing.engines.description import DESCRIPTION, DESCRIPTION_FORMAT, Description, checksums, form_from
from penjing.engines.form import EAGER, FLOAT_FORMS, INT8_FORMS, TOKENIZER, Form
from penjing.errors import InputError

ABOUT = Description("classification", ("no", "yes"), 24, FLOAT_FORMS, weight_bits=7)
FORM = FLOAT_FORMS[0].to_dict()
OWN = "some_module:Outer.MyEngine"


def form_fields() -> st.SearchStrategy[Form]:
    """Forms that a description may hold."""
    graphs = st.builds(
        Form, st.text(), st.sampled_from(["onnxruntime", "openvino", OWN]), st.sampled_from(["model.onnx", "a_b-c.bin"]),
        st.integers(0, 64), st.booleans(), st.integers(1, 64), st.booleans(),
    )  # fmt: skip
    return st.one_of(graphs, st.builds(Form, st.text(), st.sampled_from(["torch", "numpy"]), st.just("model")))


def descriptions() -> st.SearchStrategy[Description]:
    """Descriptions of any folder."""
    labels = st.lists(st.text(), min_size=1, max_size=4, unique=True).map(tuple)
    forms = st.lists(form_fields(), min_size=1, max_size=3).map(tuple)
    sums = st.dictionaries(st.text(), st.integers(0, 2**32 - 1), max_size=2)
    return st.builds(
        Description, st.text(), labels, st.integers(1, 512), forms, st.text(), st.text(), st.floats(1e-6, 1e6), st.none() | st.integers(1, 8), sums,
        st.text(),
    )  # fmt: skip


@given(descriptions())
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, about: Description) -> None:
    folder = tmp_path_factory.mktemp("described")
    about.write(folder)
    assert Description.read(folder) == about
    assert Description.from_dict(json.loads(json.dumps(about.to_dict()))) == about


def test_every_field_is_written_with_the_format() -> None:
    assert set(ABOUT.to_dict()) == {"format", *(each.name for each in fields(Description))}
    assert ABOUT.to_dict()["format"] == DESCRIPTION_FORMAT


def test_a_folder_of_before_has_fewer_fields() -> None:
    about = Description.from_dict({"task": "pair", "labels": ["no", "yes"], "max_length": 16, "forms": [FORM]})
    assert (about.temperature, about.weight_bits, about.metric, about.positive, about.crc32) == (1.0, None, "", "", {})


def test_a_field_that_is_unknown_is_refused(tmp_path: Path) -> None:
    (tmp_path / DESCRIPTION).write_text(json.dumps(ABOUT.to_dict() | {"colour": "red"}))
    with pytest.raises(InputError, match=r"engine\.json is damaged \(it has the field 'colour', which is none; known are task, labels"):
        Description.read(tmp_path)


def test_a_later_format_asks_for_a_newer_version(tmp_path: Path) -> None:
    (tmp_path / DESCRIPTION).write_text(json.dumps(ABOUT.to_dict() | {"format": DESCRIPTION_FORMAT + 1, "colour": "red"}))
    with pytest.raises(InputError, match=f"has format {DESCRIPTION_FORMAT + 1}, and this code reads {DESCRIPTION_FORMAT}; take a newer"):
        Description.read(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"engine": "tensorrt"}, "runs on 'tensorrt'; known are onnxruntime, openvino, torch, numpy"),
        ({"engine": "module:"}, "runs on 'module:'"),
        ({"engine": "a b:C"}, "runs on 'a b:C'"),
        ({"engine": "../x:C"}, "runs on '../x:C'"),
        ({"engine": {}}, r"runs on {}"),
        ({"engine": "torch", "packed": True}, "is packed, and torch runs no graph"),
        ({"engine": OWN, "file": "../x"}, "files are named in the folder itself"),
        ({"colour": 1}, "unexpected keyword argument"),
    ],
)
def test_a_form_that_cannot_be_run_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises((ValueError, TypeError), match=re.escape(said)):
        form_from(FORM | change)


def test_a_form_may_name_an_engine_by_reference() -> None:
    assert form_from(FORM | {"engine": OWN, "packed": True}) == replace(FLOAT_FORMS[0], engine=OWN, packed=True)
    assert form_from(EAGER.to_dict() | {"file": "model"}).engine == "torch"


def test_the_forms_and_engines_of_a_folder() -> None:
    about = replace(ABOUT, forms=(*INT8_FORMS, replace(FLOAT_FORMS[0], engine=OWN)))
    assert about.forms_on(None) == list(about.forms) and about.forms_on(OWN) == [about.forms[-1]] and about.forms_on("torch") == []
    assert about.engines == ["onnxruntime", "openvino", OWN]


def test_files_are_held_against_their_checksums(tmp_path: Path) -> None:
    own = Form("own", OWN, "weights.bin")
    forms = [FLOAT_FORMS[0], own, Form("numpy", "numpy", "student.safetensors"), replace(INT8_FORMS[0], packed=True)]
    for name in (FLOAT_FORMS[0].file, own.file, TOKENIZER, "student.safetensors"):
        (tmp_path / name).write_text(name)
    about = replace(ABOUT, crc32=checksums(tmp_path, forms))
    assert list(about.crc32) == sorted([FLOAT_FORMS[0].file, own.file, TOKENIZER])
    about.check_files(tmp_path, [*about.crc32, "student.safetensors"])
    (tmp_path / own.file).write_text("other")
    about.check_files(tmp_path, [TOKENIZER])
    with pytest.raises(InputError, match=r"weights\.bin is damaged, or of another export"):
        about.check_files(tmp_path, [own.file])
