"""A compression plan: selection, rank and storage schemes, decided before a tensor is moved; its cost, and its application."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from penjing.blueprint import Blueprint
from penjing.maths.stored import Scheme
from penjing.model.building import blueprint_of
from penjing.model.coded import Coded
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.model.surgery import cut
from penjing.search.costs import Costs
from penjing.selection import Selection
from penjing.steps.bits.gptq import round_model
from penjing.steps.reshape.factorise import factorise
from penjing.text.encoded import Encoded


@dataclass(frozen=True)
class Plan:
    """A plan.

    selection: the parts that are kept. rank: of the word embedding; 0: as it is. schemes: the storage scheme of each matrix, by its name
    in the cut and factorised model; those without one stay in float.
    """

    selection: Selection
    rank: int = 0
    schemes: Mapping[str, Scheme] = field(default_factory=dict)

    def blueprint(self, base: Blueprint) -> Blueprint:
        """The blueprint of the model that the plan makes of `base`; moves no tensor."""
        kept = self.selection.plan(base)
        return replace(kept, rank=self.rank) if self.rank else kept


@dataclass(frozen=True)
class Cost:
    """The cost of a plan: of its layers, in the table's unit (milliseconds, or multiply-accumulates), and the bytes of its weights."""

    layers: float
    bytes: int


def cost(plan: Plan, base: Blueprint, table: Costs, bits: int = 32) -> Cost:
    """The cost of a plan without applying it: the sum of its blocks, and its weights in so many bits."""
    blueprint = plan.blueprint(base)
    return Cost(table.cost(blueprint), replace(blueprint, bits=bits).bytes)


def apply(model: PenjingPreTrainedModel, plan: Plan, texts: Encoded, seed: int = 0) -> tuple[PenjingPreTrainedModel, Mapping[str, Coded]]:
    """A new model with the plan applied (cut, then factorised, then rounded), and the codes of its low-bit matrices.

    Args:
        texts: calibration texts of rounding; nothing else uses them, and nothing is trained or repaired.
    """
    result = cut(model, plan.selection)
    if plan.rank:
        result = factorise(result, plan.rank)
    if not plan.schemes:
        return result, {}
    return round_model(result, texts, dict(plan.schemes), seed)


def whole(model: PenjingPreTrainedModel) -> Plan:
    """The identity plan, which keeps everything."""
    return Plan(Selection.all(blueprint_of(model)))
