"""Which form is shipped: the fastest of those that compute what the model does, in the integers that were meant, and lose little."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from penjing.blueprint import Blueprint, Layer
from penjing.engines.clock.measure import Subject
from penjing.engines.clock.measurement import Measurement, Turn
from penjing.engines.clock.trial import Trial
from penjing.engines.form import FLOAT_FORMS, INT8_FORMS, Form
from penjing.engines.parity import NO_NUMBER, PARITY
from penjing.files.records import from_json, to_json
from penjing.job import choosing
from penjing.job.baseline import Reference
from penjing.job.choosing import Candidate, Conformity
from penjing.job.gates import APART
from penjing.report.record import BaselineRecord, Choice
from penjing.tasks.sequence import Classification
from penjing.tasks.task import Examples
from penjing.text.encoded import Encoded

N = 100
"""Texts, so that each counts a point."""
TRIAL = Trial(Classification(["a", "b"]), threads=1, seed=0, segments=False, max_length=16, wait_s=0, tell=str)
JUDGING = Examples(Encoded.of([[1, 2]] * N, [[0, 0]] * N), [""] * N, ["a"] * N, [[]] * N, 0)
FORMS = {form.name: form for form in (*INT8_FORMS, *FLOAT_FORMS)}
INT8, FLOATS = (frozenset(form.name for form in forms) for forms in (INT8_FORMS, FLOAT_FORMS))
ENGINES = ("onnxruntime", "openvino")


def answers(wrong: int) -> list[NDArray[np.float32]]:
    """Logits that get so many of the texts wrong."""
    return [np.array([0, 1] if i < wrong else [1, 0], np.float32) for i in range(N)]


def chosen(
    wrong: Mapping[str, int], ms: Mapping[str, float], far: Mapping[str, float] | None = None, integers: Mapping[str, float] | None = None,
    *, names: Sequence[str] = tuple(sorted(INT8)), own: int = 0, limit: float = 0.5, floats: bool = True, teacher_ms: Mapping[str, float] | None = None,
) -> Choice:  # fmt: skip
    """The choice where forms get so many texts `wrong` (else none), take these milliseconds (else 1) and the model gets `own` wrong."""

    class Engine:
        def __init__(self, form: Form, folder: Path, threads: int) -> None:
            assert folder == Path("int8" if form.name in INT8 else "float")
            self.name = form.name

        def logits(self, encoded: Encoded) -> list[NDArray[np.float32]]:
            assert encoded is JUDGING.encoded
            return answers(wrong.get(self.name, 0))

    def measure(self: Trial, subjects: Sequence[Subject], encoded: Encoded, **options: Any) -> list[Measurement]:
        return [Measurement(0.0, turns=[Turn(0, [ms.get(subject.form.name, 1.0)])]) for subject in subjects]

    times = teacher_ms or {form.name: 1.0 for form in INT8_FORMS}
    record = BaselineRecord({}, 100.0, {}, 1.0, times, INT8_FORMS[0], 0, "")
    reference = Reference(Path(), Path(), BLUEPRINT, Path(), record, JUDGING, JUDGING)
    conformity = Conformity(dict.fromkeys(ENGINES, 0.0) if far is None else far, integers or {})
    candidate = Candidate(
        Path("int8"), [FORMS[name] for name in names], JUDGING, answers(own), JUDGING.encoded, conformity, Path("float"),
        lambda: FLOAT_FORMS if floats else [],
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choosing, "open_engine", Engine)
        patch.setattr(Trial, "measure", measure)
        patch.setattr(Reference, "judged", answers(0))
        return choosing.choose(TRIAL, reference, candidate, limit)


def shipped(record: Choice) -> Form:
    """The form that was chosen."""
    assert record.chosen is not None
    return record.chosen


BLUEPRINT = Blueprint(60, 16, 2, 24, 24, 8, (Layer(3, 40), Layer(2, 30)), "sequence", 2)
PER_FORM = st.fixed_dictionaries({name: st.integers(0, 3) for name in FORMS})
TIMES = st.fixed_dictionaries({name: st.floats(0.1, 9) for name in FORMS})
FAR = st.fixed_dictionaries({engine: st.sampled_from([0.0, PARITY, 2 * PARITY, NO_NUMBER]) for engine in ENGINES})
APARTS = st.fixed_dictionaries({name: st.sampled_from([0.1, APART, APART + 0.1, NO_NUMBER]) for name in sorted(INT8)})


@given(PER_FORM, TIMES, FAR, APARTS, st.sampled_from([0.5, 2.0]))
def test_the_fastest_that_is_fit_is_shipped_and_never_one_without_parity(
    wrong: dict[str, int], ms: dict[str, float], far: dict[str, float], integers: dict[str, float], limit: float
) -> None:
    record = chosen(wrong, ms, far, integers, limit=limit)
    assert from_json(Choice, json.loads(json.dumps(to_json(record))), "record") == record
    fair = {name for name, form in FORMS.items() if far[form.engine] <= PARITY}
    fit = {name for name in fair if wrong[name] <= limit and integers.get(name, 0) <= APART}
    shipped = fit & INT8 or fit & FLOATS or fair
    assert {row.name for row in record.forms} == (INT8 if fit & INT8 else FORMS.keys())
    assert all(row.fit == (row.name in fit) for row in record.forms)
    if not shipped:
        assert record.chosen is None and record.held_out is None and "no form computes" in record.note
        return
    assert record.chosen is not None and record.held_out is not None
    name = record.chosen.name
    assert name in shipped
    if fit:
        assert ms[name] == min(ms[other] for other in shipped)
    else:  # what loses least, where all lose too much
        assert wrong[name] == min(wrong[other] for other in shipped)
    assert (record.held_out.quality, record.held_out.drop) == (100 - wrong[name], wrong[name])


def test_an_engine_that_was_not_held_against_the_model_has_no_parity() -> None:
    assert chosen({}, {}, {}).chosen is None
    assert shipped(chosen({}, {"openvino int8": 0.1}, {"onnxruntime": 0.0})).engine == "onnxruntime"


def test_int8_that_loses_more_than_the_limit_leaves_the_place_to_floats() -> None:
    record = chosen(dict.fromkeys(INT8, 3), {"openvino float32": 0.9}, limit=2.0)
    assert shipped(record).name == "openvino float32" and record.lost(None) == 0
    assert shipped(chosen(dict.fromkeys(INT8, 3), {}, own=1, limit=2.0)).name in INT8  # it loses 2 against its own floats
    least = dict.fromkeys(INT8, 30) | {"openvino int8": 20}
    assert shipped(chosen(least, {"onnxruntime int8": 0.1}, floats=False)).name == "openvino int8"  # int8 alone was asked


def test_the_temperature_and_the_loss_against_the_teacher_are_of_the_texts_held_out() -> None:
    record = chosen(dict.fromkeys(FORMS, 4), {}, limit=5.0, own=2)
    assert record.held_out is not None
    assert record.float_quality == 98 and record.examples == N and record.held_out.drop == 4 < record.held_out.drop_at_most
    assert all(row.loss == 2 for row in record.forms) and record.held_out.temperature > 0
    assert record.lost(None) == record.held_out.drop and record.lost(0.95) == record.held_out.drop_at_most


def test_what_was_far_behind_on_the_teacher_is_not_looked_at_but_for_the_portable_files() -> None:
    times = {form.name: 1.0 for form in INT8_FORMS} | {"openvino int8": 9.0, "openvino int8 buckets": 9.0}
    assert {row.name for row in chosen({}, {}, teacher_ms=times).forms} == INT8 - {"openvino int8 buckets"}
