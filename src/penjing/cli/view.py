"""Looking at models: eval, bench, inspect."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from penjing.cli.options import (
    AnyTask,
    DataFile,
    Engine,
    Folder,
    Json,
    LabelColumn,
    MaxLength,
    Metric,
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
        ratio, low, high, _ = m.speedup_over(measured[0])
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
