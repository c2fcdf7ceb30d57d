"""What a student is taught: losses on answers and on states, by name or as objects, with weights.

A loss on answers is a function of logits (`penjing.maths.answers`); a loss on states an object that reads matched layers
(`penjing.training.state_losses`). Where a name is taken, a loss of one's own may stand: an object of `StateLoss`, or a function of the
student's and the teacher's logits (z, t), both (n, C).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from penjing.errors import InputError
from penjing.maths.answers import ANSWER_LOSSES, AnswerLoss, AnswerLosses, Softening
from penjing.model.modeling_penjing import PenjingModel
from penjing.model.watch import FIRST, Part
from penjing.training.layer_map import Pair
from penjing.training.state_losses import STATE_LOSSES, Compared, Matching, Parts, Sizes, StateLoss

ANSWERS = tuple(ANSWER_LOSSES)
"""Losses between logits, by name."""
HARD = "hard"
"""Loss on the gold labels."""
LOSSES: Mapping[str, StateLoss | AnswerLoss] = {**ANSWER_LOSSES, **STATE_LOSSES}
"""All losses between student and teacher, by name."""

OwnAnswerLoss = Callable[[Tensor, Tensor], Tensor]
"""A user's own loss on answers: logits (n, C) of student and teacher → a scalar."""
Loss = str | StateLoss | OwnAnswerLoss
"""A loss by name, or a user's own."""
Weights = Mapping[str, float] | Mapping[Loss, float]
"""Losses and how much each counts."""


def on_states(loss: Loss) -> bool:
    """Whether a loss is one on states; else it is one on answers or labels."""
    return isinstance(loss, StateLoss) or loss in STATE_LOSSES


def loss_name(loss: Loss) -> str:
    """The name of a loss, in messages and in what a run notes of its settings."""
    if isinstance(loss, str):
        return loss
    return loss.name if isinstance(loss, StateLoss) else str(getattr(loss, "__qualname__", type(loss).__qualname__))


def answer_loss(
    loss: Loss, of: AnswerLosses, z: Float[Tensor, "n C"], t: Float[Tensor, "n C"], soft: Softening
) -> Float[Tensor, ""]:  # fmt: skip
    """The loss between logits z of the student and t of the teacher, both (n, C): one of the task's by name, or a user's own."""
    if isinstance(loss, str):
        return of.loss(loss, z, t, soft)
    assert not isinstance(loss, StateLoss)
    return loss(z, t)


@final
class Objective(nn.Module):
    """The weighted sum of the losses on states, and what is learned for them.

    Args:
        weights: of each loss on states.
        pairs: the layers that are matched.
        heads, levels, hidden, learned: see `Matching`.
    """

    def __init__(
        self, weights: Weights, pairs: list[Pair], student: PenjingModel, teacher: PenjingModel, *, heads: int = 0, levels: int = 0,
        hidden: Sequence[int] | None = None, learned: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.weights: dict[Loss, float] = dict(weights.items())
        self.matching = Matching(Sizes.of(student), Sizes.of(teacher), hidden, heads, levels, learned)
        self.losses = {name: name if isinstance(name, StateLoss) else STATE_LOSSES[str(name)] for name in self.weights}
        self.taken = {name: loss.pairs(list(pairs), self.matching) for name, loss in self.losses.items()}
        self._check_widths()
        for name, loss in self.losses.items():
            if reason := loss.refusal(self.taken[name], self.matching) or self._dropped(name):
                raise InputError(reason)
        self.places: dict[Loss, int] = {}
        """Where in `learned` the module of a loss is."""
        self.learned = nn.ModuleList()
        for name in self._in_table_order():
            module = self.losses[name].learned(self.taken[name], self.matching)
            if module is not None:
                self.places[name] = len(self.learned)
                self.learned.append(module)

    def _in_table_order(self) -> list[Loss]:
        """The losses in the order of the table, whatever the order of the weights, so that what is drawn at random is the same."""
        order = list(STATE_LOSSES)
        return sorted(self.losses, key=lambda name: order.index(name) if name in STATE_LOSSES else len(order))

    def _dropped(self, name: Loss) -> str | None:
        """Why a loss cannot compare token with token, where either encoder drops some; None where it can."""
        for sizes, whose, side in ((self.matching.student, "student", 0), (self.matching.teacher, "teacher", 1)):
            deep = [pair[side] for pair in self.taken[name] if pair[side] > sizes.whole]
            if deep and self.losses[name].reads != (FIRST,):
                return (
                    f"losses: {loss_name(name)} compares states token by token, and layer {deep[0]} of the {whose} comes after tokens are"
                    " dropped; take first, which reads the first token alone, or answers"
                )
        return None

    def _check_widths(self) -> None:
        narrow = sorted(loss_name(name) for name, loss in self.losses.items() if loss.unit_by_unit)
        if narrow and not self.matching.one_width:
            raise InputError(
                f"losses: {', '.join(narrow)} compare states of one width; the student has {self.matching.student.hidden} hidden units and"
                f" the teacher {self.matching.teacher.hidden}; take hidden, levels, relations, rkd-distance, rkd-angle or nst"
            )

    @property
    def student_parts(self) -> list[Part]:
        """The parts of the student that are read."""
        return self._parts(0)

    @property
    def teacher_parts(self) -> list[Part]:
        """The parts of the teacher that are read."""
        return self._parts(1)

    def _parts(self, side: int) -> list[Part]:
        parts = {Part(kind, pair[side]) for name, pairs in self.taken.items() for kind in self.losses[name].reads for pair in pairs}
        return sorted(parts, key=str)

    def learned_for(self, loss: Loss) -> nn.Module | None:
        """The module that is learned for a loss."""
        place = self.places.get(loss)
        return None if place is None else self.learned[place]

    def forward(self, student: Parts, teacher: Parts, mask: Bool[Tensor, "B S"]) -> Float[Tensor, ""]:
        """The sum over one batch; parts (B, S, W), or (B, H) of first tokens; mask (B, S)."""
        batch = Compared(student, teacher, mask, self.matching)
        with torch.autocast(mask.device.type, enabled=False):
            terms = []
            for name, weight in self.weights.items():
                terms.append(weight * self.losses[name].value(batch, self.taken[name], self.learned_for(name)))
            return torch.stack(terms).sum()
