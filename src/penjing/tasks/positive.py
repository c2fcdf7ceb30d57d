"""Which of two labels is the positive one, known by their names and never by their order."""

import re
from collections.abc import Sequence

PAIRS = (
    ("yes", "no"), ("y", "n"), ("true", "false"), ("t", "f"), ("1", "0"), ("1", "-1"), ("+1", "-1"), ("+", "-"), ("label_1", "label_0"),
    ("positive", "negative"), ("pos", "neg"), ("good", "bad"), ("match", "mismatch"), ("similar", "dissimilar"), ("similar", "different"),
    ("same", "different"), ("duplicate", "distinct"), ("relevant", "irrelevant"), ("correct", "incorrect"), ("entailment", "contradiction"),
    ("spam", "ham"), ("toxic", "clean"), ("toxic", "neutral"), ("toxic", "normal"), ("acceptable", "unacceptable"), ("fake", "real"),
    ("hate", "normal"), ("off", "not"), ("是", "否"), ("对", "错"), ("真", "假"), ("有", "无"), ("正", "负"), ("正面", "负面"),
    ("正向", "负向"), ("正例", "负例"), ("正类", "负类"), ("积极", "消极"), ("好评", "差评"), ("阳性", "阴性"), ("同", "异"), ("相同", "不同"),
    ("相同", "相异"),
)  # fmt: skip
"""(positive, negative), in lower case."""
NEGATED = r"(?:(?:not|non|no)[ _\-]+|not|non|un|不是|没有|不|非|无|未)"
"""What turns a label into its negative."""


def positive_of(labels: Sequence[str]) -> str | None:
    """The positive of two labels: of a pair of names that is known, or X of X and not_X; None where names do not tell."""
    if len(labels) != 2:
        return None
    for yes, no in (labels, labels[::-1]):
        a, b = yes.strip().lower(), no.strip().lower()
        if (a, b) in PAIRS or re.fullmatch(NEGATED + re.escape(a), b):
            return yes
    return None
