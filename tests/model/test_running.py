"""Batches of texts on a model's device, and a model run block by block."""

import numpy as np
import pytest
import torch
from conftest import blueprints, penjing_model
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from penjing.blueprint import Blueprint, Layer
from penjing.model.run import batches, blocks_of, device_of, embedded, padded_batches, run_block, tensors
from penjing.model.watch import encoder_of, layers_of
from penjing.text.encoded import Encoded

TEXTS = st.lists(st.lists(st.integers(1, 7), min_size=1, max_size=4), min_size=1, max_size=20)
MODEL = nn.Linear(1, 1)


def encoded(rows: list[list[int]]) -> Encoded:
    return Encoded.of(rows, [[i % 2 for i in range(len(row))] for row in rows])


@given(TEXTS, st.integers(1, 5), st.integers(1, 9), st.booleans())
def test_batches_cover_each_text_once_in_exact_lengths(rows: list[list[int]], size: int, tokens: int, masked: bool) -> None:
    texts = encoded(rows)
    seen: list[int] = []
    for numbers, feeds in batches(MODEL, texts, size, tokens, masked=masked):
        assert feeds["input_ids"].tolist() == [rows[i] for i in numbers]
        assert feeds["token_type_ids"].tolist() == [[j % 2 for j in range(len(rows[i]))] for i in numbers]
        assert [*feeds] == ["input_ids", "token_type_ids", *(["attention_mask"] if masked else [])]
        assert not masked or feeds["attention_mask"].all()
        assert len(numbers) <= size and (len(numbers) == 1 or feeds["input_ids"].numel() <= tokens)
        seen += numbers.tolist()
    assert sorted(seen) == list(range(len(rows)))
    assert seen == [i for batch in texts.exact_batches(size, tokens) for i in batch]  # in the same order


@given(TEXTS, st.sampled_from([None, 0, 3]))
def test_padded_batches_are_those_that_are_ordered(rows: list[list[int]], pad: int | None) -> None:
    order = [np.array([i, 0]) for i in range(len(rows))]
    found = list(padded_batches(MODEL, encoded(rows), order, pad))
    assert [numbers.tolist() for numbers, _ in found] == [numbers.tolist() for numbers in order]
    for numbers, feeds in found:
        for i, ids, mask in zip(numbers, feeds["input_ids"], feeds["attention_mask"].bool(), strict=True):
            assert ids[mask].tolist() == rows[i] and (ids[~mask] == (pad or 0)).all()


def test_inputs_are_on_the_device_of_the_model() -> None:
    model = nn.Linear(1, 1, device="meta")
    assert device_of(model).type == "meta"
    texts = encoded([[1, 2], [3]])
    given_to_it = [feeds for _, feeds in [*batches(model, texts, 2, masked=True), *padded_batches(model, texts, [np.array([0, 1])], 0)]]
    assert all(value.device.type == "meta" for feeds in given_to_it for value in feeds.values())
    on_meta = tensors(texts.feeds(np.array([0])), torch.device("meta"))
    assert {name: value.shape for name, value in on_meta.items()} == dict.fromkeys(on_meta, (1, 2))


@given(blueprints(["sequence", "token"]), st.data())
@torch.no_grad()
def test_block_after_block_gives_what_the_model_gives(blueprint: Blueprint, data: st.DataObject) -> None:
    model = penjing_model(blueprint)
    token = st.integers(1, blueprint.vocabulary - 1)
    rows = data.draw(st.lists(st.lists(token, min_size=1, max_size=blueprint.positions), min_size=1, max_size=5))
    texts = Encoded.of(rows, [[0] * len(row) for row in rows])
    blocks = blocks_of(model)
    assert blocks == [block for layer in layers_of(model) for block in (layer.attention, layer.feed_forward)]
    states = embedded(model, texts, 2)
    for block in blocks:
        states = [run_block(block, x) for x in states]
    inputs = list(batches(model, texts, 2))
    for x, (_, feeds) in zip(states, inputs, strict=True):
        assert torch.equal(x, encoder_of(model)(**feeds).last_hidden_state)
        assert torch.equal(run_block(model.get_submodule("head"), x), model(**feeds).logits)


@pytest.mark.parametrize("masked", [False, True])
def test_a_mask_of_ones_changes_no_answer(masked: bool) -> None:
    model = penjing_model(Blueprint(60, 24, 2, 16, 16, 8, (Layer(2, 32),), "sequence", 3))
    texts = encoded([[1, 2, 3], [4, 5, 6]])
    ((_, feeds),) = batches(model, texts, 2, masked=masked)
    ((_, other),) = batches(model, texts, 2)
    with torch.no_grad():
        torch.testing.assert_close(model(**feeds).logits, model(**other).logits)
