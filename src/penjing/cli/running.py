"""Running a recipe: what compress and the one-step commands share."""

import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import Any, cast

from penjing.cli.options import console, cores, tell
from penjing.errors import BudgetError, InputError
from penjing.files.run import claimed, writable
from penjing.text.reading import Reading


def claims(own: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorates a command that writes a folder: it holds its `out` from its first moment to its last; `own` as in `claimed`."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def holding(**options: Any) -> None:
            with claimed(options["out"], own, tell):
                command(**options)

        return holding

    return decorate


def trained(steps: Any, epochs: int | None, minutes: float | None, no_training: bool) -> Any:
    """The recipe with its distillation as the options say."""
    if no_training or not steps.distill:
        return replace(steps, distill=None)
    schedule = steps.distill.schedule
    if epochs:
        schedule = replace(schedule, epochs=epochs, least_steps=0)
    return replace(steps, distill=replace(steps.distill, schedule=replace(schedule, minutes=minutes or schedule.minutes)))


@dataclass(frozen=True)
class More:
    """What `distill` is given beside the training data, as the options say it."""

    student: str = ""
    teachers: Sequence[str] = ()
    general: Path | None = None
    general_texts: int = 0
    unlabelled: str = ""
    masked_lm: str = ""
    companions: Sequence[str] = ()
    cache: Path | None = None

    def read(self, data: Any, seed: int, tell: Callable[[str], None]) -> tuple[Any, dict[str, Any]]:
        """The material, and what is asked of it, by content."""
        from penjing.files.run import fingerprint
        from penjing.model.checkpoint import locate
        from penjing.steps.teach.teaching import Material
        from penjing.tasks.sources import load_data, load_plain, load_unlabelled

        if self.cache is not None:
            writable(self.cache, "--cache")
        student, masked = (locate(model) if model else None for model in (self.student, self.masked_lm))
        teachers = [locate(model) for model in self.teachers]
        general = load_plain(data, self.general, self.general_texts, seed) if self.general else None
        unlabelled = load_unlabelled(data, self.unlabelled, tell) if self.unlabelled else None
        reading = Reading(max_length=data.max_length, encoding=data.reading.encoding, delimiter=data.reading.delimiter)
        companions = []
        for text in self.companions:
            parts = text.split(",")
            if len(parts) != 4:
                raise InputError(f"--with: {text!r} is none; give TASK,MODEL,TRAIN,EVAL, as pair,my-matcher,pairs.jsonl,pairs-dev.jsonl")
            task, model, train, dev = parts
            companions.append((locate(model), load_data(model, task, train, dev, reading, tell)))
        models: dict[str, list[Path | None]] = {
            "student": [student],
            "masked_lm": [masked],
            "teachers": [*teachers],
            "companions": [path for path, _ in companions],
        }
        said = {name: [fingerprint(path) for path in paths if path] for name, paths in models.items() if any(paths)}
        marks: dict[str, Any] = {name: texts.fingerprint() for name, texts in (("general", general), ("unlabelled", unlabelled)) if texts}
        marks |= {
            f"companion {i}": [each.task.name, each.train.fingerprint(), each.eval.fingerprint()] for i, (_, each) in enumerate(companions)
        }
        return Material(student, teachers, general, unlabelled, masked, companions, self.cache), said | marks


def run(
    model: str, task: str, train: str, eval: str, test: list[str] | None, reading: Reading, budget: Any, steps: Any,
    out: Path, threads: int, engine: str | None, seed: int, corpus: Path | None = None, more: More | None = None,
    wait: float = 0.0,
) -> dict[str, Any]:  # fmt: skip
    """Read the data and run the steps of a recipe."""
    from penjing.cli.progress import training_bar
    from penjing.engines.engine import ENGINES
    from penjing.files.run import fingerprint
    from penjing.job.asked import Job
    from penjing.job.pipeline import compress
    from penjing.job.pipeline_students import distil_student
    from penjing.model.checkpoint import locate
    from penjing.tasks.sources import load_data, load_examples

    if engine is not None and engine not in ENGINES:
        raise InputError(f"--engine: {engine!r} is none; allowed are {', '.join(ENGINES)}")
    if engine == "numpy" and not steps.student:
        raise InputError("--engine: numpy runs students of arrays alone; give onnxruntime, openvino or torch")
    if corpus is not None and not corpus.is_file():
        raise InputError(f"--corpus: {corpus} is no file; give a text file, a text per line")
    data = load_data(model, task, train, eval, reading, tell)
    tests = [(name, load_examples(data, name, tell)) for name in test or []]
    material, said = (more or More()).read(data, seed, tell)
    asked = {
        "model": model, "task": data.task.name, "train": train, "eval": eval or None, "test": test or [], "speedup": budget.speedup,
        "latency_ms": budget.latency_ms, "size_mb": budget.size_mb, "max_drop": budget.max_drop, "confidence": budget.confidence,
        "minutes": steps.distill.schedule.minutes if steps.distill else None, "engine": engine,
        "threads": threads or cores(), "seed": seed, "max_length": data.max_length, "metric": data.task.metric().name,
        "positive": data.task.positive, "recipe": steps.to_dict(),
        "corpus": fingerprint(corpus) if corpus else None, "material": said or None,
        "data": [examples.fingerprint() for examples in (data.train, data.eval, *(examples for _, examples in tests))],
    }  # fmt: skip
    job = Job(
        locate(model), data, budget, steps, out, threads or cores(), cast(Any, engine), seed, tests, asked,
        shlex.join(["penjing", *sys.argv[1:]]), corpus, material, wait,
    )  # fmt: skip
    work = distil_student if steps.student else compress
    return work(job, tell, lambda title: training_bar(console, title))


def met(report: dict[str, Any], out: Path) -> None:
    """A budget that was not met is an error of its own; what was found is there."""
    if report["met"] is False:
        missed = [gate for gate in report["gates"] if gate["decides"] and not gate["passed"]]
        failed = ", ".join(
            f"{g['name']} {'unknown' if g['value'] is None else format(g['value'], '.2f')} (limit {g['limit']:g})" for g in missed
        )
        busy = any(gate["value"] is None for gate in missed)
        fix = "ask again on a quiet machine, with another --out" if busy else "ask for less or allow more"
        raise BudgetError(f"the budget was not met: {failed}; the best that was found is in {out}, so {fix}")
