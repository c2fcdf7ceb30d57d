"""The exported graphs compute what PyTorch computes: in float32 nearly exactly, in int8 closely."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from conftest import FAMILIES, blueprints, half, logits, penjing_model, perturb, tiny
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from penjing.blueprint import Blueprint, Layer
from penjing.engines.clock.machine import safe_weight_bits
from penjing.engines.form import FLOAT_FORMS, FUSED_FLOAT, FUSED_INT8, INT8_FORMS, PORTABLE_FLOAT, PORTABLE_INT8, Form, rounding_of
from penjing.engines.network import Ranges
from penjing.engines.onnx.export import export, network_of
from penjing.engines.onnx.graph import build_graph, weight_shapes
from penjing.engines.onnx.heads import Emitter, first_token
from penjing.engines.opening import forms_for, open_engine
from penjing.errors import InputError
from penjing.maths.rounding import affine, symmetric
from penjing.model.building import blueprint_of, build
from penjing.model.checkpoint import read
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.model.surgery import cut
from penjing.selection import Selection
from penjing.steps.bits.calibrate import calibrate
from penjing.text.encoded import Encoded

Logits = list[NDArray[np.float32]]
EXPORTED: tuple[str, ...] = ("sequence", "token", "question")
FLOAT, INT8 = (PORTABLE_FLOAT, FUSED_FLOAT), (PORTABLE_INT8, FUSED_INT8)
UNEVEN = Blueprint(40, 13, 2, 9, 12, 5, (Layer(3, 17), Layer(0, 6), Layer(2, 0), Layer(1, 8)), "sequence", 3)


def texts(lengths: Sequence[int], vocabulary: int, types: int = 1, seed: int = 0) -> Encoded:
    """Random texts; with `types` of two a second text follows the first, in one of them nothing does."""
    rng = np.random.default_rng(seed)
    ids = [rng.integers(0, vocabulary, n).tolist() for n in lengths]
    return Encoded.of(ids, [sorted(rng.integers(0, types, n).tolist()) for n in lengths])


@given(blueprints(EXPORTED))
def test_the_shapes_of_weights_are_those_of_the_model(blueprint: Blueprint) -> None:
    weights = network_of(build(blueprint)).weights
    assert {name: value.shape for name, value in weights.items()} == weight_shapes(blueprint)


def fitting(blueprint: Blueprint, seed: int = 0) -> Encoded:
    """Texts of one token, of every position, and between; some of equal length."""
    n = blueprint.positions
    return texts([n, 1, n // 2 + 1, n, n // 2, 1], blueprint.vocabulary, max(blueprint.token_types, 1), seed)


def in_torch(model: PenjingPreTrainedModel, encoded: Encoded) -> Logits:
    """The logits of every text alone."""
    result = []
    for i in range(len(encoded)):
        feeds = {name: torch.from_numpy(value) for name, value in encoded.feeds(np.array([i])).items()}
        result.append(logits(model, feeds)[0].numpy())
    return result


def run(folder: Path, file: str, encoded: Encoded, engine: Any = "onnxruntime", batch: int = 4, **options: Any) -> Logits:
    return open_engine(Form("", engine, file, batch=batch, **options), folder, threads=1).logits(encoded)


def assert_close(a: Logits, b: Logits, within: float = 1e-4) -> None:
    for x, y in zip(a, b, strict=True):
        assert x.shape == y.shape
        np.testing.assert_allclose(x, y, rtol=within, atol=within)


def inputs_of(folder: Path, file: str) -> list[str]:
    return [value.name for value in onnx.load(folder / file).graph.input]


# -- float32 -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", EXPORTED)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_and_head_on_every_engine(family: str, head: str, tmp_path: Path) -> None:
    theirs = tiny(family, head)
    theirs.save_pretrained(tmp_path / "theirs")
    model = read(tmp_path / "theirs")
    for name, ours in (("whole", model), ("pruned", cut(model, half(blueprint_of(model))))):
        folder = tmp_path / name
        types = blueprint_of(ours).token_types
        export(ours, folder, FLOAT, segments=types > 1)
        encoded = fitting(blueprint_of(ours))
        expected = in_torch(ours, encoded)
        assert_close(run(folder, PORTABLE_FLOAT, encoded), expected)
        assert_close(run(folder, FUSED_FLOAT, encoded), expected)
        if name == "pruned" or head == "sequence":
            assert_close(run(folder, PORTABLE_FLOAT, encoded, "openvino"), expected)


@given(blueprints(EXPORTED), st.integers(0, 99))
@example(UNEVEN, 0)
@example(replace(UNEVEN, head="token"), 0)
@example(UNEVEN.with_layers(()), 0)
@example(replace(UNEVEN, head="question", outputs=2).with_layers((Layer(0, 0),)), 0)
@example(replace(UNEVEN, token_types=0, embedding=12), 0)
@example(replace(UNEVEN, rank=4), 0)
def test_random_blueprints_in_onnx_runtime(tmp_path: Path, blueprint: Blueprint, seed: int) -> None:
    model, encoded = penjing_model(blueprint, seed), fitting(blueprint, seed)
    export(model, tmp_path, FLOAT, segments=True)
    expected = in_torch(model, encoded)
    assert_close(run(tmp_path, PORTABLE_FLOAT, encoded), expected)
    assert_close(run(tmp_path, FUSED_FLOAT, encoded), expected)


@settings(max_examples=4)
@given(blueprints(EXPORTED), st.integers(0, 99))
@example(UNEVEN, 0)
@example(replace(UNEVEN, head="token").with_layers(UNEVEN.layers[1:2]), 0)
@example(UNEVEN.with_layers(()), 0)
@example(replace(UNEVEN, rank=4), 0)
def test_random_blueprints_in_openvino(tmp_path: Path, blueprint: Blueprint, seed: int) -> None:
    model, encoded = penjing_model(blueprint, seed), fitting(blueprint, seed)
    export(model, tmp_path, [PORTABLE_FLOAT], segments=True)
    assert_close(run(tmp_path, PORTABLE_FLOAT, encoded, "openvino"), in_torch(model, encoded))


@pytest.mark.parametrize("head", ["sequence", "token"])
def test_eager_pytorch_is_an_engine_like_the_others(head: str, tmp_path: Path) -> None:
    tiny("bert", head).save_pretrained(tmp_path)
    model = read(tmp_path)
    encoded = fitting(blueprint_of(model))
    assert_close(run(tmp_path, ".", encoded, "torch"), in_torch(model, encoded))


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@given(blueprint=blueprints(EXPORTED), seed=st.integers(0, 99))
@settings(max_examples=4)
@example(blueprint=UNEVEN, seed=0)
@example(blueprint=replace(UNEVEN, head="token"), seed=0)
def test_padding_is_masked_in_the_portable_file(engine: Any, tmp_path: Path, blueprint: Blueprint, seed: int) -> None:
    model, encoded = penjing_model(blueprint, seed), fitting(blueprint, seed)
    export(model, tmp_path, [PORTABLE_FLOAT], segments=True)
    session = open_engine(Form("", engine, PORTABLE_FLOAT), tmp_path, threads=1)
    expected = in_torch(model, encoded)
    for pad in (0, 5):
        found = session.run(encoded.padded(np.arange(len(encoded)), pad))
        real = [row if blueprint.head.name == "sequence" else row[:length] for row, length in zip(found, encoded.lengths, strict=True)]
        assert_close(real, expected)


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "relu", "silu"])
def test_activations(activation: str, tmp_path: Path) -> None:
    model = penjing_model(UNEVEN, hidden_act=activation, head_act="relu" if activation == "silu" else activation)
    encoded = fitting(UNEVEN)
    export(model, tmp_path, FLOAT, segments=True)
    expected = in_torch(model, encoded)
    for file in FLOAT:
        assert_close(run(tmp_path, file, encoded), expected)
    assert_close(run(tmp_path, PORTABLE_FLOAT, encoded, "openvino"), expected)


def test_another_activation_and_another_head_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="mish"):
        export(penjing_model(UNEVEN, hidden_act="mish"), tmp_path, FLOAT, segments=True)
    for head in ("none", "masked"):
        model = penjing_model(replace(UNEVEN, head=head, outputs=0), head_act="gelu")
        with pytest.raises(InputError, match=head):
            export(model, tmp_path, FLOAT, segments=True)
    with pytest.raises(InputError, match="ranges"):
        export(penjing_model(UNEVEN), tmp_path, [PORTABLE_INT8], segments=True)
    assert list(tmp_path.iterdir()) == []


def logits_first(emitter: Emitter, states: str) -> str:
    """A head that adds a node after its logits."""
    found = first_token(emitter, states)
    emitter.op("Mul", found, found)
    return found


def test_the_logits_are_those_that_the_head_names(tmp_path: Path) -> None:
    model, encoded = penjing_model(UNEVEN), fitting(UNEVEN)
    head = replace(UNEVEN.head, graph=f"{__name__}:logits_first")
    network = network_of(model)
    graph = build_graph(replace(network, blueprint=replace(network.blueprint, head=head)))
    onnx.save(graph, tmp_path / PORTABLE_FLOAT)
    assert_close(run(tmp_path, PORTABLE_FLOAT, encoded), in_torch(model, encoded))


def test_epsilon_is_the_models(tmp_path: Path) -> None:
    model, encoded = penjing_model(UNEVEN, layer_norm_eps=0.5), fitting(UNEVEN)
    export(model, tmp_path, FLOAT, segments=True)
    for file in FLOAT:
        assert_close(run(tmp_path, file, encoded), in_torch(model, encoded))


@pytest.mark.parametrize("head", EXPORTED)
def test_without_pairs_the_first_token_type_is_folded_in(head: str, tmp_path: Path) -> None:
    blueprint = replace(UNEVEN, head=head, outputs=2)
    model = penjing_model(blueprint)
    export(model, tmp_path / "pairs", FLOAT, segments=True)
    export(model, tmp_path / "single", FLOAT, segments=False)
    assert inputs_of(tmp_path / "single", FUSED_FLOAT) == ["input_ids"]
    assert inputs_of(tmp_path / "pairs", FUSED_FLOAT) == ["input_ids", "token_type_ids"]
    for folder in ("pairs", "single"):
        assert inputs_of(tmp_path / folder, PORTABLE_FLOAT) == ["input_ids", "token_type_ids", "attention_mask"]
    encoded = texts([13, 4, 1], 40)
    single = run(tmp_path / "single", FUSED_FLOAT, encoded)
    assert_close(single, run(tmp_path / "pairs", FUSED_FLOAT, encoded), 1e-5)
    assert_close(single, in_torch(model, encoded))


def test_token_types_matter_in_pairs(tmp_path: Path) -> None:
    model = penjing_model(UNEVEN)
    export(model, tmp_path, FLOAT, segments=True)
    encoded = texts([13, 9], 40, types=2)
    assert 0 < encoded.types.sum() < len(encoded.types)
    for file in FLOAT:
        found, blind = run(tmp_path, file, encoded), run(tmp_path, file, replace(encoded, types=0 * encoded.types))
        assert_close(found, in_torch(model, encoded))
        assert max(np.abs(x - y).max() for x, y in zip(found, blind, strict=True)) > 1e-3


@pytest.mark.parametrize("token_types", [0, 1])
def test_a_model_without_a_second_token_type_takes_none(token_types: int, tmp_path: Path) -> None:
    model = penjing_model(replace(UNEVEN, token_types=token_types))
    export(model, tmp_path, FLOAT, segments=True)
    assert inputs_of(tmp_path, FUSED_FLOAT) == ["input_ids"]
    assert inputs_of(tmp_path, PORTABLE_FLOAT) == ["input_ids", "attention_mask"]


@pytest.mark.parametrize("positions,bucket", [(16, 8), (13, 8), (13, 4)])
@pytest.mark.parametrize("head", ["sequence", "token"])
def test_buckets_give_what_dynamic_lengths_give(head: str, positions: int, bucket: int, tmp_path: Path) -> None:
    blueprint = replace(UNEVEN, head=head, positions=positions)
    model, encoded = penjing_model(blueprint), texts([positions, 1, 3, 8, 3, positions - 1], 40, types=2)
    export(model, tmp_path, [PORTABLE_FLOAT], segments=True)
    expected = in_torch(model, encoded)
    for batch in (1, 2):
        assert_close(run(tmp_path, PORTABLE_FLOAT, encoded, "openvino", batch, bucket=bucket), expected)


def test_the_order_and_the_batch_size_do_not_matter(tmp_path: Path) -> None:
    blueprint = replace(UNEVEN, head="token")
    model, encoded = penjing_model(blueprint), texts([5, 2, 5, 13, 2, 5, 1], 40, types=2)
    export(model, tmp_path, FLOAT, segments=True)
    for file in FLOAT:
        whole = run(tmp_path, file, encoded, batch=32)
        assert [len(row) for row in whole] == encoded.lengths.tolist()
        assert_close(run(tmp_path, file, encoded, batch=1), whole, 1e-5)
        rows = np.array([6, 3, 0, 2])
        assert_close(run(tmp_path, file, encoded.take(rows)), [whole[i] for i in rows], 1e-5)


# -- int8 --------------------------------------------------------------------------------------------------------

RANK = 20
LARGE = Blueprint(600, 24, 2, 48, 64, 16, (Layer(4, 256), Layer(3, 190), Layer(0, 120), Layer(2, 0)), "sequence", 8)


def large(head: str, rank: int = 0) -> PenjingPreTrainedModel:
    """A model whose weights outweigh their names, and whose attention is as smooth as that of trained models."""
    model: PenjingPreTrainedModel = perturb(build(replace(LARGE, head=head, rank=rank)), by=0.12)
    return model


Int8 = tuple[Path, Encoded, Logits, PenjingPreTrainedModel, Ranges]


@pytest.fixture(scope="module", params=[("sequence", 0), ("token", 0), ("sequence", RANK)])
def rounded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Int8:
    """A folder with the files in float and int8, texts that were not calibrated on, their logits in PyTorch, the model, its ranges."""
    model, folder = large(*request.param), tmp_path_factory.mktemp("int8")
    lengths = np.random.default_rng(0).integers(4, 25, 120)
    ranges = calibrate(model, texts(lengths.tolist(), 600, types=2, seed=1))
    export(model, folder, (*FLOAT, *INT8), ranges, segments=True)
    encoded = texts(lengths[:60].tolist(), 600, types=2, seed=2)
    return folder, encoded, in_torch(model, encoded), model, ranges


def simulated(model: PenjingPreTrainedModel, encoded: Encoded, ranges: Ranges | None) -> Logits:
    """What rounding weights and activations gives, in PyTorch; without `ranges`, those of each text's own activations."""
    model = deepcopy(model)
    last = f"layers.{len(model.base_model.layers) - 1}."
    first_only = blueprint_of(model).head.name == "sequence"

    def rounding(name: str) -> Any:
        def hook(_: Any, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
            x = given[0]
            read = x[:, :1] if first_only and name.startswith(last) and not name.endswith(("query", "key", "value")) else x
            scale, zero = affine(*(ranges[name] if ranges else (read.min().item(), read.max().item())))
            return (float(scale) * ((x / float(scale)).round().add(int(zero)).clamp(0, 255) - int(zero)),)

        return hook

    def replace_weight(module: Any, axis: int, bits: int) -> None:
        q, scale = symmetric(module.weight.detach().numpy(), axis, bits)
        module.weight.data = torch.from_numpy(q * (scale[:, None] if axis == 0 else scale))

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and module.in_features and name != "head.out":
            replace_weight(module, 0, safe_weight_bits())
            module.register_forward_pre_hook(rounding(name.removeprefix("encoder.")))
    replace_weight(model.base_model.embeddings.word, 0, 8)
    return in_torch(model, encoded)


def error(a: Logits, b: Logits) -> float:
    """Root mean square of the difference, over the spread of b."""
    x, y = (np.concatenate([row.reshape(-1, row.shape[-1]) for row in rows]) for rows in (a, b))
    return float(np.sqrt(np.mean((x - y) ** 2)) / (y - y.mean(0)).std())


@pytest.mark.parametrize("file,engine", [(PORTABLE_INT8, "onnxruntime"), (FUSED_INT8, "onnxruntime"), (PORTABLE_INT8, "openvino")])
def test_int8_stays_near_float(file: str, engine: str, rounded: Int8) -> None:
    folder, encoded, expected, _, _ = rounded
    found = run(folder, file, encoded, engine)
    assert 1e-5 < error(found, expected) < 0.2
    shuffled = [expected[i] for i in np.roll(np.arange(len(expected)), 1)]
    assert expected[0].ndim == 2 or error(found, shuffled) > 0.5  # the measure can tell


@pytest.mark.parametrize("file,engine", [(PORTABLE_INT8, "onnxruntime"), (FUSED_INT8, "onnxruntime"), (PORTABLE_INT8, "openvino")])
def test_int8_is_the_rounding_that_is_declared(file: str, engine: str, rounded: Int8) -> None:
    folder, encoded, expected, model, ranges = rounded
    found = run(folder, file, encoded, engine, batch=1)
    declared = simulated(model, encoded, ranges if file == PORTABLE_INT8 else None)
    # Near a tie a value may round either way, so the two differ a little, but far less than either from float.
    assert error(found, declared) < 0.4 * error(found, expected)


def test_int8_is_the_same_on_both_engines(rounded: Int8) -> None:
    folder, encoded, expected, _, _ = rounded
    ours, theirs = run(folder, PORTABLE_INT8, encoded), run(folder, PORTABLE_INT8, encoded, "openvino")
    assert error(ours, theirs) < error(ours, expected)


@pytest.mark.parametrize("int8,real", list(zip(INT8, FLOAT, strict=True)))
def test_int8_files_hold_int8(int8: str, real: str, rounded: Int8) -> None:
    folder = rounded[0]
    assert (folder / int8).stat().st_size < 0.45 * (folder / real).stat().st_size
    held = {value.name: value for value in onnx.load(folder / int8).graph.initializer}
    matrices = {name for name, value in held.items() if len(value.dims) == 2 and min(value.dims) > 1}
    in_float = {name for name in matrices if held[name].data_type == onnx.TensorProto.FLOAT}
    assert in_float == {"embeddings.position", "embeddings.token_type.weight", "head.out.weight"}
    assert matrices - in_float and all(held[name].data_type == onnx.TensorProto.INT8 for name in matrices - in_float)
    assert tuple(held["embeddings.word.q"].dims) == (600, rounded[3].config.embedding_rank or 48)


def test_int8_padding_is_masked(rounded: Int8) -> None:
    folder, encoded, expected, _, _ = rounded
    found = open_engine(Form("", "onnxruntime", PORTABLE_INT8), folder, threads=1).run(encoded.padded(np.arange(len(encoded)), 0))
    real = [row if row.ndim == 1 else row[:length] for row, length in zip(found, encoded.lengths, strict=True)]
    assert error(real, run(folder, PORTABLE_INT8, encoded)) < 0.02
    assert error(real, expected) < 0.2


@settings(max_examples=8)
@given(blueprints(EXPORTED), st.integers(0, 99))
@example(UNEVEN.with_layers(()), 0)
@example(replace(UNEVEN, head="question", outputs=2), 0)
def test_random_blueprints_in_int8(tmp_path: Path, blueprint: Blueprint, seed: int) -> None:
    model, encoded = penjing_model(blueprint, seed), fitting(blueprint, seed)
    export(model, tmp_path, INT8, calibrate(model, encoded), segments=True)
    expected = in_torch(model, encoded)
    spread = max(float(np.concatenate([row.reshape(-1) for row in expected]).std()), 0.1)
    for file in INT8:
        found = run(tmp_path, file, encoded)
        assert [row.shape for row in found] == [row.shape for row in expected]
        assert max(float(np.abs(x - y).mean()) for x, y in zip(found, expected, strict=True)) < 0.5 * spread


@pytest.mark.parametrize("bits", [7, 8])
def test_weights_are_rounded_to_the_bits_asked_for(bits: int) -> None:
    model = large("sequence")
    ranges = calibrate(model, texts([9, 5], 600, types=2))
    for dialect in ("portable", "fused"):
        graph = build_graph(network_of(model), dialect, int8=True, ranges=ranges, weight_bits=bits)
        values = [onnx.numpy_helper.to_array(v) for v in graph.graph.initializer if v.name.endswith("up.q")]
        assert values and {int(np.abs(v.astype(int)).max()) for v in values} == {2 ** (bits - 1) - 1}


FLOAT_CHOICE = frozenset({"layers.0.attention.key", "layers.1.feed_forward.up", "head.dense"})


@pytest.mark.parametrize("dialect", ["portable", "fused"])
def test_layers_that_stay_in_float_hold_float(dialect: Any) -> None:
    model = large("sequence")
    ranges = calibrate(model, texts([9, 5], 600, types=2))
    with_all, with_some = (
        {
            v.name: v.data_type
            for v in build_graph(network_of(model), dialect, int8=True, ranges=ranges, float_layers=names).graph.initializer
        }
        for names in ((), FLOAT_CHOICE)
    )
    key = "layers.0.attention.key" if dialect == "portable" else "layers.0.attention.qkv"
    wanted = {key, "layers.1.feed_forward.up", "head.dense"}
    assert {f"{name}.weight" for name in wanted} == {n for n in with_some if n.endswith("weight")} - set(with_all)
    for name in wanted:
        assert with_all[f"{name}.q"] == onnx.TensorProto.INT8 and f"{name}.q" not in with_some
    assert with_some["layers.0.feed_forward.up.q"] == onnx.TensorProto.INT8


def test_every_layer_in_float_is_the_float_graph_but_for_the_words(tmp_path: Path) -> None:
    model, encoded = large("token"), texts([9, 5, 20], 600, types=2)
    names = {n.removeprefix("encoder.") for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and m.in_features}
    export(model, tmp_path, INT8, {}, segments=True, float_layers=names)
    q, scale = symmetric(model.base_model.embeddings.word.weight.detach().numpy(), 0)
    model.base_model.embeddings.word.weight.data = torch.from_numpy(q * scale[:, None])
    expected = in_torch(model, encoded)
    for file in INT8:
        assert_close(run(tmp_path, file, encoded), expected)
    assert_close(run(tmp_path, PORTABLE_INT8, encoded, "openvino"), expected)


def test_an_unknown_layer_to_leave_in_float_is_refused() -> None:
    with pytest.raises(InputError, match=r"layers\.9\.attention\.query"):
        build_graph(network_of(penjing_model(UNEVEN)), float_layers=["layers.9.attention.query"])


# -- forms and files -----------------------------------------------------------------------------------------------


def test_forms_are_chosen_by_engine_and_scheme() -> None:
    assert {rounding_of(form) for form in INT8_FORMS} == {"dynamic", "static"} and {rounding_of(form) for form in FLOAT_FORMS} == {"float"}
    assert forms_for(None) == list(INT8_FORMS) and forms_for(None, int8=False) == list(FLOAT_FORMS)
    for scheme in ("dynamic", "static"):
        found = forms_for("onnxruntime", rounding=scheme)
        assert found and all(form.engine == "onnxruntime" and rounding_of(form) == scheme for form in found)
    assert {form.engine for form in forms_for(None, rounding="static")} == {"onnxruntime", "openvino"}
    with pytest.raises(InputError, match="openvino has no dynamic"):
        forms_for("openvino", rounding="dynamic")


def test_a_file_that_is_missing_or_damaged_is_refused(tmp_path: Path) -> None:
    for engine in ("onnxruntime", "openvino"):
        with pytest.raises(InputError, match="missing"):
            open_engine(Form("", engine, PORTABLE_FLOAT), tmp_path)
    (tmp_path / PORTABLE_FLOAT).write_bytes(b"no onnx")
    for engine in ("onnxruntime", "openvino"):
        with pytest.raises(InputError, match="cannot load"):
            open_engine(Form("", engine, PORTABLE_FLOAT), tmp_path)


def test_the_identity_cut_exports_alike(tmp_path: Path) -> None:
    model = penjing_model(UNEVEN)
    export(model, tmp_path / "a", FLOAT, segments=True)
    export(cut(model, Selection.all(UNEVEN)), tmp_path / "b", FLOAT, segments=True)
    for file in FLOAT:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
