"""The teacher's outputs: cached and fresh agree, nothing half-written is read, noise and several teachers."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import penjing_model

from penjing.blueprint import Blueprint, Layer
from penjing.model.watch import Part, tapped
from penjing.text.encoded import Encoded
from penjing.training import teacher as module
from penjing.training.teacher import Noise, ensemble, teacher_outputs

SMALL = Blueprint(60, 24, 2, 16, 16, 8, (Layer(2, 32), Layer(2, 32)), "sequence", 2)
STATES_1 = Part("states", 1)
PARTS = (Part("states", 0), Part("states", 2), Part("first", 1), Part("queries", 1), Part("keys", 2), Part("values", 2))


@pytest.fixture
def encoded() -> Encoded:
    random = np.random.default_rng(0)
    rows = [random.integers(5, 40, random.integers(3, 12)).tolist() for _ in range(40)]
    return Encoded.of(rows, [[0] * len(row) for row in rows])


def feeds_of(encoded: Encoded, rows: np.ndarray) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(value) for name, value in encoded.padded(rows, 0).items()}


def test_cached_parts_are_those_of_the_teacher(encoded: Encoded, tmp_path: Path) -> None:
    teacher, rows = penjing_model(SMALL), np.array([3, 17, 5])
    outputs, feeds = teacher_outputs(teacher, encoded, PARTS, tmp_path), feeds_of(encoded, rows)
    found = outputs.batch_parts(rows, feeds)
    mask = feeds["attention_mask"].bool()
    with torch.no_grad(), tapped(teacher, PARTS) as caught:
        logits = teacher(**feeds).logits
    assert np.abs(outputs.logits[rows] - logits.numpy()).max() < 0.05
    for part in PARTS:
        a, b = (each if part.of_text else each[mask] for each in (found[part], caught[part]))
        assert a.shape == b.shape and float((a - b).abs().max()) < 0.05
        assert part.of_text or not found[part][~mask].any()


def test_parts_that_are_too_many_are_computed_beside_the_student(encoded: Encoded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher, rows = penjing_model(SMALL), np.array([3, 17, 5])
    feeds = feeds_of(encoded, rows)
    kept = teacher_outputs(teacher, encoded, PARTS, tmp_path / "kept")
    monkeypatch.setattr(module, "CACHE_LIMIT", 1000)
    live = teacher_outputs(teacher, encoded, PARTS, tmp_path / "live")
    assert live.parts == {} and not list((tmp_path / "live").rglob("states*"))
    mask = feeds["attention_mask"].bool()
    for part, value in live.batch_parts(rows, feeds).items():
        a, b = (each if part.of_text else each[mask] for each in (value, kept.batch_parts(rows, feeds)[part]))
        assert float((a - b).abs().max()) < 0.05


@pytest.mark.parametrize("limits", [(1000, 2**30), (2**30, 1000)])
def test_where_parts_are_computed_stays_as_it_was_decided(
    limits: tuple[int, int], encoded: Encoded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = penjing_model(SMALL)
    for limit in limits:
        monkeypatch.setattr(module, "CACHE_LIMIT", limit)
        outputs = teacher_outputs(teacher, encoded, PARTS, tmp_path)
        assert (outputs.live is not None) == (limits[0] == 1000)


def test_what_a_killed_pass_left_counts_as_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = tmp_path / ".killed.tmp"
    left.mkdir()
    (left / "states-1.npy").write_bytes(bytes(600))
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    assert not module._beside(tmp_path, [STATES_1], 800)
    assert module._beside(tmp_path, [STATES_1], 801)


def test_what_is_there_is_not_computed_again(encoded: Encoded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = penjing_model(SMALL)
    teacher_outputs(teacher, encoded, [STATES_1], tmp_path)
    asked: list[tuple[list[Part], bool]] = []
    real = module._compute
    monkeypatch.setattr(module, "_compute", lambda *given: (asked.append((list(given[2]), given[4] is not None)), real(*given)))
    teacher_outputs(teacher, encoded, [STATES_1], tmp_path)
    teacher_outputs(teacher, encoded, [STATES_1, Part("keys", 1)], tmp_path)
    assert asked == [([Part("keys", 1)], False)]
    teacher.head.out.bias.data += 1
    teacher_outputs(teacher, encoded, [STATES_1], tmp_path)
    assert asked[-1] == ([STATES_1], True)  # the logits too


def test_a_kill_leaves_nothing_half_written(encoded: Encoded, tmp_path: Path) -> None:
    teacher, passes = penjing_model(SMALL), 0

    def kill(*_: object) -> None:
        nonlocal passes
        passes += 1
        if passes > 3:
            raise KeyboardInterrupt

    hook = teacher.register_forward_hook(kill)
    with pytest.raises(KeyboardInterrupt):
        teacher_outputs(teacher, encoded, [STATES_1], tmp_path)
    hook.remove()
    assert not list(tmp_path.rglob("*.npy"))
    assert np.isfinite(teacher_outputs(teacher, encoded, [STATES_1], tmp_path).parts[STATES_1]).all()


def test_noise_changes_the_answers_and_its_mean_is_a_distribution(encoded: Encoded, tmp_path: Path) -> None:
    teacher = penjing_model(SMALL)
    plain = teacher_outputs(teacher, encoded, (), tmp_path).logits
    assert np.array_equal(plain, teacher_outputs(teacher, encoded, (), tmp_path, noise=Noise(0.0, 9)).logits)
    outputs = teacher_outputs(teacher, encoded, [STATES_1], tmp_path, noise=Noise(0.5, 3))
    noisy = outputs.logits
    clean = teacher_outputs(teacher, encoded, [STATES_1], tmp_path).parts[STATES_1]
    assert np.array_equal(outputs.parts[STATES_1], clean)
    np.testing.assert_allclose(np.exp(noisy).sum(-1), 1.0, atol=1e-4)
    assert np.abs(noisy - torch.log_softmax(torch.from_numpy(plain), -1).numpy()).max() > 0.01


def test_several_teachers_are_their_mean_and_the_right_ones_count_more() -> None:
    random = np.random.default_rng(0)
    one, two = (random.normal(size=(6, 3)).astype(np.float32) for _ in range(2))
    np.testing.assert_allclose(np.exp(ensemble([one, one])), torch.softmax(torch.from_numpy(one), -1), atol=1e-6)
    mean = (torch.softmax(torch.from_numpy(one), -1) + torch.softmax(torch.from_numpy(two), -1)) / 2
    np.testing.assert_allclose(np.exp(ensemble([one, two])), mean, atol=1e-6)
    right, wrong = np.array([[4.0, 0.0]], np.float32), np.array([[0.0, 4.0]], np.float32)
    assert np.exp(ensemble([right, wrong], np.array([0])))[0, 0] > 0.9 > 0.6 > np.exp(ensemble([right, wrong]))[0, 0]
    np.testing.assert_allclose(ensemble([right, wrong], np.array([-100])), ensemble([right, wrong]), atol=1e-6)
    np.testing.assert_allclose(np.exp(ensemble([one, two], np.arange(6) % 3)).sum(-1), 1.0, atol=1e-5)


def test_softened_answers_of_several_teachers_and_draws_are_averaged() -> None:
    """Worked by hand: the mean of softmax(z / 4) is not softmax(log of the mean of softmax(z) / 4)."""
    first, second = np.array([[4.0, 0, 0]], np.float32), np.array([[0, 3.0, -3.0]], np.float32)
    mean = np.mean([np.exp(z / 4) / np.exp(z / 4).sum() for z in (first, second)], axis=0)
    found = torch.softmax(torch.from_numpy(ensemble([first, second], temperature=4.0)) / 4, -1).numpy()
    np.testing.assert_allclose(found, mean, atol=1e-6)
    unsoftened = torch.softmax(torch.from_numpy(ensemble([first, second])) / 4, -1).numpy()
    assert np.abs(unsoftened - mean).max() > 0.01
    alone = torch.softmax(torch.from_numpy(ensemble([first], temperature=4.0)) / 4, -1).numpy()
    np.testing.assert_allclose(alone, np.exp(first / 4) / np.exp(first / 4).sum(), atol=1e-6)


def test_noisy_answers_are_a_mean_at_the_temperature(encoded: Encoded, tmp_path: Path) -> None:
    teacher = penjing_model(SMALL)
    hot = [teacher_outputs(teacher, encoded, (), tmp_path, noise=Noise(0.5, 3, t)).logits for t in (1.0, 4.0)]
    np.testing.assert_allclose(torch.softmax(torch.from_numpy(hot[1]) / 4, -1).sum(-1), 1, atol=1e-5)
    np.testing.assert_allclose(np.exp(hot[1] / 4).sum(-1), 1.0, atol=1e-4)
    assert np.abs(hot[1] - hot[0] - (hot[1] - hot[0]).mean(-1, keepdims=True)).max() > 1e-4
