"""Plans for a budget, timed before anything is trained, and plans for settings given by hand."""

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
from penjing.search.costs import Costs, CostTable, Macs, measure_blocks
from penjing.selection import Selection
from penjing.steps.cut.importance import Importance
from penjing.steps.cut.prune import PruneSettings
from penjing.tasks.task import Examples
from penjing.text.encoded import Encoded
from penjing.training.predict import divergence_of, logits_of

MARGIN = 0.94
"""Plans aim at this part of the requested latency, to leave room for the machine's noise."""
NEAR = 0.5 * (1 + MARGIN)
"""A plan whose measured latency is at most this part of the requested one is accepted."""
TRIES = 4
"""The largest number of plans that are timed whole: each aims lower where the one before was too slow."""
WIDTH = 8
"""Hidden units are kept in multiples of this many."""


@dataclass(frozen=True)
class Bench:
    """The test bench of plans: the model, its folder for eager PyTorch, the deployment form, and texts with their lengths."""

    model: PenjingPreTrainedModel
    folder: Path
    form: Form
    ranges: Ranges
    encoded: Encoded
    before: Encoded
    """The same texts as the folder's own tokenizer encodes them."""
    trial: Trial

    def blocks(self) -> CostTable:
        """The latency table of the blocks, in milliseconds."""
        return measure_blocks(self.model, self.form, self.ranges, self.encoded, self.trial)

    def time(self, selection: Selection) -> tuple[float, float, float] | None:
        """Latencies in milliseconds: eager PyTorch, the uncut and the cut model in the form; None where they are not steady."""
        with tempfile.TemporaryDirectory() as folder:
            places = Path(folder) / "uncut", Path(folder) / "cut"
            for place, kept in zip(places, (Selection.all(blueprint_of(self.model)), selection), strict=True):
                export(cut(self.model, kept), place, [self.form], self.ranges, segments=self.trial.segments)
            subjects = [Subject(EAGER, self.folder, self.before), *(Subject(self.form, place) for place in places)]
            eager, uncut, cut_model = self.trial.measure(subjects, self.encoded, throughput_texts=0)
        if not (eager.steady and uncut.steady and cut_model.steady):
            return None
        return eager.latency_ms, uncut.latency_ms, cut_model.latency_ms

    def busy(self) -> "Planned":
        """The plan where the machine was too busy to time any: nothing is cut untimed."""
        return Planned(Selection.all(blueprint_of(self.model)), "the machine was too busy to time plans, so nothing is cut")


@dataclass(frozen=True)
class Limits:
    """Limits on a plan.

    eager_ms: milliseconds that eager PyTorch took. latency_ms: the requested latency, given that of eager PyTorch. bytes: of the
    weights at most, in so many `bits`.
    """

    eager_ms: float
    latency_ms: Callable[[float], float]
    bytes: float
    bits: int


@dataclass(frozen=True)
class Tried:
    """A candidate plan: its layers, and the divergence of its answers in nats."""

    layers: Sequence[Layer]
    divergence: float


@dataclass(frozen=True)
class Planned:
    """The chosen plan, a note for people, and the candidates. possible: whether any plan meets the limits."""

    selection: Selection
    note: str
    table: CostTable | None = None
    candidates: Sequence[Tried] = ()
    possible: bool = True


def for_depth(blueprint: Blueprint, importance: Importance, depth: float) -> Selection:
    """The selection of whole layers: the part `depth` of them, at least one, that is missed most."""
    count = max(1, round(depth * len(blueprint.layers)))
    return _deepest(blueprint, importance, count)


def for_budget(
    bench: Bench,
    importance: Importance,
    limits: Limits,
    data: Examples,
    finished: Callable[[Selection], PenjingPreTrainedModel],
) -> Planned:
    """The plan that meets both limits and changes the answers on `data` least, with its cost table and the candidates.

    Args:
        data: held-out texts that the divergence is measured on.
        finished: makes the model that is cut to a selection, and repaired.
    """
    blueprint = blueprint_of(bench.model)
    table = bench.blocks()
    reference = logits_of(bench.model, data.encoded)
    answers = bench.trial.task.answer_losses()
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
        selections = candidates(replace(blueprint, bits=limits.bits), importance, table, aim * limit_ms(eager_ms), limits.bytes)
        if not selections and any(reached <= 1 for _, _, reached in timed):
            break  # nothing fits the tighter aim, and a plan that was timed before is fast enough
        possible = bool(selections)
        selections = selections or [smallest(blueprint, importance)]
        for candidate in selections:
            if candidate not in damages:
                damages[candidate] = divergence_of(finished(candidate), data, reference, answers)
        damage = [damages[candidate] for candidate in selections]
        selection = selections[int(np.argmin(damage))]
        tried = [Tried(s.plan(blueprint).layers, d) for s, d in zip(selections, damage, strict=True)]
        times = bench.time(selection) if np.isfinite(limit_ms(eager_ms)) else (eager_ms, 0.0, 0.0)
        if times is None:
            continue
        eager_ms, _, cut_ms = times
        reached = cut_ms / limit_ms(eager_ms)
        timed.append((damages[selection], selection, reached))
        if not possible or reached <= NEAR:
            break
        aim *= MARGIN / reached
    if not timed:
        return bench.busy()
    # Of the plans that are fast enough (with room for noise, if any), the one that changes the answers least; else the fastest.
    enough = [plan for plan in timed if plan[2] <= NEAR] or [plan for plan in timed if plan[2] <= 1]
    _, selection, reached = min(enough, key=lambda plan: plan[0]) if enough else min(timed, key=lambda plan: plan[2])
    note = f"{describe(selection, blueprint)}; {bench.form.name}, {reached:.2f} of the latency asked"
    return Planned(selection, note, table, tried, possible)


def by_hand(settings: PruneSettings, bench: Bench, importance: Importance) -> Planned:
    """The plan that the settings ask for; with `latency`, timed and adjusted until it is reached, else the fastest that was timed."""
    blueprint = blueprint_of(bench.model)
    length, before = (int(np.median(encoded.lengths)) for encoded in (bench.encoded, bench.before))
    if settings.latency is None:
        selection = choose(settings, blueprint, importance, length, before=before)
        return Planned(selection, describe(selection, blueprint))
    table = bench.blocks()
    aim = MARGIN * settings.latency
    timed: list[tuple[float, Selection]] = []
    for _ in range(TRIES if table.steady else 0):
        try:
            selection = choose(settings, blueprint, importance, length, (table, aim * table.cost(blueprint)))
        except InputError:
            if timed:
                break  # nothing fits the tighter aim
            raise
        times = bench.time(selection)
        if times is None:
            continue
        _, uncut_ms, cut_ms = times
        timed.append((cut_ms / uncut_ms, selection))
        reached = cut_ms / uncut_ms / settings.latency
        if reached <= NEAR:
            break
        aim *= MARGIN / reached
    if not timed:
        return bench.busy()
    part, selection = min(timed, key=lambda plan: plan[0])
    note = f"{describe(selection, blueprint)}; {bench.form.name}, {part:.2f} of the uncut latency"
    return Planned(selection, note, table)


def choose(
    settings: PruneSettings,
    blueprint: Blueprint,
    importance: Importance,
    length: int,
    limited: tuple[Costs, float] | None = None,
    *,
    before: int | None = None,
) -> Selection:
    """The selection that the settings ask for; pure.

    Args:
        length: tokens of the text whose multiply-accumulates are counted.
        limited: measured costs, and the limit on them that `latency` comes to.
        before: tokens of the same text by the uncut model's tokenizer, where that is another; `macs` is a part of the costs of these.
    """
    width = _width(settings, blueprint)
    if settings.macs is not None:  # counted at the width that is left, as a part of the whole model's
        narrower = replace(blueprint, hidden=width)
        limited = Macs(narrower, length), settings.macs * blueprint.macs(before or length)
    whole = kept_layers(settings, blueprint, importance)
    layers = [kept.layer for kept in whole.layers]
    if limited is not None:
        table, limit = limited
        together = settings.criterion.comparable and not settings.per_layer
        selection = (
            narrow(blueprint, layers, importance, table, limit, float("inf"))
            if together
            else evenly(blueprint, layers, importance, table, limit, settings.per_layer)
        )
        if selection is None:
            name, part = ("macs", settings.macs) if settings.macs else ("latency", settings.latency)
            raise InputError(f"{name}: {part} cannot be reached even with every block empty; give more")
    else:
        heads, neurons = (1.0 if part is None else part for part in (settings.heads, settings.neurons))
        selection = by_parts(blueprint, layers, importance, heads, neurons, settings.per_layer)
    if settings.blocks is not None:
        selection = best_blocks(blueprint, selection, importance, settings.blocks)
    if width == blueprint.hidden:
        return selection
    best = np.argsort(-importance.hidden, kind="stable")[:width]
    return replace(selection, hidden=tuple(sorted(int(i) for i in best)))


def _width(settings: PruneSettings, blueprint: Blueprint) -> int:
    """The number of hidden units that are kept."""
    if settings.hidden in (None, 1):
        return blueprint.hidden
    width = max(WIDTH, round(settings.hidden * blueprint.hidden / WIDTH) * WIDTH)
    # A hidden width equal to a separate embedding width would drop the map between the two.
    return width + WIDTH if width == blueprint.embedding != blueprint.hidden else width


def describe(selection: Selection, blueprint: Blueprint) -> str:
    """A line that describes a selection."""
    plan = selection.plan(blueprint)
    shape = " ".join(f"{layer.heads}h/{layer.neurons}n" for layer in plan.layers)
    width = "" if selection.hidden is None else f"{plan.hidden} of {blueprint.hidden} hidden units, "
    return f"{width}{len(plan.layers)} of {len(blueprint.layers)} layers: {shape}"


def kept_layers(settings: PruneSettings, blueprint: Blueprint, importance: Importance) -> Selection:
    """The selection of the requested number of whole layers: those that are missed most, or as `keep` says."""
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
