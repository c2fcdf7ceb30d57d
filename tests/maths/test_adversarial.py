"""Laws of adversarial changes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from penjing.maths.adversarial import worst_step


def test_a_step_by_hand() -> None:
    g = torch.tensor([[[3.0, 0.0], [0.0, 4.0]], [[0.0, 0.0], [0.0, 0.0]]])
    torch.testing.assert_close(worst_step(g, 10.0), torch.tensor([[[6.0, 0.0], [0.0, 8.0]], [[0.0, 0.0], [0.0, 0.0]]]))


@given(st.integers(0, 99), st.floats(0.1, 5))
def test_no_other_step_of_its_length_raises_a_linear_loss_more(seed: int, size: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    g, other = (torch.randn(3, 4, 5, generator=generator) for _ in range(2))
    best, other = worst_step(g, size), worst_step(other, size)
    assert best.flatten(1).norm(dim=1).tolist() == pytest.approx([size] * 3)
    assert ((g * best).sum((1, 2)) >= (g * other).sum((1, 2)) - 1e-4).all()
