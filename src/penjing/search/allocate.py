"""Which heads and neurons to keep: so many of them, or as many as a limit on the cost allows."""

import heapq
from dataclasses import replace

import numpy as np

from penjing.blueprint import Blueprint, Layer
from penjing.search.costs import CostTable
from penjing.selection import LayerSelection, Selection
from penjing.steps.cut.importance import Importance, Scores

NEURON_GROUP, FINE_GROUP = 64, 8
"""Neurons are cut in groups of this many under a limit, and where a part is asked: kernels work in blocks, and odd widths save nothing."""


def candidates(blueprint: Blueprint, importance: Importance, table: CostTable, limit: float, limit_bytes: float) -> list[Selection]:
    """For each depth that can meet both limits, the selection that keeps the most at that depth, deepest first.

    Pure: planning moves no tensor.
    """
    found = []
    for removed in range(len(importance.removed) + 1):
        gone = set(importance.removed[:removed])
        layers = [i for i in range(len(blueprint.layers)) if i not in gone]
        selection = narrow(blueprint, layers, importance, table, limit, limit_bytes)
        if selection is not None:
            found.append(selection)
            if selection == _whole(blueprint, layers):
                break  # nothing had to be narrowed: fewer layers would only lose more
    return found


def narrow(
    blueprint: Blueprint, layers: list[int], importance: Importance, table: CostTable, limit: float, limit_bytes: float
) -> Selection | None:
    """Keep `layers`, and of them drop the heads and groups of neurons that matter least for what they cost, to the limits.

    None where even these layers emptied are too slow, or too large.
    """
    heads = {i: list(np.argsort(importance.heads[i], kind="stable")) for i in layers}
    neurons = {i: list(np.argsort(importance.neurons[i], kind="stable")) for i in layers}

    def selection() -> Selection:
        kept = ((i, tuple(sorted(int(h) for h in heads[i])), tuple(sorted(int(n) for n in neurons[i]))) for i in layers)
        return Selection(tuple(LayerSelection(*each) for each in kept))

    def offer(i: int, kind: str) -> tuple[float, int] | None:
        """The cheapest next cut of this kind in layer i: importance lost per cost saved, and how many go.

        One head or one group of neurons, or the whole block: blocks cost so much for being there at all that going
        altogether can be the better bargain. None where nothing is left.
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

    queue = [(*found, i, kind) for i in layers for kind in ("heads", "neurons") if (found := offer(i, kind)) is not None]
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
        if (found := offer(i, kind)) is not None:
            heapq.heappush(queue, (*found, i, kind))


def by_parts(
    blueprint: Blueprint, layers: list[int], importance: Importance, heads: float, neurons: float, per_layer: bool = False
) -> Selection:
    """Keep these parts of the heads and of the neurons of `layers`, the most important of all of them, or of each layer."""
    kept_heads = _most_important([importance.heads[i] for i in layers], heads, 1, per_layer)
    kept_neurons = _most_important([importance.neurons[i] for i in layers], neurons, FINE_GROUP, per_layer)
    return Selection(tuple(LayerSelection(i, *kept) for i, *kept in zip(layers, kept_heads, kept_neurons, strict=True)))


def _most_important(scores: list[Scores], part: float, group: int, per_layer: bool) -> list[tuple[int, ...]]:
    """Of each layer, the numbers that are kept: groups of `group`, least important together, the best of them `part` of all."""
    if per_layer:
        return [_most_important([each], part, group, False)[0] for each in scores]
    groups = []
    for layer, each in enumerate(scores):
        order = np.argsort(-each, kind="stable")
        groups += [(float(each[order[i : i + group]].mean()), layer, order[i : i + group]) for i in range(0, len(order), group)]
    groups.sort(key=lambda found: -found[0])
    kept: list[list[int]] = [[] for _ in scores]
    left = round(part * sum(map(len, scores)))
    for _, layer, numbers in groups:
        if len(numbers) > left:
            break  # a smaller group further on is worth less
        kept[layer] += numbers.tolist()
        left -= len(numbers)
    return [tuple(sorted(each)) for each in kept]


def best_blocks(selection: Selection, importance: Importance, part: float) -> Selection:
    """Empty whole attention and feed-forward blocks, those whose heads or neurons matter least in all, until `part` of them is left."""
    worth = {(j, kind): float(getattr(importance, kind)[kept.layer][list(getattr(kept, kind))].sum())
             for j, kept in enumerate(selection.layers) for kind in ("heads", "neurons")}  # fmt: skip
    gone = sorted(worth, key=lambda block: worth[block])[: len(worth) - round(part * len(worth))]
    layers = list(selection.layers)
    for j, kind in gone:
        layers[j] = replace(layers[j], heads=()) if kind == "heads" else replace(layers[j], neurons=())
    return replace(selection, layers=tuple(layers))


def evenly(
    blueprint: Blueprint, layers: list[int], importance: Importance, table: CostTable, limit: float, per_layer: bool = False
) -> Selection | None:
    """The largest equal part of the heads and of the neurons whose cost is within the limit; None where not even nothing is.

    For scores that say which head and which neuron first, but not a head against a neuron.
    """
    parts = np.linspace(1, 0, 201)
    found = (by_parts(blueprint, layers, importance, part, part, per_layer) for part in parts)
    return next((selection for selection in found if table.cost(selection.plan(blueprint)) <= limit), None)


def _whole(blueprint: Blueprint, layers: list[int]) -> Selection:
    return Selection(tuple(Selection.all(blueprint).layers[i] for i in layers))


def smallest(blueprint: Blueprint, importance: Importance) -> Selection:
    """The least that is left to cut to: one layer, its best head and its best group of neurons."""
    layer = next(i for i in range(len(blueprint.layers)) if i not in importance.removed)
    neurons = sorted(int(n) for n in np.argsort(importance.neurons[layer], kind="stable")[-NEURON_GROUP:])
    return Selection((LayerSelection(layer, (int(np.argmax(importance.heads[layer])),), tuple(neurons)),))
