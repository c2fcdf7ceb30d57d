"""The end of a job: verification of the result on data that nothing was chosen by, and delivery."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from penjing.engines.clock.trial import Trial
from penjing.engines.form import without_leaving
from penjing.engines.onnx.export import export
from penjing.errors import BudgetError
from penjing.files.records import from_json, to_json
from penjing.files.run import Tell
from penjing.files.whole import Json, whole_folder, write_json, write_text
from penjing.job.asked import Job
from penjing.job.baseline import Reference
from penjing.job.delivery import Inside, deliver, report_of
from penjing.job.product import EncoderProduct
from penjing.job.proving import Further, Shipped, on_other_data, shapes, stored, verify
from penjing.model.building import blueprint_of
from penjing.report.page import page
from penjing.report.record import Choice, Report, Stored, StudentRow, Verified
from penjing.steps.cut.sparsify import SparsifySettings, sparsity_of
from penjing.steps.product import Product
from penjing.steps.stage import Context, Work
from penjing.steps.teach.distillation import ALSO, Distillation
from penjing.students.stage import StudentProduct


@dataclass(frozen=True)
class Attempt:
    """An attempt: a result that was made and exported, and the choice of its form."""

    work: Work
    product: Product
    exported: Path
    choice: Choice


def proof(job: Job, context: Context, attempt: Attempt, reference: Reference, trial: Trial) -> Verified:
    """Verify the result on data that nothing was chosen by: everything that is reported of it."""
    work = attempt.work
    product = attempt.product
    if attempt.choice.chosen is None:
        _refuse(job, context, attempt)
    shipped = Shipped(attempt.exported, attempt.choice, work.data.eval, product.logits(work.data.eval.encoded))
    train = job.data.train
    by_hand = job.recipe.by_hand

    def prove(folder: Path) -> Json:
        verified = verify(trial, reference, shipped, train, job.budget.confidence)
        whole = without_leaving(shipped.form)
        if (
            by_hand and not (reference.exported / whole.file).exists()
        ):  # where float32 replaces int8, the uncut model is timed in float32 too
            export(context.teacher, reference.exported, [whole], segments=trial.segments)
        further = [Further(name, before, after) for (name, before), (_, after) in zip(job.tests, work.tests, strict=True)]
        tests = tuple(on_other_data(trial, reference, shipped, data, train) for data in further)
        rows = shapes(trial, reference, shipped, product.blueprint) if by_hand and isinstance(product, EncoderProduct) else ()
        return to_json(replace(verified, tests=tests, shapes=tuple(rows), stored=_stored(job, context, attempt)))

    kept, place = context.run.step("verify", prove)
    return from_json(Verified, kept, str(place))


def _stored(job: Job, context: Context, attempt: Attempt) -> Stored | None:
    """The measurement of the stored weights, where the recipe sparsifies or stores in few bits."""
    sparsify = job.recipe.get(SparsifySettings)
    if attempt.work.coded is None and not sparsify:
        return None
    model = attempt.work.model
    sparsity = sparsity_of(model, sparsify.embeddings) if sparsify else None
    return stored(model, attempt.work.coded, context.run.partial, sparsity)


def _refuse(job: Job, context: Context, attempt: Attempt) -> None:
    """Write the model, and raise a `BudgetError`: no form of it has parity."""
    attempt.product.write_model(job.out / "model", attempt.work.tokenizer, {})
    apart = ", ".join(f"{engine} {value:.2g}" for engine, value in attempt.choice.parity.items())
    raise BudgetError(
        f"parity: no form computes what the model does (its logits differ by {apart}; allowed is {attempt.choice.parity_limit:g}), so none is"
        f" shipped; the model is in {job.out / 'model'}: export it with another `engine`"
    )


def delivered(job: Job, context: Context, attempt: Attempt, verified: Verified, tell: Tell) -> Report:
    """Deliver the result: write model/, engine/ and the report."""
    work = attempt.work
    run = context.run
    if not verified.steady:
        tell(f"the machine was busy ({verified.disturbance}), so no speed-up is claimed: measure again when it is quiet")
    report = report_of(job, work.data, blueprint_of(context.teacher), inside(context, attempt), verified, run.records)
    deliver(attempt.product, report, verified, attempt.exported, job.out, work.data, work.tokenizer)
    for folder in sorted((job.out / "steps").glob(f"*-{Distillation.name}/{ALSO}")):
        with whole_folder(job.out / ALSO) as copy:
            shutil.copytree(folder, copy, dirs_exist_ok=True)
    write_json(job.out / "report.json", to_json(report))
    write_text(job.out / "report.html", page(report))
    run.finish()
    return report


def inside(context: Context, attempt: Attempt) -> Inside:
    """The description of the result beside its figures, for the report."""
    product = attempt.product
    work = attempt.work
    if isinstance(product, StudentProduct):
        return Inside(product.parameters, student=StudentRow(product.student.name, product.head, product.student.transformers))
    assert isinstance(product, EncoderProduct)
    length, teacher_length = context.lengths(work)
    macs = product.blueprint.macs(length) / max(1, blueprint_of(context.teacher).macs(teacher_length))
    layers = sorted(product.float_layers)
    return Inside(product.parameters, macs, product.blueprint, product.layers, product.ranges is not None, layers)
