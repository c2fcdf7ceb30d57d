"""Fitted arrays of a student, and their difference from the library's model that they were taken from."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from penjing.engines.numpy import FILE, Learned, NumpyEngine
from penjing.students.student import MODEL
from penjing.text.encoded import Array, Encoded, load_rows, save_rows

FITTED = "fitted.npz"
FITTED_TEXTS = 64
"""Held-out texts, the first ones, whose logits by the fitted model are saved."""


@dataclass(frozen=True)
class FittedArrays:
    """A fitted student: the arrays that are shipped, and the logits (N, C) that scikit-learn or torch gives for texts."""

    learned: Learned
    answers: Callable[[Encoded], Array]

    def write(self, folder: Path, held: Encoded) -> None:
        """Write the arrays to `folder`/model/, and to `folder` the fitted model's logits of the first texts of `held`."""
        self.learned.write(folder / MODEL / FILE)
        save_rows(folder / FITTED, list(self.answers(_first(held)).astype(np.float32)))


def largest_difference(folder: Path, exported: Path, held: Encoded) -> float:
    """The largest difference of logits between the fitted model (`FittedArrays.write`) and the file `exported`, on the same texts.

    A constant that is added to all logits of a text does not change its answer and is subtracted.
    """
    answers = NumpyEngine(Learned.read(exported)).logits(_first(held))
    return max(float(np.abs(_centred(a) - _centred(b)).max()) for a, b in zip(load_rows(folder / FITTED), answers, strict=True))


def _first(held: Encoded) -> Encoded:
    return held.take(np.arange(min(FITTED_TEXTS, len(held))))


def _centred(z: Array) -> NDArray[np.float64]:
    return z.astype(np.float64) - z.astype(np.float64).mean()
