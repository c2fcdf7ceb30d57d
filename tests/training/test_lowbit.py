"""Training in few bits: what was judged is what is stored, for every scheme, and a killed training goes on exactly."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import fake, penjing_model
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrize

from penjing.blueprint import Blueprint, Layer
from penjing.errors import InputError
from penjing.maths.stored import BITS, Scheme, quantize
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.model.surgery import copy_of
from penjing.selection import Selection
from penjing.steps.bits.lowbit import Codebook, Halves, Levels, LowBit, LowBitWeights
from penjing.steps.bits.qat import RoundedWeight
from penjing.steps.teach.distill import Distill, DistillSettings, Place, Teachers
from penjing.tasks import judging
from penjing.tasks.sequence import Classification
from penjing.tasks.task import Examples
from penjing.text.encoded import Encoded
from penjing.training import loop
from penjing.training.loop import Schedule, mixed_precision
from penjing.training.predict import logits_of
from penjing.training.taught import Taught

SMALL = Blueprint(60, 24, 2, 16, 16, 8, (Layer(2, 32), Layer(2, 32)), "sequence", 2)
TASK = Classification(["big", "small"])
STEPS = 6
SCHEMES = (
    Scheme("linear", 4, 8), Scheme("linear", 3, 5, "mse"), Scheme("affine", 2, 16, "percentile"), Scheme("log", 4, 0),
    Scheme("kmeans", 3, 0), Scheme("kmeans", 2, 6), Scheme("ternary", 2, 16), Scheme("binary", 1, 16),
    Scheme("dorefa", 2, 0), Scheme("dorefa", 1, 0),
)  # fmt: skip


class Killed(Exception):
    pass


def small() -> PenjingPreTrainedModel:
    """Always the same small model."""
    torch.manual_seed(7)
    return penjing_model(SMALL, 7)


def examples(seed: int, count: int) -> Examples:
    random = np.random.default_rng(seed)
    rows = [random.integers(5, 60, random.integers(2, 12)).tolist() for _ in range(count)]
    gold = ["big" if row[1] > 30 else "small" for row in rows]
    return Examples(Encoded.of(rows, [[0] * len(row) for row in rows]), rows, gold, [[]] * count, 0)


def everywhere(scheme: Scheme) -> dict[str, Scheme]:
    """The scheme for each linear layer of the encoder and the word embedding."""
    return {name: scheme for name, p in small().named_parameters() if p.ndim == 2 and ("layers" in name or "word" in name)}


EVERY = tuple(everywhere(Scheme()))


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


schemes = st.sampled_from(list(BITS)).flatmap(
    lambda kind: st.builds(Scheme, st.just(kind), st.sampled_from(BITS[kind]), st.sampled_from([0, 1, 3, 7, 50]))
)


def rounding(weight: Tensor, scheme: Scheme) -> tuple[nn.Module, tuple[Tensor, ...]]:
    if scheme.kind != "kmeans":
        return Levels(weight, scheme), (weight,)
    table = Codebook(weight, scheme, 0)
    return table, (table.right_inverse(weight),)


# -- weights -----------------------------------------------------------------------------------------------------


def test_a_binary_weight_of_zero_is_trained_as_it_is_stored() -> None:
    """sign(0) = 1, and so of what is too near to zero for its quotient to show."""
    w = torch.tensor([[0.0, -1e-12, 1e-12, 0.5, -0.75, 0.0]])
    levels = Levels(w, Scheme("binary", 1, 0))
    stored = quantize(w, Scheme("binary", 1, 0)).values()
    assert np.sign(stored).tolist() == [[1, -1, 1, 1, -1, 1]]
    np.testing.assert_array_equal(levels(w).numpy(), stored)
    np.testing.assert_array_equal(levels.codes(w).values(), stored)


@given(schemes, st.integers(1, 6), st.integers(1, 9), st.integers(0, 99))
def test_what_is_computed_with_is_what_is_stored(scheme: Scheme, rows: int, columns: int, seed: int) -> None:
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    module, latent = rounding(weight, scheme)
    values = module(*latent)
    np.testing.assert_array_equal(values.numpy(), module.codes(*latent).values())
    if scheme.kind not in ("ternary", "log"):  # these two have thresholds that are not half way
        torch.testing.assert_close((values - weight).square().sum(), (fake(weight, scheme) - weight).square().sum())


@given(schemes, st.integers(0, 99))
def test_each_weight_has_the_nearest_of_its_groups_values(scheme: Scheme, seed: int) -> None:
    weight = torch.randn(4, 9, generator=torch.Generator().manual_seed(seed))
    if scheme.kind in ("kmeans", "log"):
        return
    levels = Levels(weight, scheme)
    moved = weight + 0.3 * torch.randn(weight.shape)
    reach = levels._regrouped(weight, None, lambda w, scale, _: levels.top * scale * torch.ones_like(w))  # all levels lie within ± this
    points = torch.linspace(-1, 1, 999)[:, None, None] * reach
    every = levels(points.reshape(-1, 9), torch.arange(4).repeat(999)).view(999, 4, 9)
    torch.testing.assert_close((levels(moved) - moved).abs(), (every - moved).abs().amin(0))


@given(st.integers(2, 4), st.integers(0, 99), st.sampled_from([1.0, 0.05]))
def test_dorefas_weights_are_those_of_its_equation_in_the_unit_of_the_matrix(bits: int, seed: int, size: float) -> None:
    """Codes of 2·quantize_k(tanh(u)/2max|tanh(u)| + 1/2) - 1, u the weights over their root mean square; the gradient is the tanh's own."""
    weight = (size * torch.randn(6, 9, generator=torch.Generator().manual_seed(seed))).requires_grad_()
    levels = Levels(weight, Scheme("dorefa", bits, 0), squash=True)
    rounding = RoundedWeight(levels, levels.squashed)
    found = rounding(weight)
    tanh = torch.tanh(weight.detach() / weight.detach().square().mean().sqrt())
    u = (tanh / tanh.abs().max() / 2 + 0.5) * (2**bits - 1)
    away = ((u % 1) - 0.5).abs() > 2**-6  # of a tie: the scale has 11 bits
    assert torch.equal(torch.from_numpy(levels.codes(weight.detach()).codes)[away], u.round().to(torch.uint8)[away])
    assert torch.equal(found.detach(), torch.from_numpy(levels.codes(weight.detach()).values())) and len(found.unique()) <= 2**bits
    found.sum().backward()
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad, levels.gain / levels.unit * (1 - tanh**2), rtol=1e-3, atol=1e-5)


def test_rows_of_a_table_are_rounded_as_in_the_whole() -> None:
    table, ids = torch.randn(12, 10), torch.tensor([3, 3, 0, 11])
    for scheme in SCHEMES:
        if scheme.kind != "kmeans":
            for levels in (Levels(table, scheme), Levels(table, scheme, squash=True)):
                assert torch.equal(levels(table[ids], ids), levels(table)[ids])


@given(st.sampled_from([0, 8, 20]), st.integers(0, 99))
def test_split_in_two_binary_ones_a_ternary_weight_is_still_itself(group: int, seed: int) -> None:
    linear = nn.Linear(20, 6)
    with torch.no_grad():
        linear.weight.copy_(torch.randn(6, 20, generator=torch.Generator().manual_seed(seed)))
    weight = linear.weight.detach().clone()
    ternary = fake(weight, Scheme("ternary", 2, group))
    halves = Halves(weight, ternary, group)
    whole = halves(*halves.start)
    torch.testing.assert_close(halves.start[0] + halves.start[1], weight)
    # Scales of 11 bits: each half's may be off by 2^-11 of itself.
    assert ((whole - ternary).abs() <= ternary.abs().max() * 2**-10).float().mean() > 0.95
    coded = halves.codes(*halves.start)
    np.testing.assert_array_equal(coded.values(), whole.detach().numpy())
    parametrize.register_parametrization(linear, "weight", halves)
    linear(torch.randn(3, 20)).square().sum().backward()
    a, b = linear.parametrizations.weight.original0.grad, linear.parametrizations.weight.original1.grad
    assert a is not None and torch.equal(a, b) and a.any()


def test_scales_are_found_anew_now_and_then_and_stand_still_in_the_end() -> None:
    model = small()
    weights = LowBitWeights(model, everywhere(Scheme("linear", 4, 16)), (), 0)
    name = "encoder.layers.0.feed_forward.up.weight"
    levels, _ = weights._latent(name)
    start = levels.scale.clone()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2)
    weights.before_step(0, 100)
    weights.before_step(7, 100)
    weights.before_step(95, 100)
    assert torch.equal(levels.scale, start)
    weights.before_step(10, 100)
    assert torch.equal(levels.scale, 2 * start)


# -- in training -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def train() -> Callable[..., tuple[PenjingPreTrainedModel, Taught]]:
    """(folder, scheme, …) → the model and what its training gave: 6 steps, states matched."""
    data, dev = examples(0, 48), examples(1, 12)

    def run(folder: Path, scheme: Scheme, kill_at: int | None = None, **options: Any) -> tuple[PenjingPreTrainedModel, Taught]:
        calls = [0]

        def progress(done: int, total: int, **figures: float) -> None:
            calls[0] += 1
            if calls[0] == kill_at:
                raise Killed

        model = small()
        schedule = Schedule(epochs=1, batch_size=8, learning_rate=5e-3, patience=100)
        teach = Distill(
            TASK, Teachers(model), DistillSettings(schedule, dropout=0.1), dev, Place(folder), Selection.all(SMALL), progress=progress
        )
        step = LowBit(teach, everywhere(scheme), **options)
        before = copy_of(model).state_dict()
        evidence = step.observe(model, data)
        taught = step.teach(model, evidence)
        assert equal(before, model.state_dict())
        return taught.model, taught

    return run


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_the_model_has_the_values_that_are_stored_and_was_judged_with_them(train: Any, scheme: Scheme, tmp_path: Path) -> None:
    model, taught = train(tmp_path, scheme)
    assert taught.history.steps == STEPS and not model.training
    state = model.state_dict()
    assert state.keys() == small().state_dict().keys() and taught.coded.keys() == everywhere(scheme).keys()
    for name, coded in taught.coded.items():
        assert coded.bits == scheme.bits and coded.group == scheme.group
        np.testing.assert_array_equal(state[name].numpy(), coded.values())
        assert not np.array_equal(coded.values(), fake(small().get_parameter(name).detach(), scheme).numpy())
    if mixed_precision() == "no":
        dev = examples(1, 12)
        assert judging.quality_of(TASK, dev, logits_of(model, dev.encoded)) == taught.history.best


@pytest.mark.parametrize("options",
    [
        {"activation_bits": 8}, {"activation_bits": 4, "squash": EVERY}, {"activation_bits": 1}, {"activation_bits": 1, "levels": "rows"},
        {"activation_bits": 2, "levels": "even", "gradient_bits": 4},
    ],
    ids=str,
)  # fmt: skip
def test_inputs_are_rounded_in_training_alone(train: Any, options: dict[str, Any], tmp_path: Path) -> None:
    model, taught = train(tmp_path, Scheme("linear", 4, 16), **options)
    assert model.state_dict().keys() == small().state_dict().keys()
    for name, coded in taught.coded.items():
        np.testing.assert_array_equal(model.state_dict()[name].numpy(), coded.values())


def test_ternary_weights_become_sums_of_two_binary_ones(train: Any, tmp_path: Path) -> None:
    model, taught = train(tmp_path, Scheme("ternary", 2, 16), halves=True)
    for name, coded in taught.coded.items():
        assert coded.codec == "codebook" and coded.parameters["table"].shape[1] == 4
        np.testing.assert_array_equal(model.state_dict()[name].numpy(), coded.values())


@pytest.mark.parametrize(
    "options",
    [
        {"scheme": Scheme("ternary", 2, 16), "halves": True, "activation_bits": 1},
        {"scheme": SCHEMES[5], "activation_bits": 8},
        {"scheme": SCHEMES[8], "activation_bits": 2, "levels": "even", "gradient_bits": 2, "squash": EVERY},
    ],
    ids=str,
)
def test_a_killed_training_ends_with_the_weights_of_one_that_was_not(
    train: Any, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "SAVE_EVERY_S", 0.0)
    whole, taught = train(tmp_path / "whole", **options)
    kill_at = STEPS + 4 if "halves" in options else 4
    with pytest.raises(Killed):
        train(tmp_path / "killed", kill_at=kill_at, **options)
    resumed, again = train(tmp_path / "killed", **options)
    assert again.history.evaluations == taught.history.evaluations
    assert equal(whole.state_dict(), resumed.state_dict())


def test_what_makes_no_sense_is_refused() -> None:
    teach: Any = None
    with pytest.raises(InputError, match=r"activation bits: 0.*1 to 8"):
        LowBit(teach, {}, 0)
    with pytest.raises(InputError, match=r"4 do not go with a scale per token.*give 1"):
        LowBit(teach, {}, 4, levels="rows")
    with pytest.raises(InputError, match="halves: no weight is ternary"):
        LowBit(teach, everywhere(SCHEMES[0]), halves=True)
