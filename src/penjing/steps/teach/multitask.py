"""Multi-task distillation: one encoder for several tasks, each with a head and a teacher of its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from torch import Tensor, nn

from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.model.surgery import copy_of
from penjing.steps.teach.distill import Distill
from penjing.steps.teach.training import TrainingStep
from penjing.tasks.task import Examples
from penjing.text.encoded import Encoded
from penjing.training.lesson import TeachingEvidence
from penjing.training.loop import Batch, Hooks, fit
from penjing.training.predict import evaluator
from penjing.training.taught import Taught


@dataclass(frozen=True)
class Companion:
    """A further task of multi-task distillation: its distillation, its texts, and the student whose head it starts from."""

    distill: Distill
    data: Examples
    student: PenjingPreTrainedModel


@final
class Shared(nn.Module):
    """A module of several tasks' students that share the first one's encoder."""

    def __init__(self, students: Sequence[PenjingPreTrainedModel]) -> None:
        super().__init__()
        self.students = nn.ModuleList(students)
        first: Any = students[0]
        for other in students[1:]:
            other.encoder = first.encoder

    def forward(self, task: int, **feeds: Tensor) -> Any:
        """The output of the student of the task with this number."""
        return self.students[task](**feeds)


@final
@dataclass(frozen=True)
class Multitask(TrainingStep[Sequence[TeachingEvidence]]):
    """Multi-task distillation (Liu et al. 2019, MT-DNN with knowledge distillation; Clark et al. 2019, BAM, with teacher annealing).

    A batch holds texts of all tasks, on average in proportion to how many there are; each counts by its own task's losses. The weights that
    are kept are the best in the mean of the tasks' qualities.
    """

    name = "multitask"

    distill: Distill
    companions: Sequence[Companion]

    def observe(self, model: PenjingPreTrainedModel, data: Examples) -> Sequence[TeachingEvidence]:
        """The outputs of every teacher on its own task's texts; those of the main task come first."""
        others = [companion.distill.observe(companion.student, companion.data) for companion in self.companions]
        return [self.distill.observe(model, data), *others]

    def teach(self, model: PenjingPreTrainedModel, evidence: Sequence[TeachingEvidence]) -> Taught:
        """Train copies of all students together, by batches that mix their tasks."""
        students = [copy_of(model), *(copy_of(companion.student) for companion in self.companions)]
        teaching = [self.distill, *(companion.distill for companion in self.companions)]
        lessons = [distill.lesson(observed) for distill, observed in zip(teaching, evidence, strict=True)]
        first = lessons[0]
        shared = Shared(students)
        objectives = [distill.objective(student) for distill, student in zip(teaching, students, strict=True)]
        # the objectives' learned projections between widths are trained, and saved, with the students
        shared.add_module("objectives", nn.ModuleList(objective or nn.Identity() for objective in objectives))
        starts = np.cumsum([0, *(len(lesson.data) for lesson in lessons)])  # task k has the rows from starts[k] to starts[k + 1]

        def loss(module: nn.Module, batch: Batch) -> Tensor:
            terms = []
            for k, lesson in enumerate(lessons):
                places = np.flatnonzero((starts[k] <= batch.rows) & (batch.rows < starts[k + 1]))  # of task k in the batch
                if len(places):
                    feeds = {name: value[places] for name, value in batch.feeds.items()}
                    own = Batch(feeds, batch.rows[places] - starts[k], batch.done)
                    terms.append(len(places) / len(batch.rows) * lesson.loss(students[k], own, objectives[k]))
            return sum(terms[1:], terms[0])

        def mean_quality(module: nn.Module) -> float:
            return float(np.mean([evaluator(lesson.task, lesson.dev)(student) for lesson, student in zip(lessons, students, strict=True)]))

        for student, lesson in zip(students, lessons, strict=True):
            lesson.set_dropout(student)
        texts = Encoded.joined([lesson.data.encoded for lesson in lessons])
        hooks = Hooks(judge_from=first.settings.curriculum.states_part)
        try:
            history = fit(shared, texts, loss, mean_quality, first.settings.schedule, first.state_file, hooks, first.progress)
        finally:
            for observed in evidence:
                observed.outputs.release()
        others = [copy_of(student) for student in students[1:]]
        return Taught(copy_of(students[0]), history, others=others)
