"""A task: text ↔ arrays ↔ metric. It imports numpy and tokenizers alone, so that serving needs no torch."""

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, final

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, pre_tokenizers

from penjing.arrays import Encoded
from penjing.errors import InputError
from penjing.tasks.data import Row, pick_columns
from penjing.tasks.metrics import Accuracy, BinaryF1, EntityF1, MacroF1, Mcc, Metric, WordAccuracy
from penjing.tasks.positive import positive_of
from penjing.tasks.tags import Scheme, scheme_of

IGNORED = -100
"""The label number of a token that carries none."""


@dataclass(frozen=True)
class Examples:
    """Encoded texts with what they came from: `inputs` as a person wrote them, `gold` label names (None where there are none)."""

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


class Task(ABC):
    """One kind of question. Built from its label names; `labels` may be empty until they are known.

    Args:
        metric: one of `metrics`, "" for the convention. positive: the label that `f1` is of, "" for the one that names tell.
    """

    name: ClassVar[str]
    head: ClassVar[Literal["sequence", "token"]]
    text_columns: ClassVar[Sequence[tuple[str, ...]]]
    label_columns: ClassVar[Sequence[tuple[str, ...]]]
    metrics: ClassVar[Sequence[str]]

    def __init__(
        self, labels: Sequence[str] = (), columns: Sequence[str] = (), label_column: str | None = None, metric: str = "", positive: str = ""
    ) -> None:
        self.columns = tuple(columns)
        self.label_column = label_column
        self._metric = metric.strip().lower().replace("-", "_")
        self._positive = positive
        if self._metric and self._metric not in self.metrics:
            raise InputError(f"--metric: {metric!r} does not fit {self.name}; allowed are {_options(self.metrics)}")
        if positive and self._metric != "f1":
            raise InputError(f"--positive: nothing asks for it; {'give --metric f1' if 'f1' in self.metrics else 'leave it out'}")
        self.labels = list(labels)

    @property
    def labels(self) -> list[str]:
        """The label names, in the order of the model's outputs."""
        return list(self._labels)

    @labels.setter
    def labels(self, names: Sequence[str]) -> None:
        self._labels = tuple(names)
        self._known = {name: i for i, name in enumerate(self._labels)}

    # -- text → arrays -----------------------------------------------------------------------------------------

    @abstractmethod
    def inputs_of(self, rows: Sequence[Row]) -> list[Any]:
        """What is given to the tokenizer, for each row."""

    @property
    def pretokenized(self) -> bool:
        """Whether inputs are words rather than text."""
        return False

    def encode(self, tokenizer: Tokenizer, inputs: Sequence[Any], max_length: int) -> tuple[Encoded, list[list[int]], int]:
        """Inputs → token numbers, the token of each word, and how many texts were cut to `max_length` tokens."""
        tokenizer.no_padding()
        tokenizer.enable_truncation(max_length)
        if self.pretokenized:
            _space_before_words(tokenizer)
        encodings = tokenizer.encode_batch(list(inputs), is_pretokenized=self.pretokenized)
        encoded = Encoded.of([e.ids for e in encodings], [e.type_ids for e in encodings])
        return (
            encoded,
            [self._first_tokens(e, given) for e, given in zip(encodings, inputs, strict=True)],
            sum(bool(e.overflowing) for e in encodings),
        )

    def _first_tokens(self, encoding: Any, words: Any) -> list[int]:
        return []

    def examples(self, rows: Sequence[Row], tokenizer: Tokenizer, max_length: int, source: str = "data", labelled: bool = True) -> Examples:
        """Rows → encoded texts with gold labels, or None for each where not `labelled`."""
        inputs, gold = self.inputs_of(rows), self.gold_of(rows, source) if labelled else [None] * len(rows)
        encoded, first, truncated = self.encode(tokenizer, inputs, max_length)
        return Examples(encoded, inputs, gold, first, truncated)

    # -- labels ------------------------------------------------------------------------------------------------

    def has_labels(self, rows: Sequence[Row]) -> bool:
        """Whether the rows have a column of labels."""
        return any(column in rows[0] for column in ([self.label_column] if self.label_column else [name for (name,) in self.label_columns]))

    def _label_values(self, rows: Sequence[Row]) -> list[Any]:
        given = (self.label_column,) if self.label_column else ()
        (column,) = pick_columns(rows, given, self.label_columns, "label", "--label-column")
        values = [row[column] for row in rows]
        if any(value is None for value in values):
            raise InputError(f"data: row {values.index(None) + 1} has no {column}; every row needs one")
        return values

    def learn_labels(self, rows: Sequence[Row]) -> None:
        """Take the label names from the rows, in order (numbers by value, tags with O first)."""
        values = self._label_values(rows)
        flat = {str(v) for value in values for v in (value if isinstance(value, list) else [value])}
        if all(map(_is_number, flat)):
            self.labels = sorted(flat, key=int)
        else:
            self.labels = sorted(flat, key=lambda v: (v != "O", v[2:] if v[1:2] == "-" else v, v))
        if len(self.labels) < 2:
            raise InputError(f"data: the only label is {self.labels[0]}; training needs at least two")

    def _name(self, value: Any, source: str) -> str:
        """A row's label as one of ours: by name, or by number."""
        if str(value) in self._known:
            return str(value)
        by_number = not any(map(_is_number, self._labels))
        if by_number and _is_number(str(value)) and 0 <= int(value) < len(self._labels):
            return self._labels[int(value)]
        raise InputError(f"data: {source} has the label {value!r}; the model's labels are {', '.join(self.labels[:30])}")

    @abstractmethod
    def gold_of(self, rows: Sequence[Row], source: str) -> list[Any]:
        """The gold answer of each row, as label names."""

    @abstractmethod
    def targets(self, examples: Examples) -> list[NDArray[np.int64]]:
        """Label numbers to train on, one array per text: (1,), or (tokens,) with `IGNORED`."""

    # -- arrays → answers ----------------------------------------------------------------------------------------

    @abstractmethod
    def decode(self, logits: Sequence[NDArray[np.float32]], first_tokens: Sequence[list[int]]) -> list[Any]:
        """Logits of each text ((C,) or (tokens, C)) → the answer of each, as label names."""

    # -- the metric ----------------------------------------------------------------------------------------------

    @abstractmethod
    def _metric_and_reason(self) -> tuple[Metric, str]:
        """The metric, and what it is and why in a line."""

    def metric(self) -> Metric:
        """The metric that quality is said in; an InputError where the labels do not allow it."""
        return self._metric_and_reason()[0]

    def metric_said(self) -> str:
        """The metric and why it is taken, in a line."""
        return self._metric_and_reason()[1]

    @property
    def positive(self) -> str:
        """The label that F1 is of; "" with any other metric."""
        metric = self.metric()
        return str(metric.positive) if isinstance(metric, BinaryF1) else ""


class _Sequence(Task):
    """One label per text."""

    head = "sequence"
    metrics = ("accuracy", "macro_f1", "f1", "mcc")
    label_columns = (("label",), ("labels",), ("target",), ("class",), ("sentiment",))

    def gold_of(self, rows: Sequence[Row], source: str) -> list[Any]:
        return [self._name(value, source) for value in self._label_values(rows)]

    def targets(self, examples: Examples) -> list[NDArray[np.int64]]:
        return [np.array([self._known[name]]) for name in examples.gold]

    def decode(self, logits: Sequence[NDArray[np.float32]], first_tokens: Sequence[list[int]]) -> list[Any]:
        return [self._labels[int(row.argmax())] for row in logits]

    def _metric_and_reason(self) -> tuple[Metric, str]:
        if self._metric == "f1":
            positive, why = self._positive_label()
            return BinaryF1(positive), f"F1 of {positive!r}: {why}"
        if self._metric == "macro_f1":
            return MacroF1(self._labels), "macro F1: --metric asks for it"
        if self._metric == "mcc":
            return Mcc(self._labels), "Matthews' correlation, times 100: --metric asks for it"
        return Accuracy(), f"accuracy: {'--metric asks for it' if self._metric else 'the convention; --metric names another'}"

    def _positive_label(self) -> tuple[str, str]:
        """The label that F1 is of, and why."""
        names = ", ".join(self._labels[:30])
        if self._positive:
            if self._positive not in self._known:
                raise InputError(f"--positive: {self._positive!r} is no label; the labels are {names}")
            return self._positive, "--positive names it"
        if len(self._labels) != 2:
            raise InputError(
                f"--metric: f1 is of one label, and there are {len(self._labels)} ({names}); give --positive, or --metric macro-f1"
            )
        found = positive_of(self._labels)
        if found is None:
            raise InputError(f"--metric: f1 is of the positive label, and {' / '.join(self._labels)} do not say which is; give --positive")
        other = next(name for name in self._labels if name != found)
        return found, f"it is the positive of {found} / {other}"

    def _texts(self, rows: Sequence[Row]) -> list[tuple[str, ...]]:
        columns = pick_columns(rows, self.columns, self.text_columns, "text", "--text-columns")
        for i, row in enumerate(rows):
            if any(row[column] is None for column in columns):
                raise InputError(f"data: row {i + 1} has no {' or '.join(columns)}; every row needs one")
        return [tuple(str(row[column]) for column in columns) for row in rows]


@final
class Classification(_Sequence):
    """One text → one label."""

    name = "classification"
    text_columns = (("text",), ("sentence",), ("review",), ("content",))

    def inputs_of(self, rows: Sequence[Row]) -> list[Any]:
        return [text for (text,) in self._texts(rows)]


@final
class Pair(_Sequence):
    """Two texts → one label (matching, paraphrase, entailment)."""

    name = "pair"
    text_columns = (
        ("text_a", "text_b"),
        ("sentence1", "sentence2"),
        ("premise", "hypothesis"),
        ("question1", "question2"),
        ("query", "title"),
    )  # fmt: skip

    def inputs_of(self, rows: Sequence[Row]) -> list[Any]:
        return list(self._texts(rows))


@final
class Tagging(Task):
    """A label for each word (sequence labelling); a word is answered by its first sub-word.

    F1 of whole entities where the labels mark spans by a known scheme (`tags.scheme_of`), else accuracy of words.
    """

    name = "tagging"
    head = "token"
    text_columns = (("tokens",), ("words",))
    label_columns = (("tags",), ("ner_tags",), ("labels",), ("chunk_tags",), ("pos_tags",))
    metrics = ("entity_f1", "entity_f1_strict", "word_accuracy")

    @property
    def pretokenized(self) -> bool:
        return True

    def inputs_of(self, rows: Sequence[Row]) -> list[Any]:
        (column,) = pick_columns(rows, self.columns, self.text_columns, "words", "--text-columns")
        words = [row[column] for row in rows]
        for i, value in enumerate(words):
            if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
                raise InputError(f"data: {column} in row {i + 1} is no list of words; tagging needs one")
        return words

    def gold_of(self, rows: Sequence[Row], source: str) -> list[Any]:
        tags = self._label_values(rows)
        for i, (value, words) in enumerate(zip(tags, self.inputs_of(rows), strict=True)):
            if not isinstance(value, list) or len(value) != len(words):
                raise InputError(f"data: row {i + 1} has {len(words)} words and not as many tags; give one tag per word")
        return [[self._name(tag, source) for tag in row] for row in tags]

    def _name(self, value: Any, source: str) -> str:
        """A tag that the model does not know, of a type that it does (I-x, where training saw only B-x), counts as missed."""
        if isinstance(value, str) and value not in self._known and (scheme := self.scheme):
            kinds = {kind for mark, kind in map(scheme.split, self._labels) if mark != "O"}
            if scheme.split(value)[1] in kinds:
                return value
        return super()._name(value, source)

    def _first_tokens(self, encoding: Any, words: Any) -> list[int]:
        first = [-1] * len(words)
        for token, word in enumerate(encoding.word_ids):
            if word is not None and first[word] < 0:
                first[word] = token
        return first

    def targets(self, examples: Examples) -> list[NDArray[np.int64]]:
        result = []
        for length, tags, first in zip(examples.encoded.lengths, examples.gold, examples.first_tokens, strict=True):
            row = np.full(length, IGNORED)
            for tag, token in zip(tags, first, strict=True):
                if token >= 0:
                    row[token] = self._known.get(tag, IGNORED)
            result.append(row)
        return result

    def decode(self, logits: Sequence[NDArray[np.float32]], first_tokens: Sequence[list[int]]) -> list[Any]:
        outside = "O" if "O" in self._known else self._labels[0]
        best = [row.argmax(-1) for row in logits]
        return [
            [self._labels[int(row[token])] if token >= 0 else outside for token in first]
            for row, first in zip(best, first_tokens, strict=True)
        ]

    @property
    def scheme(self) -> Scheme | None:
        """How the labels mark spans, or None where they mark none."""
        return scheme_of(self._labels)

    def _metric_and_reason(self) -> tuple[Metric, str]:
        some = ", ".join([name for name in self._labels if name != "O"][:2]) + (", ..." if len(self._labels) > 2 else "")
        if self._metric == "word_accuracy":
            return WordAccuracy(), "word accuracy: --metric asks for it"
        scheme = self.scheme
        if scheme is None:
            if self._metric:
                raise InputError(
                    f"--metric: {_options([self._metric])} does not fit tags that mark no spans ({some}); allowed is word-accuracy"
                )
            return WordAccuracy(), f"word accuracy: the tags mark no spans ({some})"
        strict = self._metric == "entity_f1_strict"
        return EntityF1(scheme, strict=strict), f"entity F1{', strict' if strict else ''}: the tags mark spans by {scheme.name}"


def _is_number(name: str) -> bool:
    return re.fullmatch(r"-?[0-9]+", name) is not None


def _options(metrics: Sequence[str]) -> str:
    return ", ".join(name.replace("_", "-") for name in metrics)


def _space_before_words(tokenizer: Tokenizer) -> None:
    """A byte-level tokenizer (RoBERTa) must see a space before each word that is given alone."""
    if isinstance(tokenizer.pre_tokenizer, pre_tokenizers.ByteLevel):
        tokenizer.pre_tokenizer.add_prefix_space = True


TASKS: dict[str, type[Task]] = {task.name: task for task in (Classification, Pair, Tagging)}
ALIASES = {"matching": "pair", "ner": "tagging", "labelling": "tagging", "chunking": "tagging"}


def task_named(name: str) -> type[Task]:
    """The task of that name (or of a usual other name for it)."""
    kind = TASKS.get(ALIASES.get(name, name))
    if kind is None:
        raise InputError(f"task: {name!r} is none; allowed are {', '.join(TASKS)}")
    return kind
