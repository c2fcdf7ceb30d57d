"""The positive of two labels is told by their names, whatever their order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penjing.tasks.positive import positive_of


@pytest.mark.parametrize(
    ("yes", "no"),
    [
        ("yes", "no"), ("1", "0"), ("True", "False"), ("POSITIVE", "NEGATIVE"), ("pos", "neg"), ("equivalent", "not_equivalent"),
        ("duplicate", "not_duplicate"), ("match", "no_match"), ("paraphrase", "not-paraphrase"), ("entailment", "not_entailment"),
        ("related", "unrelated"), ("spam", "ham"), ("toxic", "non-toxic"), ("toxic", "nontoxic"), ("LABEL_1", "LABEL_0"), ("Match", "Not match"),
        ("是", "否"), ("正", "负"), ("相同", "不同"), ("相似", "不相似"), ("匹配", "不匹配"), ("积极", "消极"), ("同义", "非同义"),
    ],
)  # fmt: skip
def test_pairs_of_names(yes: str, no: str) -> None:
    assert positive_of([yes, no]) == positive_of([no, yes]) == yes


@given(st.text("abcdefgh", min_size=3, max_size=12), st.sampled_from(["not_", "not ", "no_", "non-", "non", "un", "不", "非"]))
def test_a_name_with_a_negation_is_the_negative_of_the_name(name: str, negation: str) -> None:
    assert positive_of([negation + name, name]) == name


@pytest.mark.parametrize(
    "labels", [["a", "b"], ["sports", "politics"], ["2", "1"], ["north", "south"], ["yes"], [], ["yes", "no", "maybe"], ["w", "now"]]
)
def test_other_names_do_not_tell(labels: list[str]) -> None:
    assert positive_of(labels) is None
