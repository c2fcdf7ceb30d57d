"""Delivery of a result: the report, the model's folder with its card, the engine's folder."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from penjing import __version__
from penjing.blueprint import Blueprint
from penjing.engines.clock.machine import kernel_class
from penjing.engines.clock.measure import TEXTS
from penjing.engines.form import FLOAT_FORMS, MODEL, PORTABLE_FLOAT, TOKENIZER, Form
from penjing.files.records import from_json
from penjing.files.run import StepRecord
from penjing.files.whole import whole_folder
from penjing.job.asked import Job
from penjing.job.exporting import describe
from penjing.job.gates import gates_of, met
from penjing.report.page import model_card
from penjing.report.record import (
    EAGER_BASELINE,
    Asked,
    HeldOut,
    Report,
    Result,
    StudentRow,
    Teacher,
    Verified,
    Workload,
)
from penjing.steps.product import Product
from penjing.tasks.data import Data

ENGINE = "engine"
"""Name of the folder of exported files."""


@dataclass(frozen=True)
class Inside:
    """The description of a result, beside its figures.

    macs: multiply-accumulates of a text, as a part of the teacher's; None for a student of another kind. blueprint: of an encoder.
    layers: numbers of the teacher's layers that it has. int8, float_layers: whether it is in int8, and the layers in float. student:
    the description of a student that is no BERT.
    """

    parameters: int
    macs: float | None = None
    blueprint: Blueprint | None = None
    layers: Sequence[int] = ()
    int8: bool = False
    float_layers: Sequence[str] = ()
    student: StudentRow | None = None


# -- the folders -------------------------------------------------------------------------------------------------


def deliver(product: Product, report: Report, verified: Verified, exported: Path, out: Path, data: Data, tokenizer: Path) -> None:
    """Write model/ with its card, and engine/ with the chosen form and, for every engine that may ship it, the file of standard operators.

    Args:
        exported: the folder of the engine's files, with the tokenizer.json.
        tokenizer: the folder that the model's tokenizer is copied from.
    """
    product.write_model(out / MODEL, tokenizer, {"README.md": model_card(report)})
    forms = delivered_forms(verified, exported)
    with whole_folder(out / ENGINE) as folder:
        for name in {file for form in forms for file in form.files} | {TOKENIZER}:
            shutil.copyfile(exported / name, folder / name)
        describe(folder, data, forms, verified.held_out.temperature)


def delivered_forms(verified: Verified, exported: Path) -> list[Form]:
    """The forms of the engine's folder, the chosen one first.

    PyTorch's form is the model's folder; with it go the portable float32 forms of every engine that has parity.
    """
    chosen = verified.chosen
    choice = verified.choice
    fit = {row.name for row in verified.forms if row.fit}
    others = [row.form for row in choice.forms if row.form.portable and row.name in fit]
    if chosen.engine == "torch":
        fair = {engine for engine, difference in choice.parity.items() if difference <= choice.parity_limit}
        packed = not (exported / PORTABLE_FLOAT).is_file()
        others += [
            replace(form, packed=packed) for form in FLOAT_FORMS if form.file == PORTABLE_FLOAT and form.portable and form.engine in fair
        ]
    return [form for form in dict.fromkeys((chosen, *others)) if form.engine != "torch"]


# -- the report --------------------------------------------------------------------------------------------------


def report_of(job: Job, data: Data, before: Blueprint, inside: Inside, verified: Verified, records: Sequence[StepRecord]) -> Report:
    """The report: the request, the result, the baselines, and the gates.

    Args:
        data: as the result encodes it; `job.data` is as the teacher does.
        before: the teacher's blueprint.
        records: the records of the job's stages.
    """
    task = data.task
    result = result_of(inside, verified)
    gates = gates_of(result, verified, job.budget, job.recipe.limits)
    return Report(
        penjing=__version__,
        task=task.name,
        metric=task.metric().name,
        metric_said=task.metric_said(),
        met=met(gates),
        asked=from_json(Asked, job.asked, "asked") if job.asked else None,
        command=job.command,
        date=verified.date,
        commit=verified.commit,
        seed=job.seed,
        workload=_workload(data, job.threads),
        machine=verified.machine,
        versions=verified.versions,
        teacher=Teacher(verified.baselines[EAGER_BASELINE], before.parameters),
        baselines=verified.baselines,
        result=result,
        forms=verified.forms,
        gates=tuple(gates),
        steps=tuple(records),
        blueprint=inside.blueprint,
        teacher_blueprint=before,
        kept_layers=tuple(inside.layers),
        student=inside.student,
        held_out=HeldOut(verified.choice.examples, verified.held_out.drop),
        flipped=verified.flipped,
        scores=verified.scores,
        overlap=verified.overlap,
        tests=verified.tests,
        shapes=verified.shapes,
        stored=verified.stored,
    )


def result_of(inside: Inside, verified: Verified) -> Result:
    """The result in the shipped form; `steady` in its figures is that of the speed-up."""
    shipped = verified.shipped
    assert shipped.judged is not None
    return Result(
        engine=shipped.engine,
        bytes=shipped.bytes,
        held_out_quality=shipped.held_out_quality,
        judged=shipped.judged,
        figures=replace(shipped.figures, steady=verified.steady),
        form=shipped.name,
        parameters=inside.parameters,
        float_quality=verified.float_quality,
        speedup_vs_eager=verified.speedup,
        speedup_range=verified.speedup_range,
        disturbance=verified.disturbance,
        macs=inside.macs,
        kernels=kernel_class() if inside.int8 else None,
        float_layers=tuple(inside.float_layers),
        temperature=verified.held_out.temperature,
        left=verified.left,
    )


def _workload(data: Data, threads: int) -> Workload:
    lengths = data.eval.encoded.lengths
    return Workload(float(np.percentile(lengths, 50)), float(np.percentile(lengths, 95)), 1, threads, min(TEXTS, len(lengths)))
