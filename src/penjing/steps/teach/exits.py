"""Exits that are taught during distillation: heads behind chosen layers, by which a text may leave early."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from penjing.blueprint import Blueprint
from penjing.errors import InputError
from penjing.files.options import option
from penjing.maths.exits import RULES
from penjing.model.building import blueprint_of, with_exits
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.model.surgery import copy_of
from penjing.model.watch import of_exit
from penjing.steps.settings import check_name
from penjing.steps.stage import Context, Work
from penjing.steps.teach.distill import Distill
from penjing.steps.teach.distillation import Rider
from penjing.steps.teach.training import TrainingStep
from penjing.tasks.judging import quality_of
from penjing.tasks.task import Examples
from penjing.training.lesson import Further, Lesson, TeachingEvidence
from penjing.training.loop import Batch
from penjing.training.predict import exit_logits_of
from penjing.training.taught import Taught

PARTS = 3
"""Where no layers are named, there is an exit after each but the last of so many equal parts of the depth."""


@dataclass(frozen=True)
class ExitsSettings(Rider):
    """Settings of exits: where they stand, how they are taught, and when a text leaves.

    layers: numbers of the layers of the result, from 1, after which a text may leave, as 2,4; "": a third and two thirds of the depth.
    rule: what tells that an answer is good enough (`maths/exits.py`).
    drop: points that leaving may lose on texts held out, against the same model run through; the threshold is set by it.
    consistency: weight of the divergence of each exit's answers from those of the last head, as they are at that step.
    frozen: teach the exits alone, so that the last answers stay as they are.
    """

    name = "exits"
    paper = "Xin et al. 2020 (DeeBERT); Zhou et al. 2020 (PABEE); He et al. 2024 (DE3-BERT)"
    when = "Where many texts are easy and the mean latency counts: the hardest texts come no sooner. First try a smaller student."
    teaching = "exits"
    teaches_exits = True

    layers: str = option("", "After which layers a text may leave, as 2,4.")
    rule: str = option("entropy", "What tells that an answer is good enough.", allowed=RULES)
    drop: float = option(0.5, "Points that leaving early may lose on texts held out.", most=100)
    consistency: float = option(1.0, "Weight of what the last head says at each step, beside the teacher's answers.")
    frozen: bool = option(False, "Teach the exits alone, and leave the encoder as it is.")

    def __post_init__(self) -> None:
        check_name("rule", self.rule, RULES)
        if not 0 <= self.drop <= 100:
            raise InputError(f"drop: {self.drop} is out of range; give points of the metric, from 0 to 100")
        if not 0 <= self.consistency < float("inf"):
            raise InputError(f"consistency: {self.consistency} is out of range; give a weight, at least 0")
        numbers = self._numbers
        if self.layers and (not numbers or list(numbers) != sorted(set(numbers)) or numbers[0] < 1):
            raise InputError(f"layers: {self.layers!r} are none; give numbers of layers that ascend from 1, as 2,4")

    @property
    def _numbers(self) -> tuple[int, ...]:
        parts = [part.strip() for part in self.layers.split(",")]
        return tuple(int(part) for part in parts) if all(part.isdecimal() for part in parts) else ()

    def places(self, depth: int) -> tuple[int, ...]:
        """The layers behind which exits stand in a model of `depth` layers; an `InputError` where it has too few."""
        places = self._numbers or tuple(sorted({depth * part // PARTS for part in range(1, PARTS)} - {0}))
        if not places or places[-1] >= depth:
            raise InputError(
                f"layers: an exit stands after {self.layers or 'a third'} of {depth} layers; give numbers from 1 to {depth - 1}"
            )
        return places

    def check_fits(self, depth: int, blueprint: Blueprint) -> None:
        """Check the settings against a result of `depth` layers and its teacher; an `InputError` where they do not fit."""
        if blueprint.head.answers != "text" or blueprint.outputs < 2:
            raise InputError("exits: a text leaves early as a whole, with one label of several; take a task that labels texts or pairs")
        self.places(depth)

    def around(self, distill: Distill, work: Work, context: Context) -> "TeachExits":
        """The step that teaches exits around `distill`."""
        return TeachExits(distill, self)


@final
class TeachExits(TrainingStep[TeachingEvidence]):
    """The step of exits that are taught while `distill` teaches the model.

    Each exit learns what the last head learns, and what the last head says itself. Its weight is the number of its layer, as a part of the
    depth (Zhou et al. 2020, PABEE, section 3.3).
    """

    name = "exits"

    def __init__(self, distill: Distill, exits: ExitsSettings) -> None:
        self.distill = distill
        self.exits = exits

    def observe(self, model: PenjingPreTrainedModel, data: Examples) -> TeachingEvidence:
        """The training texts, and the teacher's outputs on them, cached."""
        return self.distill.observe(model, data)

    def teach(self, model: PenjingPreTrainedModel, evidence: TeachingEvidence) -> Taught:
        """Train a copy of `model` with exits; the best weights are those whose heads answer best, weighted as they are taught."""
        depth = len(blueprint_of(model).layers)
        places = self.exits.places(depth)
        student = Exiting(with_exits(model, places))
        for name, weight in student.model.named_parameters():
            weight.requires_grad_(of_exit(name) or not self.exits.frozen)
        lesson = self.distill.lesson(evidence)
        weights = [layer / depth for layer in places]
        history = lesson.teach(student, further=Further(self._loss(lesson, weights), self._quality([*weights, 1.0])))
        return Taught(copy_of(student.model), history)

    def _loss(self, lesson: Lesson, weights: Sequence[float]) -> Any:
        answers = lesson.task.answer_losses()
        curriculum = lesson.settings.curriculum

        def loss(output: Any, batch: Batch) -> Tensor:
            last = output.logits.detach().float()
            total = last.new_zeros(())
            if not curriculum.answer_weights(batch.done):
                return total
            for weight, logits in zip(weights, output.exit_logits, strict=True):
                own = self.exits.consistency * answers.divergence(logits.float(), last) if self.exits.consistency else 0.0
                total = total + weight * (sum(lesson.answer_terms(lesson.answers(logits, batch), batch)) + own)
            return total

        return loss

    def _quality(self, weights: Sequence[float]) -> Any:
        task, dev = self.distill.task, self.distill.dev

        @torch.inference_mode()
        def quality(model: nn.Module) -> float:
            heads = exit_logits_of(model, dev.encoded)
            total = sum(weight * quality_of(task, dev, logits) for weight, logits in zip(weights, heads, strict=True))
            return total / sum(weights)

        return quality


@final
class Exiting(nn.Module):
    """A model that gives the logits of its exits too."""

    def __init__(self, model: PenjingPreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, **feeds: Tensor) -> Any:
        """The output of the model, with `exit_logits`."""
        return self.model(**feeds, output_exit_logits=True)
