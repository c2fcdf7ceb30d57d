"""Two models, one after the other: the first answers where it is sure, the second the other texts.

Both read the same token numbers and have the same labels. A file in JSON says which they are, and when the first is sure:

    {"format": 1, "first": {form}, "second": {form}, "temperatures": [1.4, 1.1], "unsure": 0.08}

It is where 1 - max softmax(logits / its temperature) is at most `unsure` (Varshney & Baral 2022, model cascading). Its logits are given
at the second's temperature, so that scores are those of whoever answered.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, final

import numpy as np
from numpy.typing import NDArray

from penjing.engines.description import form_from
from penjing.engines.engine import Engine
from penjing.engines.form import Form
from penjing.engines.opening import open_engine
from penjing.errors import InputError, reason_of, shown
from penjing.files.whole import write_json
from penjing.maths.statistics import softmax
from penjing.text.encoded import Encoded, Feeds

FILE = "cascade.json"
FORMAT = 1


@dataclass(frozen=True)
class Cascade:
    """The forms of both models, their temperatures, and how unsure the first may be where it answers."""

    first: Form
    second: Form
    temperatures: tuple[float, float]
    unsure: float

    @property
    def form(self) -> Form:
        """The form of both together."""
        return Form("cascade", "cascade", FILE, batch=self.first.batch, more=(*self.first.files, *self.second.files))

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what `write` wrote; an `InputError` where it is damaged, or of another format."""
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            if fields["format"] != FORMAT:
                raise ValueError(f"it has format {shown(fields['format'])}, and this code reads {FORMAT}")
            numbers = [*fields["temperatures"], fields["unsure"]]
            if len(numbers) != 3 or any(type(number) not in (int, float) for number in numbers) or min(numbers[:2]) <= 0:
                raise ValueError(f"its temperatures and limit are {shown(numbers)}; they are three numbers")
            return cls(form_from(fields["first"]), form_from(fields["second"]), (numbers[0], numbers[1]), numbers[2])
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise InputError(f"engine: {path} does not say which models answer ({reason_of(error)}); make the cascade again") from error

    def write(self, folder: Path) -> None:
        """Write the JSON file."""
        forms = {"first": self.first.to_dict(), "second": self.second.to_dict()}
        write_json(folder / FILE, {"format": FORMAT, **forms, "temperatures": list(self.temperatures), "unsure": self.unsure})


def unsure(logits: NDArray[np.float32], temperature: float) -> NDArray[np.floating[Any]]:
    """1 - the probability of the answer: (N, C) → (N,)."""
    return np.asarray(1 - softmax(logits / temperature).max(-1))


@final
class CascadeEngine(Engine):
    """Two engines; the second sees the texts alone that the first is unsure of, in the batches in which it is served."""

    name = "cascade"
    graphs = False

    def __init__(self, engines: tuple[Engine, Engine], cascade: Cascade, form: Form) -> None:
        super().__init__(form)
        self.first, self.second = engines
        self.cascade = cascade
        self.ports = self.second.ports

    @classmethod
    def open(cls, model: Path | bytes, form: Form, threads: int) -> Self:
        assert isinstance(model, Path), "it runs two models"
        cascade = Cascade.read(model)
        if any(part.engine == cls.name for part in (cascade.first, cascade.second)):
            raise InputError(f"engine: {model} is a cascade of cascades; make it of two models")
        engines = (open_engine(cascade.first, model.parent, threads), open_engine(cascade.second, model.parent, threads))
        return cls(engines, cascade, form)

    @classmethod
    def forms(cls, int8: bool) -> Sequence[Form]:
        """None: it is made of what two folders ship."""
        return ()

    def run(self, feeds: Feeds) -> NDArray[np.float32]:
        return self.answered(feeds)[0]

    def answered(self, feeds: Feeds) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """The logits (B, C) of texts of equal lengths, and which of them the first answered."""
        own, other = self.cascade.temperatures
        logits = self.first.run(feeds)
        sure = unsure(logits, own) <= self.cascade.unsure
        logits = (logits * np.float32(other / own)).astype(np.float32)
        left = np.flatnonzero(~sure)
        for start in range(0, len(left), self.second.form.batch):
            rows = left[start : start + self.second.form.batch]
            logits[rows] = self.second.run({name: value[rows] for name, value in feeds.items()})
        return logits, sure

    def share(self, encoded: Encoded) -> float:
        """The part of the texts that the first answers."""
        sure = [self.answered(encoded.feeds(rows))[1] for rows in encoded.exact_batches(self.form.batch)]
        return float(np.concatenate(sure).mean())


def renamed(form: Form) -> Form:
    """The first model's form with files of names of their own, since the second's may be called alike."""
    return replace(form, file=f"first-{form.file}", more=tuple(f"first-{name}" for name in form.more))
