"""Laws of the distillation losses."""

from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from penjing.maths import losses
from penjing.maths.losses import soft_kl, state_mse


def draw(seed: int, *shape: int, size: float = 1.0) -> Tensor:
    return size * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gradient(z: Tensor, t: Tensor, temperature: float) -> Tensor:
    z = z.clone().requires_grad_()
    soft_kl(z, t, temperature).backward()
    assert z.grad is not None
    return z.grad


@given(st.integers(0, 99), st.sampled_from([0.5, 1.0, 2.0, 20.0]))
def test_soft_kl_is_zero_for_equal_distributions_and_positive_else(seed: int, temperature: float) -> None:
    z, t = draw(seed, 4, 5), draw(seed + 1000, 4, 5)
    assert soft_kl(z, z, temperature).abs() < 1e-5
    assert soft_kl(z + 3, z, temperature).abs() < 1e-4
    assert soft_kl(z, t, temperature) > 1e-3


@given(st.integers(0, 99), st.sampled_from([1.0, 2.0, 20.0]))
def test_soft_kl_is_its_definition_and_a_mean_over_rows(seed: int, temperature: float) -> None:
    z, t = draw(seed, 4, 5).double(), draw(seed + 1000, 4, 5).double()
    p, q = torch.softmax(t / temperature, -1), torch.softmax(z / temperature, -1)
    rows = temperature**2 * (p * (p.log() - q.log())).sum(-1)
    torch.testing.assert_close(soft_kl(z, t, temperature), rows.mean())
    torch.testing.assert_close(soft_kl(z.repeat(3, 1), t.repeat(3, 1), temperature), rows.mean())


@given(st.integers(0, 99), st.sampled_from([1.0, 4.0]))
def test_the_gradient_is_the_difference_of_the_distributions(seed: int, temperature: float) -> None:
    z, t = draw(seed, 4, 5).double(), draw(seed + 1000, 4, 5).double()
    expected = temperature * (torch.softmax(z / temperature, -1) - torch.softmax(t / temperature, -1)) / len(z)
    torch.testing.assert_close(gradient(z, t, temperature), expected)


@given(st.integers(0, 99))
def test_the_temperature_keeps_the_scale_of_the_gradient(seed: int) -> None:
    t = draw(seed, 8, 4, size=0.3)
    z = t + draw(seed + 1000, 8, 4, size=0.05)
    ratio = gradient(z, t, 20.0).norm() / gradient(z, t, 1.0).norm()
    assert 0.8 < ratio < 1.25


@given(st.integers(0, 99), st.sampled_from([0.01, 1.0, 100.0]))
def test_state_mse_is_zero_for_equal_and_blind_to_scale(seed: int, size: float) -> None:
    g, h = draw(seed, 6, 8), draw(seed + 1000, 6, 8)
    assert state_mse(g, g) == 0
    torch.testing.assert_close(state_mse(size * h, size * g), state_mse(h, g))
    torch.testing.assert_close(state_mse(torch.zeros_like(g), g), torch.tensor(1.0))


def test_state_mse_falls_on_gradient_steps() -> None:
    g, h = draw(1, 6, 8), draw(2, 6, 8).requires_grad_()
    losses = []
    for _ in range(20):
        loss = state_mse(h, g)
        losses.append(loss.item())
        (step,) = torch.autograd.grad(loss, h)
        h = (h - 5 * step).detach().requires_grad_()
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.2 * losses[0]


def test_state_mse_of_a_teacher_of_zeros_is_finite() -> None:
    assert torch.isfinite(state_mse(draw(1, 6, 8), torch.zeros(6, 8)))


@pytest.mark.parametrize("loss", [soft_kl, state_mse])
def test_the_teacher_comes_second(loss) -> None:
    student, teacher = torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([[0.0, 1.0, 0.5]])
    assert loss(student, teacher) != loss(teacher, student)


@given(st.integers(0, 99), st.sampled_from([1.0, 4.0]))
def test_soft_cross_entropy_is_kl_and_the_teachers_entropy(seed: int, temperature: float) -> None:
    z, t = draw(seed, 4, 5).double(), draw(seed + 1000, 4, 5).double()
    p = torch.softmax(t / temperature, -1)
    entropy = -(p * p.log()).sum(-1).mean()
    torch.testing.assert_close(losses.soft_cross_entropy(z, t, temperature), soft_kl(z, t, temperature) + temperature**2 * entropy)


@given(st.integers(0, 99))
def test_kl_entropy_prefers_the_surer_of_two_students(seed: int) -> None:
    z, t = draw(seed, 4, 5).double(), draw(seed + 1000, 4, 5).double()
    torch.testing.assert_close(losses.soft_kl_entropy(z, t, 2.0, 0.0), soft_kl(z, t, 2.0))
    even = torch.zeros(4, 5).double()
    added = [losses.soft_kl_entropy(x, t, 1.0, 1.0) - soft_kl(x, t, 1.0) for x in (even, 10 * z)]
    assert added[0] > added[1] and added[0] == pytest.approx(float(torch.tensor(5.0).log()))


@pytest.mark.parametrize("loss", [losses.cosine, losses.patient, losses.rkd_distance, losses.rkd_angle])
def test_losses_that_are_blind_to_scale(loss) -> None:
    g, h = draw(1, 6, 8), draw(2, 6, 8)
    torch.testing.assert_close(loss(3 * h, 0.5 * g), loss(h, g))
    assert loss(g, 2 * g) < 1e-6 < loss(h, g)


def test_the_distances_of_a_student_that_grows_cost_nothing() -> None:
    h, g = draw(1, 6, 8).requires_grad_(), draw(2, 6, 8)
    (gradient,) = torch.autograd.grad(losses.rkd_distance(h, g), h)
    assert (gradient * h).sum().abs() < 1e-6 < gradient.abs().max()
    assert losses.rkd_distance(h[:1], g[:1]) == 0 == losses.rkd_angle(h[:1], g[:1])


def test_angles_are_those_of_distinct_triples() -> None:
    h, g = draw(1, 5, 8), draw(2, 5, 6)

    def angle(x: torch.Tensor, i: int, j: int, k: int) -> torch.Tensor:
        return torch.cosine_similarity(x[i] - x[j], x[k] - x[j], dim=0)

    terms = [torch.nn.functional.smooth_l1_loss(angle(h, *triple), angle(g, *triple)) for triple in permutations(range(5), 3)]
    torch.testing.assert_close(losses.rkd_angle(h, g), torch.stack(terms).mean())
    assert losses.rkd_angle(h[:2], g[:2]) == 0


def test_fsp_is_the_papers_sum_over_its_entries() -> None:
    mask = torch.ones(3, 5, dtype=torch.bool)
    h, g = (draw(1, 3, 5, 4), draw(2, 3, 5, 4)), (draw(3, 3, 5, 4), draw(4, 3, 5, 4))
    F, G = (torch.einsum("bsi,bsj->bij", *each) / 5 for each in (h, g))
    torch.testing.assert_close(losses.fsp(h, g, mask) * 4 * 4, (F - G).square().sum((1, 2)).mean())


def test_patient_is_twice_the_cosine_distance_of_a_unit() -> None:
    g, h = draw(1, 6, 8), draw(2, 6, 8)
    torch.testing.assert_close(losses.patient(h, g), 2 * losses.cosine(h, g) / h.shape[1])


def test_relations_are_blind_to_rotation_and_to_width() -> None:
    mask = torch.ones(2, 5, dtype=torch.bool)
    x, (q, _) = draw(1, 2, 5, 8), torch.linalg.qr(draw(2, 8, 8))
    assert losses.relation_kl(x @ q, x, mask, 1) < 1e-6  # one relation head sees inner products alone
    assert losses.relation_kl(x @ q, x, mask, 4) > 1e-3
    assert losses.relation_kl(draw(3, 2, 5, 12), x, mask, 4) > 0
    assert losses.rkd_distance(x[0] @ q, x[0]) < 1e-6 and losses.rkd_angle(x[0] @ q, x[0]) < 1e-6


def test_nst_is_blind_to_the_order_of_units_and_fsp_is_not() -> None:
    mask, x, y = torch.ones(2, 5, dtype=torch.bool), draw(1, 2, 5, 8), draw(2, 2, 5, 8)
    turned = x.flip(-1)
    assert losses.nst(turned, x, mask) < 1e-6 < losses.nst(y, x, mask)
    assert losses.fsp((turned, y), (x, y), mask) > 1e-3 > losses.fsp((x, y), (x, y), mask)


def test_nst_is_its_definition() -> None:
    mask, x, y = torch.ones(1, 5, dtype=torch.bool), draw(1, 1, 5, 3).double(), draw(2, 1, 5, 4).double()
    a, b = (each[0] / each[0].norm(dim=0) for each in (x, y))
    expected = ((b.T @ b) ** 2).mean() + ((a.T @ a) ** 2).mean() - 2 * ((a.T @ b) ** 2).mean()
    torch.testing.assert_close(losses.nst(x, y, mask), expected)


# -- similarities, attention transfer, neighbours ----------------------------------------------------------------

SHORT = torch.tensor([[True, True], [True, False]])
"""A text of two tokens and one of one."""


def turn(width: int, seed: int = 9) -> Tensor:
    """An orthogonal matrix."""
    return torch.linalg.qr(draw(seed, width, width))[0]


def test_similarity_by_hand() -> None:
    h = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [5.0, 5.0]]])  # the last token is padding
    g = torch.tensor([[[1.0], [0.0]], [[0.0], [7.0]]])
    # h: Q = [1 0 0 1; 1 0 0 0], QQᵀ = [2 1; 1 1]; g: Q = [1 0; 0 0], QQᵀ = [1 0; 0 0]
    student = torch.tensor([[2 / 5**0.5, 1 / 5**0.5], [0.5**0.5, 0.5**0.5]])
    teacher = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    torch.testing.assert_close(losses.similarity(h, g, SHORT), (student - teacher).square().sum() / 4)


def test_attention_transfer_by_hand() -> None:
    h = torch.tensor([[[1.0, 1.0], [1.0, 0.0]], [[3.0, 0.0], [5.0, 5.0]]])
    g = torch.tensor([[[0.0], [2.0]], [[7.0], [7.0]]])
    # maps: h (2, 1)/√5 and (1, 0); g (0, 1) and (1, 0)
    expected = ((2 / 5**0.5) ** 2 + (1 / 5**0.5 - 1) ** 2) / 2
    assert losses.attention_transfer(h, g, SHORT).item() == pytest.approx(expected)


def test_neighbours_by_hand() -> None:
    h = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
    g = torch.tensor([[1.0, 0.0, 0.0], [0.0, 3.0, 0.0], [0.0, 0.0, 1.0]])
    # (cosine + 1)/2 of h: 1 with the second, 1/2 with the third; of g 1/2 each
    p = [torch.tensor([2 / 3, 1 / 3]), torch.tensor([2 / 3, 1 / 3]), torch.tensor([1 / 2, 1 / 2])]
    expected = sum((0.5 * (0.5 / each).log()).sum() for each in p) / 3
    torch.testing.assert_close(losses.neighbour_kl(h, g), torch.as_tensor(expected))
    assert losses.neighbour_kl(h[:1], g[:1]) == 0


@pytest.mark.parametrize("loss", [losses.similarity, losses.attention_transfer])
def test_losses_on_whole_texts_are_blind_to_rotation_scale_and_padding(loss) -> None:
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2, [True] * 4 + [False]])
    h, g = draw(1, 3, 5, 8), draw(2, 3, 5, 6)
    assert loss(3 * h @ turn(8), h, mask) < 1e-6 < loss(h, g, mask)
    noise = torch.where(mask[..., None], 0.0, 100.0)
    torch.testing.assert_close(loss(h + noise, g - noise[..., :6], mask), loss(h, g, mask))
    wider = torch.nn.functional.pad(mask, (0, 3))
    torch.testing.assert_close(loss(*(torch.nn.functional.pad(x, (0, 0, 0, 3)) for x in (h, g)), wider), loss(h, g, mask))


def test_neighbours_are_blind_to_rotation_and_scale_of_each_text() -> None:
    h, g = draw(1, 6, 8), draw(2, 6, 5)
    sizes = torch.arange(1.0, 7.0)[:, None]
    assert losses.neighbour_kl(sizes * h @ turn(8), h) < 1e-6 < losses.neighbour_kl(h, g)


def test_losses_on_whole_texts_have_gradients_that_are_finite_where_all_is_equal() -> None:
    mask = torch.ones(3, 5, dtype=torch.bool)
    for loss in (losses.similarity, losses.attention_transfer):
        h = draw(1, 3, 5, 8).requires_grad_()
        loss(h, h.detach(), mask).backward()
        assert h.grad is not None and h.grad.abs().max() < 1e-5
