"""A model that texts may leave early: ONNX graphs one after another, each with a head, and a rule when an answer is good enough.

The graphs are segments of one model: each takes the states of the one before, (batch, length, hidden), and gives its logits and, but for the
last, its own states. Between two of them it is decided here, in numpy, which texts have their answer; the next runs on the others alone.
A file in JSON says how:

    {"format": 1, "layers": [2, 4, 6], "rule": "entropy", "threshold": 0.31, "prototypes": [[[0.1, …], …], …]}

`layers`: after which each segment ends, from 1. `threshold`: a text leaves where the score of its answer is at most that; below 0 none does.
`prototypes`: of the rule prototypes, of each exit and class a mean state (exits, classes, hidden).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, final

import numpy as np
from numpy.typing import NDArray

from penjing.engines.engine import Engine, cannot_load
from penjing.engines.form import FEEDS, Form
from penjing.engines.onnxruntime import session_of
from penjing.errors import InputError, reason_of, shown
from penjing.files.whole import Json, write_json
from penjing.maths.exits import ENTROPY, PATIENCE, PROTOTYPES, RULES, agreeing, distance_and_entropy, distance_ratio, entropy
from penjing.text.encoded import Encoded, Feeds

Arrays = dict[str, NDArray[Any]]
"""Inputs of a segment by name: those of a text, and the states that the one before gave."""
FORMAT = 1
NEVER = -1.0
"""A threshold that no score reaches."""
ALWAYS = 1.0
"""A threshold that every score reaches."""


@dataclass(frozen=True)
class Leaving:
    """After which layers segments end, and when a text leaves. A score is from 0 to 1, and falls the surer an answer is."""

    layers: tuple[int, ...]
    rule: str = ENTROPY
    threshold: float = NEVER
    prototypes: NDArray[np.float32] | None = None

    def score(self, exit: int, logits: Sequence[NDArray[np.float32]], first: NDArray[np.float32]) -> NDArray[np.floating[Any]]:
        """The scores (B,) of the answers of one exit. logits: of each exit up to it, (B, C). first: the first token's states behind it, (B, H)."""
        z = logits[exit]
        if self.rule == ENTROPY:
            return entropy(z)
        if self.rule == PATIENCE:
            return np.asarray(1 / agreeing(np.stack([each.argmax(1) for each in logits], axis=1))[:, -1])
        assert self.prototypes is not None
        return distance_and_entropy(distance_ratio(first, self.prototypes[exit], z.argmax(1)), entropy(z))

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what `write` wrote; an `InputError` where it is damaged, or of another format."""
        try:
            return cls._of(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise InputError(f"engine: {path} does not say when a text leaves ({reason_of(error)}); export the model again") from error

    @classmethod
    def _of(cls, fields: Json) -> Self:
        layers, rule, threshold, means = fields["layers"], fields["rule"], fields["threshold"], fields.get("prototypes")
        if fields["format"] != FORMAT:
            raise ValueError(f"it has format {shown(fields['format'])}, and this code reads {FORMAT}")
        if not layers or any(type(layer) is not int for layer in layers) or layers != sorted(set(layers)):
            raise ValueError(f"its layers are {shown(layers)}; they are numbers that ascend")
        if rule not in RULES or type(threshold) not in (int, float):
            raise ValueError(f"its rule is {shown(rule)} at {shown(threshold)}; {', '.join(RULES)} at a number are")
        prototypes = None if means is None else np.array(means, np.float32)
        if rule == PROTOTYPES and (prototypes is None or prototypes.ndim != 3 or len(prototypes) != len(layers) - 1):
            raise ValueError("its prototypes are not those of each exit and class")
        return cls(tuple(layers), rule, float(threshold), prototypes)

    def write(self, path: Path) -> None:
        """Write the JSON file."""
        means = (
            {} if self.prototypes is None else {"prototypes": [[[float(f"{x:.7g}") for x in row] for row in c] for c in self.prototypes]}
        )
        write_json(path, {"format": FORMAT, "layers": list(self.layers), "rule": self.rule, "threshold": self.threshold} | means)


@dataclass(frozen=True)
class Trace:
    """What every segment says of N texts that never leave: logits (N, E + 1, C), the scores of the exits (N, E), and the first token's
    states behind each exit (N, E, H)."""

    logits: NDArray[np.float32]
    first: NDArray[np.float32]

    def scores(self, leaving: Leaving) -> NDArray[np.floating[Any]]:
        """The score of each text at each exit (N, E)."""
        exits = self.first.shape[1]
        each = [self.logits[:, i] for i in range(exits)]
        return np.stack([leaving.score(i, each[: i + 1], self.first[:, i]) for i in range(exits)], axis=1)


@final
class ExitsEngine(Engine):
    """A model in segments, each in a session of ONNX Runtime. A text that has left costs nothing in the segments behind."""

    name = "exits"
    graphs = False

    def __init__(self, sessions: Sequence[Any], leaving: Leaving, form: Form) -> None:
        super().__init__(form)
        self.sessions = sessions
        self.leaving = leaving
        self.ports = tuple(sessions[-1].get_outputs()[0].shape)
        self._inputs = [[value.name for value in session.get_inputs()] for session in sessions]

    @classmethod
    def open(cls, model: Path | bytes, form: Form, threads: int) -> Self:
        assert isinstance(model, Path), "it runs several graphs"
        leaving = Leaving.read(model)
        sessions = [session_of(model.parent / file, threads) for file in form.more or ()]
        try:
            _check_segments(sessions, leaving)
        except ValueError as error:
            raise cannot_load("ONNX Runtime", model, error) from error
        return cls(sessions, leaving, form)

    @classmethod
    def forms(cls, int8: bool) -> Sequence[Form]:
        """None: they are made of the forms of ONNX Runtime, for a model that has exits."""
        return ()

    def at(self, leaving: Leaving) -> "ExitsEngine":
        """The same sessions, with another rule or threshold."""
        return ExitsEngine(self.sessions, leaving, self.form)

    def run(self, feeds: Feeds) -> NDArray[np.float32]:
        return self.answered(feeds)[0]

    def answered(self, feeds: Feeds) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The logits (B, C) of texts of equal lengths, and the number of the segment that gave each, from 0."""
        count = len(feeds["input_ids"])
        left = np.arange(count)
        given: Arrays = dict(feeds)
        answers: list[NDArray[np.float32]] = []
        places = np.full(count, len(self.sessions) - 1)
        result = np.empty((0, 0), np.float32)
        for number, session in enumerate(self.sessions):
            logits, *states = session.run(None, {name: given[name] for name in self._inputs[number]})
            if not number:
                result = np.empty((count, logits.shape[1]), np.float32)
            if not states:
                result[left] = logits
                break
            answers.append(logits)
            sure = self.leaving.score(number, answers, states[0][:, 0]) <= self.leaving.threshold
            if sure.any():
                result[left[sure]], places[left[sure]] = logits[sure], number
                stay = ~sure
                left, answers = left[stay], [each[stay] for each in answers]
                if not len(left):
                    break
                states, given = [states[0][stay]], {name: value[stay] for name, value in given.items() if name != "states"}
            given["states"] = states[0]
        return result, places

    def places(self, encoded: Encoded) -> NDArray[np.int64]:
        """The number of the segment that answers each text (N,), in the batches in which the form is served."""
        result = np.empty(len(encoded), np.int64)
        for rows in encoded.exact_batches(self.form.batch):
            result[rows] = self.answered(encoded.feeds(rows))[1]
        return result

    def trace(self, encoded: Encoded) -> Trace:
        """What every segment says of every text."""
        logits: dict[int, NDArray[np.float32]] = {}
        first: dict[int, NDArray[np.float32]] = {}
        for rows in encoded.exact_batches(self.form.batch):
            given: Arrays = dict(encoded.feeds(rows))
            said, seen = [], []
            for number, session in enumerate(self.sessions):
                z, *states = session.run(None, {name: given[name] for name in self._inputs[number]})
                said.append(z)
                for x in states:
                    given["states"] = x
                    seen.append(x[:, 0])
            logits |= dict(zip(rows.tolist(), np.stack(said, axis=1), strict=True))
            first |= dict(zip(rows.tolist(), np.stack(seen, axis=1), strict=True))
        return Trace(np.stack([logits[i] for i in range(len(encoded))]), np.stack([first[i] for i in range(len(encoded))]))


def _check_segments(sessions: Sequence[Any], leaving: Leaving) -> None:
    """A `ValueError` where the graphs are no segments of one model, or are not as many as the layers say."""
    if len(sessions) != len(leaving.layers):
        raise ValueError(f"it has {len(sessions)} graphs, and {len(leaving.layers)} segments")
    allowed = {*FEEDS, "states"}
    for number, session in enumerate(sessions):
        inputs = {value.name for value in session.get_inputs()}
        outputs = [value.name for value in session.get_outputs()]
        last = number == len(sessions) - 1
        if not inputs <= allowed or ("states" in inputs) != bool(number) or outputs[:1] != ["logits"] or len(outputs) != 2 - last:
            raise ValueError(f"its graph {number + 1} takes {', '.join(sorted(inputs))} and gives {', '.join(outputs)}")
    if leaving.prototypes is not None:
        classes, hidden = sessions[-1].get_outputs()[0].shape[-1], sessions[0].get_outputs()[1].shape[-1]
        if leaving.prototypes.shape[1:] != (classes, hidden):
            raise ValueError(f"its prototypes are {list(leaving.prototypes.shape[1:])}, and its graphs [{classes}, {hidden}]")


def never(engine: Engine) -> Engine:
    """The engine with the rule off: every text goes to the end. Any other engine is itself."""
    return engine.at(replace(engine.leaving, threshold=NEVER)) if isinstance(engine, ExitsEngine) else engine
