"""Random projection of the word embedding: a table of a lower rank, drawn at random, and the map that lifts it back."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast, final

import numpy as np
import torch
from torch import Tensor

from penjing.blueprint import Blueprint
from penjing.errors import InputError
from penjing.files.options import option
from penjing.maths.projection import KINDS, Kind, lifted, projection
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.steps.reshape.factorise import Counts, factors
from penjing.steps.settings import REWRITES, Effects, Settings, Trait, check_name, effects
from penjing.steps.stage import ApplyStep, Stage
from penjing.steps.step import Step
from penjing.tasks.task import Examples


@final
@dataclass(frozen=True)
class ProjectSettings(Settings):
    """Settings of random projection. rank: of the word embedding."""

    name = "project"
    paper = "Johnson & Lindenstrauss 1984; Achlioptas 2003 (sparse)"
    when = (
        "To see what factorise is worth: at equal rank it is nearer. Without a look at the table, as for one that is still to be trained."
    )

    rank: int = option(128, "Of the word embedding.", least=1)
    kind: str = option("gaussian", "How the projection is drawn.", allowed=KINDS)
    seed: int = 0

    def __post_init__(self) -> None:
        check_name("kind", self.kind, KINDS)
        if self.rank < 1:
            raise InputError(f"rank: {self.rank} is not allowed; give at least 1")

    def effects(self, taught: bool) -> Effects:
        return effects(makes=[Trait.CUTS], undoes=list(REWRITES))

    def stages(self, recipe: Sequence[Settings]) -> Sequence[Stage[Any]]:
        return [ApplyStep(Project(self.rank, cast(Kind, self.kind), self.seed))]

    @property
    def cuts(self) -> bool:
        return True


@final
class Project(Step[Counts, Blueprint]):
    """The step of random projection; the lift is the least-squares one, where a token counts as often as the texts contain it.

    Nothing is refitted here: `distill` trains both factors afterwards.
    """

    name = "project"

    def __init__(self, rank: int, kind: Kind = "gaussian", seed: int = 0) -> None:
        self.rank = rank
        self.kind: Kind = kind
        self.seed = seed

    def observe(self, model: PenjingPreTrainedModel, data: Examples) -> Counts:
        """Token counts of the texts (V,)."""
        return np.bincount(data.encoded.ids, minlength=model.config.vocab_size)

    def plan(self, blueprint: Blueprint, evidence: Counts) -> Blueprint:
        """The blueprint with the rank; `apply` refuses a rank that the table does not have."""
        return replace(blueprint, rank=self.rank)

    def apply(self, model: PenjingPreTrainedModel, plan: Blueprint, evidence: Counts) -> PenjingPreTrainedModel:
        """The projected model. One is added to each count: a token that other texts may contain counts a little."""

        def split(table: Tensor, importance: Tensor, rank: int) -> tuple[Tensor, Tensor]:
            P = projection(table.shape[1], rank, self.kind, torch.Generator().manual_seed(self.seed))
            return lifted(table, importance, P)

        return factors(model, plan.rank, torch.from_numpy(evidence + 1).double(), split)
