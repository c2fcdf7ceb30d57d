"""A task: text ↔ arrays ↔ metric. It imports numpy and tokenizers alone, so that serving needs no torch."""

import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, final

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from penjing.errors import InputError
from penjing.tasks.metrics import Accuracy, BinaryF1, EntityF1, MacroF1, Mcc, Metric, WordAccuracy
from penjing.tasks.positive import positive_of
from penjing.tasks.tags import Scheme, scheme_of
from penjing.text.encoded import Encoded
from penjing.text.encoding import encodings, kept_tokens, listed, prepare, readable, text_of, texts_of
from penjing.text.labels import check_classes, is_number, is_score, label_text, ordered, scores_said
from penjing.text.rows import Row, columns_in, enumerated, kind_of, pick_columns, place_of, text_in, words_in

IGNORED = -100
"""The label number of a token that carries none, and the tag in data of a word that does not count."""


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


class Task(ABC):
    """One kind of question. Built from its label names; `labels` may be empty until they are known.

    Args:
        columns, label_column: where rows have the text and the label; empty for the usual names.
        metric: one of `metrics`, "" for the convention. positive: the label that `f1` is of, "" for the one that names tell.
        label_map: our name of each label that rows call otherwise.
    """

    name: ClassVar[str]
    head: ClassVar[Literal["sequence", "token"]]
    text_columns: ClassVar[Sequence[tuple[str, ...]]]
    label_columns: ClassVar[Sequence[tuple[str, ...]]]
    metrics: ClassVar[Sequence[str]]
    takes: ClassVar[str]
    """What one input is, for a message."""

    def __init__(
        self, labels: Sequence[str] = (), columns: Sequence[str] = (), label_column: str | None = None, metric: str = "", positive: str = "",
        label_map: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        self.columns = tuple(columns)
        self.label_column = label_column
        self._metric = metric.strip().lower().replace("-", "_")
        self._positive = positive
        self._label_map = dict(label_map or {})
        self.unmapped = set(self._label_map)
        """Labels of `label_map` that no row had so far."""
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
        self._as_text = {name.strip(): name for name in self._labels} | {name: name for name in self._labels}
        self._numbered = any(map(is_number, self._labels))

    # -- text → arrays -----------------------------------------------------------------------------------------

    @abstractmethod
    def inputs_of(self, rows: Sequence[Row]) -> list[Any]:
        """What is given to the tokenizer, for each row."""

    @property
    def pretokenized(self) -> bool:
        """Whether inputs are words rather than text."""
        return False

    def encode(self, tokenizer: Tokenizer, inputs: Sequence[Any], max_length: int) -> tuple[Encoded, list[list[int]], int]:
        """Inputs → token numbers, the token of each word, and how many texts were cut to `max_length` tokens.

        Any number of threads may call it with one tokenizer, if their tasks agree on `pretokenized`.
        """
        prepare(tokenizer, self.pretokenized)
        given = [readable(each) for each in inputs]
        left = (tokenizer.truncation or {}).get("direction") == "left"
        ids, types, first, cut = [], [], [], 0
        for encoding, words in zip(encodings(tokenizer, given, self.pretokenized), given, strict=True):
            tokens, kinds, kept = encoding.ids, encoding.type_ids, None
            if len(tokens) > max_length:
                kept, cut = kept_tokens(encoding, max_length, left), cut + 1
                tokens, kinds = [tokens[i] for i in kept], [kinds[i] for i in kept]
            ids.append(tokens)
            types.append(kinds)
            first.append(self._first_tokens(encoding, words, kept))
        try:
            return Encoded.of(ids, types), first, cut
        except OverflowError as error:
            raise InputError("tokenizer: it gives tokens or token types numbers that no model has; give the model's own") from error

    def _first_tokens(self, encoding: Encoding, words: Any, kept: list[int] | None) -> list[int]:
        """The place of each word's first token among those that are kept (None: all)."""
        return []

    # -- what a person asks --------------------------------------------------------------------------------------

    @abstractmethod
    def input_of(self, value: Any, where: str) -> Any:
        """One input that a person gave, as the tokenizer takes it; an `InputError` that says `where` it is none."""

    def asked(self, inputs: Any) -> list[Any]:
        """What a person gave to be answered: any iterable with an order, each of its items checked."""
        return [self.input_of(value, f"inputs[{i}]") for i, value in enumerate(listed(inputs, self.takes))]

    def examples(self, rows: Sequence[Row], tokenizer: Tokenizer, max_length: int, labelled: bool = True) -> Examples:
        """Rows → encoded texts with gold labels, or None for each where not `labelled`."""
        inputs, gold = self.inputs_of(rows), self.gold_of(rows) if labelled else [None] * len(rows)
        encoded, first, truncated = self.encode(tokenizer, inputs, max_length)
        return Examples(encoded, inputs, gold, first, truncated)

    # -- rows --------------------------------------------------------------------------------------------------

    def columns_of(self, rows: Sequence[Row]) -> tuple[str, ...]:
        """The columns that hold the text, or its words."""
        what = "words" if self.pretokenized else "text"
        return pick_columns(rows, self.columns, self.text_columns, what, "--text-columns")

    def label_column_of(self, rows: Sequence[Row]) -> str:
        """The column that holds the label, or the tags."""
        given = (self.label_column,) if self.label_column else ()
        return pick_columns(rows, given, self.label_columns, "label", "--label-column")[0]

    def has_labels(self, rows: Sequence[Row]) -> bool:
        """Whether the rows have a column of labels."""
        columns = columns_in(rows)
        return any(name in columns for name in ([self.label_column] if self.label_column else [name for (name,) in self.label_columns]))

    # -- labels ------------------------------------------------------------------------------------------------

    def learn_labels(self, rows: Sequence[Row]) -> None:
        """Take the label names from the rows, in order (numbers by value, tags with O first)."""
        column = self.label_column_of(rows)
        for i, row in enumerate(rows):
            value = row.get(column)
            if scores := list(filter(is_score, value if isinstance(value, list) else [value])):
                raise InputError(scores_said(f"{place_of(rows, i)}: {column} is {scores[0]}"))
        labels = (label for given in self._labels_in(rows) for label in (given if isinstance(given, list) else [given]))
        counts = Counter(label for label in labels if label is not None)
        check_classes(counts, column)
        self.labels = ordered(counts)

    def _labels_in(self, rows: Sequence[Row]) -> list[Any]:
        """Each row's label as text, or its tags, by the names of `label_map`."""
        column = self.label_column_of(rows)
        return [self._label_in(row.get(column), column, rows, i) for i, row in enumerate(rows)]

    @abstractmethod
    def _label_in(self, value: Any, column: str, rows: Sequence[Row], i: int) -> Any:
        """What row i has in the label's column, as text."""

    def _renamed(self, label: str) -> str:
        """A label by its name in `label_map`."""
        self.unmapped.discard(label)
        return self._label_map.get(label, label)

    def _name(self, label: str, rows: Sequence[Row], i: int) -> str:
        """A row's label as one of ours: by name, or by number."""
        found = self._as_text.get(label) or (self._as_text.get(label.lower()) if label in ("True", "False") else None)
        if found is None and not self._numbered and is_number(label) and 0 <= int(label) < len(self._labels):
            found = self._labels[int(label)]
        if found is None:
            raise InputError(
                f"data: {place_of(rows, i)} has the label {label!r}; the model's labels are {enumerated(self._labels)}; mend the row, or say with"
                " --label-map which of them it is"
            )
        return found

    @abstractmethod
    def gold_of(self, rows: Sequence[Row]) -> list[Any]:
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

    def _label_in(self, value: Any, column: str, rows: Sequence[Row], i: int) -> Any:
        label = label_text(value)
        if label and label != str(IGNORED):
            return self._renamed(label)
        if label is None:
            several = "; several labels of one text are not supported" if isinstance(value, list) else ""
            raise InputError(f"data: {place_of(rows, i)}: {column} is {kind_of(value)}; a label is one text or number{several}")
        if label:
            raise InputError(f"data: {place_of(rows, i)} has the label {label}, which marks what is not labelled; remove the row")
        raise InputError(f"data: {place_of(rows, i)} has no {column}; every row needs one")

    def gold_of(self, rows: Sequence[Row]) -> list[Any]:
        return [self._name(label, rows, i) for i, label in enumerate(self._labels_in(rows))]

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
        columns = self.columns_of(rows)
        return [tuple(text_in(row.get(column), column, rows, i) for column in columns) for i, row in enumerate(rows)]


@final
class Classification(_Sequence):
    """One text → one label."""

    name = "classification"
    text_columns = (("text",), ("sentence",), ("review",), ("content",))
    takes = "classification takes one text (str) each"

    def input_of(self, value: Any, where: str) -> Any:
        return text_of(value, where, self.takes)

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
    takes = "pair takes two texts (str) each, as (first, second)"

    def input_of(self, value: Any, where: str) -> Any:
        return texts_of(value, where, self.takes, count=2)

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
    takes = "tagging takes a list of words (str) each"

    def input_of(self, value: Any, where: str) -> Any:
        return texts_of(value, where, self.takes)

    @property
    def pretokenized(self) -> bool:
        return True

    def inputs_of(self, rows: Sequence[Row]) -> list[Any]:
        (column,) = self.columns_of(rows)
        return [words_in(row.get(column), column, rows, i) for i, row in enumerate(rows)]

    def _label_in(self, value: Any, column: str, rows: Sequence[Row], i: int) -> Any:
        if not isinstance(value, list):
            raise InputError(f"data: {place_of(rows, i)}: {column} is {kind_of(value)}; tagging takes a list with a tag for each word")
        tags = [label_text(tag) for tag in value]
        for number, (tag, given) in enumerate(zip(tags, value, strict=True), 1):
            if not tag:
                said = "missing" if tag == "" else kind_of(given)
                raise InputError(
                    f"data: {place_of(rows, i)}: tag {number} of {column} is {said}; give O to a word of no span, and {IGNORED} to one that"
                    " does not count"
                )
        return [None if tag == str(IGNORED) else self._renamed(str(tag)) for tag in tags]

    def gold_of(self, rows: Sequence[Row]) -> list[Any]:
        found = self._labels_in(rows)
        for i, (tags, words) in enumerate(zip(found, self.inputs_of(rows), strict=True)):
            if len(tags) != len(words):
                raise InputError(f"data: {place_of(rows, i)} has {len(words)} words and {len(tags)} tags; give one tag per word")
        return [[None if tag is None else self._name(tag, rows, i) for tag in tags] for i, tags in enumerate(found)]

    def _name(self, label: str, rows: Sequence[Row], i: int) -> str:
        """A tag that the model does not know, of a type that it does (I-x, where training saw only B-x), counts as missed."""
        if label not in self._known and (scheme := self.scheme):
            kinds = {kind for mark, kind in map(scheme.split, self._labels) if mark != "O"}
            if scheme.split(label)[1] in kinds:
                return label
        return super()._name(label, rows, i)

    def _first_tokens(self, encoding: Encoding, words: Any, kept: list[int] | None) -> list[int]:
        first, owners = [-1] * len(words), encoding.word_ids
        for token, word in enumerate(owners if kept is None else [owners[i] for i in kept]):
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


def _options(metrics: Sequence[str]) -> str:
    return ", ".join(name.replace("_", "-") for name in metrics)


TASKS: dict[str, type[Task]] = {task.name: task for task in (Classification, Pair, Tagging)}
ALIASES = {"matching": "pair", "ner": "tagging", "labelling": "tagging", "chunking": "tagging"}


def task_named(name: str) -> type[Task]:
    """The task of that name (or of a usual other name for it)."""
    kind = TASKS.get(ALIASES.get(name, name))
    if kind is None:
        raise InputError(f"task: {name!r} is none; allowed are {', '.join(TASKS)}")
    return kind
