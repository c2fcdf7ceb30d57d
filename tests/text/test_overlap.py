"""Texts that stand in others, against brute force; splits keep the two sides apart."""

import tracemalloc
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from penjing.text.overlap import Corpus, Sides, seen_in, split, units

WORDS = st.lists(st.sampled_from(["a", "b", "B", "ab", "c"]), min_size=1, max_size=12)
TEXTS = st.lists(WORDS.map(" ".join), min_size=1, max_size=25)


def inside(a: Any, b: Any) -> bool:
    """Brute force: the units of `a` are a run of those of `b`."""
    short, long = units(a), units(b)
    return any(long[i : i + len(short)] == short for i in range(len(long) - len(short) + 1))


def same(a: Any, b: Any) -> bool:
    return "".join(units(a)) == "".join(units(b))


@given(TEXTS)
def test_what_stands_in_what_is_what_brute_force_finds(texts: list[str]) -> None:
    corpus = Corpus.of(texts)
    found = set(zip(corpus.inner.tolist(), corpus.outer.tolist(), strict=True))
    first = [texts[int(np.flatnonzero(corpus.item == i)[0])] for i in range(len(corpus.keys))]
    assert found == {(i, j) for i, a in enumerate(first) for j, b in enumerate(first) if i != j and inside(a, b)}
    assert all((corpus.item[i] == corpus.item[j]) == same(a, b) for i, a in enumerate(texts) for j, b in enumerate(texts))


@given(TEXTS, st.integers(1, 5), st.integers(1, 5))
def test_nothing_apart_stands_in_what_is_learned_from_or_holds_it(texts: list[str], first: int, second: int) -> None:
    found = split(texts, (first, second), most=4)
    sides = [rows.tolist() for rows in (*found.apart, found.learned)]
    assert len({i for rows in sides for i in rows}) == sum(map(len, sides))
    for number, rows in enumerate(sides):
        others = [i for other in sides[:number] + sides[number + 1 :] for i in other]
        assert not any(same(texts[i], texts[j]) or inside(texts[i], texts[j]) or inside(texts[j], texts[i]) for i in rows for j in others)
    assert all(len(rows) <= 4 for rows in sides[:-1])


@given(TEXTS, st.randoms())
def test_contents_alone_decide_the_side(texts: list[str], random: Any) -> None:
    texts = list(dict.fromkeys(texts))
    moved = random.sample(texts, len(texts))
    one, two = split(texts, (2,), most=100), split(moved, (2,), most=100)
    keys = [{"".join(units(t)) for t in (each[i] for i in rows)} for each, rows in ((texts, one.apart[0]), (moved, two.apart[0]))]
    assert keys[0] == keys[1]


def test_plain_texts_are_split_in_the_asked_numbers() -> None:
    texts = [f"text number {i} of its kind" for i in range(1000)]
    found = split(texts, (50, 50), most=1000)
    assert [len(rows) for rows in found.apart] == [50, 50] and len(found.learned) == 900


def test_a_text_that_holds_most_others_takes_them_nowhere() -> None:
    texts = [" ".join(f"w{i}" for i in range(300)), *(f"w{i}" for i in range(250)), *(f"alone {i}" for i in range(100))]
    found = split(texts, (20,), most=1000)
    assert len(found.learned) >= 300


def test_rows_that_stand_elsewhere_are_counted() -> None:
    train = ["The film is  good", "a very long sentence about nothing", "很好的酒店 推荐"]
    assert seen_in(["the film IS good", "about nothing", "酒店推荐", "out nothing", "new"], train) == (1, 2)


def test_pairs_are_the_same_in_either_order() -> None:
    assert seen_in([("b c", "a"), ("a", "d")], [("a", "b c")]) == (1, 0)


def test_enough_is_held_out_of_few_texts_that_stand_in_one_another_and_it_is_known_that_they_do() -> None:
    random = np.random.default_rng(0)
    phrases = [" ".join(random.choice(["good", "bad", "film", "not", "a"], random.integers(2, 9))) for _ in range(240)]
    found = Sides.of(phrases)
    assert not found.apart and len(found.judging) == len(found.weights) == 24 and len(found.learned) == 216
    sentences = Sides.of([f"text number {i} of its kind" for i in range(240)])
    assert sentences.apart and len(sentences.judging) == len(sentences.weights) == 24
    assert not set(sentences.judging) & set(sentences.weights)


def test_texts_of_one_template_take_little_memory() -> None:
    """Each begins as all others do: what is looked up by its beginning alone would be compared with every one."""
    texts = [f"dear customer service team i would like to ask about order {i}" for i in range(5000)]
    tracemalloc.start()
    corpus = Corpus.of(texts)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(corpus.keys) == 5000 and not len(corpus.inner) and peak < 100e6
