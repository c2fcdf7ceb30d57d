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
from penjing.training.loop import Hooks, Schedule, fit, rate
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
        with pytest.raises(Killed):
            _train(encoded, tmp_path / "killed.pt", kill_at)
    resumed, again, rest = _train(encoded, tmp_path / "killed.pt")
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


def test_a_training_leaves_the_callers_random_state_as_it_was(encoded: Encoded, tmp_path: Path) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    _train(encoded, tmp_path / "state.pt")  # sets the seed 7 before it trains
    assert torch.equal(torch.rand(3), expected)


def test_few_texts_get_more_epochs_and_many_texts_few_evaluations() -> None:
    schedule = Schedule(epochs=3, least_steps=1500, batch_size=32)
    assert schedule.total(64) == 2 * 20 and schedule.total(3200) == 1500 and schedule.total(32_000) == 3000
    assert schedule.every(32_000) == 1000 // 2 and schedule.every(64) == 1 and schedule.every(640) == 400 // 40


def test_minutes_that_are_over_end_a_training_after_the_steps_that_are_timed(encoded: Encoded, tmp_path: Path) -> None:
    targets = [np.array([0])] * len(encoded)
    schedule = Schedule(epochs=20, batch_size=8, minutes=1e-9)
    history = fit(penjing_model(SMALL), encoded, labels_loss(targets), lambda m: 0.0, schedule, tmp_path / "state.pt")
    assert history.steps == loop.TIMED_STEPS


def test_hooks_see_every_step_and_their_loss_counts(encoded: Encoded, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    losses: list[float] = []
    targets = [np.array([0])] * len(encoded)

    def run(hooks: Hooks, name: str) -> None:
        fit(
            penjing_model(SMALL), encoded, labels_loss(targets), lambda m: 0.0, Schedule(epochs=1, batch_size=8), tmp_path / name, hooks,
            lambda done, total, **figures: losses.append(figures["loss"]),
        )  # fmt: skip

    run(Hooks(before_step=lambda step, total: seen.append((step, total))), "a.pt")
    run(Hooks(extra_loss=lambda: torch.tensor(10.0)), "b.pt")
    assert seen == [(step, 8) for step in range(8)]
    assert losses[8] == pytest.approx(losses[0] + 10)
