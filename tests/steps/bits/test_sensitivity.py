"""Sensitivity is measured with the arithmetic that is exported, and the fewest layers that reach a limit stay in float."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import penjing_model
from hypothesis import given
from hypothesis import strategies as st

from penjing.blueprint import Blueprint, Layer
from penjing.engines.clock.machine import safe_weight_bits
from penjing.engines.form import FUSED_INT8, PORTABLE_INT8, Form
from penjing.engines.onnx.export import export
from penjing.engines.opening import open_engine
from penjing.maths.answers import Classes, Values
from penjing.steps.bits.calibrate import calibrate
from penjing.steps.bits.sensitivity import CANDIDATES, Divergence, best_calibration, keep_float, roundable, rounded, sensitivity
from penjing.tasks.task import Examples
from penjing.text.encoded import Encoded
from penjing.training.predict import divergence_of

BLUEPRINT = Blueprint(60, 16, 2, 20, 24, 8, (Layer(3, 40), Layer(2, 30)), "sequence", 3)
BAD = "layers.0.feed_forward.down"


@pytest.fixture(scope="module")
def model() -> Any:
    """A model of which one layer reads an outlier, which leaves next to no steps for all else."""
    model: Any = penjing_model(BLUEPRINT)
    with torch.no_grad():
        feed_forward = model.base_model.layers[0].feed_forward
        feed_forward.up.bias[3] = 400.0
        feed_forward.down.weight[:, 3] = 0.01
    return model


@pytest.fixture(scope="module")
def encoded() -> Encoded:
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, 17, 24)
    return Encoded.of([rng.integers(0, 60, n).tolist() for n in lengths], [[0] * int(n) for n in lengths])


def texts_of(encoded: Encoded, first_tokens: list[list[int]] | None = None) -> Examples:
    none: list[Any] = [None] * len(encoded)
    return Examples(encoded, none, none, first_tokens or [[] for _ in none], 0)


def log_softmax(rows: Any) -> Any:
    x = np.stack(rows).astype(np.float64)
    return x - np.log(np.exp(x).sum(1, keepdims=True))


@pytest.mark.parametrize("file", [PORTABLE_INT8, FUSED_INT8])
@pytest.mark.parametrize("float_layers", [(), (BAD, "layers.1.feed_forward.up")])
def test_it_is_the_divergence_of_the_exported_graph(
    file: str, float_layers: tuple[str, ...], model: Any, encoded: Encoded, tmp_path: Path
) -> None:
    ranges = calibrate(model, encoded, "min-max")
    export(model, tmp_path, [file], ranges, segments=False, float_layers=float_layers)
    q = log_softmax(open_engine(Form("", "onnxruntime", file, batch=1), tmp_path, 1).logits(encoded))
    divergence = Divergence(model, texts_of(encoded), ranges if file == PORTABLE_INT8 else None, Classes())
    with torch.no_grad():
        p = log_softmax([model(torch.from_numpy(encoded.row(i)).long()[None]).logits[0].numpy() for i in range(len(encoded))])
    found = divergence([name for name in divergence.layers if name not in float_layers])
    assert found == pytest.approx(float((np.exp(p) * (p - q)).sum(1).mean()), rel=0.15)


def test_the_layer_with_the_outlier_is_the_worst_and_leaving_it_in_float_helps(model: Any, encoded: Encoded) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    divergence = Divergence(model, texts_of(encoded), calibrate(model, encoded, "min-max"), Classes())
    found = sensitivity(divergence)
    assert set(found) == set(roundable(model)) == set(divergence.layers) and "head.out" not in found
    assert next(iter(found)) == BAD and list(found.values()) == sorted(found.values(), reverse=True)
    whole = divergence(divergence.layers)
    kept = keep_float(found, divergence, whole / 4)
    assert kept == {BAD}
    assert divergence([name for name in divergence.layers if name not in kept]) <= whole / 4
    assert keep_float(found, divergence, whole) == frozenset()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("head,outputs", [("token", 3), ("question", 2), ("sequence", 1)])
def test_every_head_has_a_divergence_that_is_zero_for_itself(head: Any, outputs: int, encoded: Encoded) -> None:
    model = penjing_model(Blueprint(60, 16, 2, 20, 24, 8, (Layer(3, 40),), head, outputs))
    divergence = Divergence(model, texts_of(encoded), None, Values() if outputs == 1 else Classes())
    divergence.expected = divergence._logits(divergence.model)
    assert abs(divergence(())) < 1e-12 < 1e-9 < divergence(divergence.layers)


@given(st.dictionaries(st.text("abcdef", min_size=1, max_size=3), st.floats(0, 10), max_size=8), st.floats(0, 30))
def test_the_fewest_of_the_worst_are_kept(errors: dict[str, float], limit: float) -> None:
    def divergence(names: Collection[str]) -> float:
        return sum(errors[name] for name in names)

    kept = keep_float(errors, divergence, limit)
    rounded = set(errors) - kept
    assert divergence(rounded) <= limit
    assert all(errors[a] >= errors[b] for a in kept for b in rounded)
    if kept:
        assert divergence(rounded) + min(errors[name] for name in kept) > limit * (1 - 1e-9)


def test_the_calibration_is_the_one_that_moves_the_answers_on_other_texts_least(model: Any, encoded: Encoded) -> None:
    number = np.arange(len(encoded))
    apart, seen = (texts_of(encoded.take(number[rows])) for rows in (number % 4 == 0, number % 4 > 0))
    moved = {}
    for way in CANDIDATES:
        divergence = Divergence(model, apart, calibrate(model, seen.encoded, way), Classes())
        moved[way] = divergence(divergence.layers)
    way, ranges = best_calibration(model, seen, apart, Classes())
    assert moved[way] == min(moved.values()) < max(moved.values())
    assert ranges == calibrate(model, seen.encoded, way)


def test_tokens_that_are_not_answered_from_count_for_nothing(encoded: Encoded) -> None:
    model = penjing_model(Blueprint(60, 16, 2, 20, 24, 8, (Layer(3, 40),), "token", 3))
    first = [[1, -1], *([2 % int(n)] for n in encoded.lengths[1:])]
    data = texts_of(encoded, first)
    divergence = Divergence(model, data, None, Classes())
    words = [[token for token in row if token >= 0] for row in first]
    rows = {name: divergence.layers if name == "rounded" else () for name in ("rounded", "float")}
    with torch.inference_mode():
        p = [model(torch.from_numpy(encoded.row(i)).long()[None]).logits[0].double() for i in range(len(encoded))]
        for names in rows.values():
            with rounded(divergence.model, names, None, safe_weight_bits()):
                q = [divergence.model(torch.from_numpy(encoded.row(i)).long()[None]).logits[0].double() for i in range(len(encoded))]
            expected = [
                float((a[w].softmax(-1) * (a[w].log_softmax(-1) - b[w].log_softmax(-1))).sum())
                for a, b, some in zip(p, q, words, strict=True)
                for w in some
            ]
            assert divergence(names) == pytest.approx(np.mean(expected), rel=1e-3)

    reference = [row.float().numpy() for row in p]
    before = divergence_of(model, data, reference, Classes())
    for row, some in zip(reference, words, strict=True):
        row[np.setdiff1d(np.arange(len(row)), some)] += np.arange(3) * 5.0
    assert divergence_of(model, data, reference, Classes()) == before
    reference[3][words[3][0]] += np.arange(3) * 5.0
    assert divergence_of(model, data, reference, Classes()) > before + 1e-3
