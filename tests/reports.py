"""A complete report, made of the records that a run makes it of, so that a field of another name or type is an error."""

from dataclasses import replace
from typing import Any

from penjing.blueprint import Blueprint, Layer
from penjing.engines.clock.machine import Machine
from penjing.engines.clock.measurement import Figures
from penjing.engines.form import FLOAT_FORMS, INT8_FORMS, Form
from penjing.files.run import StepRecord
from penjing.job.baseline import BASELINES
from penjing.maths.scores import ReliabilityBin
from penjing.report.record import (
    Asked,
    Baseline,
    Calibration,
    Choice,
    ChosenQuality,
    FormChoice,
    FormRow,
    Gate,
    HeldOut,
    OtherData,
    Overlap,
    Report,
    Result,
    ShapeRow,
    Stored,
    StoredMatrix,
    Teacher,
    Verified,
    Workload,
)
from penjing.tasks.judging import FlippedExample, FlippedLabel, Flips, PairedQuality, Quality, Scores, TemperatureFit

TEACHER = Blueprint(30522, 512, 2, 384, 384, 32, (Layer(12, 1536),) * 6, "sequence", 2)
RESULT = Blueprint(12000, 512, 2, 128, 256, 32, (Layer(9, 820), Layer(4, 700), Layer(0, 512), Layer(7, 0)), "sequence", 2)
BUSY: dict[str, Any] = {"speedup_vs_eager": None, "steady": False, "disturbance": "other processes take 1.2 of 2 processors"}
"""Changes of a result on a machine that was busy."""


def figures(latency_ms: float, throughput_per_s: float | None, steady: bool = True) -> Figures:
    """The figures of a measurement."""
    return Figures(latency_ms, 1.5 * latency_ms, 2 * latency_ms, latency_ms + 0.1, throughput_per_s, 0.2, 0.3, 80.0, steady)


def paired(quality: float, teacher: float, ends: tuple[float, float], p: float) -> PairedQuality:
    """A quality beside the teacher's, with the ends of the drop's interval."""
    drop = round(teacher - quality, 6)
    return PairedQuality(quality, (quality - 2.2, quality + 2.0), teacher, drop, ends, ends[1], p)


def scores(off: float) -> Scores:
    """Scores that are so far from what they say."""
    bins = (ReliabilityBin(0.6, 0.7, 40, 0.65, 0.65 - off), ReliabilityBin(0.9, 1.0, 832, 0.97, 0.97 - off))
    return Scores(off, 0.17, 0.31, bins)


EAGER = Baseline(Quality(89.7, (87.6, 91.6)), "torch eager", figures(6.1, 500), 91_000_000)
BASELINE_ROWS = {
    "torch_eager": EAGER,
    "onnxruntime_int8": Baseline(Quality(89.1, (86.9, 91.1)), BASELINES["onnxruntime_int8"].name, figures(2.2, 1300), 23_400_000),
    "openvino_int8": Baseline(Quality(89.5, (87.4, 91.4)), BASELINES["openvino_int8"].name, figures(2.6, 1250, steady=False), 24_000_000),
}
JUDGED = paired(88.9, 89.7, (-0.4, 1.9), 0.21)
FORMS = (
    FormRow("onnxruntime fused int8", "onnxruntime", True, 11_800_000, 95.1, 0.2, True, figures(0.837, 3900), JUDGED),
    FormRow("openvino int8", "openvino", False, 12_400_000, 94.9, 0.4, True, figures(1.02, 3100, steady=False), None),
    FormRow("onnxruntime int8", "onnxruntime", False, 12_400_000, 90.1, 5.2, False, figures(1.0, None), None),
)
GATES = (
    Gate("speedup", True, 7.29, 7.0),
    Gate("steady machine", True, 1.0, 1.0, asked=False, decides=False),
    Gate("size_mb", True, 11.8, 20),
    Gate("drop", True, 0.8, 1.5),
    Gate("float32 parity, onnxruntime", True, 2e-6, 1e-3, asked=False),
    Gate("int8 loss on texts held out, onnxruntime fused int8", True, 0.2, 1.5, asked=False),
    Gate("int8 loss on texts held out, onnxruntime int8", False, 5.2, 1.5, asked=False, decides=False),
)
ASKED = Asked(
    model="teachers/sst2", task="classification", train="sst2/train.jsonl.gz", eval="sst2/validation.jsonl.gz", test=("imdb.jsonl",), speedup=7.0,
    latency_ms=None, size_mb=20, max_drop=1.5, confidence=None, minutes=None, engine=None, threads=2, seed=0, max_length=128, metric="accuracy",
    positive="", recipe=({"distill": {"losses": {"kl": 1.0}}}, {"quantize": {"scheme": "any"}}), corpus=None, material=None, data=("ab", "cd"),
)  # fmt: skip
FLIPPED = Flips(
    worse=12,
    better=9,
    examples=(
        FlippedExample("it 's not a bad film", "positive", "negative", "positive"),
        FlippedExample("这家酒店的早餐很一般，但是位置确实方便。", "positive", "positive", "negative"),
        FlippedExample("<script>alert(1)</script> | a pair", "1", "1", "0"),
    ),
    by_label=(FlippedLabel("positive", 444, 12, 1, 0.003, 0.006), FlippedLabel("negative", 428, 0, 8, 0.2, 0.2)),
)
SHAPE = ShapeRow(1, 24, True, "onnxruntime fused int8", 2.0, 0.8, 2.5, True, 0.3)
STORED = Stored(
    9_000_000, 0.1, 1_000_000, 0.2, 0.1, {"encoder.layers.0.attention.query.weight": StoredMatrix("linear", 4, 1024)}, sparsity=0.5
)  # fmt: skip
FULL = Report(
    penjing="0.1.0",
    task="classification",
    metric="accuracy",
    metric_said="accuracy: the convention",
    met=True,
    asked=ASKED,
    command="penjing compress --model teachers/sst2 --task classification --train sst2/train.jsonl.gz --eval sst2/validation.jsonl.gz"
    " --out small --speedup 7 --size-mb 20 --max-drop 1.5 --threads 2",
    date="2026-11-21T10:00:00Z",
    commit="abc123",
    seed=0,
    workload=Workload(24.0, 44.0, 1, 2, 100),
    machine=Machine("Intel Xeon Platinum 8488C", 2, 24.0, "Linux 6.1", ("avx512_vnni", "amx_int8")),
    versions={"python": "3.11", "torch": "2.13.0", "transformers": "5.2.0", "onnxruntime": "1.23"},
    teacher=Teacher(EAGER, 22_700_000),
    baselines=BASELINE_ROWS,
    result=Result(
        engine="onnxruntime", bytes=11_800_000, held_out_quality=95.1, judged=JUDGED, figures=figures(0.837, 3900), form="onnxruntime fused int8",
        parameters=4_380_000, float_quality=89.0, speedup_vs_eager=7.29, speedup_range=(7.1, 7.5), disturbance="", macs=0.3,
        kernels="AVX-512 VNNI", float_layers=(), temperature=1.2,
    ),
    forms=FORMS,
    gates=GATES,
    steps=(
        StepRecord("prune", 12.3, 85.1, 31_000_000, "6 layers → 4 layers"),
        StepRecord("distill", 341.0, 89.0, 31_000_000, None),
        StepRecord("verify", 3.2, 88.9, 11_800_000, None),
    ),
    blueprint=RESULT,
    teacher_blueprint=TEACHER,
    kept_layers=(0, 2, 3, 5),
    student=None,
    held_out=HeldOut(1000, 0.4),
    flipped=FLIPPED,
    scores=Calibration(1.2, scores(0.04), scores(0.06), scores(0.02), 1000),
    overlap=Overlap(12, 34, 872),
    tests=(OtherData("imdb.jsonl", paired(84.0, 85.3, (0.2, 2.4), 0.02), Overlap(3, 0, 1500)),),
    shapes=(SHAPE,),
    stored=STORED,
)  # fmt: skip


def with_result(report: Report = FULL, **changes: Any) -> Report:
    """The report with other fields of its result, wherever they stand: in itself, in its figures or in its quality."""
    result = report.result
    for name, value in changes.items():
        if hasattr(result.judged, name):
            result = replace(result, judged=replace(result.judged, **{name: value}))
        elif hasattr(result.figures, name):
            result = replace(result, figures=replace(result.figures, **{name: value}))
        else:
            result = replace(result, **{name: value})
    return replace(report, result=result)


SHIPPED, OTHER = INT8_FORMS[1], INT8_FORMS[2]
"""int8 on ONNX Runtime, and on OpenVINO."""
FITTED = TemperatureFit(500, 500, 1.2, True, 0.4, 0.06, 0.2, 0.3, 0.02, 0.2)


def form_choice(form: Form, loss: float = 0.0, apart: float | None = 0.1) -> FormChoice:
    """A form that loses so much by rounding, and whose integers are so far from their emulation."""
    return FormChoice(form.name, form, 95.0, loss, form not in FLOAT_FORMS, apart, True, True, 1.0)


CHOICE = Choice(
    {SHIPPED.engine: 2e-6, OTHER.engine: 3e-6}, 1e-3, 95.3, 1000, SHIPPED, (form_choice(SHIPPED), form_choice(OTHER)),
    ChosenQuality(95.1, 0.4, 1.0, 1.2), FITTED, "chosen",
)  # fmt: skip
VERIFIED = Verified(
    choice=CHOICE, float_quality=89.0, chosen=SHIPPED, baselines=BASELINE_ROWS, forms=FORMS, speedup=7.29, speedup_range=(7.1, 7.5), steady=True,
    disturbance="", machine=FULL.machine, versions=FULL.versions, commit="abc123", date=FULL.date, flipped=FLIPPED, scores=FULL.scores, quality=88.9,
    overlap=FULL.overlap, note="verified", tests=FULL.tests, shapes=FULL.shapes, stored=STORED,
)  # fmt: skip
