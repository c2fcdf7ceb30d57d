"""A lesson: what a student is taught, on which texts, by which losses, and the training that does it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor, nn

from penjing.errors import InputError
from penjing.maths.adversarial import worst_step
from penjing.maths.answers import Softening
from penjing.model.modeling_penjing import Attention
from penjing.model.run import device_of, tensors
from penjing.model.watch import encoder_of, moved, perturbed, tapped, word_embeddings
from penjing.tasks.task import IGNORED, Examples, Task
from penjing.text.encoded import Encoded
from penjing.training.loop import Batch, Hooks, Progress, Schedule, fit, padding_of, silent
from penjing.training.loop import Loss as BatchLoss
from penjing.training.objective import HARD, Loss, Objective, Weights, answer_loss, on_states
from penjing.training.predict import answered_tokens, evaluator, pad_rows
from penjing.training.state import History
from penjing.training.teacher import TeacherOutputs

GENERAL_HELD_OUT = 64
"""Plain texts that the weights of the general stage are chosen by."""


@dataclass(frozen=True)
class Curriculum:
    """The losses with their weights, and when each is taught.

    temperature: of answers. alpha: of the student's entropy in kl-entropy. states_part: the part of the steps that teaches states alone,
    the others answers alone; 0: both throughout. anneal: from the teacher's answers to the gold labels, linearly, from where answers begin.
    """

    losses: Weights
    temperature: float = 1.0
    alpha: float = 0.1
    states_part: float = 0.0
    anneal: bool = False

    @property
    def states(self) -> dict[Loss, float]:
        """The losses on states."""
        return {loss: weight for loss, weight in self.losses.items() if on_states(loss) and weight}

    @property
    def answers(self) -> dict[Loss, float]:
        """The losses on answers and labels."""
        return {loss: weight for loss, weight in self.losses.items() if not on_states(loss) and weight}

    @property
    def asks_teacher(self) -> bool:
        """Whether any loss reads the teacher's outputs."""
        return bool(self.states) or set(self.answers) != {HARD}

    def answer_weights(self, done: float) -> dict[Loss, float]:
        """Weights of the losses on answers after this part of the steps; annealing begins where answers do."""
        if done < self.states_part:
            return {}
        if not self.anneal:
            return self.answers
        share = (done - self.states_part) / (1 - self.states_part)
        return {loss: weight * (share if loss == HARD else 1 - share) for loss, weight in self.answers.items()}

    def states_taught(self, done: float) -> bool:
        """Whether states are taught after this part of the steps."""
        return not self.states_part or done < self.states_part


@dataclass(frozen=True)
class LessonSettings:
    """The curriculum, the schedule, and the student's noise and dropout.

    general_epochs: over plain text before, states alone. adversarial: the length of an adversarial step, in standard deviations of the
    word embeddings, whose answers are taught too; 0: none.
    """

    schedule: Schedule
    curriculum: Curriculum
    general_epochs: int = 1
    noise: float = 0.0
    dropout: float = 0.0
    adversarial: float = 0.0


@dataclass(frozen=True)
class TeachingEvidence:
    """The training texts, and the teacher's outputs on them."""

    data: Examples
    outputs: TeacherOutputs


@dataclass(frozen=True)
class Further:
    """What else of a student's output is taught and judged.

    loss: added to that of each batch, from the output. evaluate: the quality that the best weights are chosen by, in place of the answers'.
    """

    loss: Callable[[Any, Batch], Float[Tensor, ""]]
    evaluate: Callable[[nn.Module], float]


@dataclass(frozen=True)
class Lesson:
    """Everything that is needed to teach a student: texts, the teacher's outputs on them, and how.

    dev: texts that the best weights are chosen by. objective_for: the losses on states, for a student. state_file: of the training.
    """

    task: Task
    evidence: TeachingEvidence
    dev: Examples
    objective_for: Callable[[nn.Module], Objective | None]
    settings: LessonSettings
    state_file: Path
    progress: Progress = silent

    @property
    def data(self) -> Examples:
        """The training texts."""
        return self.evidence.data

    @property
    def outputs(self) -> TeacherOutputs:
        """The teacher's outputs on the training texts."""
        return self.evidence.outputs

    def teach(
        self,
        student: nn.Module,
        hooks: Hooks | None = None,
        objective: Objective | None = None,
        loss: BatchLoss | None = None,
        further: Further | None = None,
    ) -> History:
        """Train `student` in place: a model of ours, or a module around one that takes and gives the same.

        Args:
            loss: of one batch, in place of `self.loss`, with the losses on states that it takes itself.
        """
        hooks = hooks or Hooks()
        if loss is None:
            objective = objective or self.objective_for(student)
            taught = objective

            def loss(model: nn.Module, batch: Batch) -> Tensor:
                return self.loss(model, batch, taught, further)

        evaluate = further.evaluate if further else evaluator(self.task, self.dev)
        hooks = replace(hooks, judge_from=max(hooks.judge_from, self.settings.curriculum.states_part))
        with self._training(student, objective, self.outputs) as trained:
            return fit(
                trained, self.data.encoded, loss, evaluate, self.settings.schedule, self.state_file, hooks, self.progress
            )  # fmt: skip

    def prepare(self, student: nn.Module, objective: Objective, texts: Encoded, outputs: TeacherOutputs, state_file: Path) -> History:
        """The general stage (Jiao et al. 2020, section 3.2): states alone, on plain text; weights by the loss on texts held out."""
        schedule = self.settings.schedule
        order = np.random.default_rng(schedule.seed).permutation(len(texts))
        held = np.sort(order[:GENERAL_HELD_OUT])
        learned = np.sort(order[GENERAL_HELD_OUT:])
        check_general(len(texts))
        general = Schedule(
            epochs=self.settings.general_epochs, batch_size=schedule.batch_size, learning_rate=schedule.learning_rate,
            seed=schedule.seed, patience=100,
        )  # fmt: skip

        def loss(model: nn.Module, batch: Batch) -> Tensor:
            rows = learned[batch.rows]
            return self._states(model, replace(batch, rows=rows), objective, outputs)[1]

        @torch.no_grad()
        def evaluate(model: nn.Module) -> float:
            feeds = tensors(texts.padded(held, padding_of(model)), device_of(model))
            return -float(self._states(model, Batch(feeds, held), objective, outputs)[1])

        with self._training(student, objective, outputs) as trained:
            return fit(trained, texts.take(learned), loss, evaluate, general, state_file, progress=self.progress)

    @contextmanager
    def _training(self, student: nn.Module, objective: Objective | None, outputs: TeacherOutputs) -> Iterator[nn.Module]:
        """A context whose value is trained: the student, with what is learned to compare it; a teacher beside it is released at the end."""
        self.set_dropout(student)
        learned = objective is not None and any(True for _ in objective.parameters())
        try:
            yield Together(student, objective) if objective and learned else student
        finally:
            outputs.release()

    def set_dropout(self, student: nn.Module) -> None:
        """Set the student's dropout to that of the settings."""
        for module in student.modules():
            if isinstance(module, nn.Dropout):
                module.p = self.settings.dropout
            elif isinstance(module, Attention):
                module.dropout = self.settings.dropout

    @cached_property
    def targets(self) -> list[Num[np.ndarray, " _"]]:
        """Label numbers of each text."""
        return targets_of(self.task, self.data)

    @cached_property
    def answered(self) -> Bool[np.ndarray, " T"]:
        """Flags of all tokens (T,): those that are answered from; the others' logits are no answers, and not taught."""
        return answered_tokens(self.data)

    def loss(self, model: nn.Module, batch: Batch, objective: Objective | None = None, further: Further | None = None) -> Float[Tensor, ""]:
        """The weighted sum of all losses of one batch."""
        return self.taught(model, batch, objective, further)[1]

    def taught(
        self, model: nn.Module, batch: Batch, objective: Objective | None = None, further: Further | None = None
    ) -> tuple[Float[Tensor, "n C"], Float[Tensor, ""]]:  # fmt: skip
        """The answers (n, C) of one batch that are taught, and the weighted sum of all losses."""
        objective = objective if self.settings.curriculum.states_taught(batch.done) else None
        adversarial = self.settings.adversarial > 0 and model.training and self.answers_taught(batch)
        with word_embeddings(model, wanted=adversarial) as words:
            output, total = self._states(model, batch, objective, self.outputs)
        z = self.answers(output.logits, batch)
        terms = self.answer_terms(z, batch)
        for term in terms:
            total = total + term
        if adversarial:
            total = total + self._adversarial(model, batch, torch.stack(terms).sum(), words[0])
        return z, total if further is None else total + further.loss(output, batch)

    def answers_taught(self, batch: Batch) -> bool:
        """Whether answers are taught in this batch, or states alone."""
        return bool(self.settings.curriculum.answer_weights(batch.done))

    def answers(self, logits: Float[Tensor, "B *tokens C"], batch: Batch) -> Float[Tensor, "n C"]:
        """Of logits (B, C), or (B, S, C) for tagging, those (n, C) that are answered from."""
        logits = logits.float()
        return logits[self._read(batch)] if self.task.head.per_token else logits

    def _read(self, batch: Batch) -> Bool[Tensor, "B S"]:
        """Tagging: flags of the padded tokens (B, S) that are answered from."""
        mask = batch.feeds["attention_mask"].bool()
        answered = torch.from_numpy(self.answered[self.outputs.tokens(batch.rows)])  # (tokens of the batch,)
        return mask.masked_scatter(mask, answered.to(mask.device))

    def answer_terms(self, z: Float[Tensor, "n C"], batch: Batch) -> list[Float[Tensor, ""]]:
        """The weighted losses of a batch's answers z (n, C), one for each name."""
        curriculum = self.settings.curriculum
        losses = self.task.answer_losses()
        soft = Softening(curriculum.temperature, curriculum.alpha)
        per_token = self.task.head.per_token
        terms = []
        for loss, weight in curriculum.answer_weights(batch.done).items():
            if loss == HARD:
                length = batch.feeds["attention_mask"].shape[1]
                labels = pad_rows([self.targets[i] for i in batch.rows], length).to(z.device)  # (B,), or (B, S)
                texts = (labels != IGNORED).reshape(len(batch.rows), -1).any(1).float().mean()  # a text without a label weighs nothing
                labels = labels[self._read(batch)] if per_token else labels  # (n,)
                value = losses.hard(z, labels, texts)
            else:
                t = self.outputs.batch_logits(batch.rows, per_token)  # (B, C), or (tokens of the batch, C)
                t = t[torch.from_numpy(self.answered[self.outputs.tokens(batch.rows)])] if per_token else t
                value = answer_loss(loss, losses, z, t.to(z.device), soft)
            terms.append(weight * value)
        return terms

    def _adversarial(
        self, model: nn.Module, batch: Batch, loss: Float[Tensor, ""], words: Float[Tensor, "B S R"]
    ) -> Float[Tensor, ""]:  # fmt: skip
        """The losses on the answers to the texts moved against the student (Miyato et al. 2017, section 3)."""
        (gradient,) = torch.autograd.grad(loss, words, retain_graph=True)
        size = self.settings.adversarial * encoder_of(model).embeddings.word.weight.detach().std()
        with moved(model, worst_step(gradient.float(), size)):
            z = self.answers(model(**batch.feeds).logits, batch)
        return torch.stack(self.answer_terms(z, batch)).sum()

    def _states(
        self, model: nn.Module, batch: Batch, objective: Objective | None, outputs: TeacherOutputs
    ) -> tuple[Any, Float[Tensor, ""]]:
        """The model's output, and the losses on states, of one batch."""
        noise = self.settings.noise if model.training else 0.0
        with tapped(model, objective.student_parts if objective else ()) as caught, perturbed(model, noise):
            output = model(**batch.feeds)
        if objective is None:
            return output, output.logits.new_zeros(())
        return output, objective(caught, outputs.batch_parts(batch.rows, batch.feeds), batch.feeds["attention_mask"].bool())


@final
class Together(nn.Module):
    """A student, trained with what is learned to compare it with its teacher; it takes and gives what the student does."""

    def __init__(self, student: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.student = student
        self.objective = objective

    def forward(self, **feeds: Tensor) -> Any:
        """The student's output."""
        return self.student(**feeds)


def check_general(texts: int) -> None:
    """Check that so many plain texts are enough to learn on and to hold some out; else `InputError`."""
    if texts <= GENERAL_HELD_OUT:
        raise InputError(f"general: {texts} texts are too few to learn on; give more than {GENERAL_HELD_OUT}")


def targets_of(task: Task, data: Examples) -> list[Num[np.ndarray, " _"]]:
    """Label numbers of each text, `IGNORED` where it has none."""
    known = [i for i, gold in enumerate(data.gold) if gold is not None]
    targets = [np.full(length if task.head.per_token else 1, IGNORED) for length in data.encoded.lengths]
    for i, target in zip(known, task.targets(data.take(np.array(known, np.int64))), strict=True):
        targets[i] = target
    return targets
