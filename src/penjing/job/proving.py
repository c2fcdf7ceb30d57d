"""The proof: what is shipped, on data that nothing was chosen by, against the teacher: quality, speed, other data, other lengths, bytes."""

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
from penjing.engines.form import EAGER, TOKENIZER, Form
from penjing.engines.opening import open_engine
from penjing.job.baseline import BASELINES, Reference, baseline_bytes, eager_forms, form_bytes
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
"""Tokens of the texts that a result by hand is timed on beside the data's own lengths, and how many such texts."""
PROCESSES = 3
ROUNDS = 4
"""In so many processes one after another, each of so many rounds, the shipped form is measured alone against eager PyTorch."""
LOADS = 3
"""The weights are loaded so many times, and the best is reported."""


@dataclass(frozen=True)
class Shipped:
    """A result whose form is chosen: the folder of its files, the choice, the evaluation texts as the result encodes them, and the result's
    own logits of them in float32."""

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
    """Further data to report on, by its name, as the teacher's tokenizer and as the result's own encodes it."""

    name: str
    before: Examples
    after: Examples


# -- quality and speed -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Timing:
    """The figures of the baselines by name and of the result's forms in one run; then eager PyTorch and the shipped form alone."""

    baselines: Mapping[str, Figures]
    forms: Sequence[Figures]
    eager: Measurement
    shipped: Measurement


def verify(trial: Trial, reference: Reference, shipped: Shipped, train: Examples, confidence: float | None = None) -> Verified:
    """What is shipped, on the evaluation data: quality against the teacher; latency, alone against eager PyTorch; all forms in one run.

    Args:
        train: the training texts, which the evaluation data should not stand in.
    """
    task = trial.task
    form = shipped.form
    texts = shipped.eval
    choice = shipped.choice
    logits = open_engine(form, shipped.exported, trial.threads).logits(texts.encoded)
    judged = judge_pair(task, texts, logits, reference.eval, reference.logits, confidence=confidence or 0.95)
    timing = _timed(trial, reference, shipped)
    faster = timing.shipped.speedup_over(timing.eager)
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
    )


def _timed(trial: Trial, reference: Reference, shipped: Shipped) -> _Timing:
    """Everything in one run; then the shipped form alone against eager PyTorch, in several processes one after another."""
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
    """The teacher in each form; eager PyTorch with the figures that it has alone."""
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
    """Every form of the result; the shipped one with the quality that was judged and the figures that it has alone."""
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
    """How many of the texts are training texts or stand in one."""
    same, inside = seen_in(texts.inputs, train.inputs)
    return Overlap(same, inside, len(texts))


def on_other_data(trial: Trial, reference: Reference, shipped: Shipped, data: Further, train: Examples) -> OtherData:
    """The result against the teacher on further data, each on its own encoding of it."""
    teacher = open_engine(EAGER, reference.folder, trial.threads).logits(data.before.encoded)
    logits = open_engine(shipped.form, shipped.exported, trial.threads).logits(data.after.encoded)
    overlap = overlap_of(data.after, train)
    judged = judge_pair(trial.task, data.after, logits, data.before, teacher)
    return OtherData(Path(data.name).name, judged, overlap)


def shapes(trial: Trial, reference: Reference, shipped: Shipped, after: Blueprint) -> list[ShapeRow]:
    """The result, of blueprint `after`, against the uncut model in the same form: on the data's own lengths, and on texts of a few fixed ones."""
    before = reference.eval.encoded
    own = shipped.eval.encoded
    form = shipped.form
    whole = reference.blueprint
    texts: dict[int, tuple[Encoded, Encoded]] = {0: (before, own)}
    texts |= {n: (before.of_length(n, SHAPE_TEXTS), own.of_length(n, SHAPE_TEXTS)) for n in SHAPES if n <= whole.positions}
    rows = []
    for length, (uncut_texts, cut_texts) in texts.items():
        subjects = [Subject(replace(form, packed=False), reference.exported, uncut_texts), Subject(form, shipped.exported)]
        uncut, cut = trial.measure(subjects, cut_texts, throughput_texts=0)
        faster = cut.speedup_over(uncut)
        medians = [int(np.median(encoded.lengths)) for encoded in (uncut_texts, cut_texts)]
        macs = after.macs(medians[1]) / max(1, whole.macs(medians[0]))
        rows.append(
            ShapeRow(1, length or medians[1], not length, form.name, uncut.latency_ms, cut.latency_ms, faster.ratio, faster.steady, macs)
        )
    return rows


def stored(model: PenjingPreTrainedModel, coded: Mapping[str, Coded] | None, place: Path, sparsity: float | None = None) -> Stored:
    """The weights' bytes on disk and the seconds to load them, dense and packed, the best of some loads; zeros; and what is stored in how
    many bits. sparsity: of the matrices that were pruned, where some were."""
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place) as folder:
        dense_bytes, dense_load_s = _on_disk(model, Path(folder) / "dense", packed=False, coded=None)
        packed_bytes, packed_load_s = _on_disk(model, Path(folder) / "packed", packed=True, coded=coded)
    zeros = sum(int((p == 0).sum()) for p in model.parameters()) / sum(p.numel() for p in model.parameters())
    bits = {name: StoredMatrix(matrix.codec, matrix.bits, int(matrix.codes.size)) for name, matrix in (coded or {}).items()}
    return Stored(dense_bytes, dense_load_s, packed_bytes, packed_load_s, zeros, bits, sparsity)


def _on_disk(model: PenjingPreTrainedModel, target: Path, *, packed: bool, coded: Mapping[str, Coded] | None) -> tuple[int, float]:
    """Bytes of the weights, and seconds of the fastest load."""
    write(model, target, packed=packed, coded=coded)
    times = []
    for _ in range(LOADS):
        start = time.perf_counter()
        read(target)
        times.append(time.perf_counter() - start)
    return sum(file.stat().st_size for file in target.glob("*.safetensors")), min(times)
