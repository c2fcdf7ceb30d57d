"""Quantization-aware training: what is trained is what is shipped, whatever the head, and a killed training goes on exactly."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import blueprints, penjing_model
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from penjing.blueprint import Blueprint, Layer
from penjing.engines.clock.machine import safe_weight_bits
from penjing.engines.form import FUSED_INT8, PORTABLE_INT8, Form
from penjing.engines.network import Ranges
from penjing.engines.onnx.export import export
from penjing.engines.opening import open_engine
from penjing.maths.fake import symmetric_rows
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.model.surgery import copy_of
from penjing.model.watch import linear_layers
from penjing.selection import Selection
from penjing.steps.bits.activations import MOMENTUM
from penjing.steps.bits.calibrate import calibrate
from penjing.steps.bits.qat import FakeQuantization, QuantizationAware
from penjing.steps.teach.distill import Distill, DistillSettings, Place, Teachers
from penjing.tasks import judging
from penjing.tasks.sequence import Classification, Pair
from penjing.tasks.tagging import Tagging
from penjing.tasks.task import Examples, Task
from penjing.text.encoded import Encoded
from penjing.training import loop
from penjing.training.loop import Schedule, mixed_precision
from penjing.training.predict import logits_of
from penjing.training.taught import Taught

SMALL = Blueprint(60, 24, 2, 16, 16, 8, (Layer(2, 32), Layer(2, 32)), "sequence", 2)
TAGGER = Blueprint(60, 24, 2, 10, 16, 8, (Layer(2, 32), Layer(0, 32), Layer(1, 0)), "token", 3)
STEPS = 12
TAGS = ("O", "B-LOC", "I-LOC")


class Killed(Exception):
    pass


def small(blueprint: Blueprint = SMALL) -> PenjingPreTrainedModel:
    """Always the same small model."""
    torch.manual_seed(7)
    return penjing_model(blueprint, 7)


def texts(seed: int, count: int, blueprint: Blueprint = SMALL, longest: int = 12) -> Encoded:
    """Random texts, the second half of each of type 1 where there is one."""
    random = np.random.default_rng(seed)
    rows = [random.integers(0, blueprint.vocabulary, random.integers(2, longest)).tolist() for _ in range(count)]
    return Encoded.of(rows, [[int(2 * i >= len(row) and blueprint.token_types > 1) for i in range(len(row))] for row in rows])


def flat(ranges: Ranges | None) -> dict[str, float]:
    """Ranges as pytest compares them."""
    return {f"{name} {end}": value for name, ends in (ranges or {}).items() for end, value in zip(("low", "high"), ends, strict=True)}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def exported(model: PenjingPreTrainedModel, ranges: Any, folder: Path, encoded: Encoded, **options: Any) -> list[NDArray[np.float32]]:
    export(model, folder, [PORTABLE_INT8], ranges, segments=True, **options)
    return open_engine(Form("", "onnxruntime", PORTABLE_INT8), folder, threads=1).logits(encoded)


def agree(ours: list[NDArray[np.float32]], theirs: list[NDArray[np.float32]]) -> None:
    """Nearly all logits are equal up to float noise, and where one is not a value fell on the other side of a tie."""
    a, b = np.concatenate([x.reshape(-1, x.shape[-1]) for x in ours]), np.concatenate([x.reshape(-1, x.shape[-1]) for x in theirs])
    apart = np.abs(a - b).max(1) / np.abs(b).max()
    assert np.mean(apart < 1e-4) > 0.7 and apart.max() < 0.05
    clear = np.diff(np.sort(b, 1)[:, -2:], axis=1)[:, 0] > 0.05 * np.abs(b).max() if b.shape[1] > 1 else []
    assert np.array_equal(a.argmax(1)[clear], b.argmax(1)[clear])


@settings(max_examples=12)
@given(blueprints(("sequence", "token")), st.integers(0, 99))
@example(SMALL, 0)
@example(TAGGER, 0)
def test_the_rounded_model_computes_what_its_int8_file_does(tmp_path: Path, blueprint: Blueprint, seed: int) -> None:
    model = penjing_model(blueprint, seed)
    encoded = texts(seed, 20, blueprint, blueprint.positions)
    ranges = calibrate(model, encoded)
    expected = exported(model, ranges, tmp_path, encoded)
    plain = logits_of(model, encoded)
    before = copy_of(model).state_dict()
    rounding = FakeQuantization(model, ranges, safe_weight_bits())
    agree(logits_of(model, encoded), expected)
    rounding.finish()
    assert equal(before, model.state_dict())
    for a, b in zip(logits_of(model, encoded), plain, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("blueprint", [SMALL, TAGGER], ids=["sequence", "token"])
def test_rounded_over_each_texts_own_extremes_it_computes_what_the_dynamic_file_does(tmp_path: Path, blueprint: Blueprint) -> None:
    model, encoded = small(blueprint), texts(1, 24, blueprint)
    ranges = calibrate(model, encoded)
    export(model, tmp_path, [FUSED_INT8], ranges, segments=True)
    engine = open_engine(Form("", "onnxruntime", FUSED_INT8, batch=1), tmp_path, threads=1)
    theirs = engine.logits(encoded)
    plain = logits_of(model, encoded)
    FakeQuantization(model, ranges, safe_weight_bits(), dynamic=True)
    rows = np.arange(len(encoded))
    feeds = {name: torch.from_numpy(value) for name, value in encoded.padded(rows, 0).items()}
    with torch.no_grad():
        padded = model(**feeds).logits
    far, near = 0.0, 0.0
    for i, row in enumerate(theirs):
        ours = padded[i, : len(row)] if row.ndim == 2 else padded[i]
        near += np.abs(ours.numpy() - row).mean()
        far += np.abs(plain[i] - row).mean()
    assert near < 0.5 * far  # what is left are the products that the fused operators round and training does not


def test_layers_that_are_left_in_float_are_neither_rounded_nor_read_rounded(tmp_path: Path) -> None:
    model, encoded = small(), texts(0, 20)
    ranges, names = calibrate(model, encoded), linear_layers(model)
    plain = logits_of(model, encoded)
    some = frozenset({"layers.0.feed_forward.down", "layers.1.attention.key"})
    expected = exported(model, ranges, tmp_path, encoded, float_layers=some)
    rounding = FakeQuantization(model, ranges, safe_weight_bits(), some)
    assert set(rounding.layers) == set(names) - some - {"head.out"}
    agree(logits_of(model, encoded), expected)
    rounding.finish()
    with torch.no_grad():  # a table on its own grid is rounded to itself
        model.encoder.embeddings.word.weight.copy_(symmetric_rows(model.encoder.embeddings.word.weight))
    plain = logits_of(model, encoded)
    FakeQuantization(model, ranges, 8, names.keys())
    for a, b in zip(logits_of(model, encoded), plain, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_gradients_reach_every_float_weight() -> None:
    model, encoded = small(), texts(0, 8)
    FakeQuantization(model.train(), calibrate(model, encoded), 8)
    feeds = {name: torch.from_numpy(value) for name, value in encoded.padded(np.arange(8), pad=0).items()}
    model(**feeds).logits.square().sum().backward()
    missing = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    assert missing <= {f"encoder.layers.{i}.attention.key.bias" for i in range(2)}  # softmax does not see it


def test_a_model_that_is_judged_follows_its_weights() -> None:
    """The rounded weights that are kept between batches are thrown away when a weight changes, by whatever means."""
    model, encoded = small(), texts(0, 8)
    FakeQuantization(model, calibrate(model, encoded), 8)
    first = logits_of(model, encoded)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    second = logits_of(model, encoded)
    assert not np.allclose(first, second)
    model.load_state_dict(state)
    np.testing.assert_array_equal(logits_of(model, encoded), first)


def test_ranges_follow_real_tokens_while_training_and_then_stand_still() -> None:
    model, encoded = small(), texts(0, 8)
    start = calibrate(model, encoded)
    rounding = FakeQuantization(model, start, 8)
    with torch.no_grad():
        model.encoder.embeddings.word.weight[59] = 1e3 * torch.arange(16)
        model.encoder.embeddings.norm.weight.mul_(2)
    feeds = {name: torch.from_numpy(value) for name, value in encoded.padded(np.arange(8), pad=59).items()}
    feeds["input_ids"][feeds["attention_mask"].bool()] %= 59
    kept = {name: start[name] for name in rounding.layers}
    assert flat(rounding.inputs.ranges) == pytest.approx(flat(kept))

    def after(step: int, *, training: bool) -> dict[str, tuple[float, float]]:
        rounding.inputs.before_step(step, 10)
        model.train(training)(**feeds)
        return rounding.inputs.ranges

    assert flat(after(0, training=False)) == pytest.approx(flat(kept))
    moved = after(0, training=True)
    real = model.encoder.embeddings(model.encoder.embeddings.word(feeds["input_ids"]), feeds["token_type_ids"])[
        feeds["attention_mask"].bool()
    ]
    low, high = start["layers.0.attention.key"]
    expected = (low + (1 - MOMENTUM) * (real.min().item() - low), high + (1 - MOMENTUM) * (real.max().item() - high))
    assert moved["layers.0.attention.key"] == pytest.approx(expected) != (low, high)
    assert moved["layers.0.attention.key"] == moved["layers.0.attention.query"] == moved["layers.0.attention.value"]
    assert after(8, training=True) == moved
    assert after(7, training=True) != moved


# -- in training -------------------------------------------------------------------------------------------------


def examples(task: Task, seed: int, count: int) -> Examples:
    encoded = texts(seed, count)
    rows = [encoded.row(i) for i in range(count)]
    if task.head.name == "token":
        return Examples(encoded, rows, [[TAGS[t % 3] for t in row] for row in rows], [list(range(len(row))) for row in rows], 0)
    return Examples(encoded, rows, ["big" if row[1] > 20 else "small" for row in rows], [[]] * count, 0)


@pytest.fixture(scope="module")
def train() -> Callable[..., tuple[PenjingPreTrainedModel, Taught]]:
    """(folder, task, …) → the float model and what its training gave: 12 steps, states matched."""

    def run(
        folder: Path, task: Task, kill_at: int | None = None, blueprint: Blueprint = SMALL, **options: Any
    ) -> tuple[PenjingPreTrainedModel, Taught]:
        def progress(done: int, total: int, **figures: float) -> None:
            if done == kill_at:
                raise Killed

        model, data, dev = small(blueprint), examples(task, 0, 48), examples(task, 1, 12)
        schedule = Schedule(epochs=2, batch_size=8, learning_rate=5e-3, patience=100)
        how = DistillSettings(schedule, dropout=0.1)
        teach = Distill(task, Teachers(model), how, dev, Place(folder), Selection.all(blueprint), progress=progress)
        step = QuantizationAware(teach, data, **options)
        before = copy_of(model).state_dict()
        evidence = step.observe(model, data)
        taught = step.teach(model, evidence)
        assert equal(before, model.state_dict())
        return taught.model, taught

    return run


@pytest.mark.parametrize("task", [Classification(["big", "small"]), Pair(["big", "small"]), Tagging(list(TAGS))], ids=lambda t: t.name)
def test_what_was_trained_and_judged_is_what_is_exported(train: Any, task: Task, tmp_path: Path) -> None:
    blueprint = TAGGER if task.head.name == "token" else SMALL
    model, taught = train(tmp_path / "work", task, blueprint=blueprint, bits=safe_weight_bits())
    assert taught.history.steps == STEPS and not model.training
    assert model.state_dict().keys() == small(blueprint).state_dict().keys()
    dev = examples(task, 1, 12)
    theirs = exported(model, taught.ranges, tmp_path, dev.encoded)
    FakeQuantization(model, taught.ranges, safe_weight_bits())
    ours = logits_of(model, dev.encoded)
    agree(ours, theirs)
    assert [x.argmax(-1).tolist() for x in ours] == [x.argmax(-1).tolist() for x in theirs]
    if mixed_precision() == "no":
        assert judging.quality_of(task, dev, theirs) == taught.history.best


def test_ranges_that_clip_on_purpose_stay(train: Any, tmp_path: Path) -> None:
    task = Classification(["big", "small"])
    start = calibrate(small(), examples(task, 0, 48).encoded, "percentile")
    _, taught = train(tmp_path, task, calibration="percentile")
    assert flat(taught.ranges) == pytest.approx(flat(start))


def test_learned_ranges_start_as_calibrated_and_are_exported_as_they_end(train: Any, tmp_path: Path) -> None:
    task = Classification(["big", "small"])
    start = calibrate(small(), examples(task, 0, 48).encoded, "percentile")
    rounding = FakeQuantization(small(), start, 8, learned=True)
    assert flat(rounding.inputs.ranges) == pytest.approx(flat({name: start[name] for name in rounding.layers}))
    model, taught = train(tmp_path / "work", task, calibration="percentile", bits=safe_weight_bits(), learned=True)
    assert model.state_dict().keys() == small().state_dict().keys()
    moved = [name for name in rounding.layers if taught.ranges[name] != pytest.approx(start[name], rel=1e-4)]
    assert set(moved) == set(rounding.layers) and all(low <= 0 <= high for low, high in taught.ranges.values())
    dev = examples(task, 1, 12)
    theirs = exported(model, taught.ranges, tmp_path, dev.encoded)
    FakeQuantization(model, taught.ranges, safe_weight_bits())
    agree(logits_of(model, dev.encoded), theirs)
    if mixed_precision() == "no":
        assert judging.quality_of(task, dev, theirs) == taught.history.best


def test_gradients_reach_both_ends_of_every_learned_range() -> None:
    model, encoded = small(), texts(0, 8)
    rounding = FakeQuantization(
        model.train(), {name: (low / 4, high / 4) for name, (low, high) in calibrate(model, encoded).items()}, 8, learned=True
    )
    feeds = {name: torch.from_numpy(value) for name, value in encoded.padded(np.arange(8), pad=0).items()}
    model(**feeds).logits.square().sum().backward()
    for module in rounding.inputs.modules.values():
        assert module.ends is not None and module.ends.grad is not None and module.ends.grad.all()


def test_a_killed_training_ends_with_the_weights_and_ranges_of_one_that_was_not(
    train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "SAVE_EVERY_S", 0.0)
    task = Classification(["big", "small"])
    whole, taught = train(tmp_path / "whole", task, calibration="moving-average")
    with pytest.raises(Killed):
        train(tmp_path / "killed", task, 8, calibration="moving-average")
    resumed, again = train(tmp_path / "killed", task, calibration="moving-average")
    assert again.history.evaluations == taught.history.evaluations
    assert again.ranges == taught.ranges and equal(whole.state_dict(), resumed.state_dict())
    start = calibrate(small(), examples(task, 0, 48).encoded, "moving-average")
    assert all(taught.ranges[name] != pytest.approx(start[name]) for name in linear_layers(whole) if name != "head.out")
