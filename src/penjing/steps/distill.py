"""Teach a cut model what its teacher answers (soft logits) and thinks (hidden states)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from penjing.blueprint import Blueprint
from penjing.maths.losses import soft_kl, state_mse
from penjing.modeling_penjing import Attention, PenjingPreTrainedModel
from penjing.steps.step import Step
from penjing.surgery import copy_of
from penjing.tasks.task import Examples, Task
from penjing.training.loop import History, Progress, Schedule, fit, silent
from penjing.training.predict import pad_rows, quality_of
from penjing.training.teacher import TeacherOutputs, teacher_outputs

STATES_LIMIT = 4 * 2**30
"""Bytes of cached hidden states at most; beyond it fewer layers are matched, the last ones first kept."""


@dataclass(frozen=True)
class DistillSettings:
    """Weights of the three terms, the temperature, and the schedule."""

    schedule: Schedule = field(default_factory=lambda: Schedule(learning_rate=1e-4, least_steps=1500, patience=100))
    temperature: float = 2.0
    soft: float = 1.0
    hard: float = 0.0
    states: float = 1.0
    dropout: float = 0.0


@final
class Distill(Step[TeacherOutputs, Blueprint]):
    """Knowledge distillation (Hinton et al. 2015) with hidden states of matched layers (Jiao et al. 2020, equation 8).

    `kept` are the teacher's layers that the student's came from. The state after student layer j is matched to the
    teacher's state before the next kept layer, the one that layer was trained to read; the last to the last. `hidden` are
    the teacher's hidden units that the student has, None all.
    """

    name = "distill"

    def __init__(
        self, task: Task, teacher: PenjingPreTrainedModel, kept: list[int], settings: DistillSettings, dev: Examples,
        folder: Path, progress: Progress = silent, tick: Callable[[int, int], None] = lambda done, total: None,
        hidden: Sequence[int] | None = None,
    ) -> None:  # fmt: skip
        self.task, self.teacher, self.settings, self.dev = task, teacher, settings, dev
        self.folder, self.progress, self.tick, self.hidden = folder, progress, tick, hidden
        self.layer_map = layer_map(kept, len(teacher.config.layers))
        self.history: History | None = None
        self.data: Examples | None = None

    def observe(self, model: PenjingPreTrainedModel, data: Examples) -> TeacherOutputs:
        """The teacher's outputs on the training texts, cached."""
        self.data = data
        room = STATES_LIMIT // max(1, 2 * int(data.encoded.offsets[-1]) * self.teacher.config.hidden_size)
        if self.settings.states == 0:
            self.layer_map = {}
        self.layer_map = dict(list(self.layer_map.items())[-room:]) if room else {}
        return teacher_outputs(self.teacher, data.encoded, sorted(self.layer_map.values()), self.folder / "teacher", self.tick)

    def plan(self, blueprint: Blueprint, evidence: TeacherOutputs) -> Blueprint:
        """The identity."""
        return blueprint

    def apply(self, model: PenjingPreTrainedModel, plan: Blueprint, evidence: TeacherOutputs) -> PenjingPreTrainedModel:
        """Train a copy of `model`; the training state lives in `folder` until the caller removes it."""
        student = copy_of(model)
        self.history = self.lesson(evidence).teach(student)
        return copy_of(student)

    def lesson(self, evidence: TeacherOutputs) -> "Lesson":
        """What is taught, once observed."""
        assert self.data is not None
        return Lesson(
            self.task, self.data, self.dev, evidence, self.layer_map, self.settings, self.folder / "state.pt", self.progress, self.hidden
        )


@dataclass(frozen=True)
class Lesson:
    """Everything that is needed to teach a student: texts, the teacher's outputs on them, and how."""

    task: Task
    data: Examples
    dev: Examples
    outputs: TeacherOutputs
    layer_map: dict[int, int]
    """Student state → teacher state that it is matched to."""
    settings: DistillSettings
    state_file: Path
    progress: Progress = silent
    hidden: Sequence[int] | None = None
    """The teacher's hidden units that the student has; None: all of them."""

    def teach(self, student: nn.Module, extra_loss: Callable[[], Tensor] | None = None, **options: Any) -> History:
        """Train `student` in place (a model of ours, or a module around one that takes and gives the same).

        `extra_loss` is added to that of each batch; `options` go to `fit`.
        """
        for module in student.modules():
            if isinstance(module, nn.Dropout):
                module.p = self.settings.dropout
            elif isinstance(module, Attention):
                module.dropout = self.settings.dropout

        def loss(model: nn.Module, feeds: dict[str, Tensor], rows: Any) -> Tensor:
            value = self.loss(model, feeds, rows)
            return value if extra_loss is None else value + extra_loss()

        pad = next(m.config.pad_token_id for m in student.modules() if isinstance(m, PenjingPreTrainedModel)) or 0
        return fit(
            student, self.data.encoded, loss, quality_of(self.task, self.dev), self.settings.schedule, self.state_file,
            pad=pad, progress=self.progress, **options,
        )  # fmt: skip

    @cached_property
    def targets(self) -> list[Any]:
        """Label numbers of each text."""
        return list(self.task.targets(self.data))

    def loss(self, model: nn.Module, feeds: dict[str, Tensor], rows: Any) -> Tensor:
        """soft · KL + hard · cross-entropy + states · MSE of matched states, of one batch."""
        settings, encoded = self.settings, self.data.encoded
        device, mask = feeds["input_ids"].device, feeds["attention_mask"].bool()
        per_token = self.task.head == "token"
        index = np.concatenate([np.arange(encoded.offsets[i], encoded.offsets[i + 1]) for i in rows])
        output = model(**feeds, output_hidden_states=bool(self.layer_map))
        z = output.logits[mask] if per_token else output.logits
        t = torch.from_numpy(self.outputs.logits[index if per_token else rows]).to(device)
        total = settings.soft * soft_kl(z.float(), t, settings.temperature)
        if settings.hard:
            labels = pad_rows([self.targets[i] for i in rows], mask.shape[1]).to(device)
            labels = labels[mask] if per_token else labels
            total = total + settings.hard * nn.functional.cross_entropy(z.float(), labels)
        if self.layer_map:
            units = slice(None) if self.hidden is None else list(self.hidden)
            theirs = {i: torch.from_numpy(self.outputs.states[i][index][:, units]).to(device).float() for i in self.layer_map.values()}
            terms = [state_mse(output.hidden_states[j][mask].float(), theirs[i]) for j, i in self.layer_map.items()]
            total = total + settings.states * torch.stack(terms).mean()
        return total


def layer_map(kept: list[int], teacher_layers: int) -> dict[int, int]:
    """Student state → teacher state that it is matched to; state 0 is the embeddings', state i layer i - 1's."""
    return {j + 1: (kept[j + 1] if j + 1 < len(kept) else teacher_layers) for j in range(len(kept))}
