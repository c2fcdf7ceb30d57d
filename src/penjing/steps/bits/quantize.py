"""Real int8: calibrate the activations; the integers themselves are written at export."""

import math
from dataclasses import dataclass, replace
from typing import Literal, cast, final, get_args

from penjing.blueprint import Blueprint
from penjing.engines.onnx.export import Rounding
from penjing.engines.onnx.graph import Ranges
from penjing.errors import InputError
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.steps.bits.calibrate import Calibration, calibrate
from penjing.steps.step import Step
from penjing.tasks.task import Examples

CALIBRATIONS = ("measured", *get_args(Calibration))


REAL = ("any", "dynamic", "static")
"""Schemes of real int8."""


@dataclass(frozen=True)
class QuantizeSettings:
    """Real int8, computed in integers by the engine.

    scheme: dynamic (activations rounded as they come), static (over calibrated ranges), any (whichever runs fastest and keeps the
    quality). texts: how many training texts calibrate, by which calibration (measured: whichever moves the answers least). training: quantization-aware, from the float
    teacher. divergence: nats that rounding may move the answers by on average; where it moves them further, the layers that do the
    most harm are left in float. smooth: how much of the activations' outliers moves into the weights (SmoothQuant's α); 0: none.
    """

    scheme: str = "any"
    texts: int = 512
    calibration: Calibration | Literal["measured"] = "measured"
    training: bool = False
    divergence: float = 0.02
    smooth: float = 0.0

    def __post_init__(self) -> None:
        for name, value, allowed in (("scheme", self.scheme, REAL), ("calibration", self.calibration, CALIBRATIONS)):
            if value not in allowed:
                raise InputError(f"--{name}: {value!r} is none; allowed are {', '.join(allowed)}")
        if not 0 <= self.divergence < math.inf:
            raise InputError(f"--divergence: {self.divergence} is out of range; give nats, at least 0")
        if not 0 <= self.smooth <= 1:
            raise InputError(f"--smooth: {self.smooth} is out of range; give α from 0 to 1, as 0.5")

    @property
    def rounding(self) -> Rounding | None:
        """The scheme that forms must have; None: any."""
        return None if self.scheme == "any" else cast(Rounding, self.scheme)


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
