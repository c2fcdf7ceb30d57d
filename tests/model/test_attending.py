"""Forms of attention and dropped tokens: exact where they must be, the same with padding and without, and written with the model."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import batch, blueprints, logits, own_inputs, penjing_model
from hypothesis import given
from hypothesis import strategies as st

from penjing.blueprint import Blueprint, Layer
from penjing.engines.form import FLOAT_FORMS, INT8_FORMS, PORTABLE_FLOAT, Form
from penjing.engines.onnx.export import export
from penjing.engines.opening import open_engine
from penjing.engines.parity import PARITY
from penjing.errors import InputError
from penjing.model.attending import left_of, places_left, pooled, within
from penjing.model.building import build
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.model.surgery import cut
from penjing.model.watch import layers_of
from penjing.selection import LayerSelection, Selection
from penjing.steps.bits.calibrate import calibrate
from penjing.text.encoded import Encoded
from penjing.training.predict import logits_of

WHOLE = Blueprint(40, 16, 2, 12, 12, 4, (Layer(3, 24), Layer(2, 5)), "sequence", 2)
DROPPING = WHOLE.with_layers((Layer(3, 24, tokens=60), Layer(2, 9, tokens=50), Layer(2, 5)))
MIXED = WHOLE.with_layers((Layer(3, 24, tokens=70), *(Layer(2, 9, "", None, form, 3) for form in ("window", "low-rank", "fixed"))))


def as_form(model: PenjingPreTrainedModel, blueprint: Blueprint, form: str, span: int) -> PenjingPreTrainedModel:
    """The same weights, with another form of attention in all layers."""
    layers = tuple(replace(layer, attention=form, span=span) for layer in blueprint.layers)  # type: ignore[arg-type]
    result = build(blueprint.with_layers(layers), model.config)
    result.load_state_dict(model.state_dict(), strict=False)
    return result


@pytest.mark.parametrize("form,span", [("window", 15), ("window", 99), ("low-rank", 16)])
@pytest.mark.parametrize("head", ["sequence", "token"])
def test_a_window_or_rows_as_long_as_the_text_are_full_attention(head: str, form: str, span: int) -> None:
    blueprint = replace(WHOLE, head=head)
    model, inputs = penjing_model(blueprint), own_inputs(blueprint)
    torch.testing.assert_close(logits(as_form(model, blueprint, form, span), inputs), logits(model, inputs), rtol=1e-5, atol=1e-5)


def test_low_rank_rows_begin_exact_on_texts_no_longer_than_they_are_many() -> None:
    model, inputs = penjing_model(WHOLE), batch([5, 3], vocabulary=40, token_types=2)
    torch.testing.assert_close(logits(as_form(model, WHOLE, "low-rank", 5), inputs), logits(model, inputs), rtol=1e-5, atol=1e-5)
    longer = batch([9], vocabulary=40, token_types=2)
    assert not torch.allclose(logits(as_form(model, WHOLE, "low-rank", 5), longer), logits(model, longer), atol=1e-4)


@given(blueprints(min_layers=1), st.integers(0, 99))
def test_padding_changes_no_answer(blueprint: Blueprint, seed: int) -> None:
    model, inputs = penjing_model(blueprint, seed), own_inputs(blueprint, seed)
    together = logits(model, inputs)
    for row, length in enumerate(inputs["attention_mask"].sum(1).tolist()):
        alone = logits(model, {name: value[row : row + 1, :length] for name, value in inputs.items() if name != "attention_mask"})[0]
        torch.testing.assert_close(together[row] if together.ndim == 2 else together[row, :length], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("blueprint", [DROPPING, MIXED], ids=["dropping", "mixed"])
def test_padding_changes_no_answer_where_tokens_are_dropped(blueprint: Blueprint) -> None:
    model, inputs = penjing_model(blueprint), batch([16, 1, 9, 4], vocabulary=40, token_types=2)
    together = logits(model, inputs)
    for row, length in enumerate((16, 1, 9, 4)):
        alone = {name: value[row : row + 1, :length] for name, value in inputs.items()}
        torch.testing.assert_close(logits(model, alone)[0], together[row], rtol=1e-5, atol=1e-5)


def test_a_window_sees_its_neighbours_and_the_first_token() -> None:
    seen = within(None, 6, 1, torch.device("cpu"))[0, 0]
    assert seen[0].all() and seen[:, 0].all()
    assert seen[3].tolist() == [True, False, True, True, True, False]


def test_empty_rows_and_padding_count_nothing() -> None:
    x, E = torch.randn(2, 4, 3), torch.tensor([[1.0, 1, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]])
    mask = torch.tensor([[True, True, True, False], [True, False, False, False]])[:, None, None]
    rows, bias = pooled(x, E, mask)
    torch.testing.assert_close(rows[0, 0], x[0, :2].mean(0))
    torch.testing.assert_close(rows[0, 1], x[0, 2])
    torch.testing.assert_close(bias.exp()[:, 0, 0].round(decimals=6), torch.tensor([[2.0, 1, 0], [1, 0, 0]]))


@given(st.integers(1, 40), st.integers(1, 100), st.integers(0, 99))
def test_the_first_and_the_most_significant_tokens_are_kept_in_order(length: int, percent: int, seed: int) -> None:
    significance = torch.rand(3, length, generator=torch.Generator().manual_seed(seed))
    places = places_left(significance, None, percent)
    assert places.shape == (3, -(-length * percent // 100))
    assert (places[:, 0] == 0).all() and (places.diff(dim=1) > 0).all()
    for row, kept in zip(significance[:, 1:], places[:, 1:] - 1, strict=True):
        left = sorted(set(range(length - 1)) - set(kept.tolist()))
        assert not len(kept) or not left or row[kept].min() >= row[left].max()
    assert int(left_of(length, 100)) == length


def test_all_tokens_of_a_hundred_percent_and_none_dropped_are_the_same() -> None:
    model, inputs = penjing_model(DROPPING), own_inputs(DROPPING)
    kept = build(DROPPING.with_layers(tuple(replace(layer, tokens=100) for layer in DROPPING.layers)), model.config)
    kept.load_state_dict(model.state_dict())
    assert not torch.allclose(logits(kept, inputs), logits(model, inputs), atol=1e-4)
    nearly = build(DROPPING.with_layers(tuple(replace(layer, tokens=99) for layer in DROPPING.layers)), model.config)
    nearly.load_state_dict(model.state_dict())
    torch.testing.assert_close(logits(nearly, inputs), logits(kept, inputs), rtol=1e-5, atol=1e-5)  # ceil(0.99 · 16) = 16


def test_so_many_tokens_run_as_the_blueprint_tells() -> None:
    model = penjing_model(DROPPING)
    states = model(**batch([16], vocabulary=40, token_types=2), output_hidden_states=True).hidden_states
    assert [state.shape[1] for state in states] == [*DROPPING.lengths(16), 5] == [16, 10, 5, 5]


def test_a_pruned_head_takes_its_row_of_the_pattern_with_it_and_rows_go_with_the_last_head() -> None:
    model = penjing_model(MIXED)
    small = cut(model, Selection(tuple(LayerSelection(i, kept, (0,)) for i, kept in enumerate([(0, 2), (0,), (), (1,)]))))
    whole, left = layers_of(model)[3].attention.pattern, layers_of(small)[3].attention.pattern
    assert torch.equal(left, whole[1:]) and layers_of(small)[2].attention.pooling is None


def encoded(seed: int = 0) -> Encoded:
    random = np.random.default_rng(seed)
    return Encoded.of([random.integers(1, 40, n).tolist() for n in (16, 3, 9, 16, 5, 1, 12)], [[0] * n for n in (16, 3, 9, 16, 5, 1, 12)])


@pytest.mark.parametrize("blueprint", [DROPPING, MIXED, replace(WHOLE, position_rank=5)], ids=["dropping", "mixed", "positions"])
def test_every_form_runs_in_every_engine(blueprint: Blueprint, tmp_path: Path) -> None:
    model, texts = penjing_model(blueprint), encoded()
    ranges = calibrate(model, texts)
    forms = (*FLOAT_FORMS, *INT8_FORMS)
    export(model, tmp_path, forms, ranges, segments=False)
    expected = logits_of(model, texts)
    for form in forms:
        found = open_engine(form, tmp_path, 1).logits(texts)
        apart = max(float(np.abs(a - b).max()) for a, b in zip(expected, found, strict=True))
        assert apart <= (0.5 if form.int8 else PARITY), form.name
    session = open_engine(Form("", "onnxruntime", PORTABLE_FLOAT), tmp_path, 1)
    padded = session.run(texts.padded(np.arange(len(texts)), 5))
    np.testing.assert_allclose(padded, np.stack(expected), rtol=1e-4, atol=1e-4)


def test_a_form_of_attention_that_has_no_queries_is_said_to_have_none() -> None:
    from penjing.model.watch import Part, encoder_of

    encoder = encoder_of(penjing_model(MIXED))
    with pytest.raises(InputError, match="layer 4 has fixed heads"):
        Part("queries", 4).module(encoder)
    assert Part("values", 4).module(encoder) is layers_of(encoder)[3].attention.value
