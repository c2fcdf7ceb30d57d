"""Array students: fitted by a library to the teacher's probabilities, shipped as one file of arrays that numpy runs."""

import shutil
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from penjing.engines.form import Form
from penjing.engines.numpy import FILE, NUMPY_FORM, Learned, NumpyEngine
from penjing.engines.parity import PARITY_HALF, a_number
from penjing.students.fitted import FittedArrays, largest_difference
from penjing.students.fitting import Fit, Fitting
from penjing.students.student import Answer, ParityTexts, Student
from penjing.text.encoded import Encoded


@dataclass(frozen=True)
class ArrayStudent(Student):
    """The base class of array students; the written arrays are compared with the library's fitted model."""

    shipped: ClassVar[tuple[Form, ...]] = (NUMPY_FORM,)
    parity_limit: ClassVar[float] = PARITY_HALF

    @abstractmethod
    def fit_arrays(self, fitting: Fitting, train: NDArray[np.float32], dev: NDArray[np.float32]) -> FittedArrays:
        """The fitted arrays, from the target probabilities of `fitting.train` (N, C) and of `fitting.dev` (M, C)."""

    def fit(self, fitting: Fitting, folder: Path) -> Fit:
        """Fit the arrays and write them to `folder`/model/, and beside it logits of the library's model."""
        train, dev = fitting.targets()
        fitted = self.fit_arrays(fitting, train, dev)
        fitted.write(folder, fitting.dev.encoded)
        return Fit(sum(int(array.size) for array in fitted.learned.arrays.values()))

    def load(self, model: Path) -> Answer:
        """The logits of the arrays, computed by the numpy engine."""
        return NumpyEngine(Learned.read(model / FILE)).logits

    def export(self, model: Path, folder: Path) -> None:
        """Export the file of arrays by copying it."""
        shutil.copyfile(model / FILE, folder / FILE)

    def differences(self, fitted: Path, exported: Path, forms: Sequence[Form], texts: ParityTexts, threads: int) -> dict[str, float]:
        """The largest difference from the library's logits on held-out texts (`largest_difference`)."""
        return {NUMPY_FORM.engine: a_number(largest_difference(fitted, exported / FILE, texts.dev))}


def joined(
    fitting: Fitting, train: NDArray[np.float32], dev: NDArray[np.float32]
) -> tuple[Encoded, NDArray[np.float32], NDArray[np.int64]]:
    """The joined texts (N + M), their target probabilities (N + M, C), and the numbers (M,) of the held-out ones."""
    encoded = Encoded.joined([fitting.train.encoded, fitting.dev.encoded])
    return encoded, np.concatenate([train, dev]), np.arange(len(fitting.train), len(encoded))
