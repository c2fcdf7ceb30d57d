"""Store the word embedding as the product of two small matrices."""

from dataclasses import replace
from typing import Any, cast, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from penjing.blueprint import Blueprint
from penjing.errors import InputError
from penjing.maths.lowrank import low_rank
from penjing.model.checkpoint import blueprint_of, build
from penjing.model.modeling_penjing import PenjingConfig, PenjingPreTrainedModel
from penjing.steps.step import Step
from penjing.tasks.task import Examples

Counts = NDArray[np.int64]


@final
class Factorise(Step[Counts, Blueprint]):
    """Give the word table a rank; with `weighted`, the error of a token counts as often as the texts hold it.

    Nothing is refitted here: `distill` trains both matrices afterwards.
    """

    name = "factorise"

    def __init__(self, rank: int, weighted: bool = True) -> None:
        self.rank, self.weighted = rank, weighted

    def observe(self, model: PenjingPreTrainedModel, data: Examples) -> Counts:
        """How often the model reads each token in the texts (V,)."""
        return np.bincount(data.encoded.ids, minlength=model.config.vocab_size)

    def plan(self, blueprint: Blueprint, evidence: Counts) -> Blueprint:
        """The rank; `apply` refuses one that the table does not have."""
        return replace(blueprint, rank=self.rank)

    def apply(self, model: PenjingPreTrainedModel, plan: Blueprint, evidence: Counts) -> PenjingPreTrainedModel:
        """One is added to each count: a token that other texts may hold counts a little."""
        return factorise(model, plan.rank, torch.from_numpy(evidence + 1) if self.weighted else None)


@torch.no_grad()
def factorise(model: PenjingPreTrainedModel, rank: int, weights: Tensor | None = None) -> PenjingPreTrainedModel:
    """A new model whose word table is a product (V, rank) · (rank, E): of all of that rank the nearest, and at rank E exact.

    weights: (V,), how much the squared error of each token's row counts, for example how often texts hold it; None: all the same
    (Acharya et al. 2019; Hsu et al. 2022, FWSVD). A table that has a rank already is multiplied out first.
    """
    blueprint, embeddings = blueprint_of(model), cast(Any, model.base_model).embeddings
    if not 1 <= rank <= blueprint.embedding:
        raise InputError(f"rank: {rank} is not allowed; the embedding is {blueprint.embedding} wide, so give 1 to {blueprint.embedding}")
    if weights is not None and (weights.shape != (blueprint.vocabulary,) or not bool((weights >= 0).all())):
        raise InputError(f"rank: weights of shape {tuple(weights.shape)}; give {blueprint.vocabulary}, one a token, none negative")
    table: Tensor = embeddings.word.weight
    if embeddings.word_map is not None:
        table = table @ embeddings.word_map.weight.T
    factors = low_rank(table, table.new_ones(len(table)) if weights is None else weights.to(table.device), rank)
    place = "embeddings" if blueprint.head == "none" else "encoder.embeddings"
    result = build(replace(blueprint, rank=rank), cast(PenjingConfig, model.config))
    result.load_state_dict(model.state_dict() | {f"{place}.word.weight": factors[0], f"{place}.word_map.weight": factors[1].T})
    return result.train(model.training)
