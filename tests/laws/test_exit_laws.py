"""Laws of exits: they change no last answer, and stay behind the layers that they were behind."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import blueprints, own_inputs, penjing_model, selections
from hypothesis import given
from hypothesis import strategies as st
from masking import mask
from torch import Tensor

from penjing.blueprint import Blueprint, Layer
from penjing.errors import InputError
from penjing.model.building import blueprint_of, build, with_exits
from penjing.model.checkpoint import open_checkpoint, read
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.model.surgery import cut
from penjing.model.writing import write
from penjing.selection import LayerSelection, Selection

DEEP = Blueprint(40, 16, 2, 12, 12, 4, (Layer(3, 24), Layer(2, 5), Layer(1, 8), Layer(2, 7)), "sequence", 2, exits=(1, 3))


@torch.no_grad()
def answers(model: PenjingPreTrainedModel, inputs: dict[str, Tensor]) -> tuple[Tensor, ...]:
    """Those of each exit, and the last."""
    output = model(**inputs, output_exit_logits=True)
    return (*output.exit_logits, output.logits)


@given(blueprints(["sequence"]), st.integers(0, 99))
def test_exits_change_no_last_answer(blueprint: Blueprint, seed: int) -> None:
    model, inputs = penjing_model(blueprint, seed), own_inputs(blueprint, seed)
    plain = with_exits(model, ())
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, plain(**inputs).logits)
        assert model(**inputs).get("exit_logits") is None and model(**inputs).hidden_states is None
    assert torch.equal(answers(model, inputs)[-1], answers(plain, inputs)[0])
    assert blueprint_of(model) == blueprint and not blueprint_of(plain).exits


@given(blueprints(["sequence"], min_layers=2), st.integers(0, 99))
def test_an_exit_answers_as_the_model_that_ends_there(blueprint: Blueprint, seed: int) -> None:
    blueprint = replace(blueprint, exits=(1,))
    model, inputs = penjing_model(blueprint, seed), own_inputs(blueprint, seed)
    with torch.no_grad():
        model.exits.load_state_dict({f"0.{name}": value for name, value in model.head.state_dict().items()})
    first = cut(model, Selection(Selection.all(blueprint).layers[:1]))
    torch.testing.assert_close(answers(model, inputs)[0], answers(first, inputs)[0])


@given(st.data(), st.integers(0, 99))
def test_a_cut_keeps_the_answers_of_the_exits_that_stay(data: st.DataObject, seed: int) -> None:
    blueprint = data.draw(blueprints(["sequence"]))
    selection = replace(data.draw(selections(blueprint)), tokens=None)
    model, inputs = penjing_model(blueprint, seed), own_inputs(blueprint, seed)
    small = cut(model, selection)
    mask(model, selection)
    whole = answers(model, inputs)
    left = [*selection.exits(blueprint).values()]
    assert blueprint_of(small).exits == tuple(selection.exits(blueprint)) and left == sorted(set(left))
    for number, answer in zip(left, answers(small, inputs), strict=False):
        torch.testing.assert_close(answer, whole[number], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("kept", "exits"),
    [
        ((0, 1, 2, 3), {1: 0, 3: 1}),
        ((1, 2, 3), {2: 1}),
        ((0, 3), {1: 1}),
        ((0, 1), {1: 0}),
        ((3,), {}),
        ((), {}),
        ((0, 2, 3), {1: 0, 2: 1}),
    ],
)
def test_an_exit_of_a_removed_layer_stands_behind_the_one_before_or_goes(kept: tuple[int, ...], exits: dict[int, int]) -> None:
    assert Selection(tuple(LayerSelection(i, (), ()) for i in kept)).exits(DEEP) == exits


@pytest.mark.parametrize("packed", [False, True])
@given(blueprint=blueprints(["sequence"]))
def test_reading_gives_what_was_written(blueprint: Blueprint, packed: bool, tmp_path_factory: pytest.TempPathFactory) -> None:
    model, inputs = penjing_model(blueprint), own_inputs(blueprint)
    folder = tmp_path_factory.mktemp("model") / "here"
    write(model, folder, packed=packed)
    same = read(folder)
    assert blueprint_of(same) == open_checkpoint(folder).blueprint == blueprint
    assert all(torch.equal(a, b) for a, b in zip(answers(same, inputs), answers(model, inputs), strict=True))
    assert not blueprint_of(read(folder, head="none")).exits


def test_other_names_of_the_labels_move_the_outputs_of_every_exit(tmp_path: Path) -> None:
    model = penjing_model(DEEP, id2label={0: "no", 1: "yes"}, label2id={"no": 0, "yes": 1})
    write(model, tmp_path / "model")
    inputs = own_inputs(DEEP)
    for ours, theirs in zip(answers(read(tmp_path / "model", labels=["yes", "no"]), inputs), answers(model, inputs), strict=True):
        torch.testing.assert_close(ours, theirs.flip(-1))


def test_new_exits_begin_as_the_last_head_and_old_ones_stay() -> None:
    model = with_exits(penjing_model(DEEP), (2, 3))
    heads = [head.state_dict() for head in (model.head, *model.exits)]
    assert all(torch.equal(heads[0][name], heads[1][name]) for name in heads[0])
    assert torch.equal(heads[2]["out.weight"], penjing_model(DEEP).exits[1].out.weight)


@pytest.mark.parametrize("exits", [(0,), (4,), (2, 2), (3, 1), (-1,)])
def test_exits_that_cannot_be_are_refused(exits: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="exits"):
        replace(DEEP, exits=exits)


def test_costs_and_json_know_of_exits() -> None:
    plain = replace(DEEP, exits=())
    assert DEEP.parameters == sum(weight.numel() for weight in build(DEEP).parameters())
    assert DEEP.parameters - plain.parameters == 2 * (12 * 12 + 12 + 2 * 12 + 2) and DEEP.macs(9) == plain.macs(9)
    assert Blueprint.from_json(DEEP.to_json()) == DEEP and "exits" not in plain.to_json() and not DEEP.uniform
    with pytest.raises(InputError, match="answers no text"):
        replace(DEEP, head="token")
