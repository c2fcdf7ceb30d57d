"""An encoder that is done: what its exported forms compute, on real engines."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from conftest import penjing_model

from penjing.blueprint import Blueprint, Layer
from penjing.engines.form import FLOAT_FORMS, INT8_FORMS, Form, rounding_of
from penjing.engines.network import Ranges
from penjing.engines.onnx.export import export
from penjing.engines.parity import NO_NUMBER, PARITY, differences
from penjing.job.gates import APART
from penjing.job.product import EncoderProduct
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.model.surgery import copy_of
from penjing.steps.bits.calibrate import calibrate
from penjing.text.encoded import Encoded

BLUEPRINT = Blueprint(60, 16, 2, 24, 24, 8, (Layer(3, 40), Layer(2, 30)), "sequence", 2)
INT8 = frozenset(form.name for form in INT8_FORMS)
ENGINES = ("onnxruntime", "openvino")
THREADS = 1


def product(model: PenjingPreTrainedModel, forms: Sequence[Form], ranges: Ranges | None = None, *float_layers: str) -> EncoderProduct:
    """A model of which these forms are worth measuring."""
    return EncoderProduct(model, None, (), ranges, frozenset(float_layers), None, None, False, False, tuple(forms))


@pytest.fixture(scope="module")
def texts() -> Encoded:
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, 17, 24)
    return Encoded.of([rng.integers(0, 60, n).tolist() for n in lengths], [[0] * int(n) for n in lengths])


FILES = sorted({form.file for form in INT8_FORMS})
STATIC = [form for form in INT8_FORMS if rounding_of(form) == "static"]


def test_integers_that_were_meant_are_near_their_emulation(texts: Encoded, tmp_path: Path) -> None:
    model = penjing_model(BLUEPRINT)
    ranges = calibrate(model, texts)
    export(model, tmp_path, FILES, ranges, segments=False, float_layers=["layers.0.attention.query"])
    found = product(model, INT8_FORMS, ranges, "layers.0.attention.query").apart(texts, tmp_path, THREADS)
    assert found.keys() == INT8 and max(found.values()) < APART
    assert max(found[name] for name in INT8 - {"openvino int8 buckets bf16"}) < 0.5  # bfloat16 rounds once more, where a processor has it


@pytest.mark.parametrize("factor", [1 / 8, 64, None], ids=["clipped", "coarse", "of another layer"])
def test_static_integers_of_wrong_ranges_are_apart(factor: float | None, texts: Encoded, tmp_path: Path) -> None:
    model = penjing_model(BLUEPRINT)
    ranges = calibrate(model, texts)
    names = list(ranges)
    others = dict(zip(names, [ranges[name] for name in names[1:] + names[:1]], strict=True))
    wrong = others if factor is None else {name: (factor * low, factor * high) for name, (low, high) in ranges.items()}
    export(model, tmp_path, FILES, wrong, segments=False)
    found = product(model, STATIC, ranges).apart(texts, tmp_path, THREADS)
    assert found.keys() == {form.name for form in STATIC} and min(found.values()) > APART


def test_dynamic_integers_of_other_weights_are_apart(texts: Encoded, tmp_path: Path) -> None:
    model = penjing_model(BLUEPRINT)
    other = copy_of(model)
    attention = other.base_model.layers[0].attention
    attention.key.weight.data, attention.value.weight.data = attention.value.weight.data, attention.key.weight.data
    ranges = calibrate(model, texts)
    export(other, tmp_path, FILES, ranges, segments=False)
    assert product(model, INT8_FORMS[:1], ranges).apart(texts, tmp_path, THREADS)[INT8_FORMS[0].name] > APART


def test_parity_is_of_every_engine_and_no_number_is_no_parity(texts: Encoded, tmp_path: Path) -> None:
    model = penjing_model(BLUEPRINT)
    found = product(model, INT8_FORMS).differences(texts, tmp_path, THREADS)
    assert found.keys() == set(ENGINES) and 0 < max(found.values()) < PARITY
    assert product(model, INT8_FORMS[:1]).differences(texts, tmp_path, THREADS).keys() == {"onnxruntime"}
    export(model, tmp_path, [form.file for form in FLOAT_FORMS], segments=False)
    own = [np.array([np.nan, 0.0], np.float32)] * len(texts)
    assert set(differences(own, texts, tmp_path, FLOAT_FORMS, THREADS).values()) == {NO_NUMBER}
