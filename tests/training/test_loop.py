"""The loop: resumable to the same weights, early stopping, and a loss that falls."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import penjing_model

from penjing.blueprint import Blueprint, Layer
from penjing.text.encoded import Encoded
from penjing.training import loop
from penjing.training.batching import length_batches
from penjing.training.loop import Schedule, fit, rate
from penjing.training.predict import labels_loss

SMALL = Blueprint(60, 24, 2, 16, 16, 8, (Layer(2, 32), Layer(2, 32)), "sequence", 2)


class Killed(Exception):
    pass


@pytest.fixture(autouse=True)
def saved_at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "SAVE_EVERY_S", 0.0)


@pytest.fixture
def encoded() -> Encoded:
    random = np.random.default_rng(0)
    rows = [random.integers(5, 40, random.integers(3, 12)).tolist() for _ in range(60)]
    return Encoded.of(rows, [[0] * len(row) for row in rows])


def _train(encoded: Encoded, state: Path, kill_at: int | None = None, patience: int = 100):
    torch.manual_seed(7)
    model = penjing_model(SMALL)
    targets = [np.array([int(row[1] > 20)]) for row in (encoded.row(i) for i in range(len(encoded)))]
    losses = []

    def progress(done: int, total: int, **figures: float) -> None:
        losses.append(figures["loss"])
        if done == kill_at:
            raise Killed

    schedule = Schedule(epochs=12, batch_size=8, learning_rate=5e-3, patience=patience)
    history = fit(
        model,
        encoded,
        labels_loss(targets),
        lambda m: -float(m.head.out.bias.detach().abs().sum()),
        schedule,
        state,
        progress=progress,
    )
    return model, history, losses


def test_a_killed_training_ends_with_the_weights_of_one_that_was_not(encoded: Encoded, tmp_path: Path) -> None:
    whole, history, losses = _train(encoded, tmp_path / "a.pt")
    for kill_at in (1, 9, 30):
        state = tmp_path / f"{kill_at}.pt"
        with pytest.raises(Killed):
            _train(encoded, state, kill_at)
        resumed, again, rest = _train(encoded, state)
        assert again.evaluations == history.evaluations
        assert rest == losses[-len(rest) :]
        for name, value in whole.state_dict().items():
            assert torch.equal(value, resumed.state_dict()[name]), name


def test_the_loss_falls_and_the_best_weights_are_kept(encoded: Encoded, tmp_path: Path) -> None:
    model, history, losses = _train(encoded, tmp_path / "state.pt")
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    assert -float(model.head.out.bias.detach().abs().sum()) == pytest.approx(history.best)
    assert not model.training


def test_training_stops_when_quality_stops_rising(encoded: Encoded, tmp_path: Path) -> None:
    _, history, _ = _train(encoded, tmp_path / "state.pt", patience=2)
    assert history.steps < 90
    assert history.steps > history.best_step


@pytest.mark.parametrize("size", [1, 7, 32])
def test_every_text_is_in_one_batch_of_an_epoch(size: int) -> None:
    lengths = np.random.default_rng(1).integers(1, 60, 501)
    batches = length_batches(lengths, size, seed=3, epoch=2)
    assert sorted(np.concatenate(batches).tolist()) == list(range(501))
    assert all((a == b).all() for a, b in zip(batches, length_batches(lengths, size, 3, 2), strict=True))
    assert max(len(batch) for batch in batches) <= size


def test_batches_by_length_pad_less_than_random_ones() -> None:
    lengths = np.random.default_rng(1).integers(1, 60, 5000)
    padded = sum(lengths[batch].max() * len(batch) for batch in length_batches(lengths, 32, 0, 0))
    assert padded < 1.1 * lengths.sum()


def test_the_rate_warms_up_and_decays() -> None:
    rates = [rate(step, 100, 0.1) for step in range(100)]
    assert max(rates) == 1.0 and rates[0] == pytest.approx(0.1) and rates[-1] < 0.02
    assert rates[:10] == sorted(rates[:10]) and rates[10:] == sorted(rates[10:], reverse=True)
