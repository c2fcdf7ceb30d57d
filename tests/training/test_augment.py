"""New texts: only words change, into what was allowed; nothing that there was already; the same for the same seed."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from conftest import SPECIAL, WORDS, penjing_model, tiny_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from penjing.blueprint import Blueprint, Layer
from penjing.errors import InputError
from penjing.text.encoded import Encoded
from penjing.training import augment
from penjing.training.augment import (
    RuleRates,
    by_masked_lm,
    by_neighbours,
    by_rules,
    neighbours,
    replaceable,
    without_duplicates,
)

TOKENS = (*SPECIAL, *WORDS)
PAD, UNK, CLS, SEP, MASK = range(5)
FILM, GOOD, PLURAL = (TOKENS.index(token) for token in ("film", "good", "##s"))
ALLOWED = replaceable(tiny_tokenizer())
TABLE = np.random.default_rng(0).standard_normal((len(TOKENS), 8)).astype(np.float32)
NEAR = neighbours(TABLE, ALLOWED.whole, 3)
MODEL = penjing_model(Blueprint(len(TOKENS), 64, 2, 16, 16, 8, (Layer(2, 32), Layer(2, 32)), "masked"))


def by_ngrams(texts: Encoded, copies: int, rate: float, seed: int) -> Encoded:
    """The rule of n-grams alone."""
    return by_rules(texts, None, MASK, ALLOWED, copies, seed, RuleRates(0, 0, rate))


Way = Callable[[Encoded, float, int], Encoded]
REPLACING: dict[str, Way] = {
    "neighbours": lambda texts, rate, seed: by_neighbours(texts, NEAR, ALLOWED, 4, rate, seed),
    "masked-lm": lambda texts, rate, seed: by_masked_lm(texts, MODEL, MASK, ALLOWED, 4, rate, 3, seed),
    "masking": lambda texts, rate, seed: by_rules(texts, None, MASK, ALLOWED, 4, seed, RuleRates(mask=rate, ngram=0)),
    "rules": lambda texts, rate, seed: by_rules(texts, NEAR, MASK, ALLOWED, 4, seed, RuleRates(rate / 2, rate / 2, 0)),
}
WAYS = REPLACING | {"n-grams": lambda texts, rate, seed: by_ngrams(texts, 4, rate, seed)}
BODY = st.lists(st.integers(UNK, len(TOKENS) - 1).filter(lambda token: token not in (CLS, SEP)), min_size=1, max_size=12)


def text(*bodies: list[int]) -> Encoded:
    """One text, or a pair."""
    ids, types = [CLS], [0]
    for i, body in enumerate(bodies):
        ids += [*body, SEP]
        types += [i] * (len(body) + 1)
    return Encoded.of([ids], [types])


def many(count: int = 30) -> Encoded:
    random = np.random.default_rng(1)
    return Encoded.joined([text(random.integers(SEP + 2, len(TOKENS), random.integers(4, 20)).tolist()) for _ in range(count)])


def rows_of(texts: Encoded) -> list[tuple[list[int], list[int]]]:
    return [(texts.row(i).tolist(), texts.types[texts.offsets[i] : texts.offsets[i + 1]].tolist()) for i in range(len(texts))]


# -- which tokens --------------------------------------------------------------------------------------------------


def test_of_wordpiece_words_of_letters_may_be_replaced() -> None:
    kinds = {name: {TOKENS[i] for i in np.flatnonzero(getattr(ALLOWED, name))} for name in ("whole", "continuing", "framing")}
    assert kinds == {
        "whole": {word for word in WORDS if word.isalpha()},
        "continuing": {word for word in WORDS if word.startswith("##")},
        "framing": {"[CLS]", "[SEP]"},
    }


def byte_level() -> Tokenizer:
    tokens = ["Ġgood", "Ġfilm", "Ġ", "Ġ9", "s", "7", ",", "Ġ,", "'s", "Ã", "ĠcafÃ©", "first", "<special>"]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    tokenizer.add_special_tokens(["<special>"])
    return tokenizer


def metaspace() -> Tokenizer:
    tokens = ["▁good", "▁film", "▁", "▁9", "s", "7", ",", "▁,", "'s", "é", "▁café", "first"]
    tokenizer = Tokenizer(models.Unigram([(token, -1.0) for token in tokens], 0))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer.add_special_tokens(["special"])
    return tokenizer


@pytest.mark.parametrize("tokenizer", [byte_level(), metaspace()], ids=["byte-level", "metaspace"])
def test_where_words_begin_with_a_mark_punctuation_does_not_continue_them(tokenizer: Tokenizer) -> None:
    allowed = replaceable(tokenizer)
    whole, continuing = ({tokenizer.id_to_token(i) for i in np.flatnonzero(flags)} for flags in (allowed.whole, allowed.continuing))
    assert {token[1:] for token in whole} in ({"good", "film", "cafÃ©"}, {"good", "film", "café"})
    assert continuing in ({"s", "7", "Ã", "first"}, {"s", "7", "é", "first"})


def test_a_word_in_pieces_keeps_its_place() -> None:
    texts = Encoded.joined([text([GOOD, FILM, PLURAL]), text([PLURAL, FILM])])
    assert ALLOWED.places(texts).tolist() == [False, True, False, False, False, False, False, True, False]
    without = Encoded.of([[GOOD], [PLURAL]], [[0], [0]])  # what begins the next text continues nothing
    assert ALLOWED.places(without).tolist() == [True, False]


# -- neighbours ----------------------------------------------------------------------------------------------------


@given(st.integers(0, 99), st.integers(1, 6))
def test_neighbours_are_those_of_the_highest_cosine(seed: int, k: int) -> None:
    random = np.random.default_rng(seed)
    table, allowed = random.standard_normal((30, 5)).astype(np.float32), random.random(30) < 0.6
    unit = table / np.linalg.norm(table, axis=1, keepdims=True)
    cosine = np.where(allowed & ~np.eye(30, dtype=np.bool_), unit @ unit.T, -2)
    near = neighbours(table, allowed, k)
    assert np.array_equal(near[allowed], np.argsort(-cosine, axis=1)[allowed, :k])
    assert np.array_equal(near[~allowed], np.repeat(np.flatnonzero(~allowed)[:, None], k, 1))


def test_neighbours_depend_on_directions_alone_and_not_on_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    rotation, allowed = np.linalg.qr(random.standard_normal((8, 8)))[0], ALLOWED.whole
    scaled = random.uniform(0.1, 9, (len(TABLE), 1)) * TABLE
    assert np.array_equal(neighbours((scaled @ rotation).astype(np.float32), allowed, 3), NEAR)
    monkeypatch.setattr(augment, "BLOCK_BYTES", 4 * 7 * allowed.sum())  # blocks of seven rows, the last one shorter
    assert allowed.sum() % 7 and np.array_equal(neighbours(TABLE, allowed, 3), NEAR)


def test_of_an_orthonormal_table_all_others_are_neighbours_and_none_itself() -> None:
    near = neighbours(np.eye(9, dtype=np.float32), np.ones(9, np.bool_), 8)
    assert np.array_equal(np.sort(near), [[j for j in range(9) if j != i] for i in range(9)])


@pytest.mark.parametrize("k", [0, 9])
def test_more_neighbours_than_words_are_refused(k: int) -> None:
    with pytest.raises(InputError, match=r"candidates: .* 1 … 8"):
        neighbours(np.eye(9, dtype=np.float32), np.ones(9, np.bool_), k)


# -- every way -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_rate_of_zero_gives_nothing_new(way: Way) -> None:
    assert len(way(many(), 0.0, 0)) == 0


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_the_same_seed_gives_the_same_texts_and_another_others(way: Way) -> None:
    texts = many()
    first, again, other = (rows_of(way(texts, 0.5, seed)) for seed in (3, 3, 4))
    assert len(first) > len(texts) and first == again and first != other


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_no_new_text_is_an_original_or_another_new_one(way: Way) -> None:
    texts = Encoded.joined([many(), text([GOOD]), text([GOOD, FILM]), text([FILM])])
    seen = [repr(row) for row in (*rows_of(texts), *rows_of(way(texts, 0.9, 0)))]
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize("way", REPLACING.values(), ids=REPLACING)
@given(body=BODY, second=st.none() | BODY, seed=st.integers(0, 9))
def test_replacements_keep_all_but_whole_words(way: Way, body: list[int], second: list[int] | None, seed: int) -> None:
    original = text(body) if second is None else text(body, second)
    places = ALLOWED.places(original)
    new = way(original, 1.0, seed)
    for ids, types in rows_of(new):
        assert types == original.types.tolist() and len(ids) == len(original.ids)
        assert np.array_equal(np.array(ids)[~places], original.ids[~places])
        assert all(ALLOWED.whole[i] or i == MASK for i in np.array(ids)[places])
    assert len(new) > 0 or not places.any() or way is REPLACING["masked-lm"]  # which may find the word that was there


# -- one way each --------------------------------------------------------------------------------------------------


def test_every_replacement_is_a_neighbour_and_all_neighbours_occur() -> None:
    original = text([GOOD, FILM] * 10)
    new = by_neighbours(original, NEAR, ALLOWED, 20, 1.0, 0).ids.reshape(-1, len(original.ids))
    for column, token in zip(new.T[1:-1], original.ids[1:-1], strict=True):
        assert set(column) == set(NEAR[token])


def test_of_masked_words_the_likeliest_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augment, "mixed_precision", lambda: "no")
    texts = Encoded.joined([text([GOOD, FILM, PLURAL, GOOD]), text([FILM] * 7, [GOOD] * 3), text([GOOD, GOOD, PLURAL, FILM])])
    places = ALLOWED.places(texts)
    for k in (1, 4):
        new = by_masked_lm(texts, MODEL, MASK, ALLOWED, 1, 1.0, k, 0)
        assert np.array_equal(new.offsets, texts.offsets)
        for i in range(len(texts)):
            part = slice(texts.offsets[i], texts.offsets[i + 1])
            ids = torch.from_numpy(np.where(places, MASK, texts.ids)[part].astype(np.int64))[None]
            with torch.no_grad():
                scores = MODEL(ids, token_type_ids=torch.from_numpy(texts.types[part].astype(np.int64))[None]).logits[0].numpy()
            likeliest = np.argsort(-np.where(ALLOWED.whole, scores, -np.inf), axis=1)[:, :k]
            drawn = new.ids[part][places[part]]
            assert (likeliest[places[part]] == drawn[:, None]).any(1).all()
    assert (drawn[:, None] != likeliest[places[part], :1]).any()


@given(st.lists(st.integers(SEP + 2, len(TOKENS) - 1), min_size=1, max_size=20), BODY, st.integers(0, 9))
def test_an_ngram_is_whole_words_in_a_row_between_the_framing_tokens(body: list[int], second: list[int], seed: int) -> None:
    for ids, types in rows_of(by_ngrams(text(body, second), 3, 1.0, seed)):
        assert [i for i in ids if i in (CLS, SEP)] == [CLS, SEP, SEP] and ids[0] == CLS and ids[-1] == SEP
        assert types == sorted(types) and types.count(1) == len(ids) - ids.index(SEP) - 1
        for whole, part in zip((body, second), (ids[1 : ids.index(SEP)], ids[ids.index(SEP) + 1 : -1]), strict=True):
            words = [0, *(i for i in range(1, len(whole)) if not ALLOWED.continuing[whole[i]]), len(whole)]
            grams = [whole[words[i] : words[j]] for i in range(len(words)) for j in range(i + 1, min(i + 6, len(words)))]
            assert part in grams


def test_ngrams_have_one_to_five_words_from_anywhere() -> None:
    body = [i for i in range(SEP + 2, len(TOKENS)) if ALLOWED.whole[i]]
    grams = [ids[1:-1] for ids, _ in rows_of(by_ngrams(text(body), 400, 1.0, 0))]
    assert {len(gram) for gram in grams} == {1, 2, 3, 4, 5} and {i for gram in grams for i in gram} == set(body)


def test_the_rules_mask_and_replace_as_often_as_asked() -> None:
    original = text([GOOD, FILM] * 5000)
    new = by_rules(original, NEAR, MASK, ALLOWED, 1, 0, RuleRates(ngram=0.0)).ids
    swapped = np.array([token in NEAR[old] for token, old in zip(new, original.ids, strict=True)])[1:-1]
    kept = (new == original.ids)[1:-1]
    assert ((new[1:-1] == MASK) ^ swapped ^ kept).all()
    for part, wanted in ((new[1:-1] == MASK, 0.1), (swapped, 0.1), (kept, 0.8)):
        assert abs(part.mean() - wanted) < 4 * np.sqrt(wanted * (1 - wanted) / 10_000)


def test_the_rules_take_ngrams_of_a_quarter() -> None:
    texts = Encoded.joined([text([GOOD, FILM] * (5 + i)) for i in range(800)])
    whole = np.diff(by_rules(texts, NEAR, MASK, ALLOWED, 1, 0, RuleRates(mask=0.5)).offsets) >= 12  # of n-grams some are alike
    assert abs(whole.sum() - 600) < 4 * np.sqrt(800 * 0.25 * 0.75)


# -- duplicates ----------------------------------------------------------------------------------------------------

TEXTS = st.lists(st.tuples(st.lists(st.integers(1, 2), min_size=1, max_size=3), st.integers(0, 1)), min_size=1, max_size=12)


@given(TEXTS, TEXTS)
def test_without_duplicates_the_first_of_each_is_left_in_order(new: list[tuple[list[int], int]], old: list[tuple[list[int], int]]) -> None:
    a, b = (Encoded.of([ids for ids, _ in rows], [[kind] * len(ids) for ids, kind in rows]) for rows in (new, old))
    wanted = [row for i, row in enumerate(rows_of(a)) if row not in rows_of(b) and row not in rows_of(a)[:i]]
    assert rows_of(without_duplicates(a, b)) == wanted
    assert rows_of(Encoded.joined([a, b])) == rows_of(a) + rows_of(b)
