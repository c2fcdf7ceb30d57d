"""How a job measures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from penjing.engines.clock.measure import TEXTS, Sampling, Spoken, Subject, measure
from penjing.engines.clock.measurement import Measurement
from penjing.tasks.task import Task
from penjing.text.encoded import Encoded


@dataclass(frozen=True)
class Trial:
    """On what task and how it is measured. wait_s: seconds that each measurement waits for a quiet machine at most."""

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
        spoken = None if inputs is None else Spoken(self.task, inputs, self.max_length)
        return measure(
            subjects, encoded, threads=self.threads, sampling=sampling, spoken=spoken, patience_s=self.wait_s, tell=self.tell
        )  # fmt: skip
