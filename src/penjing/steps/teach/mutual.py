"""Deep mutual learning: several students are trained together, and each learns from the others' answers of the moment."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from penjing.errors import InputError
from penjing.files.options import option
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.model.surgery import copy_of
from penjing.steps.stage import Context, Work
from penjing.steps.teach.distill import Distill
from penjing.steps.teach.distillation import Rider
from penjing.steps.teach.training import TrainingStep
from penjing.tasks.task import Examples
from penjing.training.lesson import TeachingEvidence
from penjing.training.loop import Batch
from penjing.training.taught import Taught


@final
@dataclass(frozen=True)
class MutualSettings(Rider):
    """Settings of mutual learning. peers: students beside the one that is kept. weight: of the divergence from their answers."""

    name = "mutual"
    paper = "Zhang et al. 2018, Deep Mutual Learning"
    when = "Where there is time to train several students for one; also with labels alone, without a teacher's answers."
    teaching = "mutual"

    peers: int = option(1, "Students that are trained beside the one that is kept; each learns from the others' answers.", least=1, most=15)
    weight: float = option(1.0, "Weight of the divergence from the others' answers.")

    def __post_init__(self) -> None:
        if self.peers < 1:
            raise InputError(f"peers: {self.peers} are too few to learn from one another; give at least 1")

    def around(self, distill: Distill, work: Work, context: Context) -> "Mutual":
        return Mutual(distill, self)


@final
class Peers(nn.Module):
    """A module of students, and of what is learned for each to compare it with the teacher; it takes and gives what the first one does."""

    def __init__(self, students: Sequence[PenjingPreTrainedModel], objectives: Sequence[nn.Module | None]) -> None:
        super().__init__()
        self.students = nn.ModuleList(students)
        self.objectives = nn.ModuleList(objective or nn.Identity() for objective in objectives)

    def forward(self, **feeds: Tensor) -> Any:
        """The first student's output."""
        return self.students[0](**feeds)


@final
@dataclass(frozen=True)
class Mutual(TrainingStep[TeachingEvidence]):
    """The step of mutual learning (Zhang et al. 2018, section 3.2, equation 6; several peers: section 3.4, equation 8).

    Each student has the losses of `distill`, and the mean divergence of its answers from those of each other one in the same batch,
    wherever answers are taught. All take a step at once, where the paper's algorithm 1 lets one after the other do. The peers start as
    copies of the student with a head drawn anew, as students that are equal would stay so; the first student is the one that is kept,
    with the weights that are its best.
    """

    name = "mutual"

    distill: Distill
    settings: MutualSettings

    def observe(self, model: PenjingPreTrainedModel, data: Examples) -> TeachingEvidence:
        """The training texts, and the teacher's outputs on them, cached."""
        return self.distill.observe(model, data)

    def teach(self, model: PenjingPreTrainedModel, evidence: TeachingEvidence) -> Taught:
        """Train a copy of `model` and its peers; the result's `others` are the peers."""
        lesson = self.distill.lesson(evidence)
        students = [copy_of(model), *(self._peer(model, number) for number in range(1, self.settings.peers + 1))]
        objectives = [self.distill.objective(student) for student in students]
        divergence = self.distill.task.answer_losses().divergence

        def loss(module: nn.Module, batch: Batch) -> Tensor:
            seen = [lesson.taught(student, batch, objective) for student, objective in zip(students, objectives, strict=True)]
            total = torch.stack([own for _, own in seen]).sum()
            if not lesson.answers_taught(batch):
                return total
            answers = [z for z, _ in seen]
            apart = [divergence(z, t.detach()) for i, z in enumerate(answers) for j, t in enumerate(answers) if i != j]
            return total + self.settings.weight * torch.stack(apart).sum() / self.settings.peers

        history = lesson.teach(Peers(students, objectives), loss=loss)
        first, *others = (copy_of(student) for student in students)
        return Taught(first, history, others=others)

    def _peer(self, model: PenjingPreTrainedModel, number: int) -> PenjingPreTrainedModel:
        """A copy of the model whose head is drawn anew."""
        peer = copy_of(model)
        head: nn.Module = peer.get_submodule("head")
        with torch.random.fork_rng():
            torch.manual_seed(int(np.random.SeedSequence([self.distill.settings.schedule.seed, number]).generate_state(1)[0]))
            head.apply(peer._init_weights)
        return peer
