"""Dropped tokens: from layer to layer only the tokens go on that the first token attends to most."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from penjing.blueprint import Blueprint
from penjing.errors import InputError
from penjing.files.options import option
from penjing.model.building import build
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.model.run import GRADIENT_TOKENS, batches
from penjing.model.watch import layers_of, watching_inputs
from penjing.steps.settings import REWRITES, Effects, Settings, Trait, effects
from penjing.steps.stage import ApplyStep, Stage
from penjing.steps.step import Step
from penjing.tasks.task import Examples

Masses = NDArray[np.float64]
"""(layers, 100): the part of the first token's attention that the most significant 1 %, 2 %, … 100 % of a text's tokens get, on average."""
BATCH = 32
"""The largest number of texts in a batch."""


@final
@dataclass(frozen=True)
class TokensSettings(Settings):
    """Settings of dropped tokens. mass: what the tokens that go on hold of the first token's attention; percent: a fixed part instead."""

    name = "tokens"
    paper = "Goyal et al. 2020 (PoWER-BERT), section 3; Liang et al. 2022 (EViT), section 3.2"
    when = "Where long texts get one answer each. Distil afterwards, by answers or `first`: states of dropped tokens cannot be compared."

    mass: float = option(0.9, "Part of the first token's attention that the tokens which go on hold, on average, layer by layer.", most=1)
    percent: int = option(0, "Of the tokens that go on from each layer; 0: as `mass` says.", most=100)
    texts: int = option(500, "Training texts that are looked at.", least=1)

    def __post_init__(self) -> None:
        if not 0 < self.mass <= 1:
            raise InputError(f"mass: {self.mass} is out of range; give the part that is kept, above 0 and at most 1")
        if not 0 <= self.percent <= 100:
            raise InputError(f"percent: {self.percent} is out of range; give 1 to 100, or 0 for what mass says")

    def effects(self, taught: bool) -> Effects:
        return effects(makes=[Trait.CUTS], undoes=list(REWRITES))

    def stages(self, recipe: Sequence[Settings]) -> Sequence[Stage[Any]]:
        return [ApplyStep(DropTokens(self.mass, self.percent), self.texts)]

    @property
    def cuts(self) -> bool:
        return True


@final
class DropTokens(Step[Masses, Blueprint]):
    """The step of dropped tokens; weights stay as they are.

    By `mass`, each layer keeps the least percent of its tokens that holds so much of the first token's attention on average; layers
    that share their weights keep what the neediest of them does. The last layer keeps all: nothing follows it.
    """

    name = "tokens"

    def __init__(self, mass: float = 0.9, percent: int = 0) -> None:
        self.mass = mass
        self.percent = percent

    @torch.no_grad()
    def observe(self, model: PenjingPreTrainedModel, data: Examples) -> Masses:
        """The masses of the model as it is; ones where a layer has no significance."""
        layers = layers_of(model)
        masses = np.zeros((len(layers), 100))

        def enter(i: int, x: Tensor) -> None:
            attention = layers[i].attention
            if attention.heads and attention.form == "full":
                held = attention.map(x)[:, :, 0].mean(1).sort(1, descending=True).values.cumsum(1)  # (B, S)
                kept = (torch.arange(1, 101) * x.shape[1] + 99) // 100
                masses[i] += held[:, kept - 1].double().sum(0).numpy()
            else:
                masses[i] += len(x)

        with watching_inputs(enumerate(layers), enter):
            for _, feeds in batches(model, data.encoded, BATCH, GRADIENT_TOKENS):
                model(**feeds)
        return masses / max(1, len(data))

    def plan(self, blueprint: Blueprint, evidence: Masses) -> Blueprint:
        """The blueprint with the percents; an `InputError` where the head reads more than the first token."""
        if any(layer.tokens < 100 for layer in blueprint.layers):
            raise InputError("tokens: the model drops tokens already; start from one that keeps them all")
        percents = [100] * len(blueprint.layers)
        kept = 100.0  # the percent of the text's tokens that a layer reads
        for i, layer in enumerate(blueprint.layers[:-1]):
            if layer.heads and layer.attention == "full":
                wanted = 1 + int(np.searchsorted(evidence[i], self.mass - 1e-9))  # of the text's tokens
                percents[i] = self.percent or min(100, max(1, round(100 * wanted / kept)))
                kept *= percents[i] / 100
        for owner in blueprint.distinct:
            members = [i for i in blueprint.sharing(owner) if i < len(percents) - 1] or [owner]
            for i in blueprint.sharing(owner):
                percents[i] = max(percents[j] for j in members)
        return blueprint.with_layers(
            tuple(replace(layer, tokens=percent) for layer, percent in zip(blueprint.layers, percents, strict=True))
        )

    def apply(self, model: PenjingPreTrainedModel, plan: Blueprint, evidence: Masses) -> PenjingPreTrainedModel:
        """The model with the same weights, whose layers drop tokens."""
        result = build(plan, model.config)
        result.load_state_dict(model.state_dict())
        return result.train(model.training)
