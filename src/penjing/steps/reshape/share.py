"""Layer sharing: groups of layers run one set of weights, which is stored once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal, cast, final, get_args

import torch
from torch import Tensor

from penjing.blueprint import Blueprint
from penjing.errors import InputError
from penjing.files.options import option
from penjing.maths.repair import RIDGE, best_update
from penjing.model.building import build
from penjing.model.modeling_penjing import Layer, PenjingPreTrainedModel
from penjing.model.run import Block, embedded
from penjing.model.watch import layers_of
from penjing.steps.cut.repair import run_watched
from penjing.steps.settings import REWRITES, Effects, Settings, Trait, check_name, effects
from penjing.steps.stage import ApplyStep, Stage
from penjing.steps.step import Step
from penjing.tasks.task import Examples
from penjing.text.encoded import Encoded

Pattern = Literal["sequence", "cycle"]
Start = Literal["average", "middle", "least-squares"]
Group = tuple[int, ...]
"""The numbers of layers that are to have the same weights, ascending."""
BATCH = 32
"""The largest number of texts in a batch."""


@final
@dataclass(frozen=True)
class ShareSettings(Settings):
    """Settings of layer sharing. layers: how many distinct ones are left."""

    name = "share"
    paper = "Lan et al. 2020 (ALBERT), section 3.1; Takase & Kiyono 2021 (sequence, cycle)"
    when = "To be smaller on disk and in memory, and not faster: every layer still runs. Distil afterwards."

    layers: int = option(1, "Distinct layers that are left.", least=1)
    pattern: str = option("sequence", "Which layers share: neighbours (112233), or every n-th (123123).", allowed=get_args(Pattern))
    start: str = option(
        "middle", "From the layers of a group: their average, the middle one, or that refitted to all of them.", allowed=get_args(Start)
    )
    texts: int = option(1000, "Training texts that least squares looks at.", least=1)

    def __post_init__(self) -> None:
        check_name("pattern", self.pattern, get_args(Pattern))
        check_name("start", self.start, get_args(Start))
        if self.layers < 1:
            raise InputError(f"layers: {self.layers} is not allowed; give at least 1 that is left")

    def effects(self, taught: bool) -> Effects:
        return effects(makes=[Trait.CUTS], undoes=list(REWRITES))

    def stages(self, recipe: Sequence[Settings]) -> Sequence[Stage[Any]]:
        return [ApplyStep(Share(self.layers, cast(Pattern, self.pattern), cast(Start, self.start)), self.texts)]

    @property
    def cuts(self) -> bool:
        return True


@final
class Share(Step[Encoded, Blueprint]):
    """The step of layer sharing: `layers` distinct ones are left.

    The groups are of neighbours, as equal as they can be (`sequence`), or of every n-th layer (`cycle`).
    """

    name = "share"

    def __init__(self, layers: int, pattern: Pattern = "sequence", start: Start = "middle") -> None:
        self.layers = layers
        self.pattern: Pattern = pattern
        self.start: Start = start

    def observe(self, model: PenjingPreTrainedModel, data: Examples) -> Encoded:
        """The texts that least squares looks at."""
        return data.encoded

    def plan(self, blueprint: Blueprint, evidence: Encoded) -> Blueprint:
        """The blueprint with shared layers; layers of a group must have the same sizes, else `InputError`."""
        shares = {i: group[0] for group in groups_of(len(blueprint.layers), self.layers, self.pattern) for i in group[1:]}
        layers = [replace(layer, shares=None) for layer in blueprint.layers]
        for i, owner in shares.items():
            if layers[i] != layers[owner]:
                raise InputError(
                    f"layers: layers {owner} and {i} are to share their weights, and differ ({layers[owner].heads} heads and"
                    f" {layers[owner].neurons} neurons, {layers[i].heads} and {layers[i].neurons}); share before anything is cut"
                )
        return blueprint.with_layers(tuple(replace(layer, shares=shares.get(i)) for i, layer in enumerate(layers)))

    def apply(self, model: PenjingPreTrainedModel, plan: Blueprint, evidence: Encoded) -> PenjingPreTrainedModel:
        result = build(plan, model.config)
        prefix = "" if plan.head.bare else "encoder."
        outside = {name: value for name, value in model.state_dict().items() if not name.startswith(f"{prefix}layers.")}
        result.load_state_dict(outside, strict=False)
        groups = [plan.sharing(owner) for owner in plan.distinct]
        for group in groups:
            _start(layers_of(result)[group[0]], [layers_of(model)[i] for i in group], self.start)
        if self.start == "least-squares":
            _refit(result, model, groups, evidence)
        return result.train(model.training)


def groups_of(depth: int, distinct: int, pattern: Pattern) -> list[Group]:
    """The groups of layers that share, by their first."""
    if distinct > depth:
        raise InputError(f"layers: {distinct} distinct layers are more than the {depth} of the model; give 1 to {depth}")
    if pattern == "cycle":
        return [tuple(range(first, depth, distinct)) for first in range(distinct)]
    ends = [-(-depth * i // distinct) for i in range(distinct + 1)]
    return [tuple(range(*pair)) for pair in pairwise(ends)]


@torch.no_grad()
def _start(shared: Layer, layers: Sequence[Layer], start: Start) -> None:
    """Give the shared layer its first weights: the average of the group's, or those of the layer in its middle."""
    middle = layers[(len(layers) - 1) // 2]
    for block in ("attention", "feed_forward"):
        states = [getattr(layer, block).state_dict() for layer in (layers if start == "average" else [middle])]
        mean = {name: torch.stack([state[name] for state in states]).mean(0) for name in states[0]}
        getattr(shared, block).load_state_dict(mean)


@torch.no_grad()
def _refit(model: PenjingPreTrainedModel, teacher: PenjingPreTrainedModel, groups: Sequence[Group], encoded: Encoded) -> None:
    """Refit the closing layer of each shared block, by least squares over all layers of its group at once.

    Each place in the depth is given the teacher's own states there, and what the teacher's layer there gives before its norm is the target;
    the norm, which one linear layer cannot fit, stays the start's.
    """
    places: list[tuple[Block, list[Tensor], list[Tensor]]] = []
    states = embedded(teacher, encoded, BATCH)  # one (B, S, H) per batch
    for layer in layers_of(teacher):
        for block in halves(layer):
            runs = [run_watched(block, x) for x in states]
            places.append((block, states, [run.total for run in runs]))
            states = [run.output for run in runs]
    for group in groups:
        shared = layers_of(model)[group[0]]
        for half, block in enumerate(halves(shared)):
            _fit(block, [pair for i in group for pair in _pairs(places[2 * i + half])])


def halves(layer: Layer) -> tuple[Block, Block]:
    """The blocks of a layer, in the order in which they run."""
    return layer.attention, layer.feed_forward


def _pairs(place: tuple[Block, list[Tensor], list[Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(*place[1:], strict=True)


def _fit(block: Block, pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Refit the closing layer of `block` in place, so that its sum before the norm is nearest to the targets; pairs (B, S, H) of both."""
    closing = block.closing
    K, H = closing.in_features, closing.out_features
    A = torch.zeros(K + 1, K + 1, dtype=torch.float64)
    B = torch.zeros(H, K + 1, dtype=torch.float64)
    for x, target in pairs:
        run = run_watched(block, x)
        a = run.features.flatten(0, 1)  # (N, K)
        a = torch.cat([a, a.new_ones(len(a), 1)], 1)  # the last column is the bias's
        A += a.T @ a
        B += (target - run.total).flatten(0, 1).T @ a
    D = best_update(A, B, RIDGE).float()
    closing.weight.add_(D[:, :-1])
    closing.bias.add_(D[:, -1])
