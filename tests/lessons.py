"""Tiny teachers, texts and fittings that the tests of students share."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from conftest import penjing_model, tiny_tokenizer

from penjing.blueprint import Blueprint, Layer
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.steps.teach.distill import Distill, DistillSettings, Place, Teachers
from penjing.students.fitting import Bar, Fitting
from penjing.tasks.task import Examples, Task
from penjing.text.encoded import Encoded
from penjing.training.loop import Progress, Schedule

TOKENIZER = tiny_tokenizer()
VOCABULARY = TOKENIZER.get_vocab_size()
CLS, SEP = TOKENIZER.token_to_id("[CLS]"), TOKENIZER.token_to_id("[SEP]")
FIRST_WORD = 5
"""The number of the first token that is a word."""


def texts(task: Task, count: int, seed: int = 0, labelled: bool = True) -> Examples:
    """Random words [CLS] … [SEP], of a pair two texts; the label says whether the first word is in the upper half of the vocabulary."""
    random = np.random.default_rng(seed)
    ids = [[CLS, *random.integers(FIRST_WORD, VOCABULARY, n).tolist(), SEP] for n in random.integers(2, 7, count)]
    types = [[0] * len(row) for row in ids]
    if task.two_texts:
        ids, types = [row + row[1:] for row in ids], [row + [1] * (len(row) - 1) for row in types]
    upper = [[int(token > VOCABULARY // 2) for token in row] for row in ids]
    gold: list[Any] = [task.labels[row[1]] for row in upper]
    first: list[list[int]] = [[] for _ in ids]
    if task.head.per_token:
        first = [list(range(1, len(row) - 1)) for row in ids]
        gold = [[task.labels[row[i]] for i in words] for row, words in zip(upper, first, strict=True)]
    return Examples(Encoded.of(ids, types), [""] * count, gold if labelled else [None] * count, first, 0)


def teacher_of(task: Task, seed: int = 0) -> PenjingPreTrainedModel:
    """A random teacher whose answers differ from text to text."""
    shape = Blueprint(VOCABULARY, 24, 2, 16, 16, 8, (Layer(2, 32),), task.head, len(task.labels))
    return penjing_model(shape, seed, id2label=dict(enumerate(task.labels)), label2id={name: i for i, name in enumerate(task.labels)})


def fitting_of(
    task: Task, folder: Path, losses: Mapping[str, float], *, seed: int = 0, bar: Bar | None = None, teacher_seed: int = 0
) -> Fitting:
    """A hundred texts to learn from, with the state of the training in `folder`."""
    schedule = Schedule(epochs=1, batch_size=16, learning_rate=1e-2, seed=seed, patience=100)
    settings = DistillSettings(schedule, losses=losses)
    teacher = teacher_of(task, teacher_seed)
    dev = texts(task, 30, seed=1)

    def distill(progress: Progress) -> Distill:
        return Distill(task, Teachers(teacher), settings, dev, Place(folder), progress=progress)

    return Fitting(teacher, task, TOKENIZER, texts(task, 100), dev, settings, distill, bar)
