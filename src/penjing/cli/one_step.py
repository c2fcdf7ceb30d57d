"""One step by hand: prune, quantize."""

from pathlib import Path
from typing import Annotated, Any, cast

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
    NoTraining,
    Out,
    Seed,
    TaskName,
    Test,
    Threads,
    TrainEpochs,
    TrainFile,
    Wait,
    app,
    reads,
    say,
)
from penjing.cli.running import claims, met, run, trained
from penjing.errors import InputError
from penjing.files.run import ASKED
from penjing.text.reading import Reading


@app.command()
@reads()
@claims(ASKED)
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
    stored_mb: Annotated[float | None, number("--stored-mb", float, help="In place of --sparsity: megabytes of the stored weights.")] = None,
    embeddings: Annotated[bool, typer.Option("--embeddings", help="With --sparsity: the word embedding's weights too.")] = False,
    importance: Annotated[str | None, typer.Option("--importance", help="fisher, block-fisher, obs, gates, gradient, taylor, lrp, activation,"
        " magnitude, magnitude-l1, random; with --sparsity: magnitude, random, movement, regrow.")] = None,
    schedule: Annotated[str | None, typer.Option("--schedule", help="one-shot, gradual, or iterative (with --sparsity);"
        " gradual with --macs learns gates while it distils.")] = None,
    scope: Annotated[str, typer.Option("--scope", help="What is ranked together: global, layer, or row (with --sparsity).")] = "global",
    repair: Annotated[str, typer.Option("--repair", help="Before any training: weights (least squares), scales, none.")] = "weights",
    head_weights: Annotated[bool, typer.Option("--head-weights", help="Learn a weight per head afterwards, and fold it in.")] = False,
    texts: Annotated[int, number("--texts", int, 1, help="Training texts that importance and repair look at.")] = 1000,
    max_drop: MaxDrop = None, confidence: Confidence = None, wait: Wait = 30, epochs: TrainEpochs = None, no_training: NoTraining = False, engine: Engine = None, threads: Threads = 0,
    test: Test = None, seed: Seed = 0, reading: Reading = Reading(), as_json: Json = False,
) -> None:  # fmt: skip
    """Cut one thing by hand: heads, neurons, layers, hidden units, tokens or single weights. In float32; the same report."""
    from penjing.job.asked import Budget
    from penjing.job.recipe import Recipe, pruning
    from penjing.model.checkpoint import blueprint_at, locate
    from penjing.steps.cut.sparsify import sparsity_for

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
    distill = trained(Recipe(), epochs, None, no_training).distill
    steps = pruning(
        kept, sparsity, importance, schedule, scope, distill, repair=repair, texts=texts, head_weights=head_weights, embeddings=embeddings
    )  # fmt: skip
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
        corpus,
        wait=wait,
    )
    say(report, as_json, _pruned_text(report, out))
    met(report, out)


def _pruned_text(report: dict[str, Any], out: Path) -> str:
    """What was cut and lost, and what it brings: the clock against the uncut model in the same form, then against eager PyTorch."""
    result, before = report["result"], report["teacher"]
    lines = [
        telling.lost(report),
        f"{result['macs']:.2f} of the multiply-accumulates and {result['parameters'] / before['parameters']:.2f} of the parameters are left",
    ]
    for row in report["shapes"]:
        own = ", the data's own lengths" if row["own"] else ""
        said = f"{1 / row['macs']:.2f}x" if row["macs"] else "no end"
        ratio = f"{row['speedup']:.2f}x faster than uncut" if row["steady"] else "not steady enough for a speed-up"
        lines.append(
            f"{row['form']}, {row['tokens']} tokens{own}: {row['teacher_ms']:.2f} -> {row['latency_ms']:.2f} ms, {ratio}"
            f" where the multiply-accumulates say {said}"
        )
    lines.append(telling.faster(report))
    if stored := report["stored"]:
        lines.append(
            f"{100 * stored['sparsity']:.1f} % of the pruned matrices and {100 * stored['zeros']:.1f} % of all weights are zero:"
            f" {_stored_text(stored)}; the engines' speed stays as it is"
        )
    lines.append(telling.places(out))
    return "\n".join(lines)


def _stored_text(stored: dict[str, Any]) -> str:
    return (
        f"{stored['dense_bytes'] / 1e6:.1f} -> {stored['packed_bytes'] / 1e6:.1f} MB stored,"
        f" loads in {stored['dense_load_s']:.2f} -> {stored['packed_load_s']:.2f} s"
    )


@app.command()
@reads()
@claims(ASKED)
def quantize(
    model: Model, task: TaskName, train: TrainFile, out: Out,
    scheme: Annotated[str, typer.Option("--scheme", help="Real, faster: dynamic-int8, static-int8, qat-int8, qat-dynamic-int8. Stored, smaller: linear, affine,"
        " log, kmeans, ternary, binary, mixed.")],
    eval: EvalFile = "",
    bits: Annotated[int | None, number("--bits", int, 1, 8, help="Of a stored weight (4); with mixed, of the average one.")] = None,
    group: Annotated[int, number("--group", int, 0, help="Entries of a row that share a scale or codebook; 0: the whole matrix.")] = 128,
    clip: Annotated[str, typer.Option("--clip", help="The range of linear and affine: mse, percentile, none.")] = "mse",
    activation_bits: Annotated[int, number("--activation-bits", int, 0, 8, help="Of the inputs of linear layers, in training;"
        " 0: float.")] = 0,
    calibration: Annotated[str, typer.Option("--calibration", help="Of int8's activations: measured (the best of three), min-max,"
        " moving-average, percentile, mse, entropy.")] = "measured",
    texts: Annotated[int, number("--texts", int, 1, help="Training texts that activations are calibrated on.")] = 512,
    divergence: Annotated[float, number("--divergence", float, 0, help="Nats that int8 may move the answers by; the layers that do the"
        " most harm stay in float.")] = 0.02,
    smooth: Annotated[float, typer.Option("--smooth", help="How much of int8's activation outliers moves into the weights: SmoothQuant's"
        " alpha, 0.5 is the usual.")] = 0.0,
    max_drop: MaxDrop = None, confidence: Confidence = None, wait: Wait = 30,
    epochs: Annotated[int | None, number("--epochs", int, 1, 10_000, help="Epochs of distillation with rounded weights; without it, qat,"
        " ternary and binary are trained, the others are not.")] = None,
    no_training: NoTraining = False, engine: Engine = None, threads: Threads = 0, test: Test = None, seed: Seed = 0,
    reading: Reading = Reading(),
    as_json: Json = False,
) -> None:  # fmt: skip
    """Round the weights: to integers that the engine computes with (faster), or to few bits on disk (smaller). The same report."""
    from penjing.job.asked import Budget
    from penjing.job.recipe import SCHEMES, TRAINED, Recipe, quantizing

    if engine == "torch" and scheme in SCHEMES:
        raise InputError(f"--engine: PyTorch does not compute in integers, which {scheme} is for; give onnxruntime or openvino")
    taught = not no_training and (scheme in TRAINED or epochs is not None)
    distill = trained(Recipe(), epochs, None, not taught).distill
    steps = quantizing(
        scheme, bits, distill, group=group, clip=cast(Any, clip), activation_bits=activation_bits, calibration=cast(Any, calibration), texts=texts,
        divergence=divergence, smooth=smooth,
    )  # fmt: skip
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
        wait=wait,
    )
    say(report, as_json, _quantized_text(report, out))
    met(report, out)


def _quantized_text(report: dict[str, Any], out: Path) -> str:
    """What was lost, and what it brings: bytes where it is stored, the clock where it is real."""
    result = report["result"]
    lines = [
        telling.lost(report),
        f"the whole deployment: {telling.smaller(report)}",
        telling.faster(report),
    ]
    if stored := report["stored"]:
        lines.append(f"weights: {_stored_text(stored)}; floats again once loaded, so the clock stays")
    else:
        lines.append(
            f"int8 kernels of this processor: {result['kernels']}"
            + (f"; in float: {', '.join(result['float_layers'])}" if result["float_layers"] else "")
        )
    for form in report["forms"]:
        mark = "*" if form["chosen"] else " "
        lines.append(
            f"{mark} {form['name']}: {form['held_out_quality']:.2f} on texts held out, {form['latency_ms']:.2f} ms, {form['throughput_per_s']:.0f} texts/s"
        )
    for name, other in report["baselines"].items():
        lines.append(
            f"  {name.replace('_', ' ')}, uncut: {other['quality']:.2f}, {other['latency_ms']:.2f} ms, {other['throughput_per_s']:.0f} texts/s"
        )
    lines.append(telling.places(out))
    return "\n".join(lines)
