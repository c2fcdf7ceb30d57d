"""Any number of threads may ask one model: each gets its own answers, on every engine. `make threads` is the long form."""

import threading
from pathlib import Path

import pytest
from conftest import tiny_tokenizer
from samples import FORMS, engine
from threads import hammer, models, requests, texts, told_apart

import penjing
from penjing.engines.openvino import Compiled
from penjing.tasks.encoder import Encoder
from penjing.tasks.sequence import Classification

NAMES = (
    "onnxruntime", "onnxruntime fused int8", "openvino", "openvino, pairs", "openvino buckets", "openvino buckets, words, batches",
    "onnxruntime, packed", "openvino buckets, packed", "numpy student", "torch eager",
)  # fmt: skip


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> dict:
    return models(tmp_path_factory.mktemp("models"))


@pytest.mark.parametrize("name", NAMES)
def test_eight_threads_get_their_own_answers(every: dict, name: str) -> None:
    task, load = every[name]
    asked, wanted = told_apart(load(), requests(task))
    assert len(asked) > 20
    assert dict(hammer(load(), wanted, asked, threads=8, count=60)) == {"own": 480}


def test_no_engine_is_left_out(every: dict) -> None:
    assert set(NAMES) == set(every)


def test_threads_that_encode_with_other_lengths_do_not_change_one_another() -> None:
    tokenizer, task, given = tiny_tokenizer(), Classification(["a", "b"]), texts(most=40)
    tokenizer.enable_padding()
    tokenizer.enable_truncation(3)
    gate, found, lengths = threading.Barrier(8), dict[int, list[bool]](), [4 + 3 * number for number in range(8)]
    apart = {most: Encoder(task, tiny_tokenizer(), most)(given) for most in lengths}

    def work(most: int) -> None:
        gate.wait()
        found[most] = []
        for _ in range(40):
            encoded, _, cut = Encoder(task, tokenizer, most)(given)
            expected, _, expected_cut = apart[most]
            found[most].append(
                bool((encoded.offsets == expected.offsets).all() and (encoded.ids == expected.ids).all() and cut == expected_cut)
            )

    threads = [threading.Thread(target=work, args=(most,)) for most in lengths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {most: [True] * 40 for most in lengths}


def test_a_length_that_is_compiled_holds_up_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one bucket compiles, another that is compiled answers, and two threads that meet a new one compile it once."""
    folder = engine(tmp_path / "engine", [FORMS["openvino int8 buckets"]])
    model = penjing.load(folder, threads=1)
    short, long = ["good"], ["good film " * 6]
    expected = model(short)
    compiling, may_go, compiled = threading.Event(), threading.Event(), []

    def slow(self: Compiled, given: object) -> None:
        compiled.append(given)
        compiling.set()
        assert may_go.wait(60)
        plain(self, given)

    plain = Compiled.__init__
    monkeypatch.setattr(Compiled, "__init__", slow)
    answers: list = []
    threads = [threading.Thread(target=lambda: answers.append(model(long))) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert compiling.wait(60)
    assert model(short) == expected and not answers
    may_go.set()
    for thread in threads:
        thread.join()
    assert len(compiled) == 1 and answers[0] == answers[1]
