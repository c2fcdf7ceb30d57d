"""What is asked: a model, data, a budget, and the steps to take."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from penjing.engines.engine import EngineName
from penjing.errors import InputError
from penjing.job.recipe import Recipe
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.steps.teach.teaching import Material, Teaching
from penjing.tasks.data import Data
from penjing.tasks.task import Examples
from penjing.training.objective import HARD
from penjing.training.texts import TextSettings


@dataclass(frozen=True)
class Budget:
    """What the user wants; None where it is left open."""

    speedup: float | None = None
    latency_ms: float | None = None
    size_mb: float | None = None
    max_drop: float | None = None
    confidence: float | None = None
    """Where it is given, what may have been lost (the end of the interval of so much confidence) is held against `max_drop`; else what was."""

    def __post_init__(self) -> None:
        for name in ("speedup", "latency_ms", "size_mb"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"--{name.replace('_', '-')}: {value} is not allowed; give a number above 0")
        if self.max_drop is not None and not 0 <= self.max_drop <= 100:
            raise InputError(f"--max-drop: {self.max_drop} is not allowed; give points of the metric, from 0 to 100")
        if self.confidence is not None and not 0.5 <= self.confidence < 1:
            raise InputError(f"--confidence: {self.confidence} is out of range; give at least 0.5 and less than 1, as 0.95")
        if self.confidence is not None and self.max_drop is None:
            raise InputError("--confidence: nothing asks for it; give --max-drop")

    @property
    def nothing(self) -> bool:
        """Whether nothing is asked at all."""
        return self.unbounded and self.max_drop is None

    @property
    def unbounded(self) -> bool:
        """Whether neither a speed nor a size is asked."""
        return self.speedup is None and self.latency_ms is None and self.size_mb is None


@dataclass(frozen=True)
class Job:
    """Everything that `compress` needs to know."""

    model: Path
    data: Data
    budget: Budget
    recipe: Recipe
    out: Path
    threads: int
    engine: EngineName | None = None
    seed: int = 0
    tests: Sequence[tuple[str, Examples]] = ()
    asked: dict[str, Any] = field(default_factory=dict)
    command: str = ""
    corpus: Path | None = None
    """Further texts, a line each, whose tokens are kept where the vocabulary is pruned."""
    material: Material = field(default_factory=Material)
    wait_s: float = 30.0
    """Seconds that each measurement waits for a quiet machine at most."""

    def __post_init__(self) -> None:
        recipe = self.recipe
        if self.material.student and recipe.prune and recipe.prune.cuts:
            raise InputError("--student: it is taken as it is; leave out what is cut")
        if self.material.companions and recipe.teaching != "distill":
            raise InputError(f"--with: several tasks are distilled alone, not with {recipe.teaching}; leave one of them out")
        distill, texts = self.recipe.distill, self.recipe.texts
        more = "--unlabelled" if self.material.unlabelled else "--augment, --copies" if texts and texts.copies else ""
        if more and distill and not distill.states and set(distill.answers) == {HARD}:
            raise InputError(f"{more}: these texts have no labels, and nothing but labels is taught; give --losses kl=1, or leave it out")
        if self.material.companions and (texts or self.material.unlabelled or self.material.teachers):
            raise InputError(
                "--with: several tasks are taught on their own texts, each by its own teacher; leave out --part, --augment,"
                " --copies, --unlabelled and --teacher"
            )


def teaching_of(job: Job, data: Data, teacher: PenjingPreTrainedModel, partial: Path) -> Teaching:
    """How the job's student is taught, where `teacher` encodes the data as `data`."""
    recipe = job.recipe
    return Teaching(data, teacher, recipe.distill, recipe.texts or TextSettings(), job.material, job.seed, partial)
