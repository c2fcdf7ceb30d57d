"""Penjing (盆景): makes a fine-tuned BERT small and fast on the machine where it will run, with the proof.

    report = penjing.compress("my-bert", "out", task="pair", train="pairs.jsonl", eval="dev.jsonl", speedup=7)
    answers = penjing.load("out")([("a text", "another")])

Names are imported when they are first used; `load` needs neither torch nor transformers.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from penjing.engines.engine import Engine
    from penjing.job.api import compress, distill, factorise, project, prune, quantize, share, train
    from penjing.job.asked import Budget
    from penjing.job.evaluation import bench, evaluate
    from penjing.job.recipe import Recipe
    from penjing.model.checkpoint import Checkpoint
    from penjing.serving.predictor import load
    from penjing.steps.step import Step
    from penjing.students.student import Student
    from penjing.tasks.task import Task

__version__ = "0.1.0"

_HOMES = {
    "load": "penjing.serving.predictor",
    "compress": "penjing.job.api",
    "distill": "penjing.job.api",
    "prune": "penjing.job.api",
    "quantize": "penjing.job.api",
    "share": "penjing.job.api",
    "factorise": "penjing.job.api",
    "project": "penjing.job.api",
    "train": "penjing.job.api",
    "evaluate": "penjing.job.evaluation",
    "bench": "penjing.job.evaluation",
    "Recipe": "penjing.job.recipe",
    "Budget": "penjing.job.asked",
    "Checkpoint": "penjing.model.checkpoint",
    "Task": "penjing.tasks.task",
    "Step": "penjing.steps.step",
    "Student": "penjing.students.student",
    "Engine": "penjing.engines.engine",
}
"""The module of each public name."""

__all__ = [
    "Budget", "Checkpoint", "Engine", "Recipe", "Step", "Student", "Task", "bench", "compress", "distill", "evaluate", "factorise", "load",
    "project", "prune", "quantize", "share", "train",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'penjing' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
