"""A head of one's own beside its network (mean_network.py): its rows, its part of the graph, and a task that needs it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, final

from penjing.blueprint import Head, Parameter
from penjing.engines.onnx.heads import Emitter
from penjing.tasks.sequence import SequenceTask
from penjing.text.encoding import text_of
from penjing.text.rows import Row

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
    name="mean_head:MEAN",
    network="mean_network:MeanForSequenceClassification",
    suffix="ForSequenceClassification",
    answers="text",
    parameters=(Parameter("out.weight", ("outputs", "hidden")), Parameter("out.bias", ("outputs",))),
    graph="mean_head:mean_graph",
)
SCALED = replace(
    MEAN,
    name="mean_head:SCALED",
    network="mean_network:ScaledForSequenceClassification",
    parameters=(Parameter("out.weight", ("outputs", "hidden")), Parameter("scale", ())),
    graph="",
)
"""Without a bias, and with a scalar."""


@final
class MeanReview(SequenceTask):
    """Classification by the mean of all tokens."""

    name = "mean-review"
    head = MEAN
    text_columns = (("text",),)
    takes = "mean-review takes one text (str) each"

    def input_of(self, value: Any, where: str) -> Any:
        return text_of(value, where, self.takes)

    def inputs_of(self, rows: Sequence[Row]) -> list[Any]:
        return [row["text"] for row in rows]
