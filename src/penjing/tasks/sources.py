"""What a command works on: the task with its labels, and the encoded training and evaluation data of a model."""

import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from penjing.errors import InputError, reason_of
from penjing.files.whole import write_bytes
from penjing.model.checkpoint import blueprint_at, check_head, encoder_at, label_names, locate
from penjing.model.configuration import numbered
from penjing.model.tokenizing import TOKENIZER, check_fits, longest_said, parse, tokenizer_at, understood
from penjing.tasks.data import Data
from penjing.tasks.task import Classification, Examples, Task, task_named
from penjing.text.data import read_rows
from penjing.text.encoding import open_tokenizer
from penjing.text.files import lines_of
from penjing.text.labels import is_number
from penjing.text.overlap import seen_in
from penjing.text.reading import Reading
from penjing.text.rows import Row, enumerated, shorter

HELD_OUT = 0.1
SHOWN_LABELS = 5
"""Labels, the most frequent ones, that are said with how often they are there."""


def load_data(
    model: str, task_name: str, train: str, eval: str, reading: Reading, tell: Callable[[str], None], *, new_labels: bool = False
) -> Data:
    """Read and encode both files with the model's tokenizer.

    With `new_labels` the labels come from the training data, unless the model names them all already. Without, the
    training data need none, where the evaluation data are a file of their own.
    """
    folder = locate(model)
    task = make_task(task_name, reading)
    train_rows = read_rows(train, reading)
    if not new_labels:
        check_head(folder, task.head, task.name)
        task.labels = labels_of(folder)
    else:
        known = label_names(folder)
        task.learn_labels(train_rows)
        if known and (set(task.labels) <= set(known) or _numbers(task.labels, known)):
            task.labels = known
    tell(task.metric_said())
    if eval:
        eval_rows = read_rows(eval, reading)
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
        result.append(read_examples(task, tokenizer, longest, source, rows, tell, labelled))
    check_label_map(task)
    tell_overlap(result[1], eval or train, result[0], tell)
    found = Data(task, result[0], result[1], tokenizer, longest, reading)
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


def check_label_map(task: Task) -> None:
    """An `InputError` where `--label-map` names a label that no row had."""
    if task.unmapped:
        raise InputError(f"--label-map: no row has the label {enumerated(sorted(task.unmapped))}; name labels as the data do")


def load_examples(data: Data, source: str, tell: Callable[[str], None]) -> Examples:
    """Further data, encoded like the rest."""
    examples = read_examples(data.task, data.tokenizer, data.max_length, source, read_rows(source, data.reading), tell)
    tell_overlap(examples, source, data.train, tell)
    return examples


def load_unlabelled(data: Data, source: str, tell: Callable[[str], None]) -> Examples:
    """Further data whose labels, where it has any, are left unread."""
    return read_examples(data.task, data.tokenizer, data.max_length, source, read_rows(source, data.reading), tell, labelled=False)


def read_examples(
    task: Task, tokenizer: Tokenizer, longest: int, source: str, rows: list[Row], tell: Callable[[str], None], labelled: bool = True
) -> Examples:
    """Rows of `source`, encoded; how they were read is said, and how many were cut."""
    examples = task.examples(rows, tokenizer, longest, labelled)
    tell_read(task, tokenizer, source, rows, examples, tell)
    if examples.truncated:
        tell(f"{source}: {examples.truncated} of {len(examples)} texts are longer than {longest} tokens and were cut")
    return examples


def tell_read(task: Task, tokenizer: Tokenizer, source: str, rows: list[Row], examples: Examples, tell: Callable[[str], None]) -> None:
    """Say what was taken for text and label, how often each label is there, and what became of the first text."""
    labelled = examples.gold[0] is not None
    columns = " and ".join(map(repr, task.columns_of(rows)))
    said = "no labels"
    if labelled:
        counts = Counter(label for gold in examples.gold for label in (gold if isinstance(gold, list) else [gold]))
        left = counts.pop(None, 0)
        most = ", ".join(f"{enumerated([label])} {count:,}" for label, count in counts.most_common(SHOWN_LABELS))
        more = f" and {len(counts) - SHOWN_LABELS} more labels" if len(counts) > SHOWN_LABELS else ""
        said = f"label {task.label_column_of(rows)!r}: {most}{more}" + (f"; {left:,} words do not count" if left else "")
    tell(f"{source}: {len(examples):,} rows; text {columns}, {said}")
    first = examples.inputs[0] if isinstance(examples.inputs[0], str) else " | ".join(examples.inputs[0])
    tokens = [tokenizer.id_to_token(int(token)) for token in examples.encoded.row(0)]
    tell(f"  the first: {shorter(repr(first), 80)} -> {shorter(' '.join(map(str, tokens)), 100)}")


def load_plain(data: Data, path: Path, count: int, seed: int) -> Examples:
    """At most `count` lines of a text file (also gzipped), drawn at random, each as one text whatever the task is."""
    random, lines, seen = np.random.default_rng(seed), list[str](), 0
    try:
        for line in filter(None, (line.strip() for line in lines_of(path, data.reading.encoding, None))):
            seen += 1
            place = len(lines) if len(lines) < count else int(random.integers(seen))
            if place < count:
                lines[place : place + 1] = [line]
    except UnicodeError as error:
        name = data.reading.encoding or "UTF-8"
        raise InputError(f"--general: {path} is not {name} ({reason_of(error)}); give its own with --encoding, or convert it") from error
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"--general: {path} cannot be read ({reason_of(error)}); give a text file, a text a line") from error
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


def make_task(name: str, reading: Reading) -> Task:
    """The task as the options say it."""
    kind = task_named(name)
    if reading.columns and len(reading.columns) != len(kind.text_columns[0]):
        raise InputError(
            f"--text-columns: {reading.text_columns!r} names {len(reading.columns)}; {kind.name} takes {len(kind.text_columns[0])}"
        )
    return kind((), reading.columns, reading.label_column or None, reading.metric, reading.positive, reading.labels())


def tokenizer_of(folder: Path) -> Tokenizer:
    """The tokenizer of a model folder, as transformers makes it of all its files; in any other folder, such as an engine's, its
    tokenizer.json. An `InputError` where it does not fit the model."""
    if not (folder / "config.json").is_file():
        return open_tokenizer(folder / TOKENIZER, "model")
    tokenizer = parse(tokenizer_at(folder).content, folder / TOKENIZER)
    encoder, unplaced = encoder_at(folder)
    with understood(f"the tokenizer of {folder}"):
        check_fits(tokenizer, folder, encoder.vocabulary, encoder.token_types, unplaced)
    return tokenizer


def tokenizer_file(folder: Path, made: Path) -> Path:
    """A tokenizer.json that says all of the folder's tokenizer: its own, or one that is made in the folder `made`."""
    found = tokenizer_at(folder)
    if found.alike:
        return folder / TOKENIZER
    write_bytes(made / TOKENIZER, found.content)
    return made / TOKENIZER


def longest_text(folder: Path, wanted: int) -> int:
    """Tokens of a text at most: what is wanted, or what the tokenizer says (model_max_length), within the model's positions."""
    positions = encoder_at(folder)[0].positions
    if wanted < 0 or wanted > positions:
        raise InputError(f"--max-length: {wanted} is not allowed; the model has {positions} positions")
    return wanted or min(positions, longest_said(folder) or positions)


def labels_of(folder: Path) -> list[str]:
    """The model's label names; where it has none, LABEL_0, LABEL_1, …, as transformers calls them."""
    outputs = blueprint_at(folder).outputs
    if not outputs:
        raise InputError(f"model: {folder} has no trained head; make one with penjing train")
    return label_names(folder) or numbered(outputs)


def hold_out(rows: list[Row]) -> tuple[list[Row], list[Row]]:
    """A random tenth of the rows apart (at least one): the same for `train` and `compress`, whatever the seed."""
    if len(rows) < 2:
        raise InputError("data: one row is too few to hold some out; give --eval")
    order = np.random.default_rng(0).permutation(len(rows))
    count = max(1, round(HELD_OUT * len(rows)))
    return [rows[i] for i in sorted(order[count:])], [rows[i] for i in sorted(order[:count])]


def _numbers(labels: list[str], known: list[str]) -> bool:
    return all(is_number(label) and 0 <= int(label) < len(known) for label in labels)
