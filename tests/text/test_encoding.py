"""Texts are cut as tokenizers cuts them, whatever is in them is readable, and a tokenizer is set up once."""

import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import WORDS, tiny_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from penjing.errors import InputError
from penjing.tasks.encoder import Encoder
from penjing.tasks.sequence import Classification, Pair
from penjing.tasks.tagging import Tagging
from penjing.text.encoding import NEVER, open_tokenizer, prepare, readable


def byte_level() -> Tokenizer:
    """As RoBERTa's: bytes, no merges, two separators between two texts."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<s>", "</s>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0))
    return tokenizer


def bare() -> Tokenizer:
    """Without special tokens."""
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "good": 1, "film": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


TEXTS = st.lists(st.sampled_from([*WORDS[:8], "zebra", "[SEP]", "好", " "]), max_size=14).map(" ".join)
TOKENIZERS = st.sampled_from([tiny_tokenizer, byte_level, bare])


@given(TOKENIZERS, TEXTS, st.none() | TEXTS, st.integers(5, 16), st.sampled_from(["left", "right"]))
def test_texts_are_cut_as_tokenizers_cuts_them(make: Any, first: str, second: str | None, most: int, side: str) -> None:
    theirs, ours = make(), make()
    theirs.enable_truncation(most, direction=side)
    ours.enable_truncation(7, direction=side)  # whatever a file says, but for the side
    expected = theirs.encode(first, second)
    task: Any = Classification(["a", "b"]) if second is None else Pair(["a", "b"])
    encoded, _, cut = Encoder(task, ours, most)([first if second is None else (first, second)])
    assert encoded.ids.tolist() == expected.ids and encoded.types.tolist() == expected.type_ids
    assert cut == bool(expected.overflowing)


@given(
    st.lists(st.sampled_from(["good", "goods", "", "\u200b", "好", "a b"]), max_size=12),
    st.integers(3, 12),
    st.sampled_from(["left", "right"]),
)
def test_a_word_is_answered_by_its_first_token_that_is_kept(words: list[str], most: int, side: str) -> None:
    theirs, ours = tiny_tokenizer(), tiny_tokenizer()
    for tokenizer in (theirs, ours):
        tokenizer.enable_truncation(most, direction=side)
    kept = theirs.encode(words, is_pretokenized=True).word_ids
    encoded, (first,), _ = Encoder(Tagging(["O", "B-x"]), ours, most)([words])
    assert first == [kept.index(word) if word in kept else -1 for word in range(len(words))] and len(encoded.ids) == len(kept)


def test_a_length_without_room_is_refused_where_a_text_does_not_fit() -> None:
    with pytest.raises(InputError, match="max_length: 2 leaves no room beside the 2 special tokens"):
        Encoder(Classification(["a", "b"]), tiny_tokenizer(), 2)(["good"])


def test_two_very_long_texts_are_cut_quickly_and_in_little_memory() -> None:
    """tokenizers would cut each into its pieces, and make every piece of one with every piece of the other."""
    long = "good film " * 20_000
    tracemalloc.start()
    began = time.perf_counter()
    encoded, _, cut = Encoder(Pair(["a", "b"]), tiny_tokenizer(), 16)([(long, long), ("good", "bad")])
    assert time.perf_counter() - began < 10 and tracemalloc.get_traced_memory()[1] < 200e6
    tracemalloc.stop()
    assert cut == 1 and encoded.lengths.tolist() == [16, 5]


# -- what it is given ----------------------------------------------------------------------------------------------


@given(st.text(st.characters()))
def test_every_text_is_readable_and_one_that_is_stays(text: str) -> None:
    said = readable(text)
    said.encode()
    try:
        assert text.encode() is not None and said == text
    except UnicodeEncodeError:
        assert len(said) <= len(text)
    assert readable([text, (text, "a")]) == (said, (said, "a"))


def test_half_a_character_is_replaced_and_two_that_fit_are_joined() -> None:
    assert readable("bad \ud83d film") == "bad � film"
    assert readable("\ude00\ud83d") == "��"
    assert readable("\ud83d\ude00 \ufeff") == "😀 \ufeff"
    ids = [Encoder(Classification(["a", "b"]), tiny_tokenizer(), 16)([text])[0].ids.tolist() for text in ("bad \ud83d film", "bad � film")]
    assert ids[0] == ids[1]


# -- the tokenizer -------------------------------------------------------------------------------------------------


def test_a_tokenizer_is_set_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = byte_level()
    tokenizer.enable_padding()
    tokenizer.enable_truncation(4, direction="left")
    prepare(tokenizer, words=True)
    assert tokenizer.padding is None and tokenizer.truncation["max_length"] == NEVER and tokenizer.truncation["direction"] == "left"
    assert tokenizer.pre_tokenizer.add_prefix_space

    class Fixed:
        """The tokenizer, which may not be set again."""

        padding, truncation, pre_tokenizer = tokenizer.padding, tokenizer.truncation, tokenizer.pre_tokenizer

    prepare(Fixed(), words=True)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"\xff\xfe", b'{"model": {"type": "WordPiece", "vocab": {"a": -1}}}', b"[" * 100_000]
)
def test_what_is_no_tokenizer_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    for path in (tmp_path / "tokenizer.json", tmp_path, tmp_path / "none"):
        with pytest.raises(InputError, match=r"^engine: .* is no tokenizer") as raised:
            open_tokenizer(path, "engine")
        assert "\n" not in str(raised.value)


def test_lengths_are_those_of_an_array() -> None:
    encoded, first, cut = Encoder(Classification(["a", "b"]), tiny_tokenizer(), 16)([])
    assert (len(encoded), first, cut) == (0, [], 0) and encoded.lengths.dtype == np.int64
