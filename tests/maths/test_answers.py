"""Laws of the losses on answers: the formulas by name, labels that do not count, and divergences that vanish for equal answers."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from penjing.errors import InputError
from penjing.maths import losses
from penjing.maths.answers import ANSWER_LOSSES, IGNORED, AnswerLosses, Classes, Softening, Values


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(st.integers(0, 99), st.sampled_from([0.5, 1.0, 4.0]), st.sampled_from([0.0, 0.3]))
def test_each_name_is_its_formula_to_the_bit(seed: int, temperature: float, alpha: float) -> None:
    z, t = draw(seed, 6, 4), draw(seed + 1000, 6, 4)
    expected = {
        "kl": losses.soft_kl(z, t, temperature),
        "cross-entropy": losses.soft_cross_entropy(z, t, temperature),
        "mse": losses.logits_mse(z, t),
        "kl-entropy": losses.soft_kl_entropy(z, t, temperature, alpha),
    }
    assert expected.keys() == ANSWER_LOSSES.keys()
    for name, value in expected.items():
        assert torch.equal(Classes().loss(name, z, t, Softening(temperature, alpha)), value)


@pytest.mark.parametrize("answers,allowed", [(Classes(), "kl, cross-entropy, mse, kl-entropy"), (Values(), "mse")])
def test_an_unknown_name_is_refused(answers: AnswerLosses, allowed: str) -> None:
    z = draw(0, 3, 1)
    with pytest.raises(InputError, match=f"'kl-entropie' is no loss on {type(answers).__name__.lower()}; allowed are {allowed}$"):
        answers.loss("kl-entropie", z, z, Softening())


@given(st.integers(0, 99), st.integers(0, 5))
def test_the_hard_loss_is_the_cross_entropy_of_what_has_a_label(seed: int, ignored: int) -> None:
    z = draw(seed, 5, 3)
    labels = torch.randint(3, (5,), generator=torch.Generator().manual_seed(seed))
    labels[:ignored] = IGNORED
    weight = torch.tensor(0.5)
    value = Classes().hard(z, labels, weight)
    expected = F.cross_entropy(z[ignored:], labels[ignored:]) if ignored < 5 else z.new_zeros(())
    torch.testing.assert_close(value, 0.5 * expected)


@given(st.integers(0, 99), st.sampled_from([(7, 3), (4, 5, 2)]), st.sampled_from([-1, 1]))
def test_divergences_are_kl_of_each_row_over_an_axis(seed: int, shape: tuple[int, ...], axis: int) -> None:
    p, q = draw(seed, *shape).double(), draw(seed + 1000, *shape).double()
    rows = Classes().divergences(p, q, axis)
    P, Q = torch.softmax(p, axis), torch.softmax(q, axis)
    torch.testing.assert_close(rows, (P * (P.log() - Q.log())).sum(axis))
    assert torch.allclose(Classes().divergences(p, p, axis), torch.zeros_like(rows), atol=1e-12)


@given(st.integers(0, 99))
def test_the_divergence_is_the_mean_of_the_rows(seed: int) -> None:
    z, t = draw(seed, 7, 3).double(), draw(seed + 1000, 7, 3).double()
    torch.testing.assert_close(Classes().divergence(z, t), Classes().divergences(t, z).mean())
    torch.testing.assert_close(Values().divergence(z, t), Values().divergences(t, z).sum(-1).mean())


def test_numbers_are_taught_by_their_squared_error_where_one_is_known() -> None:
    z = torch.tensor([[1.0], [2.0], [5.0]])
    gold = torch.tensor([0.0, float("nan"), 2.0])
    assert Values().hard(z, gold, torch.tensor(0.5)) == pytest.approx(0.5 * (1 + 9) / 2)
    assert Values().hard(z, torch.full((3,), float("nan")), torch.tensor(1.0)) == 0
