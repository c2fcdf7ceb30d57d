"""From a task's inputs to token numbers, by one tokenizer, cut to one length."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, final

from tokenizers import Tokenizer

from penjing.errors import InputError
from penjing.tasks.task import Examples, Task
from penjing.text.encoded import Encoded
from penjing.text.encoding import encodings, kept_tokens, prepare, readable
from penjing.text.rows import Row


@final
@dataclass(frozen=True)
class Encoder:
    """The encoder of a task's inputs: its tokenizer, set up once (`prepare`), and the tokens that a text has at most.

    Any number of threads may call one. Encoders that share a tokenizer must be of tasks that agree on `pretokenized`.
    """

    task: Task
    tokenizer: Tokenizer
    max_length: int

    def __post_init__(self) -> None:
        prepare(self.tokenizer, self.task.pretokenized)

    def __call__(self, inputs: Sequence[Any]) -> tuple[Encoded, list[list[int]], int]:
        """Inputs → token numbers, the first token of each word, and how many texts were cut to `max_length` tokens."""
        texts = [readable(each) for each in inputs]
        left = (self.tokenizer.truncation or {}).get("direction") == "left"
        ids = list[list[int]]()
        types = list[list[int]]()
        first = list[list[int]]()
        truncated = 0
        for encoding, words in zip(encodings(self.tokenizer, texts, self.task.pretokenized), texts, strict=True):
            tokens, kinds, kept = encoding.ids, encoding.type_ids, None
            if len(tokens) > self.max_length:
                kept = kept_tokens(encoding, self.max_length, left)
                truncated += 1
                tokens, kinds = [tokens[i] for i in kept], [kinds[i] for i in kept]
            ids.append(tokens)
            types.append(kinds)
            first.append(self.task.first_tokens(encoding, words, kept))
        try:
            return Encoded.of(ids, types), first, truncated
        except OverflowError as error:
            raise InputError("tokenizer: it gives tokens or token types numbers that no model has; give the model's own") from error

    def examples(self, rows: Sequence[Row], labelled: bool = True) -> Examples:
        """Rows → encoded texts with gold labels, or None for each where not `labelled`."""
        inputs = self.task.inputs_of(rows)
        gold = self.task.gold_of(rows) if labelled else [None] * len(rows)
        encoded, first, truncated = self(inputs)
        return Examples(encoded, inputs, gold, first, truncated)

    def encoded_again(self, examples: Examples) -> Examples:
        """The same examples, as this encodes them."""
        encoded, first, truncated = self(examples.inputs)
        return replace(examples, encoded=encoded, first_tokens=first, truncated=truncated)
