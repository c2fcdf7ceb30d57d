"""A criterion of importance of one's own, a function that is defined here, decides which heads and neurons go."""

from typing import Any

import numpy as np

from penjing.blueprint import Blueprint
from penjing.model.building import blueprint_of
from penjing.model.checkpoint import read
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.steps.cut.criteria import Criterion
from penjing.steps.cut.importance import Importance
from penjing.steps.cut.prune import PruneSettings
from penjing.tasks.task import Examples, Task


def later_is_better(model: PenjingPreTrainedModel, task: Task, data: Examples, seed: int) -> Importance:
    """The number of each head and neuron."""
    layers = blueprint_of(model).layers
    heads, neurons = ([np.arange(getattr(layer, kind), dtype=float) for layer in layers] for kind in ("heads", "neurons"))
    return Importance(heads, neurons, [], np.arange(blueprint_of(model).hidden, dtype=float))


def test_it_decides_what_goes(shop: Any) -> None:
    report = shop.compress(recipe=[PruneSettings(importance=later_is_better, neurons=0.25, repair="none")])
    cut: Blueprint = blueprint_of(read(shop.out / "model"))
    assert [layer.neurons for layer in cut.layers] == [16, 16] and report.result.macs is not None and report.result.macs < 1
    before, after = (read(shop.folder / "teacher"), read(shop.out / "model"))
    own, left = (model.state_dict()["encoder.layers.0.feed_forward.up.weight"] for model in (before, after))
    assert (own[48:] == left).all()


def test_a_criterion_can_say_that_its_scores_compare(shop: Any) -> None:
    report = shop.compress(recipe=[PruneSettings(importance=Criterion(later_is_better, comparable=True), macs=0.6, repair="none")])
    gate = next(gate for gate in report.gates if gate.name == "macs")
    assert gate.passed and gate.limit == 0.6
