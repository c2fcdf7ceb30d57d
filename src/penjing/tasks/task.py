"""The interface of a task: rows to texts and gold answers, logits to answers, and the metric. It imports no torch, so that serving needs none."""

import copy
import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Self, final

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding

from penjing.blueprint import Head
from penjing.errors import InputError, reason_of
from penjing.files.references import reference_of, resolved
from penjing.files.whole import Json
from penjing.maths.statistics import softmax
from penjing.tasks.metric import Metric
from penjing.tasks.metrics import BinaryF1
from penjing.text.encoded import Encoded, Logits
from penjing.text.encoding import listed
from penjing.text.labels import IGNORED, check_classes, is_number, is_score, ordered, scores_said
from penjing.text.reading import Reading
from penjing.text.rows import Row, columns_in, enumerated, pick_columns, place_of

if TYPE_CHECKING:
    from penjing.maths.answers import AnswerLosses

__all__ = ["IGNORED", "Answer", "Examples", "LabelNames", "MetricRow", "Task", "TaskSettings"]

Answer = Json
"""What a predictor gives for one input."""
MetricRow = Callable[..., tuple[Metric, str]]
"""From a task to a metric, and what it is and why in a line."""


@final
@dataclass(frozen=True)
class Examples:
    """Encoded texts with what they came from: `inputs` as a person wrote them, `gold` label names (None where there are none, and for a word that does not count)."""

    encoded: Encoded
    inputs: list[Any]
    gold: list[Any]
    first_tokens: list[list[int]]
    """Tagging: for each text the token that stands for each word (-1: cut off). Else empty lists."""
    truncated: int

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, rows: NDArray[np.int64]) -> "Examples":
        """Some of the examples."""
        inputs, gold, first = ([each[i] for i in rows] for each in (self.inputs, self.gold, self.first_tokens))
        return Examples(self.encoded.take(rows), inputs, gold, first, self.truncated)

    def with_texts(self, more: Encoded) -> "Examples":
        """These and further texts, which nobody has labelled."""
        none = [None] * len(more)
        return Examples(
            Encoded.joined([self.encoded, more]), [*self.inputs, *none], [*self.gold, *none], [*self.first_tokens, *([] for _ in none)],
            self.truncated,
        )  # fmt: skip

    def fingerprint(self) -> str:
        """A hash of the texts, the tokens and the gold labels."""
        content = self.encoded.ids.tobytes() + self.encoded.types.tobytes() + self.encoded.offsets.tobytes()
        content += repr((self.inputs, self.gold)).encode()
        return hashlib.sha256(content).hexdigest()[:16]


@final
@dataclass(frozen=True)
class LabelNames:
    """The label names of a model, in the order of its outputs, and which of them a label in data is."""

    names: tuple[str, ...] = ()

    @cached_property
    def numbers(self) -> dict[str, int]:
        """The output of each label name."""
        return {name: i for i, name in enumerate(self.names)}

    @cached_property
    def _as_text(self) -> dict[str, str]:
        return {name.strip(): name for name in self.names} | {name: name for name in self.names}

    @cached_property
    def _numbered(self) -> bool:
        return any(map(is_number, self.names))

    def named(self, label: str) -> str | None:
        """The name of a label in data: by name, or by number where no name is a number; None where it is none of them."""
        name = self._as_text.get(label) or (self._as_text.get(label.lower()) if label in ("True", "False") else None)
        if name is None and not self._numbered and is_number(label) and 0 <= int(label) < len(self.names):
            return self.names[int(label)]
        return name


@final
@dataclass(frozen=True)
class TaskSettings:
    """Where a task's rows have the text and the label, and the metric that answers are judged by.

    Attributes:
        columns, label_column: of the text and of the label; empty for the usual names.
        metric: the name of one of the task's metrics ("" for the convention), "module:class" of one's own, or a `Metric`.
        positive: the label that the metric f1 is of; "" for the one that names tell.
        label_map: the model's name of each label that rows call otherwise.
    """

    columns: tuple[str, ...] = ()
    label_column: str = ""
    metric: str | Metric = ""
    positive: str = ""
    label_map: Mapping[str, str] = field(default_factory=dict)

    def overridden(self, reading: Reading) -> "TaskSettings":
        """These settings, but for those that the options of reading say otherwise."""
        return replace(
            self, columns=tuple(reading.columns) or self.columns, label_column=reading.label_column or self.label_column,
            metric=reading.metric or self.metric, positive=reading.positive or self.positive, label_map=reading.labels() or self.label_map,
        )  # fmt: skip


class Task(ABC):
    """One kind of question about texts, with the names of its labels; an object of it never changes.

    A task of one's own is a subclass at the top of a module that other processes can import: of `SequenceTask` where a text has one label,
    else of this class. `labels` may be empty until they are learned: `with_labels` gives a task with labels.

    Args:
        labels: the label names, in the order of the model's outputs.
        columns, label_column, positive, label_map: as in `TaskSettings`.
        metric: as in `TaskSettings`, or the class of a metric that takes no arguments.
    """

    name: ClassVar[str]
    head: ClassVar[Head]
    """The head that a model needs to answer."""
    text_columns: ClassVar[Sequence[tuple[str, ...]]]
    label_columns: ClassVar[Sequence[str]]
    """Usual names of the label's column, the likeliest first; those of `text_columns` are of as many columns as an input has texts."""
    metrics: ClassVar[Mapping[str, MetricRow]]
    """The metrics that may be asked for by name; each row takes the task."""
    takes: ClassVar[str]
    """What one input is, for a message."""
    two_texts: ClassVar[bool] = False
    """Whether an input is two texts, told apart by token types."""
    pretokenized: ClassVar[bool] = False
    """Whether inputs are words rather than text."""
    answers: ClassVar["str | type[AnswerLosses]"] = "penjing.maths.answers:Classes"
    """The losses on its answers: a class, or its reference."""

    def __init__(
        self, labels: Sequence[str] = (), columns: Sequence[str] = (), label_column: str | None = None, metric: str | Metric | type[Metric] = "",
        positive: str = "", label_map: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        self.label_names = LabelNames(tuple(labels))
        self.settings = self._checked(
            TaskSettings(tuple(columns), label_column or "", self._metric(metric), positive, dict(label_map or {}))
        )

    def __setattr__(self, name: str, value: object) -> None:
        if name in vars(self):
            raise AttributeError(f"{name} of a task does not change; with_labels and with_settings give another task")
        super().__setattr__(name, value)

    def _checked(self, settings: TaskSettings) -> TaskSettings:
        if settings.positive and settings.metric != "f1":
            raise InputError(f"positive: nothing asks for it; {'give `metric` f1' if 'f1' in self.metrics else 'leave it out'}")
        return settings

    def _metric(self, metric: str | Metric | type[Metric]) -> str | Metric:
        """The metric as settings hold it; an `InputError` where it does not fit the task."""
        if isinstance(metric, Metric):
            return metric
        if isinstance(metric, str) and ":" in metric:
            metric = resolved(metric, {}, "metric")
        if isinstance(metric, type) and issubclass(metric, Metric):
            try:
                return metric()
            except TypeError as error:
                raise InputError(
                    f"metric: {metric.__name__} cannot be made without arguments ({reason_of(error)}); give an object of it"
                ) from error
        name = str(metric).strip().lower().replace("-", "_")
        if name and name not in self.metrics:
            raise InputError(f"metric: {metric!r} does not fit {self.name}; allowed are {option_names(self.metrics)}")
        return name

    @property
    def labels(self) -> list[str]:
        """The label names, in the order of the model's outputs."""
        return list(self.label_names.names)

    def with_labels(self, names: Sequence[str]) -> Self:
        """The same task with these label names."""
        return self._with(label_names=LabelNames(tuple(names)))

    def with_settings(self, settings: TaskSettings) -> Self:
        """The same task with other settings."""
        return self._with(settings=self._checked(replace(settings, metric=self._metric(settings.metric))))

    def _with(self, **attributes: object) -> Self:
        other = copy.copy(self)
        for name in list(vars(other)):
            if isinstance(getattr(type(self), name, None), cached_property):  # it may depend on what is other now
                del vars(other)[name]
        vars(other).update(attributes)
        return other

    # -- inputs ------------------------------------------------------------------------------------------------

    @abstractmethod
    def input_of(self, value: Any, where: str) -> Any:
        """One input that a person gave, as the tokenizer takes it; an `InputError` that says `where` it is none."""

    @abstractmethod
    def inputs_of(self, rows: Sequence[Row]) -> list[Any]:
        """The inputs of rows, as the tokenizer takes them."""

    def asked(self, inputs: Any) -> list[Any]:
        """What a person gave to be answered: any iterable with an order, each of its items checked."""
        return [self.input_of(value, f"inputs[{i}]") for i, value in enumerate(listed(inputs, self.takes))]

    def first_tokens(self, encoding: Encoding, words: Any, kept: list[int] | None) -> list[int]:
        """The place of each word's first token among those that are kept (None: all); empty where words are not answered."""
        return []

    # -- rows --------------------------------------------------------------------------------------------------

    def columns_of(self, rows: Sequence[Row]) -> tuple[str, ...]:
        """The columns that hold the text, or its words."""
        what = "words" if self.pretokenized else "text"
        return pick_columns(rows, self.settings.columns, self.text_columns, what, "text_columns")

    def label_column_of(self, rows: Sequence[Row]) -> str:
        """The column that holds the label, or the tags."""
        column = self.settings.label_column
        return pick_columns(rows, (column,) if column else (), [(name,) for name in self.label_columns], "label", "label_column")[0]

    def has_labels(self, rows: Sequence[Row]) -> bool:
        """Whether the rows have a column of labels."""
        columns = columns_in(rows)
        column = self.settings.label_column
        return any(name in columns for name in ([column] if column else self.label_columns))

    # -- labels ------------------------------------------------------------------------------------------------

    @abstractmethod
    def label_in(self, value: Any, column: str, rows: Sequence[Row], i: int) -> Any:
        """What row i has in the label's column, as text, or a list of texts (None for a word that does not count)."""

    @abstractmethod
    def gold_of(self, rows: Sequence[Row]) -> list[Any]:
        """The gold answer of each row, as label names."""

    def learned_labels(self, rows: Sequence[Row]) -> list[str]:
        """The label names in the rows, in the order of outputs (numbers by value, tags with O first)."""
        column = self.label_column_of(rows)
        for i, row in enumerate(rows):
            value = row.get(column)
            if scores := list(filter(is_score, value if isinstance(value, list) else [value])):
                raise InputError(scores_said(f"{place_of(rows, i)}: {column} is {scores[0]}"))
        counts = Counter(_flat(self.labels_in(rows)))
        check_classes(counts, column)
        return ordered(counts)

    def unmapped(self, *tables: Sequence[Row]) -> set[str]:
        """The labels of `label_map` that no row of these tables has."""
        left = set(self.settings.label_map)
        for rows in tables if left else ():
            left.difference_update(_flat(self._labels_as_read(rows)))
        return left

    def labels_in(self, rows: Sequence[Row]) -> list[Any]:
        """Each row's label as text, or its tags, by the names of `label_map`."""
        names = self.settings.label_map
        return [
            [label if label is None else names.get(label, label) for label in labels]
            if isinstance(labels, list)
            else names.get(labels, labels)
            for labels in self._labels_as_read(rows)
        ]

    def _labels_as_read(self, rows: Sequence[Row]) -> list[Any]:
        column = self.label_column_of(rows)
        return [self.label_in(row.get(column), column, rows, i) for i, row in enumerate(rows)]

    def named(self, label: str, rows: Sequence[Row], i: int) -> str:
        """The label of row i as one of the model's: by name, or by number."""
        name = self.label_names.named(label)
        if name is None:
            raise InputError(
                f"data: {place_of(rows, i)} has the label {label!r}; the model's labels are {enumerated(self.labels)}; mend the row, or say with"
                " `label_map` which of them it is"
            )
        return name

    @abstractmethod
    def targets(self, examples: Examples) -> list[NDArray[np.int64]]:
        """Label numbers to train on, one array per text: (1,), or (tokens,) with `IGNORED`; all `IGNORED` where gold is None."""

    # -- answers -----------------------------------------------------------------------------------------------

    @abstractmethod
    def decode(self, logits: Logits, first_tokens: Sequence[list[int]]) -> list[Any]:
        """Logits of each text ((C,) or (tokens, C)) → the answer of each, as label names."""

    @abstractmethod
    def shown(self, logits: Logits, first_tokens: Sequence[list[int]], temperature: float) -> list[Answer]:
        """Logits of each text → what a person gets; scores are softmax(logits / temperature)."""

    @abstractmethod
    def labelled(self, examples: Examples, logits: Logits) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Logits (N, C) and label numbers (N,) of what is labelled: texts, or words."""

    @abstractmethod
    def units(self, gold: Any, answer: Any) -> Iterator[tuple[str, bool]]:
        """What one example's flips are counted by: the label of each part of the gold answer, and whether the answer has it."""

    def counted(self, answers: Sequence[Any], gold: Sequence[Any]) -> list[Any]:
        """Answers (or the gold itself) without the parts that do not count."""
        return list(answers)

    def answer_losses(self) -> "AnswerLosses":
        """The losses on its answers; this imports torch."""
        kind = resolved(self.answers, {}, "task", imports=True) if isinstance(self.answers, str) else self.answers
        losses: AnswerLosses = kind()
        return losses

    # -- metric ------------------------------------------------------------------------------------------------

    @abstractmethod
    def usual_metric(self) -> tuple[Metric, str]:
        """The metric by convention, and what it is and why in a line."""

    def _metric_and_reason(self) -> tuple[Metric, str]:
        metric = self.settings.metric
        if isinstance(metric, Metric):
            return metric, f"{metric.name}: it is given as an object"
        return self.metrics[metric](self) if metric else self.usual_metric()

    def metric(self) -> Metric:
        """The metric that quality is said in; an InputError where the labels do not allow it."""
        return self._metric_and_reason()[0]

    def metric_said(self) -> str:
        """The metric and why it is taken, in a line."""
        return self._metric_and_reason()[1]

    def metric_reference(self) -> str:
        """The metric as a file names it, beside `positive`: its name, or "module:class" of one's own.

        Raises:
            InputError: neither gives this metric again, since it was made with settings that no file holds.
        """
        metric = self.metric()
        if not isinstance(self.settings.metric, Metric) or _equal(metric, self._metric_named(metric.name)):
            return metric.name
        with suppress(InputError):
            if _equal(metric, self._metric(type(metric))):
                return reference_of(type(metric))
        raise InputError(
            f"metric: {metric.name} was made with settings of its own, which no file holds; give one of {option_names(self.metrics)} by name,"
            " or a class of your own that takes no arguments"
        )

    def _metric_named(self, name: str) -> Metric | None:
        """The task's metric of this name, of the same positive label; None where it has none that fits the labels."""
        if name not in self.metrics:
            return None
        with suppress(InputError):
            return self.with_settings(replace(self.settings, metric=name, positive=self.positive)).metric()
        return None

    @property
    def positive(self) -> str:
        """The label that F1 is of; "" with any other metric."""
        metric = self.metric()
        return str(metric.positive) if isinstance(metric, BinaryF1) else ""


def score_of(logits: NDArray[np.float32], temperature: float) -> float:
    """The greatest probability of softmax(logits / temperature), logits (C,)."""
    return float(softmax(logits / np.float32(temperature)).max())


def _equal(a: Metric, b: object) -> bool:
    """Whether two metrics are of one class, with the same attributes."""
    return type(a) is type(b) and vars(a).keys() == vars(b).keys() and all(np.array_equal(vars(a)[name], vars(b)[name]) for name in vars(a))


def option_names(metrics: Iterable[str]) -> str:
    """Names of metrics as options write them, for a message."""
    return ", ".join(name.replace("_", "-") for name in metrics)


def _flat(labels: Sequence[Any]) -> Iterator[str]:
    """All labels of rows that have one, or a list of them; None is left out."""
    for row in labels:
        yield from (label for label in (row if isinstance(row, list) else [row]) if label is not None)
