"""The methods of distillation beside the presets, on real data.

    python benchmarks/losses.py [trees] [seed-0] [seed-1] [seed-2] [again]

One slice of SST-2, one epoch, three seeds, dev and test; data and teacher are read in place from ../shared (or PENJING_SHARED).
Results go to .cache/bench/losses/, where a run that was stopped goes on; the table holds what is there. Nothing is chosen on dev or test.
By the steps alone, without the engines that `penjing distill` measures; seconds are the processor's.
"""

import hashlib
import json
import shutil
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from distillation import LAYERS, ROWS, SEEDS, about, answered, heading, material, row, started
from main_job import CACHE, SST2, run

from penjing.engines.clock.machine import cores
from penjing.files.whole import write_json
from penjing.job.by_hand import Distilling
from penjing.job.recipe import Recipe
from penjing.model.checkpoint import read
from penjing.model.writing import write
from penjing.steps.teach.distill import Distill, Place, Teachers
from penjing.steps.teach.mutual import Mutual, MutualSettings
from penjing.steps.teach.self_distill import SelfDistill, SelfDistillSettings
from penjing.students.fitting import Fitting
from penjing.students.names import STUDENTS
from penjing.students.student import MODEL
from penjing.tasks.judging import statistics_of
from penjing.training.texts import Texts

HERE = CACHE / "losses"
EPOCHS = 1
BERTS: dict[str, dict[str, Any]] = {
    "labels": {"losses": "hard=1"},
    "kl": {"losses": "kl=1"},
    "states, kl": {},
    "similarity, kl": {"losses": "kl=1,similarity=1"},
    "attention-transfer, kl": {"losses": "kl=1,attention-transfer=1"},
    "pkt, kl": {"losses": "kl=1,pkt=1"},
    "mutual, labels": {"losses": "hard=1", "peers": 1},
    "mutual, kl": {"losses": "kl=1", "peers": 1},
    "self-distill, labels": {"losses": "hard=1", "self_distill": "all"},
    "self-distill, kl": {"losses": "kl=1", "self_distill": "all"},
    "adversarial, kl": {"losses": "kl=1", "adversarial": 1.0},
    "noise, kl": {"losses": "kl=1", "noise": 0.3},
    "three noisy students as teachers, kl": {"losses": "kl=1"},
}
"""Options of `penjing distill --layers 3` by a label; where states are taught, they are in the first 0.6 of the steps."""
NOISY, AGAIN = "noise, kl", "three noisy students as teachers, kl"
TREES = ("logistic", "trees", "tree", "soft-tree")


def one(label: str, options: dict[str, Any], seed: int) -> dict[str, Any]:
    """One student, once; the noisy ones are kept, to teach."""
    recipe = Distilling(layers=LAYERS, epochs=EPOCHS, **options).recipe()
    others = [kept(each) for each in SEEDS] if label == AGAIN else []
    file = place(label, recipe, seed)
    if not file.is_file():
        torch.set_num_threads(cores())
        out = HERE / "partial" / file.stem
        model, found = taught(recipe, seed, out, others)
        if label == NOISY:
            write(model, kept(seed), tokenizer=SST2)
        write_json(file, found | {"stats": answered("sst2", model)} | about())
        shutil.rmtree(out, ignore_errors=True)
        print(file.stem, f"{found['seconds']['training']:.0f} s", flush=True)
    return dict(json.loads(file.read_text()))


def place(label: str, recipe: Recipe, seed: int) -> Path:
    """The file of a result."""
    key = hashlib.sha256(json.dumps(recipe.to_json(), sort_keys=True).encode()).hexdigest()[:6]
    return HERE / f"{label.replace(', ', '-').replace(' ', '-')}-{ROWS}-{seed}-{key}.json"


def kept(seed: int) -> Path:
    """The folder of a noisy student."""
    return HERE / f"noisy-{seed}"


def slice_of(seed: int) -> Texts:
    """The slice of the training texts, split by the seed."""
    known, teacher, _, _ = material("sst2")
    rows = np.sort(np.random.default_rng(0).permutation(len(known.train))[:ROWS])
    return Texts(replace(known, train=known.train.take(rows)), teacher, seed)


def taught(recipe: Recipe, seed: int, out: Path, others: list[Path]) -> tuple[Any, dict[str, Any]]:
    """The steps of one `penjing distill`: the student, and what it took."""
    known, teacher, _, _ = material("sst2")
    how = recipe.distillation
    assert how
    texts = slice_of(seed)
    student, selection = started("sst2", recipe, seed)
    how = replace(how, schedule=replace(how.schedule, seed=seed))
    teachers = Teachers(teacher, [read(path, head=known.task.head, labels=known.task.labels) for path in others])
    distill = Distill(known.task, teachers, how, texts.weights, Place(out, HERE / "cache"), selection)
    mutual, own = recipe.get(MutualSettings), recipe.get(SelfDistillSettings)
    step = Mutual(distill, mutual) if mutual else SelfDistill(distill, own) if own else distill
    evidence = step.observe(student, texts.learned)
    began = time.process_time()
    result = step.teach(student, evidence)
    seconds = {"training": time.process_time() - began}
    return result.model, {
        "seconds": seconds,
        "steps": result.history.steps,
        "best_step": result.history.best_step,
        "texts": len(texts.learned),
    }


def fitted(name: str, seed: int) -> dict[str, Any]:
    """One student of arrays, once, taught the teacher's probabilities."""
    known, teacher, sets, _ = material("sst2")
    recipe = Distilling(name, copies=0).recipe()
    file = place(name, recipe, seed)
    if not file.is_file():
        how = recipe.distillation
        assert how
        texts = slice_of(seed)
        how = replace(how, schedule=replace(how.schedule, seed=seed))
        distill = Distill(known.task, Teachers(teacher), how, texts.weights, Place(HERE / "partial", HERE / "cache"))
        fitting = Fitting(teacher, known.task, known.tokenizer, texts.learned, texts.weights, how, lambda progress: distill)
        fitting.targets()
        out = HERE / "partial" / file.stem
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        began = time.process_time()
        fit = STUDENTS[name].fit(fitting, out)
        seconds = {"training": time.process_time() - began}
        answer = STUDENTS[name].load(out / MODEL)
        stats = {split: np.asarray(statistics_of(known.task, each, answer(each.encoded))).tolist() for split, each in sets}
        size = sum(each.stat().st_size for each in (out / MODEL).iterdir())
        write_json(file, {"seconds": seconds, "parameters": fit.parameters, "bytes": size, "stats": stats} | about())
        shutil.rmtree(out, ignore_errors=True)
        print(file.stem, f"{seconds['training']:.0f} s, {size / 1e6:.3f} MB", flush=True)
    return dict(json.loads(file.read_text()))


def berts(seed: int) -> None:
    """Every method that teaches a BERT, with one seed."""
    for label, options in BERTS.items():
        if label != AGAIN:
            one(label, options, seed)


def again() -> None:
    """What the noisy students of all seeds teach together."""
    for seed in SEEDS:
        one(AGAIN, BERTS[AGAIN], seed)


def trees() -> None:
    """Trees, one tree, a soft tree, and the linear model beside them."""
    for seed in SEEDS:
        for name in TREES:
            fitted(name, seed)


def table() -> str:
    """What there is, as Markdown."""
    lines = [heading("sst2")]
    for label, options in BERTS.items():
        files = [place(label, Distilling(layers=LAYERS, epochs=EPOCHS, **options).recipe(), seed) for seed in SEEDS]
        lines += _row(label, files)
    for name in TREES:
        lines += _row(name, [place(name, Distilling(name, copies=0).recipe(), seed) for seed in SEEDS])
    return "\n".join(lines)


def _row(label: str, files: list[Path]) -> list[str]:
    there = [json.loads(file.read_text()) for file in files if file.is_file()]
    return [row("sst2", f"{label} ({len(there)})" if len(there) < len(SEEDS) else label, there)] if there else []


if __name__ == "__main__":
    run({"trees": trees} | {f"seed-{seed}": partial(berts, seed) for seed in SEEDS} | {"again": again}, table)
