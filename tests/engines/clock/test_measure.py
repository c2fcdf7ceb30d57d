"""Measuring: every engine in a process of its own, in the way it is served; what other work disturbed is not believed."""

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import tiny_teacher
from loops import busy_loops
from numpy.typing import NDArray

from penjing.engines.clock import measure as measuring
from penjing.engines.clock import quiet, worker
from penjing.engines.clock.measure import RawInputs, Sampling, Subject, measure
from penjing.engines.clock.messages import Setup
from penjing.engines.clock.process import Process
from penjing.engines.engine import Engine
from penjing.engines.form import EAGER, EAGER_BF16, FLOAT_FORMS, INT8_FORMS, PORTABLE_INT8, Form
from penjing.engines.onnx.export import export
from penjing.engines.opening import open_engine
from penjing.errors import InputError, PenjingError
from penjing.files.records import to_json
from penjing.model.checkpoint import read
from penjing.steps.bits.calibrate import calibrate
from penjing.tasks.encoder import Encoder
from penjing.tasks.sequence import Classification, Pair
from penjing.tasks.sources import tokenizer_of
from penjing.tasks.tagging import Tagging
from penjing.tasks.task import Task
from penjing.text.encoded import Encoded, Feeds

BUSY = "other processes take 1.0 of 2 processors"
INPUTS = ["good film", "bad", "a good good film"] * 4


def texts(*lengths: int) -> Encoded:
    """Texts of these lengths, of one token over and over."""
    return Encoded.of([[5] * length for length in lengths], [[0] * length for length in lengths])


# -- rounds ----------------------------------------------------------------------------------------------------------


class Scripted:
    """A worker without a process: `script` says what disturbs each look and each turn, or how many times slower the processors run."""

    script: list[str | float]
    asked: list[str]
    texts: list[int]
    first_ms = 2.0
    disturbance = Process.disturbance

    def __init__(self, setup: Setup) -> None:
        self.started = {"load_s": 0.1, "cold_start_s": 0.2, "ms": self.first_ms}
        self.load, self.slowness = "", 1.0

    def look(self) -> None:
        time.sleep(0.01)
        self.asked.append("look")
        self._happens()

    def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(message["do"])
        if message["do"] != "memory":
            self._happens()
            self.texts.append(message["texts"])
        ms = 90.0 if self.disturbance else 2.0
        return {"ms": [ms], "end_to_end_ms": [], "peak_mb": 300.0, "per_s": [1000.0 / ms]}

    def _happens(self) -> None:
        what = self.script.pop(0) if self.script else ""
        self.load, self.slowness = ("", what) if isinstance(what, float) else (what, 1.0)

    def close(self) -> None:
        self.asked.append("close")


def scripted(monkeypatch: pytest.MonkeyPatch, script: list[str | float], *, patience_s: float, told: list[str], **options: Any) -> Any:
    monkeypatch.setattr(measuring, "Process", Scripted)
    monkeypatch.setenv("PENJING_WAIT", "60")
    Scripted.script, Scripted.asked, Scripted.texts = script, [], []
    (result,) = measure(
        [Subject(EAGER, Path())], texts(3, 4), threads=2, sampling=Sampling(**options), patience_s=patience_s, tell=told.append
    )
    return result, Scripted.asked


def test_a_disturbed_turn_is_taken_again_when_the_machine_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    # turn 0 quiet; turn 1 busy; a look finds it busy still, the next quiet; turn 2 quiet
    script = ["", BUSY, BUSY, "", ""]
    result, asked = scripted(monkeypatch, script, patience_s=60, told=told, rounds=2, throughput_texts=0)
    assert asked == ["latency", "latency", "look", "look", "latency", "memory", "close"]
    assert (result.latency_ms, result.latency_p99_ms, result.steady) == (2.0, 2.0, True)
    assert told == [f"waiting for a quiet machine: {BUSY}"]


def test_a_machine_that_stays_busy_is_measured_in_bounded_time_and_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    result, asked = scripted(monkeypatch, [BUSY] * 1000, patience_s=0.2, told=told, rounds=3, throughput_texts=0)
    assert asked.count("latency") == measuring.GIVEN_UP and 1 < asked.count("look") <= 20
    assert not result.steady and result.disturbance == BUSY and len(told) == 1


SLOWER = 1.9


def test_a_turn_on_processors_that_something_unseen_slowed_is_taken_again(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    result, asked = scripted(monkeypatch, [1.0, SLOWER, SLOWER, 1.1, 1.2], patience_s=60, told=told, rounds=2, throughput_texts=0)
    assert asked == ["latency", "latency", "look", "look", "latency", "memory", "close"]
    assert result.latency_ms == 2.0 and result.steady
    assert told == ["waiting for a quiet machine: its processors run 1.9 times slower than they can"]


def test_processors_that_are_slow_all_along_are_as_fast_as_that_here(monkeypatch: pytest.MonkeyPatch) -> None:
    result, _ = scripted(monkeypatch, [SLOWER] * 100, patience_s=0.1, told=[], rounds=3)
    assert result.steady and result.latency_ms == 90.0 and {turn.slowness for turn in result.turns} == {1.0}
    result, _ = scripted(monkeypatch, [1.0, *[SLOWER] * 100], patience_s=0.1, told=[], rounds=3, throughput_texts=0)
    assert result.disturbance == "its processors run 1.9 times slower than they can"


@pytest.mark.parametrize(("first_ms", "texts_timed"), [(2.0, 100), (80.0, 50), (1e6, measuring.FEW)])
def test_a_turn_is_of_as_many_texts_as_the_slowest_can_take_in_time(
    monkeypatch: pytest.MonkeyPatch, first_ms: float, texts_timed: int
) -> None:
    monkeypatch.setattr(Scripted, "first_ms", first_ms)
    scripted(monkeypatch, [], patience_s=0, told=[], rounds=1, throughput_texts=0)
    assert Scripted.texts == [texts_timed]


def test_turns_are_taken_so_often_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    _, asked = scripted(monkeypatch, [BUSY, ""] * 1000, patience_s=60, told=[], rounds=3, throughput_texts=0)
    assert asked.count("latency") == 3 * measuring.AGAIN


def test_a_turn_that_took_longer_than_others_is_taken_again(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([2.0, 3.0, 3.0, 2.1, 0.0])  # 0: the memory is asked last
    monkeypatch.setattr(Scripted, "ask", lambda self, message: {"ms": [next(times)], "end_to_end_ms": [], "peak_mb": 1.0, "per_s": []})
    result, _ = scripted(monkeypatch, [], patience_s=60, told=[], rounds=3, throughput_texts=0)
    assert [turn.median_ms for turn in result.quiet] == [2.0, 2.1] and result.steady


def test_the_environment_lowers_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENJING_WAIT", "0")
    assert measuring._Patience(60, print).left == 0
    monkeypatch.setenv("PENJING_WAIT", "60")
    assert measuring._Patience(5, print).left == 5
    monkeypatch.setenv("PENJING_WAIT", "long")
    with pytest.raises(InputError, match="PENJING_WAIT: 'long' is not allowed; give seconds"):
        measuring._Patience(5, print)


def test_a_disturbed_throughput_is_taken_again(monkeypatch: pytest.MonkeyPatch) -> None:
    result, asked = scripted(monkeypatch, ["", BUSY, "", ""], patience_s=60, told=[], rounds=1)
    assert asked == ["latency", "memory", "throughput", "look", "throughput", "close"]
    assert result.throughput_per_s == 500.0 and result.steady and result.peak_mb == 300.0


# -- in the worker ---------------------------------------------------------------------------------------------------


class Recording(Engine):
    """An engine that notes the shapes it is given and compiles each new length, rounded up to 8, for `COMPILE_S`."""

    COMPILE_S = 0.02

    def __init__(self, form: Form = EAGER) -> None:
        super().__init__(form)
        self.shapes: list[tuple[int, int]] = []

    @classmethod
    def open(cls, model: Path | bytes, form: Form, threads: int) -> "Recording":
        return cls(form)

    def run(self, feeds: Feeds) -> NDArray[np.float32]:
        shape: tuple[int, int] = feeds["input_ids"].shape
        if all(-(-shape[1] // 8) != -(-length // 8) for _, length in self.shapes):
            time.sleep(self.COMPILE_S)
        self.shapes.append(shape)
        return np.zeros((shape[0], 2), np.float32)


def serve(
    monkeypatch: pytest.MonkeyPatch, folder: Path, form: Form, encoded: Encoded, *messages: dict[str, Any]
) -> tuple[list[dict[str, Any]], list[Recording]]:
    """What a worker answers, and the engines that it opened: one, then one for each stream."""
    opened: list[Recording] = []

    def open_recording(form: Form, *_: Any) -> Recording:
        opened.append(Recording(form))
        return opened[-1]

    monkeypatch.setattr(worker, "open_engine", open_recording)
    encoded.save(folder / "texts.npz")
    places = [folder / "texts.npz"] * 2
    setup = Setup(form, folder, 2, *places, batch=32, raw=None)
    waiting, answers = [to_json(setup), *messages], []
    worker._serve(lambda: waiting.pop(0) if waiting else None, answers.append)
    return answers, opened


@pytest.mark.parametrize(("batch", "largest"), [(1, 1), (8, 8), (64, 32)])
def test_throughput_is_of_the_batches_that_the_form_is_served_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int, largest: int
) -> None:
    message = {"do": "throughput", "texts": 64, "rounds": 2}
    answers, (_, *streams) = serve(monkeypatch, tmp_path, Form("form", "onnxruntime", "", batch=batch), texts(*[5] * 64), message)
    assert {size for stream in streams for size, _ in stream.shapes} == {largest} and len(streams) == 2
    assert len(answers[1]["per_s"]) == 2


def test_a_cold_start_lasts_until_every_bucket_was_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = texts(3, 8, 9, 20, 21)  # 8, 8, 16, 24, 24
    assert worker.first_of_each_shape(encoded, 8) == [0, 2, 3] and worker.first_of_each_shape(encoded, 0) == [0]
    ((setup,), _) = serve(monkeypatch, tmp_path, Form("form", "openvino", "", bucket=8, batch=1), encoded)
    assert setup["cold_start_s"] >= 3 * Recording.COMPILE_S and setup["cold_start_s"] - setup["load_s"] >= 2 * Recording.COMPILE_S
    ((setup,), _) = serve(monkeypatch, tmp_path, Form("form", "onnxruntime", ""), encoded)
    assert setup["load_s"] <= setup["cold_start_s"] < setup["load_s"] + Recording.COMPILE_S


@pytest.mark.parametrize(
    ("task", "inputs", "answers"),
    [
        (Classification(["no", "yes"]), ["good film"], [["no"]]),
        (Pair(["no", "yes"]), [["good", "film"]], [["no"]]),  # as JSON gives a pair back
    ],
)
def test_end_to_end_is_from_the_text_to_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: Task, inputs: list[Any], answers: list[Any]
) -> None:
    read_out: list[Any] = []
    decode = type(task).decode
    monkeypatch.setattr(type(task), "decode", lambda *given: read_out.append(decode(*given)))
    engine, tokenizer = Recording(), tokenizer_of(tiny_teacher(tmp_path / "model"))
    times = worker.end_to_end(engine, Encoder(task, tokenizer, 32), inputs)
    assert len(times) == len(inputs) and read_out == answers
    expected, _, _ = Encoder(task, tokenizer, 32)([tuple(text) if isinstance(text, list) else text for text in inputs])
    assert engine.shapes == [(1, int(length)) for length in expected.lengths]
    assert times[0] >= 1e3 * Recording.COMPILE_S


def test_every_model_s_texts_are_cut_at_its_own_length(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").touch()
    subjects = [Subject(EAGER, tmp_path, max_length=8), Subject(EAGER, tmp_path)]
    told = RawInputs(Classification(["no", "yes"]), INPUTS, 32)
    setups = measuring._setups(subjects, texts(*[5] * len(INPUTS)), 1, Sampling(), told, tmp_path)
    assert [setup.raw.max_length for setup in setups if setup.raw] == [8, 32]


# -- real processes --------------------------------------------------------------------------------------------------


def test_engines_are_measured_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_teacher(tmp_path / "model", "sequence")
    task, tokenizer = Classification(["a", "b"]), tmp_path / "model" / "tokenizer.json"
    encoded, _, _ = Encoder(task, tokenizer_of(tmp_path / "model"), 32)(INPUTS)
    model = read(tmp_path / "model")
    export(model, tmp_path / "engine", [PORTABLE_INT8, INT8_FORMS[0].file], calibrate(model, encoded), segments=False)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "random.py").write_text("raise SystemExit('imported from the current folder')")
    monkeypatch.chdir(tmp_path / "elsewhere")
    engine = tmp_path / "engine"
    subjects = [Subject(EAGER, tmp_path / "model"), Subject(INT8_FORMS[0], engine, tokenizer=tokenizer), Subject(INT8_FORMS[0], engine)]
    raw = RawInputs(task, INPUTS, 32)
    eager, fused, silent = measure(subjects, encoded, threads=1, sampling=Sampling(rounds=2, throughput_texts=12), raw=raw)
    for each in (eager, fused):
        assert len(each.turns) == 2 and all(len(turn.ms) == len(turn.end_to_end_ms) == 12 for turn in each.turns)
        figures = to_json(each.figures())
        assert all(value is not None and value > 0 for name, value in figures.items() if name != "steady")
        assert each.latency_ms <= each.latency_p95_ms <= each.latency_p99_ms
        assert each.cold_start_s is not None and each.load_s <= each.cold_start_s
    assert silent.end_to_end_ms is None  # no tokenizer beside it, and none was named
    if sys.platform == "linux":
        assert eager.peak_mb and fused.peak_mb and fused.peak_mb < eager.peak_mb - 50  # one process never holds torch
    with pytest.raises(PenjingError, match=r"torch|onnx|missing"):
        measure([Subject(Form("gone", "onnxruntime", "none.onnx"), tmp_path)], encoded, threads=1)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_beside_busy_loops_nothing_is_steady_and_no_speedup_is_claimed(tmp_path: Path) -> None:
    tiny_teacher(tmp_path / "model", "sequence")
    encoded, _, _ = Encoder(Classification(["a", "b"]), tokenizer_of(tmp_path / "model"), 32)(INPUTS * 500)
    export(read(tmp_path / "model"), tmp_path, [FLOAT_FORMS[0].file], segments=False)
    # So many texts that a turn is longer than the scheduler's slices, which a short one may have to itself.
    with busy_loops(quiet.processors().logical):
        subjects = [Subject(FLOAT_FORMS[0], tmp_path)] * 2
        one, two = measure(subjects, encoded, threads=1, sampling=Sampling(2, len(encoded), throughput_texts=0))
    assert not one.steady and not two.steady and not two.speedup_over(one).steady
    assert all(turn.disturbance for turn in one.turns)


# -- models ----------------------------------------------------------------------------------------------------------


def test_eager_bfloat16_is_eager_in_fewer_bits(tmp_path: Path) -> None:
    tiny_teacher(tmp_path, "tagging")
    encoded, _, _ = Encoder(Tagging(["O", "B-x"]), tokenizer_of(tmp_path), 32)([["good", "film"], ["bad"]])
    exact, rounded = (open_engine(form, tmp_path, 1).logits(encoded) for form in (EAGER, EAGER_BF16))
    difference = max(float(np.abs(a - b).max()) for a, b in zip(exact, rounded, strict=True))
    scale = max(float(np.abs(a).max()) for a in exact)
    assert all(row.dtype == np.float32 for row in rounded) and 0 < difference < 0.05 * scale
