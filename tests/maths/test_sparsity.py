"""Laws of the masks and of the schedules."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from penjing.maths.sparsity import SCOPES, cosine_decay, cubic_sparsity, iterative_sparsity, keep_mask

SPARSITIES = st.floats(0, 0.99)
PARTS = st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted)


@st.composite
def matrices(draw: st.DrawFn) -> list[Tensor]:
    """One to four matrices of small whole numbers, so that many scores are equal."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    shapes = draw(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=4))
    levels = draw(st.sampled_from([1, 3, 1000]))
    return [torch.randint(0, levels, shape, generator=generator).float() for shape in shapes]


def groups(tensors: list[Tensor], scope: str) -> list[Tensor]:
    """The entries that share a threshold, each group flat."""
    if scope == "global":
        return [torch.cat([t.flatten() for t in tensors])]
    return [t.flatten() for t in tensors] if scope == "layer" else [row for t in tensors for row in t]


@given(matrices(), SPARSITIES, st.sampled_from(SCOPES))
def test_the_lowest_go_the_first_of_equal_ones_stay_and_the_count_is_exact(scores: list[Tensor], sparsity: float, scope: str) -> None:
    masks = keep_mask(scores, sparsity, scope)
    assert [m.shape for m in masks] == [s.shape for s in scores]
    for score, mask in zip(groups(scores, scope), groups(masks, scope), strict=True):
        order = sorted(range(len(score)), key=lambda i: (-score[i].item(), i))
        kept = order[: len(score) - round(sparsity * len(score))]
        assert mask.nonzero().flatten().tolist() == sorted(kept)


@given(matrices(), SPARSITIES, SPARSITIES, st.sampled_from(SCOPES))
def test_a_higher_sparsity_keeps_a_part_of_what_a_lower_one_does(scores: list[Tensor], a: float, b: float, scope: str) -> None:
    low, high = (keep_mask(scores, s, scope) for s in sorted((a, b)))
    assert not any((h & ~m).any() for m, h in zip(low, high, strict=True))


@given(matrices(), SPARSITIES, st.sampled_from(SCOPES))
def test_a_mask_is_its_own_mask(scores: list[Tensor], sparsity: float, scope: str) -> None:
    masks = keep_mask(scores, sparsity, scope)
    assert all(torch.equal(a, b) for a, b in zip(keep_mask([m.float() for m in masks], sparsity, scope), masks, strict=True))


def test_the_scope_is_what_shares_a_threshold() -> None:
    scores = [torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[5.0, 6.0], [7.0, 8.0]])]
    kept = {scope: [m.int().tolist() for m in keep_mask(scores, 0.5, scope)] for scope in SCOPES}
    assert kept == {
        "global": [[[0, 0], [0, 0]], [[1, 1], [1, 1]]],
        "layer": [[[0, 0], [1, 1]], [[0, 0], [1, 1]]],
        "row": [[[0, 1], [0, 1]], [[0, 1], [0, 1]]],
    }
    assert all(keep_mask([], 0.5, scope) == [] for scope in SCOPES)


@given(PARTS, st.floats(0, 0.99), st.integers(1, 300), st.integers(1, 9))
def test_sparsity_rises_from_nothing_at_start_to_final_at_end(parts: list[float], final: float, total: int, rounds: int) -> None:
    start, end = parts
    for curve in (
        [cubic_sparsity(step, total, start, end, 0.0, final) for step in range(total + 1)],
        [iterative_sparsity(step, total, start, end, rounds, final) for step in range(total + 1)],
    ):
        assert all(a <= b + 1e-12 for a, b in pairwise(curve))
        for step, value in enumerate(curve):
            assert value == final if step >= end * total else step > start * total or value == 0
            assert 0 <= value <= final + 1e-12


def test_the_cubic_curve_and_the_rounds_by_hand() -> None:
    assert cubic_sparsity(50, 100, 0.0, 1.0, 0.0, 0.8) == pytest.approx(0.8 * (1 - 0.5**3))
    assert cubic_sparsity(30, 100, 0.2, 0.6, 0.1, 0.9) == pytest.approx(0.9 - 0.8 * 0.75**3)
    curve = [iterative_sparsity(step, 80, 0.0, 0.5, 2, 0.75) for step in (0, 19, 20, 39, 40, 79)]
    assert curve == pytest.approx([0, 0, 0.5, 0.5, 0.75, 0.75])


def test_the_cosine_falls_from_initial_to_nothing() -> None:
    values = [cosine_decay(step, 10, 0.4) for step in range(14)]
    assert values[0] == 0.4 and values[5] == pytest.approx(0.2) and values[10:] == [0.0] * 4
    assert values == sorted(values, reverse=True)
    assert cosine_decay(0, 0, 0.4) == 0.0
