"""Losses on answers: what a student's logits are taught by its teacher's logits and by gold labels, and how far two models' logits are apart.

Letters: z logits of the student, t of the teacher, (n, C), one row for each answer; T temperature; α weight of the student's entropy.
A task names the class that its answers are compared by (`Task.answers`): `Classes` for labels, `Values` for numbers, or a user's own.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import torch.nn.functional as F
from jaxtyping import Float, Num
from torch import Tensor

from penjing.errors import InputError
from penjing.maths import losses
from penjing.text.labels import IGNORED

REPORTED_LOSSES = 8
"""Names that a message lists at most."""


@final
@dataclass(frozen=True)
class Softening:
    """How soft the compared distributions are: the temperature T of both, and the weight α of the student's entropy."""

    temperature: float = 1.0
    alpha: float = 0.1


AnswerLoss = Callable[[Float[Tensor, "n C"], Float[Tensor, "n C"], Softening], Float[Tensor, ""]]
"""A loss between logits z and t, both (n, C) → a scalar."""


def _kl(z: Tensor, t: Tensor, soft: Softening) -> Tensor:
    return losses.soft_kl(z, t, soft.temperature)


def _cross_entropy(z: Tensor, t: Tensor, soft: Softening) -> Tensor:
    return losses.soft_cross_entropy(z, t, soft.temperature)


def _mse(z: Tensor, t: Tensor, soft: Softening) -> Tensor:
    return losses.logits_mse(z, t)


def _kl_entropy(z: Tensor, t: Tensor, soft: Softening) -> Tensor:
    return losses.soft_kl_entropy(z, t, soft.temperature, soft.alpha)


ANSWER_LOSSES: dict[str, AnswerLoss] = {"kl": _kl, "cross-entropy": _cross_entropy, "mse": _mse, "kl-entropy": _kl_entropy}
"""The losses between logits by name."""


class AnswerLosses(ABC):
    """The losses on one kind of answers, by name, and the divergence between two models' answers."""

    losses: ClassVar[Mapping[str, AnswerLoss]]
    """The losses between a student's and its teacher's logits that make sense for these answers."""

    def loss(self, name: str, z: Float[Tensor, "n C"], t: Float[Tensor, "n C"], soft: Softening) -> Float[Tensor, ""]:
        """The loss of that name between logits z and t (n, C); an `InputError` where these answers have none of that name."""
        loss = self.losses.get(name)
        if loss is None:
            allowed = ", ".join(list(self.losses)[:REPORTED_LOSSES])
            raise InputError(f"losses: {name!r} is no loss on {type(self).__name__.lower()}; allowed are {allowed}")
        return loss(z, t, soft)

    @abstractmethod
    def hard(self, z: Float[Tensor, "n C"], labels: Num[Tensor, " n *columns"], weight: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """`weight` times the mean loss of logits z (n, C), or (B, C), on the gold answers (n,), over those that have one."""

    @abstractmethod
    def divergence(self, z: Float[Tensor, "n C"], t: Float[Tensor, "n C"]) -> Float[Tensor, ""]:
        """The mean divergence of answers z from those of a reference t, both (n, C)."""

    @abstractmethod
    def divergences(self, p: Float[Tensor, "*shape"], q: Float[Tensor, "*shape"], axis: int = -1) -> Float[Tensor, "..."]:
        """The divergence of each answer q from that of the reference p: logits over `axis`, which is gone in the result."""


@final
class Classes(AnswerLosses):
    """Losses on answers that are one of C classes: logits of a softmax."""

    losses = ANSWER_LOSSES

    def hard(self, z: Float[Tensor, "n C"], labels: Num[Tensor, " n *columns"], weight: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """`weight`·cross-entropy with label numbers, the mean over those that are not `IGNORED`."""
        return weight * F.cross_entropy(z, labels, ignore_index=IGNORED, reduction="sum") / (labels != IGNORED).sum().clamp_min(1)

    def divergence(self, z: Float[Tensor, "n C"], t: Float[Tensor, "n C"]) -> Float[Tensor, ""]:
        """KL(softmax(t) ‖ softmax(z)), mean over rows."""
        return losses.soft_kl(z, t)

    def divergences(self, p: Float[Tensor, "*shape"], q: Float[Tensor, "*shape"], axis: int = -1) -> Float[Tensor, "..."]:
        """KL(softmax(p) ‖ softmax(q)) of each row."""
        log_p = F.log_softmax(p, axis)
        log_q = F.log_softmax(q, axis)
        return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(axis)


@final
class Values(AnswerLosses):
    """Losses on answers that are numbers (regression): the logits are the answer itself."""

    losses: ClassVar[Mapping[str, AnswerLoss]] = {"mse": _mse}

    def hard(self, z: Float[Tensor, "n C"], labels: Num[Tensor, " n *columns"], weight: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """`weight`·(z - gold)², the mean over the rows whose gold number is no NaN; z (n, C), gold (n, C) or, where C is 1, (n,)."""
        gold = labels.reshape(z.shape)
        known = ~gold.isnan().any(-1)
        return weight * (z[known] - gold[known]).square().sum() / known.sum().clamp_min(1)

    def divergence(self, z: Float[Tensor, "n C"], t: Float[Tensor, "n C"]) -> Float[Tensor, ""]:
        """(z - t)², mean over rows."""
        return losses.logits_mse(z, t)

    def divergences(self, p: Float[Tensor, "*shape"], q: Float[Tensor, "*shape"], axis: int = -1) -> Float[Tensor, "..."]:
        """(p - q)² of each number; no axis is gone."""
        return (p - q).square()
