"""Plans for a requested size: bits of the matrices and rank of the embedding, so that the whole deployment fits."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from penjing.blueprint import Blueprint
from penjing.errors import InputError
from penjing.maths.stored import Scheme
from penjing.model.building import blueprint_of
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.model.watch import matrices_of
from penjing.search.bits import allot, table
from penjing.steps.bits.hessian import eigenvalues, sensitivities, traces
from penjing.steps.bits.store import MIXED, StoreSettings, scheme_of
from penjing.tasks.task import Examples, Task

LEAST_BITS = 3
"""The fewest bits of the average weight: blocks and the embedding's rank are cut before there are fewer."""
WIDTHS = (2, 3, 4, 5, 6, 8)
"""Bits that mixed precision chooses from."""
EMBEDDING_PART = 0.5
"""The largest part of the size that the word embedding may take."""
CURVATURES: dict[str, Callable[..., Mapping[str, Any]]] = {"gauss-newton": sensitivities, "trace": traces, "eigenvalue": eigenvalues}
"""Curvatures of the loss in each matrix, or in its rows, by the names of `StoreSettings.curvature`."""
OVERHEAD = 40_000
"""Bytes of headers, descriptions and the network's own file."""
MARGIN = 0.97
"""Bit allocation aims at this part of the room, since training changes how well the codes compress."""
RANKS = 16
"""The rank is a multiple of this."""


def least_bits(settings: StoreSettings) -> int:
    """The fewest bits of the average weight: those of the scheme, or the least that mixed may reach."""
    return LEAST_BITS if settings.scheme == MIXED else settings.width


def rank_for(blueprint: Blueprint, room: float, bits: int) -> int:
    """The rank at which the word embedding takes its part of `room` bytes, in so many bits a weight; 0: unfactorised it fits."""
    words, width = blueprint.vocabulary, blueprint.embedding
    most = EMBEDDING_PART * room * 8 / bits
    rank = max(RANKS, int(most / (words + width)) // RANKS * RANKS)
    return 0 if blueprint.rank or words * width <= most or rank * (words + width) >= words * width else rank


def room_for_blocks(blueprint: Blueprint, rank: int, room: float, bits: int) -> float:
    """The limit on a blueprint's bytes in so many bits, so that with this rank it takes `room` bytes as it is stored."""
    full, factored = (replace(blueprint, bits=bits, rank=r).bytes for r in (blueprint.rank, rank or blueprint.rank))
    return room - OVERHEAD + 3 * _tables(blueprint) + full - factored


def _tables(blueprint: Blueprint) -> int:
    """The number of weights of positions and token types, which take a byte each where a blueprint counts four."""
    return (blueprint.positions + blueprint.token_types) * blueprint.embedding


def mixed(
    model: PenjingPreTrainedModel, settings: StoreSettings, task: Task, data: Examples, limit_bytes: float | None, seed: int
) -> dict[str, Scheme]:
    """Mixed-precision schemes: more bits where the Hessian says that rounding costs more (Dong et al. 2020, HAWQ-V2, equation 8).

    Args:
        data: texts with labels that the Hessian is estimated on.
        limit_bytes: of the packed weights; None: the bytes of `settings.width` bits of the average weight.
    """
    blueprint = blueprint_of(model)
    names = list(matrices_of(model))
    entries = sum(model.get_parameter(name).numel() for name in names)
    room = (
        settings.width * entries / 8
        if limit_bytes is None
        else MARGIN * (limit_bytes - 4 * (blueprint.vectors - _tables(blueprint)) - OVERHEAD)
    )
    curvatures = CURVATURES[settings.curvature](model, task, data, seed)
    costs: dict[str, dict[Scheme, tuple[int, float]]] = {}
    for name in names:
        weight = model.get_parameter(name)
        wide = [scheme_of(name, weight.shape[1], Scheme("linear", bits, settings.group, settings.clip)) for bits in WIDTHS]
        costs |= table({name: weight}, {name: curvatures.get(name, 0.0)}, dict.fromkeys(wide), seed)  # small matrices have one scheme
    try:
        return allot(costs, room)
    except InputError as error:
        asked = f"bits: {settings.width}" if limit_bytes is None else f"size_mb: {limit_bytes / 1e6:.1f} MB of weights"
        raise InputError(f"{asked}: too little for the weights even in {WIDTHS[0]} bits each; ask for more") from error
