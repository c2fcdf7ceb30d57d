"""How many bits each matrix is stored in: the least harm to the loss that fits a number of bytes."""

from collections.abc import Hashable, Iterable, Mapping
from itertools import pairwise
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from penjing.errors import InputError
from penjing.maths.stored import Scheme, quantize

Choice = TypeVar("Choice", bound=Hashable)
"""What a matrix is stored as: its bits, or a whole scheme."""
Costs = Mapping[Choice, tuple[int, float]]
"""The bytes and the error of each choice for one matrix."""


def table(
    weights: Mapping[str, Tensor], sensitivities: Mapping[str, float | NDArray[np.float64]], schemes: Iterable[Scheme], seed: int = 0
) -> dict[str, dict[Scheme, tuple[int, float]]]:
    """The costs of storing each of the weights (rows, columns) by each scheme: bytes as packed and entropy-coded, and `harm`.

    sensitivities: by name, one number or one per row (see `steps.hessian`). Tables of other weights with other schemes add up.
    """
    result: dict[str, dict[Scheme, tuple[int, float]]] = {name: {} for name in weights}
    for scheme in schemes:
        for name, w in weights.items():
            coded = quantize(w, scheme, seed)
            result[name][scheme] = coded.bytes, harm(w.numpy(force=True), coded.values(), sensitivities[name])
    return result


def harm(w: NDArray[np.float32], q: NDArray[np.float32], s: float | NDArray[np.float64]) -> float:
    """½·Σ s·‖w - q‖² over the rows, s the mean second derivative of the loss by a row's weights (HAWQ-V2, Dong et al. 2020, equation 8)."""
    squares = np.square(w.astype(np.float64) - q).sum(1)
    return float((0.5 * np.maximum(s, 0.0) * squares).sum())


def allot(costs: Mapping[str, Costs[Choice]], budget_bytes: float) -> dict[str, Choice]:
    """A choice for each matrix, all together within `budget_bytes`, with little error in all.

    Each matrix starts at its fewest bytes and moves along the lower convex hull of its (bytes, error) points; of all moves
    that still fit, the one that saves the most error per byte goes first. Where the moves taken fill the budget exactly no
    allotment has less error; elsewhere at most the error that the first move that did not fit would have saved is lost (the
    multiple-choice knapsack: Sinha & Zoltners 1979, section 2). More bytes never give more error. Ties go to the earlier name.

    Errors:
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
    """The points (bytes, error, choice) of the lower convex hull: ever more bytes and less error, for ever less gain."""
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
    """The error saved per byte."""
    return (here[1] - there[1]) / (there[0] - here[0])
