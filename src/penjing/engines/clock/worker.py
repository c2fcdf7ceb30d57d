"""A process that holds one engine and times it when told to: `python -P -m penjing.engines.clock.worker`.

One JSON object per line on standard input, one on standard output. The first line says what to load.
"""

import ctypes
import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from penjing.engines.clock.messages import RawTexts, Setup
from penjing.engines.engine import Engine
from penjing.engines.opening import open_engine
from penjing.errors import reason_of
from penjing.files.records import from_json
from penjing.files.references import import_named
from penjing.files.whole import Json
from penjing.tasks.encoder import Encoder
from penjing.tasks.names import task_named
from penjing.text.encoded import Encoded

WARM_UP, WARM_UP_S = 20, 2.0
"""Texts that begin a turn and are not timed; seconds after which the texts that a process begins with are enough."""


def latencies(engine: Engine, encoded: Encoded, seconds: float = math.inf) -> list[float]:
    """Milliseconds of each text alone, at its own length; of the first texts alone where they take so many seconds."""
    feeds = [encoded.feeds(np.array([i])) for i in range(len(encoded))]
    times, left = list[float](), 1e3 * seconds
    for feed in feeds:
        if left <= 0:
            break
        times.append(_milliseconds(partial(engine.run, feed)))
        left -= times[-1]
    return times


def end_to_end(engine: Engine, encoder: Encoder, inputs: Sequence[Any]) -> list[float]:
    """Milliseconds from each text alone to its answer, as `penjing.load` gives it: tokenizing, running, reading the answer."""

    def answer(text: Any) -> None:
        encoded, first, _ = encoder([text])
        encoder.task.decode(engine.logits(encoded), first)

    return [_milliseconds(partial(answer, text)) for text in inputs]


def _milliseconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - start)


def throughput(streams: list[Engine], encoded: Encoded, batch: int) -> float:
    """Texts per second, batches of exactly equal length shared among one-thread streams.

    Threads of one process are as fair to PyTorch as processes: LOG.md has the figures.
    """
    work = [encoded.feeds(rows) for rows in encoded.exact_batches(batch)][::-1]

    def drain(engine: Engine) -> None:
        while work:
            try:
                feeds = work.pop()
            except IndexError:
                return
            engine.run(feeds)

    start = time.perf_counter()
    with ThreadPoolExecutor(len(streams)) as pool:
        list(pool.map(drain, streams))
    return len(encoded) / (time.perf_counter() - start)


def first_of_each_shape(encoded: Encoded, bucket: int) -> list[int]:
    """The first text of each length rounded up to `bucket`, which an engine compiles; without buckets, the first text."""
    if not bucket:
        return [0]
    return sorted(int(i) for i in np.unique(-(-encoded.lengths // bucket), return_index=True)[1])


def peak_mb() -> float | None:
    """The most memory that this process ever held, in MB; None on another system than Linux."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM:")), None)


def _serve(request: Callable[[], Json | None], answer: Callable[[Json], None]) -> None:
    setup = from_json(Setup, request(), "worker")
    sys.path.extend(entry for entry in setup.path if entry not in sys.path)
    import_named(setup.form.engine, *([setup.raw.task] if setup.raw else []))
    if setup.raw is not None:
        task_named(setup.raw.task)  # a model folder may name a head of one's own, which the module of its task imports
    single = Encoded.load(setup.single)
    many = Encoded.load(setup.many)
    start = time.perf_counter()
    engine = open_engine(setup.form, setup.folder, setup.threads)
    loaded = 0.0
    for i in first_of_each_shape(single, setup.form.bucket):
        engine.run(single.feeds(np.array([i])))
        loaded = loaded or time.perf_counter() - start
    cold_start = time.perf_counter() - start
    timed = _timer(engine, setup.raw)
    warm = latencies(engine, single, WARM_UP_S)
    answer({"load_s": loaded, "cold_start_s": cold_start, "ms": float(np.median(warm))})
    while (message := request()) is not None:
        if message["do"] == "latency":
            latencies(engine, single.take(np.arange(min(WARM_UP, len(single)))))
            some = single.take(np.arange(min(message["texts"], len(single))))
            answer({"ms": latencies(engine, some), "end_to_end_ms": timed(len(some)) if timed else []})
        elif message["do"] == "memory":
            answer({"peak_mb": peak_mb()})
        elif message["do"] == "throughput":
            some = many.take(np.arange(min(message["texts"], len(many))))
            batch = min(setup.batch, setup.form.batch)
            streams = [open_engine(setup.form, setup.folder, 1) for _ in range(setup.threads)]
            throughput(streams, some, batch)
            answer({"per_s": [throughput(streams, some, batch) for _ in range(message["rounds"])]})
            del streams  # each holds the model


def _timer(engine: Engine, raw: RawTexts | None) -> Callable[[int], list[float]] | None:
    """What times so many of the texts end to end; None where there are none."""
    if raw is None:
        return None
    task = task_named(raw.task)(raw.labels)
    encoder = Encoder(task, Tokenizer.from_file(str(raw.tokenizer)), raw.max_length)
    inputs = json.loads(raw.inputs.read_text(encoding="utf-8"))
    return lambda count: end_to_end(engine, encoder, inputs[:count])


def main() -> None:
    """Serve requests until standard input ends; whatever libraries print goes to standard error."""
    if sys.platform == "linux":  # a worker that is stopped cannot see its parent die: the kernel kills it then
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal, and the parent ends this one
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def request() -> Json | None:
        line = sys.stdin.readline()
        return json.loads(line) if line.strip() else None

    def answer(message: Json) -> None:
        out.write(json.dumps(message) + "\n")
        out.flush()

    try:
        _serve(request, answer)
    except Exception as error:
        answer({"error": f"{type(error).__name__}: {reason_of(error)}"})
        sys.exit(1)


if __name__ == "__main__":
    main()
