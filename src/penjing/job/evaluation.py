"""Evaluation and benchmark of existing models: the quality of one, and the speed of several side by side."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from penjing.engines.clock.machine import Machine, cores, machine, versions
from penjing.engines.clock.measure import RawInputs, Sampling, Subject, measure
from penjing.engines.clock.measurement import Figures
from penjing.engines.form import TOKENIZER, Form
from penjing.engines.opening import open_engine, warn_of_weights
from penjing.errors import InputError
from penjing.files.options import option, parts_of
from penjing.files.records import MERGED, OPTIONAL
from penjing.files.references import import_named
from penjing.files.run import Tell
from penjing.job.models import Model, open_model
from penjing.tasks.encoder import Encoder
from penjing.tasks.judging import Flips, PairedQuality, Quality, Scores, flips, judge, judge_pair, scores_of
from penjing.tasks.names import task_reference
from penjing.tasks.sources import check_label_map, read_examples, tokenizer_file
from penjing.tasks.task import Examples
from penjing.text.data import Source, named, read_rows
from penjing.text.encoded import Encoded, Logits
from penjing.text.reading import Reading

OF_LABELS = ("label_column", "label_map", "metric", "positive")
"""Fields of `Reading` that are of no use where no label is read."""


@dataclass(frozen=True)
class Looking:
    """Options for running a model: engine, threads, and the task where a folder does not name it."""

    engine: str | None = option(None, "openvino, onnxruntime or torch; without it, the fastest.", panel="machine")
    task: str = option("", "classification, pair or tagging; where the folder does not tell.", panel="data")
    threads: int = option(0, "Threads of every engine; 0: all cores.", most=os.cpu_count() or 1, panel="machine")


# -- quality -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Evaluation:
    """The evaluation of a model on data: alone, or paired with a teacher, and then with the flipped answers."""

    folder: str
    data: str
    examples: int
    form: str
    metric: str
    metric_said: str
    temperature: float
    scores: Scores
    quality: Quality | PairedQuality = field(metadata=MERGED)
    flipped: Flips | None = field(default=None, metadata=OPTIONAL)


def evaluate(
    folder: str | Path,
    data: Source,
    *,
    teacher: str | Path = "",
    tell: Tell = lambda text: None,
    **options: Any,
) -> Evaluation:
    """Evaluate a model: quality with a 95 % interval, calibration of scores and, against a teacher, a paired test and flips.

    Args:
        options: the fields of `Looking` (engine, task, threads) and of `Reading` (text_columns, max_length, metric, …).
    """
    looking, reading = parts_of(options, Looking, Reading)
    import_named(looking.engine, looking.task, reading.metric)
    model = open_model(str(folder), looking.engine, looking.task, reading)
    task = model.task
    tell(task.metric_said())
    rows = read_rows(data, reading)
    examples = read_examples(model.encoder, named(data), rows, tell)
    check_label_map(task, rows)
    threads = looking.threads or cores()
    logits = open_engine(model.forms[0], model.folder, threads).logits(examples.encoded)
    result = Evaluation(
        str(folder), named(data), len(examples), model.forms[0].name, task.metric().name, task.metric_said(), model.temperature,
        scores_of(task, examples, logits, model.temperature), judge(task, examples, logits),
    )  # fmt: skip
    if not teacher:
        return result
    known, answers = _of_teacher(str(teacher), model, examples, reading, threads)
    paired = judge_pair(task, examples, logits, known, answers)
    return replace(result, quality=paired, flipped=flips(task, examples, logits, known, answers))


def _of_teacher(folder: str, model: Model, examples: Examples, reading: Reading, threads: int) -> tuple[Examples, Logits]:
    """The teacher's side: the examples as it encodes them, and its logits in the order of the model's labels."""
    teacher = open_model(folder, None, task_reference(model.task), replace(reading, max_length=model.max_length))
    if set(teacher.task.labels) != set(model.task.labels):
        raise InputError(f"teacher: its labels are {', '.join(teacher.task.labels)}, the model's {', '.join(model.task.labels)}")
    encoded, first, truncated = Encoder(teacher.task, teacher.tokenizer, model.max_length)(examples.inputs)
    known = replace(examples, encoded=encoded, first_tokens=first, truncated=truncated)
    order = [teacher.task.labels.index(name) for name in model.task.labels]
    return known, [row[..., order] for row in open_engine(teacher.forms[0], teacher.folder, threads).logits(encoded)]


# -- speed -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BenchRow:
    """A row of a benchmark: one form of one folder. speedup: over the first row; None where one of the two was not steady."""

    folder: str
    form: str
    figures: Figures = field(metadata=MERGED)
    disturbance: str
    speedup: float | None
    speedup_range: tuple[float, float]


@dataclass(frozen=True)
class Benchmark:
    """A benchmark: rows measured side by side, the workload, and the machine."""

    threads: int
    batch: int
    lengths_p50: float
    lengths_p95: float
    machine: Machine
    versions: dict[str, str]
    results: tuple[BenchRow, ...]


@dataclass(frozen=True)
class _Runner:
    """A form of a model to run, and the texts as the model encodes them."""

    name: str
    form: Form
    model: Model
    encoded: Encoded


def bench(
    folders: Sequence[str | Path],
    data: Source,
    *,
    rounds: int = 5,
    tell: Tell = lambda text: None,
    **options: Any,
) -> Benchmark:
    """Benchmark models side by side, each in a process of its own, in turn: latency, throughput, cold start, memory.

    Args:
        options: as of `evaluate`, but for those of labels.
    """
    looking, reading = parts_of(options, Looking, Reading, unread=OF_LABELS)
    import_named(looking.engine, looking.task)
    rows = read_rows(data, reading)
    models = [open_model(str(folder), looking.engine, looking.task, reading) for folder in folders]
    texts = [model.encoder(model.task.inputs_of(rows))[0] for model in models]
    if any(not np.array_equal(encoded.lengths, texts[0].lengths) for encoded in texts):
        tell("the tokenizers differ: every model runs on its own tokens of the same texts")
    runners = [
        _Runner(str(name), form, model, encoded)
        for name, model, encoded in zip(folders, models, texts, strict=True)
        for form in model.forms
    ]
    for runner in runners:  # warned here, since the output of their processes is not shown
        warn_of_weights(runner.form, runner.model.folder)
    first = models[0]
    threads = looking.threads or cores()
    alike = all((model.task.name, len(model.task.labels)) == (first.task.name, len(first.task.labels)) for model in models)
    raw = RawInputs(first.task, first.task.inputs_of(rows), first.max_length) if alike else None
    with TemporaryDirectory() as made:
        subjects = [
            Subject(runner.form, runner.model.folder, runner.encoded, _tokenizer_file(runner, Path(made) / str(i)), runner.model.max_length)
            for i, runner in enumerate(runners)
        ]
        measured = measure(subjects, texts[0], threads=threads, sampling=Sampling(rounds=rounds), raw=raw, tell=tell)
    results = []
    for runner, measurement in zip(runners, measured, strict=True):
        faster = measurement.speedup_over(measured[0])
        ratio = faster.ratio if faster.steady else None
        results.append(
            BenchRow(runner.name, runner.form.name, measurement.figures(), measurement.disturbance, ratio, (faster.low, faster.high))
        )
    lengths = texts[0].lengths
    return Benchmark(threads, 1, float(np.median(lengths)), float(np.percentile(lengths, 95)), machine(), versions(), tuple(results))


def _tokenizer_file(runner: _Runner, made: Path) -> Path | None:
    """The tokenizer.json of a model's folder (converted into `made` where needed), or of the engine's folder beside it."""
    folder = runner.model.folder
    if (folder / "config.json").is_file():
        return tokenizer_file(folder, made)
    named = Path(runner.name)
    near = (folder / TOKENIZER, named / "engine" / TOKENIZER, named / TOKENIZER)
    return next((path for path in near if path.is_file()), None)
