"""Looking at models: eval, bench, inspect."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from penjing.cli.ending import one_line
from penjing.cli.numeric import number
from penjing.cli.options import (
    AnyTask,
    DataFile,
    Engine,
    Folder,
    Json,
    Threads,
    app,
    cores,
    reads,
    say,
    say_json,
    tell,
)
from penjing.errors import InputError
from penjing.text.reading import Reading


@app.command()
@reads()
def eval(
    folder: Folder, data: DataFile, engine: Engine = None, task: AnyTask = "",
    teacher: Annotated[str, typer.Option("--teacher", help="Compare with this model: drop, p, and what flipped.")] = "",
    threads: Threads = 0, reading: Reading = Reading(), as_json: Json = False,
) -> None:  # fmt: skip
    """Quality with a 95 % interval, how far the scores can be believed and, against a teacher, a paired test and what flipped."""
    from penjing.engines.engine import open_engine
    from penjing.job.subjects import open_model
    from penjing.tasks.judge import flips, judge, judge_pair, scores_of
    from penjing.tasks.sources import check_label_map, read_examples
    from penjing.text.data import read_rows

    model = open_model(folder, engine, task, reading)
    tell(model.task.metric_said())
    examples = read_examples(model.task, model.tokenizer, model.max_length, data, read_rows(data, reading), tell)
    check_label_map(model.task)
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
        lines += [f"  {row['gold']} | {row['teacher']} -> {row['result']} | {one_line(row['text'])[:100]}" for row in flipped["examples"]]
    return "\n".join(lines)


@app.command()
@reads(labels=False)
def bench(
    folders: Annotated[list[str], typer.Argument(help="What compress wrote, or model folders.")], data: DataFile, engine: Engine = None,
    task: AnyTask = "", threads: Threads = 0, rounds: Annotated[int, number("--rounds", int, 1, 1000)] = 5,
    reading: Reading = Reading(), as_json: Json = False,
) -> None:  # fmt: skip
    """Latency, end to end too, throughput, cold start and memory side by side: each in a process of its own, in turn, on the texts' own
    lengths. What other work disturbed is measured again; where that does not help, a row is not steady and no speed-up is claimed."""
    from penjing.engines.clock.machine import machine, versions
    from penjing.engines.clock.measure import Spoken, Subject, measure
    from penjing.engines.engine import warn_of_weights
    from penjing.job.subjects import open_model
    from penjing.text.data import read_rows

    rows = read_rows(data, reading)
    models = [open_model(folder, engine, task, reading) for folder in folders]
    subjects = [(name, form, model) for name, model in zip(folders, models, strict=True) for form in model.forms]
    encoded = {id(m): m.task.encode(m.tokenizer, m.task.inputs_of(rows), m.max_length)[0] for m in models}
    first = models[0]
    if any(not np.array_equal(encoded[id(m)].lengths, encoded[id(first)].lengths) for m in models):
        tell("the tokenizers differ: every model runs on its own tokens of the same texts")
    count = threads or cores()
    for _, form, model in subjects:  # their processes cannot be heard
        warn_of_weights(form, model.folder)
    alike = all((m.task.name, len(m.task.labels)) == (first.task.name, len(first.task.labels)) for m in models)
    spoken = Spoken(first.task, first.task.inputs_of(rows), first.max_length) if alike else None
    with TemporaryDirectory() as made:
        files = [_tokenizer_file(name, model.folder, Path(made) / str(i)) for i, (name, _, model) in enumerate(subjects)]
        own = [Subject(form, model.folder, encoded[id(model)], file) for (_, form, model), file in zip(subjects, files, strict=True)]
        measured = measure(own, encoded[id(first)], threads=count, rounds=rounds, spoken=spoken, tell=tell)
    results: list[dict[str, Any]] = []
    for (name, form, _), m in zip(subjects, measured, strict=True):
        faster = m.speedup_over(measured[0])
        results.append({"folder": name, "form": form.name, **m.figures(), "disturbance": m.disturbance,
                        "speedup": faster.ratio if faster.steady else None, "speedup_range": [faster.low, faster.high]})  # fmt: skip
    lengths = encoded[id(first)].lengths
    report = {"threads": count, "batch": 1, "lengths_p50": float(np.median(lengths)), "lengths_p95": float(np.percentile(lengths, 95)),
              "machine": machine(), "versions": versions(), "results": results}  # fmt: skip
    title = f"batch 1, {count} threads, {np.median(lengths):.0f} tokens (median); faster than row 1"
    say(report, as_json, _bench_text(results, title))


def _tokenizer_file(name: str, folder: Path, made: Path) -> Path | None:
    """Of a model's folder (made in `made` where its own does not say all), or of the engine's beside it."""
    from penjing.tasks.sources import tokenizer_file

    if (folder / "config.json").is_file():
        return tokenizer_file(folder, made)
    near = (folder / "tokenizer.json", Path(name) / "engine" / "tokenizer.json", Path(name) / "tokenizer.json")
    return next((path for path in near if path.is_file()), None)


COLUMNS = ("", "p50 ms", "p95", "p99", "end2end", "texts/s", "faster", "range", "start s", "MB")


def _bench_text(results: list[dict[str, Any]], title: str) -> str:
    """The names in full, a plain table by their numbers, which a file and 80 columns hold as it is, and what was not steady."""
    rows: list[Sequence[str]] = [COLUMNS]
    for i, row in enumerate(results, 1):
        low, high = row["speedup_range"]
        faster = ("-", "-") if row["speedup"] is None else (f"{row['speedup']:.2f}x", f"{low:.3g}-{high:.3g}")
        numbers = [(row["latency_ms"], 2), (row["latency_p95_ms"], 2), (row["latency_p99_ms"], 2), (row["end_to_end_ms"], 2),
                   (row["throughput_per_s"], 0), (row["cold_start_s"], 1), (row["peak_mb"], 0)]  # fmt: skip
        cells = ["-" if value is None else f"{value:.{digits}f}" for value, digits in numbers]
        rows.append((str(i), *cells[:5], *faster, *cells[5:]))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    names = [f"{i}: {one_line(row['folder'])}, {row['form']}" for i, row in enumerate(results, 1)]
    table = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    unsteady = [
        f"{i} is not steady, and no speed-up is claimed of it or over it: {row['disturbance']}"
        for i, row in enumerate(results, 1)
        if row["disturbance"]
    ]
    return "\n".join([*names, title, *table, *unsteady])


@app.command()
def inspect(folder: Folder, as_json: Json = False) -> None:
    """What a model is: family, head, labels, tokenizer, what of its files is not read, each layer as bars, and what it costs."""
    from penjing.blueprint import Blueprint
    from penjing.job.inspection import inspection, inspection_lines
    from penjing.report.drawing import inspect_text

    found = inspection(folder)
    if as_json:
        say_json(found)
        return
    print(inspection_lines(found), end="\n\n")
    Console().print(inspect_text(Blueprint.from_dict(found["blueprint"])))
