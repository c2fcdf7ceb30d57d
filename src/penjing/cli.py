"""The command line: thin; names resolve here and nowhere else."""

import errno
import json
import os
import shlex
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NoReturn, cast

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import typer
from rich.console import Console

from penjing.errors import BudgetError, InputError, PenjingError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
console = Console(stderr=True)


def tell(text: str) -> None:
    """A line for the person who waits."""
    console.print(text, soft_wrap=True, highlight=False, markup=False)


Model = Annotated[str, typer.Option("--model", help="Folder or hub id of the model.")]
TaskName = Annotated[str, typer.Option("--task", help="classification, pair or tagging.")]
TrainFile = Annotated[str, typer.Option("--train", help="Training data: JSON Lines, CSV, TSV, Parquet (also .gz), or a hub name.")]
EvalFile = Annotated[str, typer.Option("--eval", help="Evaluation data, likewise; without it a tenth of the training data is held out.")]
Out = Annotated[Path, typer.Option("--out", help="Folder to write.")]
Seed = Annotated[int, typer.Option("--seed")]
MaxLength = Annotated[int, typer.Option("--max-length", help="Tokens of a text at most; longer ones are cut. 0: the model's positions.")]
TextColumns = Annotated[str, typer.Option("--text-columns", help="Column, or two with a comma between, that hold the text.")]
LabelColumn = Annotated[str, typer.Option("--label-column", help="Column that holds the label.")]
Metric = Annotated[str, typer.Option("--metric", help="For pairs: accuracy or f1.")]
Pickle = Annotated[bool, typer.Option("--pickle", help="Read pytorch_model.bin where there are no safetensors.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
Threads = Annotated[int, typer.Option("--threads", min=0, help="Threads of every engine; 0: all cores.")]
Epochs = Annotated[int, typer.Option("--epochs", min=1)]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1)]
Rate = Annotated[float, typer.Option("--learning-rate", min=0)]


def say(result: dict[str, Any], as_json: bool, text: str) -> None:
    """The result for a machine, or for a person."""
    print(json.dumps(result, ensure_ascii=False) if as_json else text)


def cores() -> int:
    """Processors that this process may use: its affinity, and a container's quota."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(count, int(quota) // int(period)))
    except (OSError, ValueError):
        return count


def summary(report: dict[str, Any], out: Path) -> str:
    """A compression in three lines."""
    result, teacher = report["result"], report["teacher"]
    low, high = result["drop_ci95"]
    ratio = teacher["bytes"] / result["bytes"]
    return (
        f"{result['form']}: {result['speedup_vs_eager']:.1f}x faster than eager PyTorch"
        f" ({teacher['latency_ms']:.2f} -> {result['latency_ms']:.2f} ms),"
        f" {ratio if ratio >= 1 else 1 / ratio:.1f}x {'smaller' if ratio >= 1 else 'larger'}"
        f" ({teacher['bytes'] / 1e6:.1f} -> {result['bytes'] / 1e6:.1f} MB)\n"
        f"{report['metric']} {teacher['quality']:.2f} -> {result['quality']:.2f}: {result['drop']:.2f} points lost"
        f" (95 %: {low:.2f} ... {high:.2f})\n"
        f"model: {out / 'model'}   engine: {out / 'engine'}   report: {out / 'report.html'}"
    )


@app.callback()
def root() -> None:
    """Penjing (盆景): makes a fine-tuned BERT small and fast on the machine where it will run, with the proof."""


@app.command()
def train(
    model: Model, task: TaskName, train: TrainFile, out: Out, eval: EvalFile = "", epochs: Epochs = 3,
    batch_size: BatchSize = 32, learning_rate: Rate = 5e-5, seed: Seed = 0, max_length: MaxLength = 0,
    text_columns: TextColumns = "", label_column: LabelColumn = "", metric: Metric = "accuracy",
    pickle: Pickle = False, as_json: Json = False,
) -> None:  # fmt: skip
    """Fine-tune a teacher: best weights kept, early stopping, and a killed run goes on where it stopped."""
    from penjing.progress import training_bar
    from penjing.sources import Reading, load_data
    from penjing.training.finetune import finetune
    from penjing.training.loop import Schedule

    data = load_data(model, task, train, eval, Reading(text_columns, label_column, metric, max_length), tell, new_labels=True)
    schedule = Schedule(epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, seed=seed)
    with training_bar(console, "train") as progress:
        history = finetune(model, data.task, data.train, data.eval, out, schedule, pickle=pickle, progress=progress)
    result = {
        "out": str(out),
        "metric": data.task.metric().name,
        "quality": history.best,
        "steps": history.steps,
        "seconds": history.seconds,
    }
    say(result, as_json, f"{out}: {result['metric']} {history.best:.2f} after {history.steps} steps, {history.seconds:.0f} s")


@app.command()
def compress(
    model: Model, task: TaskName, train: TrainFile, out: Out, eval: EvalFile = "",
    speedup: Annotated[float | None, typer.Option("--speedup", help="Times faster than eager PyTorch, at least.")] = None,
    latency_ms: Annotated[float | None, typer.Option("--latency-ms", help="Milliseconds of a text, at most.")] = None,
    size_mb: Annotated[float | None, typer.Option("--size-mb", help="Megabytes of the deployment, at most.")] = None,
    max_drop: Annotated[float | None, typer.Option("--max-drop", help="Points of the metric that may be lost.")] = None,
    minutes: Annotated[float | None, typer.Option("--minutes", help="Minutes of training, at most.")] = None,
    engine: Annotated[str | None, typer.Option("--engine", help="openvino, onnxruntime or torch; without it, the fastest.")] = None,
    threads: Threads = 0, test: Annotated[list[str] | None, typer.Option("--test", help="Further data to report on.")] = None,
    recipe: Annotated[Path | None, typer.Option("--recipe", help="YAML with the settings of the steps.")] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="Epochs of distillation.")] = None,
    no_training: Annotated[bool, typer.Option("--no-training", help="Leave distillation out.")] = False,
    seed: Seed = 0, max_length: MaxLength = 0, text_columns: TextColumns = "", label_column: LabelColumn = "",
    metric: Metric = "accuracy", as_json: Json = False,
) -> None:  # fmt: skip
    """The main job: cut, distil, quantize, export and prove a smaller, faster model. A killed run goes on."""
    from penjing.proof import Budget
    from penjing.recipe import Recipe, read_recipe

    for name, value in (("--speedup", speedup), ("--latency-ms", latency_ms), ("--size-mb", size_mb), ("--minutes", minutes)):
        if value is not None and value <= 0:
            raise InputError(f"{name}: {value} is not allowed; give a number above 0")
    steps = _trained(read_recipe(recipe) if recipe else Recipe(), epochs, minutes, no_training)
    budget = Budget(speedup, latency_ms, size_mb, max_drop)
    reading = (text_columns, label_column, metric, max_length)
    report = _run(model, task, train, eval, test, reading, budget, steps, out, threads, engine, seed)
    say(report, as_json, summary(report, out))
    _met(report, out)


def _trained(steps: Any, epochs: int | None, minutes: float | None, no_training: bool) -> Any:
    """The recipe with its distillation as the options say."""
    if no_training or not steps.distill:
        return replace(steps, distill=None)
    schedule = steps.distill.schedule
    if epochs:
        schedule = replace(schedule, epochs=epochs, least_steps=0)
    return replace(steps, distill=replace(steps.distill, schedule=replace(schedule, minutes=minutes or schedule.minutes)))


def _run(
    model: str, task: str, train: str, eval: str, test: list[str] | None, how: tuple[str, str, str, int], budget: Any, steps: Any,
    out: Path, threads: int, engine: str | None, seed: int, corpus: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Read the data and run the steps of a recipe."""
    from penjing.checkpoint import locate
    from penjing.engines.engine import ENGINES
    from penjing.pipeline import Job, compress
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


def _met(report: dict[str, Any], out: Path) -> None:
    """A budget that was not met is an error of its own; what was found is there."""
    if not report["met"]:
        failed = ", ".join(
            f"{g['name']} {g['value']:.2f} (asked {g['limit']:g})" for g in report["gates"] if g["asked"] and not g["passed"]
        )
        raise BudgetError(f"the budget was not met: {failed}; the best that was found is in {out}, so ask for less or allow more")


@app.command()
def prune(
    model: Model, task: TaskName, train: TrainFile, out: Out, eval: EvalFile = "",
    macs: Annotated[float | None, typer.Option("--macs", help="Part of the encoder's multiply-accumulates that is kept.")] = None,
    latency: Annotated[float | None, typer.Option("--latency", help="Part of the latency, measured here block by block, that is kept.")] = None,
    heads: Annotated[float | None, typer.Option("--heads", help="Part of the attention heads that is kept.")] = None,
    neurons: Annotated[float | None, typer.Option("--neurons", help="Part of the feed-forward neurons that is kept.")] = None,
    blocks: Annotated[float | None, typer.Option("--blocks", help="Part of the attention and feed-forward blocks that is kept, whole.")] = None,
    layers: Annotated[int | None, typer.Option("--layers", help="How many layers are kept.")] = None,
    hidden: Annotated[float | None, typer.Option("--hidden", help="Part of the hidden units (the residual width) that is kept.")] = None,
    vocab: Annotated[float | None, typer.Option("--vocab", help="Part of the tokens that is kept; 0: all that the training texts produce.")] = None,
    corpus: Annotated[Path | None, typer.Option("--corpus", help="With --vocab: further texts, a line each, whose tokens count.")] = None,
    sparsity: Annotated[float | None, typer.Option("--sparsity", help="Part of the single weights that becomes zero.")] = None,
    stored_mb: Annotated[float | None, typer.Option("--stored-mb", min=0, help="In place of --sparsity: megabytes of the stored weights.")] = None,
    embeddings: Annotated[bool, typer.Option("--embeddings", help="With --sparsity: the word embedding's weights too.")] = False,
    importance: Annotated[str | None, typer.Option("--importance", help="fisher, block-fisher, obs, gates, gradient, taylor, lrp, activation,"
        " magnitude, magnitude-l1, random; with --sparsity: magnitude, random, movement, regrow.")] = None,
    schedule: Annotated[str | None, typer.Option("--schedule", help="one-shot, gradual, or iterative (with --sparsity);"
        " gradual with --macs learns gates while it distils.")] = None,
    scope: Annotated[str, typer.Option("--scope", help="What is ranked together: global, layer, or row (with --sparsity).")] = "global",
    repair: Annotated[str, typer.Option("--repair", help="Before any training: weights (least squares), scales, none.")] = "weights",
    head_weights: Annotated[bool, typer.Option("--head-weights", help="Learn a weight per head afterwards, and fold it in.")] = False,
    texts: Annotated[int, typer.Option("--texts", min=1, help="Training texts that importance and repair look at.")] = 1000,
    max_drop: Annotated[float | None, typer.Option("--max-drop", help="Points of the metric that may be lost.")] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="Epochs of distillation.")] = None,
    no_training: Annotated[bool, typer.Option("--no-training", help="Leave distillation out.")] = False,
    engine: Annotated[str | None, typer.Option("--engine", help="openvino, onnxruntime or torch; without it, the fastest.")] = None,
    threads: Threads = 0, test: Annotated[list[str] | None, typer.Option("--test", help="Further data to report on.")] = None,
    seed: Seed = 0, max_length: MaxLength = 0, text_columns: TextColumns = "", label_column: LabelColumn = "",
    metric: Metric = "accuracy", as_json: Json = False,
) -> None:  # fmt: skip
    """Cut one thing by hand: heads, neurons, layers, hidden units, tokens or single weights. In float32; the same report."""
    from penjing.checkpoint import blueprint_at, locate
    from penjing.proof import Budget
    from penjing.recipe import Recipe, pruning
    from penjing.steps.sparsify import sparsity_for

    kept: dict[str, Any] = {
        "macs": macs, "latency": latency, "heads": heads, "neurons": neurons, "blocks": blocks, "layers": layers, "hidden": hidden,
        "vocabulary": vocab,
    }  # fmt: skip
    kept = {name: value for name, value in kept.items() if value is not None}
    if stored_mb is not None:
        if sparsity is not None or kept:
            raise InputError("--stored-mb: it says how many single weights go, and nothing else; leave out the other cuts")
        sparsity = sparsity_for(blueprint_at(locate(model)), 1e6 * stored_mb, embeddings)
    if corpus and vocab is None:
        raise InputError("--corpus: it says which tokens --vocab keeps; give --vocab too")
    distill = _trained(Recipe(), epochs, None, no_training).distill
    steps = pruning(
        kept, sparsity, importance, schedule, scope, distill, repair=repair, texts=texts, head_weights=head_weights, embeddings=embeddings
    )  # fmt: skip
    reading = (text_columns, label_column, metric, max_length)
    report = _run(model, task, train, eval, test, reading, Budget(max_drop=max_drop), steps, out, threads, engine, seed, corpus)
    say(report, as_json, _pruned_text(report, out))
    _met(report, out)


def _pruned_text(report: dict[str, Any], out: Path) -> str:
    """What was cut and lost, and what it brings: the clock against the uncut model in the same form, then against eager PyTorch."""
    result, before = report["result"], report["teacher"]
    low, high = result["drop_ci95"]
    lines = [
        f"{report['metric']} {before['quality']:.2f} -> {result['quality']:.2f}: {result['drop']:.2f} points lost (95 %: {low:.2f} ... {high:.2f})",
        f"{result['macs']:.2f} of the multiply-accumulates and {result['parameters'] / before['parameters']:.2f} of the parameters are left",
    ]
    for row in report["shapes"]:
        own = ", the data's own lengths" if row["own"] else ""
        said = f"{1 / row['macs']:.2f}x" if row["macs"] else "no end"
        lines.append(
            f"{row['form']}, {row['tokens']} tokens{own}: {row['teacher_ms']:.2f} -> {row['latency_ms']:.2f} ms, {row['speedup']:.2f}x faster"
            f" than uncut where the multiply-accumulates say {said}"
        )
    lines.append(f"against eager PyTorch: {before['latency_ms']:.2f} -> {result['latency_ms']:.2f} ms, {result['speedup_vs_eager']:.1f}x")
    if stored := report["stored"]:
        lines.append(
            f"{100 * stored['sparsity']:.1f} % of the pruned matrices and {100 * stored['zeros']:.1f} % of all weights are zero:"
            f" {stored['dense_bytes'] / 1e6:.1f} -> {stored['packed_bytes'] / 1e6:.1f} MB stored,"
            f" loads in {stored['dense_load_s']:.2f} -> {stored['packed_load_s']:.2f} s; the engines' speed stays as it is"
        )
    lines.append(f"model: {out / 'model'}   engine: {out / 'engine'}   report: {out / 'report.html'}")
    return "\n".join(lines)


Folder = Annotated[str, typer.Argument(help="What compress wrote, or a model folder.")]
DataFile = Annotated[str, typer.Option("--data", help="Data: JSON Lines, CSV, TSV, Parquet (also .gz), or a hub name.")]
Engine = Annotated[str | None, typer.Option("--engine", help="openvino, onnxruntime or torch; without it, the one that was fastest.")]
AnyTask = Annotated[str, typer.Option("--task", help="classification, pair or tagging; where the folder does not say.")]


@app.command()
def eval(
    folder: Folder, data: DataFile, engine: Engine = None, task: AnyTask = "",
    teacher: Annotated[str, typer.Option("--teacher", help="Compare with this model: drop, p, and what flipped.")] = "",
    threads: Threads = 0, max_length: MaxLength = 0, text_columns: TextColumns = "", label_column: LabelColumn = "",
    metric: Metric = "accuracy", as_json: Json = False,
) -> None:  # fmt: skip
    """Quality with a 95 % interval and, against a teacher, a paired test and the examples that flipped."""
    from penjing.engines.engine import open_engine
    from penjing.sources import Reading, tell_truncated
    from penjing.subjects import open_model
    from penjing.tasks.data import read_rows
    from penjing.tasks.judge import flips, judge, judge_pair

    reading = Reading(text_columns, label_column, metric, max_length)
    model = open_model(folder, engine, task, reading)
    rows = read_rows(data)
    examples = model.task.examples(rows, model.tokenizer, model.max_length, data)
    tell_truncated(examples, data, model.max_length, tell)
    count = threads or cores()
    logits = open_engine(model.forms[0], model.folder, count).logits(examples.encoded)
    result = {"folder": folder, "data": data, "examples": len(examples), "form": model.forms[0].name, "metric": model.task.metric().name}
    if not teacher:
        result |= judge(model.task, examples, logits)
    else:
        other = open_model(teacher, None, model.task.name, replace(reading, max_length=model.max_length))
        if set(other.task.labels) != set(model.task.labels):
            raise InputError(f"--teacher: its labels are {', '.join(other.task.labels)}, the model's {', '.join(model.task.labels)}")
        encoded, first, truncated = other.task.encode(other.tokenizer, examples.inputs, model.max_length)
        theirs = replace(examples, encoded=encoded, first_tokens=first, truncated=truncated)
        order = [other.task.labels.index(name) for name in model.task.labels]
        known = [row[..., order] for row in open_engine(other.forms[0], other.folder, count).logits(encoded)]
        pair = (model.task, examples, logits, theirs, known)
        result |= judge_pair(*pair) | {"flipped": flips(*pair)}
    say(result, as_json, _quality_text(result))


def _quality_text(result: dict[str, Any]) -> str:
    low, high = result["quality_ci95"]
    lines = [
        f"{result['metric']} {result['quality']:.2f} (95 %: {low:.2f} ... {high:.2f}) on {result['examples']} examples, {result['form']}"
    ]
    if "drop" in result:
        low, high = result["drop_ci95"]
        flipped = result["flipped"]
        lines.append(
            f"teacher {result['teacher_quality']:.2f}: {result['drop']:.2f} points lost (95 %: {low:.2f} ... {high:.2f}; p = {result['p_value']:.3f})"
        )
        lines.append(f"flipped: {flipped['worse']} right before and wrong now, {flipped['better']} wrong before and right now")
        lines += [f"  {row['gold']} | {row['teacher']} -> {row['result']} | {row['text'][:100]}" for row in flipped["examples"]]
    return "\n".join(lines)


@app.command()
def bench(
    folders: Annotated[list[str], typer.Argument(help="What compress wrote, or model folders.")], data: DataFile, engine: Engine = None,
    task: AnyTask = "", threads: Threads = 0, rounds: Annotated[int, typer.Option("--rounds", min=1)] = 5, max_length: MaxLength = 0,
    text_columns: TextColumns = "", as_json: Json = False,
) -> None:  # fmt: skip
    """Latency and throughput side by side: each in a process of its own, in turn, on the texts' own lengths."""
    from rich.table import Table

    from penjing.engines.machine import machine, versions
    from penjing.engines.measure import Subject, measure
    from penjing.sources import Reading
    from penjing.subjects import open_model
    from penjing.tasks.data import read_rows

    rows = read_rows(data)
    models = [open_model(folder, engine, task, Reading(text_columns, max_length=max_length)) for folder in folders]
    subjects = [(name, form, model) for name, model in zip(folders, models, strict=True) for form in model.forms]
    encoded = {id(m): m.task.encode(m.tokenizer, m.task.inputs_of(rows), m.max_length)[0] for m in models}
    first = models[0]
    if any(not np.array_equal(encoded[id(m)].lengths, encoded[id(first)].lengths) for m in models):
        tell("the tokenizers differ: every model runs on its own tokens of the same texts")
    count = threads or cores()
    own = [Subject(form, model.folder, encoded[id(model)]) for _, form, model in subjects]
    measured = measure(own, encoded[id(first)], threads=count, rounds=rounds)
    results: list[dict[str, Any]] = []
    for (name, form, _), m in zip(subjects, measured, strict=True):
        ratio, low, high = m.speedup_over(measured[0])
        results.append({"folder": name, "form": form.name, "latency_ms": m.latency_ms, "throughput_per_s": m.throughput_per_s,
                        "load_s": m.load_s, "speedup": ratio, "speedup_range": [low, high]})  # fmt: skip
    lengths = encoded[id(first)].lengths
    report = {"threads": count, "batch": 1, "lengths_p50": float(np.median(lengths)), "lengths_p95": float(np.percentile(lengths, 95)),
              "machine": machine(), "versions": versions(), "results": results}  # fmt: skip
    if as_json:
        print(json.dumps(report, ensure_ascii=False))
        return
    table = Table(title=f"batch 1, {count} threads, {np.median(lengths):.0f} tokens (median); rounds {rounds}; faster than the first row")
    for column in ("model", "form", "ms", "texts/s", "faster", "over the rounds", "load s"):
        table.add_column(column, justify="left" if column in ("model", "form") else "right")
    for row in results:
        low, high = row["speedup_range"]
        table.add_row(row["folder"], row["form"], f"{row['latency_ms']:.2f}", f"{row['throughput_per_s']:.0f}", f"{row['speedup']:.2f}x",
                      f"{low:.2f} ... {high:.2f}", f"{row['load_s']:.1f}")  # fmt: skip
    Console().print(table)


@app.command()
def inspect(folder: Folder, as_json: Json = False) -> None:
    """A model's blueprint: each layer's heads and neurons as bars, and what it costs."""
    from penjing.checkpoint import blueprint_at
    from penjing.report.drawing import inspect_text

    path = Path(folder) / "model" if (Path(folder) / "model" / "config.json").is_file() else Path(folder)
    blueprint = blueprint_at(path)
    if as_json:
        costs = {
            "parameters": blueprint.parameters,
            "bytes": blueprint.bytes,
            "macs_32": blueprint.macs(32),
            "macs_128": blueprint.macs(128),
        }
        print(json.dumps({"blueprint": blueprint.to_dict(), **costs}))
    else:
        Console().print(inspect_text(blueprint))


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")] = Path("demo-run"),
    threads: Threads = 0, seed: Seed = 0, as_json: Json = False,
) -> None:  # fmt: skip
    """The whole job in minutes, offline: make data, train a teacher, compress it, prove it."""
    from penjing.demo import base_model as base
    from penjing.demo import logistic_regression, write_data
    from penjing.tasks.data import read_rows

    tell("1 of 4: reviews with negation, contrast and comparison, from Penjing's own generator")
    model = base()
    files = write_data(out / "data", seed)
    baseline = logistic_regression(files["train"], files["eval"])
    tell(f"logistic regression on n-grams: accuracy {baseline:.2f}")
    tell("2 of 4: fine-tune a teacher, all-MiniLM-L6-v2")
    teacher = out / "teacher"
    if not (teacher / "config.json").is_file():
        with redirect_stdout(sys.stderr):  # standard output is for the result alone
            train(model=str(model), task="classification", train=str(files["train"]), eval=str(files["eval"]), out=teacher,
                  epochs=2, learning_rate=1e-4, seed=seed, max_length=128)  # fmt: skip
    tell("3 of 4: compress it: 6 times faster than eager PyTorch, 2 points at most lost")
    try:
        compress(model=str(teacher), task="classification", train=str(files["train"]), eval=str(files["eval"]), test=[str(files["test"])],
                 out=out / "compressed", speedup=6.0, max_drop=2.0, epochs=2, threads=threads, seed=seed, max_length=128, as_json=as_json)  # fmt: skip
    finally:
        if (out / "compressed" / "report.html").is_file():
            tell("4 of 4: ask it")
            import penjing

            predict = penjing.load(out / "compressed")
            rows = read_rows(files["test"])[:4]
            for row, answer in zip(rows, predict([row["text"] for row in rows]), strict=True):
                tell(f"  {answer['label']} ({answer['score']:.2f}; it is {row['label']}): {row['text']}")
            tell(f"open {out / 'compressed' / 'report.html'} in a browser")


def main() -> None:
    """Run; an error of ours is one line and its exit status."""
    try:
        app(standalone_mode=True)
    except PenjingError as error:
        fail(str(error), error.exit_status)
    except ModuleNotFoundError as error:
        fail(f"the package {error.name} is not installed; pip install 'penjing[compress,demo]'", InputError.exit_status)
    except Exception as error:
        if disk_is_full(error):
            fail("the disk is full; nothing half-written was left: free some space and run the same command", InputError.exit_status)
        if isinstance(error, PermissionError):
            fail(f"{error.filename} may not be written or read ({error.strerror}); choose another place", InputError.exit_status)
        raise


def fail(message: str, status: int) -> NoReturn:
    """One line on standard error, and out."""
    print("penjing: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(status)


def disk_is_full(error: BaseException | None) -> bool:
    """Whether the disk being full is behind an error: torch and safetensors say it in words of their own."""
    while error is not None:
        if (
            getattr(error, "errno", None) == errno.ENOSPC
            or "No space left on device" in str(error)
            or "PytorchStreamWriter failed" in str(error)
        ):
            return True
        error = error.__cause__ or error.__context__
    return False


if __name__ == "__main__":
    main()
