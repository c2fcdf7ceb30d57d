"""A simple allocation: layers by how little they are missed, heads and neurons by importance per cost saved."""

import heapq

import numpy as np

from penjing.blueprint import Blueprint, Layer
from penjing.search.costs import CostTable
from penjing.steps.importance import Importance
from penjing.surgery import LayerSelection, Selection

NEURON_GROUP = 64
"""Neurons are cut in groups of this many: kernels work in blocks, and odd widths save nothing."""


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
        left, last = (heads if kind == "heads" else neurons)[i], i == layers[-1]
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


def _whole(blueprint: Blueprint, layers: list[int]) -> Selection:
    return Selection(tuple(Selection.all(blueprint).layers[i] for i in layers))


def smallest(blueprint: Blueprint, importance: Importance) -> Selection:
    """The least that is left to cut to: one layer, its best head and its best group of neurons."""
    layer = next(i for i in range(len(blueprint.layers)) if i not in importance.removed)
    neurons = sorted(int(n) for n in np.argsort(importance.neurons[layer], kind="stable")[-NEURON_GROUP:])
    return Selection((LayerSelection(layer, (int(np.argmax(importance.heads[layer])),), tuple(neurons)),))
