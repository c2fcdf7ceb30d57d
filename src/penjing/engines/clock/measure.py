"""Latency and throughput, each engine in a process of its own, in turn, and only what other work did not disturb.

Idle engine threads spin and spoil what another measures; so a process is stopped (SIGSTOP) while it is not its turn.
Every round visits every engine, so a drift of the machine's speed touches all of them alike. A turn that other work
disturbed (`quiet`), or that took longer than others, is taken again; where too few are quiet and alike, the figures are not steady.
"""

import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from penjing.engines.clock import quiet
from penjing.engines.clock.measurement import Measurement, Turn
from penjing.engines.clock.messages import RawTexts, Setup
from penjing.engines.clock.process import Process
from penjing.engines.form import TOKENIZER, Form
from penjing.errors import InputError
from penjing.files.references import is_reference
from penjing.files.whole import Json
from penjing.tasks.names import task_reference
from penjing.tasks.task import Task
from penjing.text.encoded import Encoded

T = TypeVar("T")
TEXTS = 100
"""Texts that a latency is taken over, where there are so many."""
TURN_S, FEW, FEWEST = 4.0, 20, 64
"""Seconds that the texts of a turn may take the slowest, one at a time; texts that a latency is of at least, and a throughput."""
AGAIN = 3
"""Turns of one subject at most, as a multiple of the rounds."""
PATIENCE_S = 60.0
"""Seconds that one call waits for a quiet machine at most, and takes again what was disturbed; PENJING_WAIT in the
environment lowers it for all calls."""
GIVEN_UP = 2
"""Rounds after which nobody goes on where all was disturbed and no patience is left."""
THROUGHPUT_ROUNDS = 3


@dataclass(frozen=True)
class Subject:
    """What is measured: a form, and the folder its file is in.

    `encoded`, `max_length`: the texts in its own encoding and the tokens of one at most, where they are not everybody's. `tokenizer`: its
    tokenizer.json, where it is not in that folder.
    """

    form: Form
    folder: Path
    encoded: Encoded | None = None
    tokenizer: Path | None = None
    max_length: int | None = None


@dataclass(frozen=True)
class RawInputs:
    """The texts as a person writes them (what an `Encoder` takes, one for each of the encoded), so that answers are timed end to end."""

    task: Task
    inputs: Sequence[Any]
    max_length: int


@dataclass(frozen=True)
class Sampling:
    """How much is measured.

    `texts`: latencies are of so many of the texts, drawn evenly over their lengths by `seed`, each alone (batch 1).
    `throughput_texts`: throughput is of so many, in batches of exactly equal length; 0 leaves it out. Both are of fewer, the same
    for all subjects, where the slowest would take long over them.
    `batch`: texts of a batch at most; a form that is served in smaller ones is measured in those.
    """

    rounds: int = 5
    texts: int = TEXTS
    throughput_texts: int = 512
    batch: int = 32
    seed: int = 0


class _Patience:
    """Seconds that are left to wait for a quiet machine, and to take again what was disturbed."""

    def __init__(self, seconds: float, tell: Callable[[str], None]) -> None:
        limit = os.environ.get("PENJING_WAIT", str(seconds))
        try:
            self.left = min(seconds, float(limit))
            if not 0 <= float(limit) < math.inf:
                raise ValueError
        except ValueError as error:
            raise InputError(f"PENJING_WAIT: {limit!r} is not allowed; give seconds, 0 for no waiting") from error
        self.tell = tell
        self.told = False

    def take(self, process: Process, message: Json, again: bool = False) -> Json:
        """A turn, after waiting until nothing would disturb it, as long as patience lasts; its time counts where it is taken `again`."""
        while process.disturbance and self.left > 0:
            self._spend(process.look)
            if process.disturbance and not self.told:
                self.tell(f"waiting for a quiet machine: {process.disturbance}")
                self.told = True
        return self._spend(lambda: process.ask(message)) if again else process.ask(message)

    def _spend(self, call: Callable[[], T]) -> T:
        start = time.perf_counter()
        result = call()
        self.left -= time.perf_counter() - start
        return result


def measure(
    subjects: Sequence[Subject],
    encoded: Encoded,
    *,
    threads: int,
    sampling: Sampling = Sampling(),
    raw: RawInputs | None = None,
    patience_s: float = PATIENCE_S,
    tell: Callable[[str], None] = lambda text: None,
) -> list[Measurement]:
    """Measure every subject on the same texts.

    Args:
        raw: the texts themselves; then subjects with a tokenizer are timed end to end too.
        patience_s: seconds more than necessary, to wait for a quiet machine and to take disturbed turns again.
        tell: is told once that it waits.
    """
    processes: list[Process] = []
    patience = _Patience(patience_s, tell)
    with tempfile.TemporaryDirectory() as name:
        try:
            for setup in _setups(subjects, encoded, threads, sampling, raw, Path(name)):
                processes.append(Process(setup))
            results = [Measurement(each.started["load_s"], each.started["cold_start_s"], rounds=sampling.rounds) for each in processes]
            _measure_latency(processes, results, sampling, patience)
            fastest = min(turn.slowness for result in results for turn in result.turns)
            for result in results:  # processors that were slow all along are as fast as that here
                result.turns = [replace(turn, slowness=turn.slowness / fastest) for turn in result.turns]
            for process, result in zip(processes, results, strict=True):
                result.peak_mb = process.ask({"do": "memory"})["peak_mb"]
            if sampling.throughput_texts:  # last: its one-thread streams change a process for good (torch's thread count is global)
                _measure_throughput(processes, results, sampling, patience, fastest)
        finally:
            for process in processes:
                process.close()
    return results


def _within_a_turn(most: int, least: int, slowest_ms: float) -> int:
    """Texts of a turn, so many that the slowest subject does not take long over them."""
    return max(least, min(most, int(1000 * TURN_S / slowest_ms)))


def _measure_latency(
    processes: Sequence[Process], results: Sequence[Measurement], sampling: Sampling, patience: _Patience
) -> None:  # fmt: skip
    """Take the turns of every round, and again those that were disturbed or differ."""
    texts = _within_a_turn(sampling.texts, FEW, max(process.started["ms"] for process in processes))
    message = {"do": "latency", "texts": texts}
    for number in range(AGAIN * sampling.rounds):
        if number >= GIVEN_UP and patience.left <= 0 and all(turn.disturbance for result in results for turn in result.turns):
            break
        for process, result in zip(processes, results, strict=True):
            if number < sampling.rounds or (patience.left > 0 and result.lacking):
                answer = patience.take(process, message, again=number >= sampling.rounds)
                result.turns.append(Turn(number, answer["ms"], answer["end_to_end_ms"], process.load, process.slowness))


def _measure_throughput(
    processes: Sequence[Process], results: Sequence[Measurement], sampling: Sampling, patience: _Patience, fastest: float
) -> None:  # fmt: skip
    """One turn each, so that the copies of one model alone are held at a time; a second one where it was disturbed."""
    texts = _within_a_turn(sampling.throughput_texts, FEWEST, max(result.latency_ms for result in results))
    message = {"do": "throughput", "texts": texts, "rounds": THROUGHPUT_ROUNDS}
    for process, result in zip(processes, results, strict=True):
        answer = patience.take(process, message)
        if process.disturbance and patience.left > 0:
            answer = patience.take(process, message, again=True)
        result.rounds_per_s = answer["per_s"]
        result.throughput_disturbance = process.load or quiet.slowed(process.slowness / fastest)


# -- what a process is given -----------------------------------------------------------------------------------


def _setups(
    subjects: Sequence[Subject], encoded: Encoded, threads: int, sampling: Sampling, raw: RawInputs | None, folder: Path
) -> Iterator[Setup]:  # fmt: skip
    """Write the texts of each subject into `folder`, and say what its process is to load."""
    single = encoded.sample(sampling.texts, sampling.seed)
    many = encoded.sample(max(1, sampling.throughput_texts), sampling.seed)
    inputs = folder / "inputs.json"
    if raw is not None:
        inputs.write_text(json.dumps([raw.inputs[i] for i in single]), encoding="utf-8")
    for i, subject in enumerate(subjects):
        own = encoded if subject.encoded is None else subject.encoded
        places = (folder / f"single-{i}.npz", folder / f"many-{i}.npz")
        for place, rows in zip(places, (single, many), strict=True):
            own.take(rows).save(place)
        texts = _raw_texts(subject, raw, inputs)
        foreign = is_reference(subject.form.engine) or (texts is not None and is_reference(texts.task))
        path = tuple(entry or str(Path.cwd()) for entry in sys.path) if foreign else ()
        yield Setup(subject.form, subject.folder, threads, *places, sampling.batch, texts, path)


def _raw_texts(subject: Subject, raw: RawInputs | None, inputs: Path) -> RawTexts | None:
    """What a process is told of the texts; None where they, or the subject's tokenizer, are not there."""
    tokenizer = subject.tokenizer or subject.folder / TOKENIZER
    if raw is None or not tokenizer.is_file():
        return None
    task = raw.task
    return RawTexts(task_reference(task), tuple(task.labels), tokenizer, inputs, subject.max_length or raw.max_length)
