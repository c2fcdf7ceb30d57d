"""Store the word embedding as the product of two small matrices."""

from dataclasses import replace
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray

from penjing.blueprint import Blueprint
from penjing.modeling_penjing import PenjingPreTrainedModel
from penjing.steps.step import Step
from penjing.surgery import factorise
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
