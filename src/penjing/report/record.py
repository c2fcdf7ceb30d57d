"""The records of a comparison: what its steps keep of the teacher, the choice of a form and the proof, and the report made of them.

`to_json(report)` is report.json, key for key; `from_json(Report, …)` reads it back.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from penjing.blueprint import Blueprint
from penjing.engines.clock.machine import Machine
from penjing.engines.clock.measurement import Figures
from penjing.engines.form import Form
from penjing.files.records import EMPTY, MERGED, OPTIONAL
from penjing.files.run import StepRecord
from penjing.files.whole import Json
from penjing.tasks.judging import Flips, PairedQuality, Quality, Scores, TemperatureFit

EAGER_BASELINE = "torch_eager"
"""The baseline that speed-ups are against: the teacher in PyTorch, float32."""


# -- the teacher and its baselines -----------------------------------------------------------------------------


@dataclass(frozen=True)
class BaselineRecord:
    """What the step "baseline" keeps of the teacher.

    qualities: by baseline. ranges: of its activations. eager_ms, forms_ms: latency in PyTorch, and by the name of each form that was
    steady. form: the fastest. extra_bytes: of a deployment beside the weights.
    """

    qualities: Mapping[str, Quality]
    quality: float
    ranges: Mapping[str, tuple[float, float]]
    eager_ms: float
    forms_ms: Mapping[str, float]
    form: Form
    extra_bytes: int
    note: str


@dataclass(frozen=True)
class Baseline:
    """The teacher in one form: its quality, its figures, and the bytes of its deployment."""

    quality: Quality = field(metadata=MERGED)
    form: str
    figures: Figures = field(metadata=MERGED)
    bytes: int


@dataclass(frozen=True)
class Teacher:
    """The teacher in PyTorch, float32, and its parameters."""

    baseline: Baseline = field(metadata=MERGED)
    parameters: int


# -- the choice of a form --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LeftRow:
    """Where texts left early: the rule and its threshold; after which layers, the last being the end; and how many texts there."""

    rule: str
    threshold: float
    layers: tuple[int, ...]
    texts: tuple[int, ...]

    @property
    def mean_layers(self) -> float:
        """The layers that a text runs through on average."""
        return sum(layer * count for layer, count in zip(self.layers, self.texts, strict=True)) / max(1, sum(self.texts))


@dataclass(frozen=True)
class FormChoice:
    """One form as it was looked at on training texts held out.

    loss: points lost against the model in float32. apart: how far its integers are from their emulation; None in float. fit: whether it
    may be shipped. fair: whether its engine has parity. latency_ms, mean_ms: None where it was not timed. left: where texts leave early,
    for which the form may lose `drop` points more.
    """

    name: str
    form: Form
    held_out_quality: float
    loss: float
    int8: bool
    apart: float | None
    fit: bool
    fair: bool
    latency_ms: float | None = None
    mean_ms: float | None = None
    left: LeftRow | None = field(default=None, metadata=OPTIONAL)
    drop: float = 0.0


@dataclass(frozen=True)
class ChosenQuality:
    """The quality of the chosen form on training texts held out, against the teacher's, and the temperature of its scores."""

    quality: float
    drop: float
    drop_at_most: float
    temperature: float


@dataclass(frozen=True)
class Choice:
    """What the step "choose" keeps: every form that was looked at, and the one to ship.

    parity: largest difference of float32 logits from the model's own, by engine; `parity_limit` of it is allowed. chosen, held_out: None
    where no form has parity. scores: how the temperature was fitted; None where the labels are the teacher's own.
    """

    parity: Mapping[str, float]
    parity_limit: float
    float_quality: float
    examples: int
    chosen: Form | None
    forms: tuple[FormChoice, ...]
    held_out: ChosenQuality | None = field(metadata=MERGED)
    scores: TemperatureFit | None = field(metadata=EMPTY)
    note: str

    def lost(self, confidence: float | None) -> float:
        """Points lost on texts held out, or with a `confidence` the most that may have been lost; infinite where no form was chosen."""
        if self.held_out is None:
            return float("inf")
        return self.held_out.drop if confidence is None else self.held_out.drop_at_most


# -- the proof -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FormRow:
    """One form of the result as it was timed; `judged` is of the form that is shipped, on the evaluation data."""

    name: str
    engine: str
    chosen: bool
    bytes: int
    held_out_quality: float
    loss: float
    fit: bool
    figures: Figures = field(metadata=MERGED)
    judged: PairedQuality | None = field(metadata=MERGED)


@dataclass(frozen=True)
class Overlap:
    """Evaluation texts that are training texts (`same`), or stand in one (`inside`), of so many."""

    same: int
    inside: int
    examples: int


@dataclass(frozen=True)
class OtherData:
    """The result against the teacher on further data, called by its file."""

    data: str
    judged: PairedQuality = field(metadata=MERGED)
    overlap: Overlap


@dataclass(frozen=True)
class ShapeRow:
    """The result against the uncut model in the same form, on texts of so many tokens, or of the data's `own` lengths; `macs` is the part
    of the multiply-accumulates that is left."""

    batch: int
    tokens: int
    own: bool
    form: str
    teacher_ms: float
    latency_ms: float
    speedup: float
    steady: bool
    macs: float


@dataclass(frozen=True)
class StoredMatrix:
    """A matrix in few bits: how it is coded, bits of an entry, entries."""

    codec: str
    bits: int
    entries: int


@dataclass(frozen=True)
class Stored:
    """The weights on disk, dense and packed: bytes, and seconds to load them; the parts of all weights (`zeros`) and of the pruned
    matrices (`sparsity`) that are zero; and the matrices in few bits."""

    dense_bytes: int
    dense_load_s: float
    packed_bytes: int
    packed_load_s: float
    zeros: float
    bits: Mapping[str, StoredMatrix]
    sparsity: float | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True)
class Calibration:
    """The calibration of the scores on the evaluation data: the teacher's, and the result's before and after the temperature, which
    was fitted on so many examples held out."""

    temperature: float
    teacher: Scores
    before: Scores
    after: Scores
    examples: int


@dataclass(frozen=True)
class Verified:
    """What the step "verify" keeps: what is shipped, on data that nothing was chosen by.

    float_quality: in float32, in PyTorch. speedup: of the shipped form alone against eager PyTorch, and its range over the rounds; None
    where the machine was not `steady`, whose `disturbance` is then in words.
    """

    choice: Choice
    float_quality: float
    chosen: Form
    baselines: Mapping[str, Baseline]
    forms: tuple[FormRow, ...]
    speedup: float | None
    speedup_range: tuple[float, float]
    steady: bool
    disturbance: str
    machine: Machine
    versions: Mapping[str, str]
    commit: str | None
    date: str
    flipped: Flips
    scores: Calibration
    quality: float
    overlap: Overlap
    note: str
    tests: tuple[OtherData, ...] = ()
    shapes: tuple[ShapeRow, ...] = ()
    stored: Stored | None = None
    left: LeftRow | None = field(default=None, metadata=OPTIONAL)

    @property
    def shipped(self) -> FormRow:
        """The row of the form that is shipped."""
        return next(row for row in self.forms if row.chosen)

    @property
    def held_out(self) -> ChosenQuality:
        """The quality of the shipped form on texts held out."""
        assert self.choice.held_out is not None
        return self.choice.held_out

    @property
    def own_shape(self) -> ShapeRow | None:
        """The row of the data's own lengths, where the result was held against the uncut model."""
        return next((row for row in self.shapes if row.own), None)


# -- the report ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Asked:
    """What was asked of a job, as its options say it; `recipe` has the settings of each step, `data` a hash of each data set."""

    model: str
    task: str
    train: str
    eval: str | None
    test: tuple[str, ...]
    speedup: float | None
    latency_ms: float | None
    size_mb: float | None
    max_drop: float | None
    confidence: float | None
    minutes: float | None
    engine: str | None
    threads: int
    seed: int
    max_length: int
    metric: str
    positive: str | None
    recipe: tuple[Mapping[str, Json], ...]
    corpus: str | None
    material: Json | None
    data: tuple[str, ...]

    @property
    def steps(self) -> list[tuple[str, Json]]:
        """Name and settings of each step of the recipe."""
        return [pair for step in self.recipe for pair in step.items()]

    def step(self, name: str) -> Json:
        """The settings of the first step of this name; empty where there is none."""
        return next((settings for step, settings in self.steps if step == name), {})


@dataclass(frozen=True)
class Workload:
    """The texts that latency is measured on: their lengths in tokens, how many, and the batch and threads."""

    lengths_p50: float
    lengths_p95: float
    batch: int
    threads: int
    texts: int


@dataclass(frozen=True)
class Result:
    """The shipped form: its quality beside the teacher's, its figures, and what is in it.

    In `figures`, `steady` is of the speed-up. macs: multiply-accumulates as a part of the teacher's. kernels: of int8. temperature: that
    its scores are divided by. left: where texts left early; the speed-up is then of the means.
    """

    engine: str
    bytes: int
    held_out_quality: float
    judged: PairedQuality = field(metadata=MERGED)
    figures: Figures = field(metadata=MERGED)
    form: str
    parameters: int
    float_quality: float
    speedup_vs_eager: float | None
    speedup_range: tuple[float, float]
    disturbance: str
    macs: float | None
    kernels: str | None
    float_layers: tuple[str, ...]
    temperature: float
    left: LeftRow | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True)
class Gate:
    """A figure held against its limit: whether it is kept (`passed`), was asked for, and decides whether the budget is met."""

    name: str
    passed: bool
    value: float | None
    limit: float
    asked: bool = True
    decides: bool = True


@dataclass(frozen=True)
class StudentRow:
    """A student that is no BERT: its kind, its head, and whether transformers loads it."""

    kind: str
    head: str
    transformers: bool


@dataclass(frozen=True)
class HeldOut:
    """Training texts held out to choose by, and the points lost on them."""

    examples: int
    drop: float


@dataclass(frozen=True)
class Report:
    """report.json. `met` is None where nothing was asked; `kept_layers` are the teacher's that the result has; `blueprint` is None of a
    student that is no BERT, `student` of a BERT."""

    VERSION: ClassVar[int] = 1

    penjing: str
    task: str
    metric: str
    metric_said: str
    met: bool | None
    asked: Asked | None = field(metadata=EMPTY)
    command: str
    date: str
    commit: str | None
    seed: int
    workload: Workload
    machine: Machine
    versions: Mapping[str, str]
    teacher: Teacher
    baselines: Mapping[str, Baseline]
    result: Result
    forms: tuple[FormRow, ...]
    gates: tuple[Gate, ...]
    steps: tuple[StepRecord, ...]
    blueprint: Blueprint | None = field(metadata=EMPTY)
    teacher_blueprint: Blueprint
    kept_layers: tuple[int, ...]
    student: StudentRow | None = field(metadata=EMPTY)
    held_out: HeldOut
    flipped: Flips
    scores: Calibration
    overlap: Overlap
    tests: tuple[OtherData, ...]
    shapes: tuple[ShapeRow, ...]
    stored: Stored | None
