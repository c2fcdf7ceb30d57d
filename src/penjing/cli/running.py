"""Running a recipe: what compress and the one-step commands share."""

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from penjing.cli.options import console, cores, tell
from penjing.errors import BudgetError, InputError


def trained(steps: Any, epochs: int | None, minutes: float | None, no_training: bool) -> Any:
    """The recipe with its distillation as the options say."""
    if no_training or not steps.distill:
        return replace(steps, distill=None)
    schedule = steps.distill.schedule
    if epochs:
        schedule = replace(schedule, epochs=epochs, least_steps=0)
    return replace(steps, distill=replace(steps.distill, schedule=replace(schedule, minutes=minutes or schedule.minutes)))


def run(
    model: str, task: str, train: str, eval: str, test: list[str] | None, how: tuple[str, str, str, int], budget: Any, steps: Any,
    out: Path, threads: int, engine: str | None, seed: int, corpus: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Read the data and run the steps of a recipe."""
    from penjing.checkpoint import locate
    from penjing.engines.engine import ENGINES
    from penjing.job import Job
    from penjing.pipeline import compress
    from penjing.progress import training_bar
    from penjing.run import fingerprint
    from penjing.sources import Reading, load_data, load_examples

    if engine is not None and engine not in ENGINES:
        raise InputError(f"--engine: {engine!r} is none; allowed are {', '.join(ENGINES)}")
    if corpus is not None and not corpus.is_file():
        raise InputError(f"--corpus: {corpus} is no file; give a text file, a text per line")
    data = load_data(model, task, train, eval, Reading(*how), tell)
    tests = [(name, load_examples(data, name, tell)) for name in test or []]
    asked = {
        "model": model, "task": data.task.name, "train": train, "eval": eval or None, "test": test or [], "speedup": budget.speedup,
        "latency_ms": budget.latency_ms, "size_mb": budget.size_mb, "max_drop": budget.max_drop, "engine": engine,
        "threads": threads or cores(), "seed": seed, "max_length": data.max_length, "metric": how[2], "recipe": steps.to_dict(),
        "corpus": fingerprint(corpus) if corpus else None,
        "data": [examples.fingerprint() for examples in (data.train, data.eval, *(examples for _, examples in tests))],
    }  # fmt: skip
    job = Job(
        locate(model), data, budget, steps, out, threads or cores(), cast(Any, engine), seed, tests, asked,
        shlex.join(["penjing", *sys.argv[1:]]), corpus,
    )  # fmt: skip
    return compress(job, tell, lambda title: training_bar(console, title))


def met(report: dict[str, Any], out: Path) -> None:
    """A budget that was not met is an error of its own; what was found is there."""
    if not report["met"]:
        failed = ", ".join(
            f"{g['name']} {g['value']:.2f} (asked {g['limit']:g})" for g in report["gates"] if g["asked"] and not g["passed"]
        )
        raise BudgetError(f"the budget was not met: {failed}; the best that was found is in {out}, so ask for less or allow more")
