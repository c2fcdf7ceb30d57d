"""The compression pipeline: baseline, stages, export, choice of the form, verification, delivery."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch

from penjing.engines.clock.trial import Trial
from penjing.files.records import from_json, to_json
from penjing.files.run import Tell
from penjing.files.whole import Json
from penjing.job.asked import Job
from penjing.job.baseline import Reference
from penjing.job.choosing import Candidate, choose, conformity_of, sample
from penjing.job.exporting import export_engine, export_in_float
from penjing.job.finishing import Attempt, delivered, proof
from penjing.job.gates import int8_limit
from penjing.job.leaving import Leave
from penjing.job.planning import BudgetPlanner
from penjing.job.product import EncoderProduct
from penjing.job.starting import baseline, begun, checked
from penjing.model.checkpoint import open_checkpoint
from penjing.report.record import Choice, Report
from penjing.steps.bits.quantize import QuantizeSettings
from penjing.steps.cut.prune import PruneSettings
from penjing.steps.product import Product
from penjing.steps.stage import Context, Note, Stage, Work
from penjing.steps.teach.exits import ExitsSettings
from penjing.training.loop import Bar

PROTOTYPE_TEXTS = 2000
"""Training texts that the prototypes of exits are the means of."""
DEPTHS = (0.5, 0.67, 0.84, 1.0)
"""Parts of the layers that are tried, where the budget limits the drop alone, until one keeps the quality on held-out texts."""


def compress(job: Job, tell: Tell = lambda text: None, progress: Bar | None = None) -> Report:
    """Run a compression job: its stages in order, each atomically; then write model/, engine/, report.json, report.html.

    `met` of the report tells whether the budget was met. Where it was not, the best attempt is written.
    """
    with torch_threads(job.threads):
        checkpoint = open_checkpoint(job.model)
        job = checked(job, checkpoint, tell)
        trial = job.trial(tell)
        context, work = begun(job, checkpoint, tell, progress)
        reference = baseline(job, context, work, trial)
        context = replace(context, planner=BudgetPlanner(job.recipe, job.budget, reference.record, checkpoint.folder, trial))
        attempt = best_attempt(job, context, work, reference, trial)
        verified = proof(job, context, attempt, reference, trial)
        return delivered(job, context, attempt, verified, tell)


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Context manager in which PyTorch computes on so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def best_attempt(job: Job, context: Context, work: Work, reference: Reference, trial: Trial) -> Attempt:
    """The first attempt that keeps the quality on held-out texts; where none does, the one that lost least there.

    There is only one, unless the budget limits the drop alone.
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
        choice = attempts[-1].choice
        if len(depths) == 1 or choice.lost(budget.confidence) <= (budget.max_drop or 0.0):
            return attempts[-1]
    return min(attempts, key=lambda attempted: attempted.choice.lost(budget.confidence))


def carried_out(stages: Sequence[Stage[Any]], work: Work, context: Context) -> Work:
    """The work after these stages were run."""
    for stage in stages:
        work = stage(work, context)
    return work


def attempt(job: Job, stages: Sequence[Stage[Any]], work: Work, context: Context, reference: Reference, trial: Trial) -> Attempt:
    """One attempt: run the stages, export, and choose the form; float32 where no int8 form may be shipped."""
    work = carried_out(stages, work, context)
    product = product_of(job, work, context)
    step = context.run.step
    tokenizer = context.tokenizer_file(work.tokenizer)

    def write(folder: Path) -> Json:
        size = export_engine(product, folder, work.data, tokenizer)
        return to_json(Note(f"{size / 1e6:.1f} MB of weights", bytes=size))

    _, exported = step(f"export{context.suffix}", write)

    def look(folder: Path) -> Json:
        judging = context.judging(work)
        beside = folder / "engine"
        conformity = conformity_of(product, sample(judging, job.seed), exported, trial.threads)
        candidate = Candidate(
            exported, product.forms, judging, product.logits(judging.encoded), work.data.eval.encoded, conformity, beside,
            lambda: export_in_float(product, exported, beside, work.data, tokenizer), drop_of(job),
        )  # fmt: skip
        return to_json(choose(trial, reference, candidate, int8_limit(job.budget), job.budget.confidence))

    kept, place = step(f"choose{context.suffix}", look)
    choice = from_json(Choice, kept, str(place))
    in_float = product.in_float()
    if in_float and choice.chosen and choice.chosen not in product.forms:
        return Attempt(work, in_float, place / "engine", choice)
    return Attempt(work, product, exported, choice)


def product_of(job: Job, work: Work, context: Context) -> Product:
    """The product that the stages made: a student, or an encoder."""
    if work.student:
        return work.student
    quantize = job.recipe.get(QuantizeSettings)
    layers = [] if job.material.student else [layer.layer for layer in work.selection.layers]
    exits = job.recipe.get(ExitsSettings)
    leave = None
    if exits:
        learned = context.calibration(work, PROTOTYPE_TEXTS).encoded
        leave = Leave(exits.rule, exits.drop, work.data.task, context.judging(work), learned)
    return EncoderProduct(
        work.model, work.coded, layers, work.ranges if context.int8 else None, work.float_layers, job.engine,
        quantize.rounding if quantize and context.int8 else None, context.packs, job.data.task.two_texts, leave=leave,
    )  # fmt: skip


def drop_of(job: Job) -> float:
    """Points that leaving early may lose on texts held out."""
    exits = job.recipe.get(ExitsSettings)
    return exits.drop if exits else 0.0
