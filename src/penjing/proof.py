"""What a result is held against: the baselines, the gates, and which form is the one to ship."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from penjing.arrays import save_rows
from penjing.checkpoint import blueprint_of, locate
from penjing.engines.engine import DESCRIPTION, EAGER, Form, open_engine
from penjing.engines.export import PORTABLE_FLOAT, PORTABLE_INT8, export
from penjing.engines.measure import Measurement, Subject, measure
from penjing.job import Budget, Job
from penjing.modeling_penjing import PenjingPreTrainedModel
from penjing.recipe import Recipe
from penjing.steps.quantize import Quantize
from penjing.tasks.judge import judge
from penjing.tasks.task import Examples

PARITY = 1e-3
"""Largest difference of float32 logits between PyTorch and an engine."""
SLOW = 1.4
"""A form this many times slower than the fastest on the teacher is not measured again."""
STEADY = 1.3
"""Largest over smallest speed-up of the rounds; beyond it the machine was too busy to be believed."""
INT8_LOSS = 0.5
"""Points that int8 may lose against float32."""
STOCK_INT8 = "stock-int8.onnx"
BASELINES = {
    "onnxruntime_int8": Form("onnxruntime stock dynamic int8, teacher", "onnxruntime", STOCK_INT8, batch=1),
    "openvino_int8": Form("openvino int8, teacher", "openvino", PORTABLE_INT8),
}


def stock_int8(source: Path, target: Path) -> None:
    """ONNX Runtime's own dynamic quantization of the float32 graph."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.disable(logging.WARNING)
    try:
        quantize_dynamic(source, target, weight_type=QuantType.QInt8)
    finally:
        logging.disable(logging.NOTSET)


def baseline(
    job: Job, teacher: PenjingPreTrainedModel, texts: Examples, forms: Sequence[Form], folder: Path, tokenizer_bytes: int, segments: bool
) -> dict[str, Any]:  # fmt: skip
    """The teacher as it is, and what the engines' own int8 makes of it: quality, and files in `folder` to time it with.

    Args:
        texts: that activations are calibrated on.
        forms: those that the result may have.
        segments: whether texts come in pairs.
    """
    data, task, model = job.data, job.data.task, locate(job.model)
    eager = open_engine(EAGER, model, job.threads).logits(data.eval.encoded)
    save_rows(folder / "teacher.npz", eager)
    ranges = Quantize().observe(teacher, texts)
    export(teacher, folder, [PORTABLE_FLOAT, PORTABLE_INT8, *(form.file for form in forms)], ranges, segments=segments)
    stock_int8(folder / PORTABLE_FLOAT, folder / STOCK_INT8)
    qualities = {"torch_eager": judge(task, data.eval, eager)}
    for name, form in BASELINES.items():
        qualities[name] = judge(task, data.eval, open_engine(form, folder, job.threads).logits(data.eval.encoded))
    subjects = [Subject(EAGER, model), *(Subject(form, folder) for form in forms)]
    measured = measure(subjects, data.eval.encoded, threads=job.threads, seed=job.seed, throughput_texts=0)
    fastest, best = min(zip(forms, measured[1:], strict=True), key=lambda pair: pair[1].latency_ms)
    extra = (folder / PORTABLE_INT8).stat().st_size - replace(blueprint_of(teacher), bits=8).bytes
    for unused in {PORTABLE_FLOAT} - {form.file for form in forms}:
        (folder / unused).unlink(missing_ok=True)
    quality = qualities["torch_eager"]["quality"]
    note = f"{task.metric().name} {quality:.2f}; eager {measured[0].latency_ms:.2f} ms, {fastest.name} {best.latency_ms:.2f} ms"
    return {
        "qualities": qualities, "quality": quality, "ranges": ranges, "eager_ms": measured[0].latency_ms,
        "forms_ms": {form.name: m.latency_ms for form, m in zip(forms, measured[1:], strict=True)},
        "form": fastest.to_dict(), "extra_bytes": extra + tokenizer_bytes, "note": note,
    }  # fmt: skip


def worth_measuring(forms: Sequence[Form], times: dict[str, float]) -> list[Form]:
    """The forms that were not far behind on the teacher, and the portable file on each engine."""
    fastest = min(times.values())
    return [form for form in forms if times.get(form.name, 0.0) <= SLOW * fastest or form.portable]


def choose(forms: Sequence[Form], judged: dict[str, dict[str, Any]], measured: dict[str, Measurement], max_drop: float | None) -> Form:
    """The fastest form that keeps the quality; where none does, the best in quality."""
    limit = max_drop if max_drop is not None else min(judged[form.name]["drop"] for form in forms) + INT8_LOSS
    good = [form for form in forms if judged[form.name]["drop"] <= limit]
    if good:
        return min(good, key=lambda form: measured[form.name].latency_ms)
    return min(forms, key=lambda form: judged[form.name]["drop"])


def teacher_bytes(model: Path, exported: Path, name: str) -> int:
    """Bytes of a baseline's deployment: weights, tokenizer, configuration."""
    tokenizer = (model / "tokenizer.json").stat().st_size if (model / "tokenizer.json").is_file() else 0
    if name in BASELINES:
        return (exported / BASELINES[name].file).stat().st_size + tokenizer
    weights = sum(file.stat().st_size for file in [*model.glob("*.safetensors"), *model.glob("*.bin")])
    return weights + tokenizer + (model / "config.json").stat().st_size


def form_bytes(folder: Path, form: Form) -> int:
    """Bytes of every file that this form needs."""
    paths = [folder / name for name in (*form.files, "tokenizer.json", DESCRIPTION)]
    files = [file for path in paths for file in (path.iterdir() if path.is_dir() else [path])]
    return sum(file.stat().st_size for file in files if file.is_file())


def gates_of(result: dict[str, Any], verified: dict[str, Any], budget: Budget, recipe: Recipe, int8: bool) -> list[dict[str, Any]]:
    """What was asked (these decide), and what is checked anyway."""
    gates: list[dict[str, Any]] = []

    def gate(name: str, value: float, limit: float | None, passed: Callable[[float, float], bool], asked: bool = True) -> None:
        if limit is not None:
            gates.append({"name": name, "passed": passed(value, limit), "value": value, "limit": limit, "asked": asked})

    def most(value: float, limit: float) -> bool:
        return value <= limit

    gate("speedup", result["speedup_vs_eager"], budget.speedup, lambda value, limit: value >= limit)
    low, high = verified["speedup_range"]
    gate("steady machine", high / low, STEADY, most, asked=False)
    gate("latency_ms", result["latency_ms"], budget.latency_ms, most)
    gate("size_mb", result["bytes"] / 1e6, budget.size_mb, most)
    gate("drop", result["drop"], budget.max_drop, most)
    gate("macs", result["macs"], recipe.macs, most)
    if recipe.prune and recipe.prune.latency:
        gate("part of the latency", 1 / verified["shapes"][0]["speedup"], recipe.prune.latency, most)
    if recipe.sparsify:
        gate("sparsity", round(verified["stored"]["sparsity"], 4), recipe.sparsify.sparsity - 1e-4, lambda value, limit: value >= limit)
    for engine, difference in verified["parity"].items():
        gate(f"float32 parity, {engine}", difference, PARITY, most, asked=False)
    if int8:
        for form in verified["forms"]:
            gate(f"int8 loss, {form['name']}", verified["float_quality"] - form["quality"], INT8_LOSS, most, asked=False)
    return gates
