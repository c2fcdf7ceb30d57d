"""The training texts of a job: which of them are held out, which are looked at, and who labels them."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from penjing.errors import InputError
from penjing.modeling_penjing import PenjingPreTrainedModel
from penjing.sources import Data
from penjing.tasks.task import Examples
from penjing.training.predict import logits_of

CHOOSE_PART, CHOOSE_TEXTS = 0.05, 1000
"""Training texts held out in distillation to choose the best weights by: a part of them, and at most so many."""


@dataclass(frozen=True)
class Texts:
    """The training texts of `data`, drawn by `seed`; where they have no labels, `model` answers."""

    data: Data
    model: PenjingPreTrainedModel
    seed: int

    def held_out(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Numbers of texts in random order: those that the weights are chosen by in distillation, and the others."""
        order = np.random.default_rng(self.seed).permutation(len(self.data.train))
        if len(order) < 2:
            raise InputError("data: one training row is too few, since some are held out to choose by; give more with --train")
        held = max(1, min(CHOOSE_TEXTS, round(CHOOSE_PART * len(order))))
        return order[:held], order[held:]

    def calibration(self, texts: int) -> Examples:
        """Some of the texts that are not held out, with labels."""
        _, rows = self.held_out()
        return self.labelled(self.data.train.take(np.sort(rows[:texts])))

    def labelled(self, examples: Examples) -> Examples:
        """The examples, with the model's own answers where they have no labels."""
        if not examples.gold or examples.gold[0] is not None:
            return examples
        answers = self.data.task.decode(logits_of(self.model, examples.encoded), examples.first_tokens)
        return replace(examples, gold=answers)
