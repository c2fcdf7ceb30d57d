"""The gate gradients are those of explicit gates."""

from typing import Any

import torch
from conftest import batch, penjing_model
from hypothesis import given
from hypothesis import strategies as st

from penjing.blueprint import Blueprint, Layer
from penjing.maths.importance import fisher, gate_gradients


@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 4), st.integers(1, 4), st.integers(0, 99))
def test_gate_gradients_are_those_of_gates_of_one(texts: int, tokens: int, groups: int, width: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(texts, tokens, groups * width, generator=generator, requires_grad=True)
    w = torch.randn(groups * width, 3, generator=generator)
    gates = torch.ones(texts, groups, requires_grad=True)
    gated = a * gates.repeat_interleave(width, 1)[:, None]
    gated.retain_grad()
    torch.tanh(gated @ w).square().sum().backward()
    assert gates.grad is not None and gated.grad is not None
    torch.testing.assert_close(gate_gradients(a.detach(), gated.grad, width), gates.grad, rtol=1e-4, atol=1e-4)


def test_gate_gradients_of_heads_and_neurons_in_a_model_with_padding() -> None:
    model = penjing_model(Blueprint(40, 16, 2, 12, 12, 4, (Layer(3, 9), Layer(2, 5)), "sequence", 3))
    inputs: dict[str, Any] = batch([16, 5, 9], vocabulary=40, token_types=2)
    labels = torch.tensor([0, 2, 1])
    seen: dict[str, torch.Tensor] = {}
    gates: dict[str, torch.Tensor] = {}

    def gate(name: str, width: int) -> Any:
        def hook(_: Any, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
            x = given[0]
            gates[name] = torch.ones(x.shape[0], x.shape[-1] // width, requires_grad=True)
            x = x * gates[name].repeat_interleave(width, 1)[:, None]
            x.retain_grad()
            seen[name] = x
            return (x,)

        return hook

    widths = {}
    for i, layer in enumerate(model.base_model.layers):
        for name, module, width in ((f"{i} heads", layer.attention.output, 4), (f"{i} neurons", layer.feed_forward.down, 1)):
            module.register_forward_pre_hook(gate(name, width))
            widths[name] = width
    model(**inputs, labels=labels).loss.backward()
    for name, width in widths.items():
        a, g, expected = seen[name], seen[name].grad, gates[name].grad
        assert g is not None and expected is not None and expected.abs().max() > 1e-5
        torch.testing.assert_close(gate_gradients(a.detach(), g, width), expected, rtol=1e-4, atol=1e-6)


def test_fisher_is_the_mean_square_over_texts() -> None:
    torch.testing.assert_close(fisher(torch.tensor([[1.0, -2.0], [3.0, 0.0]])), torch.tensor([5.0, 2.0]))
    assert torch.all(fisher(torch.randn(9, 4)) >= 0)
