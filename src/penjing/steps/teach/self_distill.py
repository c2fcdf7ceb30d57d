"""Self-distillation in one training: the last layer teaches heads on the layers below it, which are thrown away at the end."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, final

from torch import Tensor, nn

from penjing.errors import InputError
from penjing.files.options import option
from penjing.maths.losses import state_mse
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.model.surgery import copy_of
from penjing.model.watch import STATES, Part, layers_of, tapped
from penjing.steps.stage import Context, Work
from penjing.steps.teach.distill import Distill
from penjing.steps.teach.distillation import Rider
from penjing.steps.teach.training import TrainingStep
from penjing.tasks.task import Examples
from penjing.training.lesson import TeachingEvidence
from penjing.training.loop import Batch
from penjing.training.state_losses import identity_map
from penjing.training.taught import Taught

ALL = "all"
"""All layers but the last."""


@final
@dataclass(frozen=True)
class SelfDistillSettings(Rider):
    """Settings of self-distillation.

    self_distill: the layers that get heads of their own. alpha: the part of such a head's loss that is the divergence from the last
    layer's answers; the rest is what the student itself is taught. features: weight of the difference from the last layer's states.
    """

    name = "self-distill"
    paper = "Zhang et al. 2019, Be Your Own Teacher"
    when = "To train the lower layers directly, also with labels alone; nothing of it is left in the model."
    teaching = "self-distill"

    self_distill: str = option(ALL, "Give these layers heads of their own while training, taught by the last: all, or numbers as 1,2.")
    alpha: float = option(0.5, "Part of such a head's loss that is the divergence from the last layer's answers.", most=1)
    features: float = option(0.03, "Weight of the difference of such a layer's states from the last layer's.")

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise InputError(f"self-distill: alpha is {self.alpha}; it must be at least 0 and at most 1")
        if self.self_distill != ALL:
            self.layers(10**6)

    def layers(self, depth: int) -> list[int]:
        """The layers below the last of `depth`, counted from 1, that get heads; an `InputError` where there are none."""
        text = self.self_distill
        try:
            layers = list(range(1, depth)) if text == ALL else sorted({int(number) for number in text.split(",")})
        except ValueError:
            layers = []
        if not layers or layers[0] < 1 or layers[-1] >= depth:
            raise InputError(f"self_distill: {text!r} names no layers below the last; give {ALL}, or numbers from 1 to {depth - 1} as 1,2")
        return layers

    def around(self, distill: Distill, work: Work, context: Context) -> "SelfDistill":
        return SelfDistill(distill, self)


@final
class WithHeads(nn.Module):
    """A student with heads of their own on some layers, copies of its own one; it takes and gives what the student does."""

    def __init__(self, student: PenjingPreTrainedModel, layers: Sequence[int]) -> None:
        super().__init__()
        self.student = student
        self.parts = [Part(STATES, layer) for layer in (*layers, len(layers_of(student)))]
        hidden = int(student.config.hidden_size)
        self.heads = nn.ModuleList(deepcopy(student.get_submodule("head")) for _ in layers)
        self.maps = nn.ModuleList(identity_map(hidden, hidden) for _ in layers)

    def forward(self, **feeds: Tensor) -> Any:
        """The student's output."""
        return self.student(**feeds)


@final
@dataclass(frozen=True)
class SelfDistill(TrainingStep[TeachingEvidence]):
    """The step of self-distillation (Zhang et al. 2019, section 3, equations 3 to 6).

    Each head is taught what the student is (there: the labels), the last layer's answers, and through a learned linear map its states;
    the last layer is no target that gradients flow to. Where states alone are taught first, the heads wait for the answers.
    """

    name = "self-distill"

    distill: Distill
    settings: SelfDistillSettings

    def __post_init__(self) -> None:
        if self.distill.settings.adversarial:
            raise InputError("adversarial: with heads on layers (`self_distill`) texts are not changed; leave one of the two out")

    def observe(self, model: PenjingPreTrainedModel, data: Examples) -> TeachingEvidence:
        """The training texts, and the teacher's outputs on them, cached."""
        return self.distill.observe(model, data)

    def teach(self, model: PenjingPreTrainedModel, evidence: TeachingEvidence) -> Taught:
        """Train a copy of `model` with heads on its layers."""
        lesson = self.distill.lesson(evidence)
        alpha, weight = self.settings.alpha, self.settings.features
        divergence = self.distill.task.answer_losses().divergence
        student = copy_of(model)
        objective = self.distill.objective(student)
        own = WithHeads(student, self.settings.layers(len(layers_of(student))))

        def loss(module: nn.Module, batch: Batch) -> Tensor:
            with tapped(student, own.parts) as caught:
                z, total = lesson.taught(student, batch, objective)
            if not lesson.answers_taught(batch):
                return total
            mask = batch.feeds["attention_mask"].bool()
            *lower, last = (caught[part] for part in own.parts)  # (B, S, H) each
            g = last[mask].detach().float()  # (n, H)
            for states, head, mapped in zip(lower, own.heads, own.maps, strict=True):
                answers = lesson.answers(head(states), batch)
                for term in lesson.answer_terms(answers, batch):
                    total = total + (1 - alpha) * term
                total = total + alpha * divergence(answers, z.detach())
                total = total + weight * state_mse(mapped(states[mask]).float(), g)
            return total

        history = lesson.teach(own, objective=objective, loss=loss)
        return Taught(copy_of(student), history)
