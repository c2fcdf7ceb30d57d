"""Sensitivities of a tiny model against what they are defined as: the gradients of single texts, and the Hessian of single matrices."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import penjing_model
from torch import Tensor
from torch.autograd.functional import hessian
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from penjing.blueprint import Blueprint, Layer
from penjing.model.watch import matrices_of
from penjing.steps.bits import hessian as steps
from penjing.steps.bits.hessian import eigenvalues, sensitivities, traces
from penjing.tasks.sequence import Classification
from penjing.tasks.tagging import Tagging
from penjing.tasks.task import Examples, Task
from penjing.text.encoded import Encoded

SMALL = Blueprint(9, 6, 2, 4, 4, 2, (Layer(2, 3), Layer(1, 2)), "sequence", 2)
BLUEPRINTS = (SMALL, Blueprint(9, 6, 0, 3, 4, 2, (Layer(2, 0), Layer(0, 3)), "token", 3))


def setting(blueprint: Blueprint, count: int = 4, seed: int = 0) -> tuple[Any, Task, Examples]:
    """A random model, its task, and texts with random labels, some with a word twice."""
    random = np.random.default_rng(seed)
    tagging = blueprint.head.name == "token"
    ids = [[3, *random.integers(1, 6, random.integers(1, 4)).tolist()] for _ in range(count)]
    first = [list(range(0, len(row), 2)) if tagging else [] for row in ids]
    gold = [
        [f"L{random.integers(blueprint.outputs)}" for _ in row] if tagging else f"L{random.integers(blueprint.outputs)}" for row in first
    ]
    task = (Tagging if tagging else Classification)([f"L{i}" for i in range(blueprint.outputs)])
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = penjing_model(blueprint, seed)
    return model, task, Examples(Encoded.of(ids, [[0] * len(row) for row in ids]), [""] * count, gold, first, 0)


def text(data: Examples, n: int) -> Tensor:
    return torch.from_numpy(data.encoded.row(n).astype(np.int64))[None]


def exact_hessian(model: Any, task: Task, data: Examples, name: str) -> Tensor:
    """Of the mean over texts of the summed cross-entropy, by one matrix."""
    targets, w = task.targets(data), dict(model.named_parameters())[name].detach()

    def loss(w: Tensor) -> Tensor:
        total = torch.zeros(())
        for n in range(len(data)):
            logits = functional_call(model, {name: w}, (text(data, n),)).logits
            total = total + F.cross_entropy(logits.flatten(0, -2), torch.from_numpy(targets[n]), reduction="sum")
        return total / len(data)

    with sdpa_kernel(SDPBackend.MATH):
        return hessian(loss, w).reshape(w.numel(), w.numel())


@pytest.mark.parametrize("blueprint", BLUEPRINTS, ids=("sequence", "token"))
def test_sensitivities_average_to_the_diagonal_of_the_gauss_newton_matrix(blueprint: Blueprint) -> None:
    """Σ over texts, tokens that are answered from and classes of p·‖∇ log p‖², each gradient by its own backward pass."""
    model, task, data = setting(blueprint)
    found = sensitivities(model, task, data, 0, 200)
    names = [name for name in matrices_of(model) if "position" not in name]
    assert set(found) == set(names)
    expected = {name: torch.zeros(len(dict(model.named_parameters())[name])) for name in names}
    for n in range(len(data)):
        rows = model(text(data, n)).logits.reshape(-1, blueprint.outputs).log_softmax(-1)
        for row in rows[data.first_tokens[n]] if data.first_tokens[n] else rows:
            for c in row:
                grads = torch.autograd.grad(
                    c, [dict(model.named_parameters())[name] for name in names], retain_graph=True, allow_unused=True
                )
                for name, g in zip(names, grads, strict=True):
                    if g is not None:
                        expected[name] += c.detach().exp() * g.square().mean(1) / len(data)
    for name in names:
        np.testing.assert_allclose(found[name], expected[name], rtol=0.35, atol=0.05 * float(expected[name].max()))
        assert (found[name] >= 0).all()


def test_fewer_labelled_tokens_bend_the_loss_less_as_the_hessian_does() -> None:
    """One token in all its text: the Gauss-Newton mean of the last matrix is near the Hessian's, and grows with what is labelled."""
    model, task, data = setting(BLUEPRINTS[1], 12)
    found = []
    for count in (1, 2, 4):
        first = [list(range(min(count, int(length)))) for length in data.encoded.lengths]
        some = replace(data, first_tokens=first, gold=[["L0"] * len(row) for row in first])
        gauss_newton = float(sensitivities(model, task, some, 0, 200)["head.out.weight"].mean())
        H = exact_hessian(model, task, some, "head.out.weight")  # the logits are linear in it: both are the same
        assert gauss_newton == pytest.approx(float(H.trace()) / len(H), rel=0.15)
        found.append(gauss_newton)
    assert found[0] < 0.8 * found[1] < 0.8 * found[2]


def test_labels_are_not_needed_and_the_model_is_left_as_it_was() -> None:
    model, task, data = setting(SMALL)
    state, answer = {name: value.clone() for name, value in model.state_dict().items()}, model(text(data, 0)).logits
    found = sensitivities(model, task, Examples(data.encoded, data.inputs, [None] * len(data), data.first_tokens, 0), 5, 2)
    again = sensitivities(model, task, data, 5, 2)
    assert all(np.array_equal(found[name], again[name]) for name in found)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(model(text(data, 0)).logits, answer) and all(w.grad is None for w in model.parameters())


def test_words_that_are_not_in_the_texts_are_not_missed() -> None:
    model, task, data = setting(SMALL)
    found = sensitivities(model, task, data)["encoder.embeddings.word.weight"]
    seen = np.isin(np.arange(SMALL.vocabulary), data.encoded.ids)
    assert (found[seen] > 0).all() and not found[~seen].any()


@pytest.mark.parametrize("blueprint", BLUEPRINTS, ids=("sequence", "token"))
def test_traces_agree_with_the_exact_hessian(blueprint: Blueprint) -> None:
    model, task, data = setting(blueprint)
    probes = 20
    found = traces(model, task, data, 0, probes)
    assert set(found) == set(matrices_of(model))
    for name, w in matrices_of(model).items():
        H = exact_hessian(model, task, data, name)
        deviation = float(H.square().fill_diagonal_(0).sum()) ** 0.5 * (2 * len(data) / probes) ** 0.5 / w.numel()
        assert abs(found[name] - float(H.trace()) / w.numel()) < 5 * deviation + 1e-5


@pytest.fixture
def one_matrix(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of the only matrix that is looked at: power iteration takes its time."""
    name = "encoder.layers.1.feed_forward.up.weight"
    monkeypatch.setattr(steps, "matrices_of", lambda model: {name: model.get_parameter(name)})
    return name


@pytest.mark.parametrize("slices", [1, 2])
def test_eigenvalues_are_the_top_of_the_exact_hessian_and_their_spread(slices: int, one_matrix: str) -> None:
    model, task, data = setting(SMALL, 2)
    tops = []
    for rows in np.array_split(np.arange(2), slices):
        values = torch.linalg.eigvalsh(exact_hessian(model, task, data.take(rows), one_matrix))
        tops.append(float(values[values.abs().argmax()]))
    found = eigenvalues(model, task, data, 0, slices, 60)
    assert found == {one_matrix: pytest.approx(abs(np.mean(tops)) + np.std(tops), rel=0.05)}
