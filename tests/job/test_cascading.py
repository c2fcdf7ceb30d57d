"""A cascade: at the ends of its limit it is the second model, and the first; and it is opened as any other engine is."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import prepare, run, told
from conftest import tiny_teacher
from shop import Shop

import penjing
from penjing.engines.cascade import Cascade, CascadeEngine
from penjing.engines.clock.trial import Trial
from penjing.engines.opening import open_engine
from penjing.errors import InputError
from penjing.job import cascading
from penjing.text.encoded import Encoded


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A static student and the teacher in int8, and the cascade of both."""
    place = tmp_path_factory.mktemp("place")
    data = prepare(place, "classification")
    more = ["--threads", 1, "--wait", 0]
    run("distill", *data, "--out", place / "static", "--preset", "static", *more)
    run("quantize", *data, "--out", place / "int8", "--engine", "onnxruntime", "--no-training", "--scheme", "dynamic-int8", *more)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cascading, "measure", lambda subjects, encoded, **rest: told(None, subjects, encoded))  # type: ignore[arg-type]
        both = ["--first", place / "static", "--second", place / "int8", "--max-drop", 3]
        said = json.loads(run("cascade", *both, *data[2:], "--out", place / "both", "--json", *more))
    assert 0 <= said["share"] <= 1 and said["both"]["latency_ms"] > 0 and "drop" in said["judged"]
    return place


def engine_of(place: Path, unsure: float | None = None) -> CascadeEngine:
    folder = place / "both" / "engine"
    engine = open_engine(Cascade.read(folder / "cascade.json").form, folder, 1)
    assert isinstance(engine, CascadeEngine)
    if unsure is not None:
        engine.cascade = replace(engine.cascade, unsure=unsure)
    return engine


def texts() -> Encoded:
    random = np.random.default_rng(0)
    rows = [[2, *random.integers(5, 50, n).tolist(), 3] for n in (1, 1, 1, 4, 4, 7)]
    return Encoded.of(rows, [[0] * len(row) for row in rows])


def test_at_the_ends_of_the_limit_it_is_one_of_the_two(place: Path) -> None:
    encoded = texts()
    for unsure, share in ((-1.0, 0.0), (1.0, 1.0)):
        engine = engine_of(place, unsure)
        alone = engine.first if share else engine.second
        own, other = engine.cascade.temperatures
        scale = other / own if share else 1.0
        np.testing.assert_allclose(np.stack(engine.logits(encoded)), scale * np.stack(alone.logits(encoded)), rtol=1e-5, atol=1e-5)
        assert engine.share(encoded) == share


def test_each_text_has_the_answer_of_whoever_is_sure(place: Path) -> None:
    engine, encoded = engine_of(place), texts()
    own, other = engine.cascade.temperatures
    first, second = (np.stack(each.logits(encoded)) for each in (engine.first, engine.second))
    unsure = cascading.unsure(first, own)
    engine.cascade = replace(engine.cascade, unsure=float(np.median(unsure)))
    expected = np.where((unsure <= np.median(unsure))[:, None], first * other / own, second)
    np.testing.assert_allclose(np.stack(engine.logits(encoded)), expected, rtol=1e-5, atol=1e-5)


def test_it_is_served_without_torch(place: Path) -> None:
    code = (
        "import json, sys, penjing\nanswers = penjing.load(sys.argv[1], threads=1)(['good film', 'bad'])\n"
        "assert not {'torch', 'transformers', 'onnx'} & set(sys.modules)\nprint(json.dumps(answers))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(place / "both")], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == penjing.load(place / "both", threads=1)(["good film", "bad"])


def test_two_that_do_not_go_together_are_refused(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trial, "measure", told)
    shop = Shop(tmp_path)
    teacher = tiny_teacher(tmp_path / "other", labels=("bad", "good"))
    rows: Any = [{"text": text, "label": label} for text, label in (("good", "good"), ("bad", "bad"))] * 30
    shop.compress(teacher=teacher, train=rows, eval=rows, engine="onnxruntime")
    given: dict[str, Any] = {"task": "classification", "train": place / "train.jsonl"}
    with pytest.raises(InputError, match="first: it answers"):
        penjing.cascade(tmp_path / "out", first=shop.out, second=place / "int8", **given)
    with pytest.raises(InputError, match=r"no engine\.json"):
        penjing.cascade(tmp_path / "out", first=tmp_path / "nothing", second=place / "int8", **given)


@pytest.mark.parametrize("change", [{"format": 2}, {"unsure": None}, {"temperatures": [1.0]}, {"temperatures": [0, 1]}, {"first": {}}])
def test_a_damaged_file_is_refused(place: Path, change: dict[str, Any], tmp_path: Path) -> None:
    fields = json.loads((place / "both" / "engine" / "cascade.json").read_text())
    (tmp_path / "cascade.json").write_text(json.dumps(fields | change))
    with pytest.raises(InputError, match=r"cascade\.json"):
        Cascade.read(tmp_path / "cascade.json")
