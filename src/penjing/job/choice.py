"""Which form is shipped: chosen on training texts held out, among those that compute what the model does and keep its quality."""

import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from penjing.engines.clock.measure import Subject
from penjing.engines.clock.trial import Trial
from penjing.engines.engine import Form, open_engine
from penjing.engines.onnx.export import FLOAT_FORMS, export, rounding_of
from penjing.engines.onnx.graph import Ranges
from penjing.job.proof import APART, PARITY, Known, worth_measuring
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.steps.bits.sensitivity import emulated
from penjing.tasks.judge import Logits, judge_pair, quality_of, temperature_for
from penjing.tasks.task import Examples
from penjing.text.encoded import Encoded
from penjing.training.predict import logits_of

PARITY_TEXTS = 64
"""Texts that what a form computes is held against the model on."""
NO_NUMBER = 1e9
"""Stands for a difference that is no number: JSON has no word for it."""


def parity(trial: Trial, model: PenjingPreTrainedModel, texts: Encoded, forms: Sequence[Form]) -> dict[str, float]:
    """Largest difference of float32 logits between PyTorch and each engine that the forms run on."""
    engines = {form.engine for form in forms}
    torch_forms = [form for form in forms if form.engine == "torch"]  # beside PyTorch's the folder gets every engine's portable file
    floats = [form for form in FLOAT_FORMS if form.engine in engines or torch_forms] + torch_forms
    with tempfile.TemporaryDirectory() as folder:
        export(model, Path(folder), [form.file for form in floats], segments=trial.segments)
        return differences(trial, logits_of(model, texts), texts, Path(folder), floats)


def differences(trial: Trial, own: Logits, texts: Encoded, exported: Path, forms: Sequence[Form]) -> dict[str, float]:
    """Largest difference between a model's own logits and those of its float32 forms, by engine."""
    result = dict[str, float]()
    for form in forms:
        theirs = open_engine(form, exported, trial.threads).logits(texts)
        difference = float(np.max([np.abs(a - b).max() for a, b in zip(own, theirs, strict=True)]))
        result[form.engine] = max(difference if np.isfinite(difference) else NO_NUMBER, result.get(form.engine, 0.0))
    return result


def apart(
    trial: Trial, model: PenjingPreTrainedModel, texts: Encoded, exported: Path, forms: Sequence[Form], ranges: Ranges | None,
    float_layers: Collection[str],
) -> dict[str, float]:  # fmt: skip
    """By int8 form, root mean square difference of the exported integers' logits from those of the same rounding in PyTorch, as a part
    of that of the rounding from float32."""
    own = _flat(logits_of(model, texts))
    result = dict[str, float]()
    for form in forms:
        rounding = rounding_of(form)
        if rounding == "float" or form.engine == "torch":
            continue
        expected = _flat(emulated(model, texts, ranges if rounding == "static" else None, float_layers))
        found = _flat(open_engine(form, exported, trial.threads).logits(texts))
        ratio = _rms(found - expected) / max(PARITY, _rms(expected - own))
        result[form.name] = ratio if np.isfinite(ratio) else NO_NUMBER
    return result


def choose(
    trial: Trial,
    known: Known,
    judging: Examples,
    own: Logits,
    workload: Encoded,
    exported: tuple[Path, Path],
    forms: Sequence[Form],
    far: Mapping[str, float],
    integers: Mapping[str, float],
    limit: float,
    confidence: float | None,
    in_float: Callable[[], Sequence[Form]],
    parity_limit: float = PARITY,
) -> dict[str, Any]:
    """The fastest form whose engine has parity, whose integers are those that were meant, and which loses little by rounding.

    Args:
        judging: training texts held out, as the result encodes them. own: the model's float32 logits of them.
        workload: the texts whose lengths decide how fast a form is.
        exported: the folder of the forms, and that of those which `in_float` exports.
        far: see `parity`. integers: see `apart`.
        limit: points that a form may lose against the model in float32.
        parity_limit: of `far`.
        in_float: exports the float32 forms, which stand in where no int8 form may be shipped.
    Returns:
        a record; `chosen` is None where no form has parity, `drop` is against the teacher.
    """
    task = trial.task
    forms = worth_measuring(forms, known.baseline["forms_ms"])
    quality = quality_of(task, judging, own)
    rows: list[dict[str, Any]] = []
    logits: dict[str, Logits] = {}
    place, beside = exported

    def look(form: Form) -> None:
        logits[form.name] = open_engine(form, place, trial.threads).logits(judging.encoded)
        found = quality_of(task, judging, logits[form.name])
        fair = far.get(form.engine, NO_NUMBER) <= parity_limit
        meant = integers.get(form.name, 0.0) <= APART
        rows.append({
            "name": form.name, "form": form, "held_out_quality": found, "loss": quality - found, "int8": rounding_of(form) != "float",
            "apart": integers.get(form.name), "fit": fair and meant and quality - found <= limit, "fair": fair, "latency_ms": None,
        })  # fmt: skip

    for form in forms:
        look(form)
    if not any(row["fit"] for row in rows):
        more = [form for form in in_float() if form.name not in logits]
        place = beside if more else place
        for form in more:
            look(form)
    fit = [row for row in rows if row["fit"]] or [row for row in rows if row["fair"]]
    chosen: Form | None = None
    if fit:
        measured = trial.measure([Subject(row["form"], place) for row in fit], workload, throughput_texts=0)
        for row, each in zip(fit, measured, strict=True):
            row["latency_ms"] = each.latency_ms
        best = min(fit, key=lambda row: row["latency_ms"] if row["fit"] else row["loss"])
        chosen = best["form"]
    record: dict[str, Any] = {
        "parity": dict(far), "parity_limit": parity_limit, "float_quality": quality, "examples": len(judging), "chosen": chosen.to_dict() if chosen else None,
        "forms": [{**row, "form": row["form"].to_dict()} for row in rows],
    }  # fmt: skip
    if chosen is None:
        return record | {"note": "no form computes what the model does"}
    paired = judge_pair(task, judging, logits[chosen.name], known.judging, known.judged, confidence=confidence or 0.95)
    # Labels that the teacher gave itself, or has learned by heart, do not tell how often an answer is right.
    known_by_heart = paired["teacher_quality"] >= 100
    temperature, scores = (1.0, {}) if known_by_heart else temperature_for(task, judging, logits[chosen.name])
    note = f"{chosen.name}; on {len(judging)} training texts held out {paired['quality']:.2f}, {paired['drop']:.2f} points lost"
    return record | {
        "quality": paired["quality"], "drop": paired["drop"], "drop_at_most": paired["drop_at_most"], "temperature": temperature,
        "scores": scores, "note": note,
    }  # fmt: skip


def sample(texts: Examples, seed: int) -> Encoded:
    """Some of the texts, over all their lengths."""
    return texts.encoded.take(texts.encoded.sample(PARITY_TEXTS, seed))


def _flat(rows: Logits) -> np.ndarray:
    return np.concatenate([np.ravel(row) for row in rows]).astype(np.float64)


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))
