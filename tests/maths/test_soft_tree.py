"""Laws of soft trees."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from penjing.maths.soft_tree import depths, imbalance, leaf_cross_entropy, mixture, reaching


@given(st.integers(0, 99), st.integers(0, 5))
def test_the_paths_of_a_text_sum_to_one_at_every_depth(seed: int, depth: int) -> None:
    inner = 2**depth - 1
    p = torch.rand(4, inner, generator=torch.Generator().manual_seed(seed))
    reached = reaching(p)
    assert reached.shape == (4, 2 * inner + 1)
    for level in range(depth + 1):
        torch.testing.assert_close(reached[:, 2**level - 1 : 2 ** (level + 1) - 1].sum(1), torch.ones(4))


def test_the_paths_by_hand() -> None:
    p = torch.tensor([[0.25, 0.5, 1.0]])  # the root, its left child, its right one
    torch.testing.assert_close(reaching(p), torch.tensor([[1.0, 0.75, 0.25, 0.375, 0.375, 0.0, 0.25]]))


def test_hard_turns_lead_to_one_leaf() -> None:
    p = (torch.rand(8, 15, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    leaves = reaching(p)[:, 15:]
    assert set(leaves.unique().tolist()) == {0.0, 1.0} and (leaves.sum(1) == 1).all()


def test_the_loss_by_hand_and_that_of_the_mixture_is_no_greater() -> None:
    reached = torch.tensor([[0.25, 0.75]])
    phi = torch.tensor([[0.0, 0.0], [1.0, 3.0]])
    targets = torch.tensor([[0.2, 0.8]])
    leaf = torch.tensor([2.0]).log() * 1.0, -(0.2 * phi[1].log_softmax(0)[0] + 0.8 * phi[1].log_softmax(0)[1])
    torch.testing.assert_close(leaf_cross_entropy(reached, phi, targets), 0.25 * leaf[0][0] + 0.75 * leaf[1])
    z = mixture(reached, phi)
    torch.testing.assert_close(z.exp(), 0.25 * phi[:1].softmax(-1) + 0.75 * phi[1:].softmax(-1))
    assert -(targets * z).sum() <= leaf_cross_entropy(reached, phi, targets)


def test_the_balanced_tree_has_the_least_imbalance_and_depth_lowers_it() -> None:
    assert depths(7).tolist() == [0, 1, 1, 2, 2, 2, 2]
    even = imbalance(torch.full((3,), 0.5))
    assert even.item() == pytest.approx((1 + 0.5 + 0.5) * 0.5 * 2 * 0.6931472, rel=1e-5)
    at_root, below = (imbalance(torch.tensor(alpha)) for alpha in ([0.9, 0.5, 0.5], [0.5, 0.9, 0.5]))
    assert even < below < at_root and at_root - even == pytest.approx(2 * (below - even).item(), rel=1e-4)
    assert torch.isfinite(imbalance(torch.tensor([0.0, 1.0, 0.5])))
