"""Looking at models: eval, bench, inspect."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich import box
from rich.console import Console
from rich.table import Table

from penjing.cli.options import (
    AnyTask,
    DataFile,
    Engine,
    Folder,
    Json,
    LabelColumn,
    MaxLength,
    Metric,
    Positive,
    TextColumns,
    Threads,
    app,
    cores,
    say,
    tell,
)
from penjing.errors import InputError


@app.command()
def eval(
    folder: Folder, data: DataFile, engine: Engine = None, task: AnyTask = "",
    teacher: Annotated[str, typer.Option("--teacher", help="Compare with this model: drop, p, and what flipped.")] = "",
    threads: Threads = 0, max_length: MaxLength = 0, text_columns: TextColumns = "", label_column: LabelColumn = "",
    metric: Metric = "", positive: Positive = "", as_json: Json = False,
) -> None:  # fmt: skip
    """Quality with a 95 % interval, how far the scores can be believed and, against a teacher, a paired test and what flipped."""
    from penjing.engines.engine import open_engine
    from penjing.sources import Reading, tell_truncated
    from penjing.subjects import open_model
    from penjing.tasks.data import read_rows
    from penjing.tasks.judge import flips, judge, judge_pair, scores_of

    reading = Reading(text_columns, label_column, metric, max_length, positive)
    model = open_model(folder, engine, task, reading)
    tell(model.task.metric_said())
    rows = read_rows(data)
    examples = model.task.examples(rows, model.tokenizer, model.max_length, data)
    tell_truncated(examples, data, model.max_length, tell)
    count = threads or cores()
    logits = open_engine(model.forms[0], model.folder, count).logits(examples.encoded)
    result: dict[str, Any] = {
        "folder": folder, "data": data, "examples": len(examples), "form": model.forms[0].name, "metric": model.task.metric().name,
        "metric_said": model.task.metric_said(), "temperature": model.temperature,
        "scores": scores_of(model.task, examples, logits, model.temperature),
    }  # fmt: skip
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
    scores = result["scores"]
    lines = [
        f"{result['metric']} {result['quality']:.2f} (95 %: {low:.2f} ... {high:.2f}) on {result['examples']} examples, {result['form']}",
        f"scores: expected calibration error {scores['ece']:.3f}, Brier {scores['brier']:.3f} (temperature {result['temperature']:.2f})",
    ]
    if "drop" in result:
        low, high = result["drop_ci95"]
        flipped = result["flipped"]
        lines.append(
            f"teacher {result['teacher_quality']:.2f}: {result['drop']:.2f} points lost, and at most (95 %) {result['drop_at_most']:.2f}"
            f" ({low:.2f} ... {high:.2f}; p = {result['p_value']:.3f})"
        )
        lines.append(f"flipped: {flipped['worse']} right before and wrong now, {flipped['better']} wrong before and right now")
        lines += [
            f"  {row['label']}: {row['worse']} worse, {row['better']} better of {row['examples']} (p = {row['p_holm']:.3f}, of all labels)"
            for row in flipped["by_label"]
            if row["p_holm"] < 0.05
        ]
        lines += [f"  {row['gold']} | {row['teacher']} -> {row['result']} | {row['text'][:100]}" for row in flipped["examples"]]
    return "\n".join(lines)


@app.command()
def bench(
    folders: Annotated[list[str], typer.Argument(help="What compress wrote, or model folders.")], data: DataFile, engine: Engine = None,
    task: AnyTask = "", threads: Threads = 0, rounds: Annotated[int, typer.Option("--rounds", min=1)] = 5, max_length: MaxLength = 0,
    text_columns: TextColumns = "", as_json: Json = False,
) -> None:  # fmt: skip
    """Latency, end to end too, throughput, cold start and memory side by side: each in a process of its own, in turn, on the texts' own
    lengths. What other work disturbed is measured again; where that does not help, a row is not steady and no speed-up is claimed."""
    from penjing.engines.engine import warn_of_weights
    from penjing.engines.machine import machine, versions
    from penjing.engines.measure import Spoken, Subject, measure
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
    for _, form, model in subjects:  # their processes cannot be heard
        warn_of_weights(form, model.folder)
    own = [Subject(form, model.folder, encoded[id(model)], _tokenizer_file(name, model.folder)) for name, form, model in subjects]
    alike = all((m.task.name, len(m.task.labels)) == (first.task.name, len(first.task.labels)) for m in models)
    spoken = Spoken(first.task, first.task.inputs_of(rows), first.max_length) if alike else None
    measured = measure(own, encoded[id(first)], threads=count, rounds=rounds, spoken=spoken, tell=tell)
    results: list[dict[str, Any]] = []
    for (name, form, _), m in zip(subjects, measured, strict=True):
        faster = m.speedup_over(measured[0])
        results.append({"folder": name, "form": form.name, **m.figures(), "disturbance": m.disturbance,
                        "speedup": faster.ratio if faster.steady else None, "speedup_range": [faster.low, faster.high]})  # fmt: skip
    lengths = encoded[id(first)].lengths
    report = {"threads": count, "batch": 1, "lengths_p50": float(np.median(lengths)), "lengths_p95": float(np.percentile(lengths, 95)),
              "machine": machine(), "versions": versions(), "results": results}  # fmt: skip
    if as_json:
        print(json.dumps(report, ensure_ascii=False))
        return
    for i, row in enumerate(results, 1):
        print(f"{i}: {row['folder']}, {row['form']}")
    wide = None if sys.stdout.isatty() else 100
    title = f"batch 1, {count} threads, {np.median(lengths):.0f} tokens (median); faster than row 1"
    Console(width=wide).print(_bench_table(results, title))
    for i, row in enumerate(results, 1):
        if row["disturbance"]:
            print(f"{i} is not steady, and no speed-up is claimed of it or over it: {row['disturbance']}")


def _tokenizer_file(name: str, folder: Path) -> Path | None:
    """Of a model's folder, or of the engine's beside it."""
    near = (folder / "tokenizer.json", Path(name) / "engine" / "tokenizer.json", Path(name) / "tokenizer.json")
    return next((path for path in near if path.is_file()), None)


def _bench_table(results: list[dict[str, Any]], title: str) -> Table:
    """A row of figures for each subject, by its number."""
    table = Table(title=title, box=box.SIMPLE, padding=(0, 1), collapse_padding=True, pad_edge=False)
    for column in ("", "p50 ms", "p95", "p99", "end to\nend", "texts/s", "faster", "range", "cold\nstart s", "peak\nMB", "steady"):
        table.add_column(column, justify="right", overflow="fold")
    for i, row in enumerate(results, 1):
        low, high = row["speedup_range"]
        faster = ("-", "-") if row["speedup"] is None else (f"{row['speedup']:.2f}x", f"{low:.3g}-{high:.3g}")
        numbers = [(row["latency_ms"], 2), (row["latency_p95_ms"], 2), (row["latency_p99_ms"], 2), (row["end_to_end_ms"], 2),
                   (row["throughput_per_s"], 0), (row["cold_start_s"], 1), (row["peak_mb"], 0)]  # fmt: skip
        cells = ["-" if value is None else f"{value:.{digits}f}" for value, digits in numbers]
        table.add_row(str(i), *cells[:5], *faster, *cells[5:], "yes" if row["steady"] else "NO")
    return table


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
