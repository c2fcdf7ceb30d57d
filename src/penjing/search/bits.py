"""Bit allocation of mixed precision: the storage scheme of each matrix with the least loss increase within a number of bytes."""

from collections.abc import Hashable, Iterable, Mapping
from itertools import pairwise
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from penjing.errors import InputError
from penjing.maths.stored import Scheme, quantize

Choice = TypeVar("Choice", bound=Hashable)
"""A way to store a matrix: its bits, or a whole scheme."""
Costs = Mapping[Choice, tuple[int, float]]
"""The bytes and the error of each choice for one matrix."""


def table(
    weights: Mapping[str, Tensor], sensitivities: Mapping[str, float | NDArray[np.float64]], schemes: Iterable[Scheme], seed: int = 0
) -> dict[str, dict[Scheme, tuple[int, float]]]:
    """The cost table of the weights (rows, columns) in each scheme: bytes as packed and entropy-coded, and `harm`.

    sensitivities: by name, one number or one per row (see `penjing.steps.bits.hessian`). Tables of other weights and schemes may be
    joined.
    """
    result: dict[str, dict[Scheme, tuple[int, float]]] = {name: {} for name in weights}
    for scheme in schemes:
        for name, w in weights.items():
            coded = quantize(w, scheme, seed)
            result[name][scheme] = coded.bytes, harm(w.numpy(force=True), coded.values(), sensitivities[name])
    return result


def harm(w: NDArray[np.float32], q: NDArray[np.float32], s: float | NDArray[np.float64]) -> float:
    """The estimated loss increase by rounding w to q: ½·Σ s·‖w - q‖² over the rows (Dong et al. 2020, HAWQ-V2, equation 8).

    w, q: (rows, columns). s: the mean second derivative of the loss by a row's weights, a number or (rows,); below 0 it counts as 0.
    """
    squares = np.square(w.astype(np.float64) - q).sum(1)
    return float((0.5 * np.maximum(s, 0.0) * squares).sum())


def allot(costs: Mapping[str, Costs[Choice]], budget_bytes: float) -> dict[str, Choice]:
    """The choice for each matrix, together within `budget_bytes`, with nearly the least total error.

    Each matrix starts at its fewest bytes and moves along the lower convex hull of its (bytes, error) points; of all moves
    that still fit, the one that saves the most error per byte goes first. Where the moves taken fill the budget exactly no
    allotment has less error; elsewhere at most the error that the first move that did not fit would have saved is lost (the
    multiple-choice knapsack: Sinha & Zoltners 1979, section 2). More bytes never give more error. Ties go to the earlier name.

    Raises:
        InputError: not even the fewest bytes fit.
    """
    hulls = {name: _hull(options) for name, options in costs.items()}
    least = sum(hull[0][0] for hull in hulls.values())
    if least > budget_bytes:
        raise InputError(
            f"budget: {budget_bytes:,.0f} bytes are too few for the matrices; the fewest bits that are allowed take {least:,}; "
            "give more, or allow fewer bits"
        )
    moves = [
        (-_gain(here, there), place, step, name, there[0] - here[0])
        for place, (name, hull) in enumerate(hulls.items())
        for step, (here, there) in enumerate(pairwise(hull))
    ]
    reached = dict.fromkeys(hulls, 0)
    left = budget_bytes - least
    for _, _, step, name, size in sorted(moves):
        if reached[name] == step and size <= left:
            reached[name] += 1
            left -= size
    return {name: hulls[name][step][2] for name, step in reached.items()}


def _hull(options: Costs[Choice]) -> list[tuple[int, float, Choice]]:
    """The lower convex hull of the points (bytes, error, choice), by increasing bytes and decreasing error."""
    hull: list[tuple[int, float, Choice]] = []
    for choice, (size, error) in sorted(options.items(), key=lambda option: option[1]):
        point = (size, error, choice)
        if hull and error >= hull[-1][1]:
            continue
        while len(hull) > 1 and _gain(hull[-2], hull[-1]) <= _gain(hull[-1], point):
            hull.pop()
        hull.append(point)
    return hull


def _gain(here: tuple[int, float, Choice], there: tuple[int, float, Choice]) -> float:
    """The error saved per byte between two points of the hull."""
    return (here[1] - there[1]) / (there[0] - here[0])
