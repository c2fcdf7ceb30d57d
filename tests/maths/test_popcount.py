"""The product of signs from packed bits is that of the signs, to the last unit."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from penjing.maths import fake, popcount
from penjing.maths.stored import Scheme, quantize


@given(st.integers(0, 6), st.integers(0, 7), st.integers(1, 200), st.integers(0, 99))
def test_the_product_of_packed_signs_is_that_of_the_signs(N: int, M: int, K: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    x, w = (random.normal(size=(rows, K)).round(1).astype(np.float32) for rows in (N, M))  # some are zero, and sign(0) = 1
    signs = [np.where(a >= 0, 1, -1) for a in (x, w)]
    packed = [popcount.pack_signs(a) for a in (x, w)]
    found = popcount.sign_product(*packed, K)
    assert found.dtype == np.int32 and all(p.dtype == np.uint64 and p.shape[1] == -(-K // 64) for p in packed)
    np.testing.assert_array_equal(found, signs[0] @ signs[1].T)


@given(st.lists(st.integers(0, 2**64 - 1), max_size=9))
def test_bits_are_counted_alike_with_and_without_numpys_own_operation(words: list[int]) -> None:
    array = np.array(words, np.uint64).reshape(-1, 1)
    expected = np.array([word.bit_count() for word in words], np.uint8).reshape(-1, 1)
    np.testing.assert_array_equal(popcount._by_table(array), expected)
    np.testing.assert_array_equal(popcount.count_bits(array), expected)


def test_many_rows_are_taken_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = (popcount.pack_signs(np.random.default_rng(seed).normal(size=(11, 130))) for seed in (0, 1))
    whole = popcount.sign_product(a, b, 130)
    monkeypatch.setattr(popcount, "AT_ONCE", 2 * b.size)
    np.testing.assert_array_equal(popcount.sign_product(a, b, 130), whole)


def test_a_layer_of_binary_weights_and_row_signs_is_a_product_of_signs() -> None:
    """K·α·(signs), as XNOR-Net, equation 11, has it."""
    generator = torch.Generator().manual_seed(0)
    x, w = torch.randn(5, 70, generator=generator), torch.randn(9, 70, generator=generator)
    coded = quantize(w, Scheme("binary", 1, 70))
    layer = fake.row_signs(x) @ torch.from_numpy(coded.values()).T
    K, alpha = x.abs().mean(1).numpy(), coded.parameters["scale"] / 2
    product = popcount.sign_product(popcount.pack_signs(x.numpy()), popcount.pack_signs(w.numpy()), 70)
    np.testing.assert_allclose(layer.numpy(), K[:, None] * alpha * product, rtol=1e-4, atol=1e-4)
