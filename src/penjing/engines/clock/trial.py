"""How a job measures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from penjing.engines.clock.measure import TEXTS, RawInputs, Sampling, Subject, measure
from penjing.engines.clock.measurement import Measurement
from penjing.tasks.task import Task
from penjing.text.encoded import Encoded


@dataclass(frozen=True)
class Trial:
    """The settings that all measurements of a job share.

    task, max_length, segments: of the texts; `segments` where a second text stands beside the first. threads: of every engine. seed: that
    texts are drawn by. wait_s: seconds that each measurement waits for a quiet machine at most.
    """

    task: Task
    threads: int
    seed: int
    segments: bool
    max_length: int
    wait_s: float
    tell: Callable[[str], None]

    def measure(
        self,
        subjects: Sequence[Subject],
        encoded: Encoded,
        inputs: Sequence[Any] | None = None,
        *,
        rounds: int = Sampling.rounds,
        texts: int = TEXTS,
        throughput_texts: int = Sampling.throughput_texts,
    ) -> list[Measurement]:
        """See `measure`; with `inputs`, the texts that `encoded` are of, also end to end."""
        sampling = Sampling(rounds=rounds, texts=texts, throughput_texts=throughput_texts, seed=self.seed)
        raw = None if inputs is None else RawInputs(self.task, inputs, self.max_length)
        return measure(
            subjects, encoded, threads=self.threads, sampling=sampling, raw=raw, patience_s=self.wait_s, tell=self.tell
        )  # fmt: skip
