"""Parity: the largest difference of logits, by engine, and no number is no parity."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from samples import VOCABULARY, student

from penjing.engines.numpy import FILE, NUMPY_FORM, NumpyEngine
from penjing.engines.parity import NO_NUMBER, a_number, differences
from penjing.text.encoded import Encoded

TEXTS = Encoded.of([[1, 5, 7, 2], [1, VOCABULARY - 1, 2], [1, 2]], [[0] * 4, [0] * 3, [0] * 2])


@pytest.mark.parametrize("off", [0.0, 0.25])
def test_the_largest_difference_of_any_text_and_form_counts(off: float, tmp_path: Path) -> None:
    learned = student("logistic")
    learned.write(tmp_path / FILE)
    logits = NumpyEngine(learned).logits(TEXTS)
    logits[1] = logits[1] - np.float32(off)
    forms = [NUMPY_FORM, replace(NUMPY_FORM, name="one by one", batch=1)]
    assert differences(logits, TEXTS, tmp_path, forms, 1) == {"numpy": pytest.approx(off, abs=1e-6)}
    logits[2] = logits[2] * np.float32(np.nan)
    assert differences(logits, TEXTS, tmp_path, forms, 1) == {"numpy": NO_NUMBER}


def test_a_number_stands_for_none() -> None:
    assert [a_number(value) for value in (0.5, np.inf, np.nan)] == [0.5, NO_NUMBER, NO_NUMBER]
