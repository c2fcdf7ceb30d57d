"""Importance criteria of pruning: the table by name, and functions of the user's own."""

from collections.abc import Callable
from dataclasses import dataclass

from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.steps.cut import gates, importance
from penjing.steps.cut.importance import Importance
from penjing.tasks.task import Examples, Task

Score = Callable[[PenjingPreTrainedModel, Task, Examples, int], Importance]
"""(model, task, data, seed) → the importance of each part."""


@dataclass(frozen=True)
class Criterion:
    """A criterion of importance: its scoring function, and its source.

    comparable: whether heads and neurons are scored on one scale, so that under a limit on the cost a head is weighed against neurons;
    else the same part of both is cut.
    """

    score: Score
    comparable: bool = False
    paper: str = ""
    when: str = ""


CRITERIA: dict[str, Criterion] = {
    "fisher": Criterion(importance.fisher, True, "Kwon et al. 2022, section 4.1", "The default: one backward pass over a thousand texts."),
    "block-fisher": Criterion(
        importance.block_fisher, True, "Kwon et al. 2022, section 4.2", "As fisher, with what parts of a layer do together."
    ),
    "obs": Criterion(importance.reconstruction, True, "Frantar & Alistarh 2022; Kurtic et al. 2023 (ZipLM)", "Best without training."),
    "gates": Criterion(gates.learned_gates, True, "Louizos et al. 2018; Xia et al. 2022", "Learned on a frozen model; needs no labels."),
    "gradient": Criterion(importance.gradient, False, "Michel et al. 2019, section 4.1", "Of heads, as the paper has it; a rival."),
    "taylor": Criterion(importance.taylor, False, "Molchanov et al. 2017", "A rival at the cost of fisher."),
    "lrp": Criterion(importance.relevance, False, "Voita et al. 2019", "Which heads the answer goes through; for looking at a model."),
    "activation": Criterion(importance.activation, False, "Muralidharan et al. 2024, section 2.2", "Without a backward pass."),
    "magnitude": Criterion(importance.magnitude_l2, False, "Li et al. 2017", "Without data."),
    "magnitude-l1": Criterion(importance.magnitude_l1, False, "Li et al. 2017, section 3.1", "Without data."),
    "random": Criterion(importance.random, False, "", "What any criterion has to beat."),
}


def criterion_of(given: str | Criterion | Score) -> Criterion:
    """The criterion of a name in the table, of a user's function, or a `Criterion` as it is."""
    if isinstance(given, str):
        return CRITERIA[given]
    return given if isinstance(given, Criterion) else Criterion(given)
