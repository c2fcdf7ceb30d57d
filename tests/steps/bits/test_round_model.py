"""Rounding a whole model: the values are the codes', the first layer loses less than plainly, and nothing else changes."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import fake, penjing_model
from torch import Tensor

from penjing.blueprint import Blueprint, Layer
from penjing.errors import InputError
from penjing.maths.stored import Scheme, quantize
from penjing.model.surgery import copy_of
from penjing.steps.bits.gptq import round_model
from penjing.text.encoded import Encoded
from penjing.training.predict import logits_of

WHOLE = Blueprint(40, 12, 2, 12, 12, 4, (Layer(3, 9), Layer(0, 6), Layer(2, 0), Layer(3, 5)), "sequence", 3)
FEW = Scheme("linear", 3, 5)


def seeded(blueprint: Blueprint) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return penjing_model(blueprint, 0)


def texts(count: int = 40) -> Encoded:
    random = np.random.default_rng(0)
    rows = [random.integers(0, WHOLE.vocabulary, random.integers(2, 6)).tolist() for _ in range(count)]
    return Encoded.of(rows, [[i % 2 for i in range(len(row))] for row in rows])


def matrices(model: Any) -> dict[str, Tensor]:
    return {name: w for name, w in model.named_parameters() if w.ndim == 2 and w.numel()}


def inputs_of(model: Any, module: Any) -> Tensor:
    """What a linear layer reads on the texts, (tokens, K)."""
    seen: list[Tensor] = []
    hook = module.register_forward_pre_hook(lambda _, given: seen.append(given[0].reshape(-1, given[0].shape[-1])))
    logits_of(model, texts())
    hook.remove()
    return torch.cat(seen)


@pytest.mark.parametrize("head", ["sequence", "token", "masked", "none"])
def test_the_model_has_the_values_of_the_codes_and_new_biases_alone(head: str) -> None:
    model = seeded(replace(WHOLE, head=head, outputs=3 if head in ("sequence", "token") else 0))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    result, coded = round_model(model, texts(), dict.fromkeys(matrices(model), FEW))
    assert list(coded) == list(matrices(model))
    state = result.state_dict()
    for name, codes in coded.items():
        assert torch.equal(state[name], torch.from_numpy(codes.values()))
        assert not torch.equal(state[name], before[name])
    changed = {name for name in state if name not in coded and not torch.equal(state[name], before[name])}
    assert changed and all(name.endswith(".bias") and name.removesuffix("bias") + "weight" in coded for name in changed)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(w.requires_grad and w.grad is None for w in result.parameters()) and not result.training


def test_schemes_of_nothing_change_nothing() -> None:
    model = seeded(WHOLE)
    result, coded = round_model(model, texts(), {})
    assert coded == {} and all(torch.equal(value, model.state_dict()[name]) for name, value in result.state_dict().items())


@pytest.mark.parametrize(
    "part", ["0.attention.query", "0.attention.output", "1.feed_forward.up", "2.attention.value", "3.feed_forward.down"]
)
def test_one_matrix_alone_gives_less_error_at_its_output_than_plainly_rounded(part: str) -> None:
    model, module = seeded(WHOLE), f"encoder.layers.{part}"
    name, where = f"{module}.weight", model.get_submodule(module)
    x = inputs_of(model, where)
    if part.startswith("3.feed_forward"):  # the head reads the first tokens alone
        x = x[torch.from_numpy(np.concatenate([np.arange(n) == 0 for n in np.sort(texts().lengths)]))]
    result, _ = round_model(model, texts(), {name: FEW})
    ours, plain = result.get_submodule(module), fake(where.weight.detach(), FEW)
    with torch.no_grad():
        missing = float((where(x) - ours(x)).square().sum())
        assert missing < 0.9 * float((x @ (where.weight - plain).T).square().sum())
        assert (where(x) - ours(x)).mean(0).abs().max() < 1e-5


def test_later_matrices_are_rounded_for_what_the_rounded_ones_before_give() -> None:
    model, last = seeded(WHOLE), "encoder.layers.3.feed_forward.down.weight"
    alone, _ = round_model(model, texts(), {last: FEW})
    names = [name for name in matrices(model) if ".layers." in name]
    together, _ = round_model(model, texts(), dict.fromkeys(names, Scheme("linear", 2, 5)) | {last: FEW})
    assert not torch.equal(alone.state_dict()[last.replace("weight", "bias")], together.state_dict()[last.replace("weight", "bias")])


def test_the_whole_model_answers_nearer_to_what_it_was() -> None:
    model = seeded(WHOLE)
    schemes = {name: FEW for name in matrices(model) if ".layers." in name}
    plain = copy_of(model)
    with torch.no_grad():
        for name in schemes:
            plain.get_parameter(name).copy_(torch.from_numpy(quantize(plain.get_parameter(name), FEW).values()))
    result, _ = round_model(model, texts(), schemes)
    wanted, given, without = (np.stack(logits_of(each, texts())) for each in (model, result, plain))
    assert np.square(given - wanted).mean() < 0.5 * np.square(without - wanted).mean()


def test_a_name_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match=r"schemes: head\.nose is no parameter"):
        round_model(seeded(WHOLE), texts(), {"head.nose": FEW})
