"""Modules by name, and hooks: what they see and change, and that none is left behind."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from conftest import blueprints, own_inputs, penjing_model
from hypothesis import given
from torch import Tensor, nn

from penjing.blueprint import Blueprint, Layer
from penjing.engines.network import Ranges
from penjing.engines.onnx.export import network_of
from penjing.engines.onnx.graph import FLOAT_ALWAYS, build_graph
from penjing.errors import InputError
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.model.watch import (
    FIRST,
    STATES,
    Part,
    closing_layers,
    encoder_of,
    layers_of,
    linear_layers,
    matrices_of,
    of_exit,
    perturbed,
    replacing_inputs,
    replacing_outputs,
    tapped,
    watching_inputs,
    watching_outputs,
)

SMALL = Blueprint(60, 24, 2, 10, 16, 8, (Layer(2, 32), Layer(0, 24), Layer(1, 0)), "sequence", 3)
TOKENS = torch.arange(12).view(2, 6)


def small() -> PenjingPreTrainedModel:
    return penjing_model(SMALL, 1)


def hooks_of(model: nn.Module) -> int:
    """The hooks on all modules of a model."""
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    answer: Tensor = model(input_ids=TOKENS).logits
    return answer


# -- modules by name -----------------------------------------------------------------------------------------------


@given(blueprints(["sequence", "token"]))
def test_linear_layers_are_those_that_an_exported_graph_has_ranges_of_and_rounds(blueprint: Blueprint) -> None:
    model = penjing_model(blueprint)
    ranges: Ranges = {name: (-1.0, 1.0) for name in linear_layers(model) if not of_exit(name)}
    graph = build_graph(network_of(model), int8=True, ranges=ranges).graph  # a range that it lacks is an InputError
    rounded = {constant.name.removesuffix(".q") for constant in graph.initializer if constant.name.endswith(".q")}
    assert rounded == {"embeddings.word", *ranges} - FLOAT_ALWAYS


@given(blueprints())
def test_layers_that_read_nothing_have_no_name_and_matrices_that_are_empty_neither(blueprint: Blueprint) -> None:
    model = penjing_model(blueprint)
    linear, matrices = linear_layers(model), matrices_of(model)
    assert all(layer.in_features for layer in linear.values()) and all(weight.numel() for weight in matrices.values())
    tables = blueprint.positions * (blueprint.position_rank or blueprint.embedding) + blueprint.token_types * blueprint.embedding
    assert sum(weight.numel() for weight in matrices.values()) == blueprint.matrices + tables
    closed = [f"layers.{i}.{block}" for i, layer in enumerate(blueprint.layers) for block, count in
              (("attention.output", layer.heads), ("feed_forward.down", layer.neurons)) if count and layer.shares is None]  # fmt: skip
    assert [name for name in linear if name.endswith((".output", ".down"))] == closed


def test_closing_layers_are_those_of_every_block_in_the_order_in_which_they_run() -> None:
    model = small()
    seen: list[nn.Module] = []
    closing = closing_layers(model)
    assert [*closing] == [(i, kind) for i in range(3) for kind in ("heads", "neurons")]
    assert [*closing.values()] == [block.closing for layer in layers_of(model) for block in (layer.attention, layer.feed_forward)]
    with watching_inputs(((module, module) for module in closing.values()), lambda module, _: seen.append(module)):
        logits(model)
    assert seen == [*closing.values()]


def test_an_encoder_is_found_in_a_model_in_a_module_around_one_and_alone() -> None:
    model = small()
    encoder = encoder_of(model)
    assert encoder is model.base_model and encoder_of(encoder) is encoder and encoder_of(nn.Sequential(model)) is encoder
    assert len(layers_of(model)) == len(SMALL.layers) and layers_of(model)[1].attention.heads == 0


# -- hooks ---------------------------------------------------------------------------------------------------------


def test_a_listener_sees_what_a_module_reads_and_gives() -> None:
    model = small()
    given_by: dict[str, Tensor] = {}
    read_by: dict[str, Tensor] = {}

    linear = {name: layer for name, layer in linear_layers(model).items() if name.startswith("head")}
    with watching_inputs(linear.items(), read_by.__setitem__):
        logits(model)
    copies = penjing_model(SMALL, 1)
    with watching_outputs(linear_layers(copies).items(), lambda name, _, output: given_by.__setitem__(name, output)):
        expected = logits(copies)
    assert torch.equal(given_by["head.out"], expected)
    assert all(torch.equal(linear[name](read_by[name]), given_by[name]) for name in linear)


def test_what_a_module_reads_and_gives_is_replaced() -> None:
    model = small()
    linear = linear_layers(model)
    out = linear["head.out"]
    with torch.no_grad():
        with replacing_inputs([("out", out)], lambda key, x: x * 0):
            assert torch.equal(logits(model), out.bias.expand(2, -1))
        with replacing_outputs([(2.0, out)], lambda factor, x, output: factor * output):
            doubled = logits(model)
    assert torch.equal(doubled, 2 * logits(model))


def test_other_inputs_than_the_first_reach_a_module_whose_first_is_replaced() -> None:
    model = small()
    whole = logits(model)
    with replacing_inputs([(None, encoder_of(model).embeddings)], lambda _, x: x), torch.no_grad():
        types = torch.ones_like(TOKENS)
        assert not torch.equal(model(input_ids=TOKENS, token_type_ids=types).logits, whole)


def test_linear_layers_are_heard_in_the_order_in_which_they_run() -> None:
    order: list[str] = []
    model = small()
    with watching_inputs(linear_layers(model).items(), lambda name, _: order.append(name)):
        logits(model)
    assert order[-2:] == ["head.dense", "head.out"] and order.index("layers.0.attention.output") < order.index("layers.0.feed_forward.up")


WATCHES: dict[str, Callable[[Any], AbstractContextManager[Any]]] = {
    "inputs": lambda model: watching_inputs(linear_layers(model).items(), lambda *_: None),
    "outputs": lambda model: watching_outputs(linear_layers(model).items(), lambda *_: None),
    "replaced inputs": lambda model: replacing_inputs(linear_layers(model).items(), lambda _, x: x),
    "replaced outputs": lambda model: replacing_outputs(linear_layers(model).items(), lambda _, __, output: output),
    "parts": lambda model: tapped(model, [Part(STATES, 0), Part(FIRST, 3), Part("queries", 1)]),
    "noise": lambda model: perturbed(model, 0.1),
}


@pytest.mark.parametrize("kind", WATCHES)
def test_hooks_are_there_within_the_context_and_gone_after_it(kind: str) -> None:
    model = small()
    context = WATCHES[kind](model)
    assert not hooks_of(model)
    with context:
        assert hooks_of(model)
        logits(model)
    assert not hooks_of(model)


@pytest.mark.parametrize("kind", WATCHES)
def test_hooks_are_gone_after_an_exception(kind: str) -> None:
    model = small()
    with pytest.raises(ZeroDivisionError), WATCHES[kind](model):
        raise ZeroDivisionError
    assert not hooks_of(model)


def test_hooks_are_gone_where_a_listener_raises_and_where_one_could_not_be_put_on() -> None:
    model = small()

    def fail(name: str, x: Tensor) -> None:
        raise ZeroDivisionError(name)

    with pytest.raises(ZeroDivisionError), watching_inputs(linear_layers(model).items(), fail):
        logits(model)
    assert not hooks_of(model)
    with pytest.raises(InputError, match="layer 2 has no attention heads"), tapped(model, [Part("queries", 1), Part("queries", 2)]):
        raise AssertionError("layer 2 has no query")
    assert not hooks_of(model)


# -- parts and noise -----------------------------------------------------------------------------------------------


def test_noise_is_drawn_from_the_generator_and_without_noise_nothing_is_asked_of_the_model() -> None:
    model = small()
    with perturbed(model, 0.5, torch.Generator().manual_seed(1)):
        first = logits(model)
    with perturbed(model, 0.5, torch.Generator().manual_seed(1)):
        again = logits(model)
    assert torch.equal(first, again) and not torch.equal(first, logits(model))
    with perturbed(nn.Linear(2, 2), 0.0), tapped(nn.Linear(2, 2), ()) as caught:  # there is no encoder inside
        assert not caught


@given(blueprints(min_layers=1))
def test_parts_are_as_wide_as_they_say(blueprint: Blueprint) -> None:
    model = penjing_model(blueprint)
    encoder = encoder_of(model)
    first = blueprint.layers[0]
    projections = ("queries", "keys", "values") if first.compared else ("values",)
    kinds = (STATES, FIRST, *(projections if first.heads else ()))
    parts = [Part(STATES, 0), *(Part(kind, 1) for kind in kinds)]
    inputs = own_inputs(blueprint)
    with torch.no_grad(), tapped(model, parts) as caught:
        model(**inputs)
    assert {part: value.shape[-1] for part, value in caught.items()} == {part: part.width(encoder) for part in parts}
    assert all(value.ndim == (2 if part.of_text else 3) for part, value in caught.items())
