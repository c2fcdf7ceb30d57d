"""Presets of distillation by name: the losses of a paper, and the student that it starts from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from penjing.errors import InputError
from penjing.steps.teach.distill import DistillSettings
from penjing.students.names import STUDENTS
from penjing.training.loop import Schedule


@dataclass(frozen=True)
class Preset:
    """A preset of distillation: losses with their weights, and changes to `DistillSettings`.

    keep: which of the teacher's layers the student starts from. student: the name of a student that is no BERT. rate, epochs: learning
    rate and epochs of the training. copies: augmented copies of each text by default, where the teacher labels them.
    """

    losses: Mapping[str, float]
    changes: Mapping[str, Any] = field(default_factory=dict)
    keep: str = "uniform"
    student: str = ""
    rate: float = 1e-4
    epochs: int = 3
    copies: int = 0
    paper: str = ""
    when: str = ""

    def settings(self, epochs: int | None = None, rate: float | None = None, changes: Mapping[str, Any] | None = None) -> DistillSettings:
        """The preset's settings of distillation; arguments that are given replace its epochs, its learning rate and its changes."""
        schedule = Schedule(epochs=epochs or self.epochs, learning_rate=self.rate if rate is None else rate, patience=100)
        return DistillSettings(schedule, **({"losses": self.losses} | dict(self.changes if changes is None else changes)))


PRESETS = {
    "states": Preset(
        {"kl": 1.0, "states": 1.0},
        paper="ours, after Jiao et al. 2020",
        when="The default: every matched layer's states in proportion to their size, then the answers.",
    ),
    "labels": Preset({"hard": 1.0}, paper="", when="No teacher: the rival of all others."),
    "hinton": Preset(
        {"kl": 0.5, "hard": 0.5}, {"temperature": 2.0}, paper="Hinton et al. 2015", when="Answers alone, softened: the classic."
    ),
    "distilbert": Preset(
        {"kl": 5.0, "hard": 2.0, "cosine": 1.0},
        {"temperature": 2.0, "layer_map": "uniform", "states_first": 0.0},
        paper="Sanh et al. 2019",
        when="Answers, labels and the last layer's direction, all at once.",
    ),
    "pkd": Preset(
        {"kl": 0.5, "hard": 0.5, "first": 100.0},
        {"temperature": 10.0, "layer_map": "uniform", "states_first": 0.0},
        "first",
        paper="Sun et al. 2019",
        when="First tokens of the layers, normalised.",
    ),
    "tinybert": Preset(
        {"cross-entropy": 1.0, "attention": 1.0, "hidden": 1.0},
        {"layer_map": "uniform", "states_first": 0.6},
        paper="Jiao et al. 2020",
        when="Attention and states first, then answers; with plain text its general stage before.",
    ),
    "minilm": Preset(
        {"kl": 1.0, "relations": 1.0},
        {"layer_map": "uniform", "states_first": 0.5},
        paper="Wang et al. 2021 (MiniLMv2)",
        when="Relations of the last layer: a student of another width and other heads.",
    ),
    "cofi": Preset(
        {"kl": 1.0, "hidden": 1.0},
        {"temperature": 2.0, "layer_map": "learned", "states_first": 0.0},
        paper="Xia et al. 2022",
        when="Layers matched anew in each batch: for a student that was cut unevenly.",
    ),
    "levels": Preset(
        {"kl": 1.0, "levels": 1.0},
        {"temperature": 2.0, "layer_map": "uniform", "states_first": 0.0},
        paper="the multi-level scheme",
        when="Several layers, each through an adapter.",
    ),
} | {
    name: Preset(student.usual.losses, student=name, rate=student.usual.rate, epochs=student.usual.epochs, copies=student.usual.copies)
    for name, student in STUDENTS.items()
}
"""Presets of papers, then of the students that are no BERT.

pkd has T, α and β from the middle of their grids; distilbert the weights of its published training.
"""


def weights_of(losses: str) -> Mapping[str, float]:
    """The weights of losses, read from text as "kl=1,hidden=0.5"."""
    try:
        return {name.strip(): float(weight) for name, weight in (part.split("=") for part in losses.split(","))}
    except ValueError as error:
        raise InputError(f"losses: {losses!r} is none; give names and weights as kl=1,hidden=0.5") from error
