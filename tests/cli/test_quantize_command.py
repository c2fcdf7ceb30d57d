"""`penjing quantize` from the command line on a tiny teacher, and the size that `compress` is asked for."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import answers, fresh, kill, prepare, refused, run

from penjing.engines.description import Description
from penjing.engines.opening import open_engine
from penjing.errors import InputError
from penjing.model.checkpoint import read

EVERY_ENGINE = ["--threads", "1", "--max-length", "32", "--json"]
QUIET = ["--engine", "onnxruntime", *EVERY_ENGINE]


def quantize(given: list[str], out: Path, *options: str, quiet: Sequence[str] = QUIET) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(run("quantize", *given, "--out", str(out), *options, *quiet))
    return report


def named(report: dict[str, Any]) -> list[str]:
    return [step["name"] for step in report["steps"]]


@pytest.mark.parametrize("task", ["classification", "tagging"])
def test_trained_int8_predicts_in_the_engines_as_it_did_in_training(tmp_path: Path, task: str) -> None:
    out = tmp_path / "out"
    report = quantize(prepare(tmp_path, task), out, "--scheme", "qat-int8", "--epochs", "2", quiet=EVERY_ENGINE)
    assert named(report) == ["baseline", "qat", "quantize", "export", "choose", "verify"]
    assert {"onnxruntime int8", "openvino int8"} <= {form["name"] for form in report["forms"]}
    taught = next(step for step in report["steps"] if step["name"] == "qat")
    assert "in int8 on texts held out" in taught["note"]
    qualities = [form["held_out_quality"] for form in report["forms"] if form["name"] in ("onnxruntime int8", "openvino int8")]
    assert len(qualities) == 2 and qualities[0] == pytest.approx(qualities[1], abs=0.1)
    emulation = {gate["name"]: gate for gate in report["gates"] if gate["name"].startswith("integers against their emulation")}
    assert all(f"integers against their emulation, {form['name']}" in emulation for form in report["forms"])
    assert emulation[f"integers against their emulation, {report['result']['form']}"]["passed"]
    assert report["result"]["kernels"] and report["stored"] is None


def test_dynamic_int8_has_no_other_forms(tmp_path: Path) -> None:
    report = quantize(prepare(tmp_path, "pair"), tmp_path / "out", "--scheme", "dynamic-int8")
    assert [form["name"] for form in report["forms"]] == ["onnxruntime fused int8"]
    assert named(report) == ["baseline", "quantize", "export", "choose", "verify"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "int8 kernels" in page


def test_static_int8_leaves_in_float_what_rounding_harms(tmp_path: Path) -> None:
    given = prepare(tmp_path, "classification")
    report = quantize(given, tmp_path / "none", "--scheme", "static-int8", "--divergence", "0", "--calibration", "entropy")
    assert len(report["result"]["float_layers"]) == 2 * 6 + 1  # nothing but float moves the answers by nothing
    report = quantize(given, tmp_path / "all", "--scheme", "static-int8", "--divergence", "100")
    assert report["result"]["float_layers"] == []


@pytest.mark.parametrize(
    ("scheme", "bits", "epochs"),
    [("kmeans", "3", None), ("mixed", "4", None), ("ternary", None, "1"), ("dorefa", "2", "1"), ("xnor", None, "1")],
)
def test_stored_weights_run_in_the_engine_and_without_penjing_alike(
    tmp_path: Path, scheme: str, bits: str | None, epochs: str | None
) -> None:
    given, out = prepare(tmp_path, "classification"), tmp_path / "out"
    options = [*(["--bits", bits] if bits else []), *(["--epochs", epochs] if epochs else [])]
    report = quantize(given, out, "--scheme", scheme, *options)
    assert named(report) == ["baseline", "bits", *(["low-bit"] if epochs else ["store"]), "export", "choose", "verify"]
    assert report["stored"]["packed_bytes"] < 0.5 * report["stored"]["dense_bytes"]
    assert (out / "model" / "packed.safetensors").is_file() and not (out / "model" / "model.safetensors").exists()
    alone = fresh(out / "model")
    about = Description.read(out / "engine")
    assert all(form.packed for form in about.forms) and sorted(file.name for file in (out / "engine").iterdir()) == [
        "engine.json", "network.json", "tokenizer.json", "weights.safetensors",
    ]  # fmt: skip
    labels = ["negative", "positive"]
    for logits, answer in zip(alone["logits"], answers(out), strict=True):
        assert labels[int(np.argmax(logits))] == answer["label"]
        assert answer["score"] == pytest.approx(float(torch.tensor(logits).softmax(0).max()), abs=1e-4)
    assert alone["same"]
    weight = read(out / "model").get_parameter("encoder.layers.0.feed_forward.up.weight")
    assert all(len(row.unique()) <= 2 ** int(bits or {"ternary": 2, "xnor": 1}.get(scheme, 4)) for row in weight.detach())
    if scheme == "xnor":
        assert "with inputs in 1 bit on texts held out" in next(step["note"] for step in report["steps"] if step["name"] == "low-bit")


def test_a_size_is_met_by_tokens_bits_and_rank_together(tmp_path: Path) -> None:
    given, out = prepare(tmp_path, "classification"), tmp_path / "out"
    options = ["--threads", "1", "--max-length", "32", "--epochs", "1", "--json"]
    report = json.loads(run("compress", *given, "--out", str(out), "--size-mb", "0.06", "--max-drop", "100", *options))
    deployed = sum(file.stat().st_size for file in (out / "engine").iterdir())
    assert report["met"] and deployed <= report["result"]["bytes"] <= 6e4
    assert named(report)[:2] == ["baseline", "vocabulary"] and {"bits", "low-bit"} <= set(named(report))
    assert answers(out)[0]["label"] in ("negative", "positive")


def test_training_in_few_bits_is_killed_and_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    given = [*prepare(tmp_path, "classification"), "--scheme", "binary", "--epochs", "2", *QUIET]
    run("quantize", *given, "--out", str(tmp_path / "whole"))
    out = tmp_path / "killed"
    kill("03-low-bit", out, "quantize", *given)
    run("quantize", *given, "--out", str(out))
    same = [tmp_path / name / "model" / "packed.safetensors" for name in ("whole", "killed")]
    assert same[0].read_bytes() == same[1].read_bytes()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--scheme", "int4"], "allowed are dynamic-int8, static-int8, qat-int8, qat-dynamic-int8, linear"),
        (["--scheme", "static-int8", "--bits", "4"], "--bits"),
        (["--scheme", "ternary", "--bits", "3"], "--bits: ternary has no 3; allowed are 2"),
        (["--scheme", "qat-int8", "--no-training"], "--no-training"),
        (["--scheme", "linear", "--clip", "some"], "--clip"),
        (["--scheme", "linear", "--activation-bits", "8"], "--epochs"),
        (["--scheme", "static-int8", "--calibration", "best"], "--calibration"),
        (["--scheme", "static-int8", "--ranges", "learned"], "--ranges"),
        (["--scheme", "xnor", "--activation-bits", "4"], "--activation-bits: xnor reads the signs"),
        (["--scheme", "xnor", "--no-training"], "--scheme: xnor rounds the inputs too"),
        (["--scheme", "linear", "--gradient-bits", "4"], "--epochs"),
        (["--scheme", "dynamic-int8", "--engine", "openvino"], "dynamic"),
        (["--scheme", "static-int8", "--engine", "torch"], "--engine"),
        (["--scheme", "qat-int8", "--smooth", "0.5"], "--smooth"),
    ],
)
def test_bad_options_are_refused_in_one_line(tmp_path: Path, options: list[str], said: str) -> None:
    error = refused("quantize", *prepare(tmp_path, "classification"), "--out", tmp_path / "out", *options)
    assert said in error and not (tmp_path / "out").exists()


def test_a_damaged_packed_file_is_refused_in_one_line(tmp_path: Path) -> None:
    out = tmp_path / "out"
    quantize(prepare(tmp_path, "classification"), out, "--scheme", "linear")
    for file in (out / "model" / "packed.safetensors", out / "engine" / "weights.safetensors"):
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 16
        file.write_bytes(bytes(content))
    with pytest.raises(InputError, match="packed"):
        read(out / "model")
    about = Description.read(out / "engine")
    with pytest.raises(InputError, match="export the model again"):
        open_engine(about.forms[0], out / "engine", 1)
