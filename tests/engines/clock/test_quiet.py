"""What counts as a busy machine: of readings made up, and of this machine with busy loops on it."""

import os
import sys
import time

import pytest
from loops import busy_loops

from penjing.engines.clock import quiet
from penjing.engines.clock.quiet import Counters, Load, Processors, processors, read, slowed, slowness

QUIET = Load(others=0.0, stolen=0.0, waiting=0.0, throttled=0.0)
LAPTOP, SERVER, HYPERTHREADS = Processors(8, 8), Processors(128, 64), Processors(2, 1)


def load(**changes: float) -> Load:
    return Load(**{"others": 0.0, "stolen": 0.0, "waiting": 0.0, "throttled": 0.0} | changes)


@pytest.mark.parametrize(
    ("taken", "threads", "where"),
    [
        (QUIET, 2, Processors(2, 2)),
        (load(others=0.02 * 8, waiting=0.02 * 8), 8, LAPTOP),  # two in a hundred, of all processors
        (load(others=40.0, waiting=0.02), 8, SERVER),  # others are at work, and ours wait for nobody
        (load(others=1.0), 1, Processors(2, 2)),  # the other processor is theirs
    ],
)
def test_what_takes_nothing_from_the_worker_does_not_disturb(taken: Load, threads: int, where: Processors) -> None:
    assert taken.disturbance(threads, where) == ""


@pytest.mark.parametrize(
    ("taken", "threads", "where", "words"),
    [
        (load(others=1.0), 2, Processors(2, 2), "other processes take 1.0 of 2 processors"),
        (load(others=1.0), 1, HYPERTHREADS, "other processes take 1.0"),  # they share one physical processor
        (load(others=60.0), 8, SERVER, "other processes take 60.0"),  # more than the physical ones that are free
        (load(others=0.5), 4, Processors(2, 2), "other processes"),  # none is free
        (load(others=0.9, waiting=0.5), 16, Processors(16, 16), "wait 0.50 s"),  # few of the processors, and yet in the way
        (load(waiting=0.1), 1, SERVER, "wait 0.10 s"),
        (load(stolen=0.2), 2, Processors(2, 2), "the host of this virtual machine"),
        (load(throttled=0.3), 2, Processors(2, 2), "quota"),
    ],
)
def test_what_takes_something_is_named(taken: Load, threads: int, where: Processors, words: str) -> None:
    assert words in taken.disturbance(threads, where)


def test_a_load_is_what_was_counted_less_the_worker_s_own_per_second() -> None:
    before = Counters(clock=10.0, busy=100.0, stolen=5.0, own=50.0, waited=1.0, throttled=0.0)
    after = Counters(clock=14.0, busy=108.0, stolen=7.0, own=54.0, waited=3.0, throttled=0.4)
    found = Load.between(before, after)
    assert found.others == pytest.approx(1.0, abs=0.01) and found.stolen == pytest.approx(0.5, abs=0.01)
    assert found.waiting == pytest.approx(0.5) and found.throttled == pytest.approx(0.1)


def test_ticks_of_the_clock_are_nobody_s_work() -> None:
    tick = 1 / os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 0.01
    before = Counters(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    assert Load.between(before, Counters(0.005, 2 * tick, tick, 0.0, 0.0, 0.0)) == QUIET


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_busy_loops_are_seen_from_a_process_that_sleeps() -> None:
    with busy_loops(processors().logical):
        before = read(os.getpid())
        time.sleep(0.5)
        after = read(os.getpid())
    assert before and after
    here = processors()
    assert Load.between(before, after).others > 0.7 * here.logical
    assert "other processes" in Load.between(before, after).disturbance(here.logical, here)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_own_work_is_not_other_s_and_a_queue_is_seen() -> None:
    """With a loop on every processor this process, at work too, waits in line; what it uses itself is its own."""
    with busy_loops(processors().logical):
        before, end = read(os.getpid()), time.perf_counter() + 0.6
        while time.perf_counter() < end:
            pass
        after = read(os.getpid())
    assert before and after
    assert after.own > before.own and 0 <= Load.between(before, after).others <= processors().logical - 0.02
    if after.waited:  # the kernel counts it
        assert Load.between(before, after).waiting > 0.07


def test_slowness_is_of_the_slowest_processor_against_the_fastest_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([*[0.002, 0.001, 0.003], *[0.001] * 3, *[0.001] * 3, *[0.004, 0.002, 0.0019]])
    monkeypatch.setattr(quiet, "_fastest", {})
    monkeypatch.setattr(quiet, "_loop", lambda: next(seconds))
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 7}, raising=False)
    chosen: list[set[int]] = []
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, where: chosen.append(where), raising=False)
    assert slowness() == 1.0 and slowness() == pytest.approx(1.9)
    assert chosen == [{3}, {7}, {3, 7}] * 2
    assert slowed(1.9) == "its processors run 1.9 times slower than they can" and slowed(quiet.SLOW) == ""


@pytest.mark.skipif(sys.platform != "linux", reason="a process cannot choose where it runs elsewhere")
def test_looking_leaves_the_process_where_it_may_run() -> None:
    before = os.sched_getaffinity(0)
    assert slowness() >= 1.0 and os.sched_getaffinity(0) == before


def test_where_nothing_can_be_seen_nothing_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert slowness() == 1.0
