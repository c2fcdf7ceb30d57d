"""A cascade of two results: the first answers the texts that it is sure of, the second the others."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from penjing.engines.cascade import Cascade, CascadeEngine, renamed, unsure
from penjing.engines.clock.machine import cores
from penjing.engines.clock.measure import Sampling, Subject, measure
from penjing.engines.clock.measurement import Figures
from penjing.engines.description import Description
from penjing.engines.exits import Trace
from penjing.engines.form import TOKENIZER, Form
from penjing.engines.opening import open_engine
from penjing.errors import InputError
from penjing.files.run import Tell
from penjing.files.whole import whole_folder
from penjing.job.delivery import ENGINE
from penjing.job.exporting import describe
from penjing.job.leaving import threshold_for
from penjing.tasks.data import Data
from penjing.tasks.judging import PairedQuality, judge_pair
from penjing.tasks.task import Examples

MOST_TEXTS = 1000
"""Texts that latencies are taken over at most: where a text is answered depends on the text."""


@dataclass(frozen=True)
class Cascaded:
    """What a cascade is: on the evaluation data its quality against the second model alone, the part of the texts that the first answers, and
    the figures of the first, the second and both. `held_out_share`: of the texts that the limit was set on."""

    judged: PairedQuality
    share: float
    held_out_share: float
    unsure: float
    first: Figures
    second: Figures
    both: Figures


@dataclass(frozen=True)
class Part:
    """One of the two: its engine folder, what that says of itself, and the form that is shipped."""

    folder: Path
    about: Description

    @property
    def form(self) -> Form:
        """The form that was chosen where it was made."""
        return self.about.forms[0]


def part_of(folder: Path, name: str) -> Part:
    """A part of a cascade; an `InputError` where the folder holds no engine, or one that is built when it is opened."""
    place = folder / ENGINE if (folder / ENGINE).is_dir() else folder
    part = Part(place, Description.read(place))
    if part.form.packed:
        raise InputError(f"{name}: {folder} is packed, and a cascade takes files; make it without few bits")
    return part


def make(first: Part, second: Part, data: Data, out: Path, drop: float) -> Cascade:
    """Write the engine folder of both into `out`; the limit is set on texts held out, at which no more than `drop` points are lost."""
    _check_pair(first, second)
    held = data.train.take(data.sides.judging)
    logits = np.stack([open_engine(part.form, part.folder).logits(held.encoded) for part in (first, second)], axis=1)  # (N, 2, C)
    temperatures = (first.about.temperature, second.about.temperature)
    scores = unsure(logits[:, 0], temperatures[0])[:, None]
    held = _labelled(held, second, logits[:, 1])
    limit = threshold_for(data.task, held, Trace(logits, np.empty((len(held), 0, 0), np.float32)), scores, drop)
    cascade = Cascade(renamed(first.form), second.form, temperatures, limit)
    with whole_folder(out / ENGINE) as folder:
        for old, new in zip(first.form.files, cascade.first.files, strict=True):
            shutil.copyfile(first.folder / old, folder / new)
        for name in (*second.form.files, TOKENIZER):
            shutil.copyfile(second.folder / name, folder / name)
        cascade.write(folder)
        describe(folder, data, [cascade.form], temperatures[1])
    return cascade


def _labelled(held: Examples, second: Part, logits: Any) -> Examples:
    """Where a text has no label, the second model's answer stands in."""
    answers = [second.about.labels[i] for i in logits.argmax(1)]
    return replace(held, gold=[answer if gold is None else gold for gold, answer in zip(held.gold, answers, strict=True)])


def _check_pair(first: Part, second: Part) -> None:
    """An `InputError` where two models do not read the same token numbers, or do not answer the same."""
    a, b = first.about, second.about
    if (a.task, a.labels, a.max_length) != (b.task, b.labels, b.max_length):
        raise InputError(
            f"first: it answers {a.task} with {', '.join(a.labels)}, and the second {b.task} with {', '.join(b.labels)}; give two of one task and `max_length`"
        )
    if (first.folder / TOKENIZER).read_bytes() != (second.folder / TOKENIZER).read_bytes():
        raise InputError(
            "first: it reads other token numbers than the second; make both from the same teacher, without cutting the vocabulary"
        )


def prove(first: Part, second: Part, data: Data, out: Path, threads: int, wait: float, tell: Tell) -> Cascaded:
    """Judge and time what `make` wrote, beside both of its parts, on the evaluation data."""
    threads = threads or cores()
    cascade = Cascade.read(out / ENGINE / "cascade.json")
    engine = open_engine(cascade.form, out / ENGINE, threads)
    assert isinstance(engine, CascadeEngine)
    texts = data.eval
    alone = engine.second.logits(texts.encoded)
    judged = judge_pair(data.task, texts, engine.logits(texts.encoded), texts, alone)
    subjects = [Subject(part.form, part.folder) for part in (first, second)] + [Subject(cascade.form, out / ENGINE)]
    measured = measure(
        subjects, texts.encoded, threads=threads, sampling=Sampling(texts=MOST_TEXTS), patience_s=wait, tell=tell
    )  # fmt: skip
    held = data.train.take(data.sides.judging).encoded
    return Cascaded(judged, engine.share(texts.encoded), engine.share(held), cascade.unsure, *(each.figures() for each in measured))
