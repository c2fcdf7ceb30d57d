"""Store a model's matrices in few bits with the least error on calibration texts: matrix after matrix, on what was rounded before."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from penjing.errors import InputError
from penjing.maths.gptq import quantize_with_inputs
from penjing.maths.stored import Scheme, quantize
from penjing.model.building import blueprint_of
from penjing.model.coded import Coded
from penjing.model.modeling_penjing import Attention, PenjingPreTrainedModel
from penjing.model.run import blocks_of, embedded, run_block
from penjing.model.surgery import copy_of
from penjing.model.watch import watching_inputs
from penjing.text.encoded import Encoded

BATCH = 64
"""Texts that go through a block at a time."""


@torch.no_grad()
def round_model(
    model: PenjingPreTrainedModel, encoded: Encoded, schemes: Mapping[str, Scheme], seed: int = 0
) -> tuple[PenjingPreTrainedModel, dict[str, Coded]]:
    """A new model with the parameters that `schemes` names rounded, and the codes of these by name.

    A linear layer of the encoder's layers, or of a sequence or token head, is rounded for the inputs that it has on the texts in
    the model as rounded so far. Its bias makes up for the mean error, so that only the inputs' covariance counts. Where the
    head reads the first token alone, so do the inputs of the last layer that reach no other. The rest is rounded plainly.
    """
    result = copy_of(model)
    sequence = blueprint_of(model).head.first_only
    weights = dict(result.named_parameters())
    names = {m: f"{name}.weight" for name, m in result.named_modules()}
    unknown = sorted(set(schemes) - set(weights))
    if unknown:
        raise InputError(f"schemes: {unknown[0]} is no parameter of the model; give names as in its state dict")
    blocks = _blocks(result)
    taught = {names[linear] for block in blocks for linear in _linear(block)}
    coded = {name: quantize(weights[name], scheme, seed) for name, scheme in schemes.items() if name not in taught}
    for name, codes in coded.items():
        weights[name].copy_(torch.from_numpy(codes.values()))
    states = embedded(result, encoded, BATCH)
    last = blocks_of(result)[-2:]
    for block in blocks:
        ends = sequence and block in last
        for linear in _linear(block):
            name = names[linear]
            if name in schemes:
                first_only = ends and not (isinstance(block, Attention) and block.heads and linear in (block.key, block.value))
                mean, covariance = _moments(block, linear, states, first_only)
                coded[name] = quantize_with_inputs(linear.weight, covariance, schemes[name], seed)
                rounded = torch.from_numpy(coded[name].values())
                linear.bias.add_((linear.weight - rounded).double() @ mean)
                linear.weight.copy_(rounded)
        states = [run_block(block, x) for x in states]
    return result, {name: coded[name] for name in schemes}


def _blocks(model: PenjingPreTrainedModel) -> list[nn.Module]:
    """What is run one after another, each on what the one before gave."""
    blocks: list[nn.Module] = [*blocks_of(model)]
    return [*blocks, model.get_submodule("head")] if blueprint_of(model).head.labelled else blocks


def _linear(block: nn.Module) -> list[nn.Linear]:
    """The linear layers of a block that have weights, in the order in which they are run."""
    return [m for m in block.modules() if isinstance(m, nn.Linear) and m.in_features]


def _moments(block: nn.Module, linear: nn.Linear, states: list[Tensor], first_only: bool) -> tuple[Tensor, Tensor]:
    """Mean (K,) and covariance (K, K) of what a linear layer of the block reads when the block runs on the states."""
    K = linear.in_features
    count = 0
    total, squares = torch.zeros(K, dtype=torch.float64), torch.zeros(K, K, dtype=torch.float64)

    def look(_: nn.Linear, y: Tensor) -> None:
        nonlocal count
        x = y[:, 0] if first_only else y.reshape(-1, K)
        total.add_(x.sum(0))
        squares.add_(x.T @ x)
        count += len(x)

    with watching_inputs([(linear, linear)], look):
        for x in states:
            run_block(block, x)
    mean = total / count
    return mean, squares / count - torch.outer(mean, mean)
