"""A task and its data, as one tokenizer encodes them."""

from dataclasses import dataclass
from functools import cached_property

from tokenizers import Tokenizer

from penjing.tasks.encoder import Encoder
from penjing.tasks.task import Examples, Task
from penjing.text.overlap import Sides
from penjing.text.reading import Reading


@dataclass(frozen=True)
class Data:
    """A task and its data, and how further data are read and encoded."""

    encoder: Encoder
    train: Examples
    eval: Examples
    reading: Reading

    @property
    def task(self) -> Task:
        """The task, with its labels."""
        return self.encoder.task

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that the texts are encoded with."""
        return self.encoder.tokenizer

    @property
    def max_length(self) -> int:
        """Tokens of a text at most."""
        return self.encoder.max_length

    @cached_property
    def sides(self) -> Sides:
        """Which training texts are held out, and for what; see `overlap`."""
        return Sides.of(self.train.inputs)
