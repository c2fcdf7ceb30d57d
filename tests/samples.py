"""Tiny folders of every kind that is served: what the tests of threads, of bad inputs and of damaged files share."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from conftest import TAGS, penjing_model, tiny_tokenizer
from numpy.typing import NDArray

from penjing.blueprint import Blueprint, Layer
from penjing.engines.description import DESCRIPTION, DESCRIPTION_FORMAT, checksums
from penjing.engines.form import FLOAT_FORMS, INT8_FORMS, TOKENIZER, Form
from penjing.engines.numpy import FILE, NUMPY_FORM, Learned
from penjing.engines.onnx.export import export, network_of
from penjing.engines.onnx.packed import write_network
from penjing.maths.stored import Scheme, quantize
from penjing.steps.bits.calibrate import calibrate
from penjing.text.encoded import Encoded

VOCABULARY = tiny_tokenizer().get_vocab_size()
SHAPE = Blueprint(VOCABULARY, 24, 2, 10, 12, 5, (Layer(3, 17), Layer(0, 6), Layer(2, 8)), "sequence", 2)
LABELS = ("negative", "positive")
FORMS = {form.name: form for form in (*FLOAT_FORMS, *INT8_FORMS)}
HASHED = {"bits": 9, "orders": 3}


def describe(folder: Path, forms: Sequence[Form], **more: Any) -> Path:
    """A folder with its tokenizer and its engine.json, with `more` fields."""
    tiny_tokenizer().save(str(folder / TOKENIZER))
    about = {
        "format": DESCRIPTION_FORMAT, "task": "classification", "labels": list(LABELS), "max_length": SHAPE.positions, "weight_bits": 7,
        "forms": [form.to_dict() for form in forms], "crc32": checksums(folder, forms),
    }  # fmt: skip
    (folder / DESCRIPTION).write_text(json.dumps(about | more))
    return folder


def engine(folder: Path, forms: Sequence[Form], task: str = "classification", seed: int = 0) -> Path:
    """A random model in these forms; where they are packed, its matrices in 4 bits."""
    labels = TAGS if task == "tagging" else LABELS
    model = penjing_model(replace(SHAPE, head="token" if task == "tagging" else "sequence", outputs=len(labels)), seed)
    random = np.random.default_rng(seed)
    ids = [random.integers(0, SHAPE.vocabulary, length).tolist() for length in (24, 1, 12, 5)]
    ranges = calibrate(model, Encoded.of(ids, [sorted(random.integers(0, 2, len(row)).tolist()) for row in ids]))
    segments = task == "pair"
    folder.mkdir(parents=True, exist_ok=True)
    if any(form.packed for form in forms):
        matrices = {name.removeprefix("encoder."): value for name, value in model.state_dict().items() if value.ndim == 2}
        coded = {name: quantize(value, Scheme("linear", 4, group=8)) for name, value in matrices.items()}
        write_network(network_of(model), coded, folder, ranges=ranges, segments=segments)
    export(model, folder, [form.file for form in forms if not form.packed], ranges, segments=segments)
    return describe(folder, forms, task=task, labels=list(labels))


def packed(form: Form) -> Form:
    """The same form, from packed weights."""
    return replace(form, packed=True)


def student(kind: str, seed: int = 0, outputs: int = 3, vocabulary: int = VOCABULARY) -> Learned:
    """A random student; `kind` is one of the kinds, and may end in "of two" (classes) or "of pairs"."""
    random = np.random.default_rng(seed)
    two = kind.endswith("two")

    def normal(*shape: int, dtype: Any = np.float16) -> NDArray[Any]:
        return random.standard_normal(shape).astype(dtype)

    if kind.startswith("soft-tree"):
        leaves = np.exp(normal(8, 2 if two else outputs, dtype=np.float32))
        buckets = np.sort(random.permutation(1 << HASHED["bits"])[:200]).astype(np.uint32)
        return Learned("soft-tree", {
            "buckets": buckets, "filters": normal(200, 7), "threshold": normal(7, dtype=np.float32),
            "leaves": leaves / leaves.sum(1, keepdims=True),
        }, dict(HASHED))  # fmt: skip
    if not kind.startswith("static"):
        columns, buckets = 1 if two else outputs, 1 << HASHED["bits"]
        bias = normal(columns, dtype=np.float32)
    if kind.startswith("logistic"):
        used = random.random(buckets) < 0.4
        arrays = {"used": np.packbits(used, bitorder="little"), "weights": normal(int(used.sum()), columns), "bias": bias}
        return Learned("logistic", arrays, dict(HASHED))
    if kind.startswith("trees"):
        trees, nodes = 5, 7
        start = np.arange(0, trees * nodes, nodes)[:, None, None]
        child = start + np.array([[1, 2], [3, 4], [5, 6], [3, 3], [4, 4], [5, 5], [6, 6]])
        arrays = {
            "buckets": np.sort(random.permutation(buckets)[:200]).astype(np.uint32),
            "feature": random.integers(0, 200, trees * nodes).astype(np.int32),
            "child": child.reshape(-1, 2).astype(np.int32),
            "value": normal(trees * nodes, dtype=np.float32),
            "root": start.ravel().astype(np.int32),
            "output": random.integers(0, columns, trees).astype(np.int32),
            "bias": bias,
        }
        return Learned("trees", arrays, {**HASHED, "depth": 2})
    pairs = kind.endswith("pairs")
    features = 4 * 6 if pairs else 6
    arrays = {
        "vectors": normal(vocabulary, 6), "hidden": normal(features, 5), "hidden_bias": normal(5, dtype=np.float32),
        "linear": normal(features, outputs), "out": normal(5, outputs), "bias": normal(outputs, dtype=np.float32),
    }  # fmt: skip
    return Learned("static", arrays, {"pairs": pairs, "specials": [2, 3]})


def student_folder(folder: Path, kind: str = "static") -> Path:
    """A random student of two classes, served."""
    folder.mkdir(parents=True, exist_ok=True)
    student(kind, outputs=len(LABELS)).write(folder / FILE)
    return describe(folder, [NUMPY_FORM])
