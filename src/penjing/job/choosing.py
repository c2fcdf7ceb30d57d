"""Choice of the shipped form, on held-out training texts: the fastest that matches the model and keeps its quality."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from penjing.engines.clock.measure import Subject
from penjing.engines.clock.trial import Trial
from penjing.engines.form import Form, rounding_of
from penjing.engines.opening import open_engine
from penjing.engines.parity import NO_NUMBER, PARITY
from penjing.job.baseline import Reference, worth_measuring
from penjing.job.gates import APART
from penjing.job.leaving import left_of
from penjing.report.record import Choice, ChosenQuality, FormChoice
from penjing.steps.product import Product
from penjing.tasks.judging import judge_pair, quality_of, temperature_for
from penjing.tasks.task import Examples
from penjing.text.encoded import Encoded, Logits

PARITY_TEXTS = 64
"""Texts on which the outputs of a form are compared with the model's."""
KNOWN_BY_HEART = 100
"""Points of a teacher that made the labels itself or memorised them: no temperature can be fitted on these texts."""


@dataclass(frozen=True)
class Conformity:
    """The conformity of exported files with the model.

    parity: the largest difference of float32 logits, by engine; `limit` is allowed. apart: the distance of the integers from their
    emulation, by int8 form.
    """

    parity: Mapping[str, float]
    apart: Mapping[str, float]
    limit: float = PARITY


@dataclass(frozen=True)
class Candidate:
    """An exported result, of which one form is to be shipped.

    exported: the folder of the files of `forms`. judging: held-out training texts, as the result encodes them. logits: the model's own
    logits of them, in float32. workload: the texts that forms are timed on. in_float: exports the float32 forms into the folder `beside`,
    where no int8 form may be shipped. drop: points that a form may lose besides, where texts leave early.
    """

    exported: Path
    forms: Sequence[Form]
    judging: Examples
    logits: Logits
    workload: Encoded
    conformity: Conformity
    beside: Path
    in_float: Callable[[], Sequence[Form]] = list
    drop: float = 0.0


def conformity_of(product: Product, texts: Encoded, exported: Path, threads: int) -> Conformity:
    """The conformity of a product's files in `exported` with its own logits of some texts."""
    parity = product.differences(texts, exported, threads)
    return Conformity(parity, product.apart(texts, exported, threads), product.parity_limit)


def sample(texts: Examples, seed: int) -> Encoded:
    """A sample of the texts, over all their lengths."""
    return texts.encoded.take(texts.encoded.sample(PARITY_TEXTS, seed))


def choose(trial: Trial, reference: Reference, candidate: Candidate, limit: float, confidence: float | None = None) -> Choice:
    """Choose the fastest form whose engine has parity, whose integers match their emulation, and whose int8 loss is small.

    Args:
        limit: points that a form may lose against the model in float32.
    Returns:
        a choice whose `chosen` is None where no form has parity; its `drop` is against the teacher.
    """
    quality = quality_of(trial.task, candidate.judging, candidate.logits)
    check = _FormCheck(trial, candidate, quality, limit)
    for form in worth_measuring(candidate.forms, reference.record.forms_ms):
        check(form, candidate.exported)
    if not any(row.fit for row in check.rows):
        for form in candidate.in_float():
            if form.name not in check.places:
                check(form, candidate.beside)
    fit = [row for row in check.rows if row.fit] or [row for row in check.rows if row.fair]
    best: FormChoice | None = None
    if fit:
        measured = trial.measure([Subject(row.form, check.places[row.name]) for row in fit], candidate.workload, throughput_texts=0)
        timed = [
            replace(row, latency_ms=figures.latency_ms, mean_ms=figures.latency_mean_ms) for row, figures in zip(fit, measured, strict=True)
        ]
        early = any(row.left for row in timed)
        best = min(timed, key=lambda row: measured_ms(row, early) if row.fit else row.loss)
        by_name = {row.name: row for row in timed}
        check.rows = [by_name.get(row.name, row) for row in check.rows]
    choice = Choice(
        dict(candidate.conformity.parity), candidate.conformity.limit, quality, len(candidate.judging), None, tuple(check.rows), None, None,
        "no form computes what the model does",
    )  # fmt: skip
    if best is None:
        return choice
    return _with_form(choice, best.form, check.logits[best.name], trial, reference, candidate, confidence)


def measured_ms(row: FormChoice, mean: bool = False) -> float:
    """The median latency of a timed form, in milliseconds, or the mean: where texts leave early the median is of one kind of them."""
    latency = row.mean_ms if mean else row.latency_ms
    assert latency is not None
    return latency


class _FormCheck:
    """Checks one form after another: its quality on the held-out texts, and whether it may be shipped."""

    def __init__(self, trial: Trial, candidate: Candidate, quality: float, limit: float) -> None:
        self.trial = trial
        self.candidate = candidate
        self.quality = quality
        self.limit = limit
        self.rows: list[FormChoice] = []
        self.logits: dict[str, Logits] = {}
        self.places: dict[str, Path] = {}

    def __call__(self, form: Form, place: Path) -> None:
        judging = self.candidate.judging
        conformity = self.candidate.conformity
        self.places[form.name] = place
        engine = open_engine(form, place, self.trial.threads)
        self.logits[form.name] = engine.logits(judging.encoded)
        left = left_of(engine, judging.encoded)
        drop = self.candidate.drop if left else 0.0
        quality = quality_of(self.trial.task, judging, self.logits[form.name])
        loss = self.quality - quality
        fair = conformity.parity.get(form.engine, NO_NUMBER) <= conformity.limit
        emulated = conformity.apart.get(form.name, 0.0) <= APART
        int8 = rounding_of(form) != "float"
        fit = fair and emulated and loss <= self.limit + drop
        self.rows.append(
            FormChoice(form.name, form, quality, loss, int8, conformity.apart.get(form.name), fit, fair, left=left, drop=drop)
        )  # fmt: skip


def _with_form(
    choice: Choice, form: Form, logits: Logits, trial: Trial, reference: Reference, candidate: Candidate, confidence: float | None
) -> Choice:
    """The choice with its form: quality against the teacher's on the held-out texts, and the temperature of the scores."""
    judging = candidate.judging
    paired = judge_pair(trial.task, judging, logits, reference.judging, reference.judged, confidence=confidence or 0.95)
    memorised = paired.teacher_quality >= KNOWN_BY_HEART
    temperature, fitted = (1.0, None) if memorised else temperature_for(trial.task, judging, logits)
    note = f"{form.name}; on {len(judging)} training texts held out {paired.quality:.2f}, {paired.drop:.2f} points lost"
    held_out = ChosenQuality(paired.quality, paired.drop, paired.drop_at_most, temperature)
    return replace(choice, chosen=form, held_out=held_out, scores=fitted, note=note)
