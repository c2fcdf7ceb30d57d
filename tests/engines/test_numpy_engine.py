"""Students of arrays: their file is whole or refused, and they answer as plain loops over their formulas do."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from samples import HASHED, VOCABULARY, student

from penjing.engines.numpy import FILE, KINDS, NUMPY_FORM, Learned, NumpyEngine, ngrams
from penjing.engines.opening import open_engine
from penjing.errors import InputError
from penjing.text.encoded import Encoded

BITS, ORDERS = HASHED["bits"], HASHED["orders"]
KIND = pytest.mark.parametrize(
    "kind", ["logistic", "logistic of two", "trees", "trees of two", "soft-tree", "soft-tree of two", "static", "static of pairs"]
)


def texts(count: int = 12, seed: int = 0) -> Encoded:
    """Random pairs of lengths from 1 on, some of them equal."""
    rng = np.random.default_rng(seed)
    ids = [rng.integers(0, VOCABULARY, n).tolist() for n in rng.integers(1, 9, count)]
    return Encoded.of(ids, [sorted(rng.integers(0, 2, len(row)).tolist()) for row in ids])


def same(a: Learned, b: Learned) -> bool:
    alike = a.kind == b.kind and a.settings == b.settings and a.arrays.keys() == b.arrays.keys()
    return alike and all(np.array_equal(value, b.arrays[name]) and value.dtype == b.arrays[name].dtype for name, value in a.arrays.items())


# -- formulas ----------------------------------------------------------------------------------------------------


def plain_ngrams(ids: list[int], types: list[int]) -> list[int]:
    """The buckets of a text, ascending, by the formula of `ngrams` in Python's integers."""
    found = set()
    for i in range(len(ids)):
        h = types[i] << 32
        for j in range(i, min(i + ORDERS, len(ids))):
            if types[j] == types[i]:
                h = (h ^ (ids[j] + 1)) * 0x9E3779B97F4A7C15 % 2**64
                h ^= h >> 32
                found.add(h >> (64 - BITS))
    return sorted(found)


def plain_logistic(learned: Learned, ids: list[int], types: list[int]) -> NDArray[Any]:
    used = np.flatnonzero(np.unpackbits(learned.arrays["used"], bitorder="little")).tolist()
    buckets = plain_ngrams(ids, types)
    rows = [learned.arrays["weights"][used.index(b)].astype(float) for b in buckets if b in used]
    return learned.arrays["bias"] + sum(rows, np.zeros(1)) / len(buckets) ** 0.5


def plain_trees(learned: Learned, ids: list[int], types: list[int]) -> NDArray[Any]:
    arrays, present = learned.arrays, plain_ngrams(ids, types)
    z = arrays["bias"].astype(float)
    for node, output in zip(arrays["root"], arrays["output"], strict=True):
        while node not in arrays["child"][node]:
            node = arrays["child"][node][int(arrays["buckets"][arrays["feature"][node]] in present)]
        z[output] += arrays["value"][node]
    return z


def plain_soft_tree(learned: Learned, ids: list[int], types: list[int]) -> NDArray[Any]:
    a = {name: value.astype(float) for name, value in learned.arrays.items()}
    known = [learned.arrays["buckets"].tolist().index(b) for b in plain_ngrams(ids, types) if b in learned.arrays["buckets"]]
    answer = np.zeros(a["leaves"].shape[1])
    for leaf, distribution in enumerate(a["leaves"]):
        node, probability = len(a["threshold"]) + leaf, 1.0
        while node:
            above = (node - 1) // 2
            score = sum(a["filters"][f, above] for f in known) / max(1, len(known)) ** 0.5 + a["threshold"][above]
            right = 1 / (1 + np.exp(-score))
            probability *= right if node == 2 * above + 2 else 1 - right
            node = above
        answer += probability * distribution
    return np.asarray(np.log(answer))


def plain_static(learned: Learned, ids: list[int], types: list[int]) -> NDArray[Any]:
    a = {name: value.astype(float) for name, value in learned.arrays.items()}
    means = []
    for part in (0, 1):
        rows = [
            a["vectors"][i] for i, t in zip(ids, types, strict=True) if i not in (2, 3) and (t == part or not learned.settings["pairs"])
        ]
        means.append(np.mean(rows, axis=0) if rows else np.zeros(6))
    u, v = means
    x = np.concatenate([u, v, abs(u - v), u * v]) if learned.settings["pairs"] else u
    return x @ a["linear"] + np.maximum(x @ a["hidden"] + a["hidden_bias"], 0) @ a["out"] + a["bias"]


PLAIN: dict[str, Callable[[Learned, list[int], list[int]], NDArray[Any]]] = {
    "logistic": plain_logistic, "trees": plain_trees, "soft-tree": plain_soft_tree, "static": plain_static,
}  # fmt: skip


@KIND
def test_answers_are_those_of_plain_loops(kind: str) -> None:
    learned, encoded = student(kind), texts()
    for i, found in enumerate(NumpyEngine(learned).logits(encoded)):
        types = encoded.types[encoded.offsets[i] : encoded.offsets[i + 1]]
        z = PLAIN[learned.kind](learned, encoded.row(i).tolist(), types.tolist())
        np.testing.assert_allclose(found, [-z[0] / 2, z[0] / 2] if len(z) == 1 else z, atol=1e-4)
        assert found.dtype == np.float32


@KIND
@given(seed=st.integers(0, 999))
@settings(max_examples=5)
def test_an_answer_does_not_depend_on_the_other_texts(kind: str, seed: int) -> None:
    engine, encoded = NumpyEngine(student(kind)), texts(30, seed)
    for i, found in enumerate(engine.logits(encoded)):
        np.testing.assert_allclose(engine.run(encoded.feeds(np.array([i])))[0], found, atol=1e-5)


@given(st.integers(0, 999))
def test_ngrams_of_many_texts_are_those_of_each(seed: int) -> None:
    encoded = texts(8, seed)
    text, bucket = ngrams(encoded.ids, encoded.types, encoded.offsets, BITS, ORDERS)
    assert (np.diff(text) >= 0).all()
    for i in range(len(encoded)):
        types = encoded.types[encoded.offsets[i] : encoded.offsets[i + 1]]
        assert bucket[text == i].tolist() == plain_ngrams(encoded.row(i).tolist(), types.tolist())


def test_hashes_spread_and_tell_segments_and_orders_apart() -> None:
    ids, offsets = np.arange(30000, dtype=np.int32), np.array([0, 30000])
    _, first = ngrams(ids, np.zeros(30000, np.int8), offsets, 20, 1)
    _, second = ngrams(ids, np.ones(30000, np.int8), offsets, 20, 1)
    expected = 2**20 * (1 - (1 - 2**-20) ** 30000)
    assert len(first) > 0.99 * expected and len(second) > 0.99 * expected
    assert len(np.intersect1d(first, second)) < 0.05 * 30000
    _, both = ngrams(ids, np.zeros(30000, np.int8), offsets, 20, 2)
    assert len(both) > 0.99 * 2**20 * (1 - (1 - 2**-20) ** 59999)


# -- the file ----------------------------------------------------------------------------------------------------


@KIND
def test_reading_gives_what_was_written(kind: str, tmp_path: Path) -> None:
    learned, encoded = student(kind), texts()
    learned.write(tmp_path / FILE)
    assert same(Learned.read(tmp_path / FILE), learned)
    replace(learned, arrays=dict(reversed(learned.arrays.items()))).write(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / FILE).read_bytes()
    engine = open_engine(NUMPY_FORM, tmp_path, threads=1)
    assert all(np.array_equal(a, b) for a, b in zip(engine.logits(encoded), NumpyEngine(learned).logits(encoded), strict=True))


@given(st.floats(0, 1, exclude_max=True), st.integers(1, 255), st.sampled_from(["logistic", "trees", "soft-tree", "static"]))
@settings(max_examples=60)
def test_another_byte_anywhere_is_refused_in_one_line(tmp_path_factory: pytest.TempPathFactory, where: float, flip: int, kind: str) -> None:
    path = tmp_path_factory.mktemp("damaged") / FILE
    student(kind).write(path)
    content = bytearray(path.read_bytes())
    content[int(where * len(content))] ^= flip
    path.write_bytes(content)
    try:
        assert same(Learned.read(path), student(kind))  # another blank in the header says the same
    except InputError as error:
        assert "\n" not in str(error) and str(path) in str(error)


@pytest.mark.parametrize("left", [0, 7, 300])
def test_a_truncated_file_is_refused(left: int, tmp_path: Path) -> None:
    student("trees").write(tmp_path / FILE)
    (tmp_path / FILE).write_bytes((tmp_path / FILE).read_bytes()[:left])
    with pytest.raises(InputError, match="no whole student"):
        open_engine(NUMPY_FORM, tmp_path, threads=1)


LOGISTIC, TREES, SOFT_TREE, STATIC = (student(kind) for kind in ("logistic", "trees", "soft-tree", "static"))


def changed(learned: Learned, name: str, value: Any) -> Learned:
    return replace(learned, arrays=learned.arrays | {name: value})


def with_settings(learned: Learned, **fields: Any) -> Learned:
    return replace(learned, settings=learned.settings | fields)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (replace(LOGISTIC, kind="forest"), "its kind is 'forest'; known are logistic, trees, soft-tree, static"),
        (replace(LOGISTIC, kind="trees"), "its settings are"),
        (replace(LOGISTIC, arrays={"used": LOGISTIC.arrays["used"]}), "its arrays are used; logistic takes used, weights, bias"),
        (changed(LOGISTIC, "bias", np.zeros(2, np.float32)), r"bias is float32 \[2\]"),
        (changed(LOGISTIC, "bias", np.zeros(3)), "bias is float64"),
        (changed(LOGISTIC, "bias", np.zeros((3, 1), np.float32)), r"bias is float32 \[3, 1\]"),
        (changed(LOGISTIC, "used", np.zeros(64, np.uint8)), "used marks 0 of 512 buckets"),
        (with_settings(LOGISTIC, bits=10), "used marks"),
        (with_settings(LOGISTIC, bits=40), "bits is 40; 3 to 24 are"),
        (with_settings(LOGISTIC, bits=9.0), "its settings are"),
        (with_settings(LOGISTIC, orders=0), "orders is 0; 1 to 8 are"),
        (with_settings(TREES, depth=99), "depth is 99"),
        (changed(TREES, "buckets", TREES.arrays["buckets"][::-1]), "buckets ascend"),
        (changed(TREES, "buckets", TREES.arrays["buckets"] + np.uint32(400)), "buckets has"),
        (changed(TREES, "feature", TREES.arrays["feature"] + 100), "feature has"),
        (changed(TREES, "child", TREES.arrays["child"] - 2), "child has -1 to"),
        (changed(TREES, "child", TREES.arrays["child"][:, :1]), "two a node"),
        (changed(TREES, "root", TREES.arrays["root"] + 7), "root has 7 to 35, and there are 35"),
        (changed(TREES, "output", TREES.arrays["output"] + 3), "output has"),
        (changed(SOFT_TREE, "leaves", SOFT_TREE.arrays["leaves"][:7]), "7 inner nodes and leaves"),
        (changed(SOFT_TREE, "leaves", -SOFT_TREE.arrays["leaves"]), "no probability"),
        (changed(SOFT_TREE, "buckets", SOFT_TREE.arrays["buckets"] + np.uint32(400)), "buckets has"),
        (with_settings(STATIC, specials=[VOCABULARY]), f"specials has {VOCABULARY} to {VOCABULARY}, and there are {VOCABULARY}"),
        (with_settings(STATIC, specials=["a"]), "invalid literal"),
        (with_settings(STATIC, pairs=True), "linear takes 6 features"),
        (changed(STATIC, "out", np.zeros((4, 3), np.float16)), r"out is float16 \[4, 3\]"),
    ],
)
def test_what_does_not_fit_is_refused(wrong: Learned, reason: str, tmp_path: Path) -> None:
    wrong.write(tmp_path / FILE)
    with pytest.raises(InputError, match=reason) as raised:
        Learned.read(tmp_path / FILE)
    assert "\n" not in str(raised.value) and str(raised.value).endswith("distil it again")


def test_a_newer_format_and_a_file_of_something_else_are_refused(tmp_path: Path) -> None:
    LOGISTIC.write(tmp_path / FILE)
    header = {"format": 2, "kind": "logistic", "settings": {}, "crc32": 0}
    save_file(load_file(tmp_path / FILE), tmp_path / "newer", {"student": json.dumps(header)})
    with pytest.raises(InputError, match="has format 2, and this code reads 1; take a newer Penjing"):
        Learned.read(tmp_path / "newer")
    save_file({"a": np.zeros(3)}, tmp_path / "other")
    for name in ("other", "missing"):
        with pytest.raises(InputError, match="no whole student"):
            Learned.read(tmp_path / name)


def test_without_safetensors_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    LOGISTIC.write(tmp_path / FILE)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    with pytest.raises(InputError, match=r"takes the package safetensors.*pip install 'penjing\[packed\]'"):
        open_engine(NUMPY_FORM, tmp_path)


def test_answering_imports_neither_torch_nor_scikit_learn(tmp_path: Path) -> None:
    for kind, learned in zip(KINDS, (LOGISTIC, TREES, SOFT_TREE, STATIC), strict=True):
        learned.write(tmp_path / kind / FILE)
    script = f"""
import sys
import numpy as np
from penjing.engines.opening import open_engine
from penjing.engines.numpy import KINDS, NUMPY_FORM
feeds = dict.fromkeys(("input_ids", "token_type_ids"), np.zeros((2, 5), np.int64))
for kind in KINDS:
    assert open_engine(NUMPY_FORM, {str(tmp_path)!r} + "/" + kind).run(feeds).shape == (2, 3)
assert not {{"torch", "sklearn", "scipy", "transformers", "onnxruntime"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
