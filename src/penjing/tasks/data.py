"""A task and its data, as one tokenizer encodes them."""

from dataclasses import dataclass
from functools import cached_property

from tokenizers import Tokenizer

from penjing.tasks.task import Examples, Task
from penjing.text.overlap import Sides
from penjing.text.reading import Reading


@dataclass(frozen=True)
class Data:
    """A task and its data, and how further data are read."""

    task: Task
    train: Examples
    eval: Examples
    tokenizer: Tokenizer
    max_length: int
    reading: Reading

    @cached_property
    def sides(self) -> Sides:
        """Which training texts are held out, and for what; see `overlap`."""
        return Sides.of(self.train.inputs)
