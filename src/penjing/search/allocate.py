"""Allocation of heads and neurons: selections of a given part, or as large as a limit on the cost allows."""

import heapq
from dataclasses import replace

import numpy as np

from penjing.blueprint import Blueprint, Layer
from penjing.search.costs import CostTable
from penjing.selection import LayerSelection, Selection
from penjing.steps.cut.importance import Importance, Scores

NEURON_GROUP = 64
"""Neurons are cut in groups of this many under a limit on the cost: kernels work in blocks, and odd widths save nothing."""
FINE_GROUP = 8
"""Neurons are cut in groups of this many where a part is requested."""


def candidates(blueprint: Blueprint, importance: Importance, table: CostTable, limit: float, limit_bytes: float) -> list[Selection]:
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
    blueprint: Blueprint, layers: list[int], importance: Importance, table: CostTable, limit: float, limit_bytes: float
) -> Selection | None:
    """The selection of `layers` without the heads and groups of neurons of least importance per cost, within both limits.

    Greedy, by a queue of the cheapest next cut of each block. limit: of the table's cost. limit_bytes: of the weights.

    Returns:
        None where even these layers emptied are too slow, or too large.
    """
    heads = {i: list(np.argsort(importance.heads[i], kind="stable")) for i in layers}
    neurons = {i: list(np.argsort(importance.neurons[i], kind="stable")) for i in layers}

    def selection() -> Selection:
        kept = ((i, tuple(sorted(int(h) for h in heads[i])), tuple(sorted(int(n) for n in neurons[i]))) for i in layers)
        return Selection(tuple(LayerSelection(*parts) for parts in kept))

    def offer(i: int, kind: str) -> tuple[float, int] | None:
        """The cheapest next cut of this kind in layer i: importance lost per cost saved, and how many go.

        One head or one group of neurons, or the whole block: a block has a fixed cost, so removing all of it can lose less
        importance per cost. None where nothing is left.
        """
        left = (heads if kind == "heads" else neurons)[i]
        last = i == layers[-1]
        scores = (importance.heads if kind == "heads" else importance.neurons)[i]
        cost = table.attention if kind == "heads" else table.feed_forward
        offers = []
        for count in {min(len(left), 1 if kind == "heads" else NEURON_GROUP), len(left)} - {0}:
            saved = cost(len(left), last) - cost(len(left) - count, last)
            offers.append((float(scores[left[:count]].sum()) / saved if saved > 1e-6 else float("inf"), count))
        return min(offers, default=None)

    queue = [(*best, i, kind) for i in layers for kind in ("heads", "neurons") if (best := offer(i, kind)) is not None]
    heapq.heapify(queue)
    while True:
        left = blueprint.with_layers(tuple(Layer(len(heads[i]), len(neurons[i])) for i in layers))
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
    kept_heads = _most_important([importance.heads[i] for i in layers], heads, 1, per_layer)
    kept_neurons = _most_important([importance.neurons[i] for i in layers], neurons, FINE_GROUP, per_layer)
    return Selection(tuple(LayerSelection(i, *kept) for i, *kept in zip(layers, kept_heads, kept_neurons, strict=True)))


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


def best_blocks(selection: Selection, importance: Importance, part: float) -> Selection:
    """A selection without the least important attention and feed-forward blocks: they are emptied until `part` of them is left."""
    worth = {
        (j, kind): float(getattr(importance, kind)[kept.layer][list(getattr(kept, kind))].sum())
        for j, kept in enumerate(selection.layers)
        for kind in ("heads", "neurons")
    }
    gone = sorted(worth, key=lambda block: worth[block])[: len(worth) - round(part * len(worth))]
    layers = list(selection.layers)
    for j, kind in gone:
        layers[j] = replace(layers[j], heads=()) if kind == "heads" else replace(layers[j], neurons=())
    return replace(selection, layers=tuple(layers))


def evenly(
    blueprint: Blueprint, layers: list[int], importance: Importance, table: CostTable, limit: float, per_layer: bool = False
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
