"""Forms as data: which file each runs, and which are tried on an engine."""

import pytest

from penjing.engines.form import (
    DEPLOYED,
    ENGINES,
    FLOAT_FORMS,
    FUSED,
    GRAPH_ENGINES,
    INT8_FORMS,
    PORTABLE,
    TORCH_FORMS,
    Form,
    forms_of_engine,
    rounding_of,
)


def test_a_form_tells_its_kind_by_its_file() -> None:
    for form in (*FLOAT_FORMS, *INT8_FORMS):
        assert form.int8 == (form in INT8_FORMS) and form.engine in GRAPH_ENGINES
        assert form.file in (*PORTABLE, *FUSED) and form.files == (form.file,)
        assert (rounding_of(form) == "float") == (form in FLOAT_FORMS)
    assert [rounding_of(form) for form in INT8_FORMS[:2]] == ["dynamic", "static"]
    assert Form("", "openvino", PORTABLE[0]).portable and not Form("", "openvino", PORTABLE[0], bucket=8).portable
    assert not Form("", "onnxruntime", FUSED[0]).portable


def test_a_packed_form_is_loaded_from_the_weights() -> None:
    assert Form("", "onnxruntime", PORTABLE[0], packed=True).files == DEPLOYED


@pytest.mark.parametrize("engine", [None, *ENGINES])
@pytest.mark.parametrize("int8", [False, True])
def test_the_forms_of_an_engine_keep_the_order_of_all(engine: str | None, int8: bool) -> None:
    found = forms_of_engine(engine, int8)
    if engine == "torch":
        assert found == list(TORCH_FORMS)
    else:
        everything = INT8_FORMS if int8 else FLOAT_FORMS
        assert found == [form for form in everything if engine is None or form.engine == engine]
        assert bool(found) == (engine in (None, *GRAPH_ENGINES))
