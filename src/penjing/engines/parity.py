"""Parity: how far the logits of an exported file may be, and are, from those of the model that it was made from."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from penjing.engines.form import Form
from penjing.engines.opening import open_engine
from penjing.text.encoded import Encoded

PARITY = 1e-3
"""Largest difference of float32 logits between PyTorch and an engine."""
PARITY_HALF = 0.05
"""The same of students of arrays, which are stored in half precision, against what the library that fitted them answers."""
NO_NUMBER = 1e9
"""Stands for a difference that is no number: JSON has no word for it."""


def differences(
    logits: Sequence[NDArray[np.float32]], texts: Encoded, exported: Path, forms: Sequence[Form], threads: int
) -> dict[str, float]:
    """Largest difference between a model's own logits of the texts and those of its float32 forms in `exported`, by engine."""
    result = dict[str, float]()
    for form in forms:
        answers = open_engine(form, exported, threads).logits(texts)
        difference = float(np.max([np.abs(a - b).max() for a, b in zip(logits, answers, strict=True)]))
        result[form.engine] = max(a_number(difference), result.get(form.engine, 0.0))
    return result


def a_number(difference: float) -> float:
    """The difference, or `NO_NUMBER` where it is infinite or not a number."""
    return difference if np.isfinite(difference) else NO_NUMBER
