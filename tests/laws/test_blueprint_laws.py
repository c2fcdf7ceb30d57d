"""Laws of the blueprint: it survives JSON and a model, counts what the model holds, and planning never raises a cost."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from conftest import blueprints, cuts, penjing_model
from hypothesis import given, settings
from hypothesis import strategies as st

from penjing.blueprint import Blueprint, Layer
from penjing.errors import InputError
from penjing.model.building import blueprint_of, build, model_class_of
from penjing.model.checkpoint import open_checkpoint, read
from penjing.model.modeling_penjing import PenjingConfig
from penjing.model.writing import write
from penjing.selection import Selection

WHOLE = Blueprint(40, 16, 2, 12, 12, 4, (Layer(3, 24), Layer(2, 5)), "sequence", 2)


@given(blueprints(), st.sampled_from([2, 4, 8, 32]))
def test_json_gives_the_blueprint_back(blueprint: Blueprint, bits: int) -> None:
    blueprint = replace(blueprint, bits=bits)
    back = Blueprint.from_json(blueprint.to_json())
    assert back == blueprint and hash(back) == hash(blueprint)
    assert Blueprint.from_dict(json.loads(json.dumps(blueprint.to_dict()))) == blueprint


@given(blueprints())
def test_a_built_model_gives_the_blueprint_back(blueprint: Blueprint) -> None:
    model = build(blueprint)
    assert isinstance(model, model_class_of(blueprint.head))
    assert blueprint_of(model) == blueprint
    assert not model.training


@settings(max_examples=10)
@given(blueprint=blueprints())
def test_a_written_model_gives_the_blueprint_back(blueprint: Blueprint, tmp_path: Path) -> None:
    write(penjing_model(blueprint), tmp_path / "model")
    assert open_checkpoint(tmp_path / "model").blueprint == blueprint
    assert blueprint_of(read(tmp_path / "model")) == blueprint


@given(blueprints())
def test_parameters_are_those_of_the_built_model(blueprint: Blueprint) -> None:
    model = build(blueprint)
    assert sum(weight.numel() for weight in model.parameters()) == blueprint.parameters
    assert sum(value.numel() for value in model.state_dict().values()) == blueprint.parameters


@given(blueprints())
def test_bytes_fall_with_bits(blueprint: Blueprint) -> None:
    sizes = [replace(blueprint, bits=bits).bytes for bits in (1, 2, 4, 8, 16, 32)]
    assert all(low < high for low, high in pairwise(sizes))
    assert sizes[-1] == 4 * blueprint.parameters
    assert sizes[3] == blueprint.matrices + 4 * blueprint.vectors


@given(cuts(), st.integers(1, 64))
def test_planning_never_raises_a_cost(cut: tuple[Blueprint, Selection], length: int) -> None:
    blueprint, selection = cut
    plan = selection.plan(blueprint)
    assert plan.parameters <= blueprint.parameters
    assert plan.bytes <= blueprint.bytes
    assert plan.macs(length) <= blueprint.macs(length)
    assert plan.parameters < blueprint.parameters or selection == Selection.all(blueprint)


@given(blueprints(), st.integers(1, 32))
def test_macs_grow_with_the_length(blueprint: Blueprint, length: int) -> None:
    constant = blueprint.macs(0)  # keys and values of pooled rows
    assert blueprint.macs(2 * length) - constant >= 2 * (blueprint.macs(length) - constant)
    assert (constant == 0) == all(layer.attention != "low-rank" or not layer.heads for layer in blueprint.layers)


def test_macs_count_every_form_of_attention() -> None:
    def macs(length: int, **form: Any) -> int:
        return replace(WHOLE, layers=(Layer(3, 24, **form),)).macs(length)

    neurons, inner = 2 * 24 * 12, 3 * 4
    assert macs(7, attention="window", span=1) == 7 * (12 * 4 * inner + neurons) + 2 * 7 * 4 * inner
    assert macs(7, attention="window", span=9) == macs(7)
    assert macs(7, attention="low-rank", span=2) == 7 * (12 * 2 * inner + neurons) + 2 * 12 * 2 * inner + 2 * 7 * 12 + 2 * 7 * 2 * inner
    assert macs(7, attention="fixed", span=2) == 7 * (12 * 2 * inner + neurons) + 7 * 7 * inner
    assert macs(7, tokens=50) == 7 * 12 * 2 * inner + 4 * (12 * 2 * inner + neurons) + 2 * 4 * 7 * inner


@pytest.mark.parametrize(
    "layer,message",
    [
        (Layer(3, 24, attention="sparse"), "allowed are full, window, low-rank, fixed"),  # type: ignore[arg-type]
        (Layer(3, 24, span=2), "for full attention it must be 0"),
        (Layer(3, 24, attention="window"), "must be at least 1"),
        (Layer(3, 24, attention="low-rank", span=17), "1 to 16, the positions"),
        (Layer(3, 24, tokens=0), "a percent, 1 to 100"),
        (Layer(3, 24, attention="fixed", span=2, tokens=50), "only full attention ranks them"),
    ],
)
def test_an_attention_that_cannot_be_is_refused(layer: Layer, message: str) -> None:
    with pytest.raises(InputError, match=message):
        WHOLE.with_layers((layer,))


def test_tokens_are_dropped_only_where_the_head_reads_the_first() -> None:
    with pytest.raises(InputError, match="the head token reads them all"):
        replace(WHOLE, head="token", layers=(Layer(3, 24, tokens=50),))


def test_macs_count_every_product_of_a_layer() -> None:
    # q, k, v and output: 4·h·w·H; up and down: 2·n·H; scores and context: 2·S²·h·w.
    blueprint = replace(WHOLE, layers=(Layer(3, 24),))
    assert blueprint.macs(7) == 7 * 12 * (4 * 3 * 4 + 2 * 24) + 2 * 7 * 7 * 3 * 4


@pytest.mark.parametrize(
    "field,value",
    [
        ("vocabulary", 0),
        ("positions", 0),
        ("embedding", 0),
        ("hidden", -1),
        ("head_width", 0),
        ("token_types", -1),
        ("outputs", -2),
        ("head", "pooler"),
        ("layers", [[-1, 4]]),
        ("layers", [[1, -4]]),
        ("layers", [[1]]),
        ("layers", [["one", 4]]),
        ("layers", None),
        ("hidden", None),
        ("hidden", "twelve"),
    ],
)
def test_a_bad_field_is_refused(field: str, value: Any) -> None:
    with pytest.raises(InputError, match="blueprint"):
        Blueprint.from_dict(WHOLE.to_dict() | {field: value})


def test_unknown_and_missing_fields_and_broken_json_are_refused() -> None:
    fields = WHOLE.to_dict()
    with pytest.raises(InputError, match="depth"):
        Blueprint.from_dict(fields | {"depth": 3})
    with pytest.raises(InputError, match="hidden"):
        Blueprint.from_dict({name: value for name, value in fields.items() if name != "hidden"})
    with pytest.raises(InputError, match="layers"):
        Blueprint.from_dict({name: value for name, value in fields.items() if name != "layers"})
    with pytest.raises(InputError, match="JSON"):
        Blueprint.from_json(WHOLE.to_json()[:-5])


@pytest.mark.parametrize(
    "layers,uniform",
    [
        (((3, 24), (3, 24)), True),
        (((3, 24), (2, 24)), False),
        (((3, 24), (3, 23)), False),
        (((2, 24), (2, 24)), False),
        (((3, 0), (3, 0)), False),
        ((), False),
    ],
)
def test_uniform_is_what_a_plain_configuration_can_say(layers: tuple[tuple[int, int], ...], uniform: bool) -> None:
    assert WHOLE.with_layers(tuple(Layer(*layer) for layer in layers)).uniform is uniform


@given(blueprints(heads=("sequence",)))
def test_build_keeps_the_label_names_that_fit(blueprint: Blueprint) -> None:
    names = [f"label {i}" for i in range(blueprint.outputs)]
    like = PenjingConfig(id2label=dict(enumerate(names)), label2id={name: i for i, name in enumerate(names)}, hidden_act="relu")
    config = build(blueprint, like).config
    assert [config.id2label[i] for i in range(blueprint.outputs)] == names
    assert config.hidden_act == "relu"
