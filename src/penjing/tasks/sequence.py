"""Tasks with one label per text: classification of a text, and of a pair of texts."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, final

import numpy as np
from numpy.typing import NDArray

from penjing.blueprint import HEADS
from penjing.errors import InputError
from penjing.tasks.metric import Metric
from penjing.tasks.metrics import Accuracy, BinaryF1, MacroF1, Mcc
from penjing.tasks.positive import positive_of
from penjing.tasks.task import Answer, Examples, MetricRow, Task, score_of
from penjing.text.encoded import Logits
from penjing.text.encoding import text_of, texts_of
from penjing.text.labels import IGNORED, label_text
from penjing.text.rows import Row, kind_of, place_of, text_in


def _accuracy(task: "SequenceTask") -> tuple[Metric, str]:
    return Accuracy(), "accuracy: as was asked"


def _macro_f1(task: "SequenceTask") -> tuple[Metric, str]:
    return MacroF1(task.labels), "macro F1: as was asked"


def _f1(task: "SequenceTask") -> tuple[Metric, str]:
    positive, why = task.positive_label()
    return BinaryF1(positive), f"F1 of {positive!r}: {why}"


def _mcc(task: "SequenceTask") -> tuple[Metric, str]:
    return Mcc(task.labels), "Matthews' correlation, times 100: as was asked"


class SequenceTask(Task):
    """A task with one label per text, answered by the head `sequence`.

    A task of one's own says `name`, `text_columns`, `takes`, `input_of` and `inputs_of`, and whatever else differs.
    """

    head = HEADS["sequence"]
    metrics: ClassVar[Mapping[str, MetricRow]] = {"accuracy": _accuracy, "macro_f1": _macro_f1, "f1": _f1, "mcc": _mcc}
    label_columns = ("label", "labels", "target", "class", "sentiment")

    def texts_of(self, rows: Sequence[Row]) -> list[tuple[str, ...]]:
        """The text of each of the columns that hold one, of each row."""
        columns = self.columns_of(rows)
        return [tuple(text_in(row.get(column), column, rows, i) for column in columns) for i, row in enumerate(rows)]

    def label_in(self, value: Any, column: str, rows: Sequence[Row], i: int) -> Any:
        """The label of row i as text."""
        label = label_text(value)
        if label and label != str(IGNORED):
            return label
        if label is None:
            several = "; several labels of one text are not supported" if isinstance(value, list) else ""
            raise InputError(f"data: {place_of(rows, i)}: {column} is {kind_of(value)}; a label is one text or number{several}")
        if label:
            raise InputError(f"data: {place_of(rows, i)} has the label {label}, which marks what is not labelled; remove the row")
        raise InputError(f"data: {place_of(rows, i)} has no {column}; every row needs one")

    def gold_of(self, rows: Sequence[Row]) -> list[Any]:
        """The label name of each row."""
        return [self.named(label, rows, i) for i, label in enumerate(self.labels_in(rows))]

    def targets(self, examples: Examples) -> list[NDArray[np.int64]]:
        """The label number of each text, (1,)."""
        numbers = self.label_names.numbers
        return [np.array([IGNORED if name is None else numbers[name]]) for name in examples.gold]

    def decode(self, logits: Logits, first_tokens: Sequence[list[int]]) -> list[Any]:
        """The label name of the greatest logit of each text."""
        names = self.label_names.names
        return [names[int(row.argmax())] for row in logits]

    def shown(self, logits: Logits, first_tokens: Sequence[list[int]], temperature: float) -> list[Answer]:
        """`{"label", "score"}` of each text."""
        answers = self.decode(logits, first_tokens)
        return [{"label": name, "score": score_of(row, temperature)} for name, row in zip(answers, logits, strict=True)]

    def labelled(self, examples: Examples, logits: Logits) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Logits (N, C) and label numbers (N,) of the texts."""
        return np.stack(logits).astype(np.float64), np.concatenate(self.targets(examples))

    def units(self, gold: Any, answer: Any) -> Iterator[tuple[str, bool]]:
        """The gold label of a text, and whether it is the answer."""
        yield gold, answer == gold

    def usual_metric(self) -> tuple[Metric, str]:
        """Accuracy."""
        return Accuracy(), "accuracy: the convention, unless another is asked for"

    def positive_label(self) -> tuple[str, str]:
        """The label that F1 is of, and why; an `InputError` where nothing tells."""
        labels = self.labels
        names = ", ".join(labels[:30])
        if given := self.settings.positive:
            if given not in labels:
                raise InputError(f"positive: {given!r} is no label; the labels are {names}")
            return given, "as was asked"
        if len(labels) != 2:
            raise InputError(f"metric: f1 is of one label, and there are {len(labels)} ({names}); give `positive`, or `metric` macro-f1")
        positive = positive_of(self.label_names.names)
        if positive is None:
            raise InputError(f"metric: f1 is of the positive label, and {' / '.join(labels)} do not say which is; give `positive`")
        negative = next(name for name in labels if name != positive)
        return positive, f"it is the positive of {positive} / {negative}"


@final
class Classification(SequenceTask):
    """Classification of one text."""

    name = "classification"
    text_columns = (("text",), ("sentence",), ("review",), ("content",))
    takes = "classification takes one text (str) each"

    def input_of(self, value: Any, where: str) -> Any:
        """The text that a person gave."""
        return text_of(value, where, self.takes)

    def inputs_of(self, rows: Sequence[Row]) -> list[Any]:
        """The text of each row."""
        return [text for (text,) in self.texts_of(rows)]


@final
class Pair(SequenceTask):
    """Classification of two texts (matching, paraphrase, entailment)."""

    name = "pair"
    text_columns = (
        ("text_a", "text_b"),
        ("sentence1", "sentence2"),
        ("premise", "hypothesis"),
        ("question1", "question2"),
        ("query", "title"),
    )  # fmt: skip
    takes = "pair takes two texts (str) each, as (first, second)"
    two_texts = True

    def input_of(self, value: Any, where: str) -> Any:
        """The two texts that a person gave."""
        return texts_of(value, where, self.takes, count=2)

    def inputs_of(self, rows: Sequence[Row]) -> list[Any]:
        """The two texts of each row."""
        return list(self.texts_of(rows))
