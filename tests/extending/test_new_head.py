"""A head of one's own, defined in mean_head.py beside its network (mean_network.py): a model of it is cut, taught, rounded, exported, and answers."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from conftest import tiny_teacher
from mean_head import MEAN, MeanReview

from penjing.blueprint import HEADS
from penjing.model.building import blueprint_of, build
from penjing.model.checkpoint import read
from penjing.model.writing import write
from penjing.steps.bits.quantize import QuantizeSettings
from penjing.steps.cut.prune import PruneSettings
from penjing.steps.teach.distill import DistillSettings
from penjing.training.loop import Schedule


def teacher(folder: Path) -> Path:
    """A tiny teacher with this head."""
    plain = tiny_teacher(folder / "plain")
    known = read(plain)
    torch.manual_seed(0)
    model = build(replace(blueprint_of(known), head=MEAN), known.config)
    model.encoder.load_state_dict(known.encoder.state_dict())  # type: ignore[union-attr]
    write(model, folder / "teacher", tokenizer=plain)
    return folder / "teacher"


def test_it_goes_through_the_whole_job(shop: Any, tmp_path: Path) -> None:
    assert MEAN not in HEADS.values()
    distill = DistillSettings(Schedule(epochs=1, learning_rate=1e-3))
    recipe = [PruneSettings(layers=1, texts=16), distill, QuantizeSettings(texts=16, divergence=1.0)]
    report = shop.compress(MeanReview(), teacher(tmp_path / "made"), recipe=recipe)
    after = read(shop.out / "model")
    assert blueprint_of(after).head == MEAN and len(blueprint_of(after).layers) == 1 and report.task == "mean-review"
    assert [set(answer) for answer in shop.answers(["good film", "a bad film"])] == [{"label", "score"}] * 2
