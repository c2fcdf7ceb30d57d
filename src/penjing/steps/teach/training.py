"""The base class of training steps: distillation, by itself or while a model is pruned or quantized."""

from abc import abstractmethod
from typing import Generic

from penjing.blueprint import Blueprint
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.steps.step import Evidence, Step
from penjing.training.taught import Taught


class TrainingStep(Step[Evidence, Blueprint], Generic[Evidence]):
    """The base class of a step that trains a copy of the model; its plan is the unchanged blueprint."""

    def plan(self, blueprint: Blueprint, evidence: Evidence) -> Blueprint:
        """The unchanged blueprint: what training changes of it is known only afterwards."""
        return blueprint

    def apply(self, model: PenjingPreTrainedModel, plan: Blueprint, evidence: Evidence) -> PenjingPreTrainedModel:
        """The trained model that `teach` returns."""
        return self.teach(model, evidence).model

    @abstractmethod
    def teach(self, model: PenjingPreTrainedModel, evidence: Evidence) -> Taught:
        """Train a copy of `model`."""
