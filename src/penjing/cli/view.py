"""Commands that look at models: eval, bench, inspect."""

from collections.abc import Sequence
from typing import Annotated

import typer
from rich.console import Console

from penjing.cli.derive import Options, Panels, takes
from penjing.cli.ending import one_line
from penjing.cli.numeric import number
from penjing.cli.options import DATA, AsJson, DataFile, Folder, app, say, say_json, tell
from penjing.files.records import to_json
from penjing.job.evaluation import OF_LABELS, Benchmark, BenchRow, Evaluation, Looking, evaluate
from penjing.job.evaluation import bench as measured
from penjing.tasks.judging import PairedQuality
from penjing.text.reading import Reading

SIGNIFICANT = 0.05
"""Labels whose flips are told."""


@app.command(cls=Panels)
@takes(Looking, Reading)
def eval(
    folder: Folder,
    data: DataFile,
    options: Options,
    teacher: Annotated[
        str, typer.Option("--teacher", help="Compare with this model: drop, p, and what flipped.", rich_help_panel=DATA, metavar="<text>")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Quality with a 95 % interval, how far the scores can be believed and, against a teacher, a paired test and what flipped."""
    evaluation = evaluate(folder, data, teacher=teacher, tell=tell, **options)
    say(to_json(evaluation), as_json, _quality_text(evaluation))


def _quality_text(evaluation: Evaluation) -> str:
    quality = evaluation.quality
    scores = evaluation.scores
    low, high = quality.quality_ci95
    lines = [
        f"{evaluation.metric} {quality.quality:.2f} (95 %: {low:.2f} ... {high:.2f}) on {evaluation.examples} examples, {evaluation.form}",
        f"scores: expected calibration error {scores.ece:.3f}, Brier {scores.brier:.3f} (temperature {evaluation.temperature:.2f})",
    ]
    flipped = evaluation.flipped
    if isinstance(quality, PairedQuality) and flipped is not None:
        low, high = quality.drop_ci95
        lines.append(
            f"teacher {quality.teacher_quality:.2f}: {quality.drop:.2f} points lost, and at most (95 %) {quality.drop_at_most:.2f}"
            f" ({low:.2f} ... {high:.2f}; p = {quality.p_value:.3f})"
        )
        lines.append(f"flipped: {flipped.worse} right before and wrong now, {flipped.better} wrong before and right now")
        lines += [
            f"  {row.label}: {row.worse} worse, {row.better} better of {row.examples} (p = {row.p_holm:.3f}, of all labels)"
            for row in flipped.by_label
            if row.p_holm < SIGNIFICANT
        ]
        lines += [f"  {row.gold} | {row.teacher} -> {row.result} | {one_line(row.text)[:100]}" for row in flipped.examples]
    return "\n".join(lines)


@app.command(cls=Panels)
@takes(Looking, Reading, without=OF_LABELS)
def bench(
    folders: Annotated[list[str], typer.Argument(help="What compress wrote, or model folders.")],
    data: DataFile,
    options: Options,
    rounds: Annotated[int, number("--rounds", int, 1, 1000, "Turns of each.", "Machine")] = 5,
    as_json: AsJson = False,
) -> None:
    """Latency, end to end too, throughput, cold start and memory side by side: each in a process of its own, in turn, on the texts' own
    lengths. What other work disturbed is measured again; where that does not help, a row is not steady and no speed-up is claimed."""
    benchmark = measured(folders, data, rounds=rounds, tell=tell, **options)
    say(to_json(benchmark), as_json, _bench_text(benchmark))


COLUMNS = ("", "p50 ms", "p95", "p99", "end2end", "texts/s", "faster", "range", "start s", "MB")


def _bench_text(benchmark: Benchmark) -> str:
    """The text of a benchmark: full names, a plain table in 80 columns by their numbers, and what was not steady."""
    rows: list[Sequence[str]] = [COLUMNS, *(_bench_row(i, row) for i, row in enumerate(benchmark.results, 1))]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    names = [f"{i}: {one_line(row.folder)}, {row.form}" for i, row in enumerate(benchmark.results, 1)]
    title = f"batch 1, {benchmark.threads} threads, {benchmark.lengths_p50:.0f} tokens (median); faster than row 1"
    table = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    unsteady = [
        f"{i} is not steady, and no speed-up is claimed of it or over it: {row.disturbance}"
        for i, row in enumerate(benchmark.results, 1)
        if row.disturbance
    ]
    return "\n".join([*names, title, *table, *unsteady])


def _bench_row(number: int, row: BenchRow) -> Sequence[str]:
    figures = row.figures
    (low, high) = row.speedup_range
    faster = ("-", "-") if row.speedup is None else (f"{row.speedup:.2f}x", f"{low:.3g}-{high:.3g}")
    numbers = [
        (figures.latency_ms, 2), (figures.latency_p95_ms, 2), (figures.latency_p99_ms, 2), (figures.end_to_end_ms, 2),
        (figures.throughput_per_s, 0), (figures.cold_start_s, 1), (figures.peak_mb, 0),
    ]  # fmt: skip
    cells = ["-" if value is None else f"{value:.{digits}f}" for value, digits in numbers]
    return (str(number), *cells[:5], *faster, *cells[5:])


@app.command(cls=Panels)
def inspect(folder: Folder, as_json: AsJson = False) -> None:
    """What a model is: family, head, labels, tokenizer, what of its files is not read, each layer as bars, and what it costs."""
    from penjing.blueprint import Blueprint
    from penjing.cli.layers import inspect_text
    from penjing.job.inspection import inspection, inspection_lines

    description = inspection(folder)
    if as_json:
        say_json(description)
        return
    print(inspection_lines(description), end="\n\n")
    Console().print(inspect_text(Blueprint.from_dict(description["blueprint"])))
