"""A process that holds one engine and times it when told to: `python -m penjing.engines.worker`.

One JSON object per line on standard input, one on standard output. The first line says what to load.
"""

import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from penjing.arrays import Encoded
from penjing.engines.engine import Engine, Form, open_engine


def latencies(engine: Engine, encoded: Encoded) -> list[float]:
    """Milliseconds of each text alone, at its own length."""
    feeds = [encoded.feeds(np.array([i])) for i in range(len(encoded))]
    result = []
    for feed in feeds:
        start = time.perf_counter()
        engine.run(feed)
        result.append(1e3 * (time.perf_counter() - start))
    return result


def throughput(streams: list[Engine], encoded: Encoded, batch: int) -> float:
    """Texts per second, batches of exactly equal length shared among one-thread streams."""
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


def _serve(request: Callable[[], dict[str, Any] | None], answer: Callable[[dict[str, Any]], None]) -> None:
    setup = request()
    assert setup is not None
    form, folder, threads = Form(**setup["form"]), setup["folder"], setup["threads"]
    single, many = Encoded.load(setup["single"]), Encoded.load(setup["many"])
    start = time.perf_counter()
    engine = open_engine(form, folder, threads)
    engine.run(single.feeds(np.array([0])))
    load = time.perf_counter() - start
    latencies(engine, single)
    answer({"load_s": load})
    while (message := request()) is not None:
        if message["do"] == "latency":
            latencies(engine, single.take(np.arange(min(20, len(single)))))
            answer({"ms": latencies(engine, single)})
        elif message["do"] == "throughput":
            some = many.take(np.arange(min(message["texts"], len(many))))
            streams = [open_engine(form, folder, 1) for _ in range(threads)]
            throughput(streams, some, setup["batch"])
            answer({"per_s": [throughput(streams, some, setup["batch"]) for _ in range(message["rounds"])]})
            del streams  # each holds the model


def main() -> None:
    """Serve requests until standard input ends; whatever libraries print goes to standard error."""
    if sys.platform == "linux":  # a worker that is stopped cannot see its parent die: the kernel kills it then
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def request() -> dict[str, Any] | None:
        line = sys.stdin.readline()
        return json.loads(line) if line.strip() else None

    def answer(message: dict[str, Any]) -> None:
        out.write(json.dumps(message) + "\n")
        out.flush()

    try:
        _serve(request, answer)
    except Exception as error:
        answer({"error": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"})
        sys.exit(1)


if __name__ == "__main__":
    main()
