"""What a result is held against: how it is measured, the teacher and the baselines, and the gates."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from penjing.blueprint import Blueprint
from penjing.engines.clock.machine import has_bfloat16
from penjing.engines.clock.measure import Subject, model_bytes
from penjing.engines.clock.trial import Trial
from penjing.engines.engine import DESCRIPTION, EAGER, EAGER_BF16, Form, open_engine
from penjing.engines.onnx.export import PORTABLE_FLOAT, PORTABLE_INT8, export
from penjing.job.asked import Budget, Job
from penjing.job.recipe import Recipe
from penjing.model.checkpoint import blueprint_of, locate
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.steps.bits.quantize import Quantize
from penjing.tasks.judge import Logits, judge
from penjing.tasks.task import Examples
from penjing.text.encoded import load_rows, save_rows

PARITY = 1e-3
"""Largest difference of float32 logits between PyTorch and an engine."""
PARITY_HALF = 0.05
"""The same of students of arrays, which are stored in half precision, against what the library that fitted them answers."""
SLOW = 1.4
"""A form this many times slower than the fastest on the teacher is not measured again."""
INT8_LOSS = 0.5
"""Points that int8 may lose against the same model in float32, where no drop is allowed that says it."""
APART = 2.0
"""How far the exported integers may be from their emulation, in terms of how far the emulation is from float32.

Layer by layer the two are equal. Through a whole model they are not: what lies on the edge between two integers goes either way, and two
independent roundings are √2 apart. Sums that overflow, or ranges of another layer, are many times as far.
"""
STOCK_INT8 = "stock-int8.onnx"
BASELINES = {
    "onnxruntime_int8": Form("onnxruntime int8 by quantize_dynamic of Penjing's graph, teacher", "onnxruntime", STOCK_INT8, batch=1),
    "openvino_int8": Form("openvino int8 of Penjing's graph and calibration, teacher", "openvino", PORTABLE_INT8),
}
"""The teacher in each engine's int8, on the graph that Penjing exports: faster rivals than an engine makes of a traced model."""


def trial_of(job: Job, tell: Callable[[str], None]) -> Trial:
    """How a job measures."""
    data = job.data
    return Trial(data.task, job.threads, job.seed, data.task.name == "pair", data.max_length, job.wait_s, tell)


@dataclass(frozen=True)
class Known:
    """The teacher that a result is held against: its folder, blueprint, exports and what the baseline step recorded; the texts as its own
    tokenizer encodes them, and its logits of each."""

    model: Path
    tokenizer: Path
    blueprint: Blueprint
    exported: Path
    baseline: Mapping[str, Any]
    eval: Examples
    judging: Examples

    @property
    def logits(self) -> Logits:
        """Of the evaluation data."""
        return load_rows(self.exported / "teacher.npz")

    @property
    def judged(self) -> Logits:
        """Of the training texts held out to choose by."""
        return load_rows(self.exported / "judging.npz")


def stock_int8(source: Path, target: Path) -> None:
    """ONNX Runtime's own dynamic quantization of the float32 graph, per channel."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        quantize_dynamic(source, target, weight_type=QuantType.QInt8, per_channel=True)
    finally:
        logging.disable(before)


def eager_forms() -> dict[str, Form]:
    """The teacher in PyTorch: float32, and bfloat16 where the processor has it."""
    return {"torch_eager": EAGER} | ({"torch_eager_bf16": EAGER_BF16} if has_bfloat16() else {})


def baseline(
    job: Job, judging: Examples, teacher: PenjingPreTrainedModel, texts: Examples, forms: Sequence[Form], folder: Path, tokenizer: Path,
    trial: Trial,
) -> dict[str, Any]:  # fmt: skip
    """The teacher as it is, and what the engines' int8 makes of it: quality, and files in `folder` to time it with.

    Args:
        judging: the training texts held out to choose by.
        texts: that activations are calibrated on.
        forms: those that the result may have.
    """
    data, task, model = job.data, trial.task, locate(job.model)
    for name, examples in (("teacher", data.eval), ("judging", judging)):
        save_rows(folder / f"{name}.npz", open_engine(EAGER, model, job.threads).logits(examples.encoded))
    ranges = Quantize().observe(teacher, texts)
    export(teacher, folder, [PORTABLE_FLOAT, PORTABLE_INT8, *(form.file for form in forms)], ranges, segments=trial.segments)
    stock_int8(folder / PORTABLE_FLOAT, folder / STOCK_INT8)
    qualities = {"torch_eager": judge(task, data.eval, load_rows(folder / "teacher.npz"))}
    for name, form in eager_forms().items():
        if name not in qualities:
            qualities[name] = judge(task, data.eval, open_engine(form, model, job.threads).logits(data.eval.encoded))
    for name, form in BASELINES.items():
        qualities[name] = judge(task, data.eval, open_engine(form, folder, job.threads).logits(data.eval.encoded))
    measured = trial.measure([Subject(EAGER, model), *(Subject(form, folder) for form in forms)], data.eval.encoded, throughput_texts=0)
    fastest, best = min(zip(forms, measured[1:], strict=True), key=lambda pair: pair[1].latency_ms)
    extra = (folder / PORTABLE_INT8).stat().st_size - replace(blueprint_of(teacher), bits=8).bytes
    for unused in {PORTABLE_FLOAT} - {form.file for form in forms}:
        (folder / unused).unlink(missing_ok=True)
    quality = qualities["torch_eager"]["quality"]
    note = f"{task.metric().name} {quality:.2f}; eager {measured[0].latency_ms:.2f} ms, {fastest.name} {best.latency_ms:.2f} ms"
    return {
        "qualities": qualities, "quality": quality, "ranges": ranges, "eager_ms": measured[0].latency_ms,
        "forms_ms": {form.name: m.latency_ms for form, m in zip(forms, measured[1:], strict=True) if m.steady},
        "form": fastest.to_dict(), "extra_bytes": extra + tokenizer.stat().st_size, "note": note,
    }  # fmt: skip


def worth_measuring(forms: Sequence[Form], times: Mapping[str, float]) -> list[Form]:
    """The forms that were not far behind on the teacher, as far as their times are known, and the portable file on each engine."""
    fastest = min(times.values(), default=0.0)
    return [form for form in forms if times.get(form.name, 0.0) <= SLOW * fastest or form.portable]


def baseline_bytes(known: Known, name: str) -> int:
    """Bytes of a baseline's deployment: weights, tokenizer, configuration."""
    if name in BASELINES:
        return (known.exported / BASELINES[name].file).stat().st_size + known.tokenizer.stat().st_size
    return model_bytes(known.model)


def form_bytes(folder: Path, form: Form) -> int:
    """Bytes of every file that this form needs."""
    paths = [folder / name for name in (*form.files, "tokenizer.json", DESCRIPTION)]
    files = [file for path in paths for file in (path.iterdir() if path.is_dir() else [path])]
    return sum(file.stat().st_size for file in files if file.is_file())


def int8_limit(budget: Budget) -> float:
    """Points that int8 may lose against float32: as many as may be lost in all, where that is more than usual."""
    return max(INT8_LOSS, budget.max_drop or 0.0)


def gates_of(result: Mapping[str, Any], verified: Mapping[str, Any], budget: Budget, recipe: Recipe) -> list[dict[str, Any]]:
    """What was asked (`asked`), and what is checked anyway; those that decide whether a result is one (`decides`) are both."""
    gates: list[dict[str, Any]] = []

    def gate(name: str, value: float | None, limit: float | None, kept: bool, asked: bool = True, decides: bool = True) -> None:
        if limit is not None:
            gates.append({"name": name, "passed": kept, "value": value, "limit": limit, "asked": asked, "decides": decides})

    def most(name: str, value: float | None, limit: float | None, asked: bool = True) -> None:
        gate(name, value, limit, value is not None and limit is not None and value <= limit, asked)

    speedup, chosen = result["speedup_vs_eager"], verified["choice"]
    gate("speedup", speedup, budget.speedup, speedup is not None and speedup >= (budget.speedup or 0.0))
    gate("steady machine", float(result["steady"]), 1.0, result["steady"], asked=False, decides=False)
    most("latency_ms", result["latency_ms"], budget.latency_ms)
    most("size_mb", result["bytes"] / 1e6, budget.size_mb)
    most(
        "drop" if budget.confidence is None else "drop_at_most",
        result["drop" if budget.confidence is None else "drop_at_most"],
        budget.max_drop,
    )
    most("macs", result["macs"], recipe.macs)
    if recipe.prune and recipe.prune.latency:
        own = verified["shapes"][0]
        most("part of the latency", 1 / own["speedup"] if own["steady"] else None, recipe.prune.latency)
    if recipe.sparsify:
        sparsity, limit = round(verified["stored"]["sparsity"], 4), recipe.sparsify.sparsity - 1e-4
        gate("sparsity", sparsity, limit, sparsity >= limit)
    for engine, difference in chosen["parity"].items():
        limit = chosen["parity_limit"]
        gate(f"float32 parity, {engine}", difference, limit, difference <= limit, asked=False, decides=engine == result["engine"])
    for form in chosen["forms"]:
        shipped = form["name"] == result["form"]
        if form["int8"]:
            gate(
                f"int8 loss on texts held out, {form['name']}",
                form["loss"],
                int8_limit(budget),
                form["loss"] <= int8_limit(budget),
                False,
                shipped,
            )
        if form["apart"] is not None:
            gate(f"integers against their emulation, {form['name']}", form["apart"], APART, form["apart"] <= APART, False, shipped)
    return gates


def met(gates: Sequence[Mapping[str, Any]]) -> bool | None:
    """Whether every gate that decides is passed; None where nothing was asked and nothing that decides failed."""
    if not all(gate["passed"] for gate in gates if gate["decides"]):
        return False
    return True if any(gate["asked"] for gate in gates) else None
