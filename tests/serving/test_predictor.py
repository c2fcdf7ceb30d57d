"""`penjing.load`: whatever is asked is answered or named, and what an engine folder says is checked before anything is served."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import tiny_tokenizer
from samples import FORMS, LABELS, describe, engine, student_folder

import penjing
from penjing.engines.description import DESCRIPTION, Description, checksums
from penjing.engines.engine import Engine
from penjing.engines.form import FEEDS, TOKENIZER
from penjing.engines.onnxruntime import OnnxRuntimeEngine
from penjing.engines.opening import open_engine
from penjing.errors import InputError
from penjing.serving.predictor import Answer, Predictor

ORT, OPENVINO = FORMS["onnxruntime float32"], FORMS["openvino float32"]
BOTH = [ORT, OPENVINO]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("folders")
    return {task: engine(place / task, BOTH, task) for task in ("classification", "pair", "tagging")}


@pytest.fixture(scope="module")
def loaded(folders: dict[str, Path]) -> dict[str, Predictor]:
    return {task: penjing.load(folder, threads=1) for task, folder in folders.items()}


def alike(answer: Answer, other: Answer) -> bool:
    """Whether two answers are one, but for the last digits."""
    label, score = ("labels", "scores") if "labels" in answer else ("label", "score")
    return bool(answer[label] == other[label] and np.allclose(answer[score], other[score]))


# -- what is asked -------------------------------------------------------------------------------------------------

ODD = {
    "half a character": "bad \ud83d film",
    "nothing": "",
    "blanks": " \t\r\n",
    "a zero byte": "good\x00film",
    "control characters": "\x01\x1f\x7f\x85",
    "no character": "\ufffd\ufffe\uffff",
    "zero width": "\u200b\u200d\ufeff",
    "right to left": "\u202egood\u202c",
    "many marks": "a" + "\u0301" * 5000,
    "an emoji of many": "\U0001f469\u200d\U0001f469\u200d\U0001f467",
    "special tokens": "[CLS] [SEP] [PAD] [MASK] </s>",
    "one long word": "x" * 100_000,
    "a megabyte": "good film " * 100_000,
    "numpy's": np.str_("good"),
}  # fmt: skip


@pytest.mark.parametrize("task", ["classification", "pair", "tagging"])
def test_one_odd_text_is_answered_and_leaves_the_others_alone(loaded: dict[str, Predictor], task: str) -> None:
    model = loaded[task]
    wrap: Callable[[str], Any] = {
        "classification": str,
        "pair": lambda text: ("good", text),
        "tagging": lambda text: ["good", text, "film"],
    }[task]
    expected = model([wrap("good film"), wrap("bad")])
    for text in ODD.values():
        answers = model([wrap("good film"), wrap(text), wrap("bad")])
        assert alike(answers[0], expected[0]) and alike(answers[2], expected[1])
        assert len(answers) == 3 and answers[1].keys() == answers[0].keys()
        if task == "tagging":
            assert [len(answers[1][part]) for part in ("labels", "scores")] == [3, 3]


def test_words_that_vanish_are_answered_in_their_place(loaded: dict[str, Predictor]) -> None:
    model = loaded["tagging"]
    plain, vanished = model([["good", "film"]])[0], model([["\u200b", "good", "", "film", "\ud83d"]])[0]
    assert [vanished["labels"][i] for i in (1, 3)] == plain["labels"]
    assert [vanished["scores"][i] for i in (1, 3)] == pytest.approx(plain["scores"])
    assert [vanished["scores"][i] for i in (0, 2, 4)] == [0.0] * 3
    assert model([[], ["good"]])[0] == {"labels": [], "scores": []}


def numbered() -> Iterator[str]:
    yield from ("good film", "bad")


@pytest.mark.parametrize(
    "given",
    [
        ("good film", "bad"),
        numbered,
        np.array(["good film", "bad"]),
        np.array(["good film", "bad"], object),
        pd.Series(["good film", "bad"], index=[7, 3]),
        {1: "good film", 2: "bad"}.values(),
        map(str, ["good film", "bad"]),
    ],
    ids=["tuple", "generator", "array", "objects", "series", "values", "map"],
)
def test_anything_with_an_order_is_a_list(loaded: dict[str, Predictor], given: Any) -> None:
    expected = loaded["classification"](["good film", "bad"])
    assert loaded["classification"](given() if callable(given) else given) == expected


def test_pairs_and_words_may_be_any_sequence(loaded: dict[str, Predictor]) -> None:
    for pairs in ([["good", "bad"]], [("good", "bad")], np.array([["good", "bad"]])):
        assert loaded["pair"](pairs) == loaded["pair"]([("good", "bad")])
    for words in ([["good", "bad"]], [("good", "bad")], np.array([["good", "bad"]])):
        assert loaded["tagging"](words) == loaded["tagging"]([("good", "bad")])


@pytest.mark.parametrize("task", ["classification", "pair", "tagging"])
@pytest.mark.parametrize("nothing", [[], (), np.array([]), pd.Series([], dtype=str), iter(())], ids=lambda value: type(value).__name__)
def test_of_nothing_there_are_no_answers(loaded: dict[str, Predictor], task: str, nothing: Any) -> None:
    assert loaded[task](nothing) == []


WRONG: list[tuple[str, Any, str]] = [
    ("classification", ["good", None], r"^predict: inputs\[1\] is None; classification takes one text \(str\) each$"),
    ("classification", ["good", 7], r"inputs\[1\] is a int, 7; classification takes one text"),
    ("classification", [float("nan")], r"inputs\[0\] is a float, nan; "),
    ("classification", [b"good"], r"inputs\[0\] is a bytes, b'good'; "),
    ("classification", [("good", "bad")], r"inputs\[0\] is a tuple, \('good', 'bad'\); classification takes one text"),
    ("classification", [["good"]], r"inputs\[0\] is a list"),
    ("classification", [{"text": "good"}], r"inputs\[0\] is a dict"),
    ("classification", ["good", ["x" * 10_000] * 10_000], r"inputs\[1\] is a list, .{1,80}; "),
    ("classification", np.array([["good", "bad"], ["a", "b"]]), r"inputs\[0\] is a ndarray"),
    ("classification", pd.Series(["good", None]), r"inputs\[1\] is "),
    ("classification", "good", "^predict: got one text; give a list of texts"),
    ("classification", b"good", "got one text"),
    ("classification", None, "got a NoneType; give a list"),
    ("classification", 7, "got a int; give a list"),
    ("classification", np.array("good"), "got a ndarray; give a list"),
    ("classification", {"text": ["good"]}, "got a dict; give a list"),
    ("classification", {"good", "bad"}, "got a set; give a list"),
    ("classification", pd.DataFrame({"text": ["good"]}), "got a DataFrame; give a list"),
    ("pair", ["good"], r"inputs\[0\] is a str, 'good'; pair takes two texts \(str\) each, as \(first, second\)"),
    ("pair", [("good",)], r"inputs\[0\] is a tuple"),
    ("pair", [("good", "bad", "a")], r"inputs\[0\] is a tuple"),
    ("pair", [("a", "b"), ("good", None)], r"inputs\[1\]\[1\] is None; pair takes"),
    ("tagging", ["good film"], r"inputs\[0\] is a str, 'good film'; tagging takes a list of words"),
    ("tagging", [["good", 3.5]], r"inputs\[0\]\[1\] is a float, 3\.5; "),
    ("tagging", [["good", ["bad"]]], r"inputs\[0\]\[1\] is a list"),
    ("tagging", [{"good": 1}], r"inputs\[0\] is a dict"),
]


@pytest.mark.parametrize(("task", "given", "said"), WRONG, ids=range(len(WRONG)))
def test_what_is_no_input_is_named_by_its_place(loaded: dict[str, Predictor], task: str, given: Any, said: str) -> None:
    with pytest.raises(InputError, match=said) as raised:
        loaded[task](given)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 300


# -- what the folder says ------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return engine(tmp_path / "engine", BOTH)


def changed(folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    about = json.loads((folder / DESCRIPTION).read_text())
    change(about)
    (folder / DESCRIPTION).write_text(json.dumps(about))
    return folder


def refusal(folder: Path, **options: Any) -> str:
    """The one line that loading ends with."""
    with pytest.raises(InputError) as raised:
        penjing.load(folder, **({"threads": 1} | options))
    assert "\n" not in str(raised.value)
    return str(raised.value)


FIELDS: list[tuple[str, Any, str]] = [
    ("format", 2, "has format 2, and this code reads 1; take a newer Penjing"),
    ("format", "x", "has format 'x'"),
    ("task", None, "task is None; it has to be the name of a task"),
    ("task", "summary", "task: 'summary' is none; allowed are classification, pair, tagging"),
    ("labels", [], r"labels is []; it has to be a list of different names"),
    ("labels", ["a", 1], "labels is ['a', 1]"),
    ("labels", ["a", "a"], "labels is ['a', 'a']"),
    ("labels", "ab", "labels is 'ab'"),
    ("labels", ["a", "b", "c"], "answers with batch x 2 numbers, and engine.json names the 3 labels of classification (['a', 'b', 'c'])"),
    ("task", "tagging", "answers with batch x 2 numbers"),
    ("max_length", 0, "max_length is 0; it has to be a number of tokens"),
    ("max_length", "24", "max_length is '24'"),
    ("max_length", True, "max_length is True"),
    ("max_length", 24.0, "max_length is 24.0"),
    ("temperature", 0, "temperature is 0; it has to be a number above 0"),
    ("temperature", -1.5, "temperature is -1.5"),
    ("temperature", float("nan"), "temperature is nan"),
    ("temperature", float("inf"), "temperature is inf"),
    ("temperature", None, "temperature is None"),
    ("temperature", 1e-300, "temperature is 1e-300"),
    ("weight_bits", "8", "weight_bits is '8'"),
    ("crc32", {"model.onnx": "x"}, "crc32 is {'model.onnx': 'x'}"),
    ("forms", [], "forms is []; it has to be a list of forms"),
    ("forms", {"a": 1}, "forms is {'a': 1}"),
    ("forms", [None], "is damaged"),
    ("forms", [["name"]], "is damaged"),
    ("forms", [{"name": "x"}], "is damaged (Form.__init__() missing 2 required positional arguments"),
    ("forms", [{**ORT.to_dict(), "new": 1}], "unexpected keyword argument 'new'"),
    ("forms", [{**ORT.to_dict(), "engine": "tensorrt"}], "runs on 'tensorrt'; known are onnxruntime, openvino, torch, numpy"),
    ("forms", [{**ORT.to_dict(), "engine": ["onnxruntime"]}], "runs on ['onnxruntime']"),
    ("forms", [{**ORT.to_dict(), "batch": 0}], "the batch of a form is 0"),
    ("forms", [{**ORT.to_dict(), "bucket": -8}], "the bucket of a form is -8"),
    ("forms", [{**ORT.to_dict(), "packed": "no"}], "the packed of a form is 'no'"),
    ("forms", [{**ORT.to_dict(), "bfloat16": 1}], "the bfloat16 of a form is 1"),
    ("forms", [{**ORT.to_dict(), "engine": "numpy", "packed": True}], "is packed, and numpy runs no graph"),
    ("forms", [{**ORT.to_dict(), "name": 3}], "the name of a form is 3"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value", "said"), FIELDS, ids=[f"{name}-{i}" for i, (name, _, _) in enumerate(FIELDS)])
def test_every_field_of_a_description_is_checked(folder: Path, name: str, value: Any, said: str) -> None:
    line = refusal(changed(folder, lambda about: about.update({name: value})))
    assert said in line and (str(folder) in line or name == "task")


@pytest.mark.parametrize(
    "file", ["../float32.onnx", "/etc/passwd", "a/../../x.onnx", "..", ".", "", "sub/x.onnx", "C:x", "a\\b", "x\x00", "x" * 300, None, 3]
)
def test_a_form_names_no_file_outside_of_its_folder(folder: Path, file: Any) -> None:
    (folder.parent / "float32.onnx").write_bytes((folder / "float32.onnx").read_bytes())
    line = refusal(changed(folder, lambda about: about["forms"][0].update(file=file)))
    assert "files are named in the folder itself" in line


@pytest.mark.parametrize("name", ["task", "labels", "max_length", "forms"])
def test_a_field_that_is_needed_is_named(folder: Path, name: str) -> None:
    assert f"it lacks {name}" in refusal(changed(folder, lambda about: about.pop(name)))


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"3", b'"x"', b"\xff\xfe{", b"[" * 100_000, b'{"labels": ' * 50_000, b"9" * 10_000]
)
def test_what_is_no_description_is_refused(folder: Path, content: bytes) -> None:
    (folder / DESCRIPTION).write_bytes(content)
    assert refusal(folder).startswith(f"engine: {folder / DESCRIPTION} is damaged (")


def test_what_is_no_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "other" / "engine" / DESCRIPTION).mkdir(parents=True)
    assert f"has no {DESCRIPTION}; give a folder that penjing compress wrote" in refusal(tmp_path / "nowhere")
    for path in (tmp_path / "file", tmp_path / "other"):
        assert "is damaged" in refusal(path) or "has no" in refusal(path)
    assert "has no form for 'tensorrt'; it has onnxruntime, openvino" in refusal(folder, engine="tensorrt")
    for threads in (-1, 1.5, "2"):
        assert "threads: " in refusal(folder, threads=threads)


def test_threads_are_two_unless_they_are_given_and_0_is_all(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[int] = []
    opened = OnnxRuntimeEngine.open.__func__  # type: ignore[attr-defined]
    monkeypatch.setattr(
        OnnxRuntimeEngine, "open", classmethod(lambda kind, model, form, threads: used.append(threads) or opened(kind, model, form, 1))
    )
    for module in ("penjing.serving.predictor", "penjing.engines.opening"):
        monkeypatch.setattr(f"{module}.cores", lambda: 3)
    for threads in (None, 0, 1):
        penjing.load(folder, engine="onnxruntime", threads=threads)
    assert used == [2, 3, 1]


def test_a_description_of_before_is_read(folder: Path) -> None:
    expected = penjing.load(folder, threads=1)(["good film"])

    def older(about: dict[str, Any]) -> None:
        for name in ("format", "crc32", "weight_bits"):
            about.pop(name)

    assert penjing.load(changed(folder, older), threads=1)(["good film"]) == expected


# -- what else happens ---------------------------------------------------------------------------------------------

QUIET = """
import sys

seen = []
watched = ("socket.", "urllib.", "subprocess.", "os.fork", "os.exec", "os.posix_spawn", "os.system", "pickle.")
sys.addaudithook(lambda event, arguments: seen.append(event) if event.startswith(watched) else None)
import penjing

for engine in ("onnxruntime", "openvino"):
    assert penjing.load(sys.argv[1], engine=engine, threads=1)(["good film"])
assert not seen, seen
assert "openvino_telemetry" not in sys.modules
"""


def test_serving_opens_no_connection_and_starts_no_process(folder: Path, tmp_path: Path) -> None:
    """Importing openvino would: it tells Google Analytics of it."""
    (tmp_path / "home").mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "CI"} | {"HOME": str(tmp_path / "home")}
    done = subprocess.run([sys.executable, "-c", QUIET, str(folder)], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert not list((tmp_path / "home").iterdir())


# -- its files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", [ORT.file, TOKENIZER])
def test_one_other_byte_is_found_by_the_checksum(folder: Path, file: str) -> None:
    content = bytearray((folder / file).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / file).write_bytes(content)
    for name in ("onnxruntime", "openvino"):
        assert f"{folder / file} is damaged, or of another export" in refusal(folder, engine=name)
    (folder / file).unlink()
    assert f"{folder / file} is missing" in refusal(folder)


def test_weights_that_are_no_graph_have_a_checksum_of_their_own(tmp_path: Path, folder: Path) -> None:
    student_folder(tmp_path / "student")
    assert list(Description.read(tmp_path / "student").crc32) == [TOKENIZER]
    assert list(Description.read(folder).crc32) == [ORT.file, TOKENIZER]


@pytest.mark.parametrize("form", BOTH, ids=lambda form: form.engine)
def test_a_graph_of_something_else_is_refused(tmp_path: Path, folder: Path, form: Any) -> None:
    import onnx

    for change, said in ((("input_ids", "pixels"), "it takes "), (("logits", "scores"), "gives scores")):
        graph = onnx.load(folder / form.file)
        for node in graph.graph.node:
            node.input[:] = [change[1] if name == change[0] else name for name in node.input]
            node.output[:] = [change[1] if name == change[0] else name for name in node.output]
        for value in (*graph.graph.input, *graph.graph.output):
            value.name = change[1] if value.name == change[0] else value.name
        (tmp_path / "other").mkdir(exist_ok=True)
        onnx.save(graph, tmp_path / "other" / form.file)
        line = refusal(describe(tmp_path / "other", [form]))
        assert said in line and "that has to be " + ", ".join(FEEDS) in line


def test_numbers_of_a_model_that_are_none_are_no_answer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = penjing.load(folder, threads=1)
    monkeypatch.setattr(Engine, "logits", lambda self, encoded: [np.array([np.nan, 1], np.float32)] * len(encoded))
    with pytest.raises(InputError, match="answers with what is no number"):
        model(["good"])


@pytest.mark.parametrize("form", BOTH, ids=lambda form: form.engine)
def test_a_text_that_a_model_cannot_take_is_one_line(folder: Path, form: Any) -> None:
    about = Description.read(changed(folder, lambda about: about.update(max_length=4000)))
    assert about.max_length == 4000
    model = penjing.load(folder, engine=form.engine, threads=1)
    with pytest.raises(InputError, match="the model cannot answer a text of 302 tokens") as raised:
        model(["good " * 300])
    assert "\n" not in str(raised.value)
    assert model(["good"])[0]["label"] in LABELS


@pytest.mark.parametrize("form", [*BOTH, FORMS["openvino int8"]], ids=lambda form: form.name)
def test_tokens_of_another_tokenizer_are_one_line(tmp_path: Path, form: Any) -> None:
    folder = engine(tmp_path / "engine", [form])
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["zebra"])
    tokenizer.save(str(folder / TOKENIZER))
    model = penjing.load(changed(folder, lambda about: about.pop("crc32")), threads=1)
    assert model(["good film"])
    with pytest.raises(InputError, match="the model cannot answer a text of 3 tokens"):
        model(["zebra"])


def test_checksums_are_of_files_that_are_there(folder: Path) -> None:
    about = Description.read(folder)
    assert about.crc32 == checksums(folder, BOTH)
    assert open_engine(ORT, folder, 1).ports[-1] == len(LABELS)
