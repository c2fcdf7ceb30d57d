"""Sequence labelling: a label (tag) for each word, which may mark spans."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, final

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding

from penjing.blueprint import HEADS
from penjing.errors import InputError
from penjing.tasks.metric import Metric
from penjing.tasks.metrics import EntityF1, WordAccuracy, counted
from penjing.tasks.tags import Scheme, entities, scheme_of
from penjing.tasks.task import Answer, Examples, MetricRow, Task, option_names, score_of
from penjing.text.encoded import Logits
from penjing.text.encoding import texts_of
from penjing.text.labels import IGNORED, label_text
from penjing.text.rows import Row, kind_of, place_of, words_in


def _entity_f1(task: "Tagging") -> tuple[Metric, str]:
    return task.entity_metric(strict=False)


def _entity_f1_strict(task: "Tagging") -> tuple[Metric, str]:
    return task.entity_metric(strict=True)


def _word_accuracy(task: "Tagging") -> tuple[Metric, str]:
    return WordAccuracy(), "word accuracy: as was asked"


@final
class Tagging(Task):
    """Sequence labelling: a label for each word; a word is answered by its first sub-word.

    F1 of whole entities where the labels mark spans by a known scheme (`tags.scheme_of`), else accuracy of words.
    """

    name = "tagging"
    head = HEADS["token"]
    text_columns = (("tokens",), ("words",))
    label_columns = ("tags", "ner_tags", "labels", "chunk_tags", "pos_tags")
    metrics: ClassVar[Mapping[str, MetricRow]] = {
        "entity_f1": _entity_f1,
        "entity_f1_strict": _entity_f1_strict,
        "word_accuracy": _word_accuracy,
    }
    takes = "tagging takes a list of words (str) each"
    pretokenized = True

    @property
    def scheme(self) -> Scheme | None:
        """How the labels mark spans, or None where they mark none."""
        return scheme_of(self.label_names.names)

    # -- inputs and gold tags ------------------------------------------------------------------------------------

    def input_of(self, value: Any, where: str) -> Any:
        """The words that a person gave."""
        return texts_of(value, where, self.takes)

    def inputs_of(self, rows: Sequence[Row]) -> list[Any]:
        """The words of each row."""
        (column,) = self.columns_of(rows)
        return [words_in(row.get(column), column, rows, i) for i, row in enumerate(rows)]

    def first_tokens(self, encoding: Encoding, words: Any, kept: list[int] | None) -> list[int]:
        """The place of each word's first token among those that are kept (None: all); -1 where it was cut off."""
        first, owners = [-1] * len(words), encoding.word_ids
        for token, word in enumerate(owners if kept is None else [owners[i] for i in kept]):
            if word is not None and first[word] < 0:
                first[word] = token
        return first

    def label_in(self, value: Any, column: str, rows: Sequence[Row], i: int) -> Any:
        """The tags of row i as texts, None for a word that does not count."""
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
        return [None if tag == str(IGNORED) else str(tag) for tag in tags]

    def gold_of(self, rows: Sequence[Row]) -> list[Any]:
        """The tags of each row by the model's label names, None for a word that does not count."""
        tables = self.labels_in(rows)
        for i, (tags, words) in enumerate(zip(tables, self.inputs_of(rows), strict=True)):
            if len(tags) != len(words):
                raise InputError(f"data: {place_of(rows, i)} has {len(words)} words and {len(tags)} tags; give one tag per word")
        return [[None if tag is None else self.named(tag, rows, i) for tag in tags] for i, tags in enumerate(tables)]

    def named(self, label: str, rows: Sequence[Row], i: int) -> str:
        """A tag that the model does not know, of a type that it does (I-x, where training saw only B-x), counts as missed."""
        if label not in self.label_names.numbers and (scheme := self.scheme):
            kinds = {kind for mark, kind in map(scheme.split, self.labels) if mark != "O"}
            if scheme.split(label)[1] in kinds:
                return label
        return super().named(label, rows, i)

    def targets(self, examples: Examples) -> list[NDArray[np.int64]]:
        """The label number of each word at its first token, (tokens,); `IGNORED` at all others."""
        result = []
        for length, tags, first in zip(examples.encoded.lengths, examples.gold, examples.first_tokens, strict=True):
            row = np.full(length, IGNORED)
            for tag, token in zip(tags, first, strict=True) if tags is not None else ():
                if token >= 0:
                    row[token] = self.label_names.numbers.get(tag, IGNORED)
            result.append(row)
        return result

    # -- answers -------------------------------------------------------------------------------------------------

    def decode(self, logits: Logits, first_tokens: Sequence[list[int]]) -> list[Any]:
        """The label name of each word; O of a word that was cut off."""
        names = self.label_names.names
        outside = "O" if "O" in self.label_names.numbers else names[0]
        best = [row.argmax(-1) for row in logits]
        return [
            [names[int(row[token])] if token >= 0 else outside for token in first] for row, first in zip(best, first_tokens, strict=True)
        ]

    def shown(self, logits: Logits, first_tokens: Sequence[list[int]], temperature: float) -> list[Answer]:
        """`{"labels", "scores"}` of each text, one of each word; the score of a word that was cut off is 0."""
        return [
            {"labels": tags, "scores": [score_of(row[token], temperature) if token >= 0 else 0.0 for token in first]}
            for tags, row, first in zip(self.decode(logits, first_tokens), logits, first_tokens, strict=True)
        ]

    def labelled(self, examples: Examples, logits: Logits) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Logits (N, C) and label numbers (N,) of the words that have a label."""
        targets = self.targets(examples)
        rows = [each[target != IGNORED] for each, target in zip(logits, targets, strict=True)]
        numbers = np.concatenate(targets)
        return np.concatenate(rows).astype(np.float64), numbers[numbers != IGNORED]

    def counted(self, answers: Sequence[Any], gold: Sequence[Any]) -> list[Any]:
        """The tags of each text without those of words that do not count."""
        return [tags for tags, _ in counted(answers, gold)]

    def units(self, gold: Any, answer: Any) -> Iterator[tuple[str, bool]]:
        """The type of each gold entity, and whether it is in the answer as a whole; where tags mark no spans, each word's gold tag."""
        scheme = self.scheme
        if scheme is None:
            yield from ((tag, mine == tag) for tag, mine in zip(gold, answer, strict=True))
        else:
            spans = set(entities(answer, scheme))
            yield from ((span[0], span in spans) for span in entities(gold, scheme))

    # -- metric --------------------------------------------------------------------------------------------------

    def usual_metric(self) -> tuple[Metric, str]:
        """Entity F1 where the labels mark spans, else word accuracy."""
        if self.scheme is None:
            return WordAccuracy(), f"word accuracy: the tags mark no spans ({self._some_labels()})"
        return self.entity_metric(strict=False)

    def entity_metric(self, *, strict: bool) -> tuple[Metric, str]:
        """Entity F1 by the labels' scheme; an `InputError` where they have none."""
        scheme = self.scheme
        if scheme is None:
            asked = option_names(["entity_f1_strict" if strict else "entity_f1"])
            raise InputError(f"metric: {asked} does not fit tags that mark no spans ({self._some_labels()}); allowed is word-accuracy")
        return EntityF1(scheme, strict=strict), f"entity F1{', strict' if strict else ''}: the tags mark spans by {scheme.name}"

    def _some_labels(self) -> str:
        return ", ".join([name for name in self.labels if name != "O"][:2]) + (", ..." if len(self.labels) > 2 else "")
