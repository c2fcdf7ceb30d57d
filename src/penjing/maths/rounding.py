"""Rounding real numbers to integers: symmetric per channel for weights, affine per tensor for activations.

Source: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", section 2.
"""

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]


def symmetric(w: Float, axis: int, bits: int = 8) -> tuple[NDArray[np.int8], Float]:
    """Round `w` to integers q with w ≈ S·q, one scale S = max|w| / (2^(bits-1) - 1) per channel of `axis`.

    Returns q (the shape of w, int8) and S (one per channel). The error is at most S/2. A channel of zeros has S = 1.
    """
    levels = float(2 ** (bits - 1) - 1)
    others = tuple(i for i in range(w.ndim) if i != axis % w.ndim)
    largest = np.abs(w).max(axis=others, keepdims=True)
    scale = np.where(largest > 0, largest / levels, 1.0).astype(np.float32)
    q = np.clip(np.rint(w / scale), -levels, levels).astype(np.int8)
    return q, scale.reshape(-1)


def affine(low: float, high: float) -> tuple[np.float32, np.uint8]:
    """Scale S and zero point Z of r ≈ S·(q - Z), q in 0 … 255, for values in [low, high]; zero is exact."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / 255 or 1.0
    return np.float32(scale), np.uint8(np.clip(round(-low / scale), 0, 255))
