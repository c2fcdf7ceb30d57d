"""What is delivered: the forms of the engine's folder, and the report of what was verified."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from reports import CHOICE, RESULT, VERIFIED, form_choice

from penjing.engines.form import FLOAT_FORMS, INT8_FORMS, PORTABLE_FLOAT, TORCH_FORMS, Form
from penjing.job.delivery import Inside, delivered_forms, result_of
from penjing.report.record import FormRow, Verified


def verified(chosen: Form, forms: Sequence[Form], unfit: Sequence[str] = (), parity: dict[str, float] | None = None) -> Verified:
    """Of a choice among these forms, of which some are not fit."""
    rows = tuple(replace(form_choice(form), fit=form.name not in unfit) for form in forms)
    timed = [
        FormRow(row.name, row.form.engine, row.form == chosen, 1, 90.0, 0.0, row.fit, VERIFIED.shipped.figures, VERIFIED.shipped.judged)
        for row in rows
    ]
    choice = replace(CHOICE, chosen=chosen, forms=rows, parity=parity or CHOICE.parity)
    return replace(VERIFIED, choice=choice, chosen=chosen, forms=tuple(timed))


def test_beside_the_chosen_form_every_engine_gets_its_file_of_standard_operators(tmp_path: Path) -> None:
    forms = delivered_forms(verified(INT8_FORMS[0], INT8_FORMS), tmp_path)
    assert forms[0] == INT8_FORMS[0] and set(forms[1:]) == {form for form in INT8_FORMS if form.portable} - {INT8_FORMS[0]}
    portable = next(form for form in INT8_FORMS if form.portable)
    again = delivered_forms(verified(portable, INT8_FORMS), tmp_path)
    assert again[0] == portable and len(again) == len(set(again))


def test_a_form_that_is_not_fit_is_not_delivered(tmp_path: Path) -> None:
    unfit = [form.name for form in INT8_FORMS[1:]]
    assert delivered_forms(verified(INT8_FORMS[0], INT8_FORMS, unfit), tmp_path) == [INT8_FORMS[0]]


@pytest.mark.parametrize("packed", [False, True])
def test_of_pytorch_every_engine_with_parity_gets_the_float_file(packed: bool, tmp_path: Path) -> None:
    if not packed:
        (tmp_path / PORTABLE_FLOAT).touch()
    parity = {"torch": 0.0, "onnxruntime": 1e-6, "openvino": 0.5}
    forms = delivered_forms(verified(TORCH_FORMS[0], TORCH_FORMS, parity=parity), tmp_path)
    assert forms == [
        replace(form, packed=packed)
        for form in FLOAT_FORMS
        if form.engine == "onnxruntime" and form.portable and form.file == PORTABLE_FLOAT
    ]


@pytest.mark.parametrize("steady", [True, False])
def test_the_result_is_the_shipped_form_and_steady_where_its_speed_up_is(steady: bool) -> None:
    result = result_of(Inside(7, 0.3, RESULT, int8=False), replace(VERIFIED, steady=steady))
    assert (result.form, result.parameters, result.kernels, result.temperature) == ("onnxruntime fused int8", 7, None, 1.2)
    assert result.figures.steady is steady and replace(result.figures, steady=True) == VERIFIED.shipped.figures
    assert result.judged == VERIFIED.shipped.judged
    assert result_of(Inside(7, int8=True), VERIFIED).kernels
