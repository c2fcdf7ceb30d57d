"""GPTQ of a whole model: matrices rounded to few bits, one after another, for the inputs of the model as rounded so far."""

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
"""Texts of a batch that a block is run on."""


@torch.no_grad()
def round_model(
    model: PenjingPreTrainedModel, encoded: Encoded, schemes: Mapping[str, Scheme], seed: int = 0
) -> tuple[PenjingPreTrainedModel, dict[str, Coded]]:
    """A new model with the parameters of `schemes` rounded, and their codes by name (Frantar et al. 2023, GPTQ).

    A linear layer of the encoder's layers, or of a sequence or token head, is rounded for its inputs on the texts in the model as
    rounded so far. Its bias, where it has one, makes up for the mean error, so that only the inputs' covariance counts. Where the head reads the first
    token alone, only that token counts for the layers that reach no other. Other matrices are rounded without calibration.

    Raises:
        InputError: a name of `schemes` is no parameter.
    """
    result = copy_of(model)
    sequence = blueprint_of(model).head.first_only
    weights = dict(result.named_parameters())
    names = {m: f"{name}.weight" for name, m in result.named_modules()}
    unknown = sorted(set(schemes) - set(weights))
    if unknown:
        raise InputError(f"schemes: {unknown[0]} is no parameter of the model; give names as in its state dict")
    blocks = _blocks(result)
    calibrated = {names[linear] for block in blocks for linear in _linear(block)}
    coded = {name: quantize(weights[name], scheme, seed) for name, scheme in schemes.items() if name not in calibrated}
    for name, codes in coded.items():
        weights[name].copy_(torch.from_numpy(codes.values()))
    states = embedded(result, encoded, BATCH)  # one (B, S, H) per batch
    last = [block for block in blocks_of(result)[-2:] if blocks_of(result).count(block) == 1]
    for block in blocks:
        ends = sequence and block in last
        for linear in _linear(block):
            name = names[linear]
            if name in schemes and name not in coded:  # a block that several layers share is rounded where it runs first
                of_all = [part for name, part in block.projections.items() if name != "query"] if isinstance(block, Attention) else []
                first_only = ends and linear not in of_all
                mean, gram = _moments(block, linear, states, first_only)
                if linear.bias is None:  # nothing makes up for the mean error, so that it counts
                    gram = gram + torch.outer(mean, mean)
                coded[name] = quantize_with_inputs(linear.weight, gram, schemes[name], seed)
                rounded = torch.from_numpy(coded[name].values())
                if linear.bias is not None:
                    linear.bias.add_((linear.weight - rounded).double() @ mean)
                linear.weight.copy_(rounded)
        states = [run_block(block, x) for x in states]
    return result, {name: coded[name] for name in schemes}


def _blocks(model: PenjingPreTrainedModel) -> list[nn.Module]:
    """The blocks of the encoder, then its head where that has labels, in the order in which they run."""
    blocks: list[nn.Module] = [*blocks_of(model)]
    return [*blocks, model.get_submodule("head")] if blueprint_of(model).head.labelled else blocks


def _linear(block: nn.Module) -> list[nn.Linear]:
    """The linear layers of a block that have weights, in the order in which they run."""
    return [m for m in block.modules() if isinstance(m, nn.Linear) and m.in_features]


def _moments(block: nn.Module, linear: nn.Linear, states: list[Tensor], first_only: bool) -> tuple[Tensor, Tensor]:
    """Mean (K,) and covariance (K, K) of the inputs of a linear layer of the block, which runs on the states."""
    K = linear.in_features
    count = 0
    total, squares = torch.zeros(K, dtype=torch.float64), torch.zeros(K, K, dtype=torch.float64)

    def look(_: nn.Linear, y: Tensor) -> None:
        nonlocal count
        x = y[:, 0] if first_only else y.reshape(-1, K)  # (tokens, K)
        total.add_(x.sum(0))
        squares.add_(x.T @ x)
        count += len(x)

    with watching_inputs([(linear, linear)], look):
        for x in states:
            run_block(block, x)
    mean = total / count
    return mean, squares / count - torch.outer(mean, mean)
