"""Batches of texts of like length, the same for the same seed and epoch."""

import numpy as np
from jaxtyping import Int

WINDOW = 50
"""Batches whose texts are sorted together: enough to pad little, few enough that the order stays random."""


def length_batches(lengths: Int[np.ndarray, " N"], size: int, seed: int, epoch: int) -> list[Int[np.ndarray, " _"]]:
    """Row numbers in batches of `size`: shuffled, sorted by length within windows, the batches shuffled again."""
    random = np.random.default_rng((seed, epoch))
    order = random.permutation(len(lengths))
    batches = []
    for start in range(0, len(order), size * WINDOW):
        window = order[start : start + size * WINDOW]
        window = window[np.argsort(lengths[window], kind="stable")]
        batches += [window[i : i + size] for i in range(0, len(window), size)]
    return [batches[i] for i in random.permutation(len(batches))]
