"""What a student that is no BERT is fitted to: a teacher, training texts, and the probabilities or losses to learn."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import nn

from penjing.maths.statistics import softmax
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.steps.teach.distill import Distill, DistillSettings
from penjing.steps.teach.teaching import shown
from penjing.tasks.task import IGNORED, Examples, Task
from penjing.training.lesson import TeachingEvidence, targets_of
from penjing.training.loop import Progress, silent
from penjing.training.objective import HARD
from penjing.training.state import History

Bar = Callable[[str], AbstractContextManager[Progress]]
"""From a title to a progress bar."""


@dataclass(frozen=True)
class Fitting:
    """Everything that a student may learn from.

    train: the texts to learn from. dev: training texts held out, which nothing is learned from: by them it is decided when to stop.
    tokenizer: the teacher's, which encoded the texts. settings: the losses, the temperature, the schedule and the seed. distill: makes
    the step that asks the teacher, and that trains a network; it is given what to tell how far a training is. bar: None shows nobody.
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
        """The probabilities (N, C) to learn, of `train` and of `dev`; see `probabilities`."""
        step = self.distill(silent)
        train, dev = (step.observe(self.teacher, texts) for texts in (self.train, self.dev))
        return probabilities(self.task, train, self.settings), probabilities(self.task, dev, self.settings)

    def teach(self, network: nn.Module, dropout: float) -> History:
        """Train a network, which takes and gives what a model of transformers does, in place by the losses of the settings."""
        with shown(self.bar, "distill") as progress:
            step = self.distill(progress)
            lesson = step.lesson(step.observe(self.teacher, self.train))
            return replace(lesson, settings=replace(lesson.settings, dropout=dropout)).teach(network)


@dataclass(frozen=True)
class Fit:
    """What became of a student: how many numbers it has learned, and a note for people that goes behind the step's own."""

    parameters: int
    note: str = ""


def probabilities(task: Task, evidence: TeachingEvidence, settings: DistillSettings) -> NDArray[np.float32]:
    """Target probabilities (N, C): the teacher's at the temperature and the gold labels as ones and zeros, by the weights of the losses.

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
