"""What a measuring process is told when it starts; its requests and answers after that are JSON objects of a line each."""

from dataclasses import dataclass
from pathlib import Path

from penjing.engines.form import Form


@dataclass(frozen=True)
class RawTexts:
    """The texts as a person writes them, in the file `inputs`, for the task of that name and these labels."""

    task: str
    labels: tuple[str, ...]
    tokenizer: Path
    inputs: Path
    max_length: int


@dataclass(frozen=True)
class Setup:
    """What to load, and what to run it on.

    `single`: the encoded texts that are answered alone. `many`: those that are answered in batches of `batch` at most.
    `path`: folders of Python modules, searched after all others; of the engine or the task where they are not Penjing's.
    """

    form: Form
    folder: Path
    threads: int
    single: Path
    many: Path
    batch: int
    raw: RawTexts | None
    path: tuple[str, ...] = ()
