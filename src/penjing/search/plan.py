"""Plans: what to keep for a budget, timed before anything is trained for it, or for what was asked by hand."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from penjing.arrays import Encoded
from penjing.blueprint import Blueprint
from penjing.checkpoint import blueprint_of
from penjing.engines.engine import EAGER, Form
from penjing.engines.export import export
from penjing.engines.graph import Ranges
from penjing.engines.measure import Subject, measure
from penjing.errors import InputError
from penjing.modeling_penjing import PenjingPreTrainedModel
from penjing.recipe import COMPARABLE, PruneSettings
from penjing.search.allocate import by_parts, candidates, evenly, narrow, smallest
from penjing.search.costs import CostTable, macs_table, measure_blocks
from penjing.steps.importance import Importance
from penjing.steps.prune import divergence_of
from penjing.surgery import Selection, cut
from penjing.tasks.task import Examples
from penjing.training.predict import logits_of

MARGIN = 0.94
"""Plans aim at this part of the latency that is asked, so that the machine's noise does not undo them."""
WIDTH = 8
"""Hidden units are kept in multiples of this many."""


@dataclass(frozen=True)
class Bench:
    """What plans are timed with: the model, its folder for eager PyTorch, the form that runs, and the texts' lengths."""

    model: PenjingPreTrainedModel
    folder: Path
    form: Form
    ranges: Ranges
    encoded: Encoded
    threads: int
    segments: bool
    seed: int

    def blocks(self) -> CostTable:
        """Milliseconds of each block."""
        return measure_blocks(
            self.model, self.form, self.ranges, self.encoded, threads=self.threads, segments=self.segments, seed=self.seed
        )  # fmt: skip

    def time(self, selection: Selection) -> tuple[float, float]:
        """Milliseconds of eager PyTorch, and of the cut model in the form."""
        with tempfile.TemporaryDirectory() as folder:
            export(cut(self.model, selection), Path(folder), [self.form.file], self.ranges, segments=self.segments)
            eager, ours = measure(
                [Subject(EAGER, self.folder), Subject(self.form, Path(folder))], self.encoded,
                threads=self.threads, seed=self.seed, throughput_texts=0,
            )  # fmt: skip
        return eager.latency_ms, ours.latency_ms


def for_depth(blueprint: Blueprint, importance: Importance, depth: float) -> Selection:
    """Whole layers alone: the part `depth` of them, at least one, that is missed most."""
    count = max(1, round(depth * len(blueprint.layers)))
    return _deepest(blueprint, importance, count)


def for_budget(
    bench: Bench, importance: Importance, eager_ms: float, limit_ms: Callable[[float], float], limit_bytes: float, bits: int, data: Examples
) -> dict[str, Any]:
    """The selection that meets both limits and changes the answers on `data` least, as a record with its table and rivals.

    Args:
        eager_ms: what eager PyTorch took before.
        limit_ms: the latency that is asked, given that of eager PyTorch.
        bits: of the stored weights, for `limit_bytes`.
    """
    blueprint, model = blueprint_of(bench.model), bench.model
    table, reference = bench.blocks(), logits_of(bench.model, data.encoded)
    aim = MARGIN
    for _ in range(4):
        found = candidates(replace(blueprint, bits=bits), importance, table, aim * limit_ms(eager_ms), limit_bytes)
        possible = bool(found)
        found = found or [smallest(blueprint, importance)]
        damage = [divergence_of(cut(model, each), data, reference) for each in found]
        selection = found[int(np.argmin(damage))]
        tried = [{"blueprint": s.plan(blueprint).to_dict()["layers"], "divergence": d} for s, d in zip(found, damage, strict=True)]
        eager_ms, ours_ms = bench.time(selection)
        reached = ours_ms / limit_ms(eager_ms)
        if not possible or reached <= 0.5 * (1 + MARGIN):
            break
        aim *= MARGIN / reached
    return {
        "selection": selection.to_dict(), "table": table.to_dict(), "candidates": tried, "possible": possible,
        "note": f"{describe(selection, blueprint)}; {bench.form.name}, {reached:.2f} of the latency asked",
    }  # fmt: skip


def by_hand(settings: PruneSettings, bench: Bench, importance: Importance) -> dict[str, Any]:
    """What the settings ask for, as a record."""
    blueprint, table = blueprint_of(bench.model), None
    if settings.latency is not None:
        table = bench.blocks()
    elif settings.macs is not None:
        table = macs_table(blueprint, int(np.median(bench.encoded.lengths)))
    selection = choose(settings, blueprint, importance, table)
    record = {"selection": selection.to_dict(), "note": describe(selection, blueprint)}
    return record if table is None else record | {"table": table.to_dict()}


def choose(settings: PruneSettings, blueprint: Blueprint, importance: Importance, table: CostTable | None) -> Selection:
    """The selection that the settings ask for; pure. `table`: the costs that `macs` or `latency` is a part of."""
    if settings.layers is not None and settings.layers > len(blueprint.layers):
        raise InputError(f"--layers: {settings.layers} is more than the model has; give 1 to {len(blueprint.layers)}")
    whole = _deepest(blueprint, importance, settings.layers or len(blueprint.layers))
    layers = [kept.layer for kept in whole.layers]
    if table is not None:
        part = settings.macs or settings.latency or 1.0
        limit = part * table.cost(blueprint)
        together = settings.importance in COMPARABLE and not settings.per_layer
        found = (
            narrow(blueprint, layers, importance, table, limit, float("inf"))
            if together
            else evenly(blueprint, layers, importance, table, limit, settings.per_layer)
        )
        if found is None:
            raise InputError(f"--{'macs' if settings.macs else 'latency'}: {part} cannot be reached even with every block empty; give more")
    else:
        heads, neurons = (1.0 if part is None else part for part in (settings.heads, settings.neurons))
        found = by_parts(blueprint, layers, importance, heads, neurons, settings.per_layer)
    if settings.hidden in (None, 1):
        return found
    width = max(WIDTH, round(settings.hidden * blueprint.hidden / WIDTH) * WIDTH)
    if width == blueprint.embedding != blueprint.hidden:
        width += WIDTH  # as wide as the embedding, the map that joins the two would be lost
    best = np.argsort(-importance.hidden, kind="stable")[:width]
    return replace(found, hidden=tuple(sorted(int(i) for i in best)))


def describe(selection: Selection, blueprint: Blueprint) -> str:
    """What is kept, in a line."""
    plan = selection.plan(blueprint)
    shape = " ".join(f"{layer.heads}h/{layer.neurons}n" for layer in plan.layers)
    width = "" if selection.hidden is None else f"{plan.hidden} of {blueprint.hidden} hidden units, "
    return f"{width}{len(plan.layers)} of {len(blueprint.layers)} layers: {shape}"


def _deepest(blueprint: Blueprint, importance: Importance, count: int) -> Selection:
    gone = set(importance.removed[: len(blueprint.layers) - count])
    return Selection(tuple(layer for layer in Selection.all(blueprint).layers if layer.layer not in gone))
