"""Calibration of static int8: the ranges of the inputs of linear layers on real texts."""

from collections.abc import Callable
from typing import Literal, cast, get_args

import numpy as np
import torch
from torch import Tensor

from penjing.engines.network import Ranges
from penjing.engines.onnx.graph import first_token_layers
from penjing.errors import InputError
from penjing.maths.calibration import Histogram, Range, entropy, min_max, moving_average, percentile, squared_error
from penjing.model.building import blueprint_of
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.model.run import batches
from penjing.model.watch import linear_layers, watching_inputs
from penjing.text.encoded import Encoded

Calibration = Literal["min-max", "moving-average", "percentile", "mse", "entropy"]
OF_EXTREMES = {"min-max": min_max, "moving-average": moving_average}
"""Calibration methods of the extremes of each batch."""
OF_HISTOGRAM = {"percentile": percentile, "mse": squared_error, "entropy": entropy}
"""Calibration methods of the histogram of all values."""


@torch.inference_mode()
def calibrate(
    model: PenjingPreTrainedModel, encoded: Encoded, method: Calibration | Callable[[Histogram], Range] = "mse", batch: int = 16
) -> Ranges:
    """Activation ranges (low, high) of the input of every linear layer, over batches of `encoded`, in one pass.

    The methods are those of `penjing.maths.calibration`, by name, or a function of all values' histogram. Where the exported graph
    computes the first token alone, only its values count.

    Raises:
        InputError: no such method.
    """
    if isinstance(method, str) and method not in get_args(Calibration):
        raise InputError(f"calibrate: {method!r} is no method; allowed are {', '.join(get_args(Calibration))}")
    first_only = first_token_layers(blueprint_of(model))
    extremes: dict[str, list[Range]] = {}
    histograms: dict[str, Histogram] = {}

    def look(name: str, x: Tensor) -> None:
        values: np.ndarray = (x[:, :1] if name in first_only else x).float().numpy()  # (B, S, K) or (B, 1, K)
        if method in OF_EXTREMES:
            extremes.setdefault(name, []).append((float(values.min()), float(values.max())))
        else:
            histograms.setdefault(name, Histogram()).add(values)

    with watching_inputs(linear_layers(model).items(), look):
        for _, feeds in batches(model, encoded, batch, masked=True):
            model(**feeds)
    if method in OF_EXTREMES:
        return {name: OF_EXTREMES[method](ends) for name, ends in extremes.items()}
    range_of = cast(Callable[[Histogram], Range], OF_HISTOGRAM.get(cast(str, method), method))
    return {name: range_of(seen) for name, seen in histograms.items()}
