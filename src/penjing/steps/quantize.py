"""Real int8: calibrate the activations; the integers themselves are written at export."""

from dataclasses import replace
from typing import final

from penjing.blueprint import Blueprint
from penjing.engines.calibrate import Calibration, calibrate
from penjing.engines.graph import Ranges
from penjing.modeling_penjing import PenjingPreTrainedModel
from penjing.steps.step import Step
from penjing.tasks.task import Examples


@final
class Quantize(Step[Ranges, Blueprint]):
    """Post-training int8: weights per channel, activations per tensor over calibrated ranges."""

    name = "quantize"

    def __init__(self, calibration: Calibration = "mse") -> None:
        self.calibration = calibration

    def observe(self, model: PenjingPreTrainedModel, data: Examples) -> Ranges:
        return calibrate(model, data.encoded, self.calibration)

    def plan(self, blueprint: Blueprint, evidence: Ranges) -> Blueprint:
        return replace(blueprint, bits=8)

    def apply(self, model: PenjingPreTrainedModel, plan: Blueprint, evidence: Ranges) -> PenjingPreTrainedModel:
        """The model itself: its float weights stay trainable, the engine's file holds the integers."""
        return model
