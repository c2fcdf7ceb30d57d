"""Random projections: lengths are kept on average; at full rank the lift is exact; no other map back is nearer."""

import pytest
import torch

from penjing.maths.lowrank import low_rank
from penjing.maths.projection import KINDS, Kind, lifted, projection


def table(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(60, 12, generator=generator), torch.rand(60, generator=generator) + 0.1


def error(W: torch.Tensor, importance: torch.Tensor, A: torch.Tensor, B: torch.Tensor) -> float:
    return float((importance[:, None] * (W - A @ B).square()).sum())


@pytest.mark.parametrize("kind", KINDS)
def test_lengths_are_kept_on_average(kind: Kind) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(12, generator=generator).double()
    lengths = [float((x @ projection(12, 8, kind, generator)).square().sum() / x.square().sum()) for _ in range(4000)]
    assert sum(lengths) / len(lengths) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("kind", KINDS)
def test_at_full_rank_it_is_the_table(kind: Kind) -> None:
    W, importance = table()
    drawn = (projection(12, 12, kind, torch.Generator().manual_seed(seed)) for seed in range(20))
    P = next(P for P in drawn if torch.linalg.matrix_rank(P) == 12)  # a small sparse one may have less
    A, B = lifted(W, importance, P)
    torch.testing.assert_close(A @ B, W, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_the_lift_is_the_least_squares_one_and_svd_is_nearer(kind: Kind) -> None:
    W, importance = table()
    A, B = lifted(W, importance, projection(12, 5, kind, torch.Generator().manual_seed(2)))
    least = error(W, importance, A, B)
    generator = torch.Generator().manual_seed(3)
    for _ in range(20):
        assert error(W, importance, A, B + 0.01 * torch.randn(B.shape, generator=generator)) > least
    assert error(W, importance, *low_rank(W, importance, 5)) < least
