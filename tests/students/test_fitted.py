"""What is shipped of a student of arrays answers as the library that fitted it does, and a difference is found."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import tiny_tokenizer
from numpy.typing import NDArray
from scipy.special import softmax
from tokenizers import processors

from penjing.engines.numpy import FILE, Learned
from penjing.students import logistic, soft_tree, static, tree, trees
from penjing.students.fitted import FITTED, FITTED_TEXTS, FittedArrays, largest_difference
from penjing.text.encoded import Encoded, load_rows


def texts(count: int = 300, seed: int = 0, pairs: bool = False) -> Encoded:
    """Random texts [CLS] … [SEP], or pairs, over 40 tokens."""
    rng = np.random.default_rng(seed)
    ids = [[2, *rng.integers(4, 40, n).tolist(), 3] for n in rng.integers(2, 9, count)]
    types = [[0] * len(row) for row in ids]
    if pairs:
        ids, types = [row + row[1:] for row in ids], [row + [1] * (len(row) - 1) for row in types]
    return Encoded.of(ids, types)


def targets(encoded: Encoded, classes: int, absent: int | None) -> NDArray[Any]:
    """What a bag of tokens says; of one class nothing."""
    scores = np.random.default_rng(5).standard_normal((40, classes))
    z = np.stack([scores[encoded.row(i)].sum(0) for i in range(len(encoded))])
    if absent is not None:
        z[:, absent] = -np.inf
    return softmax(z, axis=1)


def fitted(kind: str, classes: int, pairs: bool = False, absent: int | None = None) -> FittedArrays:
    encoded = texts(pairs=pairs)
    wanted = targets(encoded, classes, absent)
    if kind == "logistic":
        return logistic.fit(encoded, wanted)
    if kind == "trees":
        return trees.fit(encoded, wanted, trees.Trees(rounds=10, least=2))
    if kind == "tree":
        return tree.fit(encoded, wanted, tree.Tree(least=2))
    if kind == "soft-tree":
        return soft_tree.fit(encoded, wanted, soft_tree.SoftTree(depth=3, least=2, patience=40, learning_rate=0.05))
    vectors = np.random.default_rng(3).standard_normal((40, 8)).astype(np.float32)
    return static.fit(encoded, wanted, vectors, (2, 3), pairs=pairs, settings=static.Static(epochs=2))


@pytest.mark.parametrize(
    ("kind", "pairs"), [("logistic", False), ("trees", False), ("tree", False), ("soft-tree", False), ("static", False), ("static", True)]
)
@pytest.mark.parametrize(("classes", "absent"), [(2, None), (3, None), (3, 1), (4, 0)])
def test_the_arrays_answer_as_the_fitted_model_and_a_wrong_number_is_found(
    kind: str, pairs: bool, classes: int, absent: int | None, tmp_path: Path
) -> None:
    found, held = fitted(kind, classes, pairs, absent), texts(100, seed=1, pairs=pairs)
    found.write(tmp_path, held)
    file = tmp_path / "model" / FILE
    rows = load_rows(tmp_path / FITTED)
    assert len(rows) == FITTED_TEXTS and rows[0].shape == (classes,) and np.ptp(np.stack(rows), axis=0).max() > 0.1
    assert largest_difference(tmp_path, file, held) < 0.02  # arrays in half precision
    learned = Learned.read(file)
    name = {"logistic": "weights", "trees": "value", "tree": "value", "soft-tree": "filters", "static": "vectors"}[kind]
    replace(learned, arrays=learned.arrays | {name: -learned.arrays[name]}).write(file)
    assert largest_difference(tmp_path, file, held) > 0.2


def test_few_texts_are_all_kept(tmp_path: Path) -> None:
    fitted("logistic", 2).write(tmp_path, texts(5, seed=1))
    assert len(load_rows(tmp_path / FITTED)) == 5


def test_the_frame_of_a_text_is_the_tokenizers_and_no_word_of_the_first_text() -> None:
    tokenizer = tiny_tokenizer()
    cls, sep = (tokenizer.token_to_id(name) for name in ("[CLS]", "[SEP]"))
    assert static.frame_of(tokenizer) == ((cls,), (sep,))
    tokenizer.post_processor = processors.TemplateProcessing(single="$A [SEP]", pair="$A [SEP] $B", special_tokens=[("[SEP]", sep)])
    assert static.frame_of(tokenizer) == ((), (sep,))
    tokenizer.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
    assert static.frame_of(tokenizer) == ((), ())
    rows = static.segments(Encoded.of([[7, 8, 9]], [[0, 0, 0]]), [], pairs=False)
    assert rows.row(0).tolist() == [7, 8, 9]
