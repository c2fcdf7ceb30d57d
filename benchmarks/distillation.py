"""Distillation on real data: the figures of docs/distillation.md.

    python benchmarks/distillation.py [presets] [whole] [peer] [students] [tasks] [texts] [again] [default] [engine]

Data and the SST-2 teacher are read in place from ../shared (or PENJING_SHARED), the other teachers are those of main_job.py; results
go to .cache/bench/distillation/, where a run that was stopped goes on. About three hours in all, each job by itself; `peer` and
`students` time things, so leave the machine alone meanwhile. Presets are compared by their steps alone, without the engines that
`penjing distill` measures; their seconds are the processor's.
"""

import hashlib
import json
import shutil
import tempfile
import time
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from accelerate.state import AcceleratorState
from main_job import CACHE, SST2, base_model, data, penjing, run
from peers import textbrewer_distil
from pruning import model_of
from quantization import loaded

from penjing.engines.clock.machine import commit, cores, machine, versions
from penjing.files.whole import write_json
from penjing.job.by_hand import Distilling
from penjing.job.presets import PRESETS
from penjing.job.recipe import Recipe
from penjing.maths.resampling import bootstrap_interval
from penjing.model.building import blueprint_of
from penjing.model.checkpoint import read
from penjing.model.surgery import cut
from penjing.model.writing import write
from penjing.search.budget import kept_layers
from penjing.selection import Selection
from penjing.steps.cut.importance import magnitude_l2
from penjing.steps.cut.prune import PruneSettings
from penjing.steps.teach.distill import Distill, DistillSettings, Place, Teachers
from penjing.steps.teach.distillation import Distillation
from penjing.tasks.judging import statistics_of
from penjing.tasks.sources import load_examples
from penjing.tasks.task import Examples
from penjing.training import loop
from penjing.training import teacher as teacher_cache
from penjing.training.loop import Schedule
from penjing.training.predict import logits_of
from penjing.training.teacher import teacher_outputs
from penjing.training.texts import Texts, TextSettings

HERE = CACHE / "distillation"
LAYERS, ROWS, EPOCHS, SEEDS = 3, 10_000, 3, (0, 1, 2)
FEWER = SEEDS[:2]
"""The seeds of `tasks` and `texts`."""
BERTS = [name for name, preset in PRESETS.items() if not preset.student]
OTHERS = [name for name, preset in PRESETS.items() if preset.student]
OTHER_TASKS = ("labels", "hinton", "tinybert", "states")
PEER_ROWS, PEER_EPOCHS = 3_000, 1
WHOLE_EPOCHS = 4


@cache
def material(name: str) -> tuple[Any, Any, list[tuple[str, Examples]], Path]:
    """A task's data, its teacher, what is reported on, and where the teacher's outputs are kept."""
    known = loaded(name)
    teacher = read(model_of(name), head=known.task.head, labels=known.task.labels)
    splits = [("dev", known.eval)] if data(name, "dev").is_file() else []
    return known, teacher, [*splits, ("test", load_examples(known, str(data(name, "test")), print))], HERE / "cache"


def started(name: str, recipe: Recipe, seed: int) -> tuple[Any, Selection | None]:
    """What is taught: some of the teacher's layers, and which; or the pretrained base that the teacher came from."""
    known, teacher, _, _ = material(name)
    prune = recipe.get(PruneSettings)
    if prune is None:
        torch.manual_seed(seed)
        return read(base_model(), head=known.task.head, labels=known.task.labels), None
    assert prune.keep != "measured" and prune.repair == "none"
    selection = kept_layers(prune, blueprint_of(teacher), magnitude_l2(teacher, known.task, known.eval, seed))
    return cut(teacher, selection), selection


def distilled(name: str, recipe: Recipe, rows: int | None, seed: int, out: Path) -> dict[str, Any]:
    """The steps of one `penjing distill`: what is right on each example, and the processor's seconds that each part took."""
    known, teacher, _, kept = material(name)
    distillation = recipe.get(Distillation)
    assert distillation
    every = np.random.default_rng(0).permutation(len(known.train))[: rows or len(known.train)]
    train = known.train.take(np.sort(every))
    texts = Texts(replace(known, train=train), teacher, seed)
    dev, learned = texts.weights, texts.learned
    student, selection = started(name, recipe, seed)
    began = time.process_time()
    if distillation.texts != TextSettings():
        learned = texts.drawn(learned, distillation.texts, lambda examples: teacher_outputs(teacher, examples.encoded, (), kept).logits)
    settings = replace(distillation.how, schedule=replace(distillation.how.schedule, seed=seed))
    step = Distill(known.task, Teachers(teacher), settings, dev, Place(out, kept), selection)
    torch.manual_seed(seed)
    evidence = step.observe(student, learned)
    told = time.process_time()
    taught = step.teach(student, evidence)
    seconds = {"teacher": told - began, "training": time.process_time() - told}
    shutil.rmtree(out, ignore_errors=True)
    return {
        "layers": None if selection is None else [layer.layer for layer in selection.layers], "seconds": seconds, "steps": taught.history.steps, "best_step": taught.history.best_step, "texts": len(learned),
        "stats": answered(name, taught.model),
    }  # fmt: skip


def answered(name: str, model: Any) -> dict[str, Any]:
    """What a model gets right on each example of each split."""
    known, _, sets, _ = material(name)
    return {split: np.asarray(statistics_of(known.task, each, logits_of(model, each.encoded))).tolist() for split, each in sets}


def about() -> dict[str, Any]:
    """Where, with what, and by which code a figure was made."""
    return {"machine": asdict(machine()), "versions": versions(), "commit": commit()}


def recipe_of(preset: str, epochs: int, texts: TextSettings | None = None, layers: int | None = LAYERS) -> Recipe:
    """What `penjing distill --preset P --layers 3` does; without layers `--student BASE`."""
    texts = texts or TextSettings()
    asked = Distilling(
        preset,
        layers,
        epochs=epochs,
        part=texts.part,
        sample=texts.by if texts.part < 1 else None,
        copies=texts.copies or None,
        augment=texts.how if texts.copies else None,
    )
    return asked.recipe(given_student=not layers)


def trial(
    name: str, preset: str, rows: int | None, epochs: int, seed: int, texts: TextSettings | None = None, layers: int | None = LAYERS
) -> dict[str, Any]:
    """One student of a preset, once."""
    return once(name, preset, recipe_of(preset, epochs, texts, layers), rows, epochs, seed)


def once(name: str, label: str, recipe: Recipe, rows: int | None, epochs: int, seed: int) -> dict[str, Any]:
    """One student, once."""
    key = hashlib.sha256(json.dumps(recipe.to_json(), sort_keys=True).encode()).hexdigest()[:6]
    file = HERE / f"{name}-{label}-{rows or 'all'}-{epochs}-{seed}-{key}.json"
    if not file.is_file():
        torch.set_num_threads(cores())
        found = distilled(name, recipe, rows, seed, HERE / "partial" / file.stem)
        write_json(file, found | about())
        print(file.stem, {key: round(value, 1) for key, value in found["seconds"].items()}, flush=True)
    return dict(json.loads(file.read_text()))


@cache
def teacher_stats(name: str) -> dict[str, Any]:
    """What the teacher gets right."""
    return answered(name, material(name)[1])


def row(name: str, label: str, trials: list[dict[str, Any]]) -> str:
    """Quality over the seeds, and the loss against the teacher on all that is reported on, with the interval over the examples."""
    known, _, sets, _ = material(name)
    value, theirs = known.task.metric().value, teacher_stats(name)
    both = [np.concatenate([np.array(t["stats"][split]) for split, _ in sets]) for t in trials]
    teacher = np.concatenate([theirs[split] for split, _ in sets])
    qualities = [float(value(stats.sum(0))) for stats in both]
    paired = np.hstack([teacher, np.mean(both, axis=0)])
    width = teacher.shape[1]
    low, high = bootstrap_interval(paired, lambda rows: value(rows[..., :width].sum(-2)) - value(rows[..., width:].sum(-2)), draws=2000)
    lost = float(value(teacher.sum(0))) - float(value(np.mean(both, axis=0).sum(0)))
    seconds = np.median([t["seconds"]["training"] for t in trials])
    split = " | ".join(f"{np.mean([float(value(np.array(t['stats'][s]).sum(0))) for t in trials]):.2f}" for s, _ in sets)
    spread = f" ± {np.std(qualities, ddof=1):.2f}" if len(qualities) > 1 else ""
    return f"| {label} | {split} | {np.mean(qualities):.2f}{spread} | {lost:.2f} ({low:.2f} … {high:.2f}) | {seconds:.0f} |"


def heading(name: str) -> str:
    """The first two lines of such a table."""
    splits = [split for split, _ in material(name)[2]]
    joined = " + ".join(splits)
    return f"| {name} | {' | '.join(splits)} | {joined} ± over seeds | lost (95 %) | s |\n" + "| --- " * (4 + len(splits)) + "|"


def presets() -> None:
    """Every preset on one slice, the same epochs, several seeds."""
    for seed in SEEDS:
        for preset in BERTS:
            trial("sst2", preset, ROWS, EPOCHS, seed)
    found = {p: [trial("sst2", p, ROWS, EPOCHS, seed) for seed in SEEDS] for p in BERTS}
    print("\n".join([heading("sst2"), *(row("sst2", preset, trials) for preset, trials in found.items())]))


def whole() -> None:
    """The two best presets of the slice, and labels alone, on all training rows."""
    print(heading("sst2"))
    for preset in ("states", "tinybert", "labels"):
        print(row("sst2", preset, [trial("sst2", preset, None, WHOLE_EPOCHS, 0)]))


def tasks() -> None:
    """Pairs and tagging."""
    for name in ("mrpc", "conll2000"):
        rows, epochs = (None, 6) if name == "mrpc" else (ROWS, EPOCHS)
        found = {preset: [trial(name, preset, rows, epochs, seed) for seed in FEWER] for preset in OTHER_TASKS}
        print("\n".join([heading(name), *(row(name, preset, trials) for preset, trials in found.items())]))


BEFORE = {"temperature": 2.0, "layer_map": "descent", "states_first": 0.0}
"""What the default once was: states and answers at once, at T = 2."""
DEFAULT_LAYERS, DEFAULT_ROWS = 4, 4_000


def default() -> None:
    """The default of distillation against what it once was, on three tasks: four of six layers, evenly spread."""
    for name in ("sst2", "mrpc", "conll2000"):
        now = recipe_of("states", EPOCHS, layers=DEFAULT_LAYERS)
        assert now.distillation
        before = now.with_(replace(now.distillation, **BEFORE))
        print(heading(name))
        for label, recipe in (("default", now), ("before", before)):
            print(row(name, label, [once(name, f"default-{label}", recipe, DEFAULT_ROWS, EPOCHS, seed) for seed in FEWER]), flush=True)


def again() -> None:
    """Born again (Furlanello et al. 2018): a student as large as its teacher, from the base that the teacher came from."""
    print(heading("mrpc"))
    for preset in ("hinton", "labels"):
        print(row("mrpc", f"{preset}, six layers", [trial("mrpc", preset, None, 6, seed, layers=None) for seed in FEWER]))


THIRD = 0.33
TEXTS = {
    "all": (TextSettings(), EPOCHS),
    "all, a third of the epochs": (TextSettings(), EPOCHS // 3),
    "a third, random": (TextSettings(THIRD), EPOCHS),
    "a third, uncertain": (TextSettings(THIRD, "uncertain"), EPOCHS),
    "a third, mixed": (TextSettings(THIRD, "mixed"), EPOCHS),
    "a third, short": (TextSettings(THIRD, "short"), EPOCHS),
    "and 2 copies, neighbours, as many steps": (TextSettings(copies=2), EPOCHS // 3),
    "and 2 copies, rules, as many steps": (TextSettings(copies=2, how="rules"), EPOCHS // 3),
}
"""Texts, and epochs over them."""


def texts() -> None:
    """Which texts the default preset learns from."""
    found = {label: [trial("sst2", "states", ROWS, epochs, seed, each) for seed in FEWER] for label, (each, epochs) in TEXTS.items()}
    print("\n".join([heading("sst2"), *(row("sst2", label, trials) for label, trials in found.items())]))


MATCHES = [(2 * layer, layer) for layer in range(LAYERS + 1)]
"""States that `peer` compares: the teacher's, the student's."""


def peer() -> None:
    """TextBrewer and ours in turn: the same student, losses, texts, epochs and threads; the teacher's cost is counted in.

    TextBrewer's cross-entropy is without T², hence our weight. It computes in float32, which is all that it does on a CPU; ours is timed
    in mixed precision, as it comes, and in float32.
    """
    known = material("sst2")[0]
    train = known.train.take(np.sort(np.random.default_rng(0).permutation(len(known.train))[:PEER_ROWS]))
    student, _ = started("sst2", recipe_of("tinybert", PEER_EPOCHS), 0)
    student.config.hidden_dropout_prob = student.config.attention_probs_dropout_prob = 0.0
    write(student, HERE / "peer-start", tokenizer=SST2)
    torch.set_num_threads(cores())
    teach = {"TextBrewer": peer_theirs, "Penjing": peer_ours, "Penjing in float32": peer_in_float32}
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in teach}
    for seed in SEEDS:
        for name, by in teach.items():
            file = HERE / f"peer-{name.lower().replace(' ', '-')}-{seed}.json"
            if not file.is_file():
                model, seconds = by(student, train, seed)
                write_json(file, {"stats": answered("sst2", model), "seconds": {"training": seconds}, **about()})
                print(f"{name}, {PEER_EPOCHS * len(train) / seconds:.0f} texts/s", flush=True)
            found[name].append(json.loads(file.read_text()))
    print("\n".join([heading("sst2"), *(row("sst2", name, trials) for name, trials in found.items())]))
    for name, trials in found.items():
        speeds = sorted(PEER_EPOCHS * len(train) / each["seconds"]["training"] for each in trials)
        print(f"{name}: {speeds[len(speeds) // 2]:.0f} texts/s ({speeds[0]:.0f} … {speeds[-1]:.0f})")


def peer_theirs(student: Any, train: Examples, seed: int) -> tuple[Any, float]:
    """What TextBrewer makes of the student in peer-start/, and its seconds."""
    known, out = material("sst2")[0], HERE / "peer-textbrewer"
    labels = np.array([known.task.labels.index(gold) for gold in train.gold])
    found = textbrewer_distil(
        SST2, HERE / "peer-start", train.encoded, labels, MATCHES, out, temperature=2.0, epochs=PEER_EPOCHS, learning_rate=1e-4,
        threads=cores(), seed=seed,
    )  # fmt: skip
    return read(out, head="sequence", labels=known.task.labels), found["seconds"]


def peer_ours(student: Any, train: Examples, seed: int) -> tuple[Any, float]:
    """The same by our own step; the weights are the last ones, as TextBrewer's are."""
    known, teacher, _, _ = material("sst2")
    schedule = Schedule(epochs=PEER_EPOCHS, learning_rate=1e-4, evaluations=1, seed=seed)
    settings = DistillSettings(
        schedule,
        {"cross-entropy": 0.25, "tokens": len(MATCHES)},
        temperature=2.0,
        states_first=0.0,
        layer_map=",".join(f"{b}:{a}" for a, b in MATCHES),
    )
    with tempfile.TemporaryDirectory(dir=HERE) as folder:
        began = time.monotonic()
        step = Distill(known.task, Teachers(teacher), settings, train.take(np.arange(8)), Place(Path(folder)))
        result = step.apply(student, blueprint_of(student), step.observe(student, train))
        return result, time.monotonic() - began


def peer_in_float32(student: Any, train: Examples, seed: int) -> tuple[Any, float]:
    """The same without mixed precision."""
    AcceleratorState._reset_state(True)  # accelerate keeps the precision that it was first asked for
    with patch.object(loop, "mixed_precision", lambda: "no"), patch.object(teacher_cache, "mixed_precision", lambda: "no"):
        result = peer_ours(student, train, seed)
    AcceleratorState._reset_state(True)
    return result


WAYS = {
    "the teacher": [],
    "the teacher, no copies": ["--copies", 0],
    "labels": ["--losses", "hard=1"],
}
"""How a student that is no BERT is taught; copies of texts, which nobody has labelled, are those of the presets that make them."""


def ways(preset: str) -> dict[str, Path]:
    """Where the results of a preset are, by how it is taught."""
    return {how: HERE / f"{preset}-{i}" for i, how in enumerate(WAYS) if PRESETS[preset].copies or "--copies" not in WAYS[how]}


def students() -> None:
    """Students that are no BERT, on all training rows: taught by the teacher, and by the labels alone; one thread."""
    for preset in OTHERS:
        for how, out in ways(preset).items():
            penjing(
                "distill", "--model", SST2, "--task", "classification", "--train", data("sst2", "train"), "--eval", data("sst2", "dev"), "--test",
                data("sst2", "test"), "--max-length", 128, "--preset", preset, "--cache", HERE / "cache", "--out", out, "--threads", 1, *WAYS[how],
            )  # fmt: skip
    print(students_table())


def students_table() -> str:
    """What `students` found, as Markdown."""
    lines = [
        "| student | learned from | dev (95 %) | test | MB | ms, engine alone | texts/s, engine alone | ms, end to end | × eager, end to end |",
        "| --- " * 9 + "|",
    ]
    for preset in OTHERS:
        for how, out in ways(preset).items():
            report = json.loads((out / "report.json").read_text())
            result, (test,) = report["result"], report["tests"]
            low, high = result["quality_ci95"]
            lines.append(
                f"| {preset} | {how} | {result['quality']:.2f} ({low:.2f} … {high:.2f}) | {test['quality']:.2f} | {result['bytes'] / 1e6:.2f} |"
                f" {result['latency_ms']:.3f} | {result['throughput_per_s']:.0f} | {result['end_to_end_ms']:.3f} |"
                f" {report['teacher']['end_to_end_ms'] / result['end_to_end_ms']:.1f} |"
            )
    return "\n".join(lines)


def engine() -> None:
    """How fast the teacher's answers are computed: PyTorch in mixed precision, as the cache is made, beside the exported forms."""
    from penjing.engines.form import FLOAT_FORMS
    from penjing.engines.onnx.export import export
    from penjing.engines.opening import open_engine

    known, teacher, _, _ = material("sst2")
    texts = known.train.take(np.sort(np.random.default_rng(0).permutation(len(known.train))[:2000]))
    torch.set_num_threads(cores())
    shutil.rmtree(HERE / "engine-cache", ignore_errors=True)
    export(teacher, HERE / "engine", [form.file for form in FLOAT_FORMS], segments=False)
    began = time.monotonic()
    teacher_outputs(teacher, texts.encoded, (), HERE / "engine-cache")
    print(f"PyTorch, {len(texts) / (time.monotonic() - began):.0f} texts/s")
    for form in FLOAT_FORMS:
        runner = open_engine(form, HERE / "engine", cores())
        runner.batch = 64
        runner.logits(texts.encoded.take(np.arange(64)))
        began = time.monotonic()
        runner.logits(texts.encoded)
        print(f"{form.name}, {len(texts) / (time.monotonic() - began):.0f} texts/s")


JOBS = {
    "presets": presets,
    "whole": whole,
    "peer": peer,
    "students": students,
    "tasks": tasks,
    "texts": texts,
    "again": again,
    "default": default,
    "engine": engine,
}

if __name__ == "__main__":
    run(JOBS)
