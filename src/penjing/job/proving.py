"""Verification of the shipped form against the teacher, on data that nothing was chosen by: quality, speed, bytes."""

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from penjing.blueprint import Blueprint
from penjing.engines.clock.machine import commit, machine, versions
from penjing.engines.clock.measure import Subject
from penjing.engines.clock.measurement import Figures, Measurement
from penjing.engines.clock.trial import Trial
from penjing.engines.form import EAGER, TOKENIZER, Form, without_leaving
from penjing.engines.opening import open_engine
from penjing.job.baseline import BASELINES, Reference, baseline_bytes, eager_forms, form_bytes
from penjing.job.leaving import left_of
from penjing.model.checkpoint import read
from penjing.model.coded import Coded
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.model.writing import write
from penjing.report.record import (
    EAGER_BASELINE,
    Baseline,
    Calibration,
    Choice,
    FormChoice,
    FormRow,
    OtherData,
    Overlap,
    ShapeRow,
    Stored,
    StoredMatrix,
    Verified,
)
from penjing.tasks.judging import PairedQuality, flips, judge_pair, quality_of, scores_of
from penjing.tasks.task import Examples
from penjing.text.encoded import Encoded, Logits
from penjing.text.overlap import seen_in

SHAPES = (16, 64, 128)
SHAPE_TEXTS = 20
"""Lengths in tokens at which a result by hand is timed beside the data's own lengths, and the number of such texts."""
PROCESSES = 3
ROUNDS = 4
"""The processes, one after another, and the rounds of each, in which the shipped form is timed alone against eager PyTorch."""
LOADS = 3
"""The number of timed loads of the weights, of which the fastest is reported."""


@dataclass(frozen=True)
class Shipped:
    """A result with a chosen form.

    exported: the folder of its files. choice: of the form. eval: the evaluation texts as the result encodes them. logits: the model's
    logits of them, in float32.
    """

    exported: Path
    choice: Choice
    eval: Examples
    logits: Logits

    @property
    def form(self) -> Form:
        """The form that is shipped."""
        assert self.choice.chosen is not None
        return self.choice.chosen


@dataclass(frozen=True)
class Further:
    """Further test data to report on, encoded by the teacher's tokenizer (`before`) and by the result's own (`after`)."""

    name: str
    before: Examples
    after: Examples


# -- quality and speed -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Timing:
    """Timings: of the baselines by name and of all forms in one run; then of eager PyTorch and the shipped form alone."""

    baselines: Mapping[str, Figures]
    forms: Sequence[Figures]
    eager: Measurement
    shipped: Measurement


def verify(trial: Trial, reference: Reference, shipped: Shipped, train: Examples, confidence: float | None = None) -> Verified:
    """Verify the shipped form on the evaluation data: quality against the teacher, speed-up over eager PyTorch, all forms' timings.

    Args:
        train: the training texts, which should not contain the evaluation data.
    """
    task = trial.task
    form = shipped.form
    texts = shipped.eval
    choice = shipped.choice
    engine = open_engine(form, shipped.exported, trial.threads)
    logits = engine.logits(texts.encoded)
    left = left_of(engine, texts.encoded)
    judged = judge_pair(task, texts, logits, reference.eval, reference.logits, confidence=confidence or 0.95)
    timing = _timed(trial, reference, shipped)
    faster = timing.shipped.speedup_over(timing.eager, means=left is not None)
    overlap = overlap_of(texts, train)
    assert choice.held_out is not None
    temperature = choice.held_out.temperature
    scores = Calibration(
        temperature,
        scores_of(task, reference.eval, reference.logits, 1.0),
        scores_of(task, texts, logits, 1.0),
        scores_of(task, texts, logits, temperature),
        choice.examples,
    )
    ratio = f"{faster.ratio:.2f}x eager" if faster.steady else "the machine was too busy to say how much faster than eager"
    return Verified(
        choice=choice,
        float_quality=quality_of(task, texts, shipped.logits),
        chosen=form,
        baselines=_baselines(reference, timing),
        forms=tuple(_form_rows(shipped, timing, judged)),
        speedup=faster.ratio if faster.steady else None,
        speedup_range=(faster.low, faster.high),
        steady=faster.steady,
        disturbance="; ".join(dict.fromkeys(filter(None, (timing.eager.disturbance, timing.shipped.disturbance)))),
        machine=machine(),
        versions=versions(),
        commit=commit(),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        flipped=flips(task, texts, logits, reference.eval, reference.logits),
        scores=scores,
        quality=judged.quality,
        overlap=overlap,
        note=f"{form.name}: {ratio}, {judged.drop:.2f} points lost",
        left=left,
    )


def _timed(trial: Trial, reference: Reference, shipped: Shipped) -> _Timing:
    """Time all forms in one run; then the shipped form alone against eager PyTorch, in several processes one after another."""
    texts = shipped.eval
    before = reference.eval.encoded
    tokenizer = shipped.exported / TOKENIZER
    eager = eager_forms()
    subjects = [Subject(form, reference.folder, before, reference.tokenizer) for form in eager.values()]
    subjects += [Subject(form, reference.exported, before, reference.tokenizer) for form in BASELINES.values()]
    subjects += [Subject(row.form, shipped.exported, tokenizer=tokenizer) for row in _timed_rows(shipped.choice)]
    together = [measured.figures() for measured in trial.measure(subjects, texts.encoded, texts.inputs)]
    alone = [subjects[0], Subject(shipped.form, shipped.exported, tokenizer=tokenizer)]
    again = [trial.measure(alone, texts.encoded, texts.inputs, rounds=ROUNDS, throughput_texts=0) for _ in range(PROCESSES)]
    first, second = (Measurement.pooled(runs) for runs in zip(*again, strict=True))
    names = [*eager, *BASELINES]
    return _Timing(dict(zip(names, together, strict=False)), together[len(names) :], first, second)


def _timed_rows(choice: Choice) -> list[FormChoice]:
    return [row for row in choice.forms if row.latency_ms is not None]


def _baselines(reference: Reference, timing: _Timing) -> dict[str, Baseline]:
    """The baselines, by name; eager PyTorch with the figures of the run where it is timed with the shipped form alone."""
    forms = eager_forms() | BASELINES
    alone = {EAGER_BASELINE: timing.eager.figures()}
    return {
        name: Baseline(
            reference.record.qualities[name],
            forms[name].name,
            figures.updated(alone[name]) if name in alone else figures,
            baseline_bytes(reference, name),
        )
        for name, figures in timing.baselines.items()
    }


def _form_rows(shipped: Shipped, timing: _Timing, judged: PairedQuality) -> list[FormRow]:
    """A row for every form; the shipped one with its judged quality and the figures of the run where it is timed alone."""
    rows = []
    for row, figures in zip(_timed_rows(shipped.choice), timing.forms, strict=True):
        chosen = row.form == shipped.form
        rows.append(
            FormRow(
                row.name, row.form.engine, chosen, form_bytes(shipped.exported, row.form), row.held_out_quality, row.loss, row.fit,
                figures.updated(timing.shipped.figures()) if chosen else figures, judged if chosen else None,
            )
        )  # fmt: skip
    return rows


# -- further data, other lengths, bytes --------------------------------------------------------------------------


def overlap_of(texts: Examples, train: Examples) -> Overlap:
    """The overlap with the training texts: how many texts are equal to one, or stand inside one."""
    same, inside = seen_in(texts.inputs, train.inputs)
    return Overlap(same, inside, len(texts))


def on_other_data(trial: Trial, reference: Reference, shipped: Shipped, data: Further, train: Examples) -> OtherData:
    """The result against the teacher on further test data, each with its own tokenizer."""
    teacher = open_engine(EAGER, reference.folder, trial.threads).logits(data.before.encoded)
    logits = open_engine(shipped.form, shipped.exported, trial.threads).logits(data.after.encoded)
    overlap = overlap_of(data.after, train)
    judged = judge_pair(trial.task, data.after, logits, data.before, teacher)
    return OtherData(Path(data.name).name, judged, overlap)


def shapes(trial: Trial, reference: Reference, shipped: Shipped, after: Blueprint) -> list[ShapeRow]:
    """Speed-ups over the uncut model in the same form, at the data's own lengths and at a few fixed ones.

    after: the blueprint of the result.
    """
    before = reference.eval.encoded
    own = shipped.eval.encoded
    form = shipped.form
    whole = reference.blueprint
    texts: dict[int, tuple[Encoded, Encoded]] = {0: (before, own)}
    early = form != without_leaving(form)  # where texts leave is a matter of what they say
    texts |= {n: (before.of_length(n, SHAPE_TEXTS), own.of_length(n, SHAPE_TEXTS)) for n in SHAPES if n <= whole.positions and not early}
    rows = []
    for length, (uncut_texts, cut_texts) in texts.items():
        subjects = [Subject(replace(without_leaving(form), packed=False), reference.exported, uncut_texts), Subject(form, shipped.exported)]
        uncut, cut = trial.measure(subjects, cut_texts, throughput_texts=0)
        faster = cut.speedup_over(uncut, means=early)
        medians = [int(np.median(encoded.lengths)) for encoded in (uncut_texts, cut_texts)]
        macs = after.macs(medians[1]) / max(1, whole.macs(medians[0]))
        rows.append(
            ShapeRow(1, length or medians[1], not length, form.name, uncut.latency_ms, cut.latency_ms, faster.ratio, faster.steady, macs)
        )
    return rows


def stored(model: PenjingPreTrainedModel, coded: Mapping[str, Coded] | None, place: Path, sparsity: float | None = None) -> Stored:
    """Measure the stored weights: bytes and the fastest load in seconds, dense and packed; zeros; bits of each matrix.

    sparsity: of the matrices that were pruned; None where none were.
    """
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place) as folder:
        dense_bytes, dense_load_s = _on_disk(model, Path(folder) / "dense", packed=False, coded=None)
        packed_bytes, packed_load_s = _on_disk(model, Path(folder) / "packed", packed=True, coded=coded)
    zeros = sum(int((p == 0).sum()) for p in model.parameters()) / sum(p.numel() for p in model.parameters())
    bits = {name: StoredMatrix(matrix.codec, matrix.bits, int(matrix.codes.size)) for name, matrix in (coded or {}).items()}
    return Stored(dense_bytes, dense_load_s, packed_bytes, packed_load_s, zeros, bits, sparsity)


def _on_disk(model: PenjingPreTrainedModel, target: Path, *, packed: bool, coded: Mapping[str, Coded] | None) -> tuple[int, float]:
    """Write and load the weights; returns their bytes, and the seconds of the fastest load."""
    write(model, target, packed=packed, coded=coded)
    times = []
    for _ in range(LOADS):
        start = time.perf_counter()
        read(target)
        times.append(time.perf_counter() - start)
    return sum(file.stat().st_size for file in target.glob("*.safetensors")), min(times)
