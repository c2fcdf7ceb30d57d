"""The public functions: `compress`, the single steps by hand, and `train`.

The command line and the benchmarks call these and nothing beneath.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from penjing.engines.clock.machine import cores
from penjing.engines.opening import EngineKind, engine_class, engine_name
from penjing.errors import InputError
from penjing.files.options import option
from penjing.files.references import import_named
from penjing.files.run import ASKED, TRAINING, Tell, claimed, fingerprint
from penjing.files.whole import Json
from penjing.job.asked import Budget, Job
from penjing.job.by_hand import Distilling, Pruning, Quantizing
from penjing.job.material import Sources
from penjing.job.pipeline import compress as compress_job
from penjing.job.recipe import Item, Recipe, recipe_of
from penjing.job.reshaping import Factorising, Projecting, Retraining, Sharing
from penjing.job.starting import Progress
from penjing.model.checkpoint import open_checkpoint
from penjing.report.record import Report
from penjing.steps.cut.vocabulary import VocabularySettings
from penjing.students.stage import StudentSettings
from penjing.tasks.data import Data
from penjing.tasks.sources import TaskKind, load_data, load_examples
from penjing.text.data import Source
from penjing.text.reading import Reading
from penjing.training.finetune import Split, finetune
from penjing.training.loop import Progress as TrainingProgress
from penjing.training.loop import Schedule, silent
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
    progress: Progress | None = None


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


def distill(model: str | Path, out: str | Path, **options: Any) -> Report:
    """Distil a small student by hand; options: the fields of `Distilling` and of `Sources`, and those of `compress` but speed and size."""
    distilling, sources, *parts = _parts(options, Distilling, Sources, Budget, Given, Reading, Machinery)
    if sources.masked_lm and distilling.augment != "masked-lm":
        raise InputError("masked_lm: nothing asks for it; give `augment` masked-lm")
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


@dataclass(frozen=True)
class Trained:
    """A fine-tuned teacher: its metric, its quality on the evaluation data, and its history, chosen on so many texts `held_out`."""

    metric: str
    quality: float
    held_out: int
    history: History


def train(
    model: str | Path,
    out: str | Path,
    *,
    epochs: int = 3,
    batch_size: int = 32,
    learning_rate: float = 5e-5,
    pickle: bool = False,
    progress: TrainingProgress = silent,
    **options: Any,
) -> Trained:
    """Fine-tune a teacher on labels, into the folder `out`; options: the fields of `Given` and of `Reading`, seed and tell."""
    given, reading, machinery = _parts(options, Given, Reading, Machinery)
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


def _trained(model: str | Path, out: Path, data: Data, schedule: Schedule, pickle: bool, progress: TrainingProgress) -> Trained:
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


def _parts(options: Mapping[str, Any], *kinds: Any) -> list[Any]:
    """Instances of these dataclasses, made of the options that are their fields; `InputError` for an unknown option."""
    known = {field.name for kind in kinds for field in fields(kind)}
    unknown = [name for name in options if name not in known]
    if unknown:
        raise InputError(f"{unknown[0]}: there is no such option; allowed are {', '.join(sorted(known))}")
    parts = []
    for kind in kinds:
        names = [field.name for field in fields(kind) if field.name in options]
        parts.append(kind(**{name: options[name] for name in names}))
    return parts
