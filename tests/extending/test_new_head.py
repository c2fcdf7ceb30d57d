"""A head of one's own, defined here beside its network (mean_network.py): a model of it is cut, taught, rounded, exported, and answers."""

from dataclasses import replace
from pathlib import Path
from typing import Any, final

import torch
from conftest import tiny_teacher

from penjing.blueprint import HEADS, Head, Parameter
from penjing.engines.onnx.heads import Emitter
from penjing.model.building import blueprint_of, build
from penjing.model.checkpoint import read
from penjing.model.writing import write
from penjing.steps.bits.quantize import QuantizeSettings
from penjing.steps.cut.prune import PruneSettings
from penjing.steps.teach.distill import DistillSettings
from penjing.tasks.sequence import SequenceTask
from penjing.text.encoding import text_of
from penjing.text.rows import Row
from penjing.training.loop import Schedule

FLOAT32 = 1
"""ONNX's number of this type."""


def mean_graph(emitter: Emitter, states: str) -> str:
    """The mean over a text's tokens and a linear layer: (batch, length, hidden) → (batch, outputs)."""
    if emitter.fused:
        mean = emitter.op("ReduceMean", states, axes=[1], keepdims=0)
    else:
        kept = emitter.op("Unsqueeze", emitter.op("Cast", "attention_mask", to=FLOAT32), emitter.shape(2))  # (batch, length, 1)
        total, count = (emitter.op("ReduceSum", x, emitter.shape(1), keepdims=0) for x in (emitter.op("Mul", states, kept), kept))
        mean = emitter.op("Div", total, count)
    return emitter.linear(mean, "head.out")


MEAN = Head(
    name="test_new_head:MEAN",
    network="mean_network:MeanForSequenceClassification",
    suffix="ForSequenceClassification",
    answers="text",
    parameters=(Parameter("out.weight", ("outputs", "hidden")), Parameter("out.bias", ("outputs",))),
    graph="test_new_head:mean_graph",
)


@final
class MeanReview(SequenceTask):
    """Classification by the mean of all tokens."""

    name = "mean-review"
    head = MEAN
    text_columns = (("text",),)
    takes = "mean-review takes one text (str) each"

    def input_of(self, value: Any, where: str) -> Any:
        return text_of(value, where, self.takes)

    def inputs_of(self, rows: list[Row]) -> list[Any]:  # type: ignore[override]
        return [row["text"] for row in rows]


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
