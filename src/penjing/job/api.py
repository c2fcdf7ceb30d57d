"""The public functions: `compress`, the single steps by hand, and `train`.

The command line calls these.
"""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from penjing.engines.clock.machine import cores
from penjing.engines.form import MODEL
from penjing.engines.opening import EngineKind, engine_class, engine_name
from penjing.errors import InputError
from penjing.files.options import option, refuse_idle
from penjing.files.options import parts_of as _parts
from penjing.files.references import import_named
from penjing.files.run import ASKED, TRAINING, Tell, claimed, fingerprint
from penjing.files.whole import Json
from penjing.job.asked import Budget, Job
from penjing.job.by_hand import Distilling, Leaving, Pruning, Quantizing, Replacing
from penjing.job.cascading import Cascaded, make, part_of, prove
from penjing.job.material import Sources
from penjing.job.pipeline import compress as compress_job
from penjing.job.recipe import Item, Recipe, recipe_of
from penjing.job.reshaping import Factorising, Projecting, Retraining, Sharing
from penjing.model.checkpoint import open_checkpoint
from penjing.report.record import Report
from penjing.steps.cut.vocabulary import VocabularySettings
from penjing.students.stage import StudentSettings
from penjing.tasks.data import Data
from penjing.tasks.sources import TaskKind, load_data, load_examples
from penjing.text.data import Source
from penjing.text.reading import Reading
from penjing.training.finetune import Split, finetune
from penjing.training.loop import Bar, Progress, Schedule, silent
from penjing.training.state import History


@dataclass(frozen=True)
class Given:
    """The data of a job.

    task: a name, a `Task` of the user's own, or its class. train, eval, test: a file, a name on the hub, or rows (mappings).
    """

    task: TaskKind = option("classification", "What is asked: classification, pair or tagging.", panel="data", required=True)
    train: Source = option("", "Training data: JSON Lines, CSV, TSV, Parquet (also .gz), or a hub name.", panel="data", required=True)
    eval: Source = option("", "Evaluation data, likewise; without it a tenth of the training data is held out.", panel="data")
    test: Sequence[Source] = option(tuple, "Further data to report on.", panel="data")


@dataclass(frozen=True)
class Machinery:
    """The engine, threads and measurement settings of a job.

    engine: a name, or an `Engine` class of the user's own; None: whichever is fastest. threads: 0: all cores. command: the command line
    that the report names.
    """

    engine: EngineKind | None = option(None, "openvino, onnxruntime or torch; without it, the fastest.", panel="machine")
    threads: int = option(0, "Threads of every engine; 0: all cores.", most=os.cpu_count() or 1, panel="machine")
    wait: float = option(30.0, "Seconds that each measurement waits for a quiet machine at most.", panel="machine")
    seed: int = option(0, "Of all that is drawn at random.", most=2**32 - 1, panel="machine")
    command: str = ""
    tell: Tell = lambda text: None
    progress: Bar | None = None

    def __post_init__(self) -> None:
        if isinstance(self.engine, type):
            object.__setattr__(self, "engine", engine_name(self.engine))


def compress(model: str | Path, out: str | Path, *, recipe: Recipe | Sequence[Item] | None = None, **options: Any) -> Report:
    """Compress a model: cut, distil, quantize, export and verify it, in the folder `out`.

    Args:
        model: a folder, or a name on the hub.
        recipe: settings of steps in their order, or steps and students of the user's own; None: prune, distil, quantize.
        options: the fields of `Budget` (speedup, latency_ms, size_mb, max_drop, confidence), of `Given` (task, train, eval, test), of
            `Reading` (text_columns, max_length, metric, …) and of `Machinery` (engine, threads, wait, seed, tell, …).
    """
    parts = _parts(options, Budget, Given, Reading, Machinery)
    return run(model, out, recipe_of(recipe), *parts)


def prune(model: str | Path, out: str | Path, **options: Any) -> Report:
    """Prune a model by hand; options: the fields of `Pruning`, and those of `compress` but speed and size."""
    pruning, *parts = _parts(options, Pruning, Budget, Given, Reading, Machinery)
    blueprint = open_checkpoint(model).blueprint if pruning.stored_mb is not None else None
    return run(model, out, pruning.recipe(blueprint), *parts)


def quantize(model: str | Path, out: str | Path, **options: Any) -> Report:
    """Quantize a model by hand; options: the fields of `Quantizing`, and those of `compress` but speed and size."""
    quantizing, *parts = _parts(options, Quantizing, Budget, Given, Reading, Machinery)
    machinery = parts[-1]
    if machinery.engine == "torch" and quantizing.real:
        raise InputError(f"engine: PyTorch does not compute in integers, which {quantizing.scheme} is for; give onnxruntime or openvino")
    return run(model, out, quantizing.recipe(), *parts)


def exits(model: str | Path, out: str | Path, **options: Any) -> Report:
    """Let easy texts leave a model early, by hand; options: the fields of `Leaving`, and those of `compress` but speed and size.

    `max_drop` is also what leaving may lose on texts held out, by which the threshold is set.
    """
    leaving, *parts = _parts(options, Leaving, Budget, Given, Reading, Machinery)
    return run(model, out, leaving.recipe(parts[0].max_drop), *parts)


def distill(model: str | Path, out: str | Path, **options: Any) -> Report:
    """Distil a small student by hand; options: the fields of `Distilling` and of `Sources`, and those of `compress` but speed and size."""
    distilling, sources, *parts = _parts(options, Distilling, Sources, Budget, Given, Reading, Machinery)
    refuse_idle(("masked_lm", sources.masked_lm and distilling.augment != "masked-lm", "give `augment` masked-lm"))
    riding = next((name for name in ("peers", "self_distill") if getattr(distilling, name) is not None), None)
    if riding and (sources.companions or sources.general):
        raise InputError(f"{riding}: it is of one task, and of its own texts; leave out `with` and `general`")
    budget, given, reading, machinery = parts
    recipe = distilling.recipe(given_student=bool(sources.student))
    return run(model, out, recipe, budget, given, reading, machinery, sources)


def share(model: str | Path, out: str | Path, **options: Any) -> Report:
    """Let groups of layers share their weights; options: the fields of `Sharing` and `Retraining`, and those of `compress` but speed and size."""
    sharing, retraining, *parts = _parts(options, Sharing, Retraining, Budget, Given, Reading, Machinery)
    return run(model, out, retraining.after(sharing.step), *parts)


def factorise(model: str | Path, out: str | Path, **options: Any) -> Report:
    """Factorise the word embedding; options: the fields of `Factorising` and `Retraining`, and those of `compress` but speed and size."""
    factorising, retraining, *parts = _parts(options, Factorising, Retraining, Budget, Given, Reading, Machinery)
    return run(model, out, retraining.after(factorising.step), *parts)


def project(model: str | Path, out: str | Path, **options: Any) -> Report:
    """Project the word embedding at random; options: the fields of `Projecting` and `Retraining`, and those of `compress` but speed and size."""
    projecting, retraining, *parts = _parts(options, Projecting, Retraining, Budget, Given, Reading, Machinery)
    return run(model, out, retraining.after(projecting.step(parts[-1].seed)), *parts)


def replace(model: str | Path, out: str | Path, **options: Any) -> Report:
    """Train fewer layers in the place of the model's; options: the fields of `Replacing`, and those of `compress` but speed and size."""
    replacing, *parts = _parts(options, Replacing, Budget, Given, Reading, Machinery)
    return run(model, out, replacing.recipe(), *parts)


@dataclass(frozen=True)
class Cascading:
    """Options of `cascade`: both models, and what may be lost.

    first, second: folders that Penjing wrote; the first, as a static student, answers where it is sure.
    """

    first: Path = option(Path(), "The fast model's folder, as of a static student.", required=True)
    second: Path = option(Path(), "The better model's folder: it answers where the first is unsure.", required=True)
    max_drop: float = option(0.5, "Points against the second that may be lost on texts held out.", most=100, panel="budget")


def cascade(out: str | Path, **options: Any) -> Cascaded:
    """Join two results of one teacher: the first answers where it is sure, the second elsewhere; an engine folder that `load` opens.

    options: the fields of `Cascading`, `Given`, `Reading` and `Machinery`.
    """
    asked, given, reading, machinery = _parts(options, Cascading, Given, Reading, Machinery)
    parts = part_of(Path(asked.first), "first"), part_of(Path(asked.second), "second")
    data = load_data(Path(asked.second) / MODEL, given.task, given.train, given.eval, reading, machinery.tell)
    make(*parts, data, Path(out), asked.max_drop)
    return prove(*parts, data, Path(out), machinery.threads, machinery.wait, machinery.tell)


@dataclass(frozen=True)
class Trained:
    """A fine-tuned teacher: its metric, its quality on the evaluation data, and its history, chosen on so many texts `held_out`."""

    metric: str
    quality: float
    held_out: int
    history: History


NOT_OF_TRAINING = {"test", *(field.name for field in fields(Machinery))} - {"seed", "tell"}
"""What the fine-tuning of a teacher does not read."""


def train(
    model: str | Path,
    out: str | Path,
    *,
    epochs: int = 3,
    batch_size: int = 32,
    learning_rate: float = 5e-5,
    pickle: bool = False,
    progress: Progress = silent,
    **options: Any,
) -> Trained:
    """Fine-tune a teacher on labels, into the folder `out`; options: task, train, eval, the fields of `Reading`, seed and tell."""
    given, reading, machinery = _parts(options, Given, Reading, Machinery, unread=NOT_OF_TRAINING)
    import_named(given.task, reading.metric)
    with claimed(Path(out), TRAINING, machinery.tell):
        data = load_data(model, given.task, given.train, given.eval, reading, machinery.tell, new_labels=True)
        return _trained(
            model,
            Path(out),
            data,
            Schedule(epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, seed=machinery.seed),
            pickle,
            progress,
        )


def _trained(model: str | Path, out: Path, data: Data, schedule: Schedule, pickle: bool, progress: Progress) -> Trained:
    sides = data.sides
    rest = np.setdiff1d(np.union1d(sides.learned, sides.weights), sides.judging)  # with very few texts, the two held-out sides are the same
    dev = data.train.take(sides.judging)
    learned = data.train.take(rest)
    history, quality = finetune(model, data.task, Split(learned, dev, data.eval), out, schedule, pickle=pickle, progress=progress)
    return Trained(data.task.metric().name, quality, len(dev), history)


def run(
    model: str | Path,
    out: str | Path,
    recipe: Recipe,
    budget: Budget,
    given: Given,
    reading: Reading,
    machinery: Machinery,
    sources: Sources | None = None,
) -> Report:
    """Run a job: read the data and carry the recipe out, in a folder that no other run writes in."""
    out = Path(out)
    import_named(machinery.engine, given.task, reading.metric)
    _check_engine(machinery.engine, recipe)
    with claimed(out, ASKED, machinery.tell):
        checkpoint = open_checkpoint(model)
        data = load_data(checkpoint, given.task, given.train, given.eval, reading, machinery.tell)
        tests = [(_name(source, i), load_examples(data, source, machinery.tell)) for i, source in enumerate(given.test)]
        material, fingerprints = (sources or Sources()).read(data, machinery.seed, machinery.tell)
        asked = _asked(model, recipe, budget, given, machinery, data)
        asked |= {
            "material": fingerprints or None,
            "data": [examples.fingerprint() for examples in (data.train, data.eval, *(examples for _, examples in tests))],
        }
        job = Job(
            checkpoint, data, budget, recipe, out, machinery.threads or cores(), machinery.engine, machinery.seed, tests, asked,
            machinery.command, material, machinery.wait,
        )  # fmt: skip
        return compress_job(job, machinery.tell, machinery.progress)


def _asked(model: str | Path, recipe: Recipe, budget: Budget, given: Given, machinery: Machinery, data: Data) -> Json:
    """The request as JSON: a resumed run must have the same, and the report contains it."""
    vocabulary = recipe.get(VocabularySettings)
    distillation = recipe.distillation
    task = data.task
    return {
        "model": str(model), "task": task.name, "train": _name(given.train), "eval": _name(given.eval) or None,
        "test": [_name(source, i) for i, source in enumerate(given.test)], **asdict(budget),
        "minutes": distillation.schedule.minutes if distillation else None,
        "engine": None if machinery.engine is None else engine_name(machinery.engine), "threads": machinery.threads or cores(),
        "seed": machinery.seed, "max_length": data.max_length, "metric": task.metric().name, "positive": task.positive,
        "recipe": recipe.to_json(), "corpus": fingerprint(vocabulary.corpus) if vocabulary and vocabulary.corpus else None,
    }  # fmt: skip


def _name(source: Source, number: int = 0) -> str:
    """The name of data in a report."""
    return str(source) if isinstance(source, (str, Path)) else f"rows {number + 1}"


def _check_engine(engine: EngineKind | None, recipe: Recipe) -> None:
    if engine is None:
        return
    engine_class(engine)
    if engine == "numpy" and not recipe.get(StudentSettings):
        raise InputError("engine: numpy runs students of arrays alone; give onnxruntime, openvino or torch")
    if engine in ("exits", "cascade"):
        raise InputError(f"engine: {engine} is made of other engines' files, and no choice among them; give onnxruntime")
