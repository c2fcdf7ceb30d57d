"""Which of the texts to distil on, where time does not suffice for all: the teacher's logits, or their lengths, decide.

Letters: N texts, C classes, T tokens of all texts.
"""

import numpy as np
from jaxtyping import Float32, Float64, Int

from penjing.errors import InputError
from penjing.maths.statistics import softmax

Scores = Float64[np.ndarray, " rows"]
TeacherLogits = Float32[np.ndarray, "rows C"]
Lengths = Int[np.ndarray, " N"]
BY_LOGITS = ("uncertain", "margin", "certain", "mixed")
BY_LENGTH = ("short", "balanced-length")
STRATEGIES = ("random", *BY_LOGITS, *BY_LENGTH)


def choose(strategy: str, count: int, logits: TeacherLogits | None, lengths: Lengths, seed: int) -> Int[np.ndarray, " chosen"]:
    """The rows, ascending, of `count` texts, or of all where there are no more; ties are broken at random by `seed`.

    Args:
        strategy: "random"; by the teacher's answers "uncertain" (entropy), "margin", "certain", or "mixed", of which one half is
            uncertain and the other random; by length "short", or "balanced-length".
        logits: the teacher's: (N, C), or (T, C) for tagging, where a text counts as the mean of its tokens. None will do where
            they are not asked.
        lengths: tokens of each text (N,).
    """
    if strategy not in STRATEGIES:
        raise InputError(f"sample: {strategy!r} is no strategy; allowed are {', '.join(STRATEGIES)}")
    random = np.random.default_rng(seed).permutation(len(lengths))
    if strategy == "random":
        return _first(count, np.zeros(len(lengths)), random)
    if strategy in BY_LENGTH:
        return _first(count, short(lengths) if strategy == "short" else balanced_length(lengths, random), random)
    if logits is None:
        raise InputError(
            f"sample: {strategy!r} needs the teacher's answers; compute them, or choose by {', '.join(('random', *BY_LENGTH))}"
        )
    if strategy == "mixed":
        score = np.zeros(len(lengths))
        score[_first(count // 2, per_text(uncertain(logits), lengths), random)] = -1
        return _first(count, score, random)
    formula = {"uncertain": uncertain, "margin": margin, "certain": certain}[strategy]
    return _first(count, per_text(formula(logits), lengths), random)


def uncertain(logits: TeacherLogits) -> Scores:
    """The negative entropy Σ p·log p of the teacher's softmax (N,): lowest where it knows least (Settles 2009, section 3.1)."""
    return -certain(logits)


def margin(logits: TeacherLogits) -> Scores:
    """The likeliest class's probability less the second's (N,): lowest between two classes (Scheffer et al. 2001)."""
    p = np.sort(softmax(logits), axis=-1)
    return p[:, -1] - p[:, -2]


def certain(logits: TeacherLogits) -> Scores:
    """The entropy -Σ p·log p of the teacher's softmax (N,): what comes first is easy (Bengio et al. 2009, on curricula)."""
    p = softmax(logits)
    return -np.sum(p * np.log(np.maximum(p, 1e-300)), axis=-1)


def short(lengths: Lengths) -> Scores:
    """The tokens (N,): as many texts as possible for the time; attention makes long ones dearer still."""
    return lengths.astype(np.float64)


def balanced_length(lengths: Lengths, random: Lengths) -> Scores:
    """How many texts of the same length come before each (N,), in the order `random` (N,): all lengths are used up evenly."""
    order = np.lexsort((random, lengths))
    begins = np.flatnonzero(np.diff(lengths[order], prepend=-1))
    rank = np.empty(len(lengths))
    rank[order] = np.arange(len(lengths)) - np.repeat(begins, np.diff(begins, append=len(lengths)))
    return rank


def per_text(scores: Scores, lengths: Lengths) -> Float64[np.ndarray, " N"]:
    """The scores (N,) as they are, or the means over the tokens of each text, of (T,)."""
    if len(scores) == len(lengths):
        return scores
    return np.add.reduceat(scores, np.cumsum(lengths) - lengths) / lengths


def _first(count: int, scores: Scores, random: Lengths) -> Int[np.ndarray, " chosen"]:
    """The rows of the `count` lowest scores, ascending."""
    return np.sort(np.lexsort((random, scores))[:count])
