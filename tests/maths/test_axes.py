"""The axes that formulas are annotated with are checked in tests: arrays that do not fit are refused before anything is computed."""

import pytest
import torch
from jaxtyping import TypeCheckError

from penjing.maths import losses
from penjing.maths.importance import fisher
from penjing.training.batching import length_batches


def test_arrays_whose_axes_differ_are_refused() -> None:
    with pytest.raises(TypeCheckError, match="soft_kl"):
        losses.soft_kl(torch.zeros(3, 2), torch.zeros(3, 4))
    with pytest.raises(TypeCheckError, match="nst"):
        losses.nst(torch.zeros(2, 5, 4), torch.zeros(2, 5, 6), torch.ones(2, 4, dtype=torch.bool))
    losses.nst(torch.ones(2, 5, 4), torch.ones(2, 5, 6), torch.ones(2, 5, dtype=torch.bool))


def test_arrays_of_another_number_of_axes_or_another_kind_are_refused() -> None:
    with pytest.raises(TypeCheckError, match="fisher"):
        fisher(torch.zeros(3))
    with pytest.raises(TypeCheckError, match="length_batches"):
        length_batches(torch.zeros(3, dtype=torch.int64), 2, 0, 0)  # type: ignore[arg-type]
