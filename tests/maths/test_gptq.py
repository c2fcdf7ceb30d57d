"""Rounding with inputs: no row is worse than plainly rounded, correlated inputs help, and all stays on the plain grid."""

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from penjing.errors import InputError
from penjing.maths.gptq import quantize_with_inputs
from penjing.maths.stored import Scheme, quantize
from penjing.model.coded import Coded

SCHEMES = st.one_of(
    st.builds(
        Scheme,
        st.sampled_from(("linear", "affine")),
        st.integers(2, 8),
        st.sampled_from((0, 1, 3, 8, 99)),
        st.sampled_from(("none", "mse")),
    ),
    st.builds(Scheme, st.sampled_from(("log", "kmeans")), st.integers(2, 4), st.sampled_from((0, 5, 99))),
    st.builds(Scheme, st.just("ternary"), st.just(2), st.sampled_from((0, 5, 99))),
    st.builds(Scheme, st.just("binary"), st.just(1), st.sampled_from((0, 5, 99))),
)


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gram_of(seed: int, K: int, tokens: int, scale: float = 1.0) -> Tensor:
    """Of inputs that go together; with fewer tokens than K it is singular."""
    x = scale * (random(seed, tokens, K) + 2 * random(seed + 1, tokens, 1))
    return x.T @ x / tokens


def errors(w: Tensor, gram: Tensor, coded: Coded) -> Tensor:
    d = w.double() - torch.from_numpy(coded.values())
    return ((d @ gram.double()) * d).sum(1)


@settings(max_examples=30)
@given(st.integers(1, 5), st.integers(1, 17), st.integers(1, 40), SCHEMES, st.sampled_from((1e-3, 1.0, 1e3)), st.integers(0, 999))
def test_no_row_is_worse_than_plainly_rounded(rows: int, K: int, tokens: int, scheme: Scheme, scale: float, seed: int) -> None:
    w, gram = random(seed, rows, K), gram_of(seed + 2, K, tokens, scale)
    plain, found = quantize(w, scheme), quantize_with_inputs(w, gram, scheme)
    assert (errors(w, gram, found) <= errors(w, gram, plain) * (1 + 1e-12)).all()
    assert (found.codec, found.bits, found.shape, found.group) == (plain.codec, plain.bits, plain.shape, plain.group)
    assert found.codes.dtype == np.uint8 and found.codes.max() <= plain.codes.max()
    for name, value in plain.parameters.items():
        assert np.array_equal(found.parameters[name], value)
    assert np.array_equal(quantize_with_inputs(w, gram, scheme).codes, found.codes)


@pytest.mark.parametrize("scheme", [Scheme("linear", 3, 50), Scheme("linear", 2, 32, "mse"), Scheme("kmeans", 2, 150)], ids=str)
def test_over_many_blocks_of_columns_most_of_the_error_goes(scheme: Scheme) -> None:
    w, gram = random(0, 8, 300), gram_of(1, 300, 60)
    plain, found = (float(errors(w, gram, f).sum()) for f in (quantize(w, scheme), quantize_with_inputs(w, gram, scheme)))
    assert found < 0.3 * plain


def test_inputs_that_do_not_go_together_leave_plain_rounding_as_it_is() -> None:
    """Where H is diagonal, the nearest value of each weight is the best."""
    w, scheme = random(0, 4, 12), Scheme("linear", 3, 12)
    found = quantize_with_inputs(w, torch.diag(torch.arange(1.0, 13)), scheme)
    assert np.array_equal(found.codes, quantize(w, scheme).codes)
    assert np.array_equal(quantize_with_inputs(w, torch.zeros(12, 12), scheme).codes, quantize(w, scheme).codes)


def test_small_rows_come_near_the_best_of_all_codes() -> None:
    """Of what plain rounding loses against the best of all codes, most is won over many rows; a single row has no such promise."""
    codes, scheme, total = torch.tensor(list(product((-1, 0, 1), repeat=4))).double(), Scheme("ternary", 2, 4), torch.zeros(3)
    for seed in range(40):
        w, gram = random(seed, 1, 4), gram_of(seed + 1, 4, 6)
        plain, found = quantize(w, scheme), quantize_with_inputs(w, gram, scheme)
        d = w.double() - float(plain.parameters["scale"][0]) * codes
        best = float(((d @ gram.double()) * d).sum(1).min())
        total += torch.tensor([best, *(float(errors(w, gram, each)[0]) for each in (found, plain))])
        assert errors(w, gram, found)[0] >= best - 1e-6
    best, found, plain = total.tolist()
    assert found - best < 0.25 * (plain - best)


def test_weights_on_the_grid_stay() -> None:
    w = torch.from_numpy(quantize(random(0, 4, 30), Scheme("linear", 4, 10)).values())
    assert torch.equal(torch.from_numpy(quantize_with_inputs(w, gram_of(1, 30, 50), Scheme("linear", 4, 10)).values()), w)


@pytest.mark.parametrize("gram", [torch.zeros(3, 3), torch.full((4, 4), torch.nan)])
def test_a_gram_that_does_not_fit_is_refused(gram: Tensor) -> None:
    with pytest.raises(InputError, match="gram: "):
        quantize_with_inputs(random(0, 2, 4), gram, Scheme("linear", 4, 4))
