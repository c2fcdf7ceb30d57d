"""Segments run through are the one graph; at the ends of the threshold they are the whole model and its first exit."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import blueprints, penjing_model
from hypothesis import example, given, settings
from hypothesis import strategies as st

from penjing.blueprint import Blueprint, Layer
from penjing.engines.exits import ALWAYS, NEVER, ExitsEngine, Leaving, never
from penjing.engines.form import FUSED_FLOAT, FUSED_INT8, PORTABLE_FLOAT, PORTABLE_INT8, Form, leaving_early, rounding_of, without_leaving
from penjing.engines.network import Deployed
from penjing.engines.onnx.export import export, network_of
from penjing.engines.onnx.segments import ends_of, write_segments
from penjing.engines.opening import open_engine
from penjing.errors import InputError
from penjing.maths.exits import RULES, places
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.steps.bits.calibrate import calibrate
from penjing.text.encoded import Encoded

DEEP = Blueprint(40, 13, 2, 9, 12, 5, (Layer(3, 17), Layer(0, 6), Layer(2, 0), Layer(1, 8)), "sequence", 3, exits=(1, 3))
FLOAT, INT8 = (PORTABLE_FLOAT, FUSED_FLOAT), (PORTABLE_INT8, FUSED_INT8)


def texts(blueprint: Blueprint, seed: int = 0, count: int = 12) -> Encoded:
    """Random texts, several of each length."""
    random = np.random.default_rng(seed)
    ids = [
        random.integers(0, blueprint.vocabulary, int(n)).tolist() for n in random.integers(1, blueprint.positions + 1, count // 3).repeat(3)
    ]
    return Encoded.of(ids, [sorted(random.integers(0, max(1, blueprint.token_types), len(row)).tolist()) for row in ids])


def opened(model: PenjingPreTrainedModel, folder: Path, file: str, encoded: Encoded, leaving: Leaving | None = None) -> ExitsEngine:
    """The engine of a model in segments."""
    blueprint = network_of(model).blueprint
    ends = ends_of(blueprint)
    form = leaving_early(Form("", "onnxruntime", file, batch=4), len(ends))
    ranges = calibrate(model, encoded) if file in INT8 else None
    write_segments(Deployed(network_of(model), ranges, True), folder, form)
    (leaving or Leaving(ends)).write(folder / form.file)
    engine = open_engine(form, folder, threads=1)
    assert isinstance(engine, ExitsEngine)
    return engine


def in_torch(model: PenjingPreTrainedModel, encoded: Encoded) -> np.ndarray:
    """The logits of every exit and the last, (N, E + 1, C)."""
    rows = []
    for i in range(len(encoded)):
        feeds = {name: torch.from_numpy(value) for name, value in encoded.feeds(np.array([i])).items()}
        with torch.no_grad():
            output = model(**feeds, output_exit_logits=True)
        rows.append(torch.stack([*(z[0] for z in output.exit_logits), output.logits[0]]).numpy())
    return np.stack(rows)


@pytest.mark.parametrize("file", FLOAT)
@settings(max_examples=12)
@given(blueprint=blueprints(["sequence"]), seed=st.integers(0, 99))
@example(blueprint=DEEP, seed=0)
@example(blueprint=replace(DEEP, layers=(Layer(2, 6), Layer(2, 6, shares=0), Layer(2, 6, shares=0)), exits=(1, 2)), seed=0)
@example(blueprint=replace(DEEP, rank=4, token_types=0), seed=0)
def test_every_segment_computes_what_pytorch_computes(file: str, blueprint: Blueprint, seed: int, tmp_path: Path) -> None:
    if not blueprint.layers:
        return
    model, encoded = penjing_model(blueprint, seed), texts(blueprint, seed)
    engine = opened(model, tmp_path, file, encoded)
    expected = in_torch(model, encoded)
    np.testing.assert_allclose(np.stack(engine.logits(encoded)), expected[:, -1], rtol=1e-4, atol=1e-4)
    if blueprint.exits:
        np.testing.assert_allclose(engine.trace(encoded).logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("file", [*FLOAT, *INT8])
def test_segments_run_through_are_the_one_graph(file: str, tmp_path: Path) -> None:
    model, encoded = penjing_model(DEEP), texts(DEEP)
    engine = opened(model, tmp_path, file, encoded)
    ranges = calibrate(model, encoded) if file in INT8 else None
    export(model, tmp_path, [file], ranges, segments=True)
    whole = open_engine(without_leaving(engine.form), tmp_path, 1).logits(encoded)
    np.testing.assert_allclose(np.stack(engine.logits(encoded)), np.stack(whole), rtol=1e-5, atol=1e-5)
    assert rounding_of(engine.form) == rounding_of(without_leaving(engine.form)) and engine.form.int8 == (file in INT8)


@pytest.mark.parametrize("rule", RULES)
def test_at_the_ends_of_the_threshold_it_is_the_whole_model_and_the_first_exit(rule: str, tmp_path: Path) -> None:
    model, encoded = penjing_model(DEEP), texts(DEEP)
    means = np.random.default_rng(0).normal(size=(2, 3, 12)).astype(np.float32)
    engine = opened(model, tmp_path, FUSED_FLOAT, encoded, Leaving((1, 3, 4), rule, NEVER, means))
    trace = engine.trace(encoded)
    for threshold, number in ((NEVER, 2), (ALWAYS, 0)):
        found = engine.at(replace(engine.leaving, threshold=threshold))
        np.testing.assert_array_equal(np.stack(found.logits(encoded)), trace.logits[:, number])
        assert (found.places(encoded) == number).all()
    np.testing.assert_array_equal(np.stack(never(found).logits(encoded)), trace.logits[:, 2])


@pytest.mark.parametrize("rule", RULES)
@given(threshold=st.floats(0, 1), batch=st.sampled_from([1, 4]))
@settings(max_examples=10)
def test_a_text_leaves_where_its_scores_say_whoever_is_beside_it(rule: str, threshold: float, batch: int, tmp_path: Path) -> None:
    model, encoded = penjing_model(DEEP), texts(DEEP)
    means = np.random.default_rng(0).normal(size=(2, 3, 12)).astype(np.float32)
    engine = opened(model, tmp_path, FUSED_FLOAT, encoded, Leaving((1, 3, 4), rule, threshold, means))
    engine.form = replace(engine.form, batch=batch)
    trace = engine.trace(encoded)
    scores = trace.scores(engine.leaving)
    if np.abs(scores - threshold).min() < 1e-4:  # a batch rounds otherwise than a text alone
        return
    expected = places(scores, threshold)
    assert engine.places(encoded).tolist() == expected.tolist()
    found = np.stack(engine.logits(encoded))
    np.testing.assert_allclose(found, trace.logits[np.arange(len(encoded)), expected], rtol=1e-4, atol=1e-4)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    means = np.random.default_rng(0).normal(size=(1, 2, 3)).astype(np.float32)
    for leaving in (Leaving((2, 4)), Leaving((1, 6), "prototypes", 0.25, means), Leaving((1, 2, 3), "patience", 0.5)):
        leaving.write(tmp_path / "a.json")
        read = Leaving.read(tmp_path / "a.json")
        assert (read.layers, read.rule, read.threshold) == (leaving.layers, leaving.rule, leaving.threshold)
        np.testing.assert_allclose(
            read.prototypes if means is None else 0, 0
        ) if leaving.prototypes is None else np.testing.assert_allclose(read.prototypes, means, rtol=1e-6)


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"layers": []},
        {"layers": [2, 1]},
        {"layers": "12"},
        {"rule": "luck"},
        {"threshold": "0.1"},
        {"threshold": None},
        {"rule": "prototypes"},
    ],
)
def test_a_damaged_description_is_refused(change: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"format": 1, "layers": [1, 2], "rule": "entropy", "threshold": 0.1} | change))
    with pytest.raises(InputError, match=r"a\.json"):
        Leaving.read(tmp_path / "a.json")


def test_graphs_that_are_no_segments_are_refused(tmp_path: Path) -> None:
    model, encoded = penjing_model(DEEP), texts(DEEP)
    engine = opened(model, tmp_path, FUSED_FLOAT, encoded)
    turned = replace(engine.form, more=engine.form.more[::-1])
    with pytest.raises(InputError, match="its graph 1"):
        open_engine(turned, tmp_path, 1)
    Leaving((1, 4)).write(tmp_path / engine.form.file)
    with pytest.raises(InputError, match="3 graphs, and 2 segments"):
        open_engine(engine.form, tmp_path, 1)
    (tmp_path / engine.form.more[1]).unlink()
    with pytest.raises(InputError, match="is missing"):
        open_engine(engine.form, tmp_path, 1)
