"""The training material of a student that is no BERT: a teacher, texts, and target probabilities or losses."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import nn

from penjing.maths.statistics import softmax
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.steps.teach.distill import Distill, DistillSettings
from penjing.tasks.task import IGNORED, Examples, Task
from penjing.training.lesson import TeachingEvidence, targets_of
from penjing.training.loop import Bar, Progress, shown, silent
from penjing.training.objective import HARD
from penjing.training.state import History


@dataclass(frozen=True)
class Fitting:
    """Teacher, texts and settings that a student is fitted by.

    train: the texts to learn from. dev: held-out training texts, which decide when to stop.
    tokenizer: the teacher's, which encoded the texts. settings: the losses, the temperature, the schedule and the seed. distill: makes
    the distillation step, of a progress callback. bar: makes a progress bar; None: none is shown.
    """

    teacher: PenjingPreTrainedModel
    task: Task
    tokenizer: Tokenizer
    train: Examples
    dev: Examples
    settings: DistillSettings
    distill: Callable[[Progress], Distill]
    bar: Bar | None = None

    @property
    def seed(self) -> int:
        """The seed of all that is drawn at random."""
        return self.settings.schedule.seed

    @property
    def pairs(self) -> bool:
        """Whether texts come in two."""
        return self.task.two_texts

    def targets(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Target probabilities (N, C) of `train` and of `dev`; see `probabilities`."""
        step = self.distill(silent)
        train, dev = (step.observe(self.teacher, texts) for texts in (self.train, self.dev))
        return probabilities(self.task, train, self.settings), probabilities(self.task, dev, self.settings)

    def teach(self, network: nn.Module, dropout: float) -> History:
        """Train a network in place by the losses of the settings; it takes and returns what a model of transformers does."""
        with shown(self.bar, "distill") as progress:
            step = self.distill(progress)
            lesson = step.lesson(step.observe(self.teacher, self.train))
            return replace(lesson, settings=replace(lesson.settings, dropout=dropout)).teach(network)


@dataclass(frozen=True)
class Fit:
    """The outcome of a fit: the number of learned parameters, and an addition to the stage's note."""

    parameters: int
    note: str = ""


def probabilities(task: Task, evidence: TeachingEvidence, settings: DistillSettings) -> NDArray[np.float32]:
    """Target probabilities (N, C): the mean of the teacher's, at the temperature, and one-hot gold labels, by the losses' weights.

    A text without a gold label has the teacher's alone.
    """
    hard = settings.answers.get(HARD, 0.0)
    soft = sum(weight for name, weight in settings.answers.items() if name != HARD)
    labels = np.concatenate(targets_of(task, evidence.data))  # (N,)
    known = (labels != IGNORED)[:, None]  # (N, 1)
    gold = np.eye(len(task.labels), dtype=np.float32)[np.where(labels == IGNORED, 0, labels)]  # (N, C)
    if not soft:
        return gold
    teacher = softmax(evidence.outputs.logits / settings.temperature)  # (N, C)
    return np.asarray(np.where(known, (hard * gold + soft * teacher) / (hard + soft), teacher), np.float32)
