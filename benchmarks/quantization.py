"""Quantization on real data: the figures of docs/quantization.md.

    python benchmarks/quantization.py [small] [real] [curve] [trained] [plot]

Data and the SST-2 teacher are read in place from ../shared (or PENJING_SHARED), the other teachers are those of
main_job.py; results go to .cache/bench/quantization/, where a run that was stopped goes on. About
an hour in all; `real` and `small` time things, so leave the machine alone meanwhile.
How near int8 comes to the processor's peak is metal.py's to say.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from main_job import CACHE, ROOT, SST2, data, penjing, run
from peers import NNCF_FORMS, nncf_int8
from pruning import TASKS, model_of

from penjing.engines.clock.machine import cores
from penjing.engines.description import Description
from penjing.engines.form import EAGER, FLOAT_FORMS, INT8_FORMS, PORTABLE_FLOAT, Form, rounding_of
from penjing.engines.opening import open_engine
from penjing.files.records import to_json
from penjing.files.whole import write_json
from penjing.job.baseline import BASELINES, STOCK_INT8
from penjing.text.data import read_rows

HERE = CACHE / "quantization"
EPOCHS = {"sst2": 1, "mrpc": 3, "conll2000": 1}
QAT_ROWS = 20_000
"""Training rows of quantization-aware training, at most: a slice, since it starts from the teacher."""
KINDS = ("linear", "affine", "log", "kmeans")
WIDTHS = (8, 6, 4, 3, 2, 1)
SLICE_ROWS = 10_000


def sliced(name: str, count: int) -> Path:
    """Some of the training rows, drawn at random once; the whole file where it has no more."""
    out = HERE / f"{name}-{count}.jsonl"
    every = read_rows(str(data(name, "train")))
    if len(every) <= count:
        return data(name, "train")
    if not out.is_file():
        chosen = np.sort(np.random.default_rng(0).permutation(len(every))[:count])
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text("".join(json.dumps(every[i]) + "\n" for i in chosen), encoding="utf-8")
    return out


def quantize(name: str, out: str, rows: int, *options: object) -> Path:
    """One `penjing quantize` on a slice of the training rows, on dev where there is one; the folder it wrote."""
    dev = ["--eval", data(name, "dev")] if data(name, "dev").is_file() else []
    penjing(
        "quantize", "--model", model_of(name), "--task", TASKS[name], "--train", sliced(name, rows), *dev,
        "--test", data(name, "test"), "--max-length", 128, "--out", HERE / out, *options,
    )  # fmt: skip
    return HERE / out


def loaded(name: str) -> Any:
    """The task's data as the command line reads it."""
    from penjing.tasks.sources import load_data
    from penjing.text.reading import Reading

    dev = str(data(name, "dev")) if data(name, "dev").is_file() else ""
    return load_data(str(model_of(name)), TASKS[name], str(data(name, "train")), dev, Reading(max_length=128), print)


def real() -> None:
    """Float32, dynamic, static and trained int8 of ours, ONNX Runtime's own and NNCF's: one run for each task."""
    for name in TASKS:
        if not (HERE / f"{name}-real.json").is_file():
            write_json(HERE / f"{name}-real.json", compare(name))
    print(real_table())


def compare(name: str) -> dict[str, Any]:
    """Quality on dev and test against the teacher, latency, throughput: every engine a process of its own, in turn."""
    from penjing.engines.clock.machine import commit, kernel_class, machine, versions
    from penjing.engines.clock.measure import Sampling, Subject, measure
    from penjing.engines.onnx.export import export
    from penjing.job.baseline import stock_int8
    from penjing.model.checkpoint import read
    from penjing.steps.bits.calibrate import calibrate
    from penjing.tasks.judging import judge_pair
    from penjing.tasks.sources import load_examples

    trained = {
        scheme: quantize(name, f"{name}-{scheme}", QAT_ROWS, "--scheme", f"{scheme}-int8", "--epochs", EPOCHS[name]) / "engine"
        for scheme in ("qat", "qat-dynamic")
    }
    known, threads, teacher = loaded(name), cores(), HERE / f"{name}-teacher"
    model = read(model_of(name), head=known.task.head, labels=known.task.labels)
    texts = known.train.take(np.sort(np.random.default_rng(0).permutation(len(known.train))[:512]))
    files = [form.file for form in (*FLOAT_FORMS, *INT8_FORMS)]
    export(model, teacher, files, calibrate(model, texts.encoded), segments=name == "mrpc")
    stock_int8(teacher / PORTABLE_FLOAT, teacher / STOCK_INT8)
    stock = BASELINES["onnxruntime_int8"]
    rows: list[tuple[str, Form, Path]] = [("teacher", EAGER, model_of(name))]
    rows += [("float32", form, teacher) for form in FLOAT_FORMS]
    rows += [("peer", Form(stock.name, stock.engine, stock.file, batch=1), teacher)]
    nncf_int8(teacher / PORTABLE_FLOAT, texts.encoded, teacher)
    rows += [("peer", form, teacher) for form in NNCF_FORMS if not form.bucket]  # as they are served by others: dynamic lengths
    rows += [(f"{rounding_of(form)} int8", form, teacher) for form in INT8_FORMS]
    for scheme, taught in trained.items():
        rows += [(f"{scheme} int8", form, taught) for form in Description.read(taught).forms]
    sets = {"dev": known.eval, "test": load_examples(known, str(data(name, "test")), print)}
    reference = {split: open_engine(EAGER, model_of(name), threads).logits(examples.encoded) for split, examples in sets.items()}
    measured = measure(
        [Subject(form, place) for _, form, place in rows], known.eval.encoded, threads=threads, sampling=Sampling(throughput_texts=256)
    )
    figures = []
    for (kind, form, place), m in zip(rows, measured, strict=True):
        engine = open_engine(form, place, threads)
        judged = {
            split: to_json(judge_pair(known.task, examples, engine.logits(examples.encoded), examples, reference[split]))
            for split, examples in sets.items()
        }
        _, low, high, _ = m.speedup_over(measured[0])
        figures.append(judged | {
            "kind": kind, "form": form.name, "latency_ms": m.latency_ms, "throughput_per_s": m.throughput_per_s,
            "speedup": [measured[0].latency_ms / m.latency_ms, low, high],
        })  # fmt: skip
    return {"rows": figures, "machine": asdict(machine()), "versions": versions(), "commit": commit(), "kernels": kernel_class()}


def real_table() -> str:
    """What `real` found, as Markdown."""
    lines = ["| data | int8 | form | lost, dev (95 %) | lost, test (95 %) | ms | texts/s |", "| --- | --- | --- | --- | --- | --- | --- |"]
    for name in TASKS:
        path = HERE / f"{name}-real.json"
        for row in json.loads(path.read_text())["rows"] if path.is_file() else []:
            lost = ["{:.2f} ({:.2f} … {:.2f})".format(row[s]["drop"], *row[s]["drop_ci95"]) for s in ("dev", "test")]
            figures = f"{row['latency_ms']:.2f} | {row['throughput_per_s']:.0f}"
            lines.append(f"| {name} | {row['kind']} | {row['form']} | {lost[0]} | {lost[1]} | {figures} |")
    return "\n".join(lines)


def schemes() -> Iterator[tuple[str, int, Any]]:
    """Every stored method at every number of bits that it has."""
    from penjing.maths.stored import Scheme

    for kind in KINDS:
        for bits in WIDTHS:
            if bits > 1 or kind == "kmeans":
                yield kind, bits, Scheme(kind, bits, 128, "mse")
    yield "ternary", 2, Scheme("ternary", 2, 128)
    yield "binary", 1, Scheme("binary", 1, 128)


def curve() -> None:
    """Bytes against quality, nothing trained: rounded as it is, and linear with the inputs in mind; the whole deployment's bytes."""
    from penjing.model.checkpoint import read
    from penjing.model.watch import matrices_of
    from penjing.steps.bits.gptq import round_model
    from penjing.steps.bits.store import scheme_of

    known = loaded("sst2")
    teacher = read(SST2, head="sequence", labels=known.task.labels)
    texts = known.train.take(np.sort(np.random.default_rng(0).permutation(len(known.train))[:256])).encoded
    points: list[dict[str, Any]] = []
    for kind, bits, scheme in schemes():
        wanted = {name: scheme_of(name, teacher.get_parameter(name).shape[1], scheme) for name in matrices_of(teacher)}
        found = {"rounded": rounded(teacher, wanted)}
        if kind in ("linear", "affine"):
            found["rounded by its inputs"] = round_model(teacher, texts, wanted)
        for how, (model, coded) in found.items():
            points.append({"kind": kind, "bits": bits, "how": how} | deployed(known, model, coded))
            print(points[-1], flush=True)
            write_json(HERE / "curve.json", {"points": points})


def rounded(model: Any, schemes: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """A copy of the model whose matrices have the values of their codes, and the codes."""
    import torch

    from penjing.maths.stored import quantize
    from penjing.model.surgery import copy_of

    result = copy_of(model)
    coded = {name: quantize(model.get_parameter(name), scheme) for name, scheme in schemes.items()}
    with torch.no_grad():
        for name, codes in coded.items():
            result.get_parameter(name).copy_(torch.from_numpy(codes.values()))
    return result, coded


def deployed(known: Any, model: Any, coded: Any) -> dict[str, Any]:
    """Quality on dev, and bytes of weights, tokenizer and configuration."""
    import tempfile

    from penjing.model.writing import write
    from penjing.tasks.judging import judge
    from penjing.training.predict import logits_of

    with tempfile.TemporaryDirectory() as folder:
        write(model, Path(folder) / "model", tokenizer=SST2, packed=True, coded=coded)
        needed = ("packed.safetensors", "tokenizer.json", "config.json")
        size = sum((Path(folder) / "model" / name).stat().st_size for name in needed)
    judged = judge(known.task, known.eval, logits_of(model, known.eval.encoded))
    return {"bytes": size, "quality": judged.quality, "quality_ci95": list(judged.quality_ci95)}


def trained() -> None:
    """The fewest bits, taught by the float teacher on a slice of the training texts."""
    for kind, bits in (("linear", 3), ("linear", 2), ("kmeans", 2), ("ternary", 2), ("binary", 1)):
        quantize("sst2", f"sst2-{kind}{bits}", SLICE_ROWS, "--scheme", kind, "--bits", bits, "--epochs", 1)


def small() -> None:
    """The whole deployment in 8 MB."""
    penjing(
        "compress", "--model", SST2, "--task", "classification", "--train", data("sst2", "train"), "--eval", data("sst2", "dev"),
        "--test", data("sst2", "test"), "--max-length", 128, "--size-mb", 8, "--max-drop", 1, "--epochs", 1, "--minutes", 5, "--out", HERE / "sst2-small",
    )  # fmt: skip


COLOURS = {
    "linear": "#1f6fb2", "linear, rounded by its inputs": "#0b3c66", "affine": "#d1662b", "affine, rounded by its inputs": "#8a3d12",
    "log": "#7b52a1", "kmeans": "#2f8f4e", "ternary": "#b5318a", "binary": "#555555",
}  # fmt: skip
LEFT, TOP, WIDE, HIGH = 60, 50, 560, 330
MB, POINTS = (3.8, 52.0), (50.0, 92.0)


def plot() -> None:
    """docs/quantization.svg: accuracy against the bytes of the whole deployment; rings are trained."""
    points = json.loads((HERE / "curve.json").read_text())["points"]
    lines: dict[str, list[tuple[float, float, int]]] = {}
    for p in points:
        name = p["kind"] + (", rounded by its inputs" if p["how"] != "rounded" else "")
        lines.setdefault(name, []).append((p["bytes"] / 1e6, p["quality"], p["bits"]))
    taught = [json.loads(path.read_text()) for path in sorted(HERE.glob("sst2-*[1-8]/report.json"))]
    (ROOT / "docs" / "quantization.svg").write_text(drawing(lines, taught), encoding="utf-8")


def drawing(lines: dict[str, list[tuple[float, float, int]]], taught: list[dict[str, Any]]) -> str:
    """An SVG of lines (MB, accuracy, bits), and of reports of trained models."""

    def x(mb: float) -> float:
        return float(LEFT + WIDE * np.log(mb / MB[0]) / np.log(MB[1] / MB[0]))

    def y(quality: float) -> float:
        return TOP + HIGH * (POINTS[1] - quality) / (POINTS[1] - POINTS[0])

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDE + 230} {TOP + HIGH + 60}" font-family="sans-serif" font-size="12">',
           f'<rect width="{LEFT + WIDE + 230}" height="{TOP + HIGH + 60}" fill="white"/>',
           f'<text x="{LEFT}" y="24" font-weight="bold">SST-2 dev accuracy against the bytes of the whole deployment</text>',
           f'<text x="{LEFT + WIDE / 2}" y="{TOP + HIGH + 45}" text-anchor="middle">MB: weights, tokenizer, configuration (the float32 model: 91)</text>']  # fmt: skip
    for value in range(50, 91, 10):
        out.append(f'<line x1="{LEFT}" x2="{LEFT + WIDE}" y1="{y(value):.1f}" y2="{y(value):.1f}" stroke="#e4e4e4"/>')
        out.append(f'<text x="{LEFT - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{value}</text>')
    for mb in (4, 5, 6, 8, 10, 12, 16, 20, 25, 35, 50):
        out.append(f'<text x="{x(mb):.1f}" y="{TOP + HIGH + 20}" text-anchor="middle">{mb}</text>')
    for i, (name, line) in enumerate(lines.items()):
        path = " ".join(f"{x(mb):.1f},{y(quality):.1f}" for mb, quality, _ in line)
        out.append(f'<polyline points="{path}" fill="none" stroke="{COLOURS[name]}" stroke-width="1.8"/>')
        for mb, quality, bits in line:
            out.append(
                f'<circle cx="{x(mb):.1f}" cy="{y(quality):.1f}" r="3.5" fill="{COLOURS[name]}"><title>{name}, {bits} bits</title></circle>'
            )
        out.append(f'<circle cx="{LEFT + WIDE + 20}" cy="{TOP + 20 * i}" r="4.5" fill="{COLOURS[name]}"/>')
        out.append(f'<text x="{LEFT + WIDE + 32}" y="{TOP + 20 * i + 4}">{name}</text>')
    for report in taught:
        stored = next(step["store"] for step in report["asked"]["recipe"] if "store" in step)
        kind, bits, result = stored["scheme"], stored["bits"], report["result"]
        px, py = x(result["bytes"] / 1e6), y(result["quality"])
        out.append(f'<circle cx="{px:.1f}" cy="{py:.1f}" r="7" fill="none" stroke="{COLOURS[kind]}" stroke-width="2"/>')
        out.append(
            f'<text x="{px:.1f}" y="{py - 11:.1f}" text-anchor="middle" font-size="10" fill="{COLOURS[kind]}">{kind} {bits}, trained</text>'
        )
    return "\n".join([*out, "</svg>", ""])


JOBS = {"small": small, "real": real, "trained": trained, "curve": curve, "plot": plot}

if __name__ == "__main__":
    run(JOBS, real_table)
