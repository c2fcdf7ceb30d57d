"""Knowledge distillation: a student is taught its teacher's answers (logits) and states (parts of its encoder)."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import final

import numpy as np
import torch
from torch import nn

from penjing.blueprint import Blueprint
from penjing.errors import InputError
from penjing.files.options import option
from penjing.files.whole import Json
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.model.surgery import copy_of
from penjing.model.watch import encoder_of
from penjing.selection import Selection
from penjing.steps.settings import as_json
from penjing.steps.teach.training import TrainingStep
from penjing.tasks.task import Examples, Task
from penjing.text.encoded import Encoded
from penjing.training.layer_map import MAPS, given_map, layer_map
from penjing.training.lesson import Curriculum, Lesson, LessonSettings, TeachingEvidence, targets_of
from penjing.training.loop import Progress, Schedule, silent
from penjing.training.objective import ANSWERS, HARD, Loss, Objective, Weights, loss_name
from penjing.training.state_losses import STATE_LOSSES
from penjing.training.taught import Taught
from penjing.training.teacher import Noise, TeacherOutputs, ensemble, teacher_outputs

STATES_FIRST = 0.6
"""Part of the steps that teach states alone, by default, where both states and answers are taught."""


@dataclass(frozen=True)
class DistillSettings:
    """Settings of distillation: losses, layer map and schedule; by default the best of all presets (`states`).

    losses: the weight of each loss by name: on answers (`ANSWERS`), on the gold labels (hard), on states (`STATE_LOSSES`); in place of
        a name, a loss of the user's own: a `StateLoss`, or a function of the student's and the teacher's logits.
    temperature: of the answers' softmax (Hinton et al. 2015, section 2).
    alpha: weight of the student's entropy in kl-entropy.
    layer_map: which layers are matched (`MAPS`, or pairs as "1:2,2:4").
    relation_heads: heads of the loss relations; 0: as `Objective` says.
    levels: how many matched layers the loss levels takes; 0: all.
    anneal: go linearly from the teacher's answers to the gold labels (Clark et al. 2019: teacher annealing).
    states_first: part of the steps that teach states alone, the others answers alone (Jiao et al. 2020, TinyBERT); 0: both throughout;
        None: `STATES_FIRST` where both are taught.
    general_epochs: epochs over plain text before all that, states alone.
    noise, draws: Gaussian noise on the word embeddings, in their standard deviations, for student and teacher; the teacher's answers
        are the mean over the draws.
    adversarial: the length of a step of each text's word embeddings, in their standard deviations, along which the student's losses on
        answers grow fastest; they are taught there too (Miyato et al. 2017, section 3).
    dropout: of the student in training.

    In tagging, answers are taught at the tokens that a label is read from (`answered_tokens`) alone.
    """

    schedule: Schedule = field(default_factory=lambda: Schedule(learning_rate=1e-4, least_steps=1500, patience=100))
    losses: Weights = field(default_factory=lambda: {"kl": 1.0, "states": 1.0})
    temperature: float = option(1.0, "Of the teacher's answers.")
    alpha: float = option(0.1, "Of the loss kl-entropy: the weight of the student's entropy.")
    layer_map: str = option("kept", "Which layers are matched: kept, descent, uniform, last, first, learned, or pairs as 1:2,2:4.")
    relation_heads: int = option(0, "Of the loss relations; 0: by itself.")
    levels: int = option(0, "How many matched layers the loss levels takes; 0: all.")
    anneal: bool = option(False, "Go from the teacher's answers to the labels.")
    states_first: float | None = option(None, "Part of the steps that teach states alone, before the answers.")
    general_epochs: int = option(1, "Over plain text, before all that.", least=1)
    noise: float = option(
        0.0, "Of the word embeddings, in their standard deviations; the teacher's answers are then a mean over such noise."
    )
    draws: int = option(4, "With `noise`: how many the teacher's answer is the mean of; 4.", least=1, most=1000)
    adversarial: float = option(0.0, "Teach answers at changed word embeddings too: the worst change of this length, in their deviations.")
    dropout: float = 0.0

    def __post_init__(self) -> None:
        allowed = (*ANSWERS, HARD, *STATE_LOSSES)
        for loss, weight in self.losses.items():
            name = loss_name(loss)
            if not math.isfinite(weight):
                raise InputError(f"losses: {name} has the weight {weight}; give a number")
            if isinstance(loss, str) and name not in allowed:
                raise InputError(f"losses: {name!r} is none; allowed are {', '.join(allowed)}")
            if weight < 0:
                raise InputError(f"losses: {name} has the weight {weight}; give at least 0")
        if not any(self.losses.values()):
            raise InputError("losses: nothing is taught; give one a weight above 0, as kl=1")
        if not 0 < self.temperature < math.inf:
            raise InputError(f"temperature: {self.temperature} is out of range; give more than 0, as 2")
        if self.layer_map not in MAPS:
            given_map(self.layer_map, 10**6, 10**6)
        if self.layer_map == "learned" and set(self.states) - {"hidden"}:
            raise InputError(f"layer_map: learned goes with the loss hidden alone; got {', '.join(map(loss_name, self.states))}")
        if not 0 <= self.states_part < 1 or (self.states_part and not (self.states and self.answers)):
            raise InputError(
                f"states_first: {self.states_first} is the part of the steps that teach states before answers; give 0 up to 1, and losses of both"
            )
        if self.adversarial and not self.answers:
            raise InputError("adversarial: it changes the texts whose answers are taught, and none are; give a loss on answers, as kl=1")
        if self.anneal and not (self.answers.get(HARD) and len(self.answers) > 1):
            raise InputError("anneal: it goes from the teacher's answers to the labels; give losses of both, as kl=1,hard=1")

    def check_fits(self, depth: int, teacher: Blueprint) -> None:
        """Check the settings against a student of `depth` layers and its teacher, before anything is done.

        Raises:
            InputError: the relation heads, the mapped layers or the levels do not fit.
        """
        widest = teacher.head_width * max((layer.heads for layer in teacher.layers), default=0)
        if self.relation_heads > widest:
            raise InputError(f"relation_heads: {self.relation_heads} does not divide {widest} (teacher); give a divisor")
        if self.layer_map not in MAPS:
            given_map(self.layer_map, depth, len(teacher.layers))
        elif self.levels > depth + 1:
            raise InputError(f"levels: {self.levels} are more than the {depth + 1} that are matched; give at most as many")

    def to_json(self) -> Json:
        """The settings as a JSON object; losses of one's own by what they are called and what they hold."""
        losses = {str(as_json(loss, lambda kind: f"{kind.__module__}:{kind.__qualname__}")): weight for loss, weight in self.losses.items()}
        return asdict(self) | {"losses": losses}

    @property
    def curriculum(self) -> Curriculum:
        """The curriculum: the losses, and when each of them is taught."""
        return Curriculum(self.losses, self.temperature, self.alpha, self.states_part, self.anneal)

    @property
    def lesson(self) -> LessonSettings:
        """The settings of the training loop."""
        return LessonSettings(self.schedule, self.curriculum, self.general_epochs, self.noise, self.dropout, self.adversarial)

    @property
    def states(self) -> dict[Loss, float]:
        """The losses on hidden states, with their weights."""
        return Curriculum(self.losses).states

    @property
    def answers(self) -> dict[Loss, float]:
        """The losses on answers and labels, with their weights."""
        return Curriculum(self.losses).answers

    @property
    def states_part(self) -> float:
        """The part of the steps that teach states alone."""
        if self.states_first is None:
            return STATES_FIRST if self.states and self.answers else 0.0
        return self.states_first


@dataclass(frozen=True)
class Teachers:
    """The teacher, whose hidden states are learned from too, and further teachers, whose answers are averaged with its own."""

    teacher: PenjingPreTrainedModel
    others: Sequence[PenjingPreTrainedModel] = ()


@dataclass(frozen=True)
class Place:
    """Folders of a training: `folder` for its state, until the caller removes it; `cache` for the teacher's outputs.

    cache: None: inside `folder`.
    """

    folder: Path
    cache: Path | None = None

    @property
    def outputs(self) -> Path:
        """The folder of the teacher's cached outputs."""
        return self.cache or self.folder / "teacher"


@final
@dataclass(frozen=True)
class Distill(TrainingStep[TeachingEvidence]):
    """The step of knowledge distillation (Hinton et al. 2015), with the losses of the settings.

    dev: held-out texts that the best weights are chosen by. selection: the layers and hidden units that the student has of the teacher;
    None where it came from elsewhere. general: plain texts to learn states on first.
    """

    name = "distill"

    task: Task
    teachers: Teachers
    settings: DistillSettings
    dev: Examples
    place: Place
    selection: Selection | None = None
    general: Encoded | None = None
    progress: Progress = silent

    def observe(self, model: PenjingPreTrainedModel, data: Examples) -> TeachingEvidence:
        """The training texts, and the teacher's outputs on them, cached."""
        if not self.settings.curriculum.asks_teacher:
            return TeachingEvidence(data, TeacherOutputs(np.zeros((0, 0), np.float32), {}, data.encoded.offsets))
        outputs = self._outputs(model, data.encoded, self._noise)
        if not self.teachers.others:
            return TeachingEvidence(data, outputs)
        logits = [outputs.logits]
        for other in self.teachers.others:
            logits.append(teacher_outputs(other, data.encoded, (), self.place.outputs, self._noise).logits)
        targets = None
        if HARD in self.settings.answers:
            targets = np.concatenate(targets_of(self.task, data))
        return TeachingEvidence(data, replace(outputs, logits=ensemble(logits, targets, self.settings.temperature)))

    def _outputs(self, model: PenjingPreTrainedModel, encoded: Encoded, noise: Noise) -> TeacherOutputs:
        objective = self.objective(model)
        return teacher_outputs(self.teachers.teacher, encoded, objective.teacher_parts if objective else (), self.place.outputs, noise)

    @property
    def _noise(self) -> Noise:
        return Noise(self.settings.noise, self.settings.draws, self.settings.temperature)

    def objective(self, student: nn.Module) -> Objective | None:
        """The objective on hidden states for this student; None where no state is taught."""
        settings = self.settings
        if not settings.states:
            return None
        own = encoder_of(student)
        teacher = encoder_of(self.teachers.teacher)
        kept = None if self.selection is None else [layer.layer for layer in self.selection.layers]
        pairs = layer_map(settings.layer_map, len(own.config.layers), len(teacher.config.layers), kept)
        with torch.random.fork_rng():  # the same random numbers in a resumed run
            torch.manual_seed(settings.schedule.seed)
            return Objective(
                settings.states, pairs, own, teacher, heads=settings.relation_heads, levels=settings.levels,
                hidden=self.selection.hidden if self.selection else None, learned=settings.layer_map == "learned",
            )  # fmt: skip

    def teach(self, model: PenjingPreTrainedModel, evidence: TeachingEvidence) -> Taught:
        """Train a copy of `model`, on plain texts first where there are any."""
        student = copy_of(model)
        lesson = self.lesson(evidence)
        objective = self.objective(student)
        if self.general is not None and objective and not lesson.state_file.is_file():
            outputs = self._outputs(model, self.general, Noise())
            lesson.prepare(student, objective, self.general, outputs, self.place.folder / "state-general.pt")
        history = lesson.teach(student, objective=objective)
        return Taught(copy_of(student), history)

    def lesson(self, evidence: TeachingEvidence) -> Lesson:
        """The training of one student, made from the evidence."""
        return Lesson(self.task, evidence, self.dev, self.objective, self.settings.lesson, self.place.folder / "state.pt", self.progress)
