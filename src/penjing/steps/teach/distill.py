"""Teach a small model what its teacher answers (logits) and thinks (parts of its encoder)."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from penjing.blueprint import Blueprint
from penjing.errors import InputError
from penjing.model.modeling_penjing import Attention, PenjingPreTrainedModel
from penjing.model.surgery import copy_of
from penjing.model.watch import encoder_of, perturbed, tapped
from penjing.steps.step import Step
from penjing.tasks.task import IGNORED, Examples, Task
from penjing.text.encoded import Encoded
from penjing.training.loop import History, Progress, Schedule, fit, silent
from penjing.training.objective import ANSWERS, HARD, LOSSES, MAPS, Objective, answer_loss, given_map, layer_map
from penjing.training.predict import answered_tokens, pad_rows, quality_of
from penjing.training.teacher import Noise, TeacherOutputs, ensemble, teacher_outputs

STATES_FIRST = 0.6
"""Part of the steps that teach states alone, where nobody says and both states and answers are taught."""
GENERAL_HELD_OUT = 64
"""Plain texts that the weights of the general stage are chosen by."""


@dataclass(frozen=True)
class DistillSettings:
    """What is taught, and the schedule; by default what was best of all presets (`states` in presets.py).

    losses: weights by name, of those on answers (`ANSWERS`), on the gold labels (hard) and on states (`LOSSES`). temperature: of
    answers. alpha: of the student's entropy in kl-entropy. layer_map: which layers are matched (`MAPS`, or pairs as "1:2,2:4").
    relation_heads: of relations; 0: as `Objective` says. levels: matched layers that levels takes; 0: all. anneal: from the teacher's
    answers to the gold labels, linearly (Clark et al. 2019: teacher annealing). states_first: part of the steps that teach states
    alone, the others answers alone (Jiao et al. 2020); 0: both throughout; None: `STATES_FIRST` where both are taught. general_epochs:
    over plain text before all that, states alone. noise, draws: on the word embeddings, of the student's texts and of the teacher's,
    whose answers are the mean of the draws. Of tagging those tokens alone are taught answers that are answered from (`answered_tokens`).
    """

    schedule: Schedule = field(default_factory=lambda: Schedule(learning_rate=1e-4, least_steps=1500, patience=100))
    losses: Mapping[str, float] = field(default_factory=lambda: {"kl": 1.0, "states": 1.0})
    temperature: float = 1.0
    alpha: float = 0.1
    layer_map: str = "kept"
    relation_heads: int = 0
    levels: int = 0
    anneal: bool = False
    states_first: float | None = None
    general_epochs: int = 1
    noise: float = 0.0
    draws: int = 4
    dropout: float = 0.0

    def __post_init__(self) -> None:
        allowed = (*ANSWERS, HARD, *LOSSES)
        for name, weight in self.losses.items():
            if not math.isfinite(weight):
                raise InputError(f"--losses: {name} has the weight {weight}; give a number")
            if name not in allowed:
                raise InputError(f"--losses: {name!r} is none; allowed are {', '.join(allowed)}")
            if weight < 0:
                raise InputError(f"--losses: {name} has the weight {weight}; give at least 0")
        if not any(self.losses.values()):
            raise InputError("--losses: nothing is taught; give one a weight above 0, as kl=1")
        if not 0 < self.temperature < math.inf:
            raise InputError(f"--temperature: {self.temperature} is out of range; give more than 0, as 2")
        if self.layer_map not in MAPS:
            given_map(self.layer_map, 10**6, 10**6)
        if self.layer_map == "learned" and set(self.states) - {"hidden"}:
            raise InputError(f"--layer-map: learned goes with the loss hidden alone; got {', '.join(self.states)}")
        if not 0 <= self.states_part < 1 or (self.states_part and not (self.states and self.answers)):
            raise InputError(
                f"--states-first: {self.states_first} is the part of the steps that teach states before answers; give 0 up to 1, and losses of both"
            )
        if self.anneal and not (self.answers.get(HARD) and len(self.answers) > 1):
            raise InputError("--anneal: it goes from the teacher's answers to the labels; give losses of both, as kl=1,hard=1")

    def check_fits(self, depth: int, teacher: Blueprint) -> None:
        """Refuse what a student of `depth` layers, or its teacher, has not so many of, before anything is done."""
        widest = teacher.head_width * max((layer.heads for layer in teacher.layers), default=0)
        if self.relation_heads > widest:
            raise InputError(f"--relation-heads: {self.relation_heads} does not divide {widest} (teacher); give a divisor")
        if self.layer_map not in MAPS:
            given_map(self.layer_map, depth, len(teacher.layers))
        elif self.levels > depth + 1:
            raise InputError(f"--levels: {self.levels} are more than the {depth + 1} that are matched; give at most as many")

    @property
    def states(self) -> dict[str, float]:
        """The losses on states."""
        return {name: weight for name, weight in self.losses.items() if name in LOSSES and weight}

    @property
    def answers(self) -> dict[str, float]:
        """The losses on answers and labels."""
        return {name: weight for name, weight in self.losses.items() if name not in LOSSES and weight}

    @property
    def states_part(self) -> float:
        """The part of the steps that teach states alone."""
        if self.states_first is None:
            return STATES_FIRST if self.states and self.answers else 0.0
        return self.states_first

    def answer_weights(self, done: float) -> dict[str, float]:
        """Weights of the losses on answers after this part of the steps; annealing begins where answers do."""
        if done < self.states_part:
            return {}
        if not self.anneal:
            return self.answers
        share = (done - self.states_part) / (1 - self.states_part)
        return {name: weight * (share if name == HARD else 1 - share) for name, weight in self.answers.items()}


@final
class Distill(Step[TeacherOutputs, Blueprint]):
    """Knowledge distillation (Hinton et al. 2015), with whatever losses the settings say.

    Args:
        kept: the teacher's layers that the student's came from; None where it came from elsewhere.
        folder: where the state of the training lives until the caller removes it.
        hidden: the teacher's hidden units that the student has, None all.
        cache: where the teacher's outputs are kept; None: in `folder`.
        others: further teachers, whose answers are averaged with the teacher's.
        general: plain texts to learn states on first.
    """

    name = "distill"

    def __init__(
        self, task: Task, teacher: PenjingPreTrainedModel, kept: list[int] | None, settings: DistillSettings, dev: Examples,
        folder: Path, progress: Progress = silent,
        hidden: Sequence[int] | None = None, *, cache: Path | None = None, others: Sequence[PenjingPreTrainedModel] = (),
        general: Encoded | None = None,
    ) -> None:  # fmt: skip
        self.task, self.teacher, self.kept, self.settings, self.dev = task, teacher, kept, settings, dev
        self.folder, self.progress, self.hidden = folder, progress, hidden
        self.cache, self.others, self.general = cache or folder / "teacher", others, general
        self.history: History | None = None
        self.data: Examples | None = None

    def observe(self, model: PenjingPreTrainedModel, data: Examples) -> TeacherOutputs:
        """The teacher's outputs on the training texts, cached."""
        self.data = data
        if set(self.settings.answers) == {HARD} and not self.settings.states:  # nobody asks the teacher
            return TeacherOutputs(np.zeros((0, 0), np.float32), {}, data.encoded.offsets)
        outputs = self._outputs(model, data.encoded, self._noise)
        if not self.others:
            return outputs
        logits = [
            outputs.logits, *(teacher_outputs(other, data.encoded, (), self.cache, self._noise).logits for other in self.others),
        ]  # fmt: skip
        targets = None
        if HARD in self.settings.answers:
            targets = np.concatenate(targets_of(self.task, data))
        return TeacherOutputs(
            ensemble(logits, targets, self.settings.temperature), outputs.parts, outputs.offsets, outputs.live, outputs.wanted
        )

    def _outputs(self, model: PenjingPreTrainedModel, encoded: Encoded, noise: Noise) -> TeacherOutputs:
        objective = self.objective(model)
        return teacher_outputs(self.teacher, encoded, objective.teacher_parts if objective else (), self.cache, noise)

    @property
    def _noise(self) -> Noise:
        return Noise(self.settings.noise, self.settings.draws, self.settings.temperature)

    def objective(self, student: nn.Module) -> Objective | None:
        """The losses on states, for this student."""
        settings = self.settings
        if not settings.states:
            return None
        own, theirs = encoder_of(student), encoder_of(self.teacher)
        pairs = layer_map(settings.layer_map, len(own.config.layers), len(theirs.config.layers), self.kept)
        with torch.random.fork_rng():  # what is drawn is the same in a run that goes on
            torch.manual_seed(settings.schedule.seed)
            return Objective(
                settings.states, pairs, own, theirs, heads=settings.relation_heads, levels=settings.levels, hidden=self.hidden,
                learned=settings.layer_map == "learned",
            )  # fmt: skip

    def plan(self, blueprint: Blueprint, evidence: TeacherOutputs) -> Blueprint:
        """The identity."""
        return blueprint

    def apply(self, model: PenjingPreTrainedModel, plan: Blueprint, evidence: TeacherOutputs) -> PenjingPreTrainedModel:
        """Train a copy of `model`."""
        student, lesson = copy_of(model), self.lesson(evidence)
        objective = self.objective(student)
        if self.general is not None and objective and not lesson.state_file.is_file():
            texts = self.general
            lesson.prepare(student, objective, texts, self._outputs(model, texts, Noise()), self.folder / "state-general.pt")
        self.history = lesson.teach(student, objective=objective)
        return copy_of(student)

    def lesson(self, evidence: TeacherOutputs) -> "Lesson":
        """What is taught, once observed."""
        assert self.data is not None
        return Lesson(self.task, self.data, self.dev, evidence, self.objective, self.settings, self.folder / "state.pt", self.progress)


@dataclass(frozen=True)
class Lesson:
    """Everything that is needed to teach a student: texts, the teacher's outputs on them, and how."""

    task: Task
    data: Examples
    dev: Examples
    outputs: TeacherOutputs
    objective_for: Callable[[nn.Module], Objective | None]
    settings: DistillSettings
    state_file: Path
    progress: Progress = silent

    def teach(
        self, student: nn.Module, extra_loss: Callable[[], Tensor] | None = None, *, objective: Objective | None = None,
        before_step: Callable[[int, int], None] = lambda step, total: None, judge_from: float = 0.0, **options: Any,
    ) -> History:  # fmt: skip
        """Train `student` in place (a model of ours, or a module around one that takes and gives the same).

        `extra_loss` is added to that of each batch; the other options are those of `fit`.
        """
        done = 0.0

        def at(step: int, total: int) -> None:
            nonlocal done
            done = step / total
            before_step(step, total)

        objective = objective or self.objective_for(student)

        def loss(model: nn.Module, feeds: dict[str, Tensor], rows: Any) -> Tensor:
            value = self.loss(model, feeds, rows, objective, done)
            return value if extra_loss is None else value + extra_loss()

        return self._fit(
            student, objective, self.outputs, self.data.encoded, loss, quality_of(self.task, self.dev), self.settings.schedule, self.state_file,
            before_step=at, judge_from=max(judge_from, self.settings.states_part), **options,
        )  # fmt: skip

    def prepare(self, student: nn.Module, objective: Objective, texts: Encoded, outputs: TeacherOutputs, state_file: Path) -> History:
        """The general stage (Jiao et al. 2020, section 3.2): states alone, on plain text; weights by the loss on texts held out."""
        order = np.random.default_rng(self.settings.schedule.seed).permutation(len(texts))
        held, rows_of = np.sort(order[:GENERAL_HELD_OUT]), np.sort(order[GENERAL_HELD_OUT:])
        if not len(rows_of):
            raise InputError(f"--general: {len(texts)} texts are too few to learn on; give more than {GENERAL_HELD_OUT}")
        schedule = Schedule(
            epochs=self.settings.general_epochs, batch_size=self.settings.schedule.batch_size,
            learning_rate=self.settings.schedule.learning_rate, seed=self.settings.schedule.seed, patience=100,
        )  # fmt: skip

        def loss(model: nn.Module, feeds: dict[str, Tensor], rows: NDArray[np.int64]) -> Tensor:
            return self._states(model, feeds, rows_of[rows], objective, outputs)[1]

        @torch.no_grad()
        def evaluate(model: nn.Module) -> float:
            device = next(model.parameters()).device
            feeds = {name: torch.from_numpy(value).to(device) for name, value in texts.padded(held, self.pad(model)).items()}
            return -float(self._states(model, feeds, held, objective, outputs)[1])

        return self._fit(student, objective, outputs, texts.take(rows_of), loss, evaluate, schedule, state_file)

    def _fit(self, student: nn.Module, objective: Objective | None, outputs: TeacherOutputs, *what: Any, **options: Any) -> History:
        self.set_dropout(student)
        learned = objective is not None and any(True for _ in objective.parameters())
        trained = Together(student, objective) if objective and learned else student
        try:
            return fit(trained, *what, pad=self.pad(student), progress=self.progress, **options)
        finally:
            outputs.release()

    def set_dropout(self, student: nn.Module) -> None:
        """Set the student's dropout to that of the settings."""
        for module in student.modules():
            if isinstance(module, nn.Dropout):
                module.p = self.settings.dropout
            elif isinstance(module, Attention):
                module.dropout = self.settings.dropout

    def pad(self, student: nn.Module) -> int:
        """The number of the padding token."""
        return next((int(m.config.pad_token_id or 0) for m in student.modules() if isinstance(m, PenjingPreTrainedModel)), 0)

    @cached_property
    def targets(self) -> list[NDArray[np.int64]]:
        """Label numbers of each text."""
        return targets_of(self.task, self.data)

    @cached_property
    def answered(self) -> NDArray[np.bool_]:
        """Of all tokens (T,) those that are answered from: the others' logits are nobody's, and not taught."""
        return answered_tokens(self.data)

    def loss(self, model: nn.Module, feeds: dict[str, Tensor], rows: Any, objective: Objective | None = None, done: float = 0.0) -> Tensor:
        """The weighted sum of all losses of one batch, after the part `done` of the steps."""
        settings, mask = self.settings, feeds["attention_mask"].bool()
        per_token = self.task.head == "token"
        output, states = self._states(
            model, feeds, rows, None if settings.states_part and done >= settings.states_part else objective, self.outputs
        )
        read, z = mask, output.logits.float()
        if per_token:
            answered = torch.from_numpy(self.answered[self.outputs.tokens(rows)])
            read = mask.masked_scatter(mask, answered.to(mask.device))
            z = z[read]
        total = states
        for name, weight in settings.answer_weights(done).items():
            if name == HARD:
                labels = pad_rows([self.targets[i] for i in rows], mask.shape[1]).to(mask.device)
                texts = (labels != IGNORED).reshape(len(rows), -1).any(1).float().mean()  # a text without a label weighs nothing
                labels = labels[read] if per_token else labels
                value = texts * nn.functional.cross_entropy(z, labels, reduction="sum") / (labels != IGNORED).sum().clamp_min(1)
            else:
                t = self.outputs.batch_logits(rows, per_token)
                value = answer_loss(name, z, (t[answered] if per_token else t).to(mask.device), settings.temperature, settings.alpha)
            total = total + weight * value
        return total

    def _states(
        self, model: nn.Module, feeds: dict[str, Tensor], rows: NDArray[np.int64], objective: Objective | None, outputs: TeacherOutputs
    ) -> tuple[Any, Tensor]:
        """What the model gives, and the losses on states, of one batch."""
        noise = self.settings.noise if model.training else 0.0
        with tapped(model, objective.student_parts if objective else ()) as caught, perturbed(model, noise):
            output = model(**feeds)
        if objective is None:
            return output, output.logits.new_zeros(())
        return output, objective(caught, outputs.batch_parts(rows, feeds), feeds["attention_mask"].bool())


class Together(nn.Module):
    """A student, trained with what is learned to compare it with its teacher; it takes and gives what the student does."""

    def __init__(self, student: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.student, self.objective = student, objective

    def forward(self, **feeds: Tensor) -> Any:
        """As the student."""
        return self.student(**feeds)


def targets_of(task: Task, data: Examples) -> list[NDArray[np.int64]]:
    """Label numbers of each text, `IGNORED` where it has none."""
    known = [i for i, gold in enumerate(data.gold) if gold is not None]
    targets = [np.full(length if task.head == "token" else 1, IGNORED) for length in data.encoded.lengths]
    for i, target in zip(known, task.targets(data.take(np.array(known, np.int64))), strict=True):
        targets[i] = target
    return targets
