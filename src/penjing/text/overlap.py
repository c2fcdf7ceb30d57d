"""Overlap of texts (contained in one another), and splits in which no text of one side stands in one of the other.

A text is the same as another but for case and white space, or stands in it as a run of whole words (of characters where a script
writes no spaces). Rows of phrases cut from sentences (SST-2), or of one text many times, are no held-out data for one another.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penjing.errors import InputError

Integers = NDArray[np.int64]

_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
"""Kana and Han, each character a unit of its own."""
_UNITS = re.compile(rf"[{_UNSPACED}]|[^\s{_UNSPACED}]+")
_LONGEST = 8
"""Units that a text is looked up by; what is longer is compared whole where its beginning is found."""
_BASE = np.uint64(0x9E3779B97F4A7C15)
_BREAK = "\0"
"""Between the two texts of a pair: no word is one."""


def units(given: Any) -> list[str]:
    """The words of an input, case folded: a text, a pair of texts (in either order the same) or a list of words."""
    if isinstance(given, tuple):
        first, *others = sorted(units(text) for text in given)
        return [*first, *(unit for other in others for unit in (_BREAK, *other))]
    return _UNITS.findall((given if isinstance(given, str) else " ".join(given)).casefold())


@dataclass(frozen=True)
class Corpus:
    """Inputs as items that differ in more than case and white space.

    item: (N,) the item of each input. keys: of each item. inner, outer: item `inner[i]` stands in item `outer[i]` and differs from it.
    """

    item: Integers
    keys: list[str]
    inner: Integers
    outer: Integers

    @classmethod
    def of(cls, inputs: Sequence[Any]) -> "Corpus":
        """Look each input up in all others; time and memory grow with the number of words."""
        numbers: dict[str, int] = {}
        words: list[list[str]] = []
        item = np.empty(len(inputs), np.int64)
        for i, given in enumerate(inputs):
            text = units(given)
            item[i] = numbers.setdefault("".join(text), len(numbers))
            if item[i] == len(words):
                words.append(text)
        inner, outer = _standing(words)
        return cls(item, list(numbers), inner, outer)


def _standing(texts: Sequence[Sequence[str]]) -> tuple[Integers, Integers]:
    """Pairs (inner, outer) of different texts, each once, of which the first is a run of words of the second."""
    numbers: dict[str, int] = {}
    ids = np.array([numbers.setdefault(word, len(numbers)) for text in texts for word in text], np.uint64)
    lengths = np.array([len(text) for text in texts], np.int64)
    ends = np.cumsum(lengths)
    starts = ends - lengths
    if not len(ids):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    owner = np.repeat(np.arange(len(texts)), lengths)
    left = ends[owner] - np.arange(len(ids))  # words from here to the end of the text
    random = np.random.default_rng(0).integers(0, 2**64, len(numbers), np.uint64)[ids]
    # Polynomial hashes modulo 2^64: of the words i … j - 1 it is prefix[j] - prefix[i]·B^(j - i).
    powers = np.cumprod(np.r_[np.uint64(1), np.full(len(ids), _BASE)])
    prefix = _prefixes(random)

    def hashed(begin: Integers, count: Integers) -> NDArray[np.uint64]:
        return prefix[begin + count] - prefix[begin] * powers[count]

    pairs: list[tuple[Integers, Integers]] = []
    for width in range(1, _LONGEST + 1):
        rows = np.flatnonzero(lengths == width if width < _LONGEST else lengths >= width)
        places = np.flatnonzero(left >= width)
        if not len(rows) or not len(places):
            continue
        begun = hashed(starts[rows], np.full(len(rows), width))
        places = places[np.isin(hashed(places, np.full(len(places), width)), begun)]
        for length in np.unique(lengths[rows]):  # the texts differ, so at most one of each length begins at a place
            same, there = rows[lengths[rows] == length], places[left[places] >= length]
            wanted, seen = (hashed(begin, np.full(len(begin), length)) for begin in (starts[same], there))
            order = np.argsort(wanted)
            at = order[np.minimum(np.searchsorted(wanted, seen, sorter=order), len(same) - 1)]
            whole = wanted[at] == seen
            pairs.append((same[at[whole]], owner[there[whole]]))
    inner, outer = (np.concatenate([pair[side] for pair in pairs]) if pairs else np.empty(0, np.int64) for side in (0, 1))
    once = np.unique(inner[inner != outer] * len(texts) + outer[inner != outer])
    return once // len(texts), once % len(texts)


def _prefixes(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """prefix[i + 1] = prefix[i]·B + values[i] modulo 2^64, (N + 1,)."""
    result = np.zeros(len(values) + 1, np.uint64)
    total = 0
    base = int(_BASE)
    for i, value in enumerate(values.tolist()):
        total = (total * base + value) & 0xFFFFFFFFFFFFFFFF
        result[i + 1] = total
    return result


@dataclass(frozen=True)
class Split:
    """Numbers of inputs, ascending: one set apart after another, and what may be learned from. What stands on both sides is on neither."""

    apart: list[Integers]
    learned: Integers


def split(inputs: Sequence[Any], parts: Sequence[int], most: int) -> Split:
    """Set inputs apart, drawn by their contents alone, so that nothing apart stands in what is learned from, or the other way round.

    Whole texts are drawn, those that stand in no other, each with all that stands in it.

    Args:
        parts: how many inputs leave what is learned from for each set apart.
        most: a set apart has at most so many; so many whole texts are enough.
    """
    corpus = Corpus.of(inputs)
    count = len(corpus.keys)
    sizes = np.bincount(corpus.item, minlength=count)
    inside, outside = _grouped(corpus.outer, corpus.inner, count), _grouped(corpus.inner, corpus.outer, count)
    whole = [i for i in range(count) if not len(outside[i])]
    drawn = sorted(whole, key=lambda i: hashlib.blake2b(corpus.keys[i].encode("utf-8", "surrogatepass"), digest_size=8).digest())
    side = np.full(count, -1)  # -1: learned from; else which set apart its family left for
    taken: list[list[int]] = [[] for _ in parts]
    rest = iter(drawn)
    for number, wanted in enumerate(parts):
        gone = alone = 0
        for root in rest:
            family = [root, *(i for i in inside[root] if side[i] < 0)]
            weight = int(sizes[family].sum())
            if gone and gone + weight > 2 * wanted:
                continue  # a text that holds a great part of all others stays where it is
            side[family] = number
            taken[number] += family
            gone, alone = gone + weight, alone + int(sizes[root])
            if gone >= wanted or alone >= most:
                break
    apart = []
    for number, items in enumerate(taken):
        rows = np.flatnonzero(np.isin(corpus.item, [i for i in items if np.all(side[outside[i]] == number)]))
        if len(rows) > most:
            order = sorted(
                range(len(rows)),
                key=lambda j: hashlib.blake2b(str((corpus.keys[corpus.item[rows[j]]], j)).encode("utf-8", "surrogatepass")).digest(),
            )
            rows = np.sort(rows[order[:most]])
        apart.append(rows)
    return Split(apart, np.flatnonzero(side[corpus.item] < 0))


def _grouped(by: Integers, values: Integers, count: int) -> list[Integers]:
    """Values grouped by their numbers `by`, one array per number below `count`."""
    order = np.argsort(by, kind="stable")
    return np.split(values[order], np.cumsum(np.bincount(by, minlength=count))[:-1])


def seen_in(inputs: Sequence[Any], others: Sequence[Any]) -> tuple[int, int]:
    """The overlap of `inputs` with `others`, up to case and white space: how many are equal to one, how many more stand inside one."""
    corpus = Corpus.of([*inputs, *others])
    own = corpus.item[: len(inputs)]
    known = np.zeros(len(corpus.keys), bool)
    known[corpus.item[len(inputs) :]] = True
    inside = np.zeros(len(corpus.keys), bool)
    inside[corpus.inner[known[corpus.outer]]] = True
    return int(known[own].sum()), int((inside & ~known)[own].sum())


HELD_PART = 0.05
"""The part of the training texts that is held out on each side."""
HELD_LEAST = 200
"""The fewest held-out texts of a side, where that is no more than a tenth of all."""
HELD_MOST = 1000
"""The most held-out texts of a side."""


@dataclass(frozen=True)
class Sides:
    """The split of the training texts, by numbers: for choosing the best weights, for choosing all else, for learning.

    apart: whether no text of one side is contained in one of another.
    """

    weights: Integers
    judging: Integers
    learned: Integers
    apart: bool = True

    @classmethod
    def of(cls, inputs: Sequence[Any]) -> "Sides":
        """The split of these inputs, drawn by their contents alone, so that every command holds out the same texts.

        With very few texts, the two held-out sides are the same.
        """
        count = len(inputs)
        if count < 2:
            raise InputError("data: one training row is too few, since some are held out to choose by; give more with `train`")
        wanted = max(1, round(max(HELD_PART * count, min(HELD_LEAST, count / 10))))
        parts = split(inputs, (wanted, wanted), HELD_MOST)
        judging, weights = parts.apart
        held = min(wanted, HELD_MOST)
        if min(len(judging), len(weights)) >= held / 2 and len(parts.learned) >= count / 2:
            return cls(weights, judging, parts.learned)
        # Too few texts, or too much alike, for enough of them to be kept apart.
        order = np.random.default_rng(0).permutation(count)
        rows = np.sort(order[:held])
        return cls(rows, rows, np.sort(order[held:]), apart=False)
