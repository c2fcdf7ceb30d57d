"""What a command works on: the task with its labels, and the encoded training and evaluation data of a model."""

import gzip
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from tokenizers import Tokenizer

from penjing.checkpoint import blueprint_at, copy_tokenizer, label_names, locate
from penjing.errors import InputError
from penjing.overlap import Sides, seen_in
from penjing.tasks.data import Row, read_rows
from penjing.tasks.task import Classification, Examples, Task, task_named

HELD_OUT = 0.1


@dataclass(frozen=True)
class Data:
    """A task and its data."""

    task: Task
    train: Examples
    eval: Examples
    tokenizer: Tokenizer
    max_length: int

    @cached_property
    def sides(self) -> Sides:
        """Which training texts are held out, and for what; see `overlap`."""
        return Sides.of(self.train.inputs)


@dataclass(frozen=True)
class Reading:
    """How data is read: columns and the metric ("" by convention), the tokens of a text at most (0: the model's positions), F1's label."""

    text_columns: str = ""
    label_column: str = ""
    metric: str = ""
    max_length: int = 0
    positive: str = ""


def load_data(
    model: str, task_name: str, train: str, eval: str, reading: Reading, tell: Callable[[str], None], *, new_labels: bool = False
) -> Data:
    """Read and encode both files with the model's tokenizer.

    With `new_labels` the labels come from the training data, unless the model names them all already. Without, the
    training data need none, where the evaluation data are a file of their own.
    """
    folder = locate(model)
    task = make_task(task_name, reading)
    train_rows = read_rows(train)
    if not new_labels:
        task.labels = labels_of(folder)
    else:
        known = label_names(folder)
        task.learn_labels(train_rows)
        if known and (set(task.labels) <= set(known) or _numbers(task.labels, known)):
            task.labels = known
    tell(task.metric_said())
    if eval:
        eval_rows = read_rows(eval)
    else:
        train_rows, eval_rows = hold_out(train_rows)
        tell(f"no --eval: {len(eval_rows)} of the training rows are held out")
    tokenizer = tokenizer_of(folder)
    longest = longest_text(folder, reading.max_length)
    result = []
    bare = not new_labels and bool(eval) and not task.has_labels(train_rows)
    if bare:
        tell(f"{train} has no labels: the model's own answers stand for them")
    for rows, source, labelled in ((train_rows, train, not bare), (eval_rows, eval or train, True)):
        examples = task.examples(rows, tokenizer, longest, source, labelled)
        tell_truncated(examples, source, longest, tell)
        result.append(examples)
    tell_overlap(result[1], eval or train, result[0], tell)
    found = Data(task, result[0], result[1], tokenizer, longest)
    if not found.sides.apart:
        tell(
            f"{train}: too few texts, or too many that stand in others, to keep those that are held out apart: what is chosen on them flatters"
        )
    return found


def tell_overlap(examples: Examples, source: str, train: Examples, tell: Callable[[str], None]) -> None:
    """Say how many of the examples are training rows too: what they tell of quality flatters."""
    same, inside = seen_in(examples.inputs, train.inputs)
    if same or inside:
        tell(f"{source}: {same} of {len(examples)} rows are training rows too, but for case and spaces; {inside} more stand in one")


def load_examples(data: Data, source: str, tell: Callable[[str], None]) -> Examples:
    """Further data, encoded like the rest."""
    examples = data.task.examples(read_rows(source), data.tokenizer, data.max_length, source)
    tell_truncated(examples, source, data.max_length, tell)
    tell_overlap(examples, source, data.train, tell)
    return examples


def load_unlabelled(data: Data, source: str, tell: Callable[[str], None]) -> Examples:
    """Further data whose labels, where it has any, are left unread."""
    examples = data.task.examples(read_rows(source), data.tokenizer, data.max_length, source, labelled=False)
    tell_truncated(examples, source, data.max_length, tell)
    return examples


def load_plain(data: Data, path: Path, count: int, seed: int) -> Examples:
    """At most `count` lines of a text file (also gzipped), drawn at random, each as one text whatever the task is."""
    random, lines, seen = np.random.default_rng(seed), list[str](), 0
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else open(path, encoding="utf-8") as file:
            for line in filter(None, (line.strip() for line in file)):
                seen += 1
                place = len(lines) if len(lines) < count else int(random.integers(seen))
                if place < count:
                    lines[place : place + 1] = [line]
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"--general: {path} cannot be read as UTF-8 text ({str(error)[:120]}); give a text a line") from error
    if not lines:
        raise InputError(f"--general: {path} is empty; give a text a line")
    encoded, first, truncated = Classification().encode(data.tokenizer, lines, data.max_length)
    return Examples(encoded, list(lines), [None] * len(lines), first, truncated)


def with_tokenizer(data: Data, tokenizer: Tokenizer) -> Data:
    """The same texts, encoded by another tokenizer."""
    train, eval = (encoded_by(tokenizer, data, examples) for examples in (data.train, data.eval))
    return replace(data, train=train, eval=eval, tokenizer=tokenizer)


def encoded_by(tokenizer: Tokenizer, data: Data, examples: Examples) -> Examples:
    """Examples of this task, encoded by another tokenizer."""
    encoded, first, truncated = data.task.encode(tokenizer, examples.inputs, data.max_length)
    return replace(examples, encoded=encoded, first_tokens=first, truncated=truncated)


def tell_truncated(examples: Examples, source: str, longest: int, tell: Callable[[str], None]) -> None:
    """Say how many texts were cut."""
    if examples.truncated:
        tell(f"{source}: {examples.truncated} of {len(examples)} texts are longer than {longest} tokens and were cut")


def make_task(name: str, reading: Reading) -> Task:
    """The task as the options say it."""
    kind = task_named(name)
    columns = [column.strip() for column in reading.text_columns.split(",") if column.strip()]
    if columns and len(columns) != len(kind.text_columns[0]):
        raise InputError(f"--text-columns: {reading.text_columns!r} names {len(columns)}; {kind.name} takes {len(kind.text_columns[0])}")
    return kind((), columns, reading.label_column or None, reading.metric, reading.positive)


def tokenizer_of(folder: Path) -> Tokenizer:
    """The folder's tokenizer, made from its vocabulary where there is no tokenizer.json."""
    with TemporaryDirectory() as made:
        return _read_tokenizer(tokenizer_file(folder, Path(made)))


def tokenizer_file(folder: Path, made: Path) -> Path:
    """The folder's tokenizer.json; where it has none, one that is made in the folder `made`."""
    if (folder / "tokenizer.json").is_file():
        return folder / "tokenizer.json"
    made.mkdir(parents=True, exist_ok=True)
    copy_tokenizer(folder, made)
    return made / "tokenizer.json"


def _read_tokenizer(path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:
        raise InputError(f"model: {path} is no tokenizer ({str(error)[:160]}); copy it again") from error


def longest_text(folder: Path, wanted: int) -> int:
    """Tokens of a text at most: what is wanted, or the model's positions."""
    positions = blueprint_at(folder).positions
    if wanted < 0 or wanted > positions:
        raise InputError(f"--max-length: {wanted} is not allowed; the model has {positions} positions")
    return wanted or positions


def labels_of(folder: Path) -> list[str]:
    """The model's label names; where it has none, the numbers of its outputs."""
    outputs = blueprint_at(folder).outputs
    if not outputs:
        raise InputError(f"model: {folder} has no trained head; make one with penjing train")
    return label_names(folder) or [str(i) for i in range(outputs)]


def hold_out(rows: list[Row]) -> tuple[list[Row], list[Row]]:
    """A random tenth of the rows apart (at least one): the same for `train` and `compress`, whatever the seed."""
    if len(rows) < 2:
        raise InputError("data: one row is too few to hold some out; give --eval")
    order = np.random.default_rng(0).permutation(len(rows))
    count = max(1, round(HELD_OUT * len(rows)))
    return [rows[i] for i in sorted(order[count:])], [rows[i] for i in sorted(order[:count])]


def _numbers(labels: list[str], known: list[str]) -> bool:
    return all(label.isascii() and label.isdigit() and int(label) < len(known) for label in labels)
