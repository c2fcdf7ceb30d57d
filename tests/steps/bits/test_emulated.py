"""What the exported integers are meant to answer: layer by layer they are the emulation, in every dialect and engine."""

from pathlib import Path

import numpy as np
import pytest
from conftest import penjing_model

from penjing.blueprint import Blueprint, Layer
from penjing.engines.form import INT8_FORMS, Form, rounding_of
from penjing.engines.onnx.export import export
from penjing.engines.opening import open_engine
from penjing.steps.bits.calibrate import calibrate
from penjing.steps.bits.sensitivity import TOGETHER, emulated, roundable
from penjing.text.encoded import Encoded

FORMS = INT8_FORMS[:3]
"""Dynamic integers of ONNX Runtime, and static ones of both engines; the others run the same files."""
HEADS: tuple[str, ...] = ("sequence", "token")


@pytest.fixture(scope="module")
def encoded() -> Encoded:
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, 17, 12)
    return Encoded.of([rng.integers(0, 60, n).tolist() for n in lengths], [[0] * int(n) for n in lengths])


def apart(a: list[np.ndarray], b: list[np.ndarray]) -> np.ndarray:
    """The largest difference of each text's logits."""
    return np.array([np.abs(x - y).max() for x, y in zip(a, b, strict=True)])


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_layer_by_layer_the_exported_integers_are_the_emulation(form: Form, head: str, encoded: Encoded, tmp_path: Path) -> None:
    model = penjing_model(Blueprint(60, 16, 2, 20, 24, 8, (Layer(3, 40), Layer(2, 30)), head, 3))
    ranges, names = calibrate(model, encoded, "moving-average"), list(roundable(model))
    static = ranges if rounding_of(form) == "static" else None
    words_alone = emulated(model, encoded, static, names)
    attention = [[f"layers.{i}.attention{part}" for part in TOGETHER] for i in (0, 1)]
    for each in [[], *([name] for name in names), *attention]:
        rest = [name for name in names if name not in each]
        export(model, tmp_path, [form.file], ranges, segments=False, float_layers=rest)
        found, expected = open_engine(form, tmp_path, 1).logits(encoded), emulated(model, encoded, static, rest)
        differences = apart(found, expected)
        # Equal, but for what lies on the edge between two integers, which may go either way.
        assert np.median(differences) < 1e-5 and differences.max() < 1e-3, each
        # What is rounded shows; the fused graph leaves query, key and value in float unless it has all three.
        alone = static is None and len(each) == 1 and each[0].endswith(TOGETHER)
        assert (apart(expected, words_alone).max() > 1e-4) == (bool(each) and not alone), each
