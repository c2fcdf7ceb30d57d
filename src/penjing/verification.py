"""The last step before the report: is the export right, how good is it, how fast, on what else was it tried."""

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from penjing.arrays import Encoded
from penjing.blueprint import Blueprint
from penjing.checkpoint import blueprint_of, read, write
from penjing.coded import Coded
from penjing.engines.engine import EAGER, Form, open_engine
from penjing.engines.export import FLOAT_FORMS, export
from penjing.engines.machine import commit, machine, versions
from penjing.engines.measure import Subject, measure
from penjing.modeling_penjing import PenjingPreTrainedModel
from penjing.proof import BASELINES, PARITY, choose, form_bytes, teacher_bytes, worth_measuring
from penjing.tasks.judge import Logits, flips, judge_pair, quality_of
from penjing.tasks.task import Examples, Task
from penjing.training.predict import logits_of

SHAPES, SHAPE_TEXTS = (16, 64, 128), 20
"""Tokens of the texts that a result by hand is timed on beside the data's own lengths, and how many such texts."""


@dataclass(frozen=True)
class Known:
    """What the result is held against: the teacher's folder, blueprint, exports, logits, and what the baseline step found."""

    model: Path
    blueprint: Blueprint
    exported: Path
    logits: Logits
    eval: Examples
    """The evaluation data as its own tokenizer encodes it."""
    baseline: dict[str, Any]


@dataclass(frozen=True)
class Trial:
    """On what and how it is measured."""

    task: Task
    eval: Examples
    threads: int
    seed: int
    segments: bool


def verify(
    trial: Trial, known: Known, own: Logits, far: dict[str, float], exported: Path, forms: Sequence[Form], max_drop: float | None
) -> dict[str, Any]:
    """Quality of every form, latency and throughput of all, in one run; the form to ship.

    Args:
        own: the logits of the model itself, in float32.
        far: largest difference of float32 logits between it and each engine; one that is too far off is not shipped.
    """
    task, examples, baseline = trial.task, trial.eval, known.baseline
    forms = worth_measuring(forms, baseline["forms_ms"])
    logits = {form.name: open_engine(form, exported, trial.threads).logits(examples.encoded) for form in forms}
    judged = {name: judge_pair(task, examples, value, known.eval, known.logits) for name, value in logits.items()}
    before = known.eval.encoded
    subjects = [Subject(EAGER, known.model, before), *(Subject(form, known.exported, before) for form in BASELINES.values())]
    subjects += [Subject(form, exported) for form in forms]
    measured = measure(subjects, examples.encoded, threads=trial.threads, seed=trial.seed)
    figures = [{"latency_ms": m.latency_ms, "throughput_per_s": m.throughput_per_s, "load_s": m.load_s} for m in measured]
    names = ["torch_eager", *BASELINES]
    fair = [form for form in forms if far.get(form.engine, 0.0) <= PARITY] or forms
    chosen = choose(fair, judged, {s.form.name: m for s, m in zip(subjects, measured, strict=True)}, max_drop)
    ratio, low, high = measured[len(names) + forms.index(chosen)].speedup_over(measured[0])
    return {
        "parity": far, "float_quality": quality_of(task, examples, own),
        "chosen": chosen.to_dict(),
        "baselines": {
            name: baseline["qualities"][name] | figure | {"bytes": teacher_bytes(known.model, known.exported, name)}
            for name, figure in zip(names, figures, strict=False)
        },
        "forms": [
            {"name": form.name, "engine": form.engine, "chosen": form == chosen, "bytes": form_bytes(exported, form)}
            | judged[form.name] | figure
            for form, figure in zip(forms, figures[len(names) :], strict=True)
        ],
        "speedup_range": [low, high], "machine": machine(), "versions": versions(), "commit": commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "flipped": flips(task, examples, logits[chosen.name], known.eval, known.logits), "quality": judged[chosen.name]["quality"],
        "note": f"{chosen.name}: {ratio:.2f}x eager, {judged[chosen.name]['drop']:.2f} points lost",
    }  # fmt: skip


def parity(trial: Trial, student: PenjingPreTrainedModel) -> dict[str, float]:
    """Largest difference of float32 logits between PyTorch and each engine, on some of the texts."""
    with tempfile.TemporaryDirectory() as folder:
        export(student, Path(folder), [form.file for form in FLOAT_FORMS], segments=trial.segments)
        return differences(trial, lambda encoded: logits_of(student, encoded), Path(folder), FLOAT_FORMS)


def differences(trial: Trial, own: Callable[[Encoded], Logits], exported: Path, forms: Sequence[Form]) -> dict[str, float]:
    """Largest difference between a model's own logits and those of its float32 forms, by engine, on some of the texts."""
    encoded = trial.eval.encoded.take(trial.eval.encoded.sample(64, trial.seed))
    ours, result = own(encoded), dict[str, float]()
    for form in forms:
        theirs = open_engine(form, exported, trial.threads).logits(encoded)
        difference = float(np.max([np.abs(a - b).max() for a, b in zip(ours, theirs, strict=True)]))
        # What is no number is no parity, and JSON has no word for it.
        result[form.engine] = max(difference if np.isfinite(difference) else 1e9, result.get(form.engine, 0.0))
    return result


def on_other_data(trial: Trial, known: Known, exported: Path, form: Form, name: str, theirs: Examples, ours: Examples) -> dict[str, Any]:
    """The result against the teacher on data that nothing was chosen by, each on its own encoding of it."""
    reference = open_engine(EAGER, known.model, trial.threads).logits(theirs.encoded)
    logits = open_engine(form, exported, trial.threads).logits(ours.encoded)
    return {"data": Path(name).name} | judge_pair(trial.task, ours, logits, theirs, reference)


def shapes(trial: Trial, known: Known, student: PenjingPreTrainedModel, exported: Path, form: Form) -> list[dict[str, Any]]:
    """The result against the uncut model in the same form: on the data's own lengths, and on texts of a few fixed ones."""
    before, after = known.blueprint, blueprint_of(student)
    texts: dict[int, tuple[Encoded, Encoded]] = {0: (known.eval.encoded, trial.eval.encoded)}
    texts |= {
        n: (known.eval.encoded.of_length(n, SHAPE_TEXTS), trial.eval.encoded.of_length(n, SHAPE_TEXTS))
        for n in SHAPES
        if n <= before.positions
    }
    rows = []
    for length, (theirs, ours) in texts.items():
        subjects = [Subject(replace(form, packed=False), known.exported, theirs), Subject(form, exported)]
        whole, cut = measure(subjects, ours, threads=trial.threads, seed=trial.seed, throughput_texts=0)
        medians = [int(np.median(each.lengths)) for each in (theirs, ours)]
        rows.append({
            "batch": 1, "tokens": length or medians[1], "own": not length, "form": form.name, "teacher_ms": whole.latency_ms,
            "latency_ms": cut.latency_ms, "speedup": whole.latency_ms / cut.latency_ms,
            "macs": after.macs(medians[1]) / max(1, before.macs(medians[0])),
        })  # fmt: skip
    return rows


def stored(model: PenjingPreTrainedModel, coded: Mapping[str, Coded] | None, place: Path) -> dict[str, Any]:
    """The weights' bytes on disk and the seconds to load them, dense and packed, the best of three loads; zeros; and what is
    stored in how many bits."""
    result: dict[str, Any] = {}
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place) as folder:
        for name in ("dense", "packed"):
            target = Path(folder) / name
            write(model, target, packed=name == "packed", coded=coded if name == "packed" else None)
            times = []
            for _ in range(3):
                start = time.perf_counter()
                read(target)
                times.append(time.perf_counter() - start)
            result |= {f"{name}_bytes": sum(file.stat().st_size for file in target.glob("*.safetensors")), f"{name}_load_s": min(times)}
    zeros = sum(int((p == 0).sum()) for p in model.parameters()) / sum(p.numel() for p in model.parameters())
    bits = {name: {"codec": each.codec, "bits": each.bits, "entries": int(each.codes.size)} for name, each in (coded or {}).items()}
    return result | {"zeros": zeros, "bits": bits}
