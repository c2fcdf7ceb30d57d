"""Allocation of heads and neurons: selections of a given part, or as large as a limit on the cost allows."""

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from penjing.blueprint import Blueprint
from penjing.search.costs import Costs
from penjing.selection import Index, LayerSelection, Selection
from penjing.steps.cut.importance import Importance, Scores

NEURON_GROUP = 64
"""Neurons are cut in groups of this many under a limit on the cost: kernels work in blocks, and odd widths save nothing."""
FINE_GROUP = 8
"""Neurons are cut in groups of this many where a part is requested."""


def candidates(blueprint: Blueprint, importance: Importance, table: Costs, limit: float, limit_bytes: float) -> list[Selection]:
    """Candidate selections: for each depth that can meet both limits, the one that keeps the most, deepest first.

    Pure: planning moves no tensor.
    """
    selections = []
    for removed in range(len(importance.removed) + 1):
        gone = set(importance.removed[:removed])
        layers = [i for i in range(len(blueprint.layers)) if i not in gone]
        selection = narrow(blueprint, layers, importance, table, limit, limit_bytes)
        if selection is not None:
            selections.append(selection)
            if selection == _whole(blueprint, layers):
                break  # nothing had to be narrowed: fewer layers would only lose more
    return selections


def narrow(
    blueprint: Blueprint, layers: list[int], importance: Importance, table: Costs, limit: float, limit_bytes: float
) -> Selection | None:
    """The selection of `layers` without the heads and groups of neurons of least importance per cost, within both limits.

    Greedy, by a queue of the cheapest next cut of each block; a block that several layers share is cut in all of them. limit: of the
    table's cost. limit_bytes: of the weights.

    Returns:
        None where even these layers emptied are too slow, or too large.
    """
    groups = _groups(blueprint, layers)
    heads = {i: list(np.argsort(importance.heads[i], kind="stable")) for i in groups}
    neurons = {i: list(np.argsort(importance.neurons[i], kind="stable")) for i in groups}

    def selection() -> Selection:
        return _together(
            groups,
            {i: tuple(sorted(int(h) for h in heads[i])) for i in groups},
            {i: tuple(sorted(int(n) for n in neurons[i])) for i in groups},
        )

    def offer(i: int, kind: str) -> tuple[float, int] | None:
        """The cheapest next cut of this kind in layer i: importance lost per cost saved, and how many go.

        One head or one group of neurons, or the whole block: a block has a fixed cost, so removing all of it can lose less
        importance per cost. None where nothing is left.
        """
        left = (heads if kind == "heads" else neurons)[i]
        scores = (importance.heads if kind == "heads" else importance.neurons)[i]

        def costs(count: int) -> float:
            if kind == "heads":
                return sum(table.attention(replace(blueprint.layers[j], heads=count), j == layers[-1]) for j in groups[i])
            return sum(table.feed_forward(replace(blueprint.layers[j], neurons=count), j == layers[-1]) for j in groups[i])

        offers = []
        for count in {min(len(left), 1 if kind == "heads" else NEURON_GROUP), len(left)} - {0}:
            saved = costs(len(left)) - costs(len(left) - count)
            offers.append((float(scores[left[:count]].sum()) / saved if saved > 1e-6 else float("inf"), count))
        return min(offers, default=None)

    queue = [(*best, i, kind) for i in groups for kind in ("heads", "neurons") if (best := offer(i, kind)) is not None]
    heapq.heapify(queue)
    while True:
        left = _sized(blueprint, groups, layers, heads, neurons)
        if table.cost(left) <= limit and left.bytes <= limit_bytes:
            return selection()
        if not queue:
            return None
        cost, count, i, kind = heapq.heappop(queue)
        if cost == float("inf") and left.bytes <= limit_bytes:
            return None
        del (heads if kind == "heads" else neurons)[i][:count]
        if (best := offer(i, kind)) is not None:
            heapq.heappush(queue, (*best, i, kind))


def by_parts(
    blueprint: Blueprint, layers: list[int], importance: Importance, heads: float, neurons: float, per_layer: bool = False
) -> Selection:
    """The selection of these parts of the heads and of the neurons of `layers`: the most important over all layers, or in each."""
    groups = _groups(blueprint, layers)
    kept_heads = _most_important([importance.heads[i] for i in groups], heads, 1, per_layer)
    kept_neurons = _most_important([importance.neurons[i] for i in groups], neurons, FINE_GROUP, per_layer)
    return _together(groups, dict(zip(groups, kept_heads, strict=True)), dict(zip(groups, kept_neurons, strict=True)))


Groups = dict[int, list[int]]
"""The kept layers that share their weights, by the first of them: what is cut of one is cut of all."""


def _groups(blueprint: Blueprint, layers: Iterable[int]) -> Groups:
    by_owner: Groups = {}
    for i in layers:
        by_owner.setdefault(blueprint.owner(i), []).append(i)
    return {members[0]: members for members in by_owner.values()}


def _together(groups: Groups, heads: Mapping[int, Index], neurons: Mapping[int, Index]) -> Selection:
    """The selection of all layers of the groups, with the heads and neurons of the first of each."""
    kept = sorted((i, heads[first], neurons[first]) for first, members in groups.items() for i in members)
    return Selection(tuple(LayerSelection(*parts) for parts in kept))


def _sized(
    blueprint: Blueprint, groups: Groups, layers: Sequence[int], heads: Mapping[int, Sequence[int]], neurons: Mapping[int, Sequence[int]]
) -> Blueprint:
    """The blueprint of these layers, with so many heads and neurons as the first of each group keeps."""
    first = {i: members[0] for members in groups.values() for i in members}
    return blueprint.with_layers(
        tuple(
            replace(
                blueprint.layers[i], heads=len(heads[first[i]]), neurons=len(neurons[first[i]]),
                shares=None if first[i] == i else layers.index(first[i]),
            )
            for i in layers
        )
    )  # fmt: skip


def _most_important(scores: list[Scores], part: float, group: int, per_layer: bool) -> list[tuple[int, ...]]:
    """Numbers of the kept heads or neurons of each layer: the best groups of `group`, by mean score, `part` of all."""
    if per_layer:
        return [_most_important([layer_scores], part, group, False)[0] for layer_scores in scores]
    groups = []
    for layer, layer_scores in enumerate(scores):
        order = np.argsort(-layer_scores, kind="stable")
        groups += [(float(layer_scores[order[i : i + group]].mean()), layer, order[i : i + group]) for i in range(0, len(order), group)]
    groups.sort(key=lambda scored: -scored[0])
    kept: list[list[int]] = [[] for _ in scores]
    left = round(part * sum(map(len, scores)))
    for _, layer, numbers in groups:
        if len(numbers) > left:
            break  # a smaller group further on is worth less
        kept[layer] += numbers.tolist()
        left -= len(numbers)
    return [tuple(sorted(numbers)) for numbers in kept]


def best_blocks(blueprint: Blueprint, selection: Selection, importance: Importance, part: float) -> Selection:
    """A selection without the least important attention and feed-forward blocks: they are emptied until `part` of them is left.

    Blocks that several layers share are one.
    """
    kept = {layer.layer: layer for layer in selection.layers}
    groups = _groups(blueprint, kept)
    worth = {
        (i, kind): float(getattr(importance, kind)[i][list(getattr(kept[i], kind))].sum()) for i in groups for kind in ("heads", "neurons")
    }
    gone = set(sorted(worth, key=lambda block: worth[block])[: len(worth) - round(part * len(worth))])
    heads, neurons = ({i: () if (i, kind) in gone else getattr(kept[i], kind) for i in groups} for kind in ("heads", "neurons"))
    return replace(selection, layers=_together(groups, heads, neurons).layers)


def evenly(
    blueprint: Blueprint, layers: list[int], importance: Importance, table: Costs, limit: float, per_layer: bool = False
) -> Selection | None:
    """The selection of the largest equal part of heads and neurons within the cost limit; None where even part 0 is over it.

    For scores that rank heads and neurons, but do not compare a head with a neuron.
    """
    parts = np.linspace(1, 0, 201)
    selections = (by_parts(blueprint, layers, importance, part, part, per_layer) for part in parts)
    return next((selection for selection in selections if table.cost(selection.plan(blueprint)) <= limit), None)


def _whole(blueprint: Blueprint, layers: list[int]) -> Selection:
    return Selection(tuple(Selection.all(blueprint).layers[i] for i in layers))


def smallest(blueprint: Blueprint, importance: Importance) -> Selection:
    """The smallest selection: one layer, with its best head and its best group of neurons."""
    layer = next(i for i in range(len(blueprint.layers)) if i not in importance.removed)
    neurons = sorted(int(n) for n in np.argsort(importance.neurons[layer], kind="stable")[-NEURON_GROUP:])
    return Selection((LayerSelection(layer, (int(np.argmax(importance.heads[layer])),), tuple(neurons)),))
