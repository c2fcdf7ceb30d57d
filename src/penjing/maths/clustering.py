"""k-means in one dimension, for codebooks: Lloyd's algorithm on sorted values and their prefix sums.

Shapes: N groups of g values each, clustered by themselves, into tables of k entries.
"""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

ITERATIONS = 30
"""At most so many steps of Lloyd's algorithm."""


def cluster(w: Float[Tensor, "N g"], k: int, seed: int = 0) -> tuple[Float[Tensor, "N k"], bool]:
    """Tables (N, k) for values (N, g), ascending, and whether they hold every value.

    A group of at most k distinct values has these, and +inf after them. Any other has the best of the results of Lloyd's algorithm
    from the three starts of Han et al. 2016, section 3.2: centroids that divide the range evenly, quantiles, and values drawn at
    random by `seed`.
    """
    values = torch.from_numpy(np.sort(w.numpy(), axis=1))
    few = (values[:, 1:] != values[:, :-1]).sum(1, keepdim=True) < k
    if few.all():
        return _distinct(values, k), True
    sums = F.pad(values.cumsum(1, dtype=torch.float64), (1, 0))
    count, size = values.shape
    steps = torch.arange(k)
    low = values[:, :1]
    high = values[:, -1:]
    drawn = torch.randint(size, (count, k), generator=torch.Generator().manual_seed(seed)).sort(1).values
    starts = (low + (high - low) * (steps / (k - 1)), values[:, ((steps + 0.5) / k * size).long()], values.gather(1, drawn))
    table, least = _lloyd(values, sums, starts[0])
    for start in starts[1:]:
        other, error = _lloyd(values, sums, start)
        table, least = torch.where(error < least, other, table), torch.minimum(error, least)
    return (torch.where(few, _distinct(values, k), table) if few.any() else table), False


def assign(w: Float[Tensor, "N g"], table: Float[Tensor, "N k"]) -> UInt8[Tensor, "N g"]:
    """The number (N, g), uint8, of the entry of each group's ascending table (N, k) that is nearest to each value (N, g)."""
    return torch.searchsorted(_boundaries(table), w.contiguous(), right=True, out_int32=True).to(torch.uint8)


def _boundaries(table: Tensor) -> Tensor:
    """The least value (N, k - 1) that belongs to each entry after the first: half way, and always above the entry before."""
    a, b = table[:, :-1], table[:, 1:]
    half = (a + b) / 2
    return torch.where(half > a, half.minimum(b), b)


def _lloyd(values: Tensor, sums: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Centroids (N, k) and their squared error (N, 1), up to what is the same for all, for sorted values (N, g) with sums (N, g + 1).

    Each step takes the mean of the values that are nearest to each centroid (Lloyd 1982). A centroid with none stays.
    """
    edges = _edges(values, c)
    for _ in range(ITERATIONS):
        counts, totals = edges.diff(dim=1), sums.gather(1, edges).diff(dim=1)
        c = torch.where(counts > 0, totals / counts, c).float()
        last, edges = edges, _edges(values, c)
        if torch.equal(last, edges):
            break
    counts, totals = edges.diff(dim=1), sums.gather(1, edges).diff(dim=1)
    return c, (c * (c * counts - 2 * totals)).sum(1, keepdim=True)


def _edges(values: Tensor, c: Tensor) -> Tensor:
    """Where in the sorted values each centroid's begin, and the end: (N, k + 1)."""
    return F.pad(F.pad(torch.searchsorted(values, _boundaries(c)), (1, 0)), (0, 1), value=values.shape[1])


def _distinct(values: Tensor, k: int) -> Tensor:
    """The first k distinct of the sorted values (N, g), and +inf where there are fewer: (N, k)."""
    rank = F.pad((values[:, 1:] != values[:, :-1]).cumsum(1), (1, 0))
    table = values.new_full((len(values), k + 1), torch.inf)
    return table.scatter_(1, rank.clamp(max=k), values)[:, :k]
