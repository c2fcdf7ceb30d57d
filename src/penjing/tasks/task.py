"""A task: text ↔ arrays ↔ metric. It imports numpy and tokenizers alone, so that serving needs no torch."""

import hashlib
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
from penjing.tasks.metrics import Accuracy, BinaryF1, EntityF1, Metric, WordAccuracy

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
    """One kind of question. Built from its label names; `labels` may be empty until `learn_labels`."""

    name: ClassVar[str]
    head: ClassVar[Literal["sequence", "token"]]
    text_columns: ClassVar[Sequence[tuple[str, ...]]]
    label_columns: ClassVar[Sequence[tuple[str, ...]]]

    def __init__(self, labels: Sequence[str] = (), columns: Sequence[str] = (), label_column: str | None = None) -> None:
        self.labels = list(labels)
        self.columns = tuple(columns)
        self.label_column = label_column

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
        if all(v.lstrip("-").isdigit() for v in flat):
            self.labels = sorted(flat, key=int)
        else:
            self.labels = sorted(flat, key=lambda v: (v != "O", v[2:] if v[1:2] == "-" else v, v))
        if len(self.labels) < 2:
            raise InputError(f"data: the only label is {self.labels[0]}; training needs at least two")

    def _name(self, value: Any, source: str) -> str:
        """A row's label as one of ours: by name, or by number."""
        if str(value) in self._known:
            return str(value)
        by_number = not any(name.lstrip("-").isdigit() for name in self.labels)
        if by_number and str(value).isdigit() and int(value) < len(self.labels):
            return self.labels[int(value)]
        raise InputError(f"data: {source} has the label {value!r}; the model's labels are {', '.join(self.labels[:30])}")

    @property
    def _known(self) -> dict[str, int]:
        cached: dict[str, int] | None = self.__dict__.get("_index")
        if cached is None or len(cached) != len(self.labels):
            cached = self.__dict__["_index"] = {name: i for i, name in enumerate(self.labels)}
        return cached

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

    @abstractmethod
    def metric(self) -> Metric:
        """The metric that quality is said in."""


class _Sequence(Task):
    """One label per text."""

    head = "sequence"
    label_columns = (("label",), ("labels",), ("target",), ("class",), ("sentiment",))

    def gold_of(self, rows: Sequence[Row], source: str) -> list[Any]:
        return [self._name(value, source) for value in self._label_values(rows)]

    def targets(self, examples: Examples) -> list[NDArray[np.int64]]:
        return [np.array([self._known[name]]) for name in examples.gold]

    def decode(self, logits: Sequence[NDArray[np.float32]], first_tokens: Sequence[list[int]]) -> list[Any]:
        return [self.labels[int(row.argmax())] for row in logits]

    def _texts(self, rows: Sequence[Row]) -> list[tuple[str, ...]]:
        columns = pick_columns(rows, self.columns, self.text_columns, "text", "--text-columns")
        for i, row in enumerate(rows):
            if any(row[column] is None for column in columns):
                raise InputError(f"data: row {i + 1} has no {' or '.join(columns)}; every row needs one")
        return [tuple(str(row[column]) for column in columns) for row in rows]


@final
class Classification(_Sequence):
    """One text → one label; accuracy."""

    name = "classification"
    text_columns = (("text",), ("sentence",), ("review",), ("content",))

    def inputs_of(self, rows: Sequence[Row]) -> list[Any]:
        return [text for (text,) in self._texts(rows)]

    def metric(self) -> Metric:
        return Accuracy()


@final
class Pair(_Sequence):
    """Two texts → one label (matching, paraphrase, entailment); accuracy, or F1 of the last label."""

    name = "pair"
    text_columns = (
        ("text_a", "text_b"),
        ("sentence1", "sentence2"),
        ("premise", "hypothesis"),
        ("question1", "question2"),
        ("query", "title"),
    )  # fmt: skip

    def __init__(self, labels: Sequence[str] = (), columns: Sequence[str] = (), label_column: str | None = None, f1: bool = False) -> None:
        super().__init__(labels, columns, label_column)
        self.f1 = f1

    def inputs_of(self, rows: Sequence[Row]) -> list[Any]:
        return list(self._texts(rows))

    def metric(self) -> Metric:
        return BinaryF1(self.labels[-1]) if self.f1 else Accuracy()


@final
class Tagging(Task):
    """A label for each word (sequence labelling); a word is answered by its first sub-word.

    F1 of whole entities where the labels mark their begin and inside (B-x, I-x), else accuracy of words.
    """

    name = "tagging"
    head = "token"
    text_columns = (("tokens",), ("words",))
    label_columns = (("tags",), ("ner_tags",), ("labels",), ("chunk_tags",), ("pos_tags",))

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
        types = {name[2:] for name in self.labels if name[1:2] == "-"}
        if isinstance(value, str) and value[1:2] == "-" and value[2:] in types:
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
        outside = "O" if "O" in self._known else self.labels[0]
        best = [row.argmax(-1) for row in logits]
        return [
            [self.labels[int(row[token])] if token >= 0 else outside for token in first]
            for row, first in zip(best, first_tokens, strict=True)
        ]

    def metric(self) -> Metric:
        scheme = all(name == "O" or (name[:1] in "BIESLU" and name[1:2] == "-") for name in self.labels)
        return EntityF1() if scheme else WordAccuracy()


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
