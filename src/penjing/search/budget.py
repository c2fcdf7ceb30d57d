"""Plans: what to keep for a budget, timed before anything is trained for it, or for what was asked by hand."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from penjing.blueprint import Blueprint, Layer
from penjing.engines.clock.measure import Subject
from penjing.engines.clock.trial import Trial
from penjing.engines.form import EAGER, Form
from penjing.engines.network import Ranges
from penjing.engines.onnx.export import export
from penjing.errors import InputError
from penjing.model.building import blueprint_of
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.model.surgery import cut
from penjing.search.allocate import best_blocks, by_parts, candidates, evenly, narrow, smallest
from penjing.search.costs import CostTable, macs_table, measure_blocks
from penjing.selection import Selection
from penjing.steps.cut.importance import Importance
from penjing.steps.cut.prune import PruneSettings
from penjing.tasks.task import Examples
from penjing.text.encoded import Encoded
from penjing.training.predict import divergence_of, logits_of

MARGIN = 0.94
"""Plans aim at this part of the latency that is asked, so that the machine's noise does not undo them."""
NEAR = 0.5 * (1 + MARGIN)
"""A plan that reaches this part of it, timed as a whole, is taken."""
TRIES = 4
"""Plans that are timed as a whole at most: each aims lower where the one before was too slow."""
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
    before: Encoded
    """The same texts as the folder's own tokenizer encodes them."""
    trial: Trial

    def blocks(self) -> CostTable:
        """Milliseconds of each block."""
        return measure_blocks(self.model, self.form, self.ranges, self.encoded, self.trial)

    def time(self, selection: Selection) -> tuple[float, float, float] | None:
        """Milliseconds of eager PyTorch, of the uncut and of the cut model in the form; None where they are not steady."""
        with tempfile.TemporaryDirectory() as folder:
            places = Path(folder) / "uncut", Path(folder) / "cut"
            for place, kept in zip(places, (Selection.all(blueprint_of(self.model)), selection), strict=True):
                export(cut(self.model, kept), place, [self.form], self.ranges, segments=self.trial.segments)
            subjects = [Subject(EAGER, self.folder, self.before), *(Subject(self.form, place) for place in places)]
            eager, uncut, ours = self.trial.measure(subjects, self.encoded, throughput_texts=0)
        if not (eager.steady and uncut.steady and ours.steady):
            return None
        return eager.latency_ms, uncut.latency_ms, ours.latency_ms

    def busy(self) -> "Planned":
        """What is planned where the machine was too busy to time any plan: nothing is cut blindly."""
        return Planned(Selection.all(blueprint_of(self.model)), "the machine was too busy to time plans, so nothing is cut")


@dataclass(frozen=True)
class Limits:
    """eager_ms: milliseconds that eager PyTorch took. latency_ms: the latency that is asked, given that of eager PyTorch. bytes: of the weights at
    most, in so many `bits`."""

    eager_ms: float
    latency_ms: Callable[[float], float]
    bytes: float
    bits: int


@dataclass(frozen=True)
class Tried:
    """A plan that was compared: its layers, and the divergence of its answers."""

    layers: Sequence[Layer]
    divergence: float


@dataclass(frozen=True)
class Planned:
    """What is kept, a line for people, and what it was chosen from. possible: whether any plan meets the limits."""

    selection: Selection
    note: str
    table: CostTable | None = None
    candidates: Sequence[Tried] = ()
    possible: bool = True


def for_depth(blueprint: Blueprint, importance: Importance, depth: float) -> Selection:
    """Whole layers alone: the part `depth` of them, at least one, that is missed most."""
    count = max(1, round(depth * len(blueprint.layers)))
    return _deepest(blueprint, importance, count)


def for_budget(
    bench: Bench,
    importance: Importance,
    limits: Limits,
    data: Examples,
    finished: Callable[[Selection], PenjingPreTrainedModel],
) -> Planned:
    """The selection that meets both limits and changes the answers on `data` least, with its table and rivals.

    Args:
        finished: the model that is cut to a selection, and repaired.
    """
    blueprint = blueprint_of(bench.model)
    table = bench.blocks()
    reference = logits_of(bench.model, data.encoded)
    eager_ms = limits.eager_ms
    limit_ms = limits.latency_ms
    if not table.steady and np.isfinite(limit_ms(eager_ms)):
        return bench.busy()
    aim = MARGIN
    damages = dict[Selection, float]()
    timed = list[tuple[float, Selection, float]]()
    tried = list[Tried]()
    possible = True
    for _ in range(TRIES):
        found = candidates(replace(blueprint, bits=limits.bits), importance, table, aim * limit_ms(eager_ms), limits.bytes)
        if not found and any(each[2] <= 1 for each in timed):
            break  # nothing fits the tighter aim, and what was timed before is fast enough
        possible = bool(found)
        found = found or [smallest(blueprint, importance)]
        for each in found:
            if each not in damages:
                damages[each] = divergence_of(finished(each), data, reference)
        damage = [damages[each] for each in found]
        selection = found[int(np.argmin(damage))]
        tried = [Tried(s.plan(blueprint).layers, d) for s, d in zip(found, damage, strict=True)]
        times = bench.time(selection) if np.isfinite(limit_ms(eager_ms)) else (eager_ms, 0.0, 0.0)
        if times is None:
            continue
        eager_ms, _, ours_ms = times
        reached = ours_ms / limit_ms(eager_ms)
        timed.append((damages[selection], selection, reached))
        if not possible or reached <= NEAR:
            break
        aim *= MARGIN / reached
    if not timed:
        return bench.busy()
    # Of the plans that are fast enough, with some room where there is one, that which changes the answers least; else the fastest.
    enough = [each for each in timed if each[2] <= NEAR] or [each for each in timed if each[2] <= 1]
    _, selection, reached = min(enough, key=lambda each: each[0]) if enough else min(timed, key=lambda each: each[2])
    note = f"{describe(selection, blueprint)}; {bench.form.name}, {reached:.2f} of the latency asked"
    return Planned(selection, note, table, tried, possible)


def by_hand(settings: PruneSettings, bench: Bench, importance: Importance) -> Planned:
    """What the settings ask for."""
    blueprint = blueprint_of(bench.model)
    length, before = (int(np.median(each.lengths)) for each in (bench.encoded, bench.before))
    if settings.latency is None:
        selection = choose(settings, blueprint, importance, length, before=before)
        return Planned(selection, describe(selection, blueprint))
    table = bench.blocks()
    aim = MARGIN * settings.latency
    timed: tuple[Selection, float] | None = None
    for _ in range(TRIES if table.steady else 0):
        found = choose(settings, blueprint, importance, length, (table, aim * table.cost(blueprint)))
        times = bench.time(found)
        if times is None:
            continue
        _, uncut_ms, ours_ms = times
        timed = (found, ours_ms / uncut_ms)
        reached = ours_ms / uncut_ms / settings.latency
        if reached <= NEAR:
            break
        aim *= MARGIN / reached
    if timed is None:
        return bench.busy()
    selection, part = timed
    note = f"{describe(selection, blueprint)}; {bench.form.name}, {part:.2f} of the uncut latency"
    return Planned(selection, note, table)


def choose(
    settings: PruneSettings, blueprint: Blueprint, importance: Importance, length: int, limited: tuple[CostTable, float] | None = None,
    *, before: int | None = None,
) -> Selection:  # fmt: skip
    """The selection that the settings ask for; pure.

    Args:
        length: tokens of the text whose multiply-accumulates are counted.
        before: those that the uncut model's tokenizer makes of it, where they are others; `macs` is a part of the costs of these.
        limited: measured costs, and the limit on them that `latency` comes to.
    """
    width = _width(settings, blueprint)
    if settings.macs is not None:  # counted at the width that is left, and held against the whole model's
        narrower = replace(blueprint, hidden=width)
        limited = macs_table(narrower, length), settings.macs * blueprint.macs(before or length)
    whole = kept_layers(settings, blueprint, importance)
    layers = [kept.layer for kept in whole.layers]
    if limited is not None:
        table, limit = limited
        together = settings.criterion.comparable and not settings.per_layer
        found = (
            narrow(blueprint, layers, importance, table, limit, float("inf"))
            if together
            else evenly(blueprint, layers, importance, table, limit, settings.per_layer)
        )
        if found is None:
            name, part = ("macs", settings.macs) if settings.macs else ("latency", settings.latency)
            raise InputError(f"{name}: {part} cannot be reached even with every block empty; give more")
    else:
        heads, neurons = (1.0 if part is None else part for part in (settings.heads, settings.neurons))
        found = by_parts(blueprint, layers, importance, heads, neurons, settings.per_layer)
    if settings.blocks is not None:
        found = best_blocks(found, importance, settings.blocks)
    if width == blueprint.hidden:
        return found
    best = np.argsort(-importance.hidden, kind="stable")[:width]
    return replace(found, hidden=tuple(sorted(int(i) for i in best)))


def _width(settings: PruneSettings, blueprint: Blueprint) -> int:
    """How many hidden units are kept."""
    if settings.hidden in (None, 1):
        return blueprint.hidden
    width = max(WIDTH, round(settings.hidden * blueprint.hidden / WIDTH) * WIDTH)
    # As wide as an embedding of its own width, the map that joins the two would be lost.
    return width + WIDTH if width == blueprint.embedding != blueprint.hidden else width


def describe(selection: Selection, blueprint: Blueprint) -> str:
    """What is kept, in a line."""
    plan = selection.plan(blueprint)
    shape = " ".join(f"{layer.heads}h/{layer.neurons}n" for layer in plan.layers)
    width = "" if selection.hidden is None else f"{plan.hidden} of {blueprint.hidden} hidden units, "
    return f"{width}{len(plan.layers)} of {len(blueprint.layers)} layers: {shape}"


def kept_layers(settings: PruneSettings, blueprint: Blueprint, importance: Importance) -> Selection:
    """As many layers as are asked, whole: those that are missed most, or as `keep` says."""
    depth = len(blueprint.layers)
    count = settings.layers or depth
    if settings.keep == "measured":
        return _deepest(blueprint, importance, count)
    kept = {"first": range(count), "last": range(depth - count, depth)}.get(
        settings.keep, [round((j + 1) * depth / count) - 1 for j in range(count)]
    )
    layers = Selection.all(blueprint).layers
    return Selection(tuple(layers[i] for i in kept))


def _deepest(blueprint: Blueprint, importance: Importance, count: int) -> Selection:
    gone = set(importance.removed[: len(blueprint.layers) - count])
    return Selection(tuple(layer for layer in Selection.all(blueprint).layers if layer.layer not in gone))
