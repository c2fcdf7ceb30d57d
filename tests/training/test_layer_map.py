"""Layer maps by name and as text, and the pairs that losses are taken over."""

import pytest

from penjing.errors import InputError
from penjing.training.layer_map import all_but_last_pair, last_pair, layer_map, layer_pairs, pairs_with_embeddings, spread


def test_maps() -> None:
    assert layer_map("uniform", 3, 6) == [(1, 2), (2, 4), (3, 6)]
    assert layer_map("last", 3, 6) == [(1, 4), (2, 5), (3, 6)]
    assert layer_map("first", 3, 6) == [(1, 1), (2, 2), (3, 3)]
    assert layer_map("descent", 3, 6, [0, 2, 5]) == [(1, 2), (2, 5), (3, 6)]
    assert layer_map("kept", 3, 6, [0, 2, 5]) == [(1, 1), (2, 3), (3, 6)]
    assert layer_map("kept", 3, 6, [0, 1, 2]) == [(1, 1), (2, 2), (3, 6)]
    assert layer_map("kept", 3, 6, [1, 3, 5]) == layer_map("kept", 3, 6, None) == layer_map("uniform", 3, 6)
    assert layer_map("uniform", 12, 6) == [(j, (j + 1) // 2) for j in range(1, 13)]  # no layer is taught the embeddings
    assert layer_map("descent", 3, 6, None) == layer_map("uniform", 3, 6)
    assert layer_map("1:2,3:6", 3, 6) == [(1, 2), (3, 6)]
    assert layer_map("0:0,1:2", 3, 6) == [(0, 0), (1, 2)]
    for wrong in ("1:7", "4:1", "0:0", "a:b", "1:2:3"):
        with pytest.raises(InputError, match="layer_map"):
            layer_map(wrong, 3, 6)
    with pytest.raises(InputError, match="not deeper"):
        layer_map("last", 6, 3)


@pytest.mark.parametrize("count", [1, 3, 4, 9, 12])
def test_levels_are_spread_and_hold_the_last(count: int) -> None:
    pairs = [(i, i) for i in range(10)]
    taken = spread(pairs, count)
    assert len(taken) == min(count, 10) and taken[-1] == (9, 9) and taken == sorted(set(taken))


def test_losses_are_taken_over_layers_with_or_without_embeddings() -> None:
    matched = [(0, 0), (1, 2), (2, 4)]
    assert layer_pairs(matched) == [(1, 2), (2, 4)] and last_pair(matched) == [(2, 4)]
    assert pairs_with_embeddings(matched[1:]) == pairs_with_embeddings(matched) == matched
    assert all_but_last_pair(matched) == [(1, 2)] and all_but_last_pair(matched[:2]) == [(1, 2)]
