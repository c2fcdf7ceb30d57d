"""Tags: the scheme is read off the whole label set, and entities are seqeval's, lenient and strict."""

import warnings

import numpy as np
import pytest
from seqeval.metrics.sequence_labeling import get_entities
from seqeval.scheme import BILOU, IOB2, IOBES, IOE2, Entities

from penjing.tasks.tags import SAME, Scheme, entities, scheme_of, strict_entities

MARKS = {"IOB": "BI", "IOE": "IE", "IOBES": "BIES", "BILOU": "BILU", "BMES": "BMES", "BMEWO": "BMEW"}
STRICT = {"IOB": IOB2, "IOE": IOE2, "IOBES": IOBES, "BILOU": BILOU}


def labels(marks: str, join: str = "{mark}-{kind}") -> tuple[str, ...]:
    return ("O", *(join.format(mark=mark, kind=kind) for kind in ("PER", "geo-loc") for mark in marks))


def sequences(tags: tuple[str, ...], count: int = 4000) -> list[list[str]]:
    """Drawn freely, so that most are broken."""
    random = np.random.default_rng(0)
    return [[tags[i] for i in random.integers(len(tags), size=random.integers(1, 10))] for _ in range(count)]


@pytest.mark.parametrize("name", MARKS)
def test_entities_of_every_scheme_are_seqevals(name: str) -> None:
    tags = labels(MARKS[name])
    scheme = scheme_of(tags)
    assert scheme is not None and scheme.name == name
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for drawn in sequences(tags):
            theirs = [SAME.get(tag[0], tag[0]) + tag[1:] for tag in drawn]
            assert entities(drawn, scheme) == [tuple(found) for found in get_entities(theirs)], drawn


@pytest.mark.parametrize("name", STRICT)
def test_strict_entities_are_those_of_seqevals_strict_mode(name: str) -> None:
    tags = labels(MARKS[name])
    scheme = scheme_of(tags)
    assert scheme is not None
    drawn = sequences(tags)
    for ours, theirs in zip(drawn, Entities(drawn, STRICT[name]).entities, strict=True):
        expected = sorted((each.tag, each.start, each.end - 1) for each in theirs)
        assert sorted(strict_entities(ours, scheme)) == expected, ours


@pytest.mark.parametrize("join", ["{mark}_{kind}", "{kind}-{mark}", "{kind}_{mark}"])
@pytest.mark.parametrize("name", MARKS)
def test_however_type_and_mark_are_joined_the_spans_are_the_same(name: str, join: str) -> None:
    plain, joined = labels(MARKS[name]), labels(MARKS[name], join)
    scheme = scheme_of(joined)
    assert scheme is not None and scheme.name == name
    other = dict(zip(plain, joined, strict=True))
    for drawn in sequences(plain, 500):
        assert entities([other[tag] for tag in drawn], scheme) == entities(drawn, scheme_of(plain))


def test_a_suffix_is_as_seqeval_reads_it() -> None:
    tags = labels("BIES", "{kind}-{mark}")
    for drawn in sequences(tags, 1000):
        assert entities(drawn, scheme_of(tags)) == [tuple(found) for found in get_entities(drawn, suffix=True)]


@pytest.mark.parametrize(
    ("tags", "name"),
    [
        ("O B-X M-X E-X S-X", "BMES"), ("O B-PER I-PER", "IOB"), ("I-PER O I-LOC", "IO"), ("O I-PER E-PER", "IOE"), ("B I O", "IOB"),
        ("B M E S", "BMES"), ("B-NP I-NP", "IOB"), ("O B-x", "IOB"), ("O B-PER I-PER X [CLS] [SEP]", "IOB"), ("PAD O B_P I_P <pad>", "IOB"),
        ("O PER-B PER-I", "IOB"), ("O 人名-B 人名-I", "IOB"), ("O B-人名 I-人名", "IOB"), ("O U-PER", "BILOU"), ("O W-PER B-PER", "BMEWO"),
    ],
)  # fmt: skip
def test_these_tags_mark_spans(tags: str, name: str) -> None:
    scheme = scheme_of(tuple(tags.split()))
    assert scheme is not None and scheme.name == name


@pytest.mark.parametrize(
    "tags",
    ["NN VB", "NOUN VERB X", "I", "O I", "O", "X", "", "NN VB O", "I NN", "B O", "A B O AB", "O B-PER NN", "S-V O-V", "L-1 U-2", "VB-B NN-I",
     "O B-PER I_PER", "b-per i-per o", "BIG-SMALL O", "S E", "O L-x W-x"],
)  # fmt: skip
def test_these_mark_none(tags: str) -> None:
    assert scheme_of(tuple(tags.split())) is None


def test_helper_labels_are_outside() -> None:
    tags = ("O", "B-P", "I-P", "X", "[CLS]", "[SEP]", "PAD", "<pad>")
    scheme = scheme_of(tags)
    assert scheme is not None
    for helper in ("X", "[CLS]", "[SEP]", "PAD", "<pad>"):
        assert entities([helper, "B-P", "I-P", helper, "I-P"], scheme) == [("P", 1, 2), ("P", 4, 4)]


def test_a_unit_starts_where_it_stands() -> None:
    scheme = Scheme("BILOU")
    assert entities(["O", "U-PER", "U-PER"], scheme) == [("PER", 1, 1), ("PER", 2, 2)]
    assert strict_entities(["B-X", "I-X", "O", "B-X", "L-X", "U-X"], scheme) == [("X", 3, 4), ("X", 5, 5)]
    assert strict_entities(["I-X", "B-X", "I-Y"], Scheme("IOB")) == [("X", 1, 1)]
