"""One encoder for several tasks, each with a head and a teacher of its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from torch import Tensor, nn

from penjing.blueprint import Blueprint
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.model.surgery import copy_of
from penjing.steps.step import Step
from penjing.steps.teach.distill import Distill
from penjing.tasks.task import Examples
from penjing.text.encoded import Encoded
from penjing.training.loop import fit
from penjing.training.predict import quality_of
from penjing.training.teacher import TeacherOutputs


@dataclass(frozen=True)
class Companion:
    """Another task: how it is taught, on which texts, and the student whose head it starts from."""

    distill: Distill
    data: Examples
    student: PenjingPreTrainedModel


class Shared(nn.Module):
    """Students of several tasks around the first one's encoder."""

    def __init__(self, students: Sequence[PenjingPreTrainedModel]) -> None:
        super().__init__()
        self.students = nn.ModuleList(students)
        first: Any = students[0]
        for other in students[1:]:
            other.encoder = first.encoder

    def forward(self, task: int, **feeds: Tensor) -> Any:
        """What the student of that task gives."""
        return self.students[task](**feeds)


@final
class Multitask(Step[TeacherOutputs, Blueprint]):
    """Multi-task distillation (Liu et al. 2019, MT-DNN with knowledge distillation; Clark et al. 2019, BAM, with teacher annealing).

    A batch holds texts of all tasks, on average in proportion to how many there are; each counts by its own task's losses. The weights that
    are kept are the best in the mean of the tasks' qualities. `others` are the companions' models afterwards.
    """

    name = "multitask"

    def __init__(self, distill: Distill, companions: Sequence[Companion]) -> None:
        self.distill, self.companions = distill, companions
        self.others: list[PenjingPreTrainedModel] = []
        self.evidence: list[TeacherOutputs] = []

    def observe(self, model: PenjingPreTrainedModel, data: Examples) -> TeacherOutputs:
        """Every teacher's outputs on its own task's texts."""
        self.evidence = [each.distill.observe(each.student, each.data) for each in self.companions]
        return self.distill.observe(model, data)

    def plan(self, blueprint: Blueprint, evidence: TeacherOutputs) -> Blueprint:
        """The identity."""
        return blueprint

    def apply(self, model: PenjingPreTrainedModel, plan: Blueprint, evidence: TeacherOutputs) -> PenjingPreTrainedModel:
        """Train copies of all students together."""
        students = [copy_of(model), *(copy_of(each.student) for each in self.companions)]
        teaching = [self.distill, *(each.distill for each in self.companions)]
        lessons = [distill.lesson(found) for distill, found in zip(teaching, [evidence, *self.evidence], strict=True)]
        shared, first = Shared(students), lessons[0]
        objectives = nn.ModuleList(distill.objective(student) or nn.Identity() for distill, student in zip(teaching, students, strict=True))
        shared.add_module("objectives", objectives)  # what is learned to compare widths is trained, and kept, with the students
        starts, done = np.cumsum([0, *(len(lesson.data) for lesson in lessons)]), 0.0

        def before_step(step: int, total: int) -> None:
            nonlocal done
            done = step / total

        def loss(module: nn.Module, feeds: dict[str, Tensor], rows: Any) -> Tensor:
            terms = []
            for k, lesson in enumerate(lessons):
                mine = np.flatnonzero((starts[k] <= rows) & (rows < starts[k + 1]))
                if len(mine):
                    own = {name: value[mine] for name, value in feeds.items()}
                    objective: Any = objectives[k] if lesson.settings.states else None
                    value = lesson.loss(students[k], own, rows[mine] - starts[k], objective, done)
                    terms.append(len(mine) / len(rows) * value)
            return sum(terms[1:], terms[0])

        def qualities() -> list[float]:
            return [quality_of(lesson.task, lesson.dev)(student) for lesson, student in zip(lessons, students, strict=True)]

        for student, lesson in zip(students, lessons, strict=True):
            lesson.set_dropout(student)
        try:
            self.distill.history = fit(
                shared, Encoded.joined([lesson.data.encoded for lesson in lessons]), loss, lambda _: float(np.mean(qualities())),
                first.settings.schedule, first.state_file, pad=first.pad(students[0]), progress=first.progress, before_step=before_step,
                judge_from=first.settings.states_part,
            )  # fmt: skip
        finally:
            for found in (evidence, *self.evidence):
                found.release()
        self.others = [copy_of(student) for student in students[1:]]
        return copy_of(students[0])
