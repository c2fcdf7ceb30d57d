"""The inputs of distillation: the student's start, the training texts, the teachers."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from penjing.errors import InputError
from penjing.model.building import blueprint_of
from penjing.model.checkpoint import open_checkpoint, read
from penjing.model.modeling_penjing import PenjingForMaskedLM, PenjingPreTrainedModel
from penjing.model.surgery import cut
from penjing.model.writing import write
from penjing.selection import Selection
from penjing.steps.teach.distill import Distill, DistillSettings, Place, Teachers
from penjing.steps.teach.multitask import Companion
from penjing.tasks.data import Data
from penjing.tasks.sources import tokenizer_of
from penjing.tasks.task import Examples, Task
from penjing.training.loop import Progress, silent
from penjing.training.objective import HARD
from penjing.training.predict import evaluator
from penjing.training.teacher import teacher_outputs
from penjing.training.texts import Texts, TextSettings

SHARED = ("hidden", "head_width", "positions", "token_types", "embedding", "layers")
"""Fields of the blueprint that must agree between models that share an encoder."""


@dataclass(frozen=True)
class Material:
    """Models and texts of distillation beside the training data.

    student: a model to start from, in place of the teacher's layers. teachers: further teachers, of the same labels and tokenizer.
    general: plain texts to learn states on first. unlabelled: texts that the teacher labels, beside the training texts. masked_lm:
    the masked language model that augments texts. companions: further tasks that share the encoder, each with its teacher. cache: the
    folder that keeps the teacher's outputs for the next run; None: not kept.
    """

    student: Path | None = None
    teachers: Sequence[Path] = ()
    general: Examples | None = None
    unlabelled: Examples | None = None
    masked_lm: Path | None = None
    companions: Sequence[tuple[Path, Data]] = ()
    cache: Path | None = None


@dataclass(frozen=True)
class Teaching:
    """The teaching of a student: data, teacher, settings and further material of a distillation.

    data: encoded by the teacher's tokenizer. distillation: settings of the losses. wanted: settings of the texts. partial: the folder
    of the training's state.
    """

    data: Data
    teacher: PenjingPreTrainedModel
    distillation: DistillSettings
    wanted: TextSettings
    material: Material
    seed: int
    partial: Path

    @property
    def texts(self) -> Texts:
        """The training texts, split into those to learn from and those held out."""
        return Texts(self.data, self.teacher, self.seed)

    @property
    def settings(self) -> DistillSettings:
        """The settings of distillation, with the seed."""
        return replace(self.distillation, schedule=replace(self.distillation.schedule, seed=self.seed))

    @property
    def place(self) -> Place:
        """The folders of the training."""
        return Place(self.partial, self.material.cache)

    def student(self) -> PenjingPreTrainedModel:
        """The model that is cut and trained: the teacher, or the given student."""
        path = self.material.student
        if path is None:
            return self.teacher
        self._check(path, "student", self.data.task, taught=False)
        return self._given(path, self.data)

    def _given(self, path: Path, data: Data) -> PenjingPreTrainedModel:
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)  # a head that the student lacks is drawn at random
            return read(path, head=data.task.head, labels=data.task.labels)

    def split(self) -> tuple[Examples, Examples]:
        """The development texts that the best weights are chosen by, and the texts that are learned from.

        The former are held-out training texts, so that the evaluation data judges the result fairly.
        """
        material = self.material
        dev = self.texts.weights
        train = self.texts.learned
        train = self.texts.labelled(train) if HARD in self.settings.answers else train

        def logits(examples: Examples) -> NDArray[np.float32]:
            return teacher_outputs(self.teacher, examples.encoded, (), self.place.outputs).logits

        masked = None
        if material.masked_lm:
            self._same_tokens(material.masked_lm, "masked_lm")
            checkpoint = open_checkpoint(material.masked_lm)
            if checkpoint.head.answers != "word":
                raise InputError(f"masked_lm: {material.masked_lm} has no language model's head; give a masked language model")
            masked = checkpoint.read()
        return dev, self.texts.drawn(train, self.wanted, logits, material.unlabelled, cast(PenjingForMaskedLM | None, masked))

    def distill(self, dev: Examples, selection: Selection | None = None, progress: Progress = silent) -> Distill:
        """The distillation step of a student cut by this selection, of the given student, or (None) of one that is no BERT."""
        material = self.material
        task = self.data.task
        if material.general and (material.companions or not self.settings.states):
            raise InputError("general: plain texts teach states, of one task; give a loss on states, and leave out `with`")
        return Distill(
            task, Teachers(self.teacher, self.others()), self.settings, dev, self.place, self._origin(selection),
            material.general.encoded if material.general else None, progress,
        )  # fmt: skip

    def others(self) -> list[PenjingPreTrainedModel]:
        """The further teachers, read and checked."""
        task = self.data.task
        teachers = []
        for path in self.material.teachers:
            self._check(path, "teacher", task)
            teachers.append(read(path, head=task.head, labels=task.labels))
        return teachers

    def _origin(self, selection: Selection | None) -> Selection | None:
        """The selection of the teacher that the student is; None where a student is given (nothing is cut then), or is no BERT."""
        return None if self.material.student else selection

    def companions(self, selection: Selection) -> list[Companion]:
        """The further tasks that share the encoder: each with its teacher, its texts, and the head that it starts from."""
        return [self._companion(path, data, selection) for path, data in self.material.companions]

    def _companion(self, path: Path, data: Data, selection: Selection) -> Companion:
        self._check(path, "with", data.task)
        own = blueprint_of(self.teacher)
        checkpoint = open_checkpoint(path)
        if any(getattr(own, name) != getattr(checkpoint.blueprint, name) for name in SHARED):
            raise InputError(f"with: {path} is built otherwise than the model ({', '.join(SHARED)}); give one of the same base")
        teacher = read(path, head=data.task.head, labels=data.task.labels)
        texts = Texts(data, teacher, self.seed)
        dev = texts.weights
        train = texts.labelled(texts.learned)
        given = self.material.student
        student = self._given(given, data) if given else cut(teacher, selection)
        distill = Distill(data.task, Teachers(teacher), self.settings, dev, self.place, self._origin(selection))
        return Companion(distill, train, student)

    def keep_companions(self, folder: Path, students: Sequence[PenjingPreTrainedModel]) -> list[str]:
        """Write the other tasks' models; returns a note of the quality of each on its evaluation data."""
        notes = []
        for i, (model, (path, data)) in enumerate(zip(students, self.material.companions, strict=True)):
            write(model, folder / f"{i + 1}-{data.task.name}", tokenizer=path)
            teacher = read(path, head=data.task.head, labels=data.task.labels)
            before, after = (evaluator(data.task, data.eval)(judged) for judged in (teacher, model))
            notes.append(f"{data.task.name} {before:.2f} -> {after:.2f}")
        return notes

    def _check(self, path: Path, option: str, task: Task, taught: bool = True) -> None:
        """Check that a model goes with the teacher: the same tokens, enough positions, the same head and labels.

        taught: whether it answers the task, so that its head and labels count.

        Raises:
            InputError: it does not.
        """
        self._same_tokens(path, option)
        checkpoint = open_checkpoint(path)
        positions = checkpoint.positions
        if positions < self.data.max_length:
            raise InputError(
                f"{option}: {path} has {positions} positions, and texts up to {self.data.max_length}; give `max_length` {positions}"
            )
        if not taught:
            return
        named = checkpoint.label_names
        outputs = checkpoint.blueprint.outputs
        checkpoint.check_head(task.head, task.name, f"{option}")
        if set(named or task.labels) != set(task.labels) or outputs != len(task.labels):
            raise InputError(
                f"{option}: {path} answers with {', '.join(named) or f'{outputs} labels'}, and the task has {', '.join(task.labels)}; give"
                " one of the same labels"
            )

    def _same_tokens(self, path: Path, option: str) -> None:
        """Check that a model's tokenizer makes the teacher's tokens of the evaluation data; else `InputError`."""
        encoded = replace(self.data.encoder, tokenizer=tokenizer_of(path))(self.data.eval.inputs)[0]
        if not np.array_equal(encoded.ids, self.data.eval.encoded.ids):
            raise InputError(f"{option}: the tokenizer of {path} makes other tokens than the model's; give a model of the same vocabulary")
