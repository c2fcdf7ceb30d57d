"""The catalogue of methods by group, with paper and advice, collected from the classes and tables of the methods."""

from collections.abc import Iterator
from dataclasses import dataclass

from penjing.job.presets import PRESETS
from penjing.steps.cut.criteria import CRITERIA
from penjing.steps.names import STEPS
from penjing.students.names import STUDENTS


@dataclass(frozen=True)
class Method:
    """A row of the catalogue."""

    group: str
    name: str
    paper: str
    when: str


def _rows() -> Iterator[Method]:
    for step in STEPS.values():
        yield Method("Steps of a recipe", step.name, step.paper, step.when)
    for name, criterion in CRITERIA.items():
        yield Method("Importance (prune)", name, criterion.paper, criterion.when)
    for name, preset in PRESETS.items():
        if not preset.student:
            yield Method("Distillation (distill, preset)", name, preset.paper, preset.when)
    for name, student in STUDENTS.items():
        yield Method("Students that are no BERT (distill, preset)", name, student.paper, student.when)


METHODS = tuple(_rows())
