"""Plans by hand: what is asked is what is kept, whatever is asked together, and nothing else has a say."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import penjing_model
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from penjing.blueprint import Blueprint, Layer
from penjing.engines.clock.trial import Trial
from penjing.engines.form import EAGER
from penjing.errors import InputError
from penjing.files.records import from_json, to_json
from penjing.maths.answers import Classes
from penjing.model.surgery import cut
from penjing.search.budget import WIDTH, Bench, Limits, Planned, by_hand, choose, describe, for_budget, for_depth
from penjing.search.costs import CostTable
from penjing.selection import Selection
from penjing.steps.cut.criteria import CRITERIA
from penjing.steps.cut.importance import Importance
from penjing.steps.cut.prune import PlanNote, PruneSettings
from penjing.tasks.sequence import Classification
from penjing.tasks.task import Examples
from penjing.text.encoded import Encoded

LENGTH = 9
WHOLE = Blueprint(100, 32, 2, 48, 48, 8, (Layer(6, 128),) * 4, "sequence", 2)
NARROW_EMBEDDING = dataclasses.replace(WHOLE, embedding=24)
PARTS = st.sampled_from([0.05, 0.3, 0.5, 0.75, 0.99, 1.0])
NAMES = sorted(set(CRITERIA) - {"gates"})
TRIAL = Trial(Classification(["a", "b"]), threads=1, seed=0, segments=False, max_length=32, wait_s=0, tell=str)


def importance(blueprint: Blueprint, seed: int = 0) -> Importance:
    random, depth = np.random.default_rng(seed), len(blueprint.layers)
    return Importance(
        [random.random(layer.heads) for layer in blueprint.layers],
        [random.random(layer.neurons) for layer in blueprint.layers],
        [int(i) for i in random.permutation(depth)[: depth - 1]],
        random.random(blueprint.hidden),
    )


@st.composite
def asked(draw: st.DrawFn) -> PruneSettings:
    """Any settings that are allowed without a table of latencies."""
    sizes: dict[str, Any] = draw(
        st.fixed_dictionaries({"macs": PARTS})
        | st.fixed_dictionaries({"heads": st.none() | st.just(0.0) | PARTS, "neurons": st.none() | st.just(0.0) | PARTS})
    )
    return PruneSettings(
        importance=draw(st.sampled_from(NAMES)), per_layer=draw(st.booleans()), layers=draw(st.none() | st.integers(1, 4)),
        hidden=draw(st.none() | PARTS), **sizes,
    )  # fmt: skip


def uneven(seed: int) -> Blueprint:
    random = np.random.default_rng(seed)
    return WHOLE.with_layers(tuple(Layer(int(random.integers(0, 7)), int(random.integers(0, 129))) for _ in range(4)))


@given(asked(), st.sampled_from([WHOLE, NARROW_EMBEDDING, uneven(1), uneven(2)]), st.integers(0, 99))
def test_what_is_asked_is_what_is_kept(settings: PruneSettings, blueprint: Blueprint, seed: int) -> None:
    scores = importance(blueprint, seed)
    before = json.dumps(scores.to_dict())
    selection = choose(settings, blueprint, scores, LENGTH)
    plan = selection.plan(blueprint)
    kept = [layer.layer for layer in selection.layers]
    assert len(kept) == (settings.layers or 4)
    assert set(range(4)) - set(kept) == set(scores.removed[: 4 - len(kept)])
    if settings.macs is not None:
        assert plan.macs(LENGTH) <= settings.macs * blueprint.macs(LENGTH) * (1 + 1e-12)
    for kind, group in (("heads", 1), ("neurons", 8)):
        counts = [getattr(blueprint.layers[i], kind) for i in kept]
        left = [getattr(layer, kind) for layer in plan.layers]
        part = getattr(settings, kind)
        if settings.macs is None and (part is None or part == 1):
            assert left == counts
        elif settings.macs is None:
            pairs = list(zip(left, counts, strict=True)) if settings.per_layer else [(sum(left), sum(counts))]
            assert all(round(part * count) - group < size <= round(part * count) for size, count in pairs)
    if settings.hidden is None or settings.hidden == 1:
        assert plan.hidden == blueprint.hidden
    else:
        assert plan.hidden % WIDTH == 0 and abs(plan.hidden - settings.hidden * blueprint.hidden) <= 1.5 * WIDTH
        assert blueprint.embedding == blueprint.hidden or plan.hidden != plan.embedding
    assert choose(settings, blueprint, scores, LENGTH) == selection and json.dumps(scores.to_dict()) == before


@given(asked().filter(lambda settings: settings.macs is not None and settings.hidden is None), st.integers(1, 30), st.integers(1, 30))
def test_a_part_of_the_multiply_accumulates_is_of_the_teachers_own_text(settings: PruneSettings, length: int, before: int) -> None:
    """Where the vocabulary is pruned, the same text has other tokens: what is kept is counted at those, and held against the teacher's."""
    plan = choose(settings, WHOLE, importance(WHOLE), length, before=before).plan(WHOLE)
    assert settings.macs is not None and plan.macs(length) <= settings.macs * WHOLE.macs(before) * (1 + 1e-12)
    if before >= length:  # a longer text of the teacher's leaves more
        least = choose(settings, WHOLE, importance(WHOLE), length).plan(WHOLE)
        assert least.macs(length) <= plan.macs(length)


def test_a_plan_by_hand_counts_the_texts_of_both_tokenizers() -> None:
    blueprint = Blueprint(40, 64, 2, 16, 16, 4, (Layer(4, 64), Layer(4, 64)), "sequence", 2)
    longer, shorter = (Encoded.of([[1] * length], [[0] * length]) for length in (40, 20))
    bench = Bench(penjing_model(blueprint), Path(), EAGER, {}, longer, shorter, TRIAL)
    planned = by_hand(PruneSettings(macs=0.9), bench, importance(blueprint))
    assert planned.selection.plan(blueprint).macs(40) <= 0.9 * blueprint.macs(20)


@pytest.mark.parametrize("width", [4, 12, 20, 48])
def test_all_hidden_units_are_all_of_them_at_any_width(width: int) -> None:
    blueprint = dataclasses.replace(WHOLE, hidden=width, embedding=width)
    assert choose(PruneSettings(hidden=1.0), blueprint, importance(blueprint), LENGTH).plan(blueprint) == blueprint


def test_the_most_important_hidden_units_are_kept() -> None:
    scores = importance(WHOLE)
    kept = choose(PruneSettings(hidden=0.5), WHOLE, scores, LENGTH).hidden
    assert kept is not None and len(kept) == 24
    assert scores.hidden[list(kept)].min() > np.delete(scores.hidden, kept).max()


@pytest.mark.parametrize("name", ["fisher", "magnitude"])
def test_a_part_of_the_latency_is_kept(name: str) -> None:
    table = CostTable(0.1, [(0, 0.02), (6, 0.1)], [(0, 0.01), (128, 0.2)], [(0, 0.01), (6, 0.05)], [(0, 0.01), (128, 0.1)])
    limit = table.cost(WHOLE)
    selection = choose(PruneSettings(latency=0.5, importance=name), WHOLE, importance(WHOLE), LENGTH, (table, 0.5 * limit))
    assert 0.4 * table.cost(WHOLE) < table.cost(selection.plan(WHOLE)) <= 0.5 * table.cost(WHOLE)
    with pytest.raises(InputError, match=r"^latency: 0.1 cannot be reached even with every block empty; give more"):
        choose(PruneSettings(latency=0.1, importance=name), WHOLE, importance(WHOLE), LENGTH, (table, 0.1 * limit))


@given(st.integers(0, 99), st.sampled_from([0.25, 0.5, 0.75, 1.0]))
def test_whole_blocks_are_kept_or_empty(seed: int, part: float) -> None:
    scores = importance(WHOLE, seed)
    plan = choose(PruneSettings(blocks=part), WHOLE, scores, LENGTH).plan(WHOLE)
    left = [size for layer in plan.layers for size in (layer.heads / 6, layer.neurons / 128)]
    assert set(left) <= {0, 1} and sum(left) == round(part * 8)
    worth = [float(each.sum()) for pair in zip(scores.heads, scores.neurons, strict=True) for each in pair]
    assert min([w for w, kept in zip(worth, left, strict=True) if kept]) >= max(
        [w for w, kept in zip(worth, left, strict=True) if not kept], default=0
    )


def test_a_part_of_the_depth_is_whole_layers() -> None:
    scores = importance(WHOLE)
    for depth, count in ((1.0, 4), (0.5, 2), (0.01, 1)):
        selection = for_depth(WHOLE, scores, depth)
        assert selection.plan(WHOLE).layers == WHOLE.layers[:count]
        assert {layer.layer for layer in selection.layers} == set(range(4)) - set(scores.removed[: 4 - count])


def test_a_plan_by_hand_is_a_note_and_what_is_kept_which_is_told_as_json() -> None:
    blueprint = Blueprint(40, 12, 2, 16, 16, 4, (Layer(4, 16), Layer(4, 16)), "sequence", 2)
    encoded = Encoded.of([[1] * 3, [1] * 9, [1] * 12], [[0] * 3, [0] * 9, [0] * 12])
    bench = Bench(penjing_model(blueprint), Path(), EAGER, {}, encoded, encoded, TRIAL)
    scores, settings = importance(blueprint), PruneSettings(macs=0.5, layers=1, hidden=0.5)
    planned = by_hand(settings, bench, scores)
    record = from_json(PlanNote, json.loads(json.dumps(to_json(PlanNote(planned.note, selection=planned.selection)))), "a stage")
    assert record.selection == planned.selection == choose(settings, blueprint, scores, 9)  # the median length
    assert record.note == describe(record.selection, blueprint) == "8 of 16 hidden units, 1 of 2 layers: 4h/16n"
    assert planned.possible and planned.table is None


# -- for a budget --------------------------------------------------------------------------------------------------

THREE = Blueprint(40, 12, 2, 16, 16, 4, (Layer(4, 128),) * 3, "sequence", 2)
DATA = Examples(Encoded.of([[1, 2, 3], [4, 5]], [[0] * 3, [0] * 2]), ["", ""], ["a", "b"], [[], []], 0)
BASE_MS, LAYER_MS, LIMIT_MS = 0.7, 0.2, 1.0


@dataclasses.dataclass(frozen=True)
class Clock(Bench):
    """Blocks cost as the table says; a whole model takes what `times` gives for each plan, or else for the plan that was tried so late."""

    times: Callable[[Blueprint], float] = lambda plan: LIMIT_MS
    tried: list[Blueprint] = dataclasses.field(default_factory=list)
    base_ms: float = BASE_MS

    def blocks(self) -> CostTable:
        heads, neurons = [(0, 0.0), (4, LAYER_MS / 2)], [(0, 0.0), (128, LAYER_MS / 2)]
        return CostTable(self.base_ms, heads, neurons, heads, neurons)

    def time(self, selection: Selection) -> tuple[float, float, float]:
        self.tried.append(selection.plan(THREE))
        return 3.0, 2.0, self.times(self.tried[-1])


def limits(latency_ms: float = LIMIT_MS, size: float = float("inf")) -> Limits:
    """What may be taken of either, in float32."""
    return Limits(3.0, lambda eager: latency_ms, size, 32)


def planned(times: Callable[[Blueprint], float], base_ms: float = BASE_MS) -> tuple[Blueprint, Planned, list[Blueprint]]:
    """The plan for `LIMIT_MS` where whole models take these times, what was chosen from, and all plans that were timed."""
    bench = Clock(penjing_model(THREE), Path(), EAGER, {}, DATA.encoded, DATA.encoded, TRIAL, times, base_ms=base_ms)
    found = for_budget(bench, importance(THREE), limits(), DATA, lambda kept: cut(bench.model, kept))
    assert found.table == bench.blocks() and all(tried.divergence >= 0 for tried in found.candidates)
    return found.selection.plan(THREE), found, bench.tried


def test_a_plan_with_room_is_taken_at_once_and_one_without_is_tightened() -> None:
    first, found, tried = planned(lambda plan: 0.9)
    assert tried == [first] and found.possible
    plan, _, tried = planned(lambda plan: 1.05 if plan == first else 0.9)
    assert tried == [first, plan] and plan.macs(9) < first.macs(9)


@pytest.mark.parametrize("smallest_ms", [0.5, 0.96, 1.5])
def test_a_plan_that_meets_the_limit_is_kept_where_nothing_fits_a_tighter_aim(smallest_ms: float) -> None:
    """The least plan costs 0.9 of the limit: the first takes 0.99 of it, and what 0.99 is to be brought down to is below the least."""
    first = planned(lambda plan: 0.9, base_ms=0.9)[0]
    plan, found, tried = planned(lambda plan: 0.99 if plan == first else smallest_ms, base_ms=0.9)
    assert plan == tried[0] == first and found.possible


def test_of_plans_that_all_meet_the_limit_that_which_changes_the_answers_least_is_taken() -> None:
    """Every plan takes 0.99 of the limit, so each try aims lower than the one before, for nothing."""
    plan, found, tried = planned(lambda plan: 0.99)
    assert len(tried) > 1 and found.possible
    assert plan.macs(9) == max(each.macs(9) for each in tried)


def test_a_plan_by_hand_that_was_timed_is_kept_where_a_tighter_one_is_impossible() -> None:
    """The uncut model takes 2.0, by the table 1.3, of which 0.7 are no layer's: the third plan would have to take less than these."""
    times = iter((1.56, 1.7))
    bench = Clock(penjing_model(THREE), Path(), EAGER, {}, DATA.encoded, DATA.encoded, TRIAL, lambda plan: next(times))
    found = by_hand(PruneSettings(latency=0.75), bench, importance(THREE))
    assert len(bench.tried) == 2 and found.selection.plan(THREE) == bench.tried[0] and "0.78 of the uncut latency" in found.note
    with pytest.raises(InputError, match=r"latency: 0\.1 cannot be reached"):
        by_hand(PruneSettings(latency=0.1), bench, importance(THREE))


class Farthest(Classes):  # type: ignore[misc]
    """Losses on answers of one's own: the more they differ, the nearer they are."""

    def divergence(self, z: Tensor, t: Tensor) -> Tensor:
        return 1 - super().divergence(z, t)


class Contrary(Classification):
    """A task whose answers are compared so."""

    answers = Farthest


def test_plans_are_compared_by_the_task_s_own_divergence() -> None:
    plans = []
    for task in (Classification(["a", "b"]), Contrary(["a", "b"])):
        trial = dataclasses.replace(TRIAL, task=task)
        bench = Clock(penjing_model(THREE), Path(), EAGER, {}, DATA.encoded, DATA.encoded, trial, lambda plan: 0.9)
        found = for_budget(bench, importance(THREE), limits(), DATA, lambda kept, bench=bench: cut(bench.model, kept))
        plans.append([tried.divergence for tried in found.candidates])
    assert plans[1] == pytest.approx([1 - divergence for divergence in plans[0]])


def test_where_nothing_is_fast_enough_the_fastest_is_taken_and_it_is_said() -> None:
    plan, found, tried = planned(lambda plan: 2.0, base_ms=1.1)
    assert tried == [plan] and not found.possible and plan.layers == (Layer(1, 64),)
    times = iter((1.2, 1.1, 1.15, 1.12))
    plan, found, tried = planned(lambda plan: next(times), base_ms=0.3)
    assert plan == tried[1] and len(tried) == 4 and found.possible


@dataclasses.dataclass(frozen=True)
class Busy(Clock):
    """The machine is never quiet: while the blocks are timed, or while whole models are."""

    whole_models: bool = True

    def blocks(self) -> CostTable:
        return dataclasses.replace(super().blocks(), steady=self.whole_models)

    def time(self, selection: Selection) -> tuple[float, float, float] | None:
        super().time(selection)
        return None


@pytest.mark.parametrize("whole_models", [True, False])
def test_on_a_busy_machine_nothing_is_cut_blindly(whole_models: bool) -> None:
    bench = Busy(penjing_model(THREE), Path(), EAGER, {}, DATA.encoded, DATA.encoded, TRIAL, whole_models=whole_models)

    def planned_for(limit: float, limit_bytes: float) -> Blueprint:
        found = for_budget(bench, importance(THREE), limits(limit, limit_bytes), DATA, lambda kept: cut(bench.model, kept))
        return found.selection.plan(THREE)

    assert planned_for(LIMIT_MS, float("inf")) == THREE and bool(bench.tried) == whole_models
    settings = PruneSettings(latency=0.9)
    assert by_hand(settings, bench, importance(THREE)).selection.plan(THREE) == THREE
    # A size needs no clock.
    assert planned_for(float("inf"), 0.8 * THREE.bytes).bytes <= 0.8 * THREE.bytes
