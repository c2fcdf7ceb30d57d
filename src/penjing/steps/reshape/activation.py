"""Activation swap: another activation in the feed-forward blocks, such as ReLU in place of GELU."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast, final, get_args

from penjing.blueprint import Blueprint
from penjing.files.options import option
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.steps.reshape.attention import Mend, chosen_layers, mended, with_weights
from penjing.steps.settings import REWRITES, Effects, Settings, Trait, check_name, effects
from penjing.steps.stage import ApplyStep, Stage
from penjing.steps.step import Step
from penjing.tasks.task import Examples
from penjing.text.encoded import Encoded

Activation = Literal["relu", "gelu", "gelu_pytorch_tanh", "quick_gelu"]
"""ReLU, GELU, and its approximations by a hyperbolic tangent and by a sigmoid (Hendrycks & Gimpel 2016, section 2)."""


@final
@dataclass(frozen=True)
class ActivationSettings(Settings):
    """Settings of an activation swap. to: the new activation. layers: which, as "1-3,6"; "": all. repair: before any training."""

    name = "activation"
    paper = "Mirzadeh et al. 2024 (ReLU); Hendrycks & Gimpel 2016 (fast GELU)"
    when = "Where an engine is slow in GELU, or activations are to be smoothed or zero (relu). Distil afterwards; measure both."

    to: str = option("relu", "The activation of the feed-forward blocks.", allowed=get_args(Activation))
    layers: str = option("", "Which layers, as 1-3,6; all where it is left out.")
    repair: str = option("weights", "Before any training: the closing layers by least squares.", allowed=get_args(Mend))
    texts: int = option(500, "Training texts that repair looks at.", least=1)

    def __post_init__(self) -> None:
        check_name("to", self.to, get_args(Activation))
        check_name("repair", self.repair, get_args(Mend))

    def effects(self, taught: bool) -> Effects:
        return effects(makes=[Trait.CUTS], undoes=list(REWRITES))

    def stages(self, recipe: Sequence[Settings]) -> Sequence[Stage[Any]]:
        return [ApplyStep(SwapActivation(cast(Activation, self.to), self.layers, cast(Mend, self.repair)), self.texts)]

    @property
    def cuts(self) -> bool:
        return True


@final
class SwapActivation(Step[Encoded, Blueprint]):
    """The step of an activation swap; with repair, the matrices that close the blocks are refitted to the model's own states."""

    name = "activation"

    def __init__(self, to: Activation, layers: str = "", mend: Mend = "weights") -> None:
        self.to: Activation = to
        self.layers = layers
        self.mend: Mend = mend

    def observe(self, model: PenjingPreTrainedModel, data: Examples) -> Encoded:
        """The texts that repair looks at."""
        return data.encoded

    def plan(self, blueprint: Blueprint, evidence: Encoded) -> Blueprint:
        """The blueprint with the activation."""
        chosen = chosen_layers(self.layers, blueprint)
        return blueprint.with_layers(
            tuple(replace(layer, activation=self.to) if i in chosen else layer for i, layer in enumerate(blueprint.layers))
        )

    def apply(self, model: PenjingPreTrainedModel, plan: Blueprint, evidence: Encoded) -> PenjingPreTrainedModel:
        """The model of the plan; where that changes no activation it is a copy of `model`."""
        return mended(with_weights(model, plan), model, evidence, self.mend)
