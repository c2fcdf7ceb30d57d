"""Commands as a person types them, on a tiny teacher: here, or in a process of its own that can be killed.

The clock is told: what a model takes is read off its files, so that a command takes seconds, and chooses alike however busy the
machine is. `run(..., clock="real")` measures.
"""

import io
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from conftest import WITHOUT_PENJING, tiny_teacher

from penjing import cli
from penjing.engines.clock.measure import Subject
from penjing.engines.clock.measurement import Measurement, Turn
from penjing.engines.clock.trial import Trial
from penjing.text.encoded import Encoded

Clock = Literal["told", "real"]
WORDS = ("good", "bad", "film", "not", "a")


# -- the clock -----------------------------------------------------------------------------------------------------


def milliseconds(subject: Subject, encoded: Encoded) -> float:
    """What one text takes: more with every byte of the weights and every token, and in PyTorch three times that."""
    form, folder = subject.form, subject.folder
    torch = form.engine == "torch"
    files = (folder / form.file).iterdir() if torch else (folder / name for name in form.files)
    size = sum(file.stat().st_size for file in files)
    texts = encoded if subject.encoded is None else subject.encoded
    return (3 if torch else 1) * (0.1 + 1e-6 * size * float(np.median(texts.lengths))) + 1e-3 * len(form.name)


def told(
    self: Trial, subjects: Sequence[Subject], encoded: Encoded, inputs: Sequence[Any] | None = None, *, rounds: int = 3,
    throughput_texts: int = 1, texts: int = 100,
) -> list[Measurement]:  # fmt: skip
    """In place of `Trial.measure`: a quiet machine."""
    times = [milliseconds(subject, encoded) for subject in subjects]
    return [
        Measurement(
            0.1, 0.2, 50.0, rounds, [Turn(i, [ms] * 10, [] if inputs is None else [ms + 0.1] * 10) for i in range(rounds)],
            [1000 / ms] if throughput_texts else [],
        )
        for ms in times
    ]  # fmt: skip


# -- the commands --------------------------------------------------------------------------------------------------


def rows_of(task: str, count: int, seed: int) -> list[dict[str, Any]]:
    """Rows of a task: texts are positive where they hold no fewer good than bad; every good is tagged."""
    random = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for _ in range(count):
        words = [str(word) for word in random.choice(WORDS, random.integers(2, 9))]
        label = "positive" if words.count("good") >= words.count("bad") else "negative"
        if task == "pair":
            rows.append({"text_a": " ".join(words), "text_b": "film", "label": label})
        elif task == "tagging":
            rows.append({"tokens": words, "tags": ["B-x" if word == "good" else "O" for word in words]})
        else:
            rows.append({"text": " ".join(words), "label": label})
    return rows


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """JSON Lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def prepare(folder: Path, task: str) -> list[str]:
    """A teacher, train.jsonl and dev.jsonl in `folder`, and the options that name them."""
    tiny_teacher(folder / "teacher", task, ("O", "B-x") if task == "tagging" else ())
    for name, count in (("train", 60), ("dev", 24)):
        write_rows(folder / f"{name}.jsonl", rows_of(task, count, count))
    return ["--model", str(folder / "teacher"), "--task", task, "--train", str(folder / "train.jsonl"), "--eval", str(folder / "dev.jsonl")]


def ended(*arguments: object, clock: Clock = "told") -> tuple[int, str, str]:
    """How a command ends: its exit status, standard output and standard error."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as caught:
        patch.setattr(sys, "argv", ["penjing", *map(str, arguments)])
        if clock == "told":
            patch.setattr(Trial, "measure", told)
        cli.main()
    return int(caught.value.code or 0), out.getvalue(), err.getvalue()


def run(*arguments: object, clock: Clock = "told") -> str:
    """The standard output of a command that ends well."""
    status, out, err = ended(*arguments, clock=clock)
    assert status == 0, err
    return out


def refused(*arguments: object, status: int = 2) -> str:
    """The one line that a command ends with where it does not end well."""
    found, _, err = ended(*arguments)
    last = err.strip().splitlines()[-1]
    assert found == status and last.startswith("penjing: ") and "Traceback" not in err, err
    return last


FORKS = multiprocessing.get_context("forkserver")
"""Processes that are forks of one that has imported what a command needs, and done nothing."""
FORKS.set_forkserver_preload(["commands", "penjing.job.api", "penjing.engines.onnxruntime", "accelerate", "datasets"])


class Started:
    """A command in a process of its own, as `subprocess.Popen` has it."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.files = [str(Path(self.folder.name) / name) for name in ("out", "err")]
        self.process = FORKS.Process(target=_command, args=(list(arguments), *self.files))
        self.process.start()

    @property
    def pid(self) -> int | None:
        return self.process.pid

    @property
    def returncode(self) -> int | None:
        return self.poll()

    def poll(self) -> int | None:
        return self.process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        assert self.process.pid
        os.kill(self.process.pid, number)

    def communicate(self, timeout: float = 300) -> tuple[str, str]:
        """Its standard output and standard error, once it has ended."""
        self.process.join(timeout)
        assert self.process.exitcode is not None, f"it goes on after {timeout} s"
        out, err = (Path(file).read_text(encoding="utf-8") for file in self.files)
        return out, err


def _command(arguments: list[str], out: str, err: str) -> None:
    for number, file in enumerate((out, err), 1):
        os.dup2(os.open(file, os.O_CREAT | os.O_WRONLY), number)
    sys.argv = ["penjing", *arguments]
    Trial.measure = told  # type: ignore[assignment, method-assign]
    cli.main()


def start(*arguments: str) -> Started:
    """The same command in a process of its own."""
    return Started(arguments)


def kill(step: str, out: Path, *arguments: str, by: signal.Signals = signal.SIGKILL) -> str:
    """Start the command and kill it as soon as it works on this step; its standard error."""
    process, steps = start(*arguments, "--out", str(out)), out / "steps"
    deadline = time.monotonic() + 120
    while not [*steps.glob(f".{step}.*.tmp"), *steps.glob(step)]:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1]
        time.sleep(0.002)
    process.send_signal(by)
    return process.communicate()[1]


# -- what came out -------------------------------------------------------------------------------------------------

FRESH = (
    WITHOUT_PENJING
    + """
import json, os, traceback
from pathlib import Path

import torch, transformers

torch.set_num_threads(1)


def looked(folder, texts):
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    given = [tokenizer(text, return_tensors="pt") for text in texts]
    with torch.no_grad():
        logits = [model(**each).logits[0].tolist() for each in given]
        zeros = sum(int((p == 0).sum()) for n, p in model.named_parameters() if ".layers." in n and p.ndim == 2)
    model.train()
    model(**given[0], labels=torch.tensor([0])).loss.backward()
    torch.optim.SGD(model.parameters(), 0.1).step()
    model.save_pretrained(folder.parent / "trained")
    again = transformers.AutoModelForSequenceClassification.from_pretrained(folder.parent / "trained", trust_remote_code=True)
    same = all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values()))
    return {"logits": logits, "zeros": zeros, "same": same, "vocabulary": model.config.vocab_size, "tokens": len(tokenizer)}


out = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # nothing else is written among the answers
for line in sys.stdin:
    child = os.fork()  # of a process that has imported two libraries and done nothing
    if not child:
        folder, texts = json.loads(line)
        try:
            answer = looked(Path(folder), texts)
        except BaseException:
            answer = {"error": traceback.format_exc()}
        print(json.dumps(answer), file=out, flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""
)


TEXTS = ["good film", "not a bad film", "unheard words: paris, 盆景 é!"]


@cache
def _fresh() -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", FRESH], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def fresh(folder: Path) -> dict[str, Any]:
    """What a process where Penjing cannot be imported makes of a model folder."""
    process = _fresh()
    assert process.stdin and process.stdout
    print(json.dumps([str(folder), TEXTS]), file=process.stdin, flush=True)
    result: dict[str, Any] = json.loads(process.stdout.readline())
    assert "error" not in result, result["error"]
    return result


def answers(folder: Path) -> list[dict[str, Any]]:
    """What the exported engine says."""
    import penjing

    return penjing.load(folder, threads=1)(TEXTS)
