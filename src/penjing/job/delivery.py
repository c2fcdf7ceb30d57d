"""What a result is delivered as: the engine's folder, the report, the model's folder."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from penjing import __version__
from penjing.blueprint import Blueprint
from penjing.engines.clock.machine import kernel_class, safe_weight_bits
from penjing.engines.clock.measure import TEXTS
from penjing.engines.engine import DEPLOYED, DESCRIPTION, DESCRIPTION_FORMAT, TOKENIZER, Form, checksums
from penjing.engines.onnx.export import FLOAT_FORMS, INT8_FORMS, MODEL, PORTABLE_FLOAT, PORTABLE_INT8, export, network_of
from penjing.engines.onnx.graph import Ranges
from penjing.engines.onnx.packed import write_network
from penjing.files.whole import whole_folder, write_json
from penjing.job.asked import Job
from penjing.job.proof import gates_of, met
from penjing.model.checkpoint import blueprint_of, write
from penjing.model.coded import Coded
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.report.page import model_card
from penjing.tasks.data import Data


@dataclass(frozen=True)
class Inside:
    """What a report says of a result beside its figures.

    macs: multiply-accumulates of a text, as a part of the teacher's; None where nothing is multiplied alike. blueprint: of a BERT;
    `layers` those of the teacher that it has. student: what it is where it is no BERT.
    """

    parameters: int
    macs: float | None
    blueprint: Mapping[str, Any] = field(default_factory=dict)
    layers: Sequence[int] = ()
    int8: bool = False
    float_layers: Sequence[str] = ()
    student: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What the steps made: the model, its codes where it is stored in few bits, the teacher's layers that it has, and how int8
    rounds it (None in float)."""

    model: PenjingPreTrainedModel
    coded: Mapping[str, Coded] | None
    layers: Sequence[int]
    ranges: Ranges | None
    float_layers: frozenset[str] = frozenset()

    @property
    def blueprint(self) -> Blueprint:
        """With the bits that a weight is stored with on average."""
        if self.coded is None:
            return replace(blueprint_of(self.model), bits=32 if self.ranges is None else 8)
        sizes = [(each.bits, each.codes.size) for each in self.coded.values()]
        return replace(blueprint_of(self.model), bits=round(sum(bits * n for bits, n in sizes) / sum(n for _, n in sizes)))

    def inside(self, before: Blueprint, theirs: int, own: int) -> Inside:
        """For the report; `theirs` and `own` are the tokens of the median text, as teacher and result encode it."""
        after = self.blueprint
        macs = after.macs(own) / max(1, before.macs(theirs))
        return Inside(after.parameters, macs, after.to_dict(), self.layers, self.ranges is not None, sorted(self.float_layers))


def describe(folder: Path, data: Data, forms: Sequence[Form], temperature: float = 1.0) -> None:
    """Write engine.json: what the folder, whose other files are there, says of itself. temperature: that the scores are served at."""
    write_json(folder / DESCRIPTION, {
        "format": DESCRIPTION_FORMAT, "penjing": __version__, "task": data.task.name, "metric": data.task.metric().name, "positive": data.task.positive,
        "labels": data.task.labels, "temperature": temperature,
        "max_length": data.max_length, "weight_bits": safe_weight_bits(), "forms": [form.to_dict() for form in forms],
        "crc32": checksums(folder, forms),
    })  # fmt: skip


def export_forms(outcome: Outcome, folder: Path, data: Data, forms: Sequence[Form], portable: str, tokenizer: Path) -> int:
    """Every form's file and the one of standard operators (in a packed folder built from the weights), the tokenizer, and the
    description; the bytes of the weights that run everywhere."""
    segments = data.task.name == "pair"
    if outcome.coded is not None:
        coded = {name.removeprefix("encoder."): each for name, each in outcome.coded.items()}
        write_network(network_of(outcome.model), coded, folder, ranges=outcome.ranges, segments=segments, float_layers=outcome.float_layers)
    files = [form.file for form in forms if not form.packed] + ([] if outcome.coded is not None else [portable])
    if MODEL in files:
        files.remove(MODEL)
        write(outcome.model, folder / MODEL, packed=outcome.coded is not None, coded=outcome.coded)
    export(outcome.model, folder, files, outcome.ranges, segments=segments, float_layers=outcome.float_layers)
    shutil.copyfile(tokenizer, folder / TOKENIZER)
    describe(folder, data, forms)
    return sum((folder / name).stat().st_size for name in (DEPLOYED if outcome.coded is not None else [portable]))


def deliver_model(outcome: Outcome, out: Path, tokenizer: Path, packed: bool, card: str | None = None) -> None:
    """Write model/."""
    extra = {"README.md": card} if card else {}
    write(outcome.model, out / "model", tokenizer=tokenizer, extra=extra, packed=packed or outcome.coded is not None, coded=outcome.coded)


def deliver(
    outcome: Outcome, report: dict[str, Any], verified: Mapping[str, Any], exported: Path, out: Path, data: Data, tokenizer: Path, packed: bool
) -> None:  # fmt: skip
    """Write model/, and engine/ with the chosen form and, for every engine that may ship it, the file of standard operators."""
    deliver_model(outcome, out, tokenizer, packed, model_card(report))
    chosen = Form(**verified["chosen"])
    judged, choice = {form["name"] for form in report["forms"] if form["fit"]}, verified["choice"]
    fair = {engine for engine, difference in choice["parity"].items() if difference <= choice["parity_limit"]}
    everywhere = [
        replace(form, packed=outcome.coded is not None)
        for form in (*INT8_FORMS, *FLOAT_FORMS)
        if form.portable
        and form.file == (PORTABLE_FLOAT if outcome.ranges is None else PORTABLE_INT8)
        and (form.name in judged or (chosen.engine == "torch" and form.engine in fair))
    ]
    forms = [form for form in dict.fromkeys((chosen, *everywhere)) if form.engine != "torch"]
    with whole_folder(out / "engine") as folder:
        for name in {file for form in forms for file in form.files} | {TOKENIZER}:
            shutil.copyfile(exported / name, folder / name)
        describe(folder, data, forms, choice["temperature"])


def report_of(
    job: Job, data: Data, before: Blueprint, inside: Inside, verified: dict[str, Any], records: Sequence[dict[str, Any]]
) -> dict[str, Any]:  # fmt: skip
    """The report: what was asked, what came out, what it is held against, and which gates it passed.

    Args:
        data: as the result encodes it; `job.data` is as the teacher does.
        before: the teacher's blueprint.
    """
    chosen = next(form for form in verified["forms"] if form["chosen"])
    task, lengths = data.task, data.eval.encoded.lengths
    result = {name: value for name, value in chosen.items() if name not in ("name", "chosen", "fit", "loss")}
    result |= {
        "form": chosen["name"], "parameters": inside.parameters, "float_quality": verified["float_quality"],
        "speedup_vs_eager": verified["speedup"], "speedup_range": verified["speedup_range"], "steady": verified["steady"],
        "disturbance": verified["disturbance"], "macs": inside.macs, "kernels": kernel_class() if inside.int8 else None,
        "float_layers": list(inside.float_layers), "temperature": verified["choice"]["temperature"],
    }  # fmt: skip
    gates = gates_of(result, verified, job.budget, job.recipe)
    return {
        "penjing": __version__, "task": task.name, "metric": task.metric().name, "metric_said": task.metric_said(), "met": met(gates),
        "asked": job.asked, "command": job.command, "date": verified["date"], "commit": verified["commit"], "seed": job.seed,
        "workload": {
            "lengths_p50": float(np.percentile(lengths, 50)), "lengths_p95": float(np.percentile(lengths, 95)),
            "batch": 1, "threads": job.threads, "texts": min(TEXTS, len(lengths)),
        },
        "machine": verified["machine"], "versions": verified["versions"],
        "teacher": {**verified["baselines"]["torch_eager"], "parameters": before.parameters},
        "baselines": verified["baselines"], "result": result, "forms": verified["forms"], "gates": gates,
        "steps": [{k: r.get(k) for k in ("name", "seconds", "quality", "bytes", "note")} for r in records],
        "blueprint": dict(inside.blueprint), "teacher_blueprint": before.to_dict(), "kept_layers": list(inside.layers),
        "student": dict(inside.student), "held_out": {"examples": verified["choice"]["examples"], "drop": verified["choice"]["drop"]},
        "flipped": verified["flipped"], "scores": verified["scores"], "overlap": verified["overlap"], "tests": verified["tests"],
        "shapes": verified["shapes"], "stored": verified["stored"],
    }  # fmt: skip
