"""A plan: everything that is decided of a model before a tensor is moved, what it costs, and its carrying out."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from penjing.blueprint import Blueprint
from penjing.maths.stored import Scheme
from penjing.model.building import blueprint_of
from penjing.model.coded import Coded
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.model.surgery import cut
from penjing.search.costs import CostTable
from penjing.selection import Selection
from penjing.steps.bits.gptq import round_model
from penjing.steps.reshape.factorise import factorise
from penjing.text.encoded import Encoded


@dataclass(frozen=True)
class Plan:
    """What is kept, the rank of the word embedding (0: as it is), and how each matrix is stored, by the names that it has once it is cut and
    factorised (none: in float)."""

    selection: Selection
    rank: int = 0
    schemes: Mapping[str, Scheme] = field(default_factory=dict)

    def blueprint(self, base: Blueprint) -> Blueprint:
        """The sizes that are left of `base`; moves no tensor."""
        kept = self.selection.plan(base)
        return replace(kept, rank=self.rank) if self.rank else kept


@dataclass(frozen=True)
class Cost:
    """Of a plan: what its layers cost in the unit of the table (milliseconds, or multiply-accumulates), and the bytes of its weights."""

    layers: float
    bytes: int


def cost(plan: Plan, base: Blueprint, table: CostTable, bits: int = 32) -> Cost:
    """What a plan costs, in microseconds of thought: the sum of its blocks, and its weights in so many bits."""
    blueprint = plan.blueprint(base)
    return Cost(table.cost(blueprint), replace(blueprint, bits=bits).bytes)


def apply(
    model: PenjingPreTrainedModel, plan: Plan, texts: Encoded, seed: int = 0
) -> tuple[PenjingPreTrainedModel, Mapping[str, Coded]]:  # fmt: skip
    """A new model as the plan says, and the codes of what is stored in few bits: cut, then factorised, then rounded.

    Args:
        texts: that rounding looks at; nothing else does, and nothing is trained or repaired.
    """
    result = cut(model, plan.selection)
    if plan.rank:
        result = factorise(result, plan.rank)
    if not plan.schemes:
        return result, {}
    return round_model(result, texts, dict(plan.schemes), seed)


def whole(model: PenjingPreTrainedModel) -> Plan:
    """The plan that leaves everything."""
    return Plan(Selection.all(blueprint_of(model)))
