"""What each block costs on this machine: measured in the engine and form that will run, on the user's own lengths."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from penjing.arrays import Encoded
from penjing.blueprint import Blueprint
from penjing.checkpoint import blueprint_of
from penjing.engines.engine import Form
from penjing.engines.export import export
from penjing.engines.graph import Ranges
from penjing.engines.measure import Subject, measure
from penjing.modeling_penjing import PenjingPreTrainedModel
from penjing.surgery import LayerSelection, Selection, cut

PARTS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Parts of the heads, and of the neurons, that are measured; costs between are interpolated."""


@dataclass(frozen=True)
class LatencyTable:
    """Milliseconds: `base` of everything outside the layers; of one layer by its heads, and by its neurons."""

    base: float
    heads: list[tuple[int, float]]
    neurons: list[tuple[int, float]]

    def attention(self, heads: int) -> float:
        """Milliseconds of one attention block."""
        return _interpolate(self.heads, heads)

    def feed_forward(self, neurons: int) -> float:
        """Milliseconds of one feed-forward block."""
        return _interpolate(self.neurons, neurons)

    def latency(self, blueprint: Blueprint) -> float:
        """Milliseconds of a model of this blueprint, the sum of its blocks."""
        return self.base + sum(self.attention(layer.heads) + self.feed_forward(layer.neurons) for layer in blueprint.layers)

    def to_dict(self) -> dict[str, Any]:
        """A JSON object."""
        return {"base": self.base, "heads": self.heads, "neurons": self.neurons}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "LatencyTable":
        """Read `to_dict`'s object."""
        return cls(fields["base"], [tuple(p) for p in fields["heads"]], [tuple(p) for p in fields["neurons"]])


def _interpolate(points: list[tuple[int, float]], x: int) -> float:
    return float(np.interp(x, [p[0] for p in points], [p[1] for p in points]))


def measure_blocks(
    model: PenjingPreTrainedModel, form: Form, ranges: Ranges, encoded: Encoded, *, threads: int, segments: bool,
    seed: int = 0, tick: Callable[[], None] = lambda: None,
) -> LatencyTable:  # fmt: skip
    """Measure models of this width with fewer heads, fewer neurons, and no layers, side by side, and take differences.

    Needs equal layers. A cost never falls as heads or neurons grow: noise is ironed out (running maximum).
    """
    blueprint = blueprint_of(model)
    count, whole = len(blueprint.layers), blueprint.layers[0]
    grid_heads = sorted({round(part * whole.heads) for part in PARTS})
    grid_neurons = sorted({round(part * whole.neurons) for part in PARTS})
    shapes = [(whole.heads, n) for n in grid_neurons] + [(h, whole.neurons) for h in grid_heads[:-1]] + [(0, 0)]
    with tempfile.TemporaryDirectory() as folder:
        subjects = []
        for number, (heads, neurons) in enumerate(shapes):
            variant = cut(model, Selection(tuple(LayerSelection(i, tuple(range(heads)), tuple(range(neurons))) for i in range(count))))
            subjects.append(_subject(variant, form, Path(folder) / str(number), ranges, segments))
        subjects.append(_subject(cut(model, Selection(())), form, Path(folder) / "none", ranges, segments))
        measured = measure(subjects, encoded, threads=threads, texts=60, throughput_texts=0, seed=seed, tick=tick)
    times = dict(zip(shapes, [m.latency_ms for m in measured], strict=False))
    base, full, bare = measured[-1].latency_ms, times[(whole.heads, whole.neurons)], times[(0, 0)]
    # An empty layer still adds biases and norms twice: half of that to each block.
    empty = max(0.0, bare - base) / count / 2
    heads_ms = [empty + (times[(h, whole.neurons)] - times[(0, whole.neurons)]) / count for h in grid_heads]
    neurons_ms = [empty + (times[(whole.heads, n)] - times[(whole.heads, 0)]) / count for n in grid_neurons]
    heads_ms, neurons_ms = list(np.maximum.accumulate(heads_ms)), list(np.maximum.accumulate(neurons_ms))
    # Blocks overlap a little in time, so their sum misses the whole by some: spread that over them.
    factor = (full - base) / max(1e-9, count * (heads_ms[-1] + neurons_ms[-1]))
    return LatencyTable(
        base,
        [(h, float(ms * factor)) for h, ms in zip(grid_heads, heads_ms, strict=True)],
        [(n, float(ms * factor)) for n, ms in zip(grid_neurons, neurons_ms, strict=True)],
    )


def _subject(model: PenjingPreTrainedModel, form: Form, folder: Path, ranges: Ranges, segments: bool) -> Subject:
    export(model, folder, [form.file], ranges, segments=segments)
    return Subject(form, folder)
