"""What a command works on: the task with its labels, and the encoded training and evaluation data of a model."""

import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from penjing.errors import InputError, reason_of
from penjing.files.whole import write_bytes
from penjing.model.checkpoint import Checkpoint, open_checkpoint
from penjing.model.tokenizing import TOKENIZER, check_fits, longest_said, parse, tokenizer_at, understood
from penjing.tasks.data import Data
from penjing.tasks.encoder import Encoder
from penjing.tasks.names import task_named
from penjing.tasks.sequence import Classification
from penjing.tasks.task import Examples, Task
from penjing.text.data import Source, named, read_rows
from penjing.text.encoding import open_tokenizer
from penjing.text.files import lines_of
from penjing.text.labels import is_number
from penjing.text.overlap import seen_in
from penjing.text.reading import Reading
from penjing.text.rows import Row, enumerated, shorter

TaskKind = str | type[Task] | Task
"""A task by name or "module:class", its class, or an object of it with settings of its own."""
HELD_OUT = 0.1
SHOWN_LABELS = 5
"""Labels, the most frequent ones, that are said with how often they are there."""


def load_data(
    model: str | Path | Checkpoint, task: TaskKind, train: Source, eval: Source, reading: Reading, tell: Callable[[str], None], *,
    new_labels: bool = False,
) -> Data:  # fmt: skip
    """Read and encode both files with the model's tokenizer.

    `task` is a name, "module:class", or a class or object of a task of one's own. With `new_labels` the labels come from the training data,
    unless the model names them all already. Without, the training data need none, where the evaluation data are a file of their own.
    """
    checkpoint = open_checkpoint(model)
    asked = make_task(task, reading)
    train_rows = read_rows(train, reading)
    if not new_labels:
        checkpoint.check_head(asked.head, asked.name)
        asked = asked.with_labels(checkpoint.labels)
        asked.metric_reference()  # what is made of the model has to name it
    else:
        known = checkpoint.label_names
        learned = asked.learned_labels(train_rows)
        asked = asked.with_labels(known if known and (set(learned) <= set(known) or _numbers(learned, known)) else learned)
    tell(asked.metric_said())
    if eval:
        eval_rows = read_rows(eval, reading)
    else:
        train_rows, eval_rows = hold_out(train_rows)
        tell(f"no `eval`: {len(eval_rows)} of the training rows are held out")
    encoder = Encoder(asked, tokenizer_of(checkpoint), longest_text(checkpoint, reading.max_length))
    bare = not new_labels and bool(eval) and not asked.has_labels(train_rows)
    learned_from, judged_on = named(train, "train"), named(eval or train, "eval")
    if bare:
        tell(f"{learned_from} has no labels: the model's own answers stand for them")
    train_examples = read_examples(encoder, learned_from, train_rows, tell, labelled=not bare)
    eval_examples = read_examples(encoder, judged_on, eval_rows, tell)
    check_label_map(asked, *([] if bare else [train_rows]), eval_rows)
    tell_overlap(eval_examples, judged_on, train_examples, tell)
    data = Data(encoder, train_examples, eval_examples, reading)
    if not data.sides.apart:
        tell(
            f"{learned_from}: too few texts, or too many that stand in others, to keep those that are held out apart: what is chosen on them flatters"
        )
    return data


def tell_overlap(examples: Examples, source: str, train: Examples, tell: Callable[[str], None]) -> None:
    """Say how many of the examples are training rows too: what they tell of quality flatters."""
    same, inside = seen_in(examples.inputs, train.inputs)
    if same or inside:
        tell(f"{source}: {same} of {len(examples)} rows are training rows too, but for case and spaces; {inside} more stand in one")


def check_label_map(task: Task, *tables: Sequence[Row]) -> None:
    """An `InputError` where `label_map` names a label that no row of these tables has."""
    if unmapped := task.unmapped(*tables):
        raise InputError(f"label_map: no row has the label {enumerated(sorted(unmapped))}; name labels as the data do")


def load_examples(data: Data, source: Source, tell: Callable[[str], None]) -> Examples:
    """Further data, encoded like the rest."""
    name = named(source, "test")
    examples = read_examples(data.encoder, name, read_rows(source, data.reading), tell)
    tell_overlap(examples, name, data.train, tell)
    return examples


def load_unlabelled(data: Data, source: str, tell: Callable[[str], None]) -> Examples:
    """Further data whose labels, where it has any, are left unread."""
    return read_examples(data.encoder, source, read_rows(source, data.reading), tell, labelled=False)


def read_examples(encoder: Encoder, source: str, rows: list[Row], tell: Callable[[str], None], labelled: bool = True) -> Examples:
    """Rows of `source`, encoded; how they were read is said, and how many were cut."""
    examples = encoder.examples(rows, labelled)
    tell_read(encoder, source, rows, examples, tell)
    if examples.truncated:
        tell(f"{source}: {examples.truncated} of {len(examples)} texts are longer than {encoder.max_length} tokens and were cut")
    return examples


def tell_read(encoder: Encoder, source: str, rows: list[Row], examples: Examples, tell: Callable[[str], None]) -> None:
    """Say what was taken for text and label, how often each label is there, and what became of the first text."""
    task = encoder.task
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
    tokens = [encoder.tokenizer.id_to_token(int(token)) for token in examples.encoded.row(0)]
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
        raise InputError(f"general: {path} is not {name} ({reason_of(error)}); give its own with `encoding`, or convert it") from error
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"general: {path} cannot be read ({reason_of(error)}); give a text file, a text a line") from error
    if not lines:
        raise InputError(f"general: {path} is empty; give a text a line")
    encoded, first, truncated = Encoder(Classification(), data.tokenizer, data.max_length)(lines)
    return Examples(encoded, list(lines), [None] * len(lines), first, truncated)


def with_tokenizer(data: Data, tokenizer: Tokenizer) -> Data:
    """The same texts, encoded by another tokenizer."""
    encoder = replace(data.encoder, tokenizer=tokenizer)
    return replace(data, encoder=encoder, train=encoder.encoded_again(data.train), eval=encoder.encoded_again(data.eval))


def encoded_by(tokenizer: Tokenizer, data: Data, examples: Examples) -> Examples:
    """Examples of this task, encoded by another tokenizer."""
    return replace(data.encoder, tokenizer=tokenizer).encoded_again(examples)


def make_task(task: TaskKind, reading: Reading) -> Task:
    """The task of that name, class or object, with the settings that the options of reading say."""
    kind = task_named(task) if isinstance(task, str) else task
    if reading.columns and len(reading.columns) != len(kind.text_columns[0]):
        raise InputError(
            f"text_columns: {reading.text_columns!r} names {len(reading.columns)}; {kind.name} takes {len(kind.text_columns[0])}"
        )
    made = kind() if isinstance(kind, type) else kind
    return made.with_settings(made.settings.overridden(reading))


def tokenizer_of(model: Path | Checkpoint) -> Tokenizer:
    """The tokenizer of a model folder, as transformers makes it of all its files; in any other folder, such as an engine's, its
    tokenizer.json. An `InputError` where it does not fit the model."""
    folder = model.folder if isinstance(model, Checkpoint) else model
    if not (folder / "config.json").is_file():
        return open_tokenizer(folder / TOKENIZER, "model")
    tokenizer = parse(tokenizer_at(folder).content, folder / TOKENIZER)
    checkpoint = open_checkpoint(model)
    with understood(f"the tokenizer of {folder}"):
        check_fits(tokenizer, folder, checkpoint.encoder.vocabulary, checkpoint.encoder.token_types, checkpoint.unplaced)
    return tokenizer


def tokenizer_file(folder: Path, made: Path) -> Path:
    """A tokenizer.json that says all of the folder's tokenizer: its own, or one that is made in the folder `made`."""
    found = tokenizer_at(folder)
    if found.alike:
        return folder / TOKENIZER
    write_bytes(made / TOKENIZER, found.content)
    return made / TOKENIZER


def longest_text(model: Path | Checkpoint, wanted: int) -> int:
    """Tokens of a text at most: what is wanted, or what the tokenizer says (model_max_length), within the model's positions."""
    checkpoint = open_checkpoint(model)
    positions = checkpoint.positions
    if wanted < 0 or wanted > positions:
        raise InputError(f"max_length: {wanted} is not allowed; the model has {positions} positions")
    return wanted or min(positions, longest_said(checkpoint.folder) or positions)


def hold_out(rows: list[Row]) -> tuple[list[Row], list[Row]]:
    """A random tenth of the rows apart (at least one): the same for `train` and `compress`, whatever the seed."""
    if len(rows) < 2:
        raise InputError("data: one row is too few to hold some out; give `eval`")
    order = np.random.default_rng(0).permutation(len(rows))
    count = max(1, round(HELD_OUT * len(rows)))
    return [rows[i] for i in sorted(order[count:])], [rows[i] for i in sorted(order[:count])]


def _numbers(labels: list[str], known: list[str]) -> bool:
    return all(is_number(label) and 0 <= int(label) < len(known) for label in labels)
