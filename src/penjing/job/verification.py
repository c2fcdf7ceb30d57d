"""The last step before the report: what is shipped, on data that nothing was chosen by: quality, speed, other data, other lengths."""

import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from penjing.engines.clock.machine import commit, machine, versions
from penjing.engines.clock.measure import Measurement, Subject
from penjing.engines.clock.trial import Trial
from penjing.engines.engine import EAGER, Form, open_engine
from penjing.job.proof import BASELINES, Known, baseline_bytes, eager_forms, form_bytes
from penjing.model.checkpoint import blueprint_of, read, write
from penjing.model.coded import Coded
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.tasks.judge import Logits, flips, judge_pair, quality_of, scores_of
from penjing.tasks.task import Examples
from penjing.text.encoded import Encoded
from penjing.text.overlap import seen_in

SHAPES, SHAPE_TEXTS = (16, 64, 128), 20
"""Tokens of the texts that a result by hand is timed on beside the data's own lengths, and how many such texts."""
PROCESSES, ROUNDS = 3, 4
"""In so many processes one after another, each of so many rounds, the shipped form is measured alone against eager PyTorch."""


def verify(
    trial: Trial,
    known: Known,
    eval: Examples,
    own: Logits,
    exported: Path,
    choice: Mapping[str, Any],
    train: Examples,
    confidence: float | None,
) -> dict[str, Any]:
    """What is shipped, on the evaluation data: quality against the teacher; latency, alone against eager PyTorch; all forms in one run.

    Args:
        eval: as the result encodes it. own: the result's logits in float32.
        choice: the record of `choice.choose`.
        train: the training texts, which the evaluation data should not stand in.
    """
    task, form = trial.task, Form(**choice["chosen"])
    logits = open_engine(form, exported, trial.threads).logits(eval.encoded)
    judged = judge_pair(task, eval, logits, known.eval, known.logits, confidence=confidence or 0.95)
    before, tokenizer = known.eval.encoded, exported / "tokenizer.json"
    rivals = eager_forms()
    found = [row for row in choice["forms"] if row["latency_ms"] is not None]
    forms = [Form(**row["form"]) for row in found]
    subjects = [Subject(each, known.model, before, known.tokenizer) for each in rivals.values()]
    subjects += [Subject(each, known.exported, before, known.tokenizer) for each in BASELINES.values()]
    subjects += [Subject(each, exported, tokenizer=tokenizer) for each in forms]
    measured = [each.figures() for each in trial.measure(subjects, eval.encoded, eval.inputs)]
    alone = [subjects[0], Subject(form, exported, tokenizer=tokenizer)]
    again = [trial.measure(alone, eval.encoded, eval.inputs, rounds=ROUNDS, throughput_texts=0) for _ in range(PROCESSES)]
    eager, shipped = (Measurement.pooled(each) for each in zip(*again, strict=True))
    faster = shipped.speedup_over(eager)
    names = [*rivals, *BASELINES]
    same, inside = seen_in(eval.inputs, train.inputs)

    def merged(first: Mapping[str, Any], last: Mapping[str, Any]) -> dict[str, Any]:
        """The figures of the last round where it has them."""
        return {name: value if last.get(name) is None else last[name] for name, value in first.items()}

    places = {name: i for i, name in enumerate(names)}
    baselines = {
        name: known.baseline["qualities"][name] | {"form": subjects[i].form.name} | measured[i] | {"bytes": baseline_bytes(known, name)}
        for name, i in places.items()
    }
    baselines["torch_eager"] |= merged(measured[0], eager.figures())
    rows = [
        {"name": each.name, "engine": each.engine, "chosen": each == form, "bytes": form_bytes(exported, each)}
        | {name: row[name] for name in ("held_out_quality", "loss", "fit")} | figures
        for each, row, figures in zip(forms, found, measured[len(names) :], strict=True)
    ]  # fmt: skip
    result = next(row for row in rows if row["chosen"])
    result |= judged | merged(measured[len(names) + forms.index(form)], shipped.figures())
    temperature = choice["temperature"]
    scores = {
        "temperature": temperature, "teacher": scores_of(task, known.eval, known.logits, 1.0), "before": scores_of(task, eval, logits, 1.0),
        "after": scores_of(task, eval, logits, temperature), "examples": choice["examples"],
    }  # fmt: skip
    ratio = f"{faster.ratio:.2f}x eager" if faster.steady else "the machine was too busy to say how much faster than eager"
    return {
        "choice": dict(choice), "float_quality": quality_of(task, eval, own), "chosen": choice["chosen"], "baselines": baselines, "forms": rows,
        "speedup": faster.ratio if faster.steady else None, "speedup_range": [faster.low, faster.high], "steady": faster.steady,
        "disturbance": "; ".join(dict.fromkeys(filter(None, (eager.disturbance, shipped.disturbance)))),
        "machine": machine(), "versions": versions(), "commit": commit(), "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "flipped": flips(task, eval, logits, known.eval, known.logits), "scores": scores, "quality": judged["quality"],
        "overlap": {"same": same, "inside": inside, "examples": len(eval)},
        "note": f"{form.name}: {ratio}, {judged['drop']:.2f} points lost",
    }  # fmt: skip


def on_other_data(
    trial: Trial, known: Known, exported: Path, form: Form, name: str, theirs: Examples, ours: Examples, train: Examples
) -> dict[str, Any]:
    """The result against the teacher on further data, each on its own encoding of it."""
    reference = open_engine(EAGER, known.model, trial.threads).logits(theirs.encoded)
    logits = open_engine(form, exported, trial.threads).logits(ours.encoded)
    same, inside = seen_in(ours.inputs, train.inputs)
    judged = judge_pair(trial.task, ours, logits, theirs, reference)
    return {"data": Path(name).name} | judged | {"overlap": {"same": same, "inside": inside, "examples": len(ours)}}


def shapes(trial: Trial, known: Known, eval: Encoded, student: PenjingPreTrainedModel, exported: Path, form: Form) -> list[dict[str, Any]]:
    """The result against the uncut model in the same form: on the data's own lengths, and on texts of a few fixed ones."""
    before, after = known.blueprint, blueprint_of(student)
    texts: dict[int, tuple[Encoded, Encoded]] = {0: (known.eval.encoded, eval)}
    texts |= {n: (known.eval.encoded.of_length(n, SHAPE_TEXTS), eval.of_length(n, SHAPE_TEXTS)) for n in SHAPES if n <= before.positions}
    rows = []
    for length, (theirs, ours) in texts.items():
        subjects = [Subject(replace(form, packed=False), known.exported, theirs), Subject(form, exported)]
        whole, cut = trial.measure(subjects, ours, throughput_texts=0)
        faster = cut.speedup_over(whole)
        medians = [int(np.median(each.lengths)) for each in (theirs, ours)]
        rows.append({
            "batch": 1, "tokens": length or medians[1], "own": not length, "form": form.name, "teacher_ms": whole.latency_ms,
            "latency_ms": cut.latency_ms, "speedup": faster.ratio, "steady": faster.steady,
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
