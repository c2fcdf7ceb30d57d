"""Ragged token numbers: batches cover each text once, padding adds nothing, files give the same back."""

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from penjing.text.encoded import Encoded, load_rows, save_rows

TEXTS = st.lists(st.lists(st.integers(1, 99), min_size=1, max_size=9), min_size=1, max_size=20)


def encoded(rows: list[list[int]]) -> Encoded:
    return Encoded.of(rows, [[len(row) % 2] * len(row) for row in rows])


@given(TEXTS, st.integers(1, 5))
def test_exact_batches_cover_each_text_once(rows: list[list[int]], size: int) -> None:
    texts, seen = encoded(rows), []
    for batch in texts.exact_batches(size):
        feeds = texts.feeds(batch)
        assert len(batch) <= size and feeds["attention_mask"].all()
        assert feeds["input_ids"].tolist() == [rows[i] for i in batch]
        seen += batch.tolist()
    assert sorted(seen) == list(range(len(rows)))


@given(TEXTS)
def test_padding_is_masked_and_the_rest_is_the_text(rows: list[list[int]]) -> None:
    feeds = encoded(rows).padded(np.arange(len(rows)), pad=0)
    for ids, mask, row in zip(feeds["input_ids"], feeds["attention_mask"], rows, strict=True):
        assert ids[mask == 1].tolist() == row and not ids[mask == 0].any()


@given(TEXTS, st.data())
def test_some_of_the_texts_are_those_texts(rows: list[list[int]], data: st.DataObject) -> None:
    picks = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=5))
    taken = encoded(rows).take(np.array(picks, np.int64))
    assert [taken.row(i).tolist() for i in range(len(taken))] == [rows[i] for i in picks]


def test_files_give_the_same_back(tmp_path: Path) -> None:
    texts = encoded([[1, 2, 3], [4], [5, 6]])
    texts.save(tmp_path / "texts.npz")
    assert Encoded.load(tmp_path / "texts.npz").ids.tolist() == texts.ids.tolist()
    random = np.random.default_rng(0)
    for shapes in ([(3,), (3,)], [(2, 3), (1, 3), (4, 3)]):
        rows = [random.random(shape, np.float32) for shape in shapes]
        save_rows(tmp_path / "rows.npz", rows)
        assert all(np.array_equal(a, b) and a.shape == b.shape for a, b in zip(rows, load_rows(tmp_path / "rows.npz"), strict=True))
