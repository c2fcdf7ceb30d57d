"""Distillation on real data: the figures of docs/distillation.md.

    python benchmarks/distillation.py [presets] [whole] [peer] [students] [tasks] [texts] [engine]

Data and the SST-2 teacher are read in place from ../shared (or PENJING_SHARED), the other teachers are those of main_job.py; results
go to .cache/bench/distillation/, where a run that was stopped goes on. About an hour in all; `peer` and `students` time things, so leave
the machine alone meanwhile. Presets are compared by their steps alone, without the engines that `penjing distill` measures.
"""

import hashlib
import json
import shutil
import time
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from main_job import CACHE, SST2, data, penjing, run
from peers import textbrewer_distil
from pruning import model_of
from quantization import loaded

from penjing.atomic import write_json
from penjing.checkpoint import blueprint_of, read, write
from penjing.cli.options import cores
from penjing.engines.machine import commit, machine, versions
from penjing.maths.statistics import bootstrap
from penjing.presets import PRESETS, distilling
from penjing.recipe import Recipe
from penjing.search.plan import describe, kept_layers
from penjing.sources import load_examples
from penjing.steps.distill import Distill
from penjing.steps.importance import magnitude_l2
from penjing.steps.prune import Prune
from penjing.tasks.judge import statistics_of
from penjing.tasks.task import Examples
from penjing.texts import Texts, TextSettings
from penjing.training.predict import logits_of
from penjing.training.teacher import teacher_outputs

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


def distilled(name: str, recipe: Recipe, rows: int | None, seed: int, out: Path) -> dict[str, Any]:
    """The steps of one `penjing distill`: what is right on each example, and the seconds that each part took."""
    known, teacher, sets, kept = material(name)
    assert recipe.prune and recipe.distill
    every = np.random.default_rng(0).permutation(len(known.train))[: rows or len(known.train)]
    train = known.train.take(np.sort(every))
    texts = Texts(replace(known, train=train), teacher, seed)
    dev, learned = (train.take(np.sort(rows)) for rows in texts.held_out())
    began = time.monotonic()
    calibration = learned.take(np.sort(np.random.default_rng(seed).permutation(len(learned))[:1000]))
    removed = len(teacher.config.layers) - LAYERS if recipe.prune.keep == "measured" else 0
    pruner = Prune(known.task, magnitude_l2, calibration.encoded, recipe.prune.repair, removed, seed)
    importance = pruner.observe(teacher, calibration)
    selection = kept_layers(recipe.prune, blueprint_of(teacher), importance)
    student = pruner.apply(teacher, selection, importance)
    started = time.monotonic()
    if recipe.texts:
        learned = texts.learned(learned, recipe.texts, lambda examples: teacher_outputs(teacher, examples.encoded, (), kept).logits)
    settings = replace(recipe.distill, schedule=replace(recipe.distill.schedule, seed=seed))
    step = Distill(known.task, teacher, [layer.layer for layer in selection.layers], settings, dev, out, cache=kept)
    torch.manual_seed(seed)
    evidence = step.observe(student, learned)
    told = time.monotonic()
    result = step.apply(student, blueprint_of(student), evidence)
    assert step.history
    seconds = {"start": started - began, "teacher": told - started, "training": time.monotonic() - told}
    shutil.rmtree(out, ignore_errors=True)
    stats = {split: statistics_of(known.task, examples, logits_of(result, examples.encoded)) for split, examples in sets}
    return {
        "student": describe(selection, blueprint_of(teacher)), "seconds": seconds, "steps": step.history.steps, "best_step": step.history.best_step, "texts": len(learned),
        "stats": {split: np.asarray(values).tolist() for split, values in stats.items()},
    }  # fmt: skip


def recipe_of(preset: str, epochs: int, texts: TextSettings | None = None) -> Recipe:
    """What `penjing distill --preset P --layers 3` does."""
    return distilling(preset, epochs, None, None, {}, {"layers": LAYERS}, None, texts or TextSettings(), given_student=False)


def trial(name: str, preset: str, rows: int | None, epochs: int, seed: int, texts: TextSettings | None = None) -> dict[str, Any]:
    """One student, once."""
    recipe = recipe_of(preset, epochs, texts)
    key = hashlib.sha256(json.dumps(recipe.to_dict(), sort_keys=True).encode()).hexdigest()[:6]
    file = HERE / f"{name}-{preset}-{rows or 'all'}-{epochs}-{seed}-{key}.json"
    if not file.is_file():
        torch.set_num_threads(cores())
        found = distilled(name, recipe, rows, seed, HERE / "partial" / file.stem)
        write_json(file, found | {"machine": machine(), "versions": versions(), "commit": commit()})
        print(file.stem, {key: round(value, 1) for key, value in found["seconds"].items()}, flush=True)
    return dict(json.loads(file.read_text()))


def teacher_stats(name: str) -> dict[str, Any]:
    """What the teacher gets right."""
    known, teacher, sets, _ = material(name)
    return {split: statistics_of(known.task, examples, logits_of(teacher, examples.encoded)) for split, examples in sets}


def row(name: str, label: str, trials: list[dict[str, Any]]) -> str:
    """Quality over the seeds, and the loss against the teacher on all that is reported on, with the interval over the examples."""
    known, _, sets, _ = material(name)
    value, theirs = known.task.metric().value, teacher_stats(name)
    both = [np.concatenate([np.array(t["stats"][split]) for split, _ in sets]) for t in trials]
    teacher = np.concatenate([theirs[split] for split, _ in sets])
    qualities = [float(value(stats.sum(0))) for stats in both]
    paired = np.hstack([teacher, np.mean(both, axis=0)])
    width = teacher.shape[1]
    low, high = bootstrap(paired, lambda sums: value(sums[..., :width]) - value(sums[..., width:]))
    lost = float(value(teacher.sum(0))) - float(value(np.mean(both, axis=0).sum(0)))
    seconds = np.median([t["seconds"]["training"] for t in trials])
    split = " | ".join(f"{np.mean([float(value(np.array(t['stats'][s]).sum(0))) for t in trials]):.2f}" for s, _ in sets)
    spread = f" ± {np.std(qualities, ddof=1):.2f}" if len(qualities) > 1 else ""
    return f"| {label} | {split} | {np.mean(qualities):.2f}{spread} | {lost:.2f} ({low:.2f} … {high:.2f}) | {seconds:.0f} |"


def heading(name: str) -> str:
    """The first two lines of such a table."""
    splits = [split for split, _ in material(name)[2]]
    joined = " + ".join(splits)
    return f"| {name} | {' | '.join(splits)} | {joined} ± over seeds | lost (95 %) | s of training |\n" + "| --- " * (4 + len(splits)) + "|"


def presets() -> None:
    """Every preset on one slice, the same epochs, several seeds."""
    for seed in SEEDS:
        for preset in BERTS:
            trial("sst2", preset, ROWS, EPOCHS, seed)
    found = {p: [trial("sst2", p, ROWS, EPOCHS, seed) for seed in SEEDS] for p in BERTS}
    print("\n".join([heading("sst2"), *(row("sst2", preset, trials) for preset, trials in found.items())]))


def whole() -> None:
    """The default preset, and labels alone, on all training rows."""
    print(heading("sst2"))
    for preset in ("states", "tinybert", "labels"):
        print(row("sst2", preset, [trial("sst2", preset, None, WHOLE_EPOCHS, 0)]))


def tasks() -> None:
    """Pairs and tagging."""
    for name in ("mrpc", "conll2000"):
        rows, epochs = (None, 6) if name == "mrpc" else (ROWS, EPOCHS)
        found = {preset: [trial(name, preset, rows, epochs, seed) for seed in FEWER] for preset in OTHER_TASKS}
        print("\n".join([heading(name), *(row(name, preset, trials) for preset, trials in found.items())]))


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


def peer() -> None:
    """TextBrewer and ours: the same student, losses, texts and epochs; quality, and texts a second with the teacher's cost counted in.

    TextBrewer's cross-entropy is without T², hence our weight; it computes in float32, which is all that it does on a CPU.
    """
    known, teacher, sets, _ = material("sst2")
    if not (HERE / "peer.json").is_file():
        torch.set_num_threads(cores())
        train = known.train.take(np.sort(np.random.default_rng(0).permutation(len(known.train))[:PEER_ROWS]))
        labels = np.array([known.task.labels.index(gold) for gold in train.gold])
        selection = kept_layers(recipe_of("tinybert", 1).prune, blueprint_of(teacher), magnitude_l2(teacher, known.task, train, 0))
        student = Prune(known.task, magnitude_l2, train.encoded, "none", 0).apply(teacher, selection, None)  # type: ignore[arg-type]
        student.config.hidden_dropout_prob = student.config.attention_probs_dropout_prob = 0.0
        write(student, HERE / "peer-start", tokenizer=SST2)
        figures = {}
        matches = [(2 * layer, layer) for layer in range(LAYERS + 1)]
        theirs = textbrewer_distil(
            SST2, HERE / "peer-start", train.encoded, labels, matches, HERE / "peer-textbrewer", temperature=2.0, epochs=PEER_EPOCHS,
            learning_rate=1e-4, threads=cores(),
        )  # fmt: skip
        figures["textbrewer"] = {"texts_per_s": theirs["texts_per_s"], "model": HERE / "peer-textbrewer"}
        recipe = distilling(
            "tinybert", PEER_EPOCHS, None, f"cross-entropy=0.25,tokens={len(matches)}",
            {"temperature": 2.0, "states_first": 0.0, "layer_map": ",".join(f"{b}:{a}" for a, b in matches)}, {"layers": LAYERS}, None,
            TextSettings(), given_student=False,
        )  # fmt: skip
        assert recipe.distill
        shutil.rmtree(HERE / "peer-cache", ignore_errors=True)
        began = time.monotonic()
        step = Distill(
            known.task, teacher, None, recipe.distill, train.take(np.arange(64)), HERE / "partial" / "peer", cache=HERE / "peer-cache"
        )
        evidence = step.observe(student, train)
        ours = step.apply(student, blueprint_of(student), evidence)
        seconds = time.monotonic() - began
        write(ours, HERE / "peer-ours", tokenizer=SST2)
        figures["penjing"] = {"texts_per_s": PEER_EPOCHS * len(train) / seconds, "model": HERE / "peer-ours"}
        for name, figure in figures.items():
            model = read(figure.pop("model"), head="sequence", labels=known.task.labels)
            for split, examples in sets:
                stats = statistics_of(known.task, examples, logits_of(model, examples.encoded))
                figure[split] = [float(known.task.metric().value(stats.sum(0))), *bootstrap(stats, known.task.metric().value)]
            print(name, figure, flush=True)
        write_json(HERE / "peer.json", {"figures": figures, "machine": machine(), "versions": versions(), "commit": commit()})
    print((HERE / "peer.json").read_text())


WAYS = {
    "the teacher": [],
    "the teacher, no copies": ["--copies", 0],
    "labels": ["--losses", "hard=1"],
}
"""How a student that is no BERT is taught; copies of texts, which nobody has labelled, are those of the presets that make them."""


def ways(preset: str) -> dict[str, Path]:
    """Where the results of a preset are, by how it is taught."""
    return {how: HERE / f"{preset}-{i}" for i, how in enumerate(WAYS) if PRESETS[preset].copies or "copies" not in how}


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
    lines = ["| student | learned from | dev (95 %) | test | MB | ms | texts/s | × eager |", "| --- " * 8 + "|"]
    for preset in OTHERS:
        for how, out in ways(preset).items():
            report = json.loads((out / "report.json").read_text())
            result, (test,) = report["result"], report["tests"]
            low, high = result["quality_ci95"]
            lines.append(
                f"| {preset} | {how} | {result['quality']:.2f} ({low:.2f} … {high:.2f}) | {test['quality']:.2f} | {result['bytes'] / 1e6:.2f} |"
                f" {result['latency_ms']:.3f} | {result['throughput_per_s']:.0f} |"
                f" {result['throughput_per_s'] / report['teacher']['throughput_per_s']:.0f} |"
            )
    return "\n".join(lines)


def engine() -> None:
    """How fast the teacher's answers are computed: PyTorch in mixed precision, as the cache is made, beside the exported forms."""
    from penjing.engines.engine import open_engine
    from penjing.engines.export import FLOAT_FORMS, export

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
    "engine": engine,
}

if __name__ == "__main__":
    run(JOBS)
