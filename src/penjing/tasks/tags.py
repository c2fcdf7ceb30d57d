"""Spans that tags mark: which scheme a label set follows, and the entities in a sentence's tags."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

SCHEMES = {"IO": "I", "IOB": "BI", "IOE": "IE", "IOBES": "BIES", "BILOU": "BILU", "BMES": "BMES", "BMEWO": "BMEW"}
"""Marks of each scheme, the one of fewest marks first; O is in all of them. IOB1 and IOB2 have the same marks, and so have IOE1 and IOE2."""
SAME = {"L": "E", "U": "S", "W": "S", "M": "I"}
"""Marks by other names: last, unit and whole, middle."""
HELPERS = {"x", "[cls]", "[sep]", "[pad]", "[unk]", "<pad>", "<s>", "</s>", "<unk>", "<cls>", "<sep>", "pad"}
"""Labels, in lower case, of tokens that stand for no word; no entity has them."""
BARE = "_"
"""The type of a span whose tags name none, as seqeval has it."""

Span = tuple[str, int, int]
"""Type, first word, last word."""


@dataclass(frozen=True)
class Scheme:
    """How a label set marks spans: `B-PER`, or with the mark behind (`suffix`), `PER-B`; bare marks have no separator."""

    name: str = "IOBES"
    separator: str = "-"
    suffix: bool = False

    def split(self, tag: str) -> tuple[str, str]:
        """A tag's mark, one of B I E S O, and its type; whatever marks no span is O."""
        if self.separator and self.separator in tag:
            kind, mark = tag.rsplit(self.separator, 1) if self.suffix else tag.split(self.separator, 1)[::-1]
        else:
            kind, mark = BARE, tag
        if len(mark) != 1 or mark not in "BIESLUMW":
            return "O", ""
        return SAME.get(mark, mark), kind or BARE

    @property
    def marks(self) -> set[str]:
        """The scheme's marks, of B I E S."""
        return {SAME.get(mark, mark) for mark in SCHEMES[self.name]}


@lru_cache
def scheme_of(labels: tuple[str, ...]) -> Scheme | None:
    """The scheme that all labels follow (helper labels apart), or None where they mark no spans.

    A type that stands behind its mark needs a hyphen or an underscore. Bare marks, and marks behind the type, are taken
    only where O and the marks together leave no doubt: parts of speech are made of capitals too.
    """
    tags = [label for label in labels if label != "O" and label.lower() not in HELPERS]
    outside = "O" in labels
    for separator, suffix in (("-", False), ("_", False), ("-", True), ("_", True)):
        pattern = rf".+{separator}([BIESLUMW])" if suffix else rf"([BIESLUMW]){separator}.+"
        found = [re.fullmatch(pattern, tag, re.DOTALL) for tag in tags]
        marks = {match[1] for match in found if match}
        if tags and all(found) and (name := _named(marks)) and (outside or (not suffix and marks & set("BI"))):
            return Scheme(name, separator, suffix)
    sure = set(tags) >= {"B", "I"} or set(tags) >= {"B", "M", "E"} or set(tags) >= {"B", "E", "S"} or set(tags) >= {"B", "L", "U"}
    name = _named(set(tags)) if sure else None
    return Scheme(name, "") if name else None


def _named(marks: set[str]) -> str | None:
    return next((name for name, allowed in SCHEMES.items() if marks <= set(allowed)), None)


def entities(tags: Sequence[str], scheme: Scheme | None = None) -> list[Span]:
    """The spans in one sentence's tags, by seqeval's default definition (conlleval's), which is lenient on broken sequences."""
    scheme = scheme or Scheme()
    found = []
    start, before, kind_before = 0, "O", ""
    for i, tag in enumerate([*tags, "O"]):
        mark, kind = scheme.split(tag)
        differs = kind != kind_before
        if before != "O" and (before in "ES" or mark in "BSO" or differs):
            found.append((kind_before, start, i - 1))
        if mark in "BS" or (mark in "IE" and (before in "OES" or differs)):
            start = i
        before, kind_before = mark, kind
    return found


def strict_entities(tags: Sequence[str], scheme: Scheme) -> list[Span]:
    """The spans that are whole by the scheme's own rules (seqeval's strict mode): begun, continued and ended by the right marks."""
    marks = scheme.marks
    found: list[Span] = []
    start, open_kind = -1, ""
    for i, tag in enumerate([*tags, "O"]):
        mark, kind = scheme.split(tag)
        if start >= 0 and (mark not in "IE" or kind != open_kind):  # the open span goes no further
            if "E" not in marks:
                found.append((open_kind, start, i - 1))
            start = -1
        if start < 0 and (mark == "B" or (mark in "IE" and "B" not in marks)):
            start, open_kind = i, kind
        if mark == "S":
            found.append((kind, i, i))
        elif mark == "E" and start >= 0:
            found.append((open_kind, start, i))
            start = -1
    return found
