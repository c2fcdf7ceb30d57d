"""A head that is defined outside of Penjing: a row, a network and a function for its graph are all that it takes."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import (
    FAMILIES,
    WITHOUT_PENJING,
    batch,
    blueprints,
    fake,
    half,
    logits,
    own_inputs,
    penjing_model,
    selections,
    tiny,
    tiny_teacher,
)
from hypothesis import given
from hypothesis import strategies as st
from masking import mask
from mean_head import MEAN, SCALED, MeanReview
from mean_network import MeanForSequenceClassification
from safetensors.torch import save_file

from penjing.blueprint import HEADS, Blueprint, Layer, head_named
from penjing.engines.clock.measure import RawInputs, Sampling, Subject, measure
from penjing.engines.form import EAGER, FUSED_FLOAT, FUSED_INT8, PORTABLE_FLOAT, PORTABLE_INT8, Form
from penjing.engines.onnx.export import export
from penjing.engines.opening import open_engine
from penjing.engines.pytorch import TorchEngine
from penjing.errors import InputError
from penjing.maths.stored import Scheme
from penjing.model.building import blueprint_of, build
from penjing.model.checkpoint import open_checkpoint, read
from penjing.model.surgery import copy_of, cut
from penjing.model.writing import write
from penjing.steps.bits.calibrate import calibrate
from penjing.steps.bits.gptq import round_model
from penjing.tasks.encoder import Encoder
from penjing.tasks.sources import tokenizer_of
from penjing.text.encoded import Encoded

WRONG = replace(MEAN, name="test_own_head:WRONG", parameters=MEAN.parameters[:1])
UNEVEN = Blueprint(40, 13, 2, 9, 12, 5, (Layer(3, 17), Layer(0, 6), Layer(2, 0), Layer(1, 8)), MEAN, 3)


@st.composite
def with_mean(draw: Any) -> Blueprint:
    return replace(draw(blueprints(("sequence",))), head=MEAN, exits=())


def texts(blueprint: Blueprint, seed: int = 0) -> Encoded:
    rng, n = np.random.default_rng(seed), blueprint.positions
    ids = [rng.integers(0, blueprint.vocabulary, length).tolist() for length in (n, 1, n // 2 + 1, n, n // 2, 1)]
    return Encoded.of(ids, [sorted(rng.integers(0, max(blueprint.token_types, 1), len(row)).tolist()) for row in ids])


def in_torch(model: Any, encoded: Encoded) -> list[Any]:
    feeds = ({name: torch.from_numpy(value) for name, value in encoded.feeds(np.array([i])).items()} for i in range(len(encoded)))
    return [logits(model, each)[0].numpy() for each in feeds]


# -- the row -----------------------------------------------------------------------------------------------------


def test_a_name_stands_for_a_row_of_the_table_or_of_ones_own() -> None:
    assert all(head_named(name) is head and head_named(head) is head and not head.own for name, head in HEADS.items())
    assert head_named("mean_head:MEAN") is MEAN and MEAN.own
    assert Blueprint.from_json(UNEVEN.to_json()) == UNEVEN and json.loads(UNEVEN.to_json())["head"] == "mean_head:MEAN"
    assert (MEAN.first_only, MEAN.per_token, MEAN.labelled, MEAN.pooled, MEAN.bare) == (False, False, True, False, False)


@pytest.mark.parametrize("name", ["mean", "", "os:system", "test_own_head:UNEVEN", "test_own_head:none", "not_imported:MEAN", 3, ["token"]])
def test_what_is_no_head_is_refused(name: Any) -> None:
    with pytest.raises(InputError, match="head is"):
        head_named(name)
    with pytest.raises(InputError):
        Blueprint.from_dict(UNEVEN.to_dict() | {"head": name})


def test_a_name_in_a_file_imports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "evil_head.py").write_text(f"open({str(tmp_path / 'touched')!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    write(penjing_model(UNEVEN), tmp_path / "model")
    fields = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps(fields | {"head": "evil_head:HEAD"}))
    with pytest.raises(InputError, match=r"config\.json.*import 'evil_head'"):
        read(tmp_path / "model")
    assert not (tmp_path / "touched").exists()


def test_a_row_that_is_not_what_its_network_has_is_refused() -> None:
    with pytest.raises(InputError, match=r"head test_own_head:WRONG: head\.out\.bias is \(3,\) in its network"):
        build(replace(UNEVEN, head=WRONG))
    with pytest.raises(InputError, match="is no network"):
        build(replace(UNEVEN, head=replace(MEAN, name="test_own_head:OTHER", network="json:dumps")))


# -- the laws ----------------------------------------------------------------------------------------------------


@given(with_mean())
def test_a_model_gives_its_blueprint_back_and_has_what_is_counted(blueprint: Blueprint) -> None:
    model = build(blueprint)
    assert isinstance(model, MeanForSequenceClassification) and blueprint_of(model) == blueprint
    assert sum(weight.numel() for weight in model.parameters()) == blueprint.parameters


@given(st.data(), st.integers(0, 99))
def test_cutting_is_masking_to_zero(data: st.DataObject, seed: int) -> None:
    blueprint = data.draw(with_mean())
    selection = replace(data.draw(selections(blueprint)), tokens=None)
    model, inputs = penjing_model(blueprint, seed), own_inputs(blueprint, seed)
    small = cut(model, selection)
    mask(model, selection)
    torch.testing.assert_close(logits(small, inputs), logits(model, inputs), rtol=1e-4, atol=1e-4)
    assert blueprint_of(small) == selection.plan(blueprint)


def test_a_scalar_is_counted_and_kept_and_a_matrix_without_a_bias_is_rounded() -> None:
    blueprint = replace(UNEVEN, head=SCALED)
    model = penjing_model(blueprint)
    assert sum(weight.numel() for weight in model.parameters()) == blueprint.parameters
    small = cut(model, half(blueprint))
    assert torch.equal(small.get_parameter("head.scale"), model.get_parameter("head.scale"))
    encoded = texts(blueprint)
    scheme = {"head.out.weight": Scheme("linear", 2)}
    rounded, coded = round_model(model, encoded, scheme)
    expected, found, plain = (in_torch(each, encoded) for each in (model, rounded, _plainly(model, scheme["head.out.weight"])))
    assert torch.equal(rounded.get_parameter("head.out.weight"), torch.from_numpy(coded["head.out.weight"].values()))
    assert np.square(np.subtract(found, expected)).sum() < np.square(np.subtract(plain, expected)).sum()


def _plainly(model: Any, scheme: Scheme) -> Any:
    result = copy_of(model)
    result.get_parameter("head.out.weight").data = fake(model.get_parameter("head.out.weight").detach(), scheme)
    return result


@pytest.mark.parametrize("packed", [False, True])
def test_a_written_model_is_read_back_exactly(packed: bool, tmp_path: Path) -> None:
    model, inputs = penjing_model(UNEVEN), own_inputs(UNEVEN)
    write(model, tmp_path / "model", packed=packed)
    checkpoint = open_checkpoint(tmp_path / "model")
    assert checkpoint.head is MEAN and checkpoint.blueprint == UNEVEN and checkpoint.is_own
    back = checkpoint.read()
    assert blueprint_of(back) == UNEVEN
    assert torch.equal(logits(back, inputs), logits(model, inputs))
    checkpoint.check_head(MEAN, "a task")
    with pytest.raises(InputError, match="labels texts and has no trained head"):
        checkpoint.check_head("sequence", "a task")


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_put_on_a_checkpoint_of_any_family(family: str, tmp_path: Path) -> None:
    tiny(family, "sequence").save_pretrained(tmp_path / "theirs")
    theirs = read(tmp_path / "theirs")
    model = read(tmp_path / "theirs", head=MEAN, labels=["a", "b"])
    assert blueprint_of(model) == replace(blueprint_of(theirs), head=MEAN, outputs=2)
    inputs = batch([9, 4], vocabulary=40, pad=1)
    assert torch.equal(logits(model.base_model, inputs), logits(theirs.base_model, inputs))
    write(model, tmp_path / "ours")  # uniform, and yet no plain checkpoint can hold it
    assert json.loads((tmp_path / "ours" / "config.json").read_text())["model_type"] == "penjing"
    assert torch.equal(logits(read(tmp_path / "ours"), inputs), logits(model, inputs))
    again = read(tmp_path / "ours", head="sequence", labels=["a", "b"])  # and back: another head is new
    assert blueprint_of(again).head is HEADS["sequence"] and getattr(again.config, "head", None) is None


# -- the engines -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blueprint", [UNEVEN, UNEVEN.with_layers(()), replace(UNEVEN, token_types=0, rank=4)])
def test_the_graph_computes_what_pytorch_computes(blueprint: Blueprint, tmp_path: Path) -> None:
    model, encoded = penjing_model(blueprint), texts(blueprint)
    export(model, tmp_path, (PORTABLE_FLOAT, FUSED_FLOAT), segments=True)
    expected = in_torch(model, encoded)
    for engine, file in (("onnxruntime", PORTABLE_FLOAT), ("onnxruntime", FUSED_FLOAT), ("openvino", PORTABLE_FLOAT)):
        found = open_engine(Form("", engine, file, batch=4), tmp_path, threads=1).logits(encoded)
        np.testing.assert_allclose(np.stack(found), np.stack(expected), rtol=1e-4, atol=1e-4)


def test_int8_is_close_and_pytorch_runs_the_folder(tmp_path: Path) -> None:
    model, encoded = penjing_model(UNEVEN), texts(UNEVEN)
    export(model, tmp_path, (PORTABLE_INT8, FUSED_INT8), calibrate(model, encoded), segments=True)
    expected = np.stack(in_torch(model, encoded))
    for file in (PORTABLE_INT8, FUSED_INT8):
        found = np.stack(open_engine(Form("", "onnxruntime", file, batch=1), tmp_path, threads=1).logits(encoded))
        assert np.abs(found - expected).mean() < 0.1 * np.abs(expected).mean()
    write(model, tmp_path / "model")
    eager = TorchEngine(tmp_path / "model", EAGER, 1)
    found = np.stack(eager.logits(encoded))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_pytorch_is_measured_in_a_process_of_its_own(tmp_path: Path) -> None:
    """The process imports the task's module, and with it the head that the model's configuration names."""
    tokenizer = tiny_teacher(tmp_path / "plain")
    model = read(tokenizer, head=MEAN, labels=["a", "b"])
    write(model, tmp_path / "model", tokenizer=tokenizer)
    task, inputs = MeanReview(["a", "b"]), ["good film", "a bad film", "a film"] * 4
    encoded = Encoder(task, tokenizer_of(tmp_path / "model"), 16)(inputs)[0]
    sampling = Sampling(rounds=1, throughput_texts=0)
    (found,) = measure([Subject(EAGER, tmp_path / "model")], encoded, threads=1, sampling=sampling, raw=RawInputs(task, inputs, 16))
    assert found.latency_ms > 0 and found.end_to_end_ms


# -- without Penjing ---------------------------------------------------------------------------------------------

FRESH = (
    WITHOUT_PENJING
    + """
import torch, transformers
from safetensors.torch import load_file
for folder in sys.argv[1:]:
    inputs = load_file(folder + "/io.safetensors")
    expected = inputs.pop("expected")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True)
    with torch.no_grad():
        print(type(model).__module__.split(".")[0], float((model(**inputs).logits - expected).abs().max()))
"""
)


def test_the_folder_is_loaded_where_there_is_no_penjing(tmp_path: Path) -> None:
    whole = penjing_model(UNEVEN)
    small, inputs = cut(whole, half(UNEVEN)), own_inputs(UNEVEN)
    for packed in (False, True):
        write(small, tmp_path / str(packed), tokenizer=tiny_teacher(tmp_path / "tokenizer"), packed=packed)
        save_file(inputs | {"expected": logits(small, inputs)}, tmp_path / str(packed) / "io.safetensors")
    home = os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    home = {name: value for name, value in home.items() if name not in ("PYTHONPATH", "HF_MODULES_CACHE")}
    command: Sequence[str] = [sys.executable, "-c", FRESH, *(str(tmp_path / str(packed)) for packed in (False, True))]
    done = subprocess.run(command, cwd=tmp_path, env=home, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    for module, error in map(str.split, done.stdout.splitlines()):
        assert module == "transformers_modules" and float(error) <= 1e-6
    assert len(done.stdout.splitlines()) == 2
