"""A packed folder answers as the ONNX files of its decoded weights do, and is refused when a byte of it is another."""

import json
import shutil
import subprocess
import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import blueprints, penjing_model, tiny_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import penjing
from penjing.blueprint import Blueprint, Layer
from penjing.engines.clock.measure import Sampling, Subject, measure
from penjing.engines.description import DESCRIPTION, form_from
from penjing.engines.form import FLOAT_FORMS, FUSED, INT8_FORMS, PORTABLE, Form
from penjing.engines.network import Network, Ranges
from penjing.engines.onnx import packed
from penjing.engines.onnx.export import export, network_of
from penjing.engines.onnx.packed import NETWORK, WEIGHTS, graph_bytes, read_network, write_network
from penjing.engines.opening import open_engine
from penjing.errors import InputError
from penjing.model.coded import Coded
from penjing.steps.bits.calibrate import calibrate
from penjing.text.encoded import Encoded

UNEVEN = Blueprint(56, 20, 2, 9, 12, 5, (Layer(3, 17), Layer(0, 6), Layer(2, 0), Layer(1, 8)), "sequence", 2)
FLOAT_LAYERS = ["layers.0.attention.value", "layers.3.feed_forward.up"]
FORMS = [*FLOAT_FORMS, *INT8_FORMS]
ONE_EACH = list({(form.engine, form.file, form.bucket): form for form in FORMS if not form.bfloat16}.values())
"""One form for each engine, file and way of taking lengths."""


def texts(blueprint: Blueprint, seed: int = 0) -> Encoded:
    """Random texts of one token up to every position, some of equal length."""
    rng, n = np.random.default_rng(seed), blueprint.positions
    ids = [rng.integers(0, blueprint.vocabulary, length).tolist() for length in (n, 1, n // 2, n // 2, n)]
    return Encoded.of(ids, [sorted(rng.integers(0, max(blueprint.token_types, 1), len(row)).tolist()) for row in ids])


def in_four_bits(w: NDArray[np.float32]) -> Coded:
    """A matrix on a grid of 16 values per row."""
    scale = np.maximum(np.abs(w).max(1), 1e-6) / np.float32(7)
    codes = np.clip(np.rint(w / scale[:, None]) + 8, 0, 15).astype(np.uint8)
    return Coded("grid", 4, w.shape, w.shape[1], codes, {"scale": scale, "zero": np.array([8], np.float32)})


def made(blueprint: Blueprint, folder: Path, segments: bool = True) -> tuple[Any, Network, Ranges, Encoded]:
    """A random model, packed in `folder` with its matrices in 4 bits and layer 0's value in float.

    Returns the model whose weights are the decoded ones, with its network, ranges and texts.
    """
    model, encoded = penjing_model(blueprint), texts(blueprint)
    network = network_of(model)
    coded = {name: in_four_bits(w) for name, w in network.weights.items() if w.ndim == 2 and w.size}
    for name, value in model.state_dict().items():
        if (short := name.removeprefix("encoder.")) in coded:
            value.copy_(torch.from_numpy(coded[short].values()))
    ranges = calibrate(model, encoded)
    write_network(network, coded, folder, ranges=ranges, segments=segments, float_layers=FLOAT_LAYERS if blueprint == UNEVEN else ())
    return model, network_of(model), ranges, encoded


def described(folder: Path) -> Path:
    """The folder with all else that `penjing.load` reads."""
    tiny_tokenizer().save(str(folder / "tokenizer.json"))
    forms = [replace(form, packed=True).to_dict() for form in FORMS]
    about = {"task": "classification", "labels": ["bad", "good"], "max_length": 20, "weight_bits": 8, "forms": forms}
    (folder / DESCRIPTION).write_text(json.dumps(about))
    return folder


# -- laws --------------------------------------------------------------------------------------------------------


@given(blueprints(["sequence", "token", "question"]), st.booleans())
@settings(max_examples=8)
def test_reading_gives_what_was_written(tmp_path_factory: pytest.TempPathFactory, blueprint: Blueprint, segments: bool) -> None:
    folder = tmp_path_factory.mktemp("packed")
    _, network, ranges, _ = made(blueprint, folder, segments)
    read = read_network(folder)
    assert (read.network.blueprint, read.ranges, read.segments, read.float_layers) == (blueprint, ranges, segments, ())
    assert replace(read.network, weights={}) == replace(network, weights={})
    assert read.network.weights.keys() == network.weights.keys()
    assert all(np.array_equal(value, network.weights[name]) for name, value in read.network.weights.items())


@pytest.mark.parametrize("form", ONE_EACH, ids=lambda form: form.name)
def test_a_form_answers_as_the_file_that_is_exported(tmp_path: Path, form: Form) -> None:
    model, _, ranges, encoded = made(UNEVEN, tmp_path / "packed")
    export(model, tmp_path / "files", [form.file], ranges, segments=True, float_layers=FLOAT_LAYERS)
    encoded = encoded.take(np.arange(2))
    expected = open_engine(form, tmp_path / "files", threads=1).logits(encoded)
    found = open_engine(replace(form, packed=True), tmp_path / "packed", threads=1).logits(encoded)
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("segments", [False, True])
def test_the_graph_that_is_built_is_the_file_byte_for_byte(tmp_path: Path, segments: bool) -> None:
    model, _, ranges, _ = made(UNEVEN, tmp_path / "packed", segments)
    export(model, tmp_path / "files", [*PORTABLE, *FUSED], ranges, segments=segments, float_layers=FLOAT_LAYERS)
    for file in (*PORTABLE, *FUSED):
        assert graph_bytes(tmp_path / "packed", Form("", "onnxruntime", file, packed=True)) == (tmp_path / "files" / file).read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for `penjing.load`; do not write into it."""
    folder = tmp_path_factory.mktemp("whole")
    made(UNEVEN, folder, segments=False)
    return described(folder)


@given(st.sampled_from([WEIGHTS, NETWORK]), st.floats(0, 1, exclude_max=True), st.integers(1, 255))
@settings(max_examples=30)
def test_another_byte_anywhere_is_refused_in_one_line(
    whole: Path, tmp_path_factory: pytest.TempPathFactory, file: str, where: float, flip: int
) -> None:
    folder = tmp_path_factory.mktemp("damaged") / "engine"
    shutil.copytree(whole, folder)
    content = bytearray((whole / file).read_bytes())
    content[int(where * len(content))] ^= flip
    (folder / file).write_bytes(content)
    with pytest.raises(InputError) as raised:
        penjing.load(folder, threads=1)
    assert "\n" not in str(raised.value) and str(folder) in str(raised.value)


# -- what is refused ---------------------------------------------------------------------------------------------


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy of `whole` to spoil."""
    return Path(shutil.copytree(whole, tmp_path / "engine"))


@pytest.mark.parametrize("file", [WEIGHTS, NETWORK])
@pytest.mark.parametrize("left", [0, 7, 300])
def test_a_truncated_file_is_refused(folder: Path, file: str, left: int) -> None:
    (folder / file).write_bytes((folder / file).read_bytes()[:left])
    with pytest.raises(InputError, match="no whole packed network"):
        penjing.load(folder, threads=1)


@pytest.mark.parametrize("file", [WEIGHTS, NETWORK])
def test_a_missing_file_is_refused(folder: Path, file: str) -> None:
    (folder / file).unlink()
    with pytest.raises(InputError, match=f"{file} is missing"):
        penjing.load(folder, threads=1)


def test_a_newer_version_is_refused(folder: Path) -> None:
    fields = json.loads((folder / NETWORK).read_text())
    (folder / NETWORK).write_text(json.dumps(fields | {"version": 2, "new": 1}))
    with pytest.raises(InputError, match="version 2, and this code reads 1; take a newer Penjing"):
        penjing.load(folder, threads=1)


def test_what_is_no_object_is_refused(folder: Path) -> None:
    for content in ("[]", "null", "{}", '{"version": 1}'):
        (folder / NETWORK).write_text(content)
        with pytest.raises(InputError, match="no whole packed network"):
            read_network(folder)


def forged(folder: Path, **changes: Any) -> Path:
    """A folder whose network.json says something else, and whose digest is right all the same; what is None is left out."""
    fields = json.loads((folder / NETWORK).read_text()) | changes
    fields = {name: value for name, value in fields.items() if value is not None and name != "digest"}
    (folder / NETWORK).write_text(json.dumps(fields | {"digest": packed._digest(fields, folder / WEIGHTS)}))
    return folder


FORGED: list[tuple[dict[str, Any], str]] = [
    ({"activation": 3}, "is of another type"),
    ({"activation": ["gelu"]}, "is of another type"),
    ({"head_activation": {}}, "is of another type"),
    ({"epsilon": "small"}, "is of another type"),
    ({"epsilon": float("nan")}, "is of another type"),
    ({"segments": 1}, "segments is 1; it has to be true or false"),
    ({"segments": "no"}, "segments is 'no'"),
    ({"float_layers": 3}, "must be an iterable"),
    ({"float_layers": [3]}, "is of another type"),
    ({"ranges": [1]}, "no attribute"),
    ({"ranges": {"layers.0.attention.query": [1]}}, "not enough values"),
    ({"ranges": {"layers.0.attention.query": [0, "1"]}}, "is of another type"),
    ({"ranges": {"layers.0.attention.query": [0, float("inf")]}}, "is of another type"),
    ({"blueprint": {}}, "blueprint: not a blueprint's fields"),
    ({"blueprint": UNEVEN.to_dict() | {"vocabulary": 2**40}}, r"embeddings\.word\.weight is \(\(56, 9\), 'float32'\)"),
    ({"blueprint": UNEVEN.to_dict() | {"layers": []}}, "its blueprint says that there is none"),
    ({"blueprint": UNEVEN.to_dict() | {"outputs": 3}}, "head.out.bias is"),
    ({"blueprint": UNEVEN.to_dict() | {"token_types": 0}}, "embeddings.token_type.weight is"),
    ({"activation": None}, "missing 1 required positional argument"),
    ({"new": 1}, "unexpected keyword argument 'new'"),
]


@pytest.mark.parametrize(("changes", "said"), FORGED, ids=range(len(FORGED)))
def test_what_cannot_be_is_refused_though_its_digest_is_right(folder: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said) as raised:
        penjing.load(forged(folder, **changes), threads=1)
    assert str(folder) in str(raised.value) and "\n" not in str(raised.value)


def test_a_layer_without_a_range_is_named(folder: Path) -> None:
    ranges = json.loads((folder / NETWORK).read_text())["ranges"]
    ranges.pop("layers.0.feed_forward.up")
    with pytest.raises(InputError, match="calibrated range of layers"):
        graph_bytes(forged(folder, ranges=ranges), Form("", "onnxruntime", PORTABLE[0], packed=True))


def test_weights_of_another_export_are_refused(folder: Path, tmp_path: Path) -> None:
    write_network(network_of(penjing_model(UNEVEN, seed=1)), {}, tmp_path / "other", ranges=None, segments=False)
    shutil.copyfile(tmp_path / "other" / WEIGHTS, folder / WEIGHTS)
    with pytest.raises(InputError, match="digest"):
        read_network(folder)


def test_a_form_that_no_graph_is_built_for_is_refused(whole: Path) -> None:
    with pytest.raises(InputError, match=r"no graph is called 'model'; model\.onnx"):
        open_engine(Form("", "torch", "model", packed=True), whole)


def test_a_network_without_ranges_runs_in_float_alone(tmp_path: Path) -> None:
    write_network(network_of(penjing_model(UNEVEN)), {}, tmp_path, ranges=None, segments=True)
    open_engine(Form("", "onnxruntime", PORTABLE[1], packed=True), tmp_path, threads=1)
    with pytest.raises(InputError, match="calibrated ranges"):
        open_engine(Form("", "onnxruntime", PORTABLE[0], packed=True), tmp_path, threads=1)


def test_a_graph_too_large_for_one_piece_is_refused(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    int8, floats = (replace(UNEVEN, bits=bits).bytes for bits in (8, 32))
    monkeypatch.setattr(packed, "LARGEST", (int8 + floats) // 2)
    graph_bytes(whole, Form("", "onnxruntime", FUSED[0], packed=True))
    with pytest.raises(InputError, match="in one piece"):
        graph_bytes(whole, Form("", "onnxruntime", FUSED[1], packed=True))


# -- where it runs -----------------------------------------------------------------------------------------------


def test_weights_are_rounded_for_the_machine_that_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _, ranges, _ = made(UNEVEN, tmp_path / "packed")
    form = Form("", "onnxruntime", PORTABLE[0], packed=True)
    graphs = {}
    for bits in (7, 8):
        monkeypatch.setattr("penjing.engines.onnx.packed.safe_weight_bits", lambda bits=bits: bits)
        monkeypatch.setattr("penjing.engines.onnx.files.safe_weight_bits", lambda bits=bits: bits)
        export(model, tmp_path / "files", [form.file], ranges, segments=True, float_layers=FLOAT_LAYERS)
        graphs[bits] = graph_bytes(tmp_path / "packed", form)
        assert graphs[bits] == (tmp_path / "files" / form.file).read_bytes()
    assert graphs[7] != graphs[8]


@pytest.mark.parametrize("form", [FLOAT_FORMS[0], INT8_FORMS[1], replace(INT8_FORMS[1], packed=True)], ids=("float", "int8", "packed int8"))
def test_another_processor_is_warned_of_only_where_int8_weights_are_a_file(
    form: Form, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penjing.engines.opening.safe_weight_bits", lambda: 7)
    model, _, ranges, _ = made(UNEVEN, tmp_path / "packed")
    if not form.packed:
        export(model, folder, [form.file], ranges, segments=True, float_layers=FLOAT_LAYERS)
    about = json.loads((folder / DESCRIPTION).read_text())
    (folder / DESCRIPTION).write_text(json.dumps(about | {"forms": [form.to_dict()], "weight_bits": 8}))
    for call in (lambda: penjing.load(folder, threads=1), lambda: open_engine(form, folder, 1)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            call()
        assert [w for w in caught if "VNNI" in str(w.message)] != [] if form == INT8_FORMS[1] else not caught


def test_a_form_is_read_back_from_json_and_from_before_there_were_packed_ones() -> None:
    for form in (*FORMS, *(replace(form, packed=True) for form in FORMS)):
        assert form_from(json.loads(json.dumps(form.to_dict()))) == form
    fields = {name: value for name, value in FORMS[0].to_dict().items() if name != "packed"}
    assert form_from(fields) == FORMS[0]
    assert (replace(FORMS[0], packed=True).files, FORMS[0].files) == ((WEIGHTS, NETWORK), (FORMS[0].file,))


def test_workers_measure_packed_forms(whole: Path) -> None:
    form = replace(INT8_FORMS[0], packed=True)
    (found,) = measure([Subject(form, whole)], texts(UNEVEN), threads=1, sampling=Sampling(1, 2, 2))
    assert found.latency_ms > 0 and found.load_s > 0 and found.throughput_per_s > 0


WITHOUT = """
import sys

names = sys.argv[2:]


class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Absent())
import penjing
"""
SERVE = """
for engine in ("onnxruntime", "openvino"):
    answers = penjing.load(sys.argv[1], engine=engine, threads=1)(["good film", "a bad bad film"])
    assert [sorted(answer) for answer in answers] == [["label", "score"]] * 2, answers
    print(engine)
"""
REFUSE = """
try:
    penjing.load(sys.argv[1], threads=1)
except penjing.errors.InputError as error:
    print(error)
"""


def without(names: Sequence[str], script: str, folder: Path) -> list[str]:
    """The lines that a script prints where these packages are missing."""
    command = [sys.executable, "-c", WITHOUT + script, str(folder), *names]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_it_is_served_without_torch(whole: Path) -> None:
    assert without(["torch", "transformers", "datasets", "accelerate"], SERVE, whole) == ["onnxruntime", "openvino"]


@pytest.mark.parametrize("package", ["onnx", "safetensors"])
def test_a_package_that_is_missing_is_named(whole: Path, package: str) -> None:
    (line,) = without([package], REFUSE, whole)
    assert line == f"engine: a packed model takes the package {package}, which is missing; pip install 'penjing[packed]'"
