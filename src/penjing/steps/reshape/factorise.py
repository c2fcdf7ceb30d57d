"""Factorisation of the word embedding into the product of two small matrices."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from penjing.blueprint import Blueprint
from penjing.errors import InputError
from penjing.files.options import option
from penjing.maths.lowrank import low_rank
from penjing.model.building import blueprint_of, build
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.model.watch import encoder_of
from penjing.steps.settings import REWRITES, Effects, Settings, Trait, effects
from penjing.steps.stage import Context, Note, Stage, Work, loaded
from penjing.steps.step import Step
from penjing.tasks.task import Examples

Counts = NDArray[np.int64]


@final
@dataclass(frozen=True)
class FactoriseSettings(Settings):
    """Settings of factorisation. rank: of the word embedding; 0: the rank that the requested size leaves room for."""

    name = "factorise"
    paper = "Acharya et al. 2019; Hsu et al. 2022 (FWSVD)"
    when = "Where the embedding table is too large in one piece, and distillation follows."

    rank: int = option(0, "Of the word embedding; 0: what the size that is asked leaves room for.")

    def __post_init__(self) -> None:
        if self.rank < 0:
            raise InputError(f"rank: {self.rank} is not allowed; give at least 1, or 0 for what the size leaves room for")

    def effects(self, taught: bool) -> Effects:
        return effects(makes=[Trait.CUTS], undoes=list(REWRITES))

    def stages(self, recipe: Sequence[Settings]) -> Sequence[Stage[Any]]:
        return [FactoriseWords(self)]

    @property
    def cuts(self) -> bool:
        """Whether the rank is given, and not decided by the requested size."""
        return self.rank > 0


@final
class FactoriseWords(Stage[Note]):
    """The stage that factorises the word embedding."""

    name = "factorise"
    record = Note

    def __init__(self, settings: FactoriseSettings) -> None:
        self.settings = settings

    def rank(self, work: Work, context: Context) -> int:
        """The requested rank, or that which the requested size leaves room for."""
        return self.settings.rank or context.planner.rank(work, context)

    def wanted(self, work: Work, context: Context) -> bool:
        return self.rank(work, context) > 0

    def make(self, work: Work, context: Context, folder: Path) -> Note:
        step = Factorise(self.rank(work, context))
        blueprint = blueprint_of(work.model)
        counts = step.observe(work.model, work.data.train)
        model = step.apply(work.model, step.plan(blueprint, counts), counts)
        note = f"word embedding of rank {step.rank} in place of {blueprint.embedding}"
        return context.keep(replace(work, model=model), folder, note)

    def load(self, work: Work, context: Context, record: Note, folder: Path) -> Work:
        return loaded(work, folder)


@final
class Factorise(Step[Counts, Blueprint]):
    """The step of factorisation; with `weighted`, the error of a token counts as often as the texts contain it.

    Nothing is refitted here: `distill` trains both factors afterwards.
    """

    name = "factorise"

    def __init__(self, rank: int, weighted: bool = True) -> None:
        self.rank = rank
        self.weighted = weighted

    def observe(self, model: PenjingPreTrainedModel, data: Examples) -> Counts:
        """Token counts of the texts (V,)."""
        return np.bincount(data.encoded.ids, minlength=model.config.vocab_size)

    def plan(self, blueprint: Blueprint, evidence: Counts) -> Blueprint:
        """The blueprint with the rank; `apply` refuses a rank that the table does not have."""
        return replace(blueprint, rank=self.rank)

    def apply(self, model: PenjingPreTrainedModel, plan: Blueprint, evidence: Counts) -> PenjingPreTrainedModel:
        """The factorised model. One is added to each count: a token that other texts may contain counts a little."""
        return factorise(model, plan.rank, torch.from_numpy(evidence + 1).double() if self.weighted else None)


def factorise(model: PenjingPreTrainedModel, rank: int, weights: Tensor | None = None) -> PenjingPreTrainedModel:
    """A new model with a factorised word table (V, rank) · (rank, E), the nearest of that rank; exact at rank E.

    weights: (V,), how much the squared error of each token's row counts, for example how often texts hold it; None: all the same
    (Acharya et al. 2019; Hsu et al. 2022, FWSVD). A table that has a rank already is multiplied out first.
    """
    return factors(model, rank, weights, low_rank)


Factors = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]
"""A table (V, E), the importance of its rows (V,) and a rank → (V, rank) and (rank, E)."""


@torch.no_grad()
def factors(model: PenjingPreTrainedModel, rank: int, weights: Tensor | None, split: Factors) -> PenjingPreTrainedModel:
    """A new model whose word table is the product of two matrices, which `split` makes of it."""
    blueprint = blueprint_of(model)
    embeddings = encoder_of(model).embeddings
    if not 1 <= rank <= blueprint.embedding:
        raise InputError(f"rank: {rank} is not allowed; the embedding is {blueprint.embedding} wide, so give 1 to {blueprint.embedding}")
    if weights is not None and (weights.shape != (blueprint.vocabulary,) or not bool((weights >= 0).all())):
        raise InputError(f"rank: weights of shape {tuple(weights.shape)}; give {blueprint.vocabulary}, one a token, none negative")
    table: Tensor = embeddings.word.weight
    if embeddings.word_map is not None:
        table = table @ embeddings.word_map.weight.T
    word, word_map = split(table, table.new_ones(len(table)) if weights is None else weights.to(table.device), rank)
    place = "embeddings" if blueprint.head.bare else "encoder.embeddings"
    result = build(replace(blueprint, rank=rank), model.config)
    result.load_state_dict(model.state_dict() | {f"{place}.word.weight": word, f"{place}.word_map.weight": word_map.T})
    return result.train(model.training)
