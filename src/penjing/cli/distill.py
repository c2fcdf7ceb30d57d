"""Distillation by hand."""

from pathlib import Path
from typing import Annotated, Any

import typer

from penjing.cli import telling
from penjing.cli.numeric import number
from penjing.cli.options import (
    Confidence,
    Engine,
    EvalFile,
    Json,
    MaxDrop,
    Model,
    Out,
    Seed,
    TaskName,
    Test,
    Threads,
    TrainFile,
    Wait,
    app,
    reads,
    say,
)
from penjing.cli.running import More, claims, met, run
from penjing.errors import InputError
from penjing.files.run import ASKED
from penjing.text.reading import Reading


@app.command()
@reads()
@claims(ASKED)
def distill(
    model: Model, task: TaskName, train: TrainFile, out: Out, eval: EvalFile = "",
    preset: Annotated[str, typer.Option("--preset", help="states (ours), labels (no teacher), hinton, distilbert, pkd, tinybert, minilm,"
        " cofi, levels; or a student that is not BERT: bilstm, logistic, trees, static.")] = "states",
    layers: Annotated[int | None, typer.Option("--layers", help="Layers of the student, taken from the teacher.")] = None,
    keep: Annotated[str | None, typer.Option("--keep", help="Which layers it starts from: measured, uniform, first, last.")] = None,
    heads: Annotated[float | None, typer.Option("--heads", help="Part of the attention heads that it has.")] = None,
    neurons: Annotated[float | None, typer.Option("--neurons", help="Part of the feed-forward neurons that it has.")] = None,
    hidden: Annotated[float | None, typer.Option("--hidden", help="Part of the hidden units that it has.")] = None,
    student: Annotated[str, typer.Option("--student", help="A model to start from instead, of the same vocabulary.")] = "",
    teacher: Annotated[list[str] | None, typer.Option("--teacher", help="A further teacher; their answers are averaged.")] = None,
    companion: Annotated[list[str] | None, typer.Option("--with", help="A further task that shares the encoder, as TASK,MODEL,TRAIN,EVAL; its"
        " model goes to also/.")] = None,
    losses: Annotated[str | None, typer.Option("--losses", help="In place of the preset's, names and weights as kl=1,hidden=0.5: kl,"
        " cross-entropy, mse, kl-entropy, hard, states, tokens, hidden, cosine, first, attention, relations, levels, rkd-distance, rkd-angle,"
        " fsp, nst.")] = None,
    alpha: Annotated[float | None, number("--alpha", float, 0, help="Of the loss kl-entropy: the weight of the student's entropy.")] = None,
    temperature: Annotated[float | None, typer.Option("--temperature", help="Of the teacher's answers.")] = None,
    layer_map: Annotated[str | None, typer.Option("--layer-map", help="Which layers are matched: kept, descent, uniform, last, first, learned, or"
        " pairs as 1:2,2:4.")] = None,
    relation_heads: Annotated[int | None, number("--relation-heads", int, 1, help="Of the loss relations.")] = None,
    levels: Annotated[int | None, number("--levels", int, 1, help="How many matched layers the loss levels takes.")] = None,
    states_first: Annotated[float | None, typer.Option("--states-first", help="Part of the steps that teach states alone, before the answers.")] = None,
    anneal: Annotated[bool, typer.Option("--anneal", help="Go from the teacher's answers to the labels.")] = False,
    noise: Annotated[float | None, number("--noise", float, 0, help="Of the word embeddings, in their standard deviations; the teacher's answers"
        " are then a mean over such noise.")] = None,
    draws: Annotated[int | None, number("--draws", int, 1, 1000, help="With --noise: how many the teacher's answer is the mean of; 4.")] = None,
    general: Annotated[Path | None, typer.Option("--general", help="Plain text, a text a line (also .gz), to learn states on first.")] = None,
    general_texts: Annotated[int | None, number("--general-texts", int, 1, help="Lines of it that are drawn; 20,000.")] = None,
    unlabelled: Annotated[str, typer.Option("--unlabelled", help="Further data, whose labels are not read: the teacher answers it.")] = "",
    augment: Annotated[str | None, typer.Option("--augment", help="Add changed copies of the texts: neighbours, masked-lm, rules.")] = None,
    copies: Annotated[int | None, number("--copies", int, 0, 1000, help="How many of each text; with --augment 1, else 0, and 2 for the presets"
        " logistic and static.")] = None,
    masked_lm: Annotated[str, typer.Option("--masked-lm", help="With --augment masked-lm: the language model, of the same vocabulary.")] = "",
    part: Annotated[float, typer.Option("--part", help="Part of the training texts that is learned from.")] = 1.0,
    sample: Annotated[str | None, typer.Option("--sample", help="With --part, how it is drawn: random, uncertain, margin, certain, mixed, short,"
        " balanced-length.")] = None,
    epochs: Annotated[int | None, number("--epochs", int, 1, 10_000, help="3; of a BiLSTM 10.")] = None,
    learning_rate: Annotated[float | None, number("--learning-rate", float, most=1)] = None,
    cache: Annotated[Path | None, typer.Option("--cache", help="Folder that keeps the teacher's outputs for further runs.")] = None,
    max_drop: MaxDrop = None, confidence: Confidence = None, wait: Wait = 30, engine: Engine = None, threads: Threads = 0, test: Test = None, seed: Seed = 0, reading: Reading = Reading(), as_json: Json = False,
) -> None:  # fmt: skip
    """Teach a small student: its losses from a preset or one by one, its texts as they are or more of them. In float32; the same report."""
    from penjing.job.asked import Budget
    from penjing.job.presets import distilling
    from penjing.training.texts import TextSettings

    idle = {
        "--masked-lm": (masked_lm and augment != "masked-lm", "--augment masked-lm"), "--sample": (sample and part == 1, "--part"),
        "--general-texts": (general_texts and not general, "--general"), "--draws": (draws and not noise, "--noise"),
        "--keep": (keep and layers is None, "--layers"), "--augment": (augment and copies == 0, "at least one with --copies"),
    }  # fmt: skip
    for option, (alone, wanted) in idle.items():
        if alone:
            raise InputError(f"{option}: nothing asks for it; give {wanted}")
    kept = {"layers": layers, "heads": heads, "neurons": neurons, "hidden": hidden}
    changes = {
        "temperature": temperature, "layer_map": layer_map, "relation_heads": relation_heads, "levels": levels, "states_first": states_first,
        "anneal": anneal or None, "noise": noise, "draws": draws, "alpha": alpha,
    }  # fmt: skip
    texts = TextSettings(part, sample or "random", how=augment or "neighbours")
    if augment and copies is None:
        copies = 1
    steps = distilling(
        preset, epochs, learning_rate, losses, {name: value for name, value in changes.items() if value is not None},
        {name: value for name, value in kept.items() if value is not None}, keep, texts, copies, given_student=bool(student),
    )  # fmt: skip
    more = More(student, teacher or (), general, general_texts or 20_000, unlabelled, masked_lm, companion or (), cache)
    report = run(
        model,
        task,
        train,
        eval,
        test,
        reading,
        Budget(max_drop=max_drop, confidence=confidence),
        steps,
        out,
        threads,
        engine,
        seed,
        more=more,
        wait=wait,
    )
    say(report, as_json, _distilled_text(report, out))
    met(report, out)


def _distilled_text(report: dict[str, Any], out: Path) -> str:
    """What is left of the teacher's quality, size and time."""
    result, before = report["result"], report["teacher"]
    lines = [
        telling.lost(report),
        f"{before['parameters'] / 1e6:.1f} -> {result['parameters'] / 1e6:.1f} million parameters, {telling.smaller(report)}",
        f"{telling.faster(report)}; {before['throughput_per_s']:.0f} -> {result['throughput_per_s']:.0f} texts/s",
    ]
    return "\n".join([*lines, telling.places(out)])
