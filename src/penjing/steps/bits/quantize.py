"""Int8 quantization: calibration of the activations, or training for it; the integers are written at export."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast, final, get_args

import numpy as np

from penjing.engines.clock.machine import safe_weight_bits
from penjing.engines.form import Rounding
from penjing.errors import InputError
from penjing.files.options import option
from penjing.steps.bits.calibrate import Calibration, calibrate
from penjing.steps.bits.qat import QuantizationAware
from penjing.steps.bits.sensitivity import best_calibration, left_float
from penjing.steps.bits.smooth import smooth
from penjing.steps.settings import Effects, Settings, Trait, check_name, effects
from penjing.steps.stage import Context, Note, Stage, Work, loaded
from penjing.steps.teach.distill import Distill
from penjing.steps.teach.distillation import Rider
from penjing.training.taught import Taught

CALIBRATIONS = ("measured", *get_args(Calibration))

RANGES = ("calibrated", "learned")
REAL = ("any", "dynamic", "static")
"""Schemes of int8 that an engine computes in."""
SENSITIVITY_TEXTS = 128
"""The largest number of held-out texts that int8 is compared with float on."""


@dataclass(frozen=True)
class QuantizeSettings(Rider):
    """Settings of int8 quantization that the engine computes in.

    scheme: dynamic (activations rounded as they come), static (over calibrated ranges), any (whichever runs fastest and keeps the
        quality).
    texts: how many training texts calibrate.
    calibration: method of the ranges; measured: whichever moves the answers least.
    training: quantization-aware training, from the float teacher.
    divergence: nats that rounding may move the answers by on average; where it moves them further, the layers that do the most harm
        are left in float.
    ranges: calibrated, or learned in the training for the static form (`QuantizationAware`).
    smooth: how much of the activations' outliers moves into the weights (SmoothQuant's α, Xiao et al. 2023); 0: none.
    """

    name = "quantize"
    paper = "Jacob et al. 2018; Zafrir et al. 2019 (Q8BERT, in training); Esser et al. 2020 (LSQ, learned ranges); Xiao et al. 2023 (SmoothQuant)"
    when = "Nearly always: it is faster and a quarter of the bytes, for little quality."
    teaching = "qat"

    scheme: str = option("any", "How activations are rounded.", allowed=REAL)
    texts: int = option(512, "Training texts that activations are calibrated on.", least=1)
    calibration: Calibration | Literal["measured"] = option(
        "measured", "Of int8's activations; measured: the best of three.", allowed=CALIBRATIONS
    )
    training: bool = False
    divergence: float = option(0.02, "Nats that int8 may move the answers by; the layers that do the most harm stay in float.")
    smooth: float = option(0.0, "How much of int8's activation outliers moves into the weights: SmoothQuant's alpha, 0.5 is the usual.")
    ranges: str = option("calibrated", "Of static int8's activations; learned: by their gradients, in qat-int8.", allowed=RANGES)

    def __post_init__(self) -> None:
        check_name("scheme", self.scheme, REAL)
        check_name("calibration", self.calibration, CALIBRATIONS)
        check_name("ranges", self.ranges, RANGES)
        if self.ranges == "learned" and (not self.training or self.scheme == "dynamic"):
            raise InputError("ranges: they are learned in the training for static int8; give qat-int8 (training: true), or leave it out")
        if not 0 <= self.divergence < math.inf:
            raise InputError(f"divergence: {self.divergence} is out of range; give nats, at least 0")
        if not 0 <= self.smooth <= 1:
            raise InputError(f"smooth: {self.smooth} is out of range; give α from 0 to 1, as 0.5")
        if self.smooth and self.training:
            raise InputError("smooth: a model that was trained rounded is fixed by then; leave it out, or smooth in a run before")

    @property
    def rounding(self) -> Rounding | None:
        """The rounding scheme that deployment forms must have; None: any."""
        return None if self.scheme == "any" else cast(Rounding, self.scheme)

    def effects(self, taught: bool) -> Effects:
        """Effects: with `training` it takes the training over; smoothing gives weights new values."""
        if self.training:
            return effects([Trait.ENCODER, Trait.TRAINING], takes=[Trait.TRAINING], makes=[Trait.RANGES])
        return effects(undoes=[Trait.CODES, Trait.RANGES] if self.smooth else [])

    def trains(self, taught: bool) -> bool:
        return self.training and taught

    def stages(self, recipe: Sequence[Settings]) -> Sequence[Stage[Any]]:
        return [*([SmoothWeights(self)] if self.smooth else []), Calibrate(self)]

    def around(self, distill: Distill, work: Work, context: Context) -> QuantizationAware:
        """The step of quantization-aware training around `distill`."""
        return QuantizationAware(
            distill, context.calibration(work, self.texts), safe_weight_bits(), calibration=self.calibration,
            dynamic=self.scheme == "dynamic", learned=self.ranges == "learned",
        )  # fmt: skip

    def told(self, taught: Taught) -> str:
        return f"before rounding; {taught.history.steps} steps, {taught.history.best:.2f} in int8 on texts held out"


@final
class SmoothWeights(Stage[Note]):
    """The stage of smoothing: outliers of the activations move into the weights."""

    name = "smooth"
    record = Note

    def __init__(self, settings: QuantizeSettings) -> None:
        self.settings = settings

    def wanted(self, work: Work, context: Context) -> bool:
        return context.int8

    def make(self, work: Work, context: Context, folder: Path) -> Note:
        settings = self.settings
        model = smooth(work.model, context.calibration(work, settings.texts).encoded, settings.smooth)
        return context.keep(replace(work, model=model), folder, f"the same function, smoothed ({settings.smooth})")

    def load(self, work: Work, context: Context, record: Note, folder: Path) -> Work:
        return loaded(work, folder)


@dataclass(frozen=True)
class RangesNote(Note):
    """The record of a calibration.

    ranges: activation ranges of the linear layers' inputs. float_layers: linear layers that stay in float. divergence: nats that the
    answers move by.
    """

    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    float_layers: Sequence[str] = ()
    divergence: float | None = None


@final
class Calibrate(Stage[RangesNote]):
    """The stage of calibration: activation ranges, learned or calibrated, and the layers that must stay in float."""

    name = "quantize"
    record = RangesNote

    def __init__(self, settings: QuantizeSettings) -> None:
        self.settings = settings

    def wanted(self, work: Work, context: Context) -> bool:
        return context.int8

    def make(self, work: Work, context: Context, folder: Path) -> RangesNote:
        if work.ranges is not None:
            return RangesNote(f"{len(work.ranges)} inputs, in the ranges of the training", ranges=work.ranges)
        settings = self.settings
        model = work.model
        judging = context.judging(work)
        calibration_texts = context.calibration(work, settings.texts)
        held_out = judging.take(np.arange(len(judging))[:SENSITIVITY_TEXTS])
        answers = work.data.task.answer_losses()
        dynamic = settings.scheme == "dynamic"
        if settings.calibration != "measured":
            calibration = settings.calibration
            ranges = calibrate(model, calibration_texts.encoded, calibration)
        else:
            calibration, ranges = (
                ("mse", calibrate(model, calibration_texts.encoded))
                if dynamic
                else best_calibration(model, calibration_texts, held_out, answers)
            )
        moved, left = left_float(model, held_out, None if dynamic else ranges, settings.divergence, answers)
        note = f"{len(ranges)} inputs calibrated ({calibration}); the answers move by {moved:.4f} nats"
        note += f"; left in float: {', '.join(sorted(left))}" if left else ""
        return RangesNote(note, ranges=ranges, float_layers=sorted(left), divergence=moved)

    def load(self, work: Work, context: Context, record: RangesNote, folder: Path) -> Work:
        return replace(work, ranges=dict(record.ranges), float_layers=frozenset(record.float_layers))
