"""Leaving early on real data, against a smaller student and a cascade, with the commands that a user types.

    python benchmarks/exits.py [teacher] [exits] [students] [cascade] [variants] [measure] [deep]

SST-2 and its teacher of 6 layers are read in place from ../shared (or PENJING_SHARED); results go to .cache/bench/exits/, where a run that
was stopped goes on. `measure` times everything side by side, each in a process of its own, so leave the machine alone meanwhile; `deep` does
the same with a teacher of 12 layers, which bases/make_base.py in ../shared makes and this fine-tunes. The table is printed at the end.
"""

import gzip
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from main_job import CACHE, SHARED, SST2, data, penjing, run

HERE = CACHE / "exits"
DROP = 0.5
"""Points that leaving may lose on texts held out."""
WAIT = 20
RULES = ("entropy", "patience", "prototypes")
STUDENTS = {"sst2": (3, 4, 5), "e5": (4, 6, 8)}
EXITS = {"sst2": "2,4", "e5": "3,6,9"}
VARIANTS: dict[str, list[object]] = {"": [], "-alone": ["--consistency", 0], "-frozen": ["--frozen"]}
"""Trainings of the exits: as by default, without what the last head says, with a frozen encoder."""
TEXTS = {"sst2": 20_000, "e5": 10_000}
"""Rows of SST-2 that are learned from: what is compared learns from the same."""
EPOCHS = 2


def given(name: str) -> list[object]:
    """The data of a teacher."""
    train = HERE / f"{name}-train.jsonl"
    if not train.is_file():
        HERE.mkdir(parents=True, exist_ok=True)
        with gzip.open(data("sst2", "train"), "rt", encoding="utf-8") as source:
            rows = source.readlines()
        some = np.sort(np.random.default_rng(0).permutation(len(rows))[: TEXTS[name]])
        train.write_text("".join(rows[i] for i in some), encoding="utf-8")
    return ["--task", "classification", "--train", train, "--eval", data("sst2", "dev"), "--max-length", 128]


def model_of(name: str) -> Path:
    """The teacher's folder."""
    return HERE / "e5-teacher" if name == "e5" else SST2


def job(command: str, name: str, out: str, *options: object) -> None:
    """One command in ONNX Runtime, unless it has been carried out."""
    folder = HERE / f"{name}-{out}"
    if not (folder / "report.json").is_file():
        penjing(command, "--model", model_of(name), *given(name), "--out", folder, "--engine", "onnxruntime", "--wait", WAIT, *options)


def teacher(name: str = "sst2") -> None:
    """The teacher in int8: what everything is held against."""
    job("quantize", name, "int8", "--scheme", "dynamic-int8", "--no-training")


def students(name: str = "sst2") -> None:
    """Students of fewer layers, distilled and in int8: the rival of leaving early."""
    for layers in STUDENTS[name]:
        recipe = HERE / f"{layers}-layers.yaml"
        HERE.mkdir(parents=True, exist_ok=True)
        recipe.write_text(
            f"- prune: {{layers: {layers}, keep: uniform, importance: magnitude, repair: none}}\n- distill: {{epochs: {EPOCHS}}}\n- quantize\n"
        )
        job("compress", name, f"{layers}-layers", "--recipe", recipe)


def exits(name: str = "sst2") -> None:
    """The whole model with exits."""
    _exits(name, "")


def variants() -> None:
    """The same, taught otherwise."""
    for variant in VARIANTS:
        _exits("sst2", variant)


def _exits(name: str, variant: str) -> None:
    job("exits", name, f"exits{variant}", "--layers", EXITS[name], "--max-drop", DROP, "--epochs", EPOCHS, *VARIANTS[variant])


def cascade(name: str = "sst2") -> None:
    """A static student before the teacher in int8."""
    folder = HERE / f"{name}-static"
    if not (folder / "report.json").is_file():
        penjing("distill", "--model", model_of(name), *given(name), "--out", folder, "--preset", "static", "--wait", WAIT)
    out = HERE / f"{name}-cascade"
    if not (out / "engine").is_dir():
        both = ["--first", folder, "--second", HERE / f"{name}-int8", "--max-drop", DROP]
        penjing("cascade", *both, *given(name), "--out", out, "--wait", WAIT)


# -- side by side ----------------------------------------------------------------------------------------------------


def measure(name: str = "sst2") -> None:
    """Quality on dev, mean and p99 of all that has been made, and where texts leave by each rule."""
    from penjing.engines.clock.measure import Sampling, Subject
    from penjing.engines.clock.measure import measure as measured
    from penjing.engines.opening import open_engine
    from penjing.job.cascading import part_of
    from penjing.job.leaving import left_of
    from penjing.tasks.judging import judge_pair
    from penjing.tasks.sources import Reading, load_data

    source, dev = given(name)[3], data("sst2", "dev")
    found = load_data(str(model_of(name)), "classification", str(source), str(dev), Reading(max_length=128), print)
    made = (
        {"whole": "int8"}
        | {f"{layers} layers": f"{layers}-layers" for layers in STUDENTS[name]}
        | {"static": "static", "cascade": "cascade"}
    )
    parts = {
        label: part_of(HERE / f"{name}-{folder}", label)
        for label, folder in made.items()
        if (HERE / f"{name}-{folder}" / "engine").is_dir()
    }
    places = {label: (part.form, part.folder) for label, part in parts.items()}
    for variant in VARIANTS:
        for rule in RULES if (HERE / f"{name}-exits{variant}" / "model").is_dir() else ():
            places[f"exits{variant}, {rule}"] = _exported(name, variant, rule, found)
    texts = found.eval
    reference = open_engine(*places["whole"]).logits(texts.encoded)
    rows: list[dict[str, Any]] = []
    for label, (form, folder) in places.items():
        engine = open_engine(form, folder)
        judged = judge_pair(found.task, texts, engine.logits(texts.encoded), texts, reference)
        left = left_of(engine, texts.encoded)
        row = {"name": label, **judged.to_json(), "left": left and list(left.texts), "layers": left and left.mean_layers}
        if label == "cascade":
            row["share"] = engine.share(texts.encoded)  # type: ignore[attr-defined]
        rows.append(row)
    subjects = [Subject(form, folder) for form, folder in places.values()]
    figures = measured(subjects, texts.encoded, threads=2, sampling=Sampling(texts=len(texts), rounds=5, throughput_texts=0))
    for row, each in zip(rows, figures, strict=True):
        row |= {
            "mean": each.latency_mean_ms,
            "p50": each.latency_ms,
            "p95": each.latency_p95_ms,
            "p99": each.latency_p99_ms,
            "steady": each.steady,
        }
    (HERE / f"{name}.json").write_text(json.dumps(rows, indent=1))


def _exported(name: str, variant: str, rule: str, found: Any) -> tuple[Any, Path]:
    """The model with exits by this rule, in dynamic int8, with thresholds from the texts held out."""
    from penjing.engines.form import INT8_FORMS, leaving_early
    from penjing.engines.network import Deployed
    from penjing.engines.onnx.export import network_of
    from penjing.job.leaving import Leave
    from penjing.model.building import blueprint_of
    from penjing.model.checkpoint import read

    model = read(HERE / f"{name}-exits{variant}" / "model", head="sequence", labels=found.task.labels)
    form = leaving_early(INT8_FORMS[0], len(blueprint_of(model).exits) + 1)
    folder = HERE / f"{name}-exits{variant}-{rule}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    learned = found.train.take(np.sort(np.random.default_rng(0).permutation(found.sides.learned)[:2000]))
    leave = Leave(rule, DROP, found.task, found.train.take(found.sides.judging), learned.encoded)
    leave.write(Deployed(network_of(model), None, False), folder, form)
    return form, folder


def deep() -> None:
    """The same with a teacher of 12 layers, fine-tuned on a slice."""
    HERE.mkdir(parents=True, exist_ok=True)
    base = HERE / "e5-small"
    if not (base / "config.json").is_file():
        subprocess.run([sys.executable, SHARED / "bases" / "make_base.py", "e5-small", base], check=True)
    if not (model_of("e5") / "config.json").is_file():
        penjing("train", "--model", base, *given("e5"), "--out", model_of("e5"), "--epochs", 2)
    for step in (teacher, students, exits, cascade, measure):
        step("e5")


def table() -> str:
    """What was measured."""
    lines = []
    for name in STUDENTS:
        if not (HERE / f"{name}.json").is_file():
            continue
        lines += ["", f"{name}: | form | dev | lost (95 %) | mean ms | p50 | p95 | p99 | layers | left |"]
        for row in json.loads((HERE / f"{name}.json").read_text()):
            low, high = row["drop_ci95"]
            times = " | ".join(f"{row[each]:.2f}" for each in ("mean", "p50", "p95", "p99"))
            layers = "" if row["layers"] is None else f"{row['layers']:.2f}"
            left = row["left"] or (f"{row['share']:.2f} by the first" if "share" in row else "")
            steady = "" if row["steady"] else " (not steady)"
            lines.append(
                f"| {row['name']} | {row['quality']:.2f} | {row['drop']:.2f} ({low:.2f} … {high:.2f}) | {times} | {layers} | {left} |{steady}"
            )
    return "\n".join(lines)


JOBS = {
    "teacher": teacher, "exits": exits, "students": students, "cascade": cascade, "variants": variants, "measure": measure, "deep": deep,
}  # fmt: skip

if __name__ == "__main__":
    run(JOBS, table)
