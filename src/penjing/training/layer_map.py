"""Layer maps: which of the teacher's layers each of the student's layers is matched to."""

from collections.abc import Sequence

from penjing.errors import InputError

Pair = tuple[int, int]
"""A student's layer and the teacher's that it is matched to; layer 0 is the embeddings, layer i the i-th from 1."""
MAPS = ("kept", "descent", "uniform", "last", "first", "learned")
"""Layer maps by name; one may also be given, as "1:2,2:4,3:6"."""


def layer_map(name: str, student_layers: int, teacher_layers: int, kept: Sequence[int] | None = None) -> list[Pair]:
    """The pairs that a map of this name makes, embeddings left out.

    kept: a student's layer that came from one of the teacher's is matched to that one, so that it does the work of the layers which
    were cut before it; the last to the last. Where evenly spread layers are kept this is uniform. descent: to the state before the next
    kept layer, the one that layer was trained to read. uniform: evenly spread (Jiao et al. 2020; PKD's "skip"). last, first: the
    teacher's last, or first, ones. learned: those that are nearest, found anew in each batch (Xia et al. 2022); here uniform.

    Args:
        kept: the teacher's layers that the student's came from, from 0; without them `kept` and `descent` are uniform.
    """
    m, n = student_layers, teacher_layers
    if ":" in name:
        return given_map(name, m, n)
    if name in ("kept", "descent") and kept is not None and len(kept) == m:
        before = kept[1:] if name == "descent" else [layer + 1 for layer in kept[:-1]]
        return list(enumerate([*before, n], start=1))
    if name in ("last", "first") and m > n:
        raise InputError(f"layer_map: {name} takes a student that is not deeper than its teacher; got {m} layers and {n}; give uniform")
    if name == "last":
        return [(j, n - m + j) for j in range(1, m + 1)]
    if name == "first":
        return [(j, j) for j in range(1, m + 1)]
    if m > n:
        return [(j, -(-j * n // m)) for j in range(1, m + 1)]
    return [(j, round(j * n / m)) for j in range(1, m + 1)]


def given_map(text: str, student_layers: int, teacher_layers: int) -> list[Pair]:
    """The pairs of a map that is given as text, "1:2,2:4"."""
    try:
        pairs = [(int(a), int(b)) for a, b in (pair.split(":") for pair in text.split(","))]
    except ValueError:
        pairs = []
    if not any(a and b for a, b in pairs) or any(not (0 <= a <= student_layers and 0 <= b <= teacher_layers) for a, b in pairs):
        raise InputError(
            f"layer_map: {text!r} is none; give {', '.join(MAPS)}, or pairs of layers from 1 as 1:2,2:4 (student up to {student_layers},"
            f" teacher up to {teacher_layers}; 0 is the embeddings)"
        )
    return sorted(pairs)


def spread(pairs: list[Pair], count: int) -> list[Pair]:
    """A number of the pairs, evenly spread, the last one always; 0: all."""
    if not count or count >= len(pairs):
        return pairs
    return [pairs[round((k + 1) * len(pairs) / count) - 1] for k in range(count)]


# -- pairs that a loss is taken over -------------------------------------------------------------------------------


def every_pair(pairs: list[Pair]) -> list[Pair]:
    """All pairs that are matched."""
    return pairs


def layer_pairs(pairs: list[Pair]) -> list[Pair]:
    """The pairs of layers, without embeddings."""
    return [pair for pair in pairs if all(pair)]


def pairs_with_embeddings(pairs: list[Pair]) -> list[Pair]:
    """The embeddings, and then the pairs of layers."""
    return [(0, 0), *layer_pairs(pairs)]


def last_pair(pairs: list[Pair]) -> list[Pair]:
    """The last pair of layers alone."""
    return layer_pairs(pairs)[-1:]


def all_but_last_pair(pairs: list[Pair]) -> list[Pair]:
    """The pairs of layers without the last one, unless it is the only one."""
    return layer_pairs(pairs)[:-1] or layer_pairs(pairs)
