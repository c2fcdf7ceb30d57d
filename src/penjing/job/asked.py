"""The request of a job: a model, data, a budget, and a recipe."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from penjing.engines.clock.trial import Trial
from penjing.engines.opening import EngineKind
from penjing.errors import InputError
from penjing.files.options import option, refuse_idle
from penjing.files.run import Tell
from penjing.files.whole import Json
from penjing.job.recipe import Recipe
from penjing.model.checkpoint import Checkpoint
from penjing.steps.cut.prune import PruneSettings
from penjing.steps.teach.distillation import Distillation
from penjing.steps.teach.teaching import Material
from penjing.tasks.data import Data
from penjing.tasks.task import Examples
from penjing.training.lesson import check_general
from penjing.training.objective import HARD
from penjing.training.texts import TextSettings


@dataclass(frozen=True)
class Budget:
    """The budget: limits on speed, latency, size and quality; None where one is left open."""

    speedup: float | None = option(None, "Times faster than eager PyTorch, at least.", panel="budget")
    latency_ms: float | None = option(None, "Milliseconds of a text, at most.", panel="budget")
    size_mb: float | None = option(None, "Megabytes of the deployment, at most.", panel="budget")
    max_drop: float | None = option(None, "Points of the metric that may be lost.", panel="budget")
    confidence: float | None = option(
        None, "With `max_drop`, as 0.95: not what was lost but what may have been, the interval's end, is held against it.", panel="budget"
    )

    def __post_init__(self) -> None:
        for name in ("speedup", "latency_ms", "size_mb"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"{name}: {value} is not allowed; give a number above 0")
        if self.max_drop is not None and not 0 <= self.max_drop <= 100:
            raise InputError(f"max_drop: {self.max_drop} is not allowed; give points of the metric, from 0 to 100")
        if self.confidence is not None and not 0.5 <= self.confidence < 1:
            raise InputError(f"confidence: {self.confidence} is out of range; give at least 0.5 and less than 1, as 0.95")
        refuse_idle(("confidence", self.confidence is not None and self.max_drop is None, "give `max_drop`"))

    @property
    def nothing(self) -> bool:
        """Whether the budget has no limit at all."""
        return self.unbounded and self.max_drop is None

    @property
    def unbounded(self) -> bool:
        """Whether the budget limits neither speed nor size."""
        return self.speedup is None and self.latency_ms is None and self.size_mb is None


@dataclass(frozen=True)
class Job:
    """A compression job: everything that was requested, read and checked.

    asked: the request as JSON, which a resumed run must repeat. tests: further data to report on. material: models and texts of
    distillation beside the training data. wait_s: seconds that each measurement waits for a quiet machine at most.
    """

    model: Path | Checkpoint
    data: Data
    budget: Budget
    recipe: Recipe
    out: Path
    threads: int
    engine: EngineKind | None = None
    seed: int = 0
    tests: Sequence[tuple[str, Examples]] = ()
    asked: Json = field(default_factory=dict)
    command: str = ""
    material: Material = field(default_factory=Material)
    wait_s: float = 30.0

    def __post_init__(self) -> None:
        recipe = self.recipe
        material = self.material
        prune = recipe.get(PruneSettings)
        taught = recipe.get(Distillation)
        if material.student and prune and prune.cuts:
            raise InputError("student: it is taken as it is; leave out what is cut")
        if material.general:
            check_general(len(material.general))
        if material.companions and recipe.takers:
            raise InputError(f"with: several tasks are distilled alone, not with {recipe.takers[0].name}; leave one of them out")
        texts = taught.texts if taught else TextSettings()
        more = "unlabelled" if material.unlabelled else "augment, copies" if texts.copies else ""
        if more and taught and not taught.how.states and set(taught.how.answers) == {HARD}:
            raise InputError(f"{more}: these texts have no labels, and nothing but labels is taught; give losses of kl, or leave it out")
        if material.companions and (texts != TextSettings() or material.unlabelled or material.teachers):
            raise InputError(
                "with: several tasks are taught on their own texts, each by its own teacher; leave out `part`, `augment`, `copies`,"
                " `unlabelled` and `teacher`"
            )
        if not self.budget.unbounded and any(item.structural for item in recipe.steps):
            raise InputError("recipe: it tells what is cut, and the budget too; leave out `speedup`, `latency_ms`, `size_mb`, or that part")

    def trial(self, tell: Tell) -> Trial:
        """The measurement settings of the job."""
        data = self.data
        return Trial(data.task, self.threads, self.seed, data.task.two_texts, data.max_length, self.wait_s, tell)
