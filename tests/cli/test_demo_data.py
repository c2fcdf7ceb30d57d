"""The demo's reviews: reproducible, balanced, distinct, and no use to a counter of words."""

import re

import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.naive_bayes import MultinomialNB

from penjing.cli.demo.reviews import WORDS, reviews

TRAIN, EVAL = reviews(2000, seed=1), reviews(500, seed=2)


def test_a_seed_says_all() -> None:
    assert reviews(2000, seed=1) == TRAIN
    assert reviews(500, seed=3) != EVAL


@pytest.mark.parametrize("count", [0, 1, 2, 7, 500])
def test_classes_are_balanced(count: int) -> None:
    rows = reviews(count, seed=count)
    assert len(rows) == count
    assert sum(row["label"] == "positive" for row in rows) == count // 2
    assert {row["label"] for row in rows} <= {"negative", "positive"}


def test_texts_are_distinct_within_a_call_and_nearly_so_between_seeds() -> None:
    train, held_out = {row["text"] for row in TRAIN}, {row["text"] for row in EVAL}
    assert (len(train), len(held_out)) == (len(TRAIN), len(EVAL))
    assert len(train & held_out) <= 0.02 * len(held_out)


def test_a_text_has_one_label_whatever_the_seed() -> None:
    labels: dict[str, str] = {}
    for row in (*TRAIN, *EVAL):
        assert labels.setdefault(row["text"], row["label"]) == row["label"]


def test_texts_are_sentences() -> None:
    for text in (row["text"] for row in (*TRAIN, *EVAL)):
        assert WORDS[0] <= len(text.split()) <= WORDS[1]
        assert re.fullmatch(r"[A-Z][^{}\[\]|]*[.!]", text), text
        assert not re.search(r"  | [.,;:!]|[.!] [a-z]", text), text


def test_single_words_do_not_give_the_label_away() -> None:
    words = CountVectorizer().fit([row["text"] for row in TRAIN])
    counts, held_out = (words.transform([row["text"] for row in rows]) for rows in (TRAIN, EVAL))
    bayes = MultinomialNB().fit(counts, [row["label"] for row in TRAIN])
    assert bayes.score(held_out, [row["label"] for row in EVAL]) < 0.72
