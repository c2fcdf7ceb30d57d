"""Second derivatives: products, traces, eigenvalues and the Gauss-Newton part against the whole Hessian of a tiny network."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd.functional import hessian, jacobian

from penjing.maths.hessian import output_directions, product_of, row_squares, row_traces, top_eigenvalue

SEEDS = st.integers(0, 99)


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def loss(a: Tensor, b: Tensor) -> Tensor:
    """Of a network with weights a (3, 2) and b (2, 3) on five fixed inputs."""
    logits = torch.tanh(random(7, 5, 2) @ a.T) @ b.T
    return torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 1, 0, 1]), reduction="sum")


def exact(seed: int) -> tuple[list[Tensor], Tensor]:
    """The weights and their whole Hessian (12, 12)."""
    w = [random(seed, 3, 2).requires_grad_(), random(seed + 1, 2, 3).requires_grad_()]
    blocks = hessian(loss, tuple(w))
    return w, torch.cat([torch.cat([block.reshape(6, 6) for block in row], 1) for row in blocks])


def flat(parts: list[Tensor]) -> Tensor:
    return torch.cat([part.flatten() for part in parts])


@given(SEEDS)
def test_a_product_is_the_hessians(seed: int) -> None:
    w, H = exact(seed)
    product = product_of(loss(*w), w)
    for v in ([random(seed + i, 3, 2), random(seed - i, 2, 3)] for i in (2, 3)):  # the graph serves again
        torch.testing.assert_close(flat(product(v)), H @ flat(v))


def test_a_loss_that_is_linear_bends_nowhere() -> None:
    w = random(0, 3, 2).requires_grad_()
    assert not product_of((random(1, 3, 2) * w).sum(), [w])([random(2, 3, 2)])[0].any()


@settings(max_examples=3)
@given(SEEDS)
def test_probes_agree_with_the_exact_trace_of_every_row(seed: int) -> None:
    w, H = exact(seed)
    probes = 200
    found = torch.cat(row_traces(product_of(loss(*w), w), w, probes, torch.Generator().manual_seed(seed)))
    rows = torch.block_diag(*(torch.ones(1, each.shape[1], dtype=H.dtype) for each in w for _ in each))
    off = H.square().fill_diagonal_(0)
    deviation = (2 * (rows @ off @ rows.T).sum(1) / probes).sqrt()  # at most: entries of a row count twice, others once
    assert ((found - rows @ H.diagonal()).abs() < 5 * deviation + 1e-6).all()


@given(SEEDS)
def test_one_probe_is_exact_where_the_hessian_is_diagonal(seed: int) -> None:
    w, s = random(seed, 4, 3).requires_grad_(), random(seed + 1, 4, 3)
    (found,) = row_traces(product_of((s * w**2).sum() / 2, [w]), [w], 1, torch.Generator().manual_seed(seed))
    torch.testing.assert_close(found.double(), s.sum(1))


@given(SEEDS, st.integers(0, 1), st.booleans())
def test_power_iteration_finds_the_top_eigenvalue_of_a_block(seed: int, i: int, first_row: bool) -> None:
    w, H = exact(seed)
    block = H[6 * i : 6 * i + 6, 6 * i : 6 * i + 6]
    start = random(seed + 5, *w[i].shape)
    if first_row:
        start[1:] = 0
        block = block[: w[i].shape[1], : w[i].shape[1]]
    product = product_of(loss(*w), [w[i]])
    found = top_eigenvalue(lambda v: product([v])[0], start, 1000, 1e-4)
    values = torch.linalg.eigvalsh(block)
    assert abs(found) == pytest.approx(float(values.abs().max()), rel=1e-2)
    assert float((values - found).abs().min()) < 1e-2 * abs(found)  # with its sign


def test_power_iteration_of_nothing_is_zero() -> None:
    assert top_eigenvalue(torch.zeros_like, torch.ones(3)) == 0


@given(SEEDS, st.integers(2, 4))
def test_output_directions_average_to_the_gauss_newton_matrix(seed: int, C: int) -> None:
    z = random(seed, C)
    p = z.softmax(0)
    u = output_directions(z.expand(20_000, C), torch.Generator().manual_seed(seed))
    torch.testing.assert_close(u.T @ u / len(u), p.diag() - torch.outer(p, p), atol=0.02, rtol=0)
    assert u.sum(1).abs().max() < 1e-9  # no direction moves all the logits alike


def test_the_gauss_newton_matrix_is_the_hessian_by_the_logits() -> None:
    z = random(3, 4)
    H = hessian(lambda z: -z.log_softmax(0)[1], z)
    p = z.softmax(0)
    torch.testing.assert_close(H, p.diag() - torch.outer(p, p))


@given(st.integers(1, 3), st.integers(1, 5), SEEDS)
def test_row_squares_are_the_gradients_of_each_text(B: int, S: int, seed: int) -> None:
    x, delta = random(seed, B, S, 4), random(seed + 1, B, S, 3)
    each = [jacobian(lambda W, n=n: (x[n] @ W.T * delta[n]).sum(), torch.zeros(3, 4, dtype=x.dtype)) for n in range(B)]
    torch.testing.assert_close(row_squares(x @ x.transpose(1, 2), delta), torch.stack([g.square().sum(1) for g in each]))
