"""Latency and throughput, each engine in a process of its own, in turn.

Idle engine threads spin and spoil what another measures; so a process is stopped (SIGSTOP) while it is not its turn.
Every round visits every engine, so a drift of the machine's speed touches all of them alike.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from penjing.arrays import Encoded
from penjing.engines.engine import Form
from penjing.errors import PenjingError

TURN_S, FEWEST = 4.0, 64
"""Seconds that a turn at throughput may take the slowest, were it one text at a time; and texts that it has at least."""


@dataclass(frozen=True)
class Subject:
    """What is measured: a form, the folder its file is in, and the texts in its own encoding, where it is not everybody's."""

    form: Form
    folder: Path
    encoded: Encoded | None = None


@dataclass
class Measurement:
    """Rounds of latencies in milliseconds, throughputs in texts per second, and the seconds that loading took."""

    load_s: float
    rounds_ms: list[list[float]] = field(default_factory=list)
    rounds_per_s: list[float] = field(default_factory=list)

    @property
    def latency_ms(self) -> float:
        """Median over the texts and rounds."""
        return float(np.median([ms for each in self.rounds_ms for ms in each]))

    @property
    def throughput_per_s(self) -> float:
        """Median over the rounds."""
        return float(np.median(self.rounds_per_s)) if self.rounds_per_s else 0.0

    def speedup_over(self, other: "Measurement") -> tuple[float, float, float]:
        """How many times faster than `other`: ratio of the medians, and its range over the rounds."""
        ratios = [np.median(b) / np.median(a) for a, b in zip(self.rounds_ms, other.rounds_ms, strict=True)]
        return other.latency_ms / self.latency_ms, float(min(ratios)), float(max(ratios))


class _Worker:
    """One child process; stopped but while it is asked."""

    def __init__(self, subject: Subject, threads: int, single: Path, many: Path, batch: int) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
        self.subject = subject
        self.process = subprocess.Popen(
            [sys.executable, "-m", "penjing.engines.worker"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment,
        )  # fmt: skip
        self.setup = self.ask(
            {"form": subject.form.to_dict(), "folder": str(subject.folder), "threads": threads,
             "single": str(single), "many": str(many), "batch": batch}
        )  # fmt: skip

    def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin and self.process.stdout
        self._signal("SIGCONT")
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": f"it died with status {self.process.wait()}"}
        if "error" in answer:
            raise PenjingError(f"measure: {self.subject.form.name} failed ({answer['error']})")
        self._signal("SIGSTOP")
        return answer

    def _signal(self, name: str) -> None:
        if hasattr(signal, name):
            self.process.send_signal(getattr(signal, name))

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


def measure(
    subjects: Sequence[Subject],
    encoded: Encoded,
    *,
    threads: int,
    rounds: int = 5,
    texts: int = 100,
    throughput_texts: int = 512,
    batch: int = 32,
    seed: int = 0,
    tick: Callable[[], None] = lambda: None,
) -> list[Measurement]:
    """Measure every subject on the same texts.

    Args:
        texts: latencies are of so many of the texts, evenly spaced over their lengths, each alone (batch 1).
        throughput_texts: throughput is of so many, in batches of exactly equal length; of fewer, the same for all, where the
            slowest would take long over them. 0 leaves it out.
        tick: called after each subject's turn.
    """
    workers: list[_Worker] = []
    samples = {"single": encoded.sample(texts, seed), "many": encoded.sample(max(1, throughput_texts), seed)}
    with tempfile.TemporaryDirectory() as folder:
        try:
            for i, subject in enumerate(subjects):
                own = encoded if subject.encoded is None else subject.encoded
                for name, rows in samples.items():
                    own.take(rows).save(Path(folder) / f"{name}-{i}.npz")
                workers.append(_Worker(subject, threads, Path(folder) / f"single-{i}.npz", Path(folder) / f"many-{i}.npz", batch))
            results = [Measurement(load_s=worker.setup["load_s"]) for worker in workers]
            for _ in range(rounds):
                for worker, result in zip(workers, results, strict=True):
                    result.rounds_ms.append(worker.ask({"do": "latency"})["ms"])
                    tick()
            # Throughput last: its one-thread streams change a process for good (torch's thread count is global).
            slowest = max(result.latency_ms for result in results)
            count = max(FEWEST, min(throughput_texts, int(1000 * TURN_S / slowest)))
            for worker, result in zip(workers if throughput_texts else [], results, strict=False):
                # One turn each, so that the copies of one model alone are held at a time.
                result.rounds_per_s = worker.ask({"do": "throughput", "texts": count, "rounds": 3})["per_s"]
                tick()
        finally:
            for worker in workers:
                worker.close()
    return results
