"""Requests from many threads to one `penjing.load`ed model of every engine, each answer held against its own.

    python tests/threads.py --threads 8 --requests 10000

prints, for each engine, how many answers were the request's own, another request's, and nobody's; the exit status is 1 where any was
not its own.
"""

import argparse
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from conftest import WORDS, tiny_teacher, tiny_tokenizer
from samples import FORMS, LABELS, engine, packed, student_folder

import penjing
from penjing.engines.engine import Engine
from penjing.engines.form import EAGER
from penjing.engines.opening import open_engine
from penjing.tasks.encoder import Encoder
from penjing.tasks.sequence import Classification

Ask = Callable[[Any], Any]
CLOSE, APART = 1e-6, 3e-6
"""Scores this near to one another are the same answer; those of two requests are further apart."""


def texts(count: int = 24, most: int = 20, seed: int = 0) -> list[str]:
    """Different texts, of one word up to `most`, several of each length."""
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(WORDS[:40], 1 + i * most // count)) for i in range(count)]


def requests(task: str = "classification") -> list[list[Any]]:
    """Lists of one, two or five inputs."""
    each: list[Any] = list(texts())
    if task == "pair":
        each = list(zip(texts(most=10), texts(most=10, seed=1), strict=True))
    if task == "tagging":
        each = [text.split() for text in texts()]
    return [[value] for value in each] + [each[i : i + 5 : 2] for i in range(0, len(each) - 5, 3)] + [each[5:10]]


def scores(answers: Sequence[dict[str, Any]]) -> list[float]:
    """What tells one answer from another: the score of each input or word, below zero where its label is negative."""
    found = []
    for answer in answers:
        labels, values = (answer["labels"], answer["scores"]) if "scores" in answer else ([answer["label"]], [answer["score"]])
        found += [-value if label == "negative" else value for label, value in zip(labels, values, strict=True)]
    return found


def through(runner: Engine) -> Ask:
    """An engine that no folder is served with, asked as a predictor asks one."""
    task = Classification(LABELS)
    encoder = Encoder(task, tiny_tokenizer(), 24)

    def ask(inputs: Any) -> list[dict[str, Any]]:
        encoded, _, _ = encoder(task.asked(inputs))
        return [{"label": "", "score": float(row[0] - row[1])} for row in runner.logits(encoded)]

    return ask


def models(folder: Path) -> dict[str, tuple[str, Callable[[], Ask]]]:
    """By name: its task, and what loads it afresh, with nothing compiled yet."""

    def of(name: str, forms: Sequence[Any], task: str = "classification") -> tuple[str, Callable[[], Ask]]:
        made = engine(folder / name, forms, task)
        return task, lambda: penjing.load(made, threads=1)

    openvino, buckets, fused = FORMS["openvino int8"], FORMS["openvino int8 buckets"], FORMS["onnxruntime fused int8"]
    numbered = student_folder(folder / "student")
    teacher = tiny_teacher(folder / "teacher")
    return {
        "onnxruntime": of("onnxruntime", [FORMS["onnxruntime float32"]]),
        "onnxruntime fused int8": of("fused", [fused]),
        "openvino": of("openvino", [openvino]),
        "openvino, pairs": of("pairs", [FORMS["openvino float32"]], "pair"),
        "openvino buckets": of("buckets", [buckets]),
        "openvino buckets, words, batches": of("words", [replace(buckets, batch=4)], "tagging"),
        "onnxruntime, packed": of("packed", [packed(FORMS["onnxruntime int8"])]),
        "openvino buckets, packed": of("packed buckets", [packed(buckets)]),
        "numpy student": ("classification", lambda: penjing.load(numbered)),
        "torch eager": ("classification", lambda: through(open_engine(EAGER, teacher, 1))),
    }


def hammer(ask: Ask, wanted: Sequence[Sequence[float]], asked: Sequence[Any], threads: int, count: int) -> Counter[str]:
    """`count` requests from each of so many threads, all of which begin at once: whose the answers were."""
    gate, found = threading.Barrier(threads), [Counter[str]() for _ in range(threads)]

    def work(number: int) -> None:
        order = np.random.default_rng(number).integers(0, len(asked), count)
        gate.wait()
        for i in order:
            answer = scores(ask(asked[i]))
            whose = [n for n, scores_of in enumerate(wanted) if same(answer, scores_of)]
            found[number]["own" if int(i) in whose else "another's" if whose else "nobody's"] += 1

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))
    return sum(found, Counter[str]())


def same(answer: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two answers are one."""
    return len(answer) == len(other) and bool(np.abs(np.subtract(answer, other)).max(initial=0) < CLOSE)


def told_apart(ask: Ask, asked: Sequence[Any]) -> tuple[list[Any], list[list[float]]]:
    """The requests whose answers, from one thread alone, are those of no other before, and these answers."""
    kept: list[Any] = []
    wanted: list[list[float]] = []
    for each in asked:
        answer = scores(ask(each))
        if not any(len(answer) == len(other) and np.abs(np.subtract(answer, other)).max(initial=0) < APART for other in wanted):
            kept.append(each)
            wanted.append(answer)
    return kept, wanted


def main() -> None:
    """Every engine in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--requests", type=int, default=10_000, help="of each thread")
    options = parser.parse_args()
    wrong = 0
    with tempfile.TemporaryDirectory() as place:
        for name, (task, load) in models(Path(place)).items():
            asked, wanted = told_apart(load(), requests(task))
            began = time.monotonic()
            found = hammer(load(), wanted, asked, options.threads, options.requests)
            wrong += found.total() - found["own"]
            counts = ", ".join(f"{found[whose]} {whose}" for whose in ("own", "another's", "nobody's"))
            print(f"{name}: {found.total()} answers of {options.threads} threads: {counts}; {time.monotonic() - began:.0f} s", flush=True)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
