"""The main job: train, compress, demo."""

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer

from penjing.cli import telling
from penjing.cli.numeric import number
from penjing.cli.options import (
    BatchSize,
    Confidence,
    Engine,
    Epochs,
    EvalFile,
    Json,
    MaxDrop,
    Model,
    NoTraining,
    Out,
    Pickle,
    Rate,
    Seed,
    TaskName,
    Test,
    Threads,
    TrainEpochs,
    TrainFile,
    Wait,
    app,
    console,
    reads,
    say,
    tell,
)
from penjing.cli.running import claims, met, run, trained
from penjing.files.run import ASKED, TRAINING
from penjing.text.reading import Reading


def summary(report: dict[str, Any], out: Path) -> str:
    """A compression in a few lines."""
    from penjing.report.page import untouched

    lines = [f"{telling.faster(report)}, {telling.smaller(report)}", telling.lost(report), telling.scores(report), telling.places(out)]
    if report["met"] is None:
        nothing = "nothing was asked, so nothing was cut: give --speedup, --latency-ms, --size-mb or --max-drop"
        lines.insert(0, nothing if untouched(report) else "no limit was asked")
    return "\n".join(lines)


@app.command()
@reads()
@claims(TRAINING)
def train(
    model: Model, task: TaskName, train: TrainFile, out: Out, eval: EvalFile = "", epochs: Epochs = 3,
    batch_size: BatchSize = 32, learning_rate: Rate = 5e-5, seed: Seed = 0, reading: Reading = Reading(),
    pickle: Pickle = False, as_json: Json = False,
) -> None:  # fmt: skip
    """Fine-tune a teacher: best weights kept, early stopping, and a killed run goes on where it stopped."""
    import numpy as np

    from penjing.cli.progress import training_bar
    from penjing.tasks.sources import load_data
    from penjing.training.finetune import finetune
    from penjing.training.loop import Schedule

    data = load_data(model, task, train, eval, reading, tell, new_labels=True)
    schedule = Schedule(epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, seed=seed)
    sides = data.sides
    rest = np.setdiff1d(np.union1d(sides.learned, sides.weights), sides.judging)  # of very few texts, both sides held out are one
    dev, learned = data.train.take(sides.judging), data.train.take(rest)
    with training_bar(console, "train") as progress:
        history, quality = finetune(model, data.task, learned, dev, data.eval, out, schedule, pickle=pickle, progress=progress)
    result = {
        "out": str(out),
        "metric": data.task.metric().name,
        "quality": quality,
        "held_out": {"examples": len(dev), "quality": history.best},
        "steps": history.steps,
        "seconds": history.seconds,
    }
    chosen = f"the best weights by {len(dev)} training texts held out, {history.best:.2f} there"
    say(result, as_json, f"{out}: {result['metric']} {quality:.2f} after {history.steps} steps, {history.seconds:.0f} s; {chosen}")


@app.command()
@reads()
@claims(ASKED)
def compress(
    model: Model, task: TaskName, train: TrainFile, out: Out, eval: EvalFile = "",
    speedup: Annotated[float | None, typer.Option("--speedup", help="Times faster than eager PyTorch, at least.")] = None,
    latency_ms: Annotated[float | None, typer.Option("--latency-ms", help="Milliseconds of a text, at most.")] = None,
    size_mb: Annotated[float | None, typer.Option("--size-mb", help="Megabytes of the deployment, at most.")] = None,
    max_drop: MaxDrop = None, confidence: Confidence = None,
    minutes: Annotated[float | None, number("--minutes", float, help="Minutes of training, at most.")] = None,
    engine: Engine = None, threads: Threads = 0, test: Test = None,
    recipe: Annotated[Path | None, typer.Option("--recipe", help="YAML with the settings of the steps.")] = None,
    epochs: TrainEpochs = None, no_training: NoTraining = False, seed: Seed = 0, reading: Reading = Reading(), wait: Wait = 30, as_json: Json = False,
) -> None:  # fmt: skip
    """The main job: cut, distil, quantize, export and prove a smaller, faster model. A killed run goes on."""
    from penjing.job.asked import Budget
    from penjing.job.recipe import Recipe, read_recipe

    steps = trained(read_recipe(recipe) if recipe else Recipe(), epochs, minutes, no_training)
    budget = Budget(speedup, latency_ms, size_mb, max_drop, confidence)
    report = run(model, task, train, eval, test, reading, budget, steps, out, threads, engine, seed, wait=wait)
    say(report, as_json, summary(report, out))
    met(report, out)


@app.command()
@claims("data")
def demo(
    out: Out = Path("demo-run"),
    threads: Threads = 0, seed: Seed = 0, as_json: Json = False,
) -> None:  # fmt: skip
    """The whole job in minutes, offline: make data, train a teacher, compress it, prove it."""
    from penjing.cli.demo.setup import base_model as base
    from penjing.cli.demo.setup import logistic_regression, write_data
    from penjing.text.data import read_rows

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
