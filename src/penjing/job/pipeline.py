"""The main job: a fine-tuned model and a budget go in; a smaller, faster one comes out, checked and exported."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch

from penjing.engines.clock.machine import machine, versions
from penjing.engines.clock.trial import Trial
from penjing.engines.form import Form, rounding_of
from penjing.engines.onnx.export import export
from penjing.engines.opening import engine_class, engine_name, forms_for
from penjing.errors import BudgetError, InputError
from penjing.files.records import from_json, to_json
from penjing.files.run import Run, Tell, fingerprint
from penjing.files.whole import Json, whole_folder, write_json, write_text
from penjing.job.asked import Job
from penjing.job.baseline import Original, Reference, measure_baseline
from penjing.job.choosing import Candidate, choose, conformity_of, sample
from penjing.job.delivery import Inside, deliver, report_of
from penjing.job.exporting import export_engine, export_in_float
from penjing.job.fit_size import within
from penjing.job.gates import int8_limit
from penjing.job.planning import BudgetPlanner, Undecided
from penjing.job.product import EncoderProduct
from penjing.job.proving import Further, Shipped, on_other_data, shapes, stored, verify
from penjing.model.building import blueprint_of
from penjing.model.checkpoint import Checkpoint, open_checkpoint
from penjing.report.page import page
from penjing.report.record import BaselineRecord, Choice, Report, StudentRow, Verified
from penjing.selection import Selection
from penjing.steps.bits.quantize import QuantizeSettings
from penjing.steps.cut.prune import PruneSettings
from penjing.steps.cut.sparsify import SparsifySettings, sparsity_of
from penjing.steps.product import Product
from penjing.steps.stage import Context, Note, Stage, Work
from penjing.steps.teach.distillation import ALSO, Distillation
from penjing.students.stage import StudentProduct, StudentSettings
from penjing.training.texts import Texts

DEPTHS = (0.5, 0.67, 0.84, 1.0)
"""Where a drop alone is asked: parts of the layers that are tried, until one keeps the quality on texts held out."""
BASELINE_TEXTS = 512
"""Training texts that the teacher's int8 is calibrated on."""
Progress = Callable[[str], Any]
"""From the title of a training to a context that is told how far it is."""


@dataclass(frozen=True)
class Attempt:
    """A result that was made and exported, and how its form was chosen."""

    work: Work
    product: Product
    exported: Path
    choice: Choice


def compress(job: Job, tell: Tell = lambda text: None, progress: Progress | None = None) -> Report:
    """Go through the stages in order, each whole or not at all, and write model/, engine/, report.json, report.html.

    `met` of the report tells whether the budget was met. Where it was not, what is written is the best that was found.
    """
    with torch_threads(job.threads):
        checkpoint = open_checkpoint(job.model)
        job = checked(job, checkpoint, tell)
        trial, run = job.trial(tell), Run(job.out, job.asked | run_on(job), tell)
        context, work = begun(job, checkpoint, run, progress)
        reference = baseline(job, context, work, trial)
        context = replace(context, planner=BudgetPlanner(job.recipe, job.budget, reference.record, checkpoint.folder, trial))
        attempt = best_attempt(job, context, work, reference, trial)
        verified = proof(job, context, attempt, reference, trial)
        return delivered(job, context, attempt, verified, tell)


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Within, PyTorch computes on so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# -- before anything is done -----------------------------------------------------------------------------------------


def checked(job: Job, checkpoint: Checkpoint, tell: Tell) -> Job:
    """The job with the recipe that fits the size which is asked; an `InputError` where the model cannot be compressed so."""
    blueprint, data = checkpoint.blueprint, job.data
    given = checkpoint.folder / "tokenizer.json"
    size = given.stat().st_size if given.is_file() else 0
    job = replace(job, recipe=within(job.recipe, job.budget, blueprint, size, 8 if in_integers(job) else 32))
    recipe, layers = job.recipe, blueprint.layers
    checkpoint.check_head(data.task.head, data.task.name)
    prune, student, distillation = recipe.get(PruneSettings), recipe.get(StudentSettings), recipe.distillation
    if student:
        student.student.check_engine(None if job.engine is None else engine_name(job.engine))
        assert distillation
        student.student.check(data, distillation, job.material)
        return job
    if prune and (to_budget(job) or prune.latency is not None) and len(set(layers)) > 1:
        raise InputError(f"model: the layers of {job.model} differ; compress the teacher that it came from, or leave out prune")
    if prune and prune.layers is not None and prune.layers > len(layers):
        raise InputError(f"layers: {prune.layers} is more than the model has; give 1 to {len(layers)}")
    if distillation and not job.material.student:
        distillation.check_fits((prune and prune.layers) or len(layers), blueprint)
    if prune and prune.hidden and not distillation:
        tell("`hidden` without training: the residual width is what every layer was trained on, so expect to lose much")
    return job


def in_integers(job: Job) -> bool:
    """Whether integers are exported: the recipe quantizes, and an engine that is asked for has forms in int8."""
    quantize = job.recipe.get(QuantizeSettings)
    if quantize is None or job.engine == "torch":
        return False
    return job.engine is None or any(rounding_of(form) != "float" for form in engine_class(job.engine).forms(True))


def to_budget(job: Job) -> bool:
    """Whether it is for the budget to decide what is cut: something is asked, and nothing else does, or a speed or size beside it."""
    return not job.budget.nothing and (not job.recipe.by_hand or not job.budget.unbounded)


def run_on(job: Job) -> Json:
    """What a run that goes on must find as it was: the model's files, the versions, and the processor, whose integers and times are kept."""
    here = machine()
    return {"inputs": fingerprint(job.model), "versions": versions(), "processor": [here.cpu, *here.instructions]}


def begun(job: Job, checkpoint: Checkpoint, run: Run, progress: Progress | None) -> tuple[Context, Work]:
    """What the stages work with, and what they begin with: the teacher, or the student that is given."""
    data, budget = job.data, job.budget
    teacher = checkpoint.read(head=data.task.head, labels=data.task.labels)
    gold = Texts(data, teacher, job.seed).judging.gold
    context = Context(
        run, teacher, checkpoint.folder, data, gold, job.recipe.steps, job.material, job.seed, in_integers(job), Undecided(), to_budget(job),
        engine=None if job.engine is None else engine_name(job.engine), size_bytes=1e6 * budget.size_mb if budget.size_mb else None,
        progress=progress,
    )  # fmt: skip
    selection = Selection.all(checkpoint.blueprint)
    work = Work(teacher, teacher, data, tuple(job.tests), checkpoint.folder, selection)
    taught = job.recipe.get(Distillation) or Distillation()
    return context, replace(work, model=context.teaching(work, taught.how, taught.texts).student())


# -- the teacher -----------------------------------------------------------------------------------------------------


def baseline(job: Job, context: Context, work: Work, trial: Trial) -> Reference:
    """The teacher as it is, and what the engines' int8 makes of it. One serves every result."""
    original = Original(
        context.folder, context.tokenizer_file(context.folder), context.teacher, job.data.eval, context.judging(work),
        context.calibration(work, BASELINE_TEXTS),
    )  # fmt: skip
    forms = teacher_forms(job)
    kept, place = context.run.step("baseline", lambda folder: to_json(measure_baseline(trial, original, forms, folder)))
    return Reference.of(original, place, from_json(BaselineRecord, kept, str(place)))


def teacher_forms(job: Job) -> list[Form]:
    """The forms of an encoder that a result, or what it is held against, may have."""
    if job.recipe.get(StudentSettings):
        return forms_for(None if job.engine == "numpy" else job.engine, int8=False)  # which runs no encoder
    quantize = job.recipe.get(QuantizeSettings)
    return forms_for(job.engine, int8=in_integers(job), rounding=quantize.rounding if quantize and in_integers(job) else None)


# -- making ----------------------------------------------------------------------------------------------------------


def best_attempt(job: Job, context: Context, work: Work, reference: Reference, trial: Trial) -> Attempt:
    """The first attempt that keeps the quality on texts held out; where none does, the one that lost least there.

    There is one alone, but where a drop is asked and neither a speed nor a size.
    """
    budget = job.budget
    cuts = job.recipe.get(PruneSettings) is not None and context.to_budget and budget.unbounded
    depths = DEPTHS if cuts else (None,)
    stages = job.recipe.stages()
    shared = list(takewhile(lambda stage: stage.shared, stages))
    work = carried_out(shared, work, context)
    attempts: list[Attempt] = []
    for number, depth in enumerate(depths):
        here = replace(context, depth=depth, suffix=f"-{number + 1}" if number else "")
        attempts.append(attempt(job, stages[len(shared) :], work, here, reference, trial))
        found = attempts[-1].choice
        if len(depths) == 1 or found.lost(budget.confidence) <= (budget.max_drop or 0.0):
            return attempts[-1]
    return min(attempts, key=lambda each: each.choice.lost(budget.confidence))


def carried_out(stages: Sequence[Stage[Any]], work: Work, context: Context) -> Work:
    """The work after these stages."""
    for stage in stages:
        work = stage(work, context)
    return work


def attempt(job: Job, stages: Sequence[Stage[Any]], work: Work, context: Context, reference: Reference, trial: Trial) -> Attempt:
    """Go through the stages, export, and choose the form; float32 where no int8 may be shipped."""
    work = carried_out(stages, work, context)
    product = product_of(job, work, context)
    step, tokenizer = context.run.step, context.tokenizer_file(work.tokenizer)

    def write(folder: Path) -> Json:
        size = export_engine(product, folder, work.data, tokenizer)
        return to_json(Note(f"{size / 1e6:.1f} MB of weights", bytes=size))

    _, exported = step(f"export{context.suffix}", write)

    def look(folder: Path) -> Json:
        judging, beside = context.judging(work), folder / "engine"
        conformity = conformity_of(product, sample(judging, job.seed), exported, trial.threads)
        candidate = Candidate(
            exported, product.forms, judging, product.logits(judging.encoded), work.data.eval.encoded, conformity, beside,
            lambda: export_in_float(product, exported, beside, work.data, tokenizer),
        )  # fmt: skip
        return to_json(choose(trial, reference, candidate, int8_limit(job.budget), job.budget.confidence))

    kept, place = step(f"choose{context.suffix}", look)
    choice = from_json(Choice, kept, str(place))
    in_float = product.in_float()
    if in_float and choice.chosen and rounding_of(choice.chosen) == "float":
        return Attempt(work, in_float, place / "engine", choice)
    return Attempt(work, product, exported, choice)


def product_of(job: Job, work: Work, context: Context) -> Product:
    """What the stages have made."""
    if work.student:
        return work.student
    quantize = job.recipe.get(QuantizeSettings)
    layers = [] if job.material.student else [layer.layer for layer in work.selection.layers]
    return EncoderProduct(
        work.model, work.coded, layers, work.ranges if context.int8 else None, work.float_layers, job.engine,
        quantize.rounding if quantize and context.int8 else None, context.packs, job.data.task.two_texts,
    )  # fmt: skip


# -- proving ---------------------------------------------------------------------------------------------------------


def proof(job: Job, context: Context, attempt: Attempt, reference: Reference, trial: Trial) -> Verified:
    """Everything that is reported of the result, on data that nothing was chosen by."""
    work, product = attempt.work, attempt.product
    if attempt.choice.chosen is None:
        _refuse(job, context, attempt)
    shipped = Shipped(attempt.exported, attempt.choice, work.data.eval, product.logits(work.data.eval.encoded))
    train, by_hand = job.data.train, job.recipe.by_hand

    def prove(folder: Path) -> Json:
        verified = verify(trial, reference, shipped, train, job.budget.confidence)
        if by_hand and not (reference.exported / shipped.form.file).exists():  # float32 stands in for int8: the uncut model in it too
            export(context.teacher, reference.exported, [shipped.form], segments=trial.segments)
        further = [Further(name, before, after) for (name, before), (_, after) in zip(job.tests, work.tests, strict=True)]
        tests = tuple(on_other_data(trial, reference, shipped, each, train) for each in further)
        rows = shapes(trial, reference, shipped, product.blueprint) if by_hand and isinstance(product, EncoderProduct) else ()
        return to_json(replace(verified, tests=tests, shapes=tuple(rows), stored=_stored(job, context, attempt)))

    kept, place = context.run.step("verify", prove)
    return from_json(Verified, kept, str(place))


def _stored(job: Job, context: Context, attempt: Attempt) -> Any:
    """The weights on disk, where that is what was asked for."""
    sparsify = job.recipe.get(SparsifySettings)
    if attempt.work.coded is None and not sparsify:
        return None
    model = attempt.work.model
    sparsity = sparsity_of(model, sparsify.embeddings) if sparsify else None
    return stored(model, attempt.work.coded, context.run.partial, sparsity)


def _refuse(job: Job, context: Context, attempt: Attempt) -> None:
    """Write the model, and raise: no form of it computes what it does."""
    attempt.product.write_model(job.out / "model", attempt.work.tokenizer, {})
    apart = ", ".join(f"{engine} {value:.2g}" for engine, value in attempt.choice.parity.items())
    raise BudgetError(
        f"parity: no form computes what the model does (its logits differ by {apart}; allowed is {attempt.choice.parity_limit:g}), so none is"
        f" shipped; the model is in {job.out / 'model'}: export it with another `engine`"
    )


# -- delivering ------------------------------------------------------------------------------------------------------


def delivered(job: Job, context: Context, attempt: Attempt, verified: Verified, tell: Tell) -> Report:
    """Write model/, engine/ and the report."""
    work, run = attempt.work, context.run
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
    """What the report tells of the result beside its figures."""
    product, work = attempt.product, attempt.work
    if isinstance(product, StudentProduct):
        return Inside(product.parameters, student=StudentRow(product.student.name, product.head, product.student.transformers))
    assert isinstance(product, EncoderProduct)
    own, theirs = context.lengths(work)
    macs = product.blueprint.macs(own) / max(1, blueprint_of(context.teacher).macs(theirs))
    layers = sorted(product.float_layers)
    return Inside(product.parameters, macs, product.blueprint, product.layers, product.ranges is not None, layers)
