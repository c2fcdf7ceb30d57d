"""The step, stage and product of a student that is no BERT."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, final

from penjing.engines.form import Form
from penjing.files.whole import Json, whole_folder, write_text
from penjing.model.tokenizing import copy_tokenizer
from penjing.steps.product import Product
from penjing.steps.settings import Effects, Settings, Trait, as_json, effects
from penjing.steps.stage import Context, Note, Stage, Work
from penjing.steps.teach.distillation import Distillation
from penjing.students.fitting import Fitting
from penjing.students.student import MODEL, ParityTexts, Student
from penjing.tasks.data import Data
from penjing.tasks.judging import quality_of
from penjing.text.encoded import Encoded, Logits


@final
@dataclass(frozen=True)
class StudentSettings(Settings):
    """Settings of the student's step, which takes the recipe's training over and replaces the encoder."""

    student: Student

    @property
    def name(self) -> str:  # type: ignore[override]
        """The student's name."""
        return self.student.name

    @property
    def paper(self) -> str:  # type: ignore[override]
        """The student's paper."""
        return self.student.paper

    @property
    def when(self) -> str:  # type: ignore[override]
        """The student's line on when to use it."""
        return self.student.when

    def effects(self, taught: bool) -> Effects:
        return effects(
            needs=[Trait.ENCODER, Trait.TRAINING], takes=[Trait.ENCODER, Trait.TRAINING], undoes=[Trait.CUTS, Trait.ZEROS, Trait.CODES]
        )

    def trains(self, taught: bool) -> bool:
        return taught

    def stages(self, recipe: Sequence[Settings]) -> Sequence[Stage[Any]]:
        taught = next(item for item in recipe if isinstance(item, Distillation))
        return [TeachStudent(self.student, taught)]

    def to_json(self) -> Json:
        return (
            {field.name: as_json(getattr(self.student, field.name)) for field in fields(self.student)} if is_dataclass(self.student) else {}
        )


@dataclass(frozen=True)
class StudentNote(Note):
    """The record of a student's training. parameters: the number of learned parameters."""

    parameters: int = 0


@final
class TeachStudent(Stage[StudentNote]):
    """The stage that fits the student to the teacher's answers, or to the labels."""

    name = "distill"
    record = StudentNote

    def __init__(self, student: Student, settings: Distillation) -> None:
        self.student = student
        self.settings = settings

    def make(self, work: Work, context: Context, folder: Path) -> StudentNote:
        teaching = context.teaching(work, self.settings.how, self.settings.texts)
        dev, train = teaching.split()
        task = work.data.task
        student = self.student
        fitting = Fitting(
            work.base, task, work.data.tokenizer, train, dev, teaching.settings,
            lambda progress: teaching.distill(dev, progress=progress), context.progress,
        )  # fmt: skip
        fit = student.fit(fitting, folder)
        judging = context.judging(work)
        quality = quality_of(task, judging, student.load(folder / MODEL)(judging.encoded))
        size = sum(file.stat().st_size for file in (folder / MODEL).iterdir())
        note = (
            f"{task.metric().name} {quality:.2f} on texts held out, {fit.parameters / 1e6:.2f} million numbers learned from"
            f" {len(train)} texts{fit.note}"
        )
        return StudentNote(note, quality, size, fit.parameters)

    def load(self, work: Work, context: Context, record: StudentNote, folder: Path) -> Work:
        held = context.texts(work).weights.encoded
        product = StudentProduct(self.student, folder, record.parameters, held, work.data.task.head.name, context.engine)
        return replace(work, student=product)


@final
@dataclass(frozen=True)
class StudentProduct(Product):
    """The product of a student that `fit` wrote into `folder`; held: held-out texts for its parity."""

    student: Student
    folder: Path
    learned: int
    held: Encoded
    head: str
    engine: str | None = None

    @property
    def parity_limit(self) -> float:
        return self.student.parity_limit

    @property
    def forms(self) -> list[Form]:
        return self.student.forms(self.engine)

    def logits(self, encoded: Encoded) -> Logits:
        return self.student.load(self.folder / MODEL)(encoded)

    def export(self, folder: Path, data: Data) -> int:
        self.student.export(self.folder / MODEL, folder)
        return sum(file.stat().st_size for file in folder.iterdir())

    def differences(self, texts: Encoded, exported: Path, threads: int) -> dict[str, float]:
        return self.student.differences(self.folder, exported, self.forms, ParityTexts(texts, self.held), threads)

    def write_model(self, folder: Path, tokenizer: Path, extra: Mapping[str, str]) -> None:
        with whole_folder(folder) as made:
            shutil.copytree(self.folder / MODEL, made, dirs_exist_ok=True)
            copy_tokenizer(tokenizer, made)
            for name, text in extra.items():
                write_text(made / name, text)

    @property
    def parameters(self) -> int:
        return self.learned
