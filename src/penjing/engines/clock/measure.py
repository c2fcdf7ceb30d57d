"""Latency and throughput, each engine in a process of its own, in turn, and only what other work did not disturb.

Idle engine threads spin and spoil what another measures; so a process is stopped (SIGSTOP) while it is not its turn.
Every round visits every engine, so a drift of the machine's speed touches all of them alike. A turn that other work
disturbed (`quiet`), or that took longer than others, is taken again; where too few are quiet and alike, the figures are not steady.
"""

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from penjing.engines.clock import quiet
from penjing.engines.engine import Form
from penjing.errors import InputError, PenjingError
from penjing.model.packing import PACKED
from penjing.tasks.task import Task
from penjing.text.encoded import Encoded

TEXTS = 100
"""Texts that a latency is taken over, where there are so many."""
TURN_S, FEW, FEWEST = 4.0, 20, 64
"""Seconds that the texts of a turn may take the slowest, one at a time; texts that a latency is of at least, and a throughput."""
AGREE = 1.1
"""A turn that takes more than so many times the fastest is in no figure, and is taken again; a latency of which too few are left is not steady."""
AGAIN = 3
"""Turns of one subject at most, as a multiple of the rounds."""
PATIENCE_S = 60.0
"""Seconds that one call waits for a quiet machine at most, and takes again what was disturbed; PENJING_WAIT in the
environment lowers it for all calls."""
GIVEN_UP = 2
"""Rounds after which nobody goes on where all was disturbed and no patience is left."""
LOOK_S = 0.25
"""Seconds over which is looked whether the machine is quiet again."""


@dataclass(frozen=True)
class Subject:
    """What is measured: a form, the folder its file is in, the texts in its own encoding where it is not everybody's, and its
    tokenizer.json where it is not in that folder."""

    form: Form
    folder: Path
    encoded: Encoded | None = None
    tokenizer: Path | None = None


@dataclass(frozen=True)
class Spoken:
    """The texts as a person writes them (what `task.encode` takes, one for each of the encoded), so that answers are timed end to end."""

    task: Task
    inputs: Sequence[Any]
    max_length: int


class Speedup(NamedTuple):
    """How many times faster: the ratio of the medians, its range over the rounds, and whether it may be claimed."""

    ratio: float
    low: float
    high: float
    steady: bool


@dataclass(frozen=True)
class Turn:
    """Milliseconds of each text in one turn, of the engine alone and end to end; what disturbed it ("": nothing), and how many times
    slower than they can the processors ran."""

    round: int
    ms: Sequence[float]
    end_to_end_ms: Sequence[float] = ()
    load: str = ""
    slowness: float = 1.0

    @property
    def disturbance(self) -> str:
        """Of whatever kind."""
        return self.load or quiet.slowed(self.slowness)

    @property
    def median_ms(self) -> float:
        """Over its texts."""
        return float(np.median(self.ms))


@dataclass
class Measurement:
    """The turns of one subject. `rounds` were asked; `peak_mb` is of a process that holds this engine alone, after the latencies."""

    load_s: float
    cold_start_s: float | None = None
    peak_mb: float | None = None
    rounds: int = 1
    turns: list[Turn] = field(default_factory=list)
    rounds_per_s: list[float] = field(default_factory=list)
    throughput_disturbance: str = ""

    @classmethod
    def pooled(cls, measurements: "Sequence[Measurement]") -> "Measurement":
        """The turns of several processes of one subject as one: where a process happens to lie in memory, and on which processors, counts less."""
        start = [max((turn.round for turn in each.turns), default=0) + 1 for each in measurements]
        turns = [replace(turn, round=turn.round + sum(start[:i])) for i, each in enumerate(measurements) for turn in each.turns]
        cold, peak = (
            [value for value in values if value is not None]
            for values in zip(*((m.cold_start_s, m.peak_mb) for m in measurements), strict=True)
        )
        return cls(
            float(np.median([each.load_s for each in measurements])), float(np.median(cold)) if cold else None, max(peak, default=None),
            sum(each.rounds for each in measurements), turns,
        )  # fmt: skip

    @property
    def quiet(self) -> list[Turn]:
        """The turns that the figures are taken of: of the undisturbed ones (of all, where there is none) those that agree with the fastest.

        What slows a turn that nobody was seen to disturb only ever adds time: a host that runs two threads on processors that share no
        cache made a turn take 1.15 times as long for eager PyTorch, and 1.5 times for int8, for seconds on end (LOG.md).
        """
        turns = [turn for turn in self.turns if not turn.disturbance] or self.turns
        fastest = min((turn.median_ms for turn in turns), default=0.0)
        return [turn for turn in turns if turn.median_ms <= AGREE * fastest]

    @property
    def lacking(self) -> bool:
        """Whether fewer than half as many turns are quiet and alike as rounds were asked."""
        return sum(not turn.disturbance for turn in self.quiet) < min(self.rounds, max(2, -(-self.rounds // 2)))

    def _percentile(self, percent: float) -> float:
        return float(np.percentile([ms for turn in self.quiet for ms in turn.ms], percent))

    @property
    def latency_ms(self) -> float:
        """Median over the texts and quiet turns."""
        return self._percentile(50)

    @property
    def latency_p95_ms(self) -> float:
        """Of 100 answers, 95 come within it."""
        return self._percentile(95)

    @property
    def latency_p99_ms(self) -> float:
        """Of 100 answers, 99 come within it."""
        return self._percentile(99)

    @property
    def end_to_end_ms(self) -> float | None:
        """Median of tokenizing one text, running and reading the answer; None where it was not measured."""
        values = [ms for turn in self.quiet for ms in turn.end_to_end_ms]
        return float(np.median(values)) if values else None

    @property
    def throughput_per_s(self) -> float:
        """Median over the rounds; 0 where it was not measured."""
        return float(np.median(self.rounds_per_s)) if self.rounds_per_s else 0.0

    @property
    def disturbance(self) -> str:
        """What makes the figures unsteady, in words; "" where they are steady."""
        disturbed = [turn.disturbance for turn in self.turns if turn.disturbance]
        enough = min(self.rounds, max(2, self.rounds // 3))
        if len(self.turns) - len(disturbed) < enough:
            return disturbed[-1] if disturbed else "too few rounds"
        if len(self.quiet) < enough:
            medians = [turn.median_ms for turn in self.turns if not turn.disturbance]
            return f"its rounds differ, {min(medians):.2f} to {max(medians):.2f} ms"
        return self.throughput_disturbance

    @property
    def steady(self) -> bool:
        """Whether the figures can be believed: enough turns that nothing disturbed, and alike."""
        return not self.disturbance

    def speedup_over(self, other: "Measurement") -> Speedup:
        """How many times faster than `other`. The range is over rounds that are quiet for both; over all of them where there is none."""
        ours, theirs = ({turn.round: turn.median_ms for turn in each.quiet} for each in (self, other))
        common = ours.keys() & theirs.keys()
        pairs = [(ours[i], theirs[i]) for i in common] or [(a, b) for a in ours.values() for b in theirs.values()]
        ratios = [b / a for a, b in pairs]
        return Speedup(other.latency_ms / self.latency_ms, min(ratios), max(ratios), self.steady and other.steady)

    def figures(self) -> dict[str, float | bool | None]:
        """For the report: milliseconds, texts per second, seconds, MB; None where not measured."""
        return {
            "latency_ms": self.latency_ms, "latency_p95_ms": self.latency_p95_ms, "latency_p99_ms": self.latency_p99_ms,
            "end_to_end_ms": self.end_to_end_ms, "throughput_per_s": self.throughput_per_s if self.rounds_per_s else None,
            "load_s": self.load_s, "cold_start_s": self.cold_start_s, "peak_mb": self.peak_mb, "steady": self.steady,
        }  # fmt: skip


def elsewhere(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without the current folder in PYTHONPATH, which an empty entry stands for too; unless Penjing itself is there."""
    here, own = Path.cwd(), Path(__file__).parents[2]
    given = environment.get("PYTHONPATH", "").split(os.pathsep)
    kept = [entry for entry in given if entry and Path(entry).resolve() != here]
    return {**environment, "PYTHONPATH": os.pathsep.join([*kept, str(own)] if own == here else kept)}


class _Worker:
    """One child process; stopped but while it is asked."""

    def __init__(self, subject: Subject, threads: int, setup: dict[str, Any]) -> None:
        environment = elsewhere(os.environ) | {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
        self.subject, self.threads = subject, threads
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "penjing.engines.clock.worker"],  # -P: nothing is imported from the current folder
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment,
        )  # fmt: skip
        self.processors = quiet.processors()
        self.load, self.slowness = "", 1.0
        try:
            self.setup = self.ask({"form": subject.form.to_dict(), "folder": str(subject.folder), "threads": threads} | setup)
        except BaseException:
            self.close()
            raise

    @property
    def disturbance(self) -> str:
        """What disturbed it when it was asked last, or would have where it was looked."""
        return self.load or quiet.slowed(self.slowness)

    def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """Its answer; `load` and `slowness` are then what disturbed it meanwhile."""
        assert self.process.stdin and self.process.stdout
        slowness, before = quiet.slowness(), quiet.read(self.process.pid)
        self._signal("SIGCONT")
        with suppress(BrokenPipeError):  # it has died, and is asked below how
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()
        line = self.process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": f"it died with status {self.process.wait()}"}
        if "error" in answer:
            raise PenjingError(f"measure: {self.subject.form.name} failed ({answer['error']})")
        self._signal("SIGSTOP")
        self._judge(before, slowness)
        return answer

    def look(self) -> None:
        """See for a while what would disturb it, while it is stopped."""
        before = quiet.read(self.process.pid)
        time.sleep(LOOK_S)
        self._judge(before)

    def _judge(self, before: quiet.Reading | None, slowness: float = 1.0) -> None:
        after = quiet.read(self.process.pid)
        self.load = quiet.Load.between(before, after).disturbance(self.threads, self.processors) if before and after else ""
        self.slowness = max(slowness, quiet.slowness())

    def _signal(self, name: str) -> None:
        if hasattr(signal, name):
            self.process.send_signal(getattr(signal, name))

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


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
        self.tell, self.told = tell, False

    def take(self, worker: _Worker, message: dict[str, Any], again: bool = False) -> dict[str, Any]:
        """A turn, after waiting until nothing would disturb it, as long as patience lasts; its time counts where it is taken `again`."""
        while worker.disturbance and self.left > 0:
            self._spend(worker.look)
            if worker.disturbance and not self.told:
                self.tell(f"waiting for a quiet machine: {worker.disturbance}")
                self.told = True
        return self._spend(worker.ask, message) if again else worker.ask(message)

    def _spend(self, call: Callable[..., Any], *given: Any) -> Any:
        start = time.perf_counter()
        result = call(*given)
        self.left -= time.perf_counter() - start
        return result


def measure(
    subjects: Sequence[Subject],
    encoded: Encoded,
    *,
    threads: int,
    rounds: int = 5,
    texts: int = TEXTS,
    throughput_texts: int = 512,
    batch: int = 32,
    seed: int = 0,
    spoken: Spoken | None = None,
    patience_s: float = PATIENCE_S,
    tell: Callable[[str], None] = lambda text: None,
) -> list[Measurement]:
    """Measure every subject on the same texts.

    Args:
        texts: latencies are of so many of the texts, drawn evenly over their lengths, each alone (batch 1).
        throughput_texts: throughput is of so many, in batches of exactly equal length; 0 leaves it out. Both are of fewer, the same
            for all subjects, where the slowest would take long over them.
        batch: texts of a batch at most; a form that is served in smaller ones is measured in those.
        spoken: the texts themselves; then subjects with a tokenizer are timed end to end too.
        patience_s: seconds more than necessary, to wait for a quiet machine and to take disturbed turns again.
        tell: is told once that it waits.
    """
    workers: list[_Worker] = []
    patience = _Patience(patience_s, tell)
    samples = {"single": encoded.sample(texts, seed), "many": encoded.sample(max(1, throughput_texts), seed)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if spoken is not None:
            chosen = [spoken.inputs[i] for i in samples["single"]]
            (folder / "inputs.json").write_text(json.dumps(chosen), encoding="utf-8")
        try:
            for i, subject in enumerate(subjects):
                own = encoded if subject.encoded is None else subject.encoded
                for kind, rows in samples.items():
                    own.take(rows).save(folder / f"{kind}-{i}.npz")
                setup = {kind: str(folder / f"{kind}-{i}.npz") for kind in samples}
                workers.append(_Worker(subject, threads, setup | {"batch": batch, "spoken": _spoken(subject, spoken, folder)}))
            results = [Measurement(worker.setup["load_s"], worker.setup["cold_start_s"], rounds=rounds) for worker in workers]

            def within_a_turn(most: int, least: int, slowest_ms: float) -> int:
                return max(least, min(most, int(1000 * TURN_S / slowest_ms)))

            single = {"do": "latency", "texts": within_a_turn(texts, FEW, max(worker.setup["ms"] for worker in workers))}
            for number in range(AGAIN * rounds):
                if number >= GIVEN_UP and patience.left <= 0 and all(turn.disturbance for result in results for turn in result.turns):
                    break
                for worker, result in zip(workers, results, strict=True):
                    if number < rounds or (patience.left > 0 and result.lacking):
                        answer = patience.take(worker, single, again=number >= rounds)
                        result.turns.append(Turn(number, answer["ms"], answer["end_to_end_ms"], worker.load, worker.slowness))
            fastest = min(turn.slowness for result in results for turn in result.turns)
            for result in results:  # processors that were slow all along are as fast as that here
                result.turns = [replace(turn, slowness=turn.slowness / fastest) for turn in result.turns]
            for worker, result in zip(workers, results, strict=True):
                result.peak_mb = worker.ask({"do": "memory"})["peak_mb"]
            # Throughput last: its one-thread streams change a process for good (torch's thread count is global).
            count = within_a_turn(throughput_texts, FEWEST, max(result.latency_ms for result in results))
            many = {"do": "throughput", "texts": count, "rounds": 3}
            for worker, result in zip(workers if throughput_texts else [], results, strict=False):
                # One turn each, so that the copies of one model alone are held at a time.
                answer = patience.take(worker, many)
                if worker.disturbance and patience.left > 0:
                    answer = patience.take(worker, many, again=True)
                result.rounds_per_s, result.throughput_disturbance = answer["per_s"], worker.load or quiet.slowed(worker.slowness / fastest)
        finally:
            for worker in workers:
                worker.close()
    return results


def _spoken(subject: Subject, spoken: Spoken | None, folder: Path) -> dict[str, Any] | None:
    """What a worker is told of the texts; None where they, or the subject's tokenizer, are not there."""
    tokenizer = subject.tokenizer or subject.folder / "tokenizer.json"
    if spoken is None or not tokenizer.is_file():
        return None
    return {"task": spoken.task.name, "labels": list(spoken.task.labels), "tokenizer": str(tokenizer),
            "inputs": str(folder / "inputs.json"), "max_length": spoken.max_length}  # fmt: skip


WEIGHTS = ("model.safetensors", "model.safetensors.index.json", PACKED, "pytorch_model.bin", "pytorch_model.bin.index.json")
"""Files that a model folder may hold its weights in, in the order in which they are looked for."""


def model_bytes(folder: Path) -> int:
    """Bytes of what is loaded of a model folder: weights (the first of `WEIGHTS` that is there, an index with its shards),
    configuration and tokenizer."""
    found = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    files = {folder / "config.json", folder / "tokenizer.json"} | ({found} if found else set())
    if found and found.suffix == ".json":
        files |= {folder / shard for shard in json.loads(found.read_text(encoding="utf-8"))["weight_map"].values()}
    return sum(file.stat().st_size for file in files if file.is_file())
