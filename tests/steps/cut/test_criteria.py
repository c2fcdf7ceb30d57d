"""Criteria: each agrees with what it is defined as, finds what is useless, and leaves the model as it was."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import blueprints, penjing_model
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from penjing.blueprint import Blueprint, Layer
from penjing.maths.answers import AnswerLosses, Classes
from penjing.maths.importance import eliminate
from penjing.steps.cut import importance
from penjing.steps.cut.criteria import CRITERIA as TABLE
from penjing.steps.cut.criteria import Criterion, criterion_of
from penjing.steps.cut.gates import gated
from penjing.steps.cut.importance import Importance, relevance_rules
from penjing.steps.cut.prune import least_missed_layers
from penjing.tasks.sequence import Classification
from penjing.tasks.tagging import Tagging
from penjing.tasks.task import Examples, Task
from penjing.text.encoded import Encoded

SMALL = Blueprint(40, 12, 2, 12, 12, 4, (Layer(3, 6), Layer(2, 5)), "sequence", 3)
BLUEPRINTS = (SMALL, Blueprint(40, 12, 0, 8, 12, 3, (Layer(2, 0), Layer(0, 5), Layer(1, 1)), "token", 2))
CRITERIA = {name: row.score for name, row in TABLE.items()} | {"gates": partial(TABLE["gates"].score, steps=3)}
KINDS = ("heads", "neurons")


def seeded(blueprint: Blueprint, seed: int = 0, **changes: Any) -> Any:
    """A random model, the same every time."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return penjing_model(blueprint, seed, **changes)


def task_of(blueprint: Blueprint) -> Task:
    return (Classification if blueprint.head.name == "sequence" else Tagging)([f"L{i}" for i in range(blueprint.outputs)])


def examples(blueprint: Blueprint, count: int = 9, seed: int = 0) -> Examples:
    """Texts of a few lengths, with random labels; of tagging, one token in two stands for a word."""
    random = np.random.default_rng(seed)
    ids = [random.integers(1, blueprint.vocabulary, random.integers(2, 5)).tolist() for _ in range(count)]
    first = [list(range(0, len(row), 2)) if blueprint.head.name == "token" else [] for row in ids]

    def label() -> str:
        return f"L{random.integers(blueprint.outputs)}"

    gold = [[label() for _ in row] if blueprint.head.name == "token" else label() for row in first]
    types = [[i % max(1, blueprint.token_types) for i in range(len(row))] for row in ids]
    return Examples(Encoded.of(ids, types), [""] * count, gold, first, 0)


def arrays(found: Importance) -> list[np.ndarray[Any, Any]]:
    return [*found.heads, *found.neurons, found.hidden]


def assert_close(found: Importance, expected: dict[str, list[Tensor]]) -> None:
    for kind, each in expected.items():
        scores = [found.hidden] if kind == "hidden" else getattr(found, kind)
        for ours, theirs in zip(scores, each, strict=True):
            np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-3, atol=1e-7)


class Tripled(AnswerLosses):
    """Losses on answers of one's own: three times those of classes, and a divergence that is least where answers differ most."""

    losses = Classes.losses

    def hard(self, z: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
        return 3 * Classes().hard(z, labels, weight)

    def divergence(self, z: Tensor, t: Tensor) -> Tensor:
        return -Classes().divergence(z, t)

    def divergences(self, p: Tensor, q: Tensor, axis: int = -1) -> Tensor:
        return -Classes().divergences(p, q, axis)


class Thrice(Classification):
    """A task whose answers are compared so."""

    answers = Tripled


@pytest.mark.parametrize("name", ["fisher", "block-fisher", "taylor", "obs"])
def test_importance_is_by_the_task_s_own_loss(name: str) -> None:
    model, data, labels = seeded(SMALL), examples(SMALL), [f"L{i}" for i in range(3)]
    usual, own = (CRITERIA[name](model, kind(labels), data, 0) for kind in (Classification, Thrice))
    for ours, theirs in zip(arrays(own), arrays(usual), strict=True):  # of squared gradients
        np.testing.assert_allclose(ours, 9 * theirs, rtol=1e-3, atol=1e-7)


def test_layers_are_missed_by_the_task_s_own_divergence() -> None:
    blueprint = replace(SMALL, layers=(Layer(3, 6), Layer(2, 5), Layer(3, 6)))
    model, data, labels = seeded(blueprint), examples(blueprint, 20), [f"L{i}" for i in range(3)]
    usual, own = (least_missed_layers(model, kind(labels), data, 1) for kind in (Classification, Thrice))
    assert usual != own


# -- any criterion -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CRITERIA)
@pytest.mark.parametrize("blueprint", BLUEPRINTS, ids=("sequence", "token"))
def test_a_criterion_scores_everything_and_touches_nothing(name: str, blueprint: Blueprint) -> None:
    model, task, data = seeded(blueprint), task_of(blueprint), examples(blueprint)
    inputs = {"input_ids": torch.arange(5)[None]}
    state, answer = {key: value.clone() for key, value in model.state_dict().items()}, model(**inputs).logits
    found = CRITERIA[name](model, task, data, 3)
    for kind in KINDS:
        assert [each.shape for each in getattr(found, kind)] == [(getattr(layer, kind),) for layer in blueprint.layers]
    assert found.hidden.shape == ((0,) if name == "gates" else (blueprint.hidden,))
    assert found.removed == []
    assert all(each.dtype == np.float64 and np.isfinite(each).all() and (each >= 0).all() for each in arrays(found))
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert all(weight.requires_grad and weight.grad is None for weight in model.parameters())
    assert torch.equal(model(**inputs).logits, answer)  # and no hook is left
    torch.manual_seed(99)
    assert CRITERIA[name](model, task, data, 3).to_dict() == found.to_dict()


@settings(max_examples=12)
@given(blueprints(("sequence", "token"), min_layers=1), st.sampled_from(sorted(set(CRITERIA) - {"gates"})), st.integers(0, 99))
def test_any_blueprint_is_scored_and_scores_are_json(blueprint: Blueprint, name: str, seed: int) -> None:
    found = CRITERIA[name](seeded(blueprint, seed), task_of(blueprint), examples(blueprint, 4), seed)
    assert all(np.isfinite(each).all() for each in arrays(found))
    again = Importance.from_dict(json.loads(json.dumps(found.to_dict())))
    assert again.removed == found.removed
    for ours, theirs in zip(arrays(again), arrays(found), strict=True):
        assert ours.dtype == theirs.dtype and np.array_equal(ours, theirs)


@pytest.mark.parametrize("name", sorted(set(CRITERIA) - {"gates", "random"}))
@pytest.mark.parametrize("head", ["sequence", "token"])
def test_what_is_useless_has_the_lowest_score(name: str, head: str) -> None:
    blueprint = Blueprint(40, 12, 2, 12, 12, 4, SMALL.layers, head, 3)
    model = seeded(blueprint)
    attention, feed_forward = model.base_model.layers[0].attention, model.base_model.layers[1].feed_forward
    with torch.no_grad():
        attention.output.weight[:, 4:8] = 0
        feed_forward.down.weight[:, 2] = 0
        if name in ("magnitude", "magnitude-l1", "activation"):  # these see what it computes, used or not
            for part in (attention.query, attention.key, attention.value):
                part.weight[4:8], part.bias[4:8] = 0, 0
            feed_forward.up.weight[2], feed_forward.up.bias[2] = 0, 0
    found = CRITERIA[name](model, task_of(blueprint), examples(blueprint, 40), 0)
    for each, useless in ((found.heads, 1), (found.neurons, 6 + 2)):
        scores = np.concatenate(each)
        assert scores[useless] < 1e-6 * np.delete(scores, useless).min()


def test_a_criterion_is_a_name_a_row_or_a_function() -> None:
    assert criterion_of("obs") is TABLE["obs"]
    row = Criterion(importance.magnitude_l2, comparable=True)
    assert criterion_of(row) is row and criterion_of(importance.random) == Criterion(importance.random, comparable=False)


def test_a_block_without_any_signal_is_scored() -> None:
    model = seeded(SMALL, hidden_act="relu")
    with torch.no_grad():
        model.base_model.layers[0].feed_forward.up.bias.fill_(-1e4)
    for criterion in CRITERIA.values():
        assert all(np.isfinite(each).all() for each in arrays(criterion(model, task_of(SMALL), examples(SMALL), 0)))


# -- each by its definition --------------------------------------------------------------------------------------


def alone(task: Task, data: Examples) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
    """Each text with its labels, by itself."""
    for i, labels in enumerate(task.targets(data)):
        feeds = data.encoded.feeds(np.array([i]))
        yield {name: torch.from_numpy(feeds[name]) for name in ("input_ids", "token_type_ids")}, torch.from_numpy(labels)


def loss_of(model: Any, inputs: dict[str, Tensor], labels: Tensor) -> Tensor:
    return F.cross_entropy(model(**inputs).logits.flatten(0, -2), labels, reduction="sum")


@contextmanager
def hooked(*hooks: Any) -> Iterator[None]:
    with ExitStack() as stack:
        for hook in hooks:
            stack.callback(hook.remove)
        yield


@pytest.mark.parametrize("blueprint", BLUEPRINTS, ids=("sequence", "token"))
def test_fisher_and_gradient_are_those_of_gates_text_by_text(blueprint: Blueprint) -> None:
    model, task, data = seeded(blueprint), task_of(blueprint), examples(blueprint)
    layers = model.base_model.layers
    found: dict[str, list[list[Tensor]]] = {"heads": [], "neurons": [], "hidden": []}
    for inputs, labels in alone(task, data):
        gates = {kind: [torch.ones(getattr(layer, kind), requires_grad=True) for layer in blueprint.layers] for kind in KINDS}
        gates["hidden"] = [torch.ones(blueprint.hidden, requires_grad=True)]
        norms = [block.norm for layer in layers for block in (layer.attention, layer.feed_forward)]
        read = (model.base_model.embeddings, *norms)  # by the first layer too
        hooks = [norm.register_forward_hook(lambda _, __, output, gate=gates["hidden"][0]: output * gate) for norm in read]
        with hooked(*hooks), gated(model, gates["heads"], gates["neurons"]):
            loss = loss_of(model, inputs, labels)
        for kind, each in gates.items():
            gradients = torch.autograd.grad(loss, each, retain_graph=True, materialize_grads=True, allow_unused=True)
            found[kind].append(list(gradients))
    G = {kind: [torch.stack(each) for each in zip(*texts, strict=True)] for kind, texts in found.items()}
    assert_close(importance.fisher(model, task, data, 0), {kind: [g.square().mean(0) for g in each] for kind, each in G.items()})
    mean = {kind: [g.abs().mean(0) for g in each] for kind, each in G.items()}
    assert_close(
        importance.gradient(model, task, data, 0), {kind: [m / m.norm() if len(m) else m for m in each] for kind, each in mean.items()}
    )
    assert_close(
        importance.block_fisher(model, task, data, 0),
        {kind: [eliminate(g.double().T @ g.double() / len(data)) for g in each] for kind, each in G.items()},
    )


@pytest.mark.parametrize("blueprint", BLUEPRINTS, ids=("sequence", "token"))
def test_activation_is_the_mean_norm_over_tokens_and_then_texts(blueprint: Blueprint) -> None:
    model, task, data = seeded(blueprint), task_of(blueprint), examples(blueprint)
    contexts: list[list[Tensor]] = [[] for _ in blueprint.layers]
    neurons: list[list[Tensor]] = [[] for _ in blueprint.layers]
    hidden = torch.zeros(blueprint.hidden)

    def see(where: list[Tensor], width: int) -> Callable[..., None]:
        return lambda _, inputs: where.append(torch.stack([part.norm(dim=-1) for part in inputs[0][0].split(width, -1)], -1).mean(0))

    def add(_: Any, __: Any, output: Tensor) -> None:
        hidden.add_(output[0].abs().mean(0) / len(data))

    hooks = [model.base_model.embeddings.register_forward_hook(add)]
    for layer, size, context, each in zip(model.base_model.layers, blueprint.layers, contexts, neurons, strict=True):
        hooks += [block.norm.register_forward_hook(add) for block in (layer.attention, layer.feed_forward)]
        if size.heads:
            hooks.append(layer.attention.output.register_forward_pre_hook(see(context, blueprint.head_width)))
        if size.neurons:
            hooks.append(layer.feed_forward.down.register_forward_pre_hook(see(each, 1)))
    with torch.no_grad(), hooked(*hooks):
        for inputs, _ in alone(task, data):
            model(**inputs)
    mean = {
        kind: [torch.stack(each).mean(0) if each else torch.zeros(0) for each in seen]
        for kind, seen in (("heads", contexts), ("neurons", neurons))
    }
    assert_close(importance.activation(model, task, data, 0), mean | {"hidden": [hidden]})


@pytest.mark.parametrize("blueprint", BLUEPRINTS, ids=("sequence", "token"))
def test_moments_are_sums_over_texts_alone(blueprint: Blueprint) -> None:
    model, task, data = seeded(blueprint), task_of(blueprint), examples(blueprint)
    last = len(blueprint.layers) - 1
    closings = {
        (i, kind): closing
        for i, layer in enumerate(model.base_model.layers)
        for kind, closing in (("heads", layer.attention.output), ("neurons", layer.feed_forward.down))
    }
    first_only = {key for key in closings if blueprint.head.name == "sequence" and key[0] == last}
    tokens = {key: len(data) if key in first_only else data.encoded.lengths.sum() for key in closings}
    A = {key: torch.zeros(closing.in_features, closing.in_features) for key, closing in closings.items()}
    C = {key: torch.zeros(blueprint.hidden, blueprint.hidden) for key in closings}
    for inputs, labels in alone(task, data):
        seen: dict[Any, tuple[Tensor, Tensor]] = {}
        hooks = [
            closing.register_forward_hook(lambda _, given, output, key=key, seen=seen: seen.update({key: (given[0], output)}))
            for key, closing in closings.items()
        ]
        with hooked(*hooks):
            loss = loss_of(model, inputs, labels)
        for key, (a, output) in seen.items():
            (g,) = torch.autograd.grad(loss, output, retain_graph=True)
            for token in range(1 if key in first_only else a.shape[1]):
                A[key] += a[0, token].outer(a[0, token]).detach() / tokens[key]
                C[key] += g[0, token].outer(g[0, token]) / len(data)
    moments = importance._moments(model, task, data)
    assert moments.keys() == closings.keys()
    for key, (found_A, found_C) in moments.items():
        torch.testing.assert_close(found_A, A[key], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(found_C, C[key], rtol=1e-4, atol=1e-7)


def test_taylor_is_the_squared_change_of_the_loss_without_each_weight() -> None:
    model, task = seeded(SMALL), task_of(SMALL)
    data = examples(SMALL, 12).take(np.flatnonzero(examples(SMALL, 12).encoded.lengths == 3))  # one batch
    (sum(loss_of(model, inputs, labels) for inputs, labels in alone(task, data)) / len(data)).backward()
    layer, change = model.base_model.layers[0], lambda w: (w * w.grad).square()
    heads = torch.stack(
        [
            sum(change(part.weight)[rows].sum() + change(part.bias)[rows].sum() for part in parts)
            + change(layer.attention.output.weight)[:, rows].sum()
            for rows in torch.arange(12).split(4)
            for parts in [(layer.attention.query, layer.attention.key, layer.attention.value)]
        ]
    )
    up, down = layer.feed_forward.up, layer.feed_forward.down
    neurons = change(up.weight).sum(1) + change(up.bias) + change(down.weight).sum(0)
    found = importance.taylor(model, task, data, 0)
    np.testing.assert_allclose(found.heads[0], heads.detach(), rtol=1e-3)
    np.testing.assert_allclose(found.neurons[0], neurons.detach(), rtol=1e-3)


# -- relevance ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("act", ["gelu", "relu"])
@pytest.mark.parametrize("blueprint", BLUEPRINTS, ids=("sequence", "token"))
def test_relevance_is_conserved_where_there_are_no_biases(blueprint: Blueprint, act: str) -> None:
    # Exactly so: under the rules every layer and the head are linear in what they read, and a bias alone takes relevance.
    model = seeded(blueprint, hidden_act=act)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(".bias"):
                weight.zero_()
    inputs = {"input_ids": torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])}
    plain, states = model(**inputs).logits, list[Tensor]()
    modules = [model.base_model.embeddings, *model.base_model.layers]
    hooks = [module.register_forward_hook(lambda _, __, output: states.append(output)) for module in modules]
    with relevance_rules(model), hooked(*hooks):
        logits = model(**inputs).logits
    torch.testing.assert_close(logits, plain)
    answer = logits.max(-1).values.sum()
    for state, g in zip(states, torch.autograd.grad(answer, states), strict=True):
        torch.testing.assert_close((state * g).sum(), answer, rtol=1e-4, atol=1e-4)
    assert torch.equal(model(**inputs).logits, plain)


def test_relevance_starts_where_something_is_answered() -> None:
    """What is large in the logits of tokens that nobody reads counts for nothing."""
    model, task = seeded(BLUEPRINTS[1]), task_of(BLUEPRINTS[1])
    data = replace(examples(BLUEPRINTS[1]), first_tokens=[[0, -1]] * 9)
    before = importance.relevance(model, task, data, 0)

    def louder(_: Any, __: Any, output: Any) -> Any:
        scale = torch.full(output.logits.shape[:2], 50.0)
        scale[:, 0] = 1
        output.logits = output.logits * scale[..., None]
        return output

    with hooked(model.register_forward_hook(louder)):
        after = importance.relevance(model, task, data, 0)
        everywhere = importance.relevance(model, task, replace(data, first_tokens=[[]] * 9), 0)
    assert_close(after, {"neurons": [torch.from_numpy(each) for each in before.neurons]})
    assert max(np.abs(a - b).max() for a, b in zip(everywhere.neurons, before.neurons, strict=True) if len(a)) > 1e-3


@given(blueprints(("sequence", "token"), min_layers=1), st.integers(0, 99))
def test_the_rules_of_relevance_change_no_answer(blueprint: Blueprint, seed: int) -> None:
    model, inputs = seeded(blueprint, seed), {"input_ids": torch.tensor([[1, 2, 3, 4]])}
    with torch.no_grad(), relevance_rules(model):
        answer = model(**inputs).logits
    torch.testing.assert_close(answer, model(**inputs).logits, rtol=1e-4, atol=1e-5)
