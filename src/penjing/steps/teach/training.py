"""The base of the steps that train: distillation, by itself or while a model is cut or rounded."""

from abc import abstractmethod
from typing import Generic

from penjing.blueprint import Blueprint
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.steps.step import Evidence, Step
from penjing.training.taught import Taught


class TrainingStep(Step[Evidence, Blueprint], Generic[Evidence]):
    """A step that trains a copy of the model; what it plans is the blueprint as it is."""

    def plan(self, blueprint: Blueprint, evidence: Evidence) -> Blueprint:
        """The identity: what training changes of the blueprint is known only afterwards."""
        return blueprint

    def apply(self, model: PenjingPreTrainedModel, plan: Blueprint, evidence: Evidence) -> PenjingPreTrainedModel:
        """The model that `teach` gives."""
        return self.teach(model, evidence).model

    @abstractmethod
    def teach(self, model: PenjingPreTrainedModel, evidence: Evidence) -> Taught:
        """Train a copy of `model`."""
