"""Smoothing leaves the float function as it was, and makes the channels that it may touch more even."""

from typing import Any

import numpy as np
import pytest
import torch
from conftest import blueprints, logits, own_inputs, penjing_model
from hypothesis import example, given, settings
from hypothesis import strategies as st

from penjing.blueprint import Blueprint, Layer
from penjing.errors import InputError
from penjing.steps.bits.calibrate import calibrate
from penjing.steps.bits.smooth import smooth, smoothing_factors
from penjing.text.encoded import Encoded

UNEVEN = Blueprint(40, 13, 2, 9, 12, 5, (Layer(3, 17), Layer(0, 6), Layer(2, 0), Layer(2, 8)), "sequence", 3)


def texts(blueprint: Blueprint, count: int = 4) -> Encoded:
    rng = np.random.default_rng(0)
    ids = [rng.integers(0, blueprint.vocabulary, blueprint.positions).tolist() for _ in range(count)]
    return Encoded.of(ids, [[0] * blueprint.positions] * count)


@settings(max_examples=15)
@given(blueprints(("sequence", "token", "question")), st.sampled_from(["gelu", "relu"]), st.sampled_from([0.0, 0.3, 0.5, 1.0]))
@example(UNEVEN, "gelu", 0.5)
@example(UNEVEN, "relu", 0.5)
def test_the_float_function_stays(blueprint: Blueprint, activation: str, alpha: float) -> None:
    model = penjing_model(blueprint, hidden_act=activation)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    smoothed = smooth(model, texts(blueprint), alpha)
    inputs = own_inputs(blueprint)
    torch.testing.assert_close(logits(smoothed, inputs), logits(model, inputs), rtol=1e-4, atol=1e-4)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("activation,touched", [("gelu", ("value", "output")), ("relu", ("value", "output", "up", "down"))])
def test_only_what_can_be_folded_is_touched(activation: str, touched: tuple[str, ...]) -> None:
    model = penjing_model(UNEVEN, hidden_act=activation)
    smoothed = dict(smooth(model, texts(UNEVEN)).named_parameters())
    changed = {name for name, value in model.named_parameters() if not torch.equal(value, smoothed[name])}
    assert {name.split(".")[-2] for name in changed} == set(touched)
    assert not any(".output.bias" in name or ".down.bias" in name for name in changed)


def test_an_outlier_of_the_context_is_evened_out() -> None:
    model: Any = penjing_model(UNEVEN)
    with torch.no_grad():  # one channel of the values a hundred times the others, its outputs a hundredth
        attention = model.base_model.layers[0].attention
        attention.value.weight[4] *= 100
        attention.value.bias[4] *= 100
        attention.output.weight[:, 4] /= 100
    name = "layers.0.attention.output"
    before, after = (calibrate(m, texts(UNEVEN), "min-max")[name] for m in (model, smooth(model, texts(UNEVEN))))
    assert after[1] - after[0] < 0.2 * (before[1] - before[0])


@given(st.integers(0, 99), st.sampled_from([0.0, 0.5, 1.0]))
def test_factors_even_out_activations_at_one_and_weights_at_zero(seed: int, alpha: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, w = torch.rand(6, generator=generator) + 0.1, torch.randn(5, 6, generator=generator)
    x[0], w[:, 1] = 0, 0
    s = smoothing_factors(x, w, alpha)
    assert s[0] == s[1] == 1 and (s > 0).all()
    activations, weights = (x / s)[2:], (w * s).abs().amax(0)[2:]
    if alpha == 0.5:
        torch.testing.assert_close(activations, weights)
    elif alpha == 1:
        torch.testing.assert_close(activations, torch.ones(4))
    else:
        torch.testing.assert_close(weights, torch.ones(4))


def test_alpha_is_a_part() -> None:
    with pytest.raises(InputError, match="alpha"):
        smooth(penjing_model(UNEVEN), texts(UNEVEN), 1.5)
