"""The baseline: quality and speed of the unchanged teacher, and of the engines' own int8 of it, measured once."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from penjing.blueprint import Blueprint
from penjing.engines.clock.machine import has_bfloat16
from penjing.engines.clock.measure import Subject
from penjing.engines.clock.trial import Trial
from penjing.engines.description import DESCRIPTION
from penjing.engines.form import EAGER, EAGER_BF16, PORTABLE_FLOAT, PORTABLE_INT8, TOKENIZER, Form
from penjing.engines.onnx.export import export
from penjing.engines.opening import open_engine
from penjing.model.building import blueprint_of
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.model.packing import PACKED
from penjing.model.weights import INDEX, WHOLE, weight_files
from penjing.report.record import EAGER_BASELINE, BaselineRecord
from penjing.steps.bits.calibrate import calibrate
from penjing.tasks.judging import judge
from penjing.tasks.task import Examples
from penjing.text.encoded import Logits, load_rows, save_rows

SLOW = 1.4
"""A form this many times slower than the fastest on the teacher is not measured again."""
STOCK_INT8 = "stock-int8.onnx"
EVALUATED = "teacher.npz"
JUDGED = "judging.npz"
"""Files of the teacher's logits: of the evaluation data, and of the held-out training texts."""
BASELINES = {
    "onnxruntime_int8": Form("onnxruntime int8 by quantize_dynamic of Penjing's graph, teacher", "onnxruntime", STOCK_INT8, batch=1),
    "openvino_int8": Form("openvino int8 of Penjing's graph and calibration, teacher", "openvino", PORTABLE_INT8),
}
"""The teacher in each engine's int8, on the graph that Penjing exports: faster baselines than int8 of a traced model."""


@dataclass(frozen=True)
class Original:
    """The given teacher: folder, tokenizer.json, model; and texts encoded by its own tokenizer.

    eval: evaluation texts. judging: held-out training texts. calibration: training texts that activations are calibrated on.
    """

    folder: Path
    tokenizer: Path
    model: PenjingPreTrainedModel
    eval: Examples
    judging: Examples
    calibration: Examples


@dataclass(frozen=True)
class Reference:
    """The measured teacher that results are compared with.

    folder, tokenizer, blueprint: of the teacher. exported: the folder of its exports. record: their measurements. eval, judging: the
    evaluation texts and the held-out training texts, encoded by its own tokenizer.
    """

    folder: Path
    tokenizer: Path
    blueprint: Blueprint
    exported: Path
    record: BaselineRecord
    eval: Examples
    judging: Examples

    @classmethod
    def of(cls, original: Original, exported: Path, record: BaselineRecord) -> "Reference":
        """The reference of a teacher that `measure_baseline` measured and exported."""
        return cls(original.folder, original.tokenizer, blueprint_of(original.model), exported, record, original.eval, original.judging)

    @property
    def logits(self) -> Logits:
        """The teacher's logits of the evaluation data."""
        return load_rows(self.exported / EVALUATED)

    @property
    def judged(self) -> Logits:
        """The teacher's logits of the held-out training texts."""
        return load_rows(self.exported / JUDGED)


def measure_baseline(trial: Trial, original: Original, forms: Sequence[Form], folder: Path) -> BaselineRecord:
    """Measure the baselines, the unchanged teacher and the engines' int8 of it: quality, latencies, and files in `folder`.

    Args:
        forms: the forms that a result may have.
    """
    task = trial.task
    model = original.folder
    texts = original.eval
    for name, examples in ((EVALUATED, texts), (JUDGED, original.judging)):
        save_rows(folder / name, open_engine(EAGER, model, trial.threads).logits(examples.encoded))
    ranges = calibrate(original.model, original.calibration.encoded)
    export(original.model, folder, [PORTABLE_FLOAT, PORTABLE_INT8, *forms], ranges, segments=trial.segments)
    stock_int8(folder / PORTABLE_FLOAT, folder / STOCK_INT8)
    qualities = {EAGER_BASELINE: judge(task, texts, load_rows(folder / EVALUATED))}
    for name, form in eager_forms().items():
        if name not in qualities:
            qualities[name] = judge(task, texts, open_engine(form, model, trial.threads).logits(texts.encoded))
    for name, form in BASELINES.items():
        qualities[name] = judge(task, texts, open_engine(form, folder, trial.threads).logits(texts.encoded))
    eager, *others = trial.measure([Subject(EAGER, model), *(Subject(form, folder) for form in forms)], texts.encoded, throughput_texts=0)
    fastest, best = min(zip(forms, others, strict=True), key=lambda pair: pair[1].latency_ms)
    extra = (folder / PORTABLE_INT8).stat().st_size - replace(blueprint_of(original.model), bits=8).bytes
    for unused in {PORTABLE_FLOAT} - {form.file for form in forms}:
        (folder / unused).unlink(missing_ok=True)
    quality = qualities[EAGER_BASELINE].quality
    steady = {form.name: measured.latency_ms for form, measured in zip(forms, others, strict=True) if measured.steady}
    note = f"{task.metric().name} {quality:.2f}; eager {eager.latency_ms:.2f} ms, {fastest.name} {best.latency_ms:.2f} ms"
    return BaselineRecord(qualities, quality, ranges, eager.latency_ms, steady, fastest, extra + original.tokenizer.stat().st_size, note)


def stock_int8(source: Path, target: Path) -> None:
    """Write ONNX Runtime's own dynamic quantization of a float32 graph, per channel."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        quantize_dynamic(source, target, weight_type=QuantType.QInt8, per_channel=True)
    finally:
        logging.disable(before)


def eager_forms() -> dict[str, Form]:
    """Forms of eager PyTorch: float32, and bfloat16 where the processor has it."""
    return {EAGER_BASELINE: EAGER} | ({"torch_eager_bf16": EAGER_BF16} if has_bfloat16() else {})


def worth_measuring(forms: Sequence[Form], times: Mapping[str, float]) -> list[Form]:
    """The forms that were at most `SLOW` times slower than the fastest on the teacher, or were not timed, or are portable."""
    fastest = min(times.values(), default=0.0)
    return [form for form in forms if times.get(form.name, 0.0) <= SLOW * fastest or form.portable]


def baseline_bytes(reference: Reference, name: str) -> int:
    """Bytes of a baseline's deployment: weights, tokenizer, configuration."""
    if name in BASELINES:
        return (reference.exported / BASELINES[name].file).stat().st_size + reference.tokenizer.stat().st_size
    return model_bytes(reference.folder, reference.tokenizer)


def model_bytes(folder: Path, tokenizer: Path) -> int:
    """Bytes of what is loaded of a model folder: weights (with the index of several files), configuration, and this tokenizer."""
    weights = weight_files(folder, pickle=True)
    index = [] if weights[0].name in (*WHOLE, PACKED) else [folder / (INDEX[0] if weights[0].suffix == ".safetensors" else INDEX[1])]
    return sum(file.stat().st_size for file in (*weights, *index, folder / "config.json", tokenizer))


def form_bytes(folder: Path, form: Form) -> int:
    """Bytes of every file that this form needs."""
    paths = [folder / name for name in (*form.files, TOKENIZER, DESCRIPTION)]
    files = [file for path in paths for file in (path.iterdir() if path.is_dir() else [path])]
    return sum(file.stat().st_size for file in files if file.is_file())
