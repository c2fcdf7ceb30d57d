"""The base class of a compression step: observe, plan, apply."""

from abc import ABC, abstractmethod
from typing import Generic, TypeVar

from penjing.blueprint import Blueprint
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.steps.settings import REWRITES, Effects, Trait, effects
from penjing.tasks.task import Examples

Evidence = TypeVar("Evidence")
Plan = TypeVar("Plan")


class Step(ABC, Generic[Evidence, Plan]):
    """observe(model, data) → evidence; plan(blueprint, evidence) → plan (pure); apply(model, plan, evidence) → model.

    A plan is a `Blueprint`, or a `Selection` where it matters which parts are kept. No step modifies its input. A step that
    anybody defines may stand in a recipe as it is.
    """

    name: str

    @property
    def effects(self) -> Effects:
        """The step's effects on the traits that earlier steps made: by default it gives every weight a new value."""
        return effects(makes=[Trait.CUTS], undoes=list(REWRITES))

    @abstractmethod
    def observe(self, model: PenjingPreTrainedModel, data: Examples) -> Evidence:
        """Collect the evidence, such as scores or activation ranges, of the model on data."""

    @abstractmethod
    def plan(self, blueprint: Blueprint, evidence: Evidence) -> Plan:
        """The plan made from the evidence; pure, no tensor is moved."""

    @abstractmethod
    def apply(self, model: PenjingPreTrainedModel, plan: Plan, evidence: Evidence) -> PenjingPreTrainedModel:
        """A new model with the plan carried out."""
