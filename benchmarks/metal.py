"""How near to the metal: the machine's measured int8 peak, the share of it that a BERT-base reaches, and where the rest goes.

    python benchmarks/metal.py [--quick]

Prints tables and writes .cache/bench/quantization/metal.json; the models stay in the folder metal/ beside it. Every figure is
taken in a process of its own, one at a time, in turn over the rounds; leave the machine alone meanwhile. `--quick` tries it
out: two layers, few repeats, figures of no worth.

The weights are random: time does not depend on them. One multiply-accumulate is two operations.
"""

import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from main_job import CACHE
from metal_profile import GROUPS
from metal_worker import MULTIPLIES
from peers import NNCF_FORMS, NNCF_INT8, nncf_int8

from penjing.blueprint import Blueprint, Layer
from penjing.engines.clock.machine import machine, versions
from penjing.engines.form import FLOAT_FORMS, FUSED_INT8, INT8_FORMS, Form

QUICK = "--quick" in sys.argv[1:]
HERE = CACHE / "quantization" / ("metal-quick" if QUICK else "metal")
LAYERS, ROUNDS, REPEATS, SECONDS = (2, 1, 5, 0.3) if QUICK else (12, 3, 100, 2.0)
LENGTH, BATCHES = 128, (1, 8)
BASE = Blueprint(30522, 512, 2, 768, 768, 64, (Layer(12, 3072),) * LAYERS, "sequence", 2)
SQUARES = (256,) if QUICK else (1024, 2048, 4096)
INNER = ((768, 768), (768, 3072), (3072, 768))
SHAPES = [*((n, n, n) for n in SQUARES), *((batch * LENGTH, k, n) for batch in BATCHES for k, n in INNER)]
CALIBRATION = 8 if QUICK else 64


def model(folder: Path) -> list[Form]:
    """Write the model in all int8 forms, once; these, NNCF's last."""
    import torch

    from penjing.engines.onnx.export import export
    from penjing.model.building import build
    from penjing.steps.bits.calibrate import calibrate
    from penjing.text.encoded import Encoded

    ids = np.random.default_rng(0).integers(0, BASE.vocabulary, (CALIBRATION, LENGTH)).tolist()
    texts = Encoded.of(ids, [[0] * LENGTH] * CALIBRATION)
    float_file, nncf = FLOAT_FORMS[0].file, folder / "nncf-int8.json"
    if not nncf.is_file():
        torch.manual_seed(0)
        bert = build(BASE)
        for value in bert.parameters():
            if value.ndim == 1:  # norms of ones and biases of zeros would be folded away
                value.data += 0.1 * torch.randn_like(value)
        export(bert, folder, [float_file, *(form.file for form in INT8_FORMS)], calibrate(bert, texts), segments=False)
        nncf_int8(folder / float_file, texts, folder)
    return [*INT8_FORMS, *NNCF_FORMS]


def ask(**job: Any) -> Any:
    """The answer of one process."""
    command = [sys.executable, str(Path(__file__).with_name("metal_worker.py")), json.dumps(job)]
    threads = {"OMP_NUM_THREADS": str(os.cpu_count() or 1)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | threads)
    if done.returncode:
        sys.exit(f"{job} failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def in_turn(jobs: dict[str, dict[str, Any]]) -> dict[str, list[list[list[float]]]]:
    """Answers of every job by its name: milliseconds of round, case, repeat."""
    found: dict[str, list[list[list[float]]]] = defaultdict(list)
    for turn in range(ROUNDS):
        for name, job in jobs.items():
            print(f"round {turn + 1} of {ROUNDS}: {name}", file=sys.stderr, flush=True)
            found[name].append(ask(repeats=REPEATS, seconds=SECONDS, **job))
    return found


def summary(rounds: Sequence[Sequence[Sequence[float]]], case: int, macs: float) -> dict[str, Any]:
    """Median and least milliseconds of one case, and the TOP/s that they are."""
    ms = [float(np.median(each[case])) for each in rounds]
    median, best = float(np.median([x for each in rounds for x in each[case]])), min(min(each[case]) for each in rounds)
    tops = {"tops": 2e-9 * macs / median, "tops_best": 2e-9 * macs / best}
    return {"ms": median, "ms_best": best, "rounds_ms": ms, **tops}


def macs_done(blueprint: Blueprint, length: int, fused: bool) -> int:
    """Multiply-accumulates that our graphs do for one text: the last layer's are of the first token alone, but for the keys
    and values, and in the fused graph for the whole attention."""
    last, hidden, queries = blueprint.layers[-1], blueprint.hidden, length if fused else 1
    width = last.heads * blueprint.head_width
    attention = (2 * length + queries) * hidden * width + 2 * queries * length * width
    return blueprint.with_layers(blueprint.layers[:-1]).macs(length) + attention + hidden * width + 2 * hidden * last.neurons


def best_of(forms: Sequence[Form], found: dict[str, dict[str, Any]]) -> list[Form]:
    """The fastest at batch 1 of ours on each engine, and of NNCF's."""
    kinds: dict[tuple[str, bool], Form] = {}
    for form in sorted(forms, key=lambda form: -found[form.name]["1"]["ms"]):
        kinds[form.engine, form.file == NNCF_INT8.file] = form
    return list(kinds.values())


def main() -> None:
    """Measure, write, print."""
    forms = model(HERE)
    multiplies = in_turn({name: {"do": "multiply", "name": name, "shapes": SHAPES} for name in MULTIPLIES})
    found: dict[str, Any] = {"machine": asdict(machine()), "versions": versions(), "length": LENGTH, "layers": LAYERS, "quick": QUICK}
    found["multiplies"] = {
        name: {x(shape): summary(rounds, i, float(np.prod(shape))) for i, shape in enumerate(SHAPES)} for name, rounds in multiplies.items()
    }
    tops, name, shape = max((row["tops"], name, shape) for name, rows in found["multiplies"].items() for shape, row in rows.items())
    found["peak"] = {"tops": tops, "by": name, "shape": shape}
    common = {"folder": str(HERE), "batches": BATCHES, "length": LENGTH, "vocabulary": BASE.vocabulary}
    timed = in_turn({form.name: {"do": "form", "form": form.to_dict(), **common} for form in forms})
    found["forms"] = {}
    for form, (name, rounds) in zip(forms, timed.items(), strict=True):
        rows = {str(batch): summary(rounds, i, batch * BASE.macs(LENGTH)) for i, batch in enumerate(BATCHES)}
        for row in rows.values():
            row["share"] = row["tops"] / tops
            row["share_done"] = row["share"] * macs_done(BASE, LENGTH, form.file == FUSED_INT8) / BASE.macs(LENGTH)
        found["forms"][name] = rows
    found["profiles"] = {}
    for form in best_of(forms, found["forms"]):
        source = str(HERE / (FLOAT_FORMS[0].file if form.file == NNCF_INT8.file else form.file))
        answer = ask(do="profile", form=form.to_dict(), source=source, repeats=REPEATS, **common)
        found["profiles"][form.name] = dict(zip(map(str, BATCHES), answer, strict=True))
    HERE.with_suffix(".json").write_text(json.dumps(found, indent=1))
    print("\n".join(tables(found)))


def x(shape: Sequence[int]) -> str:
    """M×K×N."""
    return "×".join(map(str, shape))


def tables(found: dict[str, Any]) -> list[str]:
    """What was found, as Markdown."""
    peak = found["peak"]["tops"]
    rows = found["multiplies"]
    lines = [f"The peak: {peak:.2f} TOP/s, {found['peak']['by']} at {found['peak']['shape']}.", "",
             "| int8 multiply, TOP/s: median (best) | " + " | ".join(map(x, SHAPES)) + " |", "| --- |" + " ---: |" * len(SHAPES)]  # fmt: skip
    lines += [
        f"| {name} | " + " | ".join(f"{c['tops']:.2f} ({c['tops_best']:.2f})" for c in each.values()) + " |" for name, each in rows.items()
    ]
    lines += [
        "",
        "| form | batch | ms a text | its rounds | TOP/s | of the peak | of the peak, what is done |",
        "| --- " + "| ---: " * 6 + "|",
    ]
    for name, batches in found["forms"].items():
        for batch, row in batches.items():
            low, high = min(row["rounds_ms"]) / int(batch), max(row["rounds_ms"]) / int(batch)
            lines.append(
                f"| {name} | {batch} | {row['ms'] / int(batch):.2f} | {low:.2f} … {high:.2f} | {row['tops']:.2f} | {row['share']:.0%} | {row['share_done']:.0%} |"
            )
    for batch in map(str, BATCHES):
        names = list(found["profiles"])
        lines += ["", f"| batch {batch}: ms a run (per cent) | " + " | ".join(names) + " |", "| --- |" + " ---: |" * len(names)]
        parts = [found["profiles"][name][batch]["groups"] for name in names]
        total = [sum(each.values()) for each in parts]
        for group in GROUPS:
            lines.append(
                f"| {group} | " + " | ".join(f"{p[group]:.2f} ({p[group] / t:.0%})" for p, t in zip(parts, total, strict=True)) + " |"
            )
        lines.append("| sum; the run by the clock | " + " | ".join(
            f"{t:.2f}; {found['forms'][name][batch]['ms']:.2f}" for name, t in zip(names, total, strict=True)) + " |")  # fmt: skip
        lines += [
            "",
            f"| integer products, batch {batch} | form | calls | ms | TOP/s | of the peak | that shape alone, at best |",
            "| --- | --- " + "| ---: " * 5 + "|",
        ]
        for name in names:
            for role, row in found["profiles"][name][batch]["products"].items():
                alone = max((each[x(shape)]["tops"] for each in rows.values() for shape in row["shapes"] if x(shape) in each), default=0.0)
                t = 2e-9 * row["macs"] / row["ms"]
                lines.append(
                    f"| {role} {', '.join(map(x, row['shapes']))} | {name} | {row['calls']} | {row['ms']:.2f} | {t:.2f} | {t / peak:.0%} | {f'{alone:.2f}' if alone else ''} |"
                )
    return lines


if __name__ == "__main__":
    main()
