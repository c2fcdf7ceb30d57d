"""Cheaper attention and dropped tokens at 32, 128 and 512 tokens.

    python benchmarks/attention.py [32] [128] [512] [measure]

Topics of BBC news articles (five classes), cut to so many tokens; read in place from ../shared (or PENJING_SHARED). The teacher is
all-MiniLM-L6-v2 fine-tuned on 512 tokens; every form takes its place in all layers, is repaired, and distilled for one epoch on texts of
that length, as is the teacher itself (`full`). Results go to .cache/bench/attention/, where a run that was stopped goes on; `measure`
times all forms of a length side by side in dynamic int8, each in a process of its own, so leave the machine alone meanwhile.
Quality is of dev and test together, on which nothing is chosen.
"""

import gzip
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from main_job import CACHE, base_model, data, penjing, run

HERE = CACHE / "attention"
LENGTHS = (32, 128, 512)
FORMS = {
    "full": "",
    **{f"window {span}": f"- attention: {{form: window, span: {span}}}" for span in (8, 32)},
    **{f"low-rank {span}": f"- attention: {{form: low-rank, span: {span}}}" for span in (16, 64)},
    "fixed 8": "- attention: {form: fixed, span: 8}",
    "tokens 0.9": "- tokens: {mass: 0.9}",
}
TEXTS = 100
"""Texts that the latency is of."""


def texts(*splits: str) -> Path:
    """Articles of these splits with their topics, in a file."""
    path = HERE / f"{'-'.join(splits)}.jsonl"
    if not path.is_file():
        HERE.mkdir(parents=True, exist_ok=True)
        rows = []
        for split in splits:
            with gzip.open(data("bbc_summary", split), "rt", encoding="utf-8") as file:
                rows += [json.loads(line) for line in file]
        path.write_text("".join(json.dumps({"text": " ".join(row["sentences"]), "label": row["topic"]}) + "\n" for row in rows), "utf-8")
    return path


def given(length: int) -> list[object]:
    """The data, cut to so many tokens."""
    return ["--task", "classification", "--train", texts("train"), "--eval", texts("dev", "test"), "--max-length", length]


def teacher() -> Path:
    """Fine-tuned once, on whole articles."""
    out = HERE / "teacher"
    if not (out / "config.json").is_file():
        penjing("train", "--model", base_model(), *given(512), "--out", out, "--epochs", 2)
    return out


def folder(name: str, length: int) -> Path:
    """Where a form at a length is."""
    return HERE / f"{length}-{name.replace(' ', '-')}"


def forms(length: int) -> None:
    """Every form at a length: in the teacher's place, and distilled."""
    for name, step in FORMS.items():
        if (folder(name, length) / "report.json").is_file():
            continue
        recipe = HERE / f"{name.replace(' ', '-')}.yaml"
        recipe.write_text(f"{step}\n- distill: {{epochs: 1}}\n- quantize: {{scheme: dynamic}}\n".lstrip(), encoding="utf-8")
        out = folder(name, length)
        penjing("compress", "--model", teacher(), *given(length), "--recipe", recipe, "--out", out, "--engine", "onnxruntime", "--wait", 0)


def measure() -> None:
    """Milliseconds of a text of each length, in the engine, of every form that has been made."""
    from penjing.engines.clock.measure import Sampling, Subject
    from penjing.engines.clock.measure import measure as measured
    from penjing.job.cascading import part_of
    from penjing.tasks.sources import load_data
    from penjing.text.reading import Reading

    for length in LENGTHS:
        made = [name for name in FORMS if (folder(name, length) / "engine").is_dir()]
        if not made:
            continue
        found = load_data(
            str(teacher()), "classification", str(texts("train")), str(texts("dev", "test")), Reading(max_length=length), print
        )
        encoded = found.eval.encoded
        whole = encoded.take(np.flatnonzero(encoded.lengths == length)[:TEXTS])
        parts = [part_of(folder(name, length), name) for name in made]
        sampling = Sampling(texts=len(whole), rounds=5, throughput_texts=0)
        figures = measured([Subject(part.form, part.folder) for part in parts], whole, threads=2, sampling=sampling, tell=print)
        times = {
            name: {"p50": each.latency_ms, "p99": each.latency_p99_ms, "steady": each.steady}
            for name, each in zip(made, figures, strict=True)
        }
        (HERE / f"{length}.json").write_text(json.dumps(times, indent=1))


def table() -> str:
    """What was made and measured."""
    lines = ["| tokens | form | accuracy | lost (95 %) | ms, p50 / p99 | times as fast as full |", "| --- " * 6 + "|"]
    for length in LENGTHS:
        path = HERE / f"{length}.json"
        times: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
        for name in FORMS:
            if not (folder(name, length) / "report.json").is_file():
                continue
            result = json.loads((folder(name, length) / "report.json").read_text())["result"]
            low, high = result["drop_ci95"]
            cells = [str(length), name, f"{result['quality']:.2f}", f"{result['drop']:.2f} ({low:.2f} … {high:.2f})"]
            if name in times:
                each = times[name]
                cells += [f"{each['p50']:.2f} / {each['p99']:.2f}", f"{times['full']['p50'] / each['p50']:.2f}"]
                cells[-1] += "" if each["steady"] else ", not steady"
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


JOBS = {**{str(length): partial(forms, length) for length in LENGTHS}, "measure": measure}

if __name__ == "__main__":
    run(JOBS, table)
