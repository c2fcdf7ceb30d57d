"""The baseline: what is measured again of a result, and the bytes of a deployment."""

import json
from dataclasses import replace
from pathlib import Path

from reports import OTHER, SHIPPED

from penjing.engines.description import DESCRIPTION
from penjing.engines.form import EAGER, FLOAT_FORMS, INT8_FORMS, PORTABLE_INT8, Form
from penjing.job.baseline import SLOW, form_bytes, model_bytes, worth_measuring
from penjing.model.packing import PACKED


def test_forms_that_were_far_behind_are_not_measured_again_unless_they_are_portable() -> None:
    times = {form.name: (SLOW - 0.01 if i == 0 else 1.0) for i, form in enumerate(INT8_FORMS)}
    assert worth_measuring(INT8_FORMS, times) == list(INT8_FORMS)
    slow = {name: ms if name == INT8_FORMS[1].name else 2 * SLOW for name, ms in times.items()}
    assert worth_measuring(INT8_FORMS, slow) == [form for form in INT8_FORMS if form.portable]
    assert worth_measuring(FLOAT_FORMS, times) == list(FLOAT_FORMS)  # nobody knows them


def test_a_form_s_bytes_are_those_of_every_file_that_it_needs(tmp_path: Path) -> None:
    sizes = {
        PORTABLE_INT8: 100,
        "tokenizer.json": 10,
        DESCRIPTION: 1,
        "fused-int8.onnx": 1000,
        "weights.safetensors": 50,
        "network.json": 5,
    }
    for name, size in sizes.items():
        (tmp_path / name).write_bytes(b"x" * size)
    assert form_bytes(tmp_path, SHIPPED) == form_bytes(tmp_path, OTHER) == 111
    assert form_bytes(tmp_path, replace(SHIPPED, packed=True)) == 66
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_bytes(b"x" * 7)
    assert form_bytes(tmp_path, Form(EAGER.name, "torch", "model")) == 18


def test_weights_that_would_not_be_loaded_are_not_counted(tmp_path: Path) -> None:
    def put(name: str, size: int) -> None:
        (tmp_path / name).write_bytes(b"0" * size)

    for name, size in {"config.json": 10, "tokenizer.json": 2000, "training_args.bin": 7, "optimizer.bin": 900}.items():
        put(name, size)
    tokenizer = tmp_path / "made" / "tokenizer.json"  # of what the folder's files say together
    tokenizer.parent.mkdir()
    tokenizer.write_bytes(b"0" * 20)
    put("pytorch_model.bin", 1000)
    assert model_bytes(tmp_path, tokenizer) == 1030
    put(PACKED, 100)
    assert model_bytes(tmp_path, tokenizer) == 130
    (tmp_path / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "1.safetensors", "b": "2.safetensors", "c": "1.safetensors"}})
    )
    put("1.safetensors", 300)
    put("2.safetensors", 200)
    assert model_bytes(tmp_path, tokenizer) == 530 + (tmp_path / "model.safetensors.index.json").stat().st_size
    (tmp_path / "model.safetensors.index.json").unlink()
    put("model.safetensors", 400)
    assert model_bytes(tmp_path, tokenizer) == 430
