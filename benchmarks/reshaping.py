"""Sharing layers and the rank of the word embedding on SST-2: the table of docs/reshaping.md.

    python benchmarks/reshaping.py [--rows 20000] [--epochs 1]

Data and teacher are read in place from ../shared (or PENJING_SHARED); results go to .cache/bench/reshaping/, where a run that was stopped
goes on. Each row is two runs, as after the step alone and after so many epochs of distillation on the first rows of the training data;
quality is of dev, on which nothing is chosen. About 35 minutes on two cores. Times are not compared: no step here makes a model faster.
"""

import argparse
import gzip
import json
from pathlib import Path

from main_job import CACHE, SST2, data, penjing

HERE = CACHE / "reshaping"
RUNS = {
    **{f"share {layers}, {start}": ["share", "--layers", layers, "--start", start] for layers in (1, 2, 3) for start in ("middle", "least-squares")},
    "share 2, average": ["share", "--layers", 2, "--start", "average"],
    "share 2, middle, cycle": ["share", "--layers", 2, "--pattern", "cycle"],
    **{f"factorise {rank}": ["factorise", "--rank", rank] for rank in (32, 64, 128)},
    **{f"project {rank}, {kind}": ["project", "--rank", rank, "--kind", kind] for rank in (32, 64, 128) for kind in ("gaussian", "sparse")},
}  # fmt: skip


def slice_of(rows: int) -> Path:
    """The first rows of the training data, in a file of their own."""
    path = HERE / f"train-{rows}.jsonl"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with gzip.open(data("sst2", "train"), "rt", encoding="utf-8") as file:
            path.write_text("".join(line for line, _ in zip(file, range(rows), strict=False)), encoding="utf-8")
    return path


def told(folder: Path) -> dict[str, str]:
    """What a run has made: quality on dev, points lost with their interval, megabytes of weights and tokenizer."""
    report = json.loads((folder / "report.json").read_text())
    result = report["result"]
    low, high = result["drop_ci95"]
    return {
        "quality": f"{result['quality']:.2f}", "lost": f"{result['drop']:.2f} ({low:.2f} … {high:.2f})",
        "MB": f"{result['bytes'] / 1e6:.1f}", "teacher": f"{report['teacher']['quality']:.2f}, {report['teacher']['bytes'] / 1e6:.1f} MB",
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--epochs", type=int, default=1)
    asked = parser.parse_args()
    train = slice_of(asked.rows)
    given = [
        "--model",
        SST2,
        "--task",
        "classification",
        "--train",
        train,
        "--eval",
        data("sst2", "dev"),
        "--engine",
        "onnxruntime",
        "--wait",
        0,
    ]
    print("| | MB | step alone | lost | distilled | lost |\n| --- | --- | --- | --- | --- | --- |")
    for name, (command, *options) in RUNS.items():
        folders = [HERE / f"{asked.rows}-{name.replace(', ', '-').replace(' ', '-')}-{how}" for how in ("alone", "distilled")]
        for folder, more in zip(folders, (["--no-training"], ["--epochs", asked.epochs]), strict=True):
            if not (folder / "report.json").is_file():
                penjing(command, *given, "--out", folder, *options, *more)
        alone, distilled = map(told, folders)
        print(
            f"| {name} | {alone['MB']} | {alone['quality']} | {alone['lost']} | {distilled['quality']} | {distilled['lost']} |", flush=True
        )
    print(f"teacher: {alone['teacher']}; {asked.rows} rows, {asked.epochs} epochs")


if __name__ == "__main__":
    main()
