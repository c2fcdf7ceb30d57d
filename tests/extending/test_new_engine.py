"""An engine of one's own, defined here: its forms are measured, chosen and shipped, in processes of their own, and answer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self, final

import numpy as np
import onnx
import pytest
from commands import rows_of
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

import penjing
from penjing.engines.description import Description
from penjing.engines.engine import Engine
from penjing.engines.form import PORTABLE_FLOAT, PORTABLE_INT8, Form
from penjing.engines.onnxruntime import OnnxRuntimeEngine
from penjing.steps.bits.quantize import QuantizeSettings
from penjing.text.encoded import Feeds

SLOWER = 5
"""The reference evaluator takes its time: few texts are measured."""


@final
class Reference(Engine):
    """The reference evaluator of onnx, which computes operator by operator in numpy."""

    name = "reference"

    def __init__(self, model: Path | bytes, form: Form) -> None:
        super().__init__(form)
        self.evaluator = ReferenceEvaluator(onnx.load(model) if isinstance(model, Path) else onnx.load_from_string(model))
        self.inputs = list(self.evaluator.input_names)

    @classmethod
    def open(cls, model: Path | bytes, form: Form, threads: int) -> Self:
        return cls(model, form)

    @classmethod
    def forms(cls, int8: bool) -> Sequence[Form]:
        return [Form("reference float32", cls.name, PORTABLE_FLOAT)]

    def run(self, feeds: Feeds) -> NDArray[np.float32]:
        return np.asarray(self.evaluator.run(None, {name: feeds[name] for name in self.inputs})[0], np.float32)


def test_it_is_shipped(shop: Any) -> None:
    report = shop.compress(engine=Reference, recipe=[])
    assert report.result.form == "reference float32" and report.asked is not None and report.asked.engine == "test_new_engine:Reference"
    assert next(form.engine for form in Description.read(shop.out / "engine").forms) == "test_new_engine:Reference"
    eager = report.baselines["torch_eager"]
    assert report.result.judged.quality == eager.quality.quality
    assert len(shop.answers(["good film", "a bad film"])) == 2


def test_it_is_measured_in_a_process_of_its_own(shop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the real clock."""
    shop.compress(engine=Reference, recipe=[])
    monkeypatch.undo()
    monkeypatch.setenv("PENJING_WAIT", "0")
    rows = penjing.bench([shop.out], rows_of("classification", 24, 1), rounds=1, threads=1).results
    assert [row.form for row in rows] == ["reference float32"] and rows[0].figures.latency_ms > 0


@final
class Rough(Engine):
    """One that has both forms at once, and whose integers answer the contrary; ONNX Runtime computes."""

    name = "rough"

    def __init__(self, model: Path | bytes, form: Form) -> None:
        super().__init__(form)
        self.runtime = OnnxRuntimeEngine(model, form, 1)

    @classmethod
    def open(cls, model: Path | bytes, form: Form, threads: int) -> Self:
        return cls(model, form)

    @classmethod
    def forms(cls, int8: bool) -> Sequence[Form]:
        return [Form("rough float32", cls.name, PORTABLE_FLOAT), *([Form("rough int8", cls.name, PORTABLE_INT8)] if int8 else [])]

    def run(self, feeds: Feeds) -> NDArray[np.float32]:
        logits = self.runtime.run(feeds)
        return -logits if self.form.int8 else logits


def test_a_form_in_float_among_those_in_int8_is_shipped_from_where_it_was_exported(shop: Any) -> None:
    report = shop.compress(engine=Rough, recipe=[QuantizeSettings(texts=16)])
    assert [(row.name, row.chosen, row.fit) for row in report.forms] == [("rough float32", True, True)]
    assert len(shop.answers(["good film", "a bad film"])) == 2
