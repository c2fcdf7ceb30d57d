"""Rounding real numbers to integers: symmetric per channel for weights, affine per tensor for activations.

Source: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", section 2.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]
Numbers = float | NDArray[np.float64]
"""One number, or an array of them."""


def symmetric(w: Float, axis: int, bits: int = 8) -> tuple[NDArray[np.int8], Float]:
    """Round `w` to integers q with w ≈ S·q, one scale S = max|w| / (2^(bits-1) - 1) per channel of `axis`.

    Returns q (the shape of w, int8) and S (one per channel). The error is at most S/2. A channel of zeros has S = 1.
    """
    levels = float(2 ** (bits - 1) - 1)
    others = tuple(i for i in range(w.ndim) if i != axis % w.ndim)
    largest = np.abs(w).max(axis=others, keepdims=True)
    scale = np.where(largest > 0, largest / levels, 1.0).astype(np.float32)
    q = w / scale
    np.clip(np.rint(q, out=q), -levels, levels, out=q)  # in place: an embedding is large
    return q.astype(np.int8), scale.reshape(-1)


def affine(low: Numbers, high: Numbers, bits: int = 8) -> tuple[Any, Any]:
    """Scale S (float32) and zero point Z (uint8) of r ≈ S·(q - Z), q in 0 … 2^bits - 1, for values in [low, high]; zero is exact.

    low and high: two numbers, or two arrays of as many, for as many scales and zero points.
    """
    low = np.minimum(low, 0.0)
    high = np.maximum(high, 0.0)
    levels = 2**bits - 1
    scale = (high - low) / levels
    scale = scale + (scale == 0)
    return np.float32(scale), np.uint8(np.clip(np.rint(-low / scale), 0, levels))


def affine_round(r: NDArray[Any], scale: Any, zero: Any, bits: int = 8) -> NDArray[Any]:
    """S·(q - Z) with q = round(r/S) + Z clipped to 0 … 2^bits - 1: what is left of `r`.

    scale and zero: as `affine` gives them; arrays are broadcast against `r`.
    """
    z = np.asarray(zero, dtype=r.dtype)
    return (np.clip(np.rint(r / scale) + z, 0, 2**bits - 1) - z) * scale


def even_round(r: NDArray[Any], low: Numbers, high: Numbers, bits: int) -> NDArray[Any]:
    """low + (high - low)·quantize_k(clip((r - low)/(high - low), 0, 1)), quantize_k(u) = round(t·u)/t, t = 2^bits - 1.

    DoReFa's rounding of activations (Zhou et al. 2016, equations 5 and 11), whose range is [0, 1] in the paper. Both ends are levels;
    zero need not be one. low and high: numbers, or arrays that are broadcast against `r`.
    """
    step = (high - low) / (2**bits - 1)
    step = step + (step == 0)
    return low + np.rint((np.clip(r, low, high) - low) / step) * step
