"""A step of one's own, defined here: it takes part in a recipe, and what it makes is exported, reported and loaded again."""

from collections.abc import Callable
from typing import Any, final

import numpy as np
import pytest
import torch

from penjing.blueprint import Blueprint
from penjing.errors import InputError
from penjing.model.checkpoint import read
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.model.surgery import copy_of
from penjing.steps.bits.store import StoreSettings
from penjing.steps.step import Step
from penjing.tasks.task import Examples


@final
class Coarsen(Step[float, Blueprint]):
    """Every matrix of the encoder on a grid of so many steps of its largest weight."""

    name = "coarsen"

    def __init__(self, steps: int = 16) -> None:
        self.steps = steps

    def observe(self, model: PenjingPreTrainedModel, data: Examples) -> float:
        return float(len(data))

    def plan(self, blueprint: Blueprint, evidence: float) -> Blueprint:
        return blueprint

    @torch.no_grad()
    def apply(self, model: PenjingPreTrainedModel, plan: Blueprint, evidence: float) -> PenjingPreTrainedModel:
        result = copy_of(model)
        for p in result.parameters():
            if p.ndim == 2:
                grid = p.abs().max() / self.steps
                p.copy_((p / grid).round() * grid)
        return result


def test_it_is_carried_out_in_its_place(shop: Any, steps: Callable[[Any], list[str]]) -> None:
    report = shop.compress(recipe=[Coarsen(4)])
    assert steps(report) == ["baseline", "coarsen", "export", "choose", "verify"]
    model = read(shop.out / "model")
    assert all(len(p.unique()) <= 9 for p in model.parameters() if p.ndim == 2 and p.numel() > 9)
    assert np.isfinite([answer["score"] for answer in shop.answers(["good film", "a bad film"])]).all()


def test_it_says_what_it_would_undo(shop: Any) -> None:
    with pytest.raises(InputError, match="recipe: coarsen would undo the codes of few bits of store"):
        shop.compress(recipe=[StoreSettings(), Coarsen()])
