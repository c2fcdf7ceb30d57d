"""The start of a job: checks of the request, the recipe for the size, the first context, and the baseline."""

from dataclasses import replace

from penjing.engines.clock.machine import machine, versions
from penjing.engines.clock.trial import Trial
from penjing.engines.form import Form, rounding_of
from penjing.engines.opening import engine_class, engine_name, forms_for
from penjing.errors import InputError
from penjing.files.records import from_json, to_json
from penjing.files.run import Run, Tell, fingerprint
from penjing.files.whole import Json
from penjing.job.asked import Job
from penjing.job.baseline import Original, Reference, measure_baseline
from penjing.job.fit_size import within
from penjing.job.gates import check_limits
from penjing.job.planning import Undecided
from penjing.model.checkpoint import Checkpoint
from penjing.report.record import BaselineRecord
from penjing.selection import Selection
from penjing.steps.bits.quantize import QuantizeSettings
from penjing.steps.cut.prune import PruneSettings
from penjing.steps.stage import Context, Work
from penjing.steps.teach.distillation import Distillation
from penjing.steps.teach.exits import ExitsSettings
from penjing.steps.teach.replace import NOTHING_CUT, ReplaceSettings
from penjing.steps.teach.teaching import Teaching
from penjing.students.stage import StudentSettings
from penjing.training.loop import Bar
from penjing.training.texts import Texts

BASELINE_TEXTS = 512
"""The number of training texts that the teacher's int8 is calibrated on."""


def checked(job: Job, checkpoint: Checkpoint, tell: Tell) -> Job:
    """Check a job; returns it with the recipe for its size. An `InputError` where the model cannot be compressed so."""
    blueprint = checkpoint.blueprint
    data = job.data
    given = checkpoint.folder / "tokenizer.json"
    size = given.stat().st_size if given.is_file() else 0
    job = replace(job, recipe=within(job.recipe, job.budget, blueprint, size, 8 if in_integers(job) else 32))
    recipe = job.recipe
    check_limits(recipe.limits)
    layers = blueprint.layers
    teacher_forms(job)  # refuses an engine that has no such form
    checkpoint.check_head(data.task.head, data.task.name)
    prune = recipe.get(PruneSettings)
    student = recipe.get(StudentSettings)
    distillation = recipe.distillation
    if student:
        student.student.check_engine(None if job.engine is None else engine_name(job.engine))
        assert distillation
        student.student.check(data, distillation, job.material)
        return job
    if prune and (to_budget(job) or prune.latency is not None) and len(set(layers)) > 1:
        raise InputError(f"model: the layers of {checkpoint.folder} differ; compress the teacher that it came from, or leave out prune")
    if prune and prune.layers is not None and prune.layers > len(layers):
        raise InputError(f"layers: {prune.layers} is more than the model has; give 1 to {len(layers)}")
    if recipe.get(ReplaceSettings) and prune and prune.keeps_all(len(layers)):
        raise InputError(NOTHING_CUT)
    if distillation and not job.material.student:
        distillation.check_fits((prune and prune.layers) or len(layers), blueprint)
    exits = recipe.get(ExitsSettings)
    if exits:
        exits.check_fits((prune and prune.layers) or len(layers), blueprint)
        if job.engine not in (None, "onnxruntime"):
            raise InputError(f"engine: texts leave early in ONNX Runtime alone, not in {engine_name(job.engine)}; give onnxruntime")
    if prune and prune.hidden and not distillation:
        tell("`hidden` without training: the residual width is what every layer was trained on, so expect to lose much")
    return job


def in_integers(job: Job) -> bool:
    """Whether int8 is exported: the recipe quantizes, and the requested engine has int8 forms."""
    quantize = job.recipe.get(QuantizeSettings)
    if quantize is None or job.engine == "torch":
        return False
    return job.engine is None or any(rounding_of(form) != "float" for form in engine_class(job.engine).forms(True))


def to_budget(job: Job) -> bool:
    """Whether the budget decides how much of the encoder is left: it has a limit, and no step of the recipe says so."""
    return not job.budget.nothing and not any(item.structural for item in job.recipe.steps)


def run_on(checkpoint: Checkpoint) -> Json:
    """The fingerprint of model, versions and processor as JSON, which must be the same when a run is resumed.

    The processor counts because its integers and timings are kept.
    """
    here = machine()
    return {"inputs": fingerprint(checkpoint.folder), "versions": versions(), "processor": [here.cpu, *here.instructions]}


def begun(job: Job, checkpoint: Checkpoint, tell: Tell, progress: Bar | None) -> tuple[Context, Work]:
    """The context of the stages, and the work at the start: the teacher, or the given student.

    The run's folder is begun once the models have been read: a damaged one, or a student that does not fit, leaves no folder behind.
    """
    data = job.data
    budget = job.budget
    teacher = checkpoint.read(head=data.task.head, labels=data.task.labels)
    taught = job.recipe.get(Distillation) or Distillation()
    student = Teaching(data, teacher, taught.how, taught.texts, job.material, job.seed, job.out).student()
    run = Run(job.out, job.asked | run_on(checkpoint), tell)
    gold = Texts(data, teacher, job.seed).judging.gold
    context = Context(
        run, teacher, checkpoint.folder, data, gold, job.recipe.steps, job.material, job.seed, in_integers(job), Undecided(), to_budget(job),
        engine=None if job.engine is None else engine_name(job.engine), size_bytes=1e6 * budget.size_mb if budget.size_mb else None,
        progress=progress,
    )  # fmt: skip
    selection = Selection.all(checkpoint.blueprint)
    return context, Work(student, teacher, data, tuple(job.tests), checkpoint.folder, selection)


def baseline(job: Job, context: Context, work: Work, trial: Trial) -> Reference:
    """Measure or load the baseline: the unchanged teacher, and the engines' int8 of it."""
    original = Original(
        context.folder, context.tokenizer_file(context.folder), context.teacher, job.data.eval, context.judging(work),
        context.calibration(work, BASELINE_TEXTS),
    )  # fmt: skip
    forms = teacher_forms(job)
    kept, place = context.run.step("baseline", lambda folder: to_json(measure_baseline(trial, original, forms, folder)))
    return Reference.of(original, place, from_json(BaselineRecord, kept, str(place)))


def teacher_forms(job: Job) -> list[Form]:
    """The forms that the teacher is measured in: those that an encoder's result may have."""
    if job.recipe.get(StudentSettings):
        return forms_for(None if job.engine == "numpy" else job.engine, int8=False)  # numpy runs no encoder
    quantize = job.recipe.get(QuantizeSettings)
    return forms_for(job.engine, int8=in_integers(job), rounding=quantize.rounding if quantize and in_integers(job) else None)
