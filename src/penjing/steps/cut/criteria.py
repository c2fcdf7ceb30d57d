"""The criteria of importance by name."""

from collections.abc import Callable

from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.steps.cut import gates, importance
from penjing.steps.cut.importance import Importance
from penjing.tasks.task import Examples, Task

Criterion = Callable[[PenjingPreTrainedModel, Task, Examples, int], Importance]


IMPORTANCE: dict[str, Criterion] = {
    "fisher": importance.fisher,
    "block-fisher": importance.block_fisher,
    "obs": importance.reconstruction,
    "gates": gates.learned_gates,
    "gradient": importance.gradient,
    "taylor": importance.taylor,
    "lrp": importance.relevance,
    "activation": importance.activation,
    "magnitude": importance.magnitude_l2,
    "magnitude-l1": importance.magnitude_l1,
    "random": importance.random,
}


COMPARABLE = ("fisher", "block-fisher", "obs", "gates")
"""Criteria that score heads and neurons on one scale: under a limit on the cost, a head is weighed against neurons."""
