"""The planner of a job: selections for a budget or by hand, the embedding's rank for a size, and the bits of each matrix."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

import numpy as np

from penjing.blueprint import Blueprint
from penjing.engines.clock.trial import Trial
from penjing.job.asked import Budget
from penjing.job.recipe import Recipe
from penjing.maths.stored import Scheme
from penjing.model.building import blueprint_of
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.report.record import BaselineRecord
from penjing.search import budget as plans
from penjing.search.size import least_bits, mixed, rank_for, room_for_blocks
from penjing.selection import Selection
from penjing.steps.bits.store import StoreSettings
from penjing.steps.cut.prune import PruneSettings, pruner
from penjing.steps.stage import Context, Planner, Work

PLAN_TEXTS = 256
"""Training texts that plans for a budget are repaired on, and the largest number of held-out texts that they are compared on."""
HESSIAN_TEXTS = 128
"""Training texts that the Hessian is estimated on."""


@final
class Undecided(Planner):
    """The planner before the baseline is measured; it raises an `AssertionError`."""

    def selection(self, settings: PruneSettings, work: Work, context: Context) -> tuple[Selection, str]:
        raise AssertionError("nothing is planned before the baseline")

    def rank(self, work: Work, context: Context) -> int:
        raise AssertionError("nothing is planned before the baseline")

    def schemes(self, settings: StoreSettings, work: Work, context: Context) -> dict[str, Scheme]:
        raise AssertionError("nothing is planned before the baseline")


@final
@dataclass(frozen=True)
class BudgetPlanner(Planner):
    """The planner of a budget: it times plans in the form that runs the teacher fastest. folder: the teacher's, for eager PyTorch."""

    recipe: Recipe
    budget: Budget
    rates: BaselineRecord
    folder: Path
    trial: Trial

    def selection(self, settings: PruneSettings, work: Work, context: Context) -> tuple[Selection, str]:
        """The selection: of whole layers for `depth`, by hand, or the one that meets the budget in the fastest form."""
        importance = work.importance
        blueprint = blueprint_of(work.model)
        assert importance is not None
        if context.depth is not None:
            selection = plans.for_depth(blueprint, importance, context.depth)
            return selection, plans.describe(selection, blueprint)
        bench = plans.Bench(
            work.model, self.folder, self.rates.form, dict(self.rates.ranges), work.data.eval.encoded, context.data.eval.encoded, self.trial
        )
        if settings.cuts:
            planned = plans.by_hand(settings, bench, importance)
            return planned.selection, planned.note
        limit_bytes, bits = self._bytes(work, context, blueprint)
        if self._in_time and replace(blueprint, bits=bits).bytes <= limit_bytes and self._stores(work, context):
            return Selection.all(blueprint), "nothing needs to be cut for this size"
        judging = context.judging(work)

        def finished(selection: Selection) -> PenjingPreTrainedModel:
            return pruner(settings, work, context, PLAN_TEXTS).apply(work.model, selection, importance)

        limits = plans.Limits(self.rates.eager_ms, self._limit_ms, limit_bytes, bits)
        planned = plans.for_budget(bench, importance, limits, judging.take(np.arange(len(judging))[:PLAN_TEXTS]), finished)
        return planned.selection, planned.note

    def rank(self, work: Work, context: Context) -> int:
        store = self.recipe.get(StoreSettings)
        room = context.room(work)
        return rank_for(blueprint_of(work.base), room, least_bits(store)) if room and store else 0

    def schemes(self, settings: StoreSettings, work: Work, context: Context) -> dict[str, Scheme]:
        texts = context.calibration(work, HESSIAN_TEXTS)
        return mixed(work.model, settings, work.data.task, texts, context.room(work), context.seed)

    @property
    def _in_time(self) -> bool:
        """Whether the budget limits no speed."""
        return self.budget.speedup is None and self.budget.latency_ms is None

    def _stores(self, work: Work, context: Context) -> bool:
        return context.room(work) is not None and self.recipe.get(StoreSettings) is not None

    def _bytes(self, work: Work, context: Context, blueprint: Blueprint) -> tuple[float, int]:
        """The limit on the bytes of a plan's weights, and the bits of a weight."""
        room = context.room(work)
        store = self.recipe.get(StoreSettings)
        if room is not None and store is not None:
            bits = least_bits(store)
            return room_for_blocks(blueprint, self.rank(work, context), room, bits), bits
        size = self.budget.size_mb
        return (1e6 * size - self.rates.extra_bytes if size else float("inf")), 8 if context.int8 else 32

    def _limit_ms(self, eager_ms: float) -> float:
        """The requested latency in milliseconds, where eager PyTorch takes `eager_ms`."""
        budget = self.budget
        limits = [eager_ms / budget.speedup if budget.speedup else np.inf, budget.latency_ms or np.inf]
        return float(min(limits))
