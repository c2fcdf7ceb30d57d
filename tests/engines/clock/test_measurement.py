"""Figures: taken of the turns that nothing disturbed and that agree, and no speed-up claimed of others."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from penjing.engines.clock.measurement import AGREE, Measurement, Speedup, Turn
from penjing.files.records import to_json

BUSY = "other processes take 1.0 of 2 processors"


def measured(*rounds: tuple[float, str], **changes: Any) -> Measurement:
    """Each round a hundred answers of about so many milliseconds, the last of them ten times that; and what disturbed it."""
    turns = [Turn(i, [ms] * 99 + [10 * ms], [ms + 1.0] * 100, words) for i, (ms, words) in enumerate(rounds)]
    return Measurement(**{"load_s": 0.5, "rounds": len(rounds), "turns": turns} | changes)


def test_disturbed_turns_are_in_no_figure() -> None:
    result = measured((2.0, ""), (90.0, BUSY), (2.0, ""), (90.0, BUSY), rounds=4)
    assert (result.latency_ms, result.latency_p95_ms, result.end_to_end_ms) == (2.0, 2.0, 3.0)
    assert 2.0 < result.latency_p99_ms <= 20.0
    assert result.steady and result.disturbance == ""


def test_where_all_was_disturbed_the_fastest_turn_stands_and_is_not_believed() -> None:
    result = measured((90.0, BUSY), (30.0, BUSY), (60.0, BUSY))
    assert result.latency_ms == 30.0 and not result.steady


def test_processes_of_one_subject_are_pooled_and_their_rounds_are_not_mixed_up() -> None:
    eager = Measurement.pooled([measured((9.0, ""), (9.0, "")), measured((9.5, ""), (190.0, BUSY)), measured((9.8, ""), (9.8, ""))])
    fast = Measurement.pooled([measured((1.0, ""), (1.0, "")), measured((1.0, ""), (1.0, "")), measured((1.05, ""), (1.05, ""))])
    assert (eager.rounds, len({turn.round for turn in eager.turns}), len(eager.quiet)) == (6, 6, 5)
    assert eager.latency_ms == 9.5 and fast.latency_ms == 1.0
    assert fast.speedup_over(eager) == Speedup(9.5, pytest.approx(9.0), pytest.approx(9.5), True)


def test_the_tail_is_pooled_over_the_quiet_turns() -> None:
    result = Measurement(0.0, rounds=2, turns=[Turn(0, list(range(1, 101, 2))), Turn(1, list(range(2, 102, 2)))])
    assert result.latency_p95_ms == pytest.approx(np.percentile(np.arange(1, 101), 95))
    assert result.latency_p99_ms == pytest.approx(np.percentile(np.arange(1, 101), 99))


@pytest.mark.parametrize(
    ("rounds", "why"),
    [
        ([(2.0, "")] * 5, ""),
        ([(2.0, ""), (2.1, "")], ""),
        ([(2.0, ""), (2.5, "")], "its rounds differ, 2.00 to 2.50 ms"),
        ([(2.0, "")], ""),  # one round was asked
        ([(2.0, ""), *[(2.0, BUSY)] * 4], BUSY),  # one quiet round is too few of five
        ([(2.0, BUSY)] * 2, BUSY),
        ([(2.0, ""), (2.7, ""), (3.6, "")], "its rounds differ, 2.00 to 3.60 ms"),
        ([(2.0, ""), (2.7, ""), (2.0, "")], ""),  # one that something slowed unseen is left out
        ([(2.0, ""), (9.0, BUSY), (2.0, "")], ""),  # what was disturbed may differ
    ],
)
def test_figures_are_steady_with_enough_quiet_rounds_that_agree(rounds: Sequence[tuple[float, str]], why: str) -> None:
    assert measured(*rounds).disturbance == why and measured(*rounds).steady == (not why)


def test_a_disturbed_throughput_is_not_steady() -> None:
    assert measured((2.0, ""), (2.0, ""), throughput_disturbance=BUSY).disturbance == BUSY


def test_what_was_not_measured_is_none() -> None:
    plain = to_json(Measurement(0.5, turns=[Turn(0, [1.0])]).figures())
    assert {name for name, value in plain.items() if value is None} == {"end_to_end_ms", "throughput_per_s", "cold_start_s", "peak_mb"}
    assert json.loads(json.dumps(plain)) == plain and plain["steady"] is True and plain["latency_ms"] == 1.0


def test_a_speedup_is_a_ratio_of_medians_and_its_range_over_the_rounds() -> None:
    slow, fast = Measurement(0.0, turns=[Turn(0, [4.0, 6.0, 100.0])]), Measurement(0.0, turns=[Turn(0, [1.0, 2.0, 3.0])])
    assert fast.speedup_over(slow) == Speedup(3.0, 3.0, 3.0, True)
    slow, fast = measured((8.0, ""), (8.7, ""), (8.0, "")), measured((1.0, ""), (1.05, ""), (0.97, ""))
    assert fast.speedup_over(slow) == Speedup(8.0, pytest.approx(8.0), pytest.approx(8.7 / 1.05), True)


def test_a_disturbed_baseline_makes_no_speedup() -> None:
    """Eager's threads wait for each other, so other work slows it more than what it is compared with."""
    eager, fast = measured((9.0, ""), (192.0, BUSY), (190.0, BUSY), (193.0, BUSY)), measured(*[(1.2, "")] * 4)
    found = fast.speedup_over(eager)
    assert not found.steady and found.high < 10
    quiet_again = measured((9.0, ""), (192.0, BUSY), (9.3, ""), (193.0, BUSY))
    assert fast.speedup_over(quiet_again).steady and fast.speedup_over(quiet_again).high < 10


def test_rounds_that_something_slowed_unseen_flatter_no_speedup() -> None:
    # However the rounds vary, no more is claimed than AGREE times what the fastest of each give.
    found = measured((1.0, ""), (1.2, ""), (1.05, "")).speedup_over(measured((12.0, ""), (10.0, ""), (10.9, "")))
    assert found.steady and found.ratio <= AGREE * 10.0
    assert measured((1.0, ""), (1.0, ""), (9.0, "")).speedup_over(measured((10.0, ""), (90.0, ""), (10.0, ""))).ratio == pytest.approx(10.0)
    assert measured((1.0, ""), (1.08, "")).speedup_over(measured((10.0, ""), (10.8, ""))).steady  # a drift touches both alike


def test_rounds_that_are_not_shared_are_compared_crosswise() -> None:
    ours, theirs = measured((1.0, ""), (9.0, BUSY), rounds=1), measured((90.0, BUSY), (8.0, ""), rounds=1)
    assert ours.speedup_over(theirs) == Speedup(8.0, 8.0, 8.0, True)
