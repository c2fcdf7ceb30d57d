"""Cost tables of blocks: milliseconds on this machine in the deployment form, or multiply-accumulates."""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from penjing.blueprint import Blueprint, Layer
from penjing.engines.clock.measure import Subject
from penjing.engines.clock.trial import Trial
from penjing.engines.form import Form
from penjing.engines.network import Ranges
from penjing.engines.onnx.export import export
from penjing.model.building import blueprint_of
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.model.surgery import cut
from penjing.selection import LayerSelection, Selection
from penjing.text.encoded import Encoded

PARTS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Parts of the heads, and of the neurons, that are measured; costs between are interpolated."""

TEXTS = 60
"""Texts that the blocks are timed on."""
TIMED_TOKENS = 1000
"""Rows of the embedding table in the models that are timed."""

Points = list[tuple[int, float]]


class Costs(Protocol):
    """What a model costs, and one block of it."""

    def attention(self, layer: Layer, last: bool) -> float:
        """The cost of the attention block of this layer; last: where it is the model's last."""

    def feed_forward(self, layer: Layer, last: bool) -> float:
        """The cost of the feed-forward block of this layer."""

    def cost(self, blueprint: Blueprint) -> float:
        """The cost of a model of this blueprint."""


@dataclass(frozen=True)
class CostTable:
    """A cost table: `base` of everything outside the layers; costs of a layer's blocks by their heads and neurons.

    The last layer has costs of its own: where the head reads the first token alone, it computes no other.
    """

    base: float
    heads: Points
    neurons: Points
    last_heads: Points
    last_neurons: Points
    steady: bool = True
    """Whether most of the measurements were undisturbed."""

    def attention(self, layer: Layer, last: bool) -> float:
        """The cost of an attention block with so many heads, as the measured ones compute."""
        return _interpolate(self.last_heads if last else self.heads, layer.heads)

    def feed_forward(self, layer: Layer, last: bool) -> float:
        """The cost of a feed-forward block with so many neurons."""
        return _interpolate(self.last_neurons if last else self.neurons, layer.neurons)

    def cost(self, blueprint: Blueprint) -> float:
        """The cost of a model of this blueprint: the sum of its blocks and `base`."""
        end = len(blueprint.layers) - 1
        return self.base + sum(
            self.attention(layer, i == end) + self.feed_forward(layer, i == end) for i, layer in enumerate(blueprint.layers)
        )


def _interpolate(points: Points, x: int) -> float:
    return float(np.interp(x, [p[0] for p in points], [p[1] for p in points]))


@dataclass(frozen=True)
class Macs:
    """Costs in multiply-accumulates of the layers of models as wide as `blueprint`, for a text of `length` tokens."""

    blueprint: Blueprint
    length: int

    def attention(self, layer: Layer, last: bool) -> float:
        """Those of the attention block of this layer, where no token was dropped before it."""
        return self.blueprint.layer_macs(replace(layer, neurons=0), self.length)

    def feed_forward(self, layer: Layer, last: bool) -> float:
        """Those of the feed-forward block."""
        return self.blueprint.layer_macs(replace(layer, heads=0), self.length)

    def cost(self, blueprint: Blueprint) -> float:
        """Those of all layers, of the tokens that each reads."""
        return blueprint.macs(self.length)


def measure_blocks(model: PenjingPreTrainedModel, form: Form, ranges: Ranges, encoded: Encoded, trial: Trial) -> CostTable:
    """The measured cost table in milliseconds: differences between models with fewer heads, fewer neurons, one layer and none.

    Needs equal layers. A cost never falls as heads or neurons grow: noise is smoothed by a running maximum.
    """
    blueprint = blueprint_of(model)
    count = len(blueprint.layers)
    whole = blueprint.layers[0]
    grid_heads = sorted({round(part * whole.heads) for part in PARTS})
    grid_neurons = sorted({round(part * whole.neurons) for part in PARTS})
    ends = [(whole.heads, whole.neurons), (whole.heads, 0), (0, whole.neurons), (0, 0)]
    many = [(count, *shape) for shape in {*((whole.heads, n) for n in grid_neurons), *((h, whole.neurons) for h in grid_heads), *ends}]
    shapes = sorted({*many, *((1, *shape) for shape in ends), (0, 0, 0)})
    # With a few tokens alone, since sixteen models are exported, and the size of the embedding table does not change the times.
    few = tuple(sorted({*range(min(blueprint.vocabulary, TIMED_TOKENS)), model.config.pad_token_id or 0}))
    encoded = replace(encoded, ids=encoded.ids % min(blueprint.vocabulary, TIMED_TOKENS))
    with tempfile.TemporaryDirectory() as folder:
        subjects = []
        for depth, heads, neurons in shapes:
            layers = (LayerSelection(i, tuple(range(heads)), tuple(range(neurons))) for i in range(count - depth, count))
            place = Path(folder) / f"{depth}-{heads}-{neurons}"
            export(cut(model, Selection(tuple(layers), tokens=few)), place, [form], ranges, segments=trial.segments)
            subjects.append(Subject(form, place))
        measured = trial.measure(subjects, encoded, texts=TEXTS, throughput_texts=0)
    times = {shape: figures.latency_ms for shape, figures in zip(shapes, measured, strict=True)}
    steady = sum(figures.steady for figures in measured) > len(measured) / 2
    base = times[0, 0, 0]

    def blocks(depth: int, heads: list[int], neurons: list[int], before: dict[tuple[int, int], float]) -> tuple[Points, Points]:
        """Costs by heads and by neurons of one layer of models of `depth` layers.

        before: times of the last layer and the rest of the model, by (heads, neurons), which are subtracted; empty: `base` is.
        """
        layers = depth if not before else depth - 1
        own = {(h, n): (times[depth, h, n] - before.get((h, n), base)) / layers for _, h, n in shapes if (depth, h, n) in times}
        # An empty layer still adds biases and norms twice: half of that goes to each block. Blocks overlap a little in
        # time, so their sum differs from the whole: all are scaled to it.
        empty, full = max(0.0, own[0, 0]) / 2, own[whole.heads, whole.neurons]
        by_heads = np.maximum.accumulate([empty + own[h, whole.neurons] - own[0, whole.neurons] for h in heads])
        by_neurons = np.maximum.accumulate([empty + own[whole.heads, n] - own[whole.heads, 0] for n in neurons])
        factor = max(0.0, full) / max(1e-9, float(by_heads[-1] + by_neurons[-1]))
        scaled = [[(x, float(ms * factor)) for x, ms in zip(*pair, strict=True)] for pair in ((heads, by_heads), (neurons, by_neurons))]
        return scaled[0], scaled[1]

    last = blocks(1, [0, whole.heads], [0, whole.neurons], {})
    if count == 1:
        return CostTable(base, *last, *last, steady)
    single = CostTable(base, *last, *last)
    alone = {(h, n): single.cost(blueprint.with_layers((Layer(h, n),))) for _, h, n in shapes}
    return CostTable(base, *blocks(count, grid_heads, grid_neurons, alone), *last, steady)
