"""Sparse weights: exactly as many as asked, by every way to choose them, and resumable to the same weights."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import blueprints, penjing_model
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.utils import parametrize

from penjing.blueprint import Blueprint, Layer
from penjing.errors import InputError
from penjing.maths.sparsity import SCOPES, keep_mask
from penjing.model.checkpoint import read
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.model.surgery import copy_of
from penjing.model.writing import write
from penjing.selection import Selection
from penjing.steps.cut.sparsify import (
    IMPORTANCES,
    MOMENTUM,
    SCHEDULES,
    Mask,
    Masking,
    Sparsify,
    SparsifySettings,
    masked_modules,
    sparsify,
    sparsity_of,
)
from penjing.steps.teach.distill import Distill, DistillSettings, Place, Teachers
from penjing.tasks.sequence import Classification
from penjing.tasks.task import Examples
from penjing.text.encoded import Encoded
from penjing.training import loop
from penjing.training.loop import Schedule
from penjing.training.taught import Taught

SMALL = Blueprint(60, 24, 2, 16, 16, 8, (Layer(2, 32), Layer(2, 32)), "sequence", 2)
STEPS = 24
QUICK = SparsifySettings(sparsity=0.8, every=4, rounds=2)


class Killed(Exception):
    pass


def small() -> PenjingPreTrainedModel:
    """Always the same small model."""
    torch.manual_seed(7)
    return penjing_model(SMALL)


def _wanted(model: PenjingPreTrainedModel, settings: SparsifySettings) -> int:
    """Zeros that the settings ask for."""
    sizes = [m.weight.shape for m in masked_modules(model, settings.embeddings)]
    if settings.scope == "row":
        return sum(rows * round(settings.sparsity * columns) for rows, columns in sizes)
    if settings.scope == "layer":
        return sum(round(settings.sparsity * rows * columns) for rows, columns in sizes)
    return round(settings.sparsity * sum(rows * columns for rows, columns in sizes))


def _zeros(model: PenjingPreTrainedModel, settings: SparsifySettings) -> int:
    """Zeros that there are, all of them +0.0."""
    weights = [m.weight.detach() for m in masked_modules(model, settings.embeddings)]
    assert not any((torch.signbit(w) & (w == 0)).any() for w in weights)
    return sum(int((w == 0).sum()) for w in weights)


def _equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# -- without data ------------------------------------------------------------------------------------------------


@given(blueprints(), st.floats(0, 0.99), st.sampled_from(SCOPES), st.sampled_from(["magnitude", "random"]), st.booleans())
def test_at_once_exactly_so_many_matrix_entries_become_zero_and_nothing_else_changes(
    blueprint: Blueprint, sparsity: float, scope: str, importance: str, embeddings: bool
) -> None:
    model, settings = penjing_model(blueprint), SparsifySettings(sparsity, importance, scope, embeddings=embeddings)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    sparse = sparsify(model, settings, seed=3)
    assert _zeros(sparse, settings) == _wanted(model, settings)
    assert _equal(before, model.state_dict())
    assert _equal(sparse.state_dict(), sparsify(sparse, settings, seed=3).state_dict())
    matrices = {f"{name}.weight" for name, m in sparse.named_modules() if any(m is other for other in masked_modules(sparse, embeddings))}
    for name, value in sparse.state_dict().items():
        assert torch.equal(value, before[name]) or name in matrices
        assert torch.equal(value, torch.where(value == 0, value, before[name]))


def test_the_matrices_are_the_linear_layers_of_the_encoder() -> None:
    model = small()
    names = [name for name, m in model.named_modules() if any(m is other for other in masked_modules(model, embeddings=True))]
    blocks = [f"attention.{part}" for part in ("query", "key", "value", "output")] + ["feed_forward.up", "feed_forward.down"]
    assert sorted(names) == sorted(["encoder.embeddings.word", *(f"encoder.layers.{i}.{block}" for i in range(2) for block in blocks)])


def test_sparsity_is_the_part_that_is_zero() -> None:
    model = small()
    assert sparsity_of(model) == 0
    sparse = sparsify(model, SparsifySettings(0.75))
    assert sparsity_of(sparse) == 0.75
    assert 0 < sparsity_of(sparse, embeddings=True) < 0.75


def test_random_depends_on_the_seed_and_magnitude_keeps_the_largest() -> None:
    model = small()
    a, b = (sparsify(model, SparsifySettings(0.5, "random"), seed).state_dict() for seed in (0, 1))
    assert not _equal(a, b)
    kept = torch.cat([m.weight.flatten() for m in masked_modules(sparsify(model, SparsifySettings(0.5)))]).abs()
    whole = torch.cat([m.weight.flatten() for m in masked_modules(model)]).abs()
    assert kept[kept > 0].min() >= whole[kept == 0].max()


@pytest.mark.parametrize("importance", ["movement", "regrow"])
def test_what_is_learned_in_training_is_not_found_without(importance: str) -> None:
    with pytest.raises(InputError, match=r"importance.*allowed are magnitude, random"):
        sparsify(small(), SparsifySettings(importance=importance))


@pytest.mark.parametrize(
    "changes",
    [
        {"sparsity": 1.0}, {"sparsity": -0.1}, {"importance": "luck"}, {"scope": "column"}, {"schedule": "slow"}, {"rounds": 0},
        {"every": 0}, {"start": 0.8}, {"end": 1.1}, {"regrow": 1.5},
    ],
)  # fmt: skip
def test_a_value_out_of_range_is_named(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(changes))}"):
        SparsifySettings(**changes)


# -- the masks ---------------------------------------------------------------------------------------------------


def test_the_gradients_under_a_movement_mask() -> None:
    """∂L/∂S = ∂L/∂W' ⊙ W everywhere, ∂L/∂W = ∂L/∂W' ⊙ M."""
    generator = torch.Generator().manual_seed(0)
    linear, x = torch.nn.Linear(5, 4), torch.randn(7, 5, generator=generator)
    dense, mask = linear.weight.detach().clone(), torch.rand(4, 5, generator=generator) > 0.5
    by_hand = (dense * mask).requires_grad_()
    torch.tanh(x @ by_hand.T + linear.bias.detach()).square().sum().backward()
    module = Mask(linear.weight, "movement")
    parametrize.register_parametrization(linear, "weight", module)
    module.mask.copy_(mask)
    torch.tanh(linear(x)).square().sum().backward()
    assert by_hand.grad is not None and module.scores is not None and module.scores.grad is not None
    torch.testing.assert_close(module.scores.grad, by_hand.grad * dense)
    torch.testing.assert_close(linear.parametrizations.weight.original.grad, by_hand.grad * mask)


def test_regrow_averages_the_dense_gradient() -> None:
    linear, x = torch.nn.Linear(3, 2, bias=False), torch.randn(4, 3)
    module = Mask(linear.weight, "regrow")
    parametrize.register_parametrization(linear, "weight", module)
    module.mask[0] = False
    for _ in range(2):
        linear(x).sum().backward()
    assert module.momentum is not None
    torch.testing.assert_close(module.momentum, x.sum(0).expand(2, 3) * (1 - MOMENTUM**2))
    with torch.inference_mode():
        linear(x)
    torch.testing.assert_close(module.momentum, x.sum(0).expand(2, 3) * (1 - MOMENTUM**2))


@pytest.mark.parametrize("scope", SCOPES)
def test_regrow_keeps_the_count_and_moves_to_the_largest_gradients_from_zero(scope: str) -> None:
    model = small()
    settings = SparsifySettings(0.5, "regrow", scope, "one-shot", every=1, regrow=0.4)
    masking = Masking(model, settings, 0)
    masking.before_step(0, 10)
    count, moved_before = [int(m.mask.sum()) for m in masking.masks], [m.mask.clone() for m in masking.masks]
    generator = torch.Generator().manual_seed(1)
    for m in masking.masks:
        assert m.momentum is not None
        m.momentum.copy_(torch.randn(m.mask.shape, generator=generator))
    dense = [m.parametrizations.weight.original.detach().clone() for m in masking.matrices]
    masking.before_step(1, 10)
    assert sum(count) == sum(int(m.mask.sum()) for m in masking.masks)
    assert scope == "global" or count == [int(m.mask.sum()) for m in masking.masks]
    grown = [m.mask & ~old for m, old in zip(masking.masks, moved_before, strict=True)]
    dropped = [old & ~m.mask for m, old in zip(masking.masks, moved_before, strict=True)]
    assert 0.1 * sum(count) < sum(int(g.sum()) for g in grown) < 0.4 * sum(count)
    for matrix, g, d, w, old in zip(masking.matrices, grown, dropped, dense, moved_before, strict=True):
        assert torch.all(matrix.weight[g] == 0) and torch.equal(matrix.weight[old & ~d], w[old & ~d])
    never = torch.cat([m.momentum[~m.mask].abs() for m in masking.masks])
    new = torch.cat([m.momentum[g].abs() for m, g in zip(masking.masks, grown, strict=True)])
    assert new.mean() > 2 * never.mean() and (scope != "global" or new.min() >= never.max())
    masking.before_step(8, 10)
    assert all(torch.equal(m.mask & ~old, g) for m, old, g in zip(masking.masks, moved_before, grown, strict=True))


@pytest.mark.parametrize("importance", ["magnitude", "movement"])
def test_at_a_constant_sparsity_magnitude_keeps_its_mask_and_movement_follows_its_scores(importance: str) -> None:
    model, settings = small(), replace(QUICK, importance=importance, schedule="one-shot")
    largest = [m.weight != 0 for m in masked_modules(sparsify(model, replace(settings, importance="magnitude")))]
    masking = Masking(model, settings, 0)
    masking.before_step(0, STEPS)
    assert all(torch.equal(m.mask, old) for m, old in zip(masking.masks, largest, strict=True))
    with torch.no_grad():
        for p in model.parameters():  # the dense weights and the scores alike
            p.copy_(torch.randn(p.shape))
    for step in range(1, settings.every):
        masking.before_step(step, STEPS)
    assert all(torch.equal(m.mask, old) for m, old in zip(masking.masks, largest, strict=True))
    masking.before_step(settings.every, STEPS)
    if importance == "movement":
        largest = keep_mask([m.scores for m in masking.masks if m.scores is not None], settings.sparsity, settings.scope)
    assert all(torch.equal(m.mask, old) for m, old in zip(masking.masks, largest, strict=True))


def test_sparsity_is_final_before_the_first_judged_step_whatever_the_interval() -> None:
    for end in (0.0, 0.33, 0.7, 1.0):
        masking = Masking(small(), replace(QUICK, end=end, every=1000), 0)
        for step in range(STEPS):
            masking.before_step(step, STEPS)
            assert step + 1 < end * STEPS or masking.reached == QUICK.sparsity
        masking.finish()


# -- in training -------------------------------------------------------------------------------------------------


def _examples(seed: int, texts: int) -> Examples:
    random = np.random.default_rng(seed)
    rows = [random.integers(5, 40, random.integers(3, 12)).tolist() for _ in range(texts)]
    gold = ["big" if row[1] > 20 else "small" for row in rows]
    return Examples(Encoded.of(rows, [[0] * len(row) for row in rows]), rows, gold, [[]] * texts, 0)


@pytest.fixture(scope="module")
def train() -> Callable[..., tuple[PenjingPreTrainedModel, Taught]]:
    """(settings, folder, …) → the sparse model and what its training gave: 24 steps, two layers, states matched."""
    data, dev = _examples(0, 48), _examples(1, 12)

    def run(settings: SparsifySettings, folder: Path, kill_at: int | None = None, **schedule: Any) -> tuple[PenjingPreTrainedModel, Taught]:
        def progress(done: int, total: int, **figures: float) -> None:
            if done == kill_at:
                raise Killed

        model = small()
        wanted = Schedule(**({"epochs": 4, "batch_size": 8, "learning_rate": 5e-3, "patience": 100} | schedule))
        task = Classification(["big", "small"])
        step = Sparsify(
            Distill(
                task,
                Teachers(model),
                DistillSettings(wanted, states_first=0.0, dropout=0.1),
                dev,
                Place(folder),
                Selection.all(SMALL),
                progress=progress,
            ),
            settings,
        )
        before = copy_of(model).state_dict()
        evidence = step.observe(model, data)
        taught = step.teach(model, evidence)
        assert _equal(before, model.state_dict())
        return taught.model, taught

    return run


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("importance", IMPORTANCES)
def test_every_way_ends_with_exactly_the_sparsity_asked_in_a_plain_model(
    train: Any, importance: str, schedule: str, tmp_path: Path
) -> None:
    settings = replace(QUICK, importance=importance, schedule=schedule)
    model, taught = train(settings, tmp_path)
    assert taught.history.steps == STEPS
    assert _zeros(model, settings) == _wanted(model, settings)
    fresh = small()
    assert model.state_dict().keys() == fresh.state_dict().keys() and not model.training
    assert not torch.equal(model.head.out.weight, fresh.head.out.weight)
    assert taught.history.best_step >= (0 if schedule == "one-shot" else 0.7 * STEPS)


@pytest.mark.parametrize("importance", IMPORTANCES)
@pytest.mark.parametrize("scope", ["layer", "row"])
def test_every_scope_and_the_embeddings(train: Any, importance: str, scope: str, tmp_path: Path) -> None:
    settings = replace(QUICK, importance=importance, scope=scope, embeddings=True)
    model, _ = train(settings, tmp_path, epochs=2)
    masks = [m.weight != 0 for m in masked_modules(model, embeddings=True)]
    if scope == "row":  # words that no text has get no gradient: those that regrow stay at zero
        assert all((m.sum(1) <= m.shape[1] - round(0.8 * m.shape[1])).all() for m in masks)
    assert _zeros(model, settings) >= _wanted(model, settings)
    if importance != "regrow":
        assert _zeros(model, settings) == _wanted(model, settings)


@pytest.mark.parametrize("importance", IMPORTANCES)
def test_a_killed_training_ends_with_the_weights_of_one_that_was_not(
    train: Any, importance: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "SAVE_EVERY_S", 0.0)
    settings = replace(QUICK, importance=importance, every=3)
    whole, taught = train(settings, tmp_path / "whole")
    for kill_at in (3, 13):
        with pytest.raises(Killed):
            train(settings, tmp_path / "killed", kill_at)
    resumed, again = train(settings, tmp_path / "killed")
    assert again.history.evaluations == taught.history.evaluations
    assert _equal(whole.state_dict(), resumed.state_dict())


def test_a_training_that_stops_early_is_still_as_sparse_as_asked(train: Any, tmp_path: Path) -> None:
    model, taught = train(replace(QUICK, end=1.0), tmp_path, minutes=1e-9)
    assert taught.history.steps < STEPS
    assert _zeros(model, QUICK) == _wanted(model, QUICK)


def test_a_sparse_model_is_read_back_as_it_was_written(train: Any, tmp_path: Path) -> None:
    model, _ = train(QUICK, tmp_path / "work", epochs=1)
    write(model, tmp_path / "model")
    again = read(tmp_path / "model")
    assert _equal(model.state_dict(), again.state_dict())
    assert sparsity_of(again) == sparsity_of(model) > 0.79
