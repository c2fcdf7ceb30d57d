"""Laws of training a word table by its rows."""

import copy
from typing import Any

import torch
from conftest import penjing_model
from torch import nn
from torch.nn.utils import parametrize

from penjing.blueprint import Blueprint, Layer
from penjing.training.rows import RowAdamW, clip, sparse_words, word_tables

SMALL = Blueprint(60, 24, 2, 16, 16, 8, (Layer(2, 32),), "sequence", 2)
MASKED = Blueprint(60, 24, 2, 16, 16, 8, (Layer(2, 32),), "masked", 0)


def table(sparse: bool) -> nn.Embedding:
    torch.manual_seed(0)
    return nn.Embedding(12, 4, sparse=sparse)


def steps(embedding: nn.Embedding, optimizer: torch.optim.Optimizer, batches: list[list[int]]) -> torch.Tensor:
    for i, rows in enumerate(batches):
        optimizer.zero_grad()
        (embedding(torch.tensor(rows)) * torch.randn(len(rows), 4, generator=torch.Generator().manual_seed(i))).sum().backward()
        optimizer.step()
    return embedding.weight.detach()


def test_where_every_row_is_read_it_is_adamw() -> None:
    batches = [[*range(12), 3, 3], list(range(12)), [5, *range(12)]]
    one, two = table(False), table(True)
    options: dict[str, Any] = {"lr": 0.05, "weight_decay": 0.1}
    dense = steps(one, torch.optim.AdamW(one.parameters(), **options), batches)
    rows = steps(two, RowAdamW([{"params": [two.weight], "weight_decay": 0.1}], lr=0.05), batches)
    torch.testing.assert_close(rows, dense)


def test_a_row_that_is_not_read_stays() -> None:
    embedding = table(True)
    before = embedding.weight.detach().clone()
    after = steps(embedding, RowAdamW([{"params": [embedding.weight], "weight_decay": 0.1}], lr=0.05), [[1, 2], [2, 2, 7]])
    moved = (after != before).any(1).nonzero().flatten().tolist()
    assert moved == [1, 2, 7]


def test_a_state_that_is_loaded_goes_on_alike() -> None:
    embedding = table(True)
    optimizer = RowAdamW([{"params": [embedding.weight]}], lr=0.05)
    steps(embedding, optimizer, [[1, 2], [2, 3]])
    other, saved = copy.deepcopy(embedding), copy.deepcopy(optimizer.state_dict())
    again = RowAdamW([{"params": [other.weight]}], lr=0.05)
    again.load_state_dict(saved)
    assert torch.equal(steps(embedding, optimizer, [[1, 9]]), steps(other, again, [[1, 9]]))


def test_clipping_is_that_of_torch_whatever_the_gradients_are() -> None:
    for limit in (0.01, 1e6):
        gradients = []
        for sparse in (False, True):
            torch.manual_seed(0)
            embedding, linear = nn.Embedding(12, 4, sparse=sparse), nn.Linear(4, 3)
            linear(embedding(torch.tensor([1, 1, 5]))).square().sum().backward()
            parameters = [*embedding.parameters(), *linear.parameters()]
            if sparse:
                clip(parameters, limit)
            else:
                torch.nn.utils.clip_grad_norm_(parameters, limit)
            gradients.append([g.to_dense() if (g := p.grad) is not None and g.is_sparse else p.grad for p in parameters])
        for a, b in zip(*gradients, strict=True):
            torch.testing.assert_close(a, b)


def test_tables_that_are_rounded_or_shared_with_a_head_keep_dense_gradients() -> None:
    model = penjing_model(SMALL)
    assert len(word_tables(model)) == 1 and word_tables(penjing_model(MASKED)) == []
    parametrize.register_parametrization(model.encoder.embeddings.word, "weight", nn.Identity())
    assert word_tables(model) == []


def test_it_is_switched_off_again() -> None:
    model = penjing_model(SMALL)
    for on in (True, False):
        sparse_words(model, on=on)
        model.zero_grad()
        model(torch.tensor([[3, 4]])).logits.sum().backward()
        assert model.encoder.embeddings.word.weight.grad.is_sparse == on
