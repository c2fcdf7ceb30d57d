"""How often the 95 % interval of a drop holds the truth, where few answers flip, as Markdown.

    python benchmarks/coverage.py [draws]

Accuracy is enumerated over the numbers of lost and gained answers, with Tango's interval; F1 and word accuracy are simulated,
with `difference_interval`. Beside each is the percentile bootstrap that was here before. One number says coverage, the one
in brackets the mean width in points. Some minutes on one core.
"""

import sys
from collections.abc import Callable
from math import lgamma

import numpy as np
from numpy.typing import NDArray

from penjing.maths.intervals import tango
from penjing.tasks.metric import Metric, difference_interval
from penjing.tasks.metrics import BinaryF1, WordAccuracy

Rows = NDArray[np.float64]
SIZES = (50, 100, 200, 408, 872)
RATES = (0.005, 0.01, 0.02, 0.05)
KINDS = {"lost only": 1.0, "two lost, one gained": 2 / 3, "as many gained": 0.5}
"""Of the flips, the part that is lost."""
RESAMPLES = 1000


def percentile(rows: Rows, counts: NDArray[np.int64], value: Callable[[Rows], Rows], random: np.random.Generator) -> tuple[float, float]:
    """The percentile bootstrap of value(sum) where `counts[i]` examples have the row `rows[i]`."""
    drawn = random.multinomial(counts.sum(), counts / counts.sum(), RESAMPLES)
    low, high = np.percentile(value(drawn @ rows), [2.5, 97.5])
    return float(low), float(high)


def accuracy(n: int, rate: float, lost: float) -> tuple[list[float], list[float]]:
    """Coverage and mean width in points, of the bootstrap and of Tango's interval, exactly but for the bootstrap's draws."""
    random = np.random.default_rng(0)
    p, q = rate * lost, rate * (1 - lost)
    most = min(n, int(n * rate + 7 * np.sqrt(n * rate) + 8))
    b, c = (each.ravel() for each in np.meshgrid(np.arange(most + 1), np.arange((most if q else 0) + 1)))
    b, c = b[b + c <= n], c[b + c <= n]
    factorial = np.array([lgamma(i + 1) for i in range(n + 1)])
    log = (
        factorial[n]
        - factorial[b]
        - factorial[c]
        - factorial[n - b - c]
        + b * np.log(p)
        + c * np.log(q or 1)
        + (n - b - c) * np.log1p(-rate)
    )
    b, c, weight = (each[log > np.log(1e-6)] for each in (b, c, np.exp(log)))
    rows = np.array([[1.0], [-1.0], [0.0]])
    ends = np.array([percentile(rows, np.array([i, j, n - i - j]), lambda s: s[..., 0] / n, random) for i, j in zip(b, c, strict=True)]).T
    both = [(low, high) for low, high in (ends, tango(b, c, n))]
    held = [float(weight @ ((low <= p - q + 1e-12) & (p - q - 1e-12 <= high)) / weight.sum()) for low, high in both]
    return held, [100 * float(weight @ (high - low) / weight.sum()) for low, high in both]


def simulated(metric: Metric, a: Rows, b: Rows, shares: Rows, n: int, draws: int) -> tuple[list[float], list[float]]:
    """The same by simulation, of examples that have the statistics a[i] and b[i] with probability shares[i]."""
    random = np.random.default_rng(0)
    width = a.shape[1]

    def difference(total: Rows) -> Rows:
        return metric.value(total[..., :width]) - metric.value(total[..., width:])

    truth = float(difference(shares @ np.hstack([a, b]) * 1e6))
    held, widths = np.zeros(2), np.zeros(2)
    for _ in range(draws):
        counts = random.multinomial(n, shares)
        old = percentile(np.hstack([a, b]), counts, difference, random)
        new = difference_interval(np.repeat(a, counts, 0), np.repeat(b, counts, 0), metric)
        for i, (low, high) in enumerate((old, new)):
            held[i] += low - 1e-9 <= truth <= high + 1e-9
            widths[i] += high - low
    return (held / draws).tolist(), (widths / draws).tolist()


def f1(n: int, rate: float, lost: float, draws: int) -> tuple[list[float], list[float]]:
    """F1 of a label that three of ten texts have, by a teacher that is wrong on one of ten."""
    cases = [(gold, right, flip) for gold in (0, 1) for right in (0, 1) for flip in (0, 1)]
    shares = []
    for gold, right, flip in cases:
        share, flipped = (0.9, rate * lost / 0.9) if right else (0.1, rate * (1 - lost) / 0.1)
        shares.append((0.3 if gold else 0.7) * share * (flipped if flip else 1 - flipped))
    gold = [bool(g) for g, _, _ in cases]
    teacher = [g == bool(right) for g, (_, right, _) in zip(gold, cases, strict=True)]
    student = [t != bool(flip) for t, (_, _, flip) in zip(teacher, cases, strict=True)]
    metric = BinaryF1(True)
    return simulated(metric, metric.statistics(teacher, gold), metric.statistics(student, gold), np.array(shares), n, draws)


def words(n: int, rate: float, lost: float, draws: int) -> tuple[list[float], list[float]]:
    """Word accuracy of sentences of 5, 15 or 40 words; of one in ten a word is wrong, and a sentence flips in one word, two, or eight."""
    cases = [(length, change) for length in (5, 15, 40) for change in (0, 1, 2, 8, -1, -2, -8)]
    often = {0: 1 - rate, **{k: rate * lost * s for k, s in ((1, 0.6), (2, 0.3), (8, 0.1))}}
    often |= {-k: rate * (1 - lost) * s for k, s in ((1, 0.6), (2, 0.3), (8, 0.1))}
    shares = np.array([often[change] / 3 for _, change in cases])
    a = np.array([[max(0.9 * length, -change), length] for length, change in cases], np.float64)
    b = np.array([[max(0.0, row[0] - change), length] for row, (length, change) in zip(a, cases, strict=True)])
    return simulated(WordAccuracy(), a, b, shares, n, draws)


def main() -> None:
    """Print the three tables."""
    draws = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    tables: dict[str, Callable[[int, float, float], tuple[list[float], list[float]]]] = {
        "Accuracy: Tango": accuracy,
        "F1: effects of flips": lambda n, rate, lost: f1(n, rate, lost, draws),
        "Word accuracy: effects of flips": lambda n, rate, lost: words(n, rate, lost, draws),
    }
    for title, table in tables.items():
        print(f"\n| {title} | texts |" + "".join(f" {100 * rate:g} % flip: bootstrap | now |" for rate in RATES))
        print("| --- | ---: |" + " ---: |" * (2 * len(RATES)))
        for kind, lost in KINDS.items():
            for n in SIZES:
                found = [table(n, rate, lost) for rate in RATES]
                cells = [f"{h:.3f} ({w:.2f})" for held, widths in found for h, w in zip(held, widths, strict=True)]
                print(f"| {kind} | {n} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
