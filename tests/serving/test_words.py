"""The search of words: exact with all candidates, its scores are logits, more candidates find no less, and files are whole or refused."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import own_inputs, penjing_model
from damage import cut, flipped, moved, noise
from numpy.typing import NDArray

from penjing.blueprint import Blueprint, Layer
from penjing.errors import InputError
from penjing.model.words import head_states, word_table
from penjing.serving.words import BIAS, DESCRIPTION, INDEX, MATRIX, WordSearch

pytest.importorskip("faiss", reason="the extra `nearest` is not installed")
Floats = NDArray[np.float32]
V, W, N = 3000, 24, 200


@pytest.fixture(scope="module")
def words() -> tuple[Floats, Floats, Floats]:
    """A table, a bias that decides as much as the states do, and states."""
    random = np.random.default_rng(0)
    matrix, states = random.normal(size=(V, W)), random.normal(size=(N, W))
    return matrix.astype(np.float32), (3 * random.normal(size=V)).astype(np.float32), states.astype(np.float32)


@pytest.fixture(scope="module")
def search(words: tuple[Floats, Floats, Floats]) -> WordSearch:
    return WordSearch.build(words[0], words[1])


@pytest.fixture(scope="module")
def logits(words: tuple[Floats, Floats, Floats]) -> Floats:
    matrix, bias, states = words
    return states @ matrix.T + bias


# -- laws ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("candidates", [V, V - 1])
def test_with_all_candidates_the_search_is_exact(
    words: tuple[Floats, Floats, Floats], search: WordSearch, logits: Floats, candidates: int
) -> None:
    numbers, scores = search.search(words[2], k=10, candidates=candidates)
    assert np.array_equal(numbers, np.argsort(-logits, axis=1)[:, :10])
    assert np.allclose(scores, np.take_along_axis(logits, numbers, 1), atol=1e-5)


@pytest.mark.parametrize("candidates", [1, 7, 100])
def test_scores_are_the_logits_of_the_words_found(
    words: tuple[Floats, Floats, Floats], search: WordSearch, logits: Floats, candidates: int
) -> None:
    numbers, scores = search.search(words[2], k=5, candidates=candidates)
    assert np.allclose(scores, np.take_along_axis(logits, numbers, 1), atol=1e-5)
    assert (np.diff(scores, axis=1) <= 0).all()
    assert all(len(set(row)) == 5 for row in numbers.tolist())


def test_more_candidates_find_no_less(words: tuple[Floats, Floats, Floats], search: WordSearch, logits: Floats) -> None:
    best = logits.argmax(1)
    recalls = [(search.search(words[2], candidates=c)[0][:, 0] == best).mean() for c in (1, 2, 4, 16, 64, 256, V)]
    assert recalls == sorted(recalls)
    assert recalls[0] > 0.3 and recalls[4] > 0.97 and recalls[-1] == 1


def test_a_bias_decides(words: tuple[Floats, Floats, Floats]) -> None:
    bias = np.zeros(V, np.float32)
    bias[17] = 1000
    assert (WordSearch.build(words[0], bias).search(words[2], candidates=8)[0] == 17).all()


def test_words_that_are_never_likely_do_not_hide_the_bias_of_the_others(words: tuple[Floats, Floats, Floats], logits: Floats) -> None:
    matrix, bias, states = words
    banned = bias.copy()
    banned[:50] = -1e6
    found = WordSearch.build(matrix, banned).search(states, candidates=64)[0][:, 0]
    assert (found == 50 + logits[:, 50:].argmax(1)).mean() > 0.97


def test_without_a_bias_it_is_zero(words: tuple[Floats, Floats, Floats]) -> None:
    a, b = WordSearch.build(words[0]), WordSearch.build(words[0], np.zeros(V, np.float32))
    assert np.array_equal(a.search(words[2], 3)[0], b.search(words[2], 3)[0])


def test_one_state_is_answered_as_among_others(words: tuple[Floats, Floats, Floats], search: WordSearch) -> None:
    together = search.search(words[2], 3)[0]
    assert np.array_equal(np.vstack([search.search(state[None], 3)[0] for state in words[2]]), together)


@pytest.mark.parametrize("rank", [0, 5])
def test_of_a_model_it_finds_the_models_words(rank: int) -> None:
    blueprint = Blueprint(40, 12, 2, 7, 9, 3, (Layer(2, 8),), "masked", rank=rank)
    model, inputs = penjing_model(blueprint), own_inputs(blueprint)
    places = inputs["attention_mask"].bool()
    with torch.no_grad():
        expected = model(**inputs).logits[places].numpy()
    numbers, scores = WordSearch.build(*word_table(model)).search(head_states(model, inputs, places), k=4, candidates=40)
    assert np.allclose(scores, -np.sort(-expected, axis=1)[:, :4], atol=1e-5)
    assert np.array_equal(numbers[:, 0], expected.argmax(1))


def test_a_model_without_words_is_refused() -> None:
    with pytest.raises(InputError, match="no language model's head"):
        word_table(penjing_model(Blueprint(40, 12, 2, 9, 9, 3, (Layer(2, 8),), "sequence", 2)))


# -- files ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(search: WordSearch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("words") / "made"
    search.save(place)
    return place


def test_what_is_saved_answers_the_same(words: tuple[Floats, Floats, Floats], search: WordSearch, folder: Path) -> None:
    for a, b in zip(search.search(words[2], 5), WordSearch.load(folder).search(words[2], 5), strict=True):
        assert np.array_equal(a, b)


def test_equal_words_are_equal_files(words: tuple[Floats, Floats, Floats], folder: Path, tmp_path: Path) -> None:
    WordSearch.build(words[0], words[1]).save(tmp_path / "again")
    assert all((folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes() for name in (DESCRIPTION, MATRIX, BIAS, INDEX))


@pytest.mark.parametrize("name", [DESCRIPTION, MATRIX, BIAS, INDEX])
@pytest.mark.parametrize("damage", [cut, flipped, moved, noise])
def test_a_damaged_file_is_refused_in_a_line(folder: Path, tmp_path: Path, name: str, damage: object) -> None:
    random = np.random.default_rng(0)
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    for _ in range(5):
        whole = (folder / name).read_bytes()
        damaged = damage(whole, random)  # type: ignore[operator]
        (tmp_path / name).write_bytes(damaged)
        if damaged != whole:
            with pytest.raises(InputError) as caught:
                WordSearch.load(tmp_path)
            assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_a_folder_that_lacks_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no whole search"):
        WordSearch.load(tmp_path)


# -- what is asked -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("states", "options", "says"),
    [
        (np.zeros((2, W + 1), np.float32), {}, r"states: their shape is \[2, 25\]"),
        (np.zeros(W, np.float32), {}, "states: their shape"),
        (np.full((1, W), np.nan, np.float32), {}, "states: some are no numbers"),
        (np.zeros((1, W), np.float32), {"k": 0}, "k: it is 0; 1 to 3000"),
        (np.zeros((1, W), np.float32), {"k": V + 1}, "k: it is 3001"),
        (np.zeros((1, W), np.float32), {"candidates": 0}, "candidates: it is 0"),
    ],
)  # fmt: skip
def test_bad_questions_are_named(search: WordSearch, states: Floats, options: dict[str, int], says: str) -> None:
    with pytest.raises(InputError, match=says):
        search.search(states, **options)


@pytest.mark.parametrize(
    ("matrix", "bias", "says"),
    [
        (np.zeros((20, 4)), np.zeros(19), r"matrix, bias: their shapes are \[20, 4\] and \[19\]"),
        (np.zeros(20), np.zeros(20), "matrix, bias: their shapes"),
        (np.zeros((3, 4)), np.zeros(3), "it has 3 words"),
        (np.zeros((20, 0)), np.zeros(20), "matrix, bias: their shapes"),
        (np.full((20, 4), np.inf), np.zeros(20), "some are no numbers"),
        (np.zeros((20, 4)), np.full(20, np.nan), "some are no numbers"),
    ],
)
def test_bad_words_are_named(matrix: Floats, bias: Floats, says: str) -> None:
    with pytest.raises(InputError, match=says):
        WordSearch.build(matrix, bias)


def test_no_states_have_no_words(search: WordSearch) -> None:
    numbers, scores = search.search(np.zeros((0, W), np.float32), 3)
    assert numbers.shape == scores.shape == (0, 3)


def test_where_the_package_is_missing_a_line_says_so() -> None:
    script = "import sys; sys.modules['faiss'] = None\nfrom penjing.serving.words import WordSearch; WordSearch.load('nowhere')"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ended.stderr.strip().endswith("pip install 'penjing[nearest]'")
