"""Factorising the word table: exact at full rank, nearest below it, and the model is a model like any other."""

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import blueprints, logits, own_inputs, penjing_model
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from penjing.blueprint import Blueprint, Layer
from penjing.errors import InputError
from penjing.model.building import blueprint_of
from penjing.model.checkpoint import read
from penjing.model.modeling_penjing import PenjingConfig
from penjing.model.surgery import cut
from penjing.model.writing import write
from penjing.selection import Selection
from penjing.steps.cut.sparsify import masked_modules, sparsity_for
from penjing.steps.reshape.factorise import Factorise, factorise
from penjing.tasks.task import Examples
from penjing.text.encoded import Encoded

WHOLE = Blueprint(40, 12, 2, 12, 12, 4, (Layer(3, 9), Layer(2, 6)), "sequence", 3)


def table(model: Any) -> Tensor:
    """The whole word table (V, E)."""
    embeddings, width = model.base_model.embeddings, model.config.embedding_size
    table: Tensor = embeddings.unembed(torch.eye(width)[None], torch.zeros(model.config.vocab_size))[0].T.detach()
    return table


def examples(blueprint: Blueprint, seed: int = 0) -> Examples:
    """Texts that hold the first half of the tokens alone, the low numbers more often."""
    random = np.random.default_rng(seed)
    rows = [np.minimum(random.geometric(0.1, 8), blueprint.vocabulary // 2).tolist() for _ in range(20)]
    return Examples(Encoded.of(rows, [[0] * 8] * 20), [""] * 20, [None] * 20, [[]] * 20, 0)


@given(blueprints(), st.integers(0, 99))
def test_full_rank_is_exact_and_the_input_is_left_alone(blueprint: Blueprint, seed: int) -> None:
    model, inputs = penjing_model(blueprint, seed), own_inputs(blueprint, seed)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    same = factorise(model, blueprint.embedding)
    assert blueprint_of(same) == replace(blueprint, rank=blueprint.embedding)
    torch.testing.assert_close(logits(same, inputs), logits(model, inputs), rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        for weight in same.parameters():
            weight += 1
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@given(blueprints(), st.data(), st.integers(0, 99))
def test_the_error_is_the_tail_of_the_weighted_singular_values(blueprint: Blueprint, data: Any, seed: int) -> None:
    rank = data.draw(st.integers(1, blueprint.embedding))
    model, weights = penjing_model(blueprint, seed), torch.rand(blueprint.vocabulary, generator=torch.Generator().manual_seed(seed))
    small = factorise(model, rank, weights)
    missing = (weights * (table(small) - table(model)).square().sum(1)).sum()
    values = torch.linalg.svdvals(weights.sqrt()[:, None] * table(model))
    assert float(missing) == pytest.approx(float(values[rank:].square().sum()), rel=1e-3, abs=1e-5 * float(values.square().sum()))
    torch.testing.assert_close(table(factorise(small, rank, weights)), table(small), rtol=1e-3, atol=1e-4)  # once is enough


@given(blueprints(), st.data(), st.integers(0, 99))
def test_nothing_but_the_word_table_changes(blueprint: Blueprint, data: Any, seed: int) -> None:
    model = penjing_model(blueprint, seed)
    small = factorise(model, data.draw(st.integers(1, blueprint.embedding)))
    old, new = model.state_dict(), small.state_dict()
    changed = {name for name in old.keys() | new.keys() if name not in old or name not in new or not torch.equal(old[name], new[name])}
    assert {name.removeprefix("encoder.") for name in changed} <= {"embeddings.word.weight", "embeddings.word_map.weight"}


def test_leaving_out_tokens_leaves_out_rows() -> None:
    model, kept = factorise(penjing_model(WHOLE), 5), (0, 3, 4, 17, 39)
    small = cut(model, replace(Selection.all(WHOLE), tokens=kept))
    assert torch.equal(small.base_model.embeddings.word.weight, model.base_model.embeddings.word.weight[list(kept)])
    torch.testing.assert_close(table(small), table(model)[list(kept)])


def test_leaving_out_hidden_units_leaves_out_columns_of_the_product() -> None:
    model, kept = factorise(penjing_model(WHOLE), 5), (0, 2, 3, 7, 11)
    small = cut(model, replace(Selection.all(WHOLE), hidden=kept))
    assert torch.equal(small.base_model.embeddings.word.weight, model.base_model.embeddings.word.weight)
    torch.testing.assert_close(table(small), table(model)[:, list(kept)])


@given(blueprints(), st.integers(0, 99))
def test_embeddings_may_be_given_in_place_of_tokens(blueprint: Blueprint, seed: int) -> None:
    model, inputs = penjing_model(blueprint, seed), own_inputs(blueprint, seed)
    given_words = {"inputs_embeds": model.get_input_embeddings()(inputs["input_ids"]).detach()}
    rest = {name: value for name, value in inputs.items() if name != "input_ids"}
    assert given_words["inputs_embeds"].shape[-1] == blueprint.word_width
    assert torch.equal(logits(model, given_words | rest), logits(model, inputs))


@pytest.mark.parametrize("packed", [False, True])
@settings(max_examples=5)
@given(blueprint=blueprints(), seed=st.integers(0, 99))
def test_a_file_gives_the_model_back(packed: bool, tmp_path: Path, blueprint: Blueprint, seed: int) -> None:
    model, inputs = factorise(penjing_model(blueprint, seed), min(3, blueprint.embedding)), own_inputs(blueprint, seed)
    folder = tmp_path / "model"
    write(model, folder, packed=packed)
    for back in (read(folder), type(model).from_pretrained(folder).eval()):
        assert blueprint_of(back) == blueprint_of(model)
        assert torch.equal(logits(deepcopy(back), inputs), logits(model, inputs))  # a copy: in a mapped file numbers lie otherwise


def test_a_uniform_encoder_with_a_rank_travels_with_its_code(tmp_path: Path) -> None:
    uniform = replace(WHOLE, layers=(Layer(3, 9), Layer(3, 9)))
    whole = penjing_model(uniform, origin={"model_type": "bert", "pad_token_id": 0})
    write(whole, tmp_path / "whole")
    write(factorise(whole, 4), tmp_path / "small")
    assert json.loads((tmp_path / "whole" / "config.json").read_text())["model_type"] == "bert"
    assert json.loads((tmp_path / "small" / "config.json").read_text())["embedding_rank"] == 4
    assert (tmp_path / "small" / "modeling_penjing.py").is_file()


def test_a_model_saved_before_there_were_ranks_is_read(tmp_path: Path) -> None:
    write(penjing_model(WHOLE), tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config.pop("embedding_rank") == 0
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    assert blueprint_of(read(tmp_path / "model")) == WHOLE
    fields = WHOLE.to_dict()
    assert fields.pop("rank") == 0 and Blueprint.from_dict(fields) == WHOLE


def test_both_factors_are_trained() -> None:
    model = factorise(penjing_model(WHOLE), 4).train()
    model(**own_inputs(WHOLE), labels=torch.tensor([0, 1, 2])).loss.backward()
    for module in (model.base_model.embeddings.word, model.base_model.embeddings.word_map):
        assert module.weight.grad.abs().max() > 0


def test_a_sparse_model_of_a_size_counts_the_table_that_is_stored() -> None:
    model = factorise(penjing_model(WHOLE), 4)
    blueprint = blueprint_of(model)
    size = 3 * blueprint.parameters
    left = 1 - sparsity_for(blueprint, size, embeddings=True)
    weights = sum(matrix.weight.numel() for matrix in masked_modules(model, embeddings=True))
    assert 4 * (blueprint.parameters - weights) + weights / 8 + 4 * left * weights == pytest.approx(size)


# -- the step ------------------------------------------------------------------------------------------------------


def test_the_step_counts_plans_and_applies() -> None:
    model, data = penjing_model(WHOLE), examples(WHOLE)
    step = Factorise(6)
    counts = step.observe(model, data)
    assert counts.tolist() == [int((data.encoded.ids == token).sum()) for token in range(WHOLE.vocabulary)] and counts[30] == 0
    plan = step.plan(WHOLE, counts)
    assert plan == replace(WHOLE, rank=6) and plan.parameters == WHOLE.parameters - 40 * 12 + 40 * 6 + 6 * 12
    missing = []
    for result in (step.apply(model, plan, counts), factorise(model, 6)):
        assert blueprint_of(result) == plan
        missing.append((torch.from_numpy(counts + 1) * (table(result) - table(model)).square().sum(1)).sum())
    assert missing[0] < missing[1]


@pytest.mark.parametrize("rank", [0, 13])
def test_a_rank_that_cannot_be_is_refused(rank: int) -> None:
    with pytest.raises(InputError, match=f"rank: {rank} is not allowed; .* give 1 to 12"):
        factorise(penjing_model(WHOLE), rank)


@pytest.mark.parametrize("weights", [torch.ones(39), torch.ones(40, 1), -torch.ones(40), torch.full((40,), torch.nan)])
def test_weights_that_cannot_be_are_refused(weights: Tensor) -> None:
    with pytest.raises(InputError, match="give 40, one a token"):
        factorise(penjing_model(WHOLE), 4, weights)


def test_a_configuration_without_a_rank_has_a_whole_table() -> None:
    assert PenjingConfig().embedding_rank == 0 and penjing_model(WHOLE).base_model.embeddings.word_map is None
