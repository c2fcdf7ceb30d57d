"""Sharing layers: k groups store k sets; equal layers share exactly; the result is a model like any other."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import blueprints, logits, own_inputs, penjing_model
from hypothesis import given
from hypothesis import strategies as st

from penjing.blueprint import Blueprint, Layer
from penjing.errors import InputError
from penjing.model.building import blueprint_of
from penjing.model.checkpoint import read
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.model.run import embedded
from penjing.model.watch import Part, layers_of, tapped
from penjing.model.writing import write
from penjing.steps.cut.repair import run_watched
from penjing.steps.reshape.share import Pattern, Share, Start, groups_of
from penjing.text.encoded import Encoded

WHOLE = Blueprint(40, 12, 2, 12, 12, 4, (Layer(3, 9),) * 6, "sequence", 3)
STARTS: tuple[Start, ...] = ("average", "middle", "least-squares")


def encoded(seed: int = 0) -> Encoded:
    random = np.random.default_rng(seed)
    rows = [random.integers(1, 40, random.integers(3, 9)).tolist() for _ in range(24)]
    return Encoded.of(rows, [[0] * len(row) for row in rows])


def shared(model: PenjingPreTrainedModel, step: Share) -> PenjingPreTrainedModel:
    return step.apply(model, step.plan(blueprint_of(model), encoded()), encoded())


def equal_layers(seed: int = 0) -> PenjingPreTrainedModel:
    """A model whose six layers have the same weights, each its own."""
    model = penjing_model(WHOLE, seed)
    layers = layers_of(model)
    for layer in layers[1:]:
        layer.load_state_dict(layers[0].state_dict())
    return model


@given(st.integers(1, 12), st.data())
def test_every_layer_is_in_one_of_so_many_groups(depth: int, data: st.DataObject) -> None:
    distinct = data.draw(st.integers(1, depth))
    for pattern in ("sequence", "cycle"):
        groups = groups_of(depth, distinct, pattern)
        assert len(groups) == distinct and sorted(i for group in groups for i in group) == list(range(depth))
        sizes = [len(group) for group in groups]
        assert max(sizes) - min(sizes) <= 1 and all(list(group) == sorted(group) for group in groups)


@pytest.mark.parametrize("pattern", ["sequence", "cycle"])
@pytest.mark.parametrize("distinct", [1, 2, 3, 6])
def test_so_many_groups_store_so_many_sets(distinct: int, pattern: Pattern) -> None:
    model = penjing_model(WHOLE)
    result = shared(model, Share(distinct, pattern))
    one = sum(p.numel() for p in layers_of(model)[0].parameters())
    assert sum(p.numel() for p in result.parameters()) == sum(p.numel() for p in model.parameters()) - (6 - distinct) * one
    assert sum(value.numel() for value in result.state_dict().values()) == blueprint_of(result).parameters
    assert blueprint_of(result).distinct == tuple(group[0] for group in groups_of(6, distinct, pattern))
    assert len(layers_of(result)) == 6 and blueprint_of(result).macs(9) == WHOLE.macs(9)


@pytest.mark.parametrize("start", STARTS)
def test_layers_that_are_equal_share_exactly(start: Start) -> None:
    model, inputs = equal_layers(), own_inputs(WHOLE)
    torch.testing.assert_close(logits(shared(model, Share(1, start=start)), inputs), logits(model, inputs), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("start", STARTS)
def test_as_many_as_there_are_is_the_identity(start: Start) -> None:
    model, inputs = penjing_model(WHOLE), own_inputs(WHOLE)
    same = shared(model, Share(6, start=start))
    assert blueprint_of(same) == WHOLE
    torch.testing.assert_close(logits(same, inputs), logits(model, inputs), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_least_squares_is_nearer_to_every_group_than_its_middle(seed: int) -> None:
    """Each block is judged on the teacher's own states, as it is fitted: errors that add up over the depth are for the training."""
    model = penjing_model(WHOLE, seed)
    middle, fitted = (shared(model, Share(2, start=start)) for start in ("middle", "least-squares"))
    errors = torch.zeros(2, 2, 2)  # (start, group, block)
    states = embedded(model, encoded(), 32)
    with torch.no_grad():
        for i, layer in enumerate(layers_of(model)):
            for half, block in enumerate((layer.attention, layer.feed_forward)):
                runs = [run_watched(block, x) for x in states]
                for start, other in enumerate((middle, fitted)):
                    mine = layers_of(other)[i]
                    for x, run in zip(states, runs, strict=True):
                        total = run_watched((mine.attention, mine.feed_forward)[half], x).total
                        errors[start, i // 3, half] += (total - run.total).square().sum()
                states = [run.output for run in runs]
    assert bool((errors[1] < errors[0]).all())


def test_a_shared_model_is_shared_anew() -> None:
    model = shared(penjing_model(WHOLE), Share(3))
    again = shared(model, Share(1, start="average"))
    assert blueprint_of(again).distinct == (0,)
    weights = [layers_of(model)[i].attention.query.weight for i in range(6)]
    torch.testing.assert_close(layers_of(again)[5].attention.query.weight, torch.stack(weights).mean(0))


def test_it_is_written_read_and_trained_on_and_stays_shared(tmp_path: Path) -> None:
    model, inputs = shared(penjing_model(WHOLE), Share(2)), own_inputs(WHOLE)
    write(model, tmp_path / "model")
    again = read(tmp_path / "model")
    assert blueprint_of(again) == blueprint_of(model) and torch.equal(logits(again, inputs), logits(model, inputs))
    optimizer = torch.optim.SGD(again.parameters(), 0.1)
    again(**inputs, labels=torch.zeros(len(inputs["input_ids"]), dtype=torch.long)).loss.backward()
    optimizer.step()
    layers = layers_of(again)
    assert layers[0].attention is layers[2].attention and not torch.equal(logits(again, inputs), logits(model, inputs))


def test_each_place_of_a_shared_layer_is_watched_by_itself() -> None:
    model, inputs = shared(penjing_model(WHOLE), Share(1)), own_inputs(WHOLE)
    parts = [Part(kind, i) for kind in ("states", "queries", "first") for i in (1, 2, 6)]
    with tapped(model, parts) as caught, torch.no_grad():
        states = model.base_model(**inputs, output_hidden_states=True).hidden_states
    for i in (1, 2, 6):
        assert torch.equal(caught[Part("states", i)], states[i])
        assert torch.equal(caught[Part("queries", i)], layers_of(model)[0].attention.query(states[i - 1]))


@given(blueprints(min_layers=1), st.integers(0, 9))
def test_any_blueprint_of_equal_layers_is_shared(blueprint: Blueprint, seed: int) -> None:
    blueprint = blueprint.with_layers((replace(blueprint.layers[0], shares=None),) * 3)
    model, inputs = penjing_model(blueprint, seed), own_inputs(blueprint, seed)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    result = shared(model, Share(2))
    assert blueprint_of(result) == Share(2).plan(blueprint, encoded()) and logits(result, inputs).isfinite().all()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_layers_of_other_sizes_and_too_many_are_refused() -> None:
    uneven = WHOLE.with_layers((Layer(3, 9), Layer(2, 9), Layer(3, 9)))
    with pytest.raises(InputError, match=r"^layers: layers 0 and 1 are to share their weights, and differ \(3 heads and 9 neurons, 2"):
        Share(1).plan(uneven, encoded())
    with pytest.raises(InputError, match=r"^layers: 7 distinct layers are more than the 6 of the model; give 1 to 6$"):
        Share(7).plan(WHOLE, encoded())
