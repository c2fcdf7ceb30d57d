"""Fitted arrays: what is shipped of a student, held against what the library that fitted it answers itself."""

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
"""Texts held out, the first ones, whose logits by the fitted model are kept."""


@dataclass(frozen=True)
class FittedArrays:
    """A fitted student: the arrays that are shipped, and the logits (N, C) that scikit-learn or torch gives for texts."""

    learned: Learned
    answers: Callable[[Encoded], Array]

    def write(self, folder: Path, held: Encoded) -> None:
        """Write the arrays to `folder`/model/, and to `folder` what the fitted model answers the first texts of `held`."""
        self.learned.write(folder / MODEL / FILE)
        save_rows(folder / FITTED, list(self.answers(_first(held)).astype(np.float32)))


def largest_difference(folder: Path, exported: Path, held: Encoded) -> float:
    """Between the logits of the fitted model, as `FittedArrays.write` left them in `folder`, and those of the file `exported` on the same texts.

    A constant that is added to all logits of a text makes no difference to its answer and is left out.
    """
    answers = NumpyEngine(Learned.read(exported)).logits(_first(held))
    return max(float(np.abs(_centred(a) - _centred(b)).max()) for a, b in zip(load_rows(folder / FITTED), answers, strict=True))


def _first(held: Encoded) -> Encoded:
    return held.take(np.arange(min(FITTED_TEXTS, len(held))))


def _centred(z: Array) -> NDArray[np.float64]:
    return z.astype(np.float64) - z.astype(np.float64).mean()
