"""Module replacing (BERT-of-Theseus) on real data, against plain fine-tuning and distillation.

    python benchmarks/replacing.py [--sets sst2,mrpc,conll2000,chnsenticorp] [--methods …] [--seeds 0,1,2] [--rows N] [--minutes M]

Every method trains the same layers of the same teacher for the same processor time. What a step of each takes is measured first, in a
training of its own that goes through the whole schedule, and so many steps are taken as fit into the processor's minutes, less what
the teacher's outputs take; evaluations are not counted. One thread, whose processor time other work on the machine changes least. Data and the SST-2 teacher are read in place from ../shared (or PENJING_SHARED), the
other teachers are made once. Each result is a line of .cache/bench/replacing/results.jsonl, so that a run that was stopped goes on;
`--methods ""` prints the tables alone. Sets may run beside one another, each in a process of its own. Two and a half hours of one processor in
all, and an hour for the teachers; the Chinese one is of a slice, and of texts up to 64 tokens.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from main_job import CACHE, SHARED, SST2, data, teacher

import penjing
from penjing.engines.clock.machine import commit
from penjing.job.by_hand import Distilling, Replacing
from penjing.job.recipe import Recipe
from penjing.maths.resampling import paired_interval
from penjing.model.building import blueprint_of
from penjing.model.checkpoint import read
from penjing.model.surgery import cut
from penjing.search.budget import kept_layers
from penjing.steps.cut.importance import magnitude_l2
from penjing.steps.cut.prune import PruneSettings
from penjing.steps.teach.distill import Distill, Place, Teachers
from penjing.steps.teach.replace import Replace, ReplaceSettings
from penjing.tasks.judging import statistics_of
from penjing.tasks.sources import load_data, load_examples
from penjing.tasks.task import Examples
from penjing.text.data import read_rows
from penjing.text.reading import Reading
from penjing.training.loop import Progress, silent
from penjing.training.predict import logits_of
from penjing.training.taught import Taught
from penjing.training.texts import Texts

HERE = CACHE / "replacing"
RESULTS = HERE / "results.jsonl"
PILOT_STEPS, WARM_STEPS = 60, 5
"""Steps of the training that a step's time is measured on, and how many of the first are not counted."""


@dataclass(frozen=True)
class Set:
    """A data set: its task, the layers that are left, the tokens of a text and the training rows at most, and the processor's minutes."""

    task: str
    layers: int = 3
    tokens: int = 128
    rows: int = 10_000
    minutes: float = 4


SETS = {
    "sst2": Set("classification", minutes=2),
    "mrpc": Set("pair"),
    "conll2000": Set("tagging"),
    "chnsenticorp": Set("classification", layers=4, tokens=64, rows=4000),
}


def recipes(layers: int) -> dict[str, Recipe]:
    """What is compared: each row of the table as `penjing replace` or `penjing distill` makes it."""
    return {
        "replace, linear": Replacing(layers).recipe(),
        "replace, constant": Replacing(layers, schedule="constant").recipe(),
        "replace, and kl": Replacing(layers, losses="hard=1,kl=1").recipe(),
        "replace, and states": Replacing(layers, losses="hard=1,states=1").recipe(),
        "labels": Distilling("labels", layers).recipe(),
        "states": Distilling("states", layers).recipe(),
        "tinybert": Distilling("tinybert", layers).recipe(),
    }


METHODS = ("labels", "replace, linear", "states", "tinybert")
"""The rows of the table by default."""


# -- models and data -------------------------------------------------------------------------------------------------


def chinese_base() -> Path:
    """multilingual-e5-small, made once by ../shared/bases/make_base.py."""
    folder = CACHE / "e5-small"
    if not (folder / "config.json").is_file():
        subprocess.run([sys.executable, SHARED / "bases" / "make_base.py", "e5-small", folder], check=True)
    return folder


def rows_of(name: str, count: int, seed: int = 0) -> Sequence[Any]:
    """So many training rows, drawn at random; 0: all of them."""
    every = read_rows(str(data(name, "train")))
    return every if not 0 < count < len(every) else [every[i] for i in np.sort(np.random.default_rng(seed).permutation(len(every))[:count])]


def model_of(name: str) -> Path:
    """The teacher of a data set, trained once."""
    known = SETS[name]
    if name == "sst2":
        return SST2
    if name != "chnsenticorp":
        options = {"mrpc": ["--epochs", 5], "conll2000": ["--epochs", 4, "--learning-rate", "1e-4"]}[name]
        return teacher(name, known.task, *options, "--max-length", known.tokens)
    out = CACHE / f"{name}-teacher"
    if not (out / "config.json").is_file():
        rows = rows_of(name, known.rows)
        found = penjing.train(
            chinese_base(), out, task=known.task, train=rows, eval=data(name, "dev"), max_length=known.tokens, epochs=2, tell=print
        )
        print(f"{name}: the teacher's {found.metric} {found.quality:.2f}", flush=True)
    return out


@cache
def material(name: str, rows: int) -> tuple[Any, Any, Examples]:
    """The data of a set with so many training rows, its teacher, and all that is reported on."""
    known = SETS[name]
    model = model_of(name)
    splits = [data(name, split) for split in ("dev", "test") if data(name, split).is_file()]
    train = [dict(row) for row in rows_of(name, rows)]
    loaded = load_data(model, known.task, train, splits[0], Reading(max_length=known.tokens), print)
    rest = [load_examples(loaded, split, print) for split in splits[1:]]
    return loaded, read(model, head=loaded.task.head, labels=loaded.task.labels), joined([loaded.eval, *rest])


def joined(parts: Sequence[Examples]) -> Examples:
    """Several splits as one."""
    first = parts[0]
    for more in parts[1:]:
        unlabelled = first.with_texts(more.encoded)
        first = replace(unlabelled, gold=[*first.gold, *more.gold], first_tokens=[*first.first_tokens, *more.first_tokens])
    return first


# -- one training ----------------------------------------------------------------------------------------------------


def trained(
    name: str, recipe: Recipe, rows: int, seed: int, steps: int, folder: Path, part: int = 0, progress: Progress = silent
) -> tuple[Taught, float, int]:
    """The training of a recipe in so many steps, on the first `part` of the texts (0: all), the seconds of the teacher's outputs, and the texts."""
    loaded, whole, _ = material(name, rows)
    texts = Texts(loaded, whole, seed)
    dev, learned = texts.weights, texts.learned
    learned = learned.take(np.arange(part or len(learned)))
    prune, replacing, how = recipe.get(PruneSettings), recipe.get(ReplaceSettings), recipe.distillation
    assert prune and how
    selection = kept_layers(prune, blueprint_of(whole), magnitude_l2(whole, loaded.task, loaded.eval, seed))
    schedule = replace(how.schedule, epochs=1, least_steps=steps, seed=seed)
    distill = Distill(
        loaded.task,
        Teachers(whole),
        replace(how, schedule=schedule),
        dev,
        Place(folder, None if part else HERE / "cache"),
        selection,
        progress=progress,
    )
    step = Replace(distill, replacing) if replacing else distill
    student = cut(whole, selection)
    began = time.process_time()
    evidence = step.observe(student, learned)
    seconds = time.process_time() - began
    try:
        return step.teach(student, evidence), seconds, len(learned)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def pace(name: str, method: str, rows: int) -> dict[str, float]:
    """Processor seconds of a step, and of the teacher's outputs on a text: measured once."""
    for line in lines():
        if line["kind"] == "pace" and (line["set"], line["method"], line["rows"]) == (name, method, rows):
            return dict(line)
    times: list[float] = []

    def progress(done: int, total: int, **figures: float) -> None:
        times.append(time.process_time())

    recipe = recipes(SETS[name].layers)[method]
    assert recipe.distillation
    part = PILOT_STEPS * recipe.distillation.schedule.batch_size
    part = min(part, len(material(name, rows)[0].sides.learned))
    _, teacher_seconds, texts = trained(name, recipe, rows, 0, PILOT_STEPS, HERE / f"pilot-{name}-{os.getpid()}", part, progress)
    inner = np.diff(times)[WARM_STEPS:]
    step = float(np.sort(inner)[: max(1, int(0.97 * len(inner)))].mean())  # the slowest hold an evaluation
    return keep({"kind": "pace", "set": name, "method": method, "rows": rows, "step": step, "text": teacher_seconds / texts})


def trial(name: str, method: str, rows: int, seed: int, minutes: float) -> dict[str, Any]:
    """One training of a method, once: the statistics of each example, and how many steps it had."""
    key = {"kind": "trial", "set": name, "method": method, "rows": rows, "seed": seed, "minutes": minutes}
    for line in lines():
        if all(line.get(field) == value for field, value in key.items()):
            return line
    found = pace(name, method, rows)
    loaded, _, reported = material(name, rows)
    left = 60 * minutes - found["text"] * len(loaded.sides.learned)
    steps = int(left / found["step"])
    if steps * 32 < len(loaded.sides.learned):
        sys.exit(f"{name}, {method}: {minutes:g} minutes are {steps} steps, less than an epoch; give more minutes, or fewer rows")
    began = time.process_time()
    taught, _, texts = trained(name, recipes(SETS[name].layers)[method], rows, seed, steps, HERE / f"partial-{name}-{os.getpid()}")
    seconds = time.process_time() - began
    stats = np.asarray(statistics_of(loaded.task, reported, logits_of(taught.model, reported.encoded))).tolist()
    quality = loaded.task.metric().points(np.array(stats))
    print(f"{name}, {method}, seed {seed}: {quality:.2f} after {taught.history.steps} steps, {seconds:.0f} processor s", flush=True)
    history = taught.history
    return keep(
        key
        | {"steps": history.steps, "best_step": history.best_step, "texts": texts, "seconds": seconds, "commit": commit(), "stats": stats}
    )


def lines() -> list[dict[str, Any]]:
    """All results so far."""
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.is_file() else []


def keep(line: dict[str, Any]) -> dict[str, Any]:
    """Append a result."""
    HERE.mkdir(parents=True, exist_ok=True)
    with RESULTS.open("ab", buffering=0) as file:  # one write, so that lines of two processes do not mix
        file.write(json.dumps(line).encode() + b"\n")
    return line


# -- the table -------------------------------------------------------------------------------------------------------


def table(name: str, rows: int, minutes: float, seeds: Sequence[int]) -> str:
    """Quality over the seeds, points lost against the teacher and gained over `labels`, both with intervals over the examples."""
    loaded, whole, reported = material(name, rows)
    value = loaded.task.metric().value
    theirs = np.asarray(statistics_of(loaded.task, reported, logits_of(whole, reported.encoded)))
    found: dict[str, list[dict[str, Any]]] = {}
    for line in lines():
        if line["kind"] == "trial" and (line["set"], line["rows"], line["minutes"]) == (name, rows, minutes) and line["seed"] in seeds:
            found.setdefault(line["method"], []).append(line)
    if not found:
        return ""
    mean = {method: np.mean([line["stats"] for line in trials], axis=0) for method, trials in found.items()}
    out = [
        f"| {name}, teacher {loaded.task.metric().points(theirs):.2f} | {loaded.task.metric().name} ± over seeds | lost (95 %) |"
        " over `labels` (95 %) | steps | seeds |",
        "| --- " * 6 + "|",
    ]
    for method in (method for method in recipes(SETS[name].layers) if method in found):
        trials = found[method]
        qualities = [float(value(np.array(line["stats"]).sum(0))) for line in trials]
        spread = f" ± {np.std(qualities, ddof=1):.2f}" if len(qualities) > 1 else ""
        over = "" if method == "labels" or "labels" not in mean else difference(mean[method], mean["labels"], value)
        steps = "–".join(str(f(line["steps"] for line in trials)) for f in (min, max))
        lost = difference(theirs, mean[method], value)
        out.append(f"| {method} | {np.mean(qualities):.2f}{spread} | {lost} | {over} | {steps} | {len(trials)} |")
    return "\n".join(out)


def difference(one: Any, other: Any, value: Any) -> str:
    """Points by which one is better than the other, with a paired percentile interval."""
    low, high = paired_interval(np.asarray(one), np.asarray(other), lambda rows: value(rows.sum(-2)))
    return f"{float(value(one.sum(0))) - float(value(other.sum(0))):.2f} ({low:.2f} … {high:.2f})"


def main() -> None:
    """Run what is asked and not there yet, seed after seed, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--methods", default=";".join(METHODS), help=f"with ; between them: {'; '.join(recipes(3))}")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--rows", type=int, help="training rows at most; 0: all")
    parser.add_argument("--minutes", type=float, help="of the processor, a training")
    asked = parser.parse_args()
    sets, seeds = asked.sets.split(","), [int(seed) for seed in asked.seeds.split(",")]
    methods = [method.strip() for method in asked.methods.split(";") if method.strip()]
    if unknown := [*(set(sets) - set(SETS)), *(set(methods) - set(recipes(3)))]:
        sys.exit(f"{unknown[0]!r} is none; sets are {', '.join(SETS)}, methods {'; '.join(recipes(3))}")
    torch.set_num_threads(1)
    known = {name: (SETS[name].rows if asked.rows is None else asked.rows, asked.minutes or SETS[name].minutes) for name in sets}
    for seed in seeds:
        for name, (rows, minutes) in known.items():
            for method in methods:
                trial(name, method, rows, seed, minutes)
    for name, (rows, minutes) in known.items():
        print(table(name, rows, minutes, seeds), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
