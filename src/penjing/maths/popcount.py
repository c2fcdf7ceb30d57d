"""The product of matrices of signs from packed bits: 64 of them a word, an exclusive or and a count of bits.

Source: Rastegari et al. 2016, XNOR-Net, section 3.2, where the sum of K products of signs is K - 2·popcount(a xor b).
It needs numpy alone, and is exact. What it is not is fast: see `docs/quantization.md`.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Int32, Real, UInt64
from numpy.typing import NDArray

WORD = 64
"""Signs of a packed word."""
AT_ONCE = 2**20
"""Words whose bits are counted at a time, at most."""


def pack_signs(x: Real[np.ndarray, "N K"]) -> UInt64[np.ndarray, "N words"]:
    """The signs of x (N, K), a bit each, 1 where x ≥ 0, in ⌈K/64⌉ words a row; the bits that are left over are 0."""
    bits = np.packbits(x >= 0, axis=1, bitorder="little")
    return np.pad(bits, ((0, 0), (0, -bits.shape[1] % (WORD // 8)))).view("<u8").astype(np.uint64, copy=False)


def sign_product(a: UInt64[np.ndarray, "N words"], b: UInt64[np.ndarray, "M words"], K: int) -> Int32[np.ndarray, "N M"]:
    """sign(x)·sign(w)ᵀ (N, M) for x (N, K) and w (M, K), from their packed signs `a` and `b`.

    Both leave the bits beyond K at 0, so these count for nothing.
    """
    result = np.empty((len(a), len(b)), np.int32)
    rows = max(1, AT_ONCE // max(1, b.size))
    for i in range(0, len(a), rows):
        differ = a[i : i + rows, None, :] ^ b[None]  # (rows, M, words)
        result[i : i + rows] = K - 2 * count_bits(differ).sum(-1, dtype=np.int32)
    return result


def _by_table(words: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Bits that are 1 in each word, by a table of bytes: for numpy 1, which has no such operation."""
    table = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(1, dtype=np.uint8)
    octets = np.ascontiguousarray(words).view(np.uint8).reshape(*words.shape, WORD // 8)
    return table[octets].sum(-1, dtype=np.uint8)


count_bits: Callable[[NDArray[np.uint64]], NDArray[np.uint8]] = getattr(np, "bitwise_count", _by_table)
"""Bits that are 1 in each word."""
