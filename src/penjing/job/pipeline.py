"""The main job: a fine-tuned model and a budget go in; a smaller, faster one comes out, checked and exported."""

import dataclasses
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from penjing.engines.clock.machine import machine, versions
from penjing.engines.engine import Form
from penjing.engines.onnx.export import FLOAT_FORMS, PORTABLE_FLOAT, PORTABLE_INT8, export, forms_for, rounding_of
from penjing.engines.onnx.graph import Ranges
from penjing.errors import BudgetError, InputError
from penjing.files.run import Run, fingerprint
from penjing.files.whole import whole_folder, write_json, write_text
from penjing.job import choice, proof, verification
from penjing.job.asked import Job, teaching_of
from penjing.job.delivery import Outcome, deliver, deliver_model, export_forms, report_of
from penjing.job.fit_size import within
from penjing.job.recipe import teaching_step
from penjing.maths.stored import Scheme
from penjing.model.checkpoint import blueprint_at, blueprint_of, check_head, locate, read, write
from penjing.model.coded import Coded
from penjing.model.packing import PACKED, load_coded
from penjing.model.tokenizing import copy_tokenizer
from penjing.report.page import page
from penjing.search import plan as plans
from penjing.search.size import least_bits, mixed, rank_for, room_for_blocks
from penjing.selection import Selection
from penjing.steps.bits.gptq import round_model
from penjing.steps.bits.lowbit import LowBit
from penjing.steps.bits.qat import QuantizationAware
from penjing.steps.bits.quantize import Quantize
from penjing.steps.bits.sensitivity import best_calibration, left_float
from penjing.steps.bits.smooth import smooth
from penjing.steps.bits.store import MIXED, uniform
from penjing.steps.cut.gates import learn_head_weights
from penjing.steps.cut.importance import Importance
from penjing.steps.cut.prune import Prune, PruneSettings, criterion
from penjing.steps.cut.repair import Repair
from penjing.steps.cut.sparsify import sparsify, sparsity_of
from penjing.steps.cut.vocabulary import PruneVocabulary
from penjing.steps.reshape.factorise import Factorise
from penjing.steps.step import Step
from penjing.steps.teach.multitask import Multitask
from penjing.steps.teach.teaching import Teaching, shown
from penjing.tasks.judge import quality_of
from penjing.tasks.sources import encoded_by, tokenizer_file, tokenizer_of, with_tokenizer
from penjing.tasks.task import Examples
from penjing.text.vocabulary import write_pruned
from penjing.training.objective import HARD
from penjing.training.predict import logits_of
from penjing.training.texts import Texts

DEPTHS = (0.5, 0.67, 0.84, 1.0)
"""Where a drop alone is asked: parts of the layers that are tried, until one keeps the quality on texts held out."""
PLAN_TEXTS = 256
"""Training texts that the plans for a budget are repaired on, and texts held out, at most, that they are compared on."""
BASELINE_TEXTS = 512
"""Training texts that the teacher's int8 is calibrated on."""
HESSIAN_TEXTS, SENSITIVITY_TEXTS, ROUNDING_TEXTS = 128, 128, 256
"""Training texts that the Hessian is estimated on; texts held out that int8 is held against float on; training texts that rounding looks at."""


ALSO = "also"
"""The folder of the models of further tasks that share the encoder."""
Tell = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Attempt:
    """A result that was made and exported, and how its form was chosen."""

    outcome: Outcome
    exported: Path
    choice: dict[str, Any]


def compress(job: Job, tell: Tell = lambda text: None, progress: Callable[[str], Any] | None = None) -> dict[str, Any]:
    """Run the steps in order, each whole or not at all, and write model/, engine/, report.json, report.html.

    Returns the report; `report["met"]` says whether the budget was met. Where it was not, what is written is the best
    that was found.
    """
    torch.set_num_threads(job.threads)
    return _Compression(job, tell, progress).run()


class _Compression:
    """One run: the steps share the teacher, the data and the folder."""

    def __init__(self, job: Job, tell: Tell, progress: Callable[[str], Any] | None) -> None:
        task, quantize, self.blueprint = job.data.task, job.recipe.quantize, blueprint_at(job.model)
        self.int8 = quantize is not None and job.engine != "torch"
        self.forms = forms_for(job.engine, int8=self.int8, rounding=quantize.rounding if quantize else None)
        self.portable = PORTABLE_INT8 if self.int8 else PORTABLE_FLOAT
        given = job.model / "tokenizer.json"
        size = given.stat().st_size if given.is_file() else 0
        job = dataclasses.replace(job, recipe=within(job.recipe, job.budget, self.blueprint, size, 8 if self.int8 else 32))
        self.job, self.tell, self.progress = job, tell, progress
        check_head(job.model, task.head, task.name)
        prune, layers = job.recipe.prune, self.blueprint.layers
        if not job.budget.unbounded and (job.recipe.gradual or (prune and prune.cuts)):
            raise InputError(
                "--recipe: it says what is cut, and the budget too; leave out --speedup, --latency-ms, --size-mb, or that part"
            )
        if prune and (self.to_budget or prune.latency is not None) and len(set(layers)) > 1:
            raise InputError(f"model: the layers of {job.model} differ; compress the teacher that it came from, or leave out prune")
        if prune and prune.layers is not None and prune.layers > len(layers):
            raise InputError(f"--layers: {prune.layers} is more than the model has; give 1 to {len(layers)}")
        if job.recipe.distill and not job.material.student:
            job.recipe.distill.check_fits((prune and prune.layers) or len(layers), self.blueprint)
        if prune and prune.hidden and not job.recipe.distill:
            tell("--hidden without training: the residual width is what every layer was trained on, so expect to lose much")
        self.teacher = read(locate(job.model), head=job.data.task.head, labels=job.data.task.labels)
        # Where the vocabulary is pruned, these three become what the rest of the job works on.
        self.base, self.data, self.tokenizer = self.teacher, job.data, locate(job.model)
        self.folder = Run(job.out, job.asked | run_on(job), tell)
        self.blueprint = blueprint_of(self.teacher)
        self.trial = proof.trial_of(job, tell)
        self.tests = list(job.tests)
        self.gold = self.texts.judging.gold

    # -- the order -------------------------------------------------------------------------------------------

    def run(self) -> dict[str, Any]:
        job = self.job
        pruned = None
        if job.recipe.prune and job.recipe.prune.vocabulary is not None:
            pruned = self.folder.step("vocabulary", self.prune_vocabulary)[1]
        baseline, place = self.folder.step("baseline", self.baseline)
        judging = self.judging  # as the teacher's own tokenizer encodes it
        if pruned:
            self.adopt(pruned / "model")
        known = proof.Known(locate(job.model), self.teacher_tokenizer(), self.blueprint, place, baseline, job.data.eval, judging)
        observed = self.folder.step("observe", lambda _: self.observe())[0] if self.cuts else {}
        attempt = self.best_attempt(known, observed)
        if attempt.choice["chosen"] is None:
            deliver_model(attempt.outcome, job.out, self.tokenizer, self.packs)
            apart = ", ".join(f"{engine} {value:.2g}" for engine, value in attempt.choice["parity"].items())
            raise BudgetError(
                f"parity: no form computes what the model does (its logits differ by {apart}; allowed is {proof.PARITY:g}), so none is shipped;"
                f" the model is in {job.out / 'model'}: export it with another --engine"
            )
        verified, _ = self.folder.step("verify", lambda _: self.verify(attempt, known))
        report = self.report(attempt, verified)
        for folder in sorted((job.out / "steps").glob(f"*-distill/{ALSO}")):
            with whole_folder(job.out / ALSO) as copy:
                shutil.copytree(folder, copy, dirs_exist_ok=True)
        write_json(job.out / "report.json", report)
        write_text(job.out / "report.html", page(report))
        self.folder.finish()
        return report

    def best_attempt(self, known: proof.Known, observed: dict[str, Any]) -> Attempt:
        """The first attempt that keeps the quality on texts held out; where none does, the one that lost least there.

        There is one alone, but where a drop is asked and neither a speed nor a size.
        """
        budget, depths = self.job.budget, DEPTHS if self.cuts and self.to_budget and self.job.budget.unbounded else (None,)
        lost = "drop" if budget.confidence is None else "drop_at_most"
        attempts: list[Attempt] = []
        for number, depth in enumerate(depths):
            attempts.append(self.attempt(known, observed, depth, f"-{number + 1}" if number else ""))
            found = attempts[-1].choice
            if len(depths) == 1 or (found["chosen"] and found[lost] <= (budget.max_drop or 0.0)):
                return attempts[-1]
        return min(attempts, key=lambda each: each.choice[lost] if each.choice["chosen"] else np.inf)

    def attempt(self, known: proof.Known, observed: dict[str, Any], depth: float | None, suffix: str) -> Attempt:
        """Plan, cut, distil, quantize and export, for the budget or for a part of the depth, and choose the form."""
        recipe, step = self.job.recipe, self.folder.step
        student, selection, whole = self.teaching.student(), Selection.all(blueprint_of(self.base)), not self.cuts
        if self.cuts:
            plan, _ = step(f"plan{suffix}", lambda _: self.plan(known.baseline, observed, depth))
            selection = Selection.from_dict(plan["selection"])
            whole = selection == Selection.all(blueprint_of(self.base))
            if not whole:
                _, place = step(f"prune{suffix}", lambda folder: self.prune(folder, selection, observed))
                student = read(place / "model")
        schemes: dict[str, Scheme] = {}
        rank = self.rank() if recipe.store else 0
        if rank:
            _, place = step(f"factorise{suffix}", lambda folder: self.factorise(folder, student, rank))
            student = read(place / "model")
        if recipe.store and not recipe.gradual:
            schemes = self.schemes(student, suffix)
        taught: dict[str, Any] = {}
        if self.learns(whole and not rank):
            taught, place = step(f"{recipe.teaching}{suffix}", lambda folder: self.teach(folder, student, selection, schemes))
            student = read(place / "model")
        coded = None
        if recipe.store:
            if recipe.gradual:  # the matrices that are left are known only now
                schemes = self.schemes(student, suffix)
            if not recipe.store.training:
                _, place = step(f"store{suffix}", lambda folder: self.store(folder, student, schemes))
            student, coded = read(place / "model"), load_coded(place / "model" / PACKED)
        ranges, float_layers = None, frozenset[str]()
        if self.int8:
            assert recipe.quantize
            if recipe.quantize.smooth:
                _, place = step(f"smooth{suffix}", lambda folder: self.smooth(folder, student))
                student = read(place / "model")
            quantized, _ = step(f"quantize{suffix}", lambda _: self.quantize(student, taught))
            ranges, float_layers = _ranges(quantized), frozenset(quantized["float_layers"])
        layers = [] if self.job.material.student else [layer.layer for layer in selection.layers]
        outcome = Outcome(student, coded, layers, ranges, float_layers)
        forms = [dataclasses.replace(form, packed=form.engine != "torch") for form in self.forms] if coded else self.forms
        _, exported = step(f"export{suffix}", lambda folder: self.export(folder, outcome, forms))
        chosen, place = step(f"choose{suffix}", lambda folder: self.choose(folder, outcome, exported, forms, known))
        if chosen["chosen"] and self.int8 and rounding_of(Form(**chosen["chosen"])) == "float":
            outcome, exported = dataclasses.replace(outcome, ranges=None, float_layers=frozenset()), place / "engine"
        return Attempt(outcome, exported, chosen)

    # -- the steps -------------------------------------------------------------------------------------------

    def baseline(self, folder: Path) -> dict[str, Any]:
        """The teacher as it is, and what the engines' int8 makes of it."""
        texts = self.texts
        return proof.baseline(
            self.job, self.judging, self.teacher, texts.calibration(BASELINE_TEXTS), self.forms, folder, self.teacher_tokenizer(), self.trial
        )  # fmt: skip

    @property
    def teaching(self) -> Teaching:
        """How the student is taught by what is worked on."""
        return teaching_of(self.job, self.data, self.base, self.folder.partial)

    @property
    def texts(self) -> Texts:
        """The training texts, as what is worked on encodes and answers them."""
        return self.teaching.texts

    @property
    def judging(self) -> Examples:
        """The training texts held out that everything but the weights is chosen on, as what is worked on encodes them; where they have no
        labels, with the teacher's answers."""
        return dataclasses.replace(self.data.train.take(self.data.sides.judging), gold=self.gold)

    @property
    def cuts(self) -> bool:
        """Whether parts of the encoder are cut at once, by the budget or by hand."""
        recipe, budget = self.job.recipe, self.job.budget
        asked = recipe.prune is not None and (recipe.prune.cuts or (self.to_budget and not budget.nothing))
        return asked and not recipe.gradual

    def learns(self, whole: bool) -> bool:
        """Whether something is taught; the `whole` model, in float, would be taught by itself."""
        recipe, material = self.job.recipe, self.job.material
        if recipe.distill is None:
            return recipe.sparsify is not None
        more = material.student or material.companions or material.teachers or material.general or material.unlabelled
        return not whole or recipe.teaching != "distill" or HARD in recipe.distill.answers or bool(more or recipe.distill.noise)

    @property
    def packs(self) -> bool:
        """Whether the model is written packed."""
        return self.job.recipe.sparsify is not None

    @property
    def to_budget(self) -> bool:
        """Whether it is for the budget to say what is cut: nothing else does, or a speed or size is asked beside it."""
        return not self.job.recipe.by_hand or not self.job.budget.unbounded

    def prune_vocabulary(self, folder: Path) -> dict[str, Any]:
        """Leave out the tokens that the texts never produce, or the rarest; the tokenizer is rewritten to match."""
        job, size = self.job, self.blueprint.vocabulary
        step = PruneVocabulary(job.data.task, tokenizer_of(self.tokenizer_file().parent), self.settings.vocabulary or None, job.corpus)
        counts = step.observe(self.teacher, job.data.train)
        selection = step.plan(self.blueprint, counts)
        model = step.apply(self.teacher, selection, counts)
        tokens = selection.tokens or ()
        with tempfile.TemporaryDirectory() as made:
            copy_tokenizer(self.tokenizer, Path(made))
            write(model, folder / "model")
            write_pruned(Path(made), folder / "model", tokens)
        before = self.judging
        after = encoded_by(tokenizer_of(folder / "model"), job.data, before)
        quality = quality_of(job.data.task, after, logits_of(model, after.encoded))
        longer = after.encoded.lengths.mean() / before.encoded.lengths.mean()
        saved = (size - len(tokens)) * self.blueprint.word_width * 4 / 1e6
        note = f"{len(tokens)} of {size} tokens, {saved:.1f} MB less; texts {100 * (longer - 1):+.1f} % tokens; {quality:.2f}"
        return {"tokens": tokens, "quality": quality, "note": note}

    def adopt(self, folder: Path) -> None:
        """Work on from the model and tokenizer in `folder`."""
        self.base, self.tokenizer = read(folder), folder
        tokenizer = tokenizer_of(folder)
        self.tests = [(name, encoded_by(tokenizer, self.job.data, examples)) for name, examples in self.job.tests]
        self.data = with_tokenizer(self.job.data, tokenizer)

    def observe(self) -> dict[str, Any]:
        """What each head, neuron and layer of the teacher is worth."""
        importance = self.pruner().observe(self.base, self.texts.calibration(self.settings.texts))
        order = f"; layers missed least first: {importance.removed}" if importance.removed else ""
        return {"importance": importance.to_dict(), "note": f"{self.settings.importance} on {self.settings.texts} texts{order}"}

    @property
    def settings(self) -> PruneSettings:
        """Those of prune."""
        assert self.job.recipe.prune
        return self.job.recipe.prune

    def pruner(self, texts: int | None = None) -> Prune:
        settings, depth = self.settings, len(self.blueprint.layers)
        return Prune(
            self.data.task, criterion(settings), self.texts.calibration(texts or settings.texts).encoded, cast(Repair, settings.repair),
            depth - (settings.layers or depth) if settings.cuts and settings.keep == "measured" else 0 if settings.cuts else None, self.job.seed,
        )  # fmt: skip

    def plan(self, baseline: Mapping[str, Any], observed: dict[str, Any], depth: float | None) -> dict[str, Any]:
        """What to keep: by hand, a part of the depth, or what meets the budget in the form that runs fastest."""
        importance, budget, blueprint = Importance.from_dict(observed["importance"]), self.job.budget, blueprint_of(self.base)
        if depth is not None:
            selection = plans.for_depth(blueprint, importance, depth)
            return {"selection": selection.to_dict(), "note": plans.describe(selection, blueprint)}
        bench = plans.Bench(
            self.base, locate(self.job.model), Form(**baseline["form"]), _ranges(baseline), self.data.eval.encoded, self.job.data.eval.encoded,
            self.trial,
        )  # fmt: skip
        if self.settings.cuts:
            return plans.by_hand(self.settings, bench, importance)

        def finished(selection: Selection) -> Any:
            return self.pruner(PLAN_TEXTS).apply(self.base, selection, importance)

        limit_bytes = 1e6 * budget.size_mb - baseline["extra_bytes"] if budget.size_mb else float("inf")
        bits = 8 if self.int8 else 32
        if self.room and self.job.recipe.store:
            bits = least_bits(self.job.recipe.store)
            limit_bytes = room_for_blocks(blueprint, self.rank(), self.room, bits)
            if budget.speedup is None and budget.latency_ms is None and dataclasses.replace(blueprint, bits=bits).bytes <= limit_bytes:
                return {"selection": Selection.all(blueprint).to_dict(), "note": "nothing needs to be cut for this size"}
        judging = self.judging
        return plans.for_budget(
            bench, importance, baseline["eager_ms"], self.limit_ms, limit_bytes, bits, judging.take(np.arange(len(judging))[:PLAN_TEXTS]), finished
        )  # fmt: skip

    def limit_ms(self, eager_ms: float) -> float:
        """The latency that is asked, where eager PyTorch takes `eager_ms`."""
        budget = self.job.budget
        limits = [eager_ms / budget.speedup if budget.speedup else np.inf, budget.latency_ms or np.inf]
        return float(min(limits))

    def prune(self, folder: Path, selection: Selection, observed: dict[str, Any]) -> dict[str, Any]:
        """The exact cut, and the repair of what is left."""
        pruner = self.pruner()
        model = pruner.apply(self.base, selection, Importance.from_dict(observed["importance"]))
        if self.settings.head_weights:
            model = learn_head_weights(model, self.data.task, self.texts.calibration(self.settings.texts), self.job.seed, teacher=self.base)
        errors = pruner.reconstruction.errors if pruner.reconstruction else []
        before, after = (float(np.mean([pair[i] for pair in errors])) if errors else 0.0 for i in (0, 1))
        fitted = f"; repaired: mean error of a block {before:.3f} -> {after:.3f}" if errors else ""
        return self.keep(folder, model, f"cut, not yet trained{fitted}") | {"errors": errors}

    def teach(self, folder: Path, student: Any, selection: Selection, schemes: dict[str, Scheme]) -> dict[str, Any]:
        """Teach the student, by itself or while more of it is cut or rounded; the cache and the training state live in partial/
        until the step is whole."""
        job, recipe = self.job, self.job.recipe
        if recipe.sparsify and not recipe.distill:
            return self.keep(folder, sparsify(student, recipe.sparsify, job.seed), "at once, not trained")
        assert recipe.distill
        with shown(self.progress, recipe.teaching) as report:
            dev, train = self.teaching.split()
            distill = self.teaching.distill(dev, selection, report)
            own, theirs = (int(np.median(data.eval.encoded.lengths)) for data in (self.data, job.data))
            if recipe.gradual:  # the part that is kept is of the teacher's costs at its own lengths
                longer = self.blueprint.macs(theirs) / self.blueprint.macs(own)
                gradual = dataclasses.replace(recipe.gradual, part=min(1.0, recipe.gradual.part * longer))
                recipe = dataclasses.replace(recipe, gradual=gradual)
            step: Step[Any, Any] = teaching_step(recipe, distill, self.texts.calibration, own, schemes)
            companions = self.teaching.companions(selection)
            if companions:
                step = Multitask(distill, companions)
            evidence = step.observe(student, train)
            result = step.apply(student, step.plan(blueprint_of(student), evidence), evidence)
        assert distill.history is not None
        note = f"{distill.history.steps} steps"
        if isinstance(step, Multitask):
            note += "; " + ", ".join(self.teaching.keep_companions(folder / ALSO, step))
        if isinstance(step, QuantizationAware):
            note = f"before rounding; {note}, {distill.history.best:.2f} in int8 on texts held out"
        elif isinstance(step, LowBit) and recipe.store and recipe.store.activation_bits:
            note = (
                f"inputs in float; {note}, {distill.history.best:.2f} with inputs in {recipe.store.activation_bits} bits on texts held out"
            )
        record = self.keep(folder, result, note, step.coded if isinstance(step, LowBit) else None)
        for state in self.folder.partial.glob("state*.pt"):
            state.unlink()
        rounded = {"ranges": step.ranges} if isinstance(step, QuantizationAware) else {}
        return record | {"history": vars(distill.history)} | rounded

    def rank(self) -> int:
        """That of the word embedding, where the size that is asked leaves no room for it in full; 0: in full."""
        store = self.job.recipe.store
        return rank_for(blueprint_of(self.base), self.room, least_bits(store)) if self.room and store else 0

    @property
    def room(self) -> float | None:
        """Bytes that the size which is asked leaves for the weights."""
        size = self.job.budget.size_mb
        return None if size is None else 1e6 * size - self.tokenizer_file().stat().st_size

    def factorise(self, folder: Path, student: Any, rank: int) -> dict[str, Any]:
        """The word embedding as two factors."""
        step = Factorise(rank)
        counts = step.observe(student, self.data.train)
        model = step.apply(student, step.plan(blueprint_of(student), counts), counts)
        return self.keep(folder, model, f"word embedding of rank {rank} in place of {blueprint_of(student).embedding}")

    def schemes(self, student: Any, suffix: str) -> dict[str, Scheme]:
        """How each matrix is stored."""
        allotted, _ = self.folder.step(f"bits{suffix}", lambda _: self.allot(student))
        return {name: Scheme(**fields) for name, fields in allotted["schemes"].items()}

    def allot(self, student: Any) -> dict[str, Any]:
        """The scheme of each matrix: one for all, or as many bits as its Hessian and the size that is asked allow."""
        settings = self.job.recipe.store
        assert settings
        if settings.scheme != MIXED:
            schemes, note = uniform(student, settings), f"{settings.scheme}, {settings.width} bits, groups of {settings.group}"
        else:
            schemes = mixed(student, settings, self.data.task, self.texts.calibration(HESSIAN_TEXTS), self.room, self.job.seed)
            counts = Counter(scheme.bits for scheme in schemes.values())
            note = ", ".join(f"{n} matrices in {bits} bits" for bits, n in sorted(counts.items()))
        return {"schemes": {name: dataclasses.asdict(scheme) for name, scheme in schemes.items()}, "note": note}

    def store(self, folder: Path, student: Any, schemes: dict[str, Scheme]) -> dict[str, Any]:
        """The weights rounded, at once."""
        model, coded = round_model(student, self.texts.calibration(ROUNDING_TEXTS).encoded, schemes, self.job.seed)
        return self.keep(folder, model, "rounded, not trained", coded)

    def keep(self, folder: Path, model: Any, note: str, coded: dict[str, Coded] | None = None) -> dict[str, Any]:
        """Write a step's model and say how good it is on training texts held out."""
        packed = coded is not None or self.job.recipe.sparsify is not None
        write(model, folder / "model", tokenizer=self.tokenizer, packed=packed, coded=coded)
        judging = self.judging
        quality = quality_of(self.data.task, judging, logits_of(model, judging.encoded))
        size = sum(file.stat().st_size for file in (folder / "model").iterdir())
        return {"quality": quality, "bytes": size, "note": f"{self.data.task.metric().name} {quality:.2f} on texts held out, {note}"}

    def smooth(self, folder: Path, student: Any) -> dict[str, Any]:
        """Outliers of the activations moved into the weights."""
        settings = self.job.recipe.quantize
        assert settings
        model = smooth(student, self.texts.calibration(settings.texts).encoded, settings.smooth)
        return self.keep(folder, model, f"the same function, smoothed ({settings.smooth})")

    def quantize(self, student: Any, taught: dict[str, Any]) -> dict[str, Any]:
        """Ranges of the activations, learned or calibrated, and the layers that rounding would harm too much."""
        settings = self.job.recipe.quantize
        assert settings
        if "ranges" in taught:
            return {
                "ranges": taught["ranges"],
                "float_layers": [],
                "note": f"{len(taught['ranges'])} inputs, in the ranges of the training",
            }
        calibration, seen, judging = settings.calibration, self.texts.calibration(settings.texts), self.judging
        apart = judging.take(np.arange(len(judging))[:SENSITIVITY_TEXTS])
        if calibration == "measured":
            calibration, ranges = (
                ("mse", Quantize().observe(student, seen)) if settings.scheme == "dynamic" else best_calibration(student, seen, apart)
            )
        else:
            ranges = Quantize(calibration).observe(student, seen)
        moved, found = left_float(student, apart, None if settings.scheme == "dynamic" else ranges, settings.divergence)
        float_layers = sorted(found)
        note = f"{len(ranges)} inputs calibrated ({calibration}); the answers move by {moved:.4f} nats"
        left = f"; left in float: {', '.join(float_layers)}" if float_layers else ""
        return {"ranges": ranges, "float_layers": float_layers, "divergence": moved, "note": note + left}

    def export(self, folder: Path, outcome: Outcome, forms: Sequence[Form]) -> dict[str, Any]:
        """Every form's file, the tokenizer, and what the folder says of itself."""
        size = export_forms(outcome, folder, self.data, forms, self.portable, self.tokenizer_file())
        return {"bytes": size, "note": f"{size / 1e6:.1f} MB of weights"}

    def tokenizer_file(self) -> Path:
        """The tokenizer.json, made into partial/ where the folder has none."""
        return tokenizer_file(self.tokenizer, self.folder.partial / "tokenizer")

    def teacher_tokenizer(self) -> Path:
        """The teacher's own, likewise."""
        return tokenizer_file(locate(self.job.model), self.folder.partial / "tokenizer")

    def choose(self, folder: Path, outcome: Outcome, exported: Path, forms: Sequence[Form], known: proof.Known) -> dict[str, Any]:
        """Hold every form against the model, on texts held out, and choose the one to ship; float32 where no int8 may be."""
        job, trial, model, judging = self.job, self.trial, outcome.model, self.judging
        few, quantize, beside = choice.sample(judging, job.seed), job.recipe.quantize, folder / "engine"

        def in_float() -> list[Form]:
            if not self.int8 or (quantize and quantize.scheme != "any"):
                return []
            engines = {form.engine for form in forms}
            found = [dataclasses.replace(form, packed=outcome.coded is not None) for form in FLOAT_FORMS if form.engine in engines]
            in_full = dataclasses.replace(outcome, ranges=None, float_layers=frozenset())
            shutil.copytree(exported, beside, dirs_exist_ok=True)
            export_forms(in_full, beside, self.data, found, PORTABLE_FLOAT, self.tokenizer_file())
            return found

        far = choice.parity(trial, model, few, forms)
        integers = choice.apart(trial, model, few, exported, forms, outcome.ranges, outcome.float_layers) if self.int8 else {}
        return choice.choose(
            trial, known, judging, logits_of(model, judging.encoded), self.data.eval.encoded, (exported, beside), forms, far, integers,
            proof.int8_limit(job.budget), job.budget.confidence, in_float,
        )  # fmt: skip

    def verify(self, attempt: Attempt, known: proof.Known) -> dict[str, Any]:
        """Everything that is said of the result, on data that nothing was chosen by."""
        job, recipe, trial, exported, student = self.job, self.job.recipe, self.trial, attempt.exported, attempt.outcome.model
        train, own = job.data.train, logits_of(student, self.data.eval.encoded)
        found = verification.verify(trial, known, self.data.eval, own, exported, attempt.choice, train, job.budget.confidence)
        form = Form(**found["chosen"])
        if recipe.by_hand and not (known.exported / form.file).exists():  # float32 stands in for int8: the uncut model in it too
            export(self.teacher, known.exported, [form.file], segments=trial.segments)
        pairs = zip(job.tests, self.tests, strict=True)
        stored: dict[str, Any] | None = None
        if attempt.outcome.coded is not None or recipe.sparsify:
            stored = verification.stored(student, attempt.outcome.coded, self.folder.partial)
            stored |= {"sparsity": sparsity_of(student, recipe.sparsify.embeddings)} if recipe.sparsify else {}
        return found | {
            "tests": [verification.on_other_data(trial, known, exported, form, name, old, new, train) for (name, old), (_, new) in pairs],
            "shapes": verification.shapes(trial, known, self.data.eval.encoded, student, exported, form) if recipe.by_hand else [],
            "stored": stored,
        }

    def report(self, attempt: Attempt, verified: dict[str, Any]) -> dict[str, Any]:
        """Gates and report; write model/ and engine/."""
        job, outcome = self.job, attempt.outcome
        if not verified["steady"]:
            self.tell(f"the machine was busy ({verified['disturbance']}), so no speed-up is claimed: measure again when it is quiet")
        theirs, own = (int(np.median(data.eval.encoded.lengths)) for data in (job.data, self.data))
        report = report_of(job, self.data, self.blueprint, outcome.inside(self.blueprint, theirs, own), verified, self.folder.records)
        deliver(outcome, report, verified, attempt.exported, job.out, self.data, self.tokenizer, self.packs)
        return report


def run_on(job: Job) -> dict[str, Any]:
    """What a run that goes on must find as it was: the model's files, the versions, and the processor, whose integers and times are kept."""
    here = machine()
    return {"inputs": fingerprint(locate(job.model)), "versions": versions(), "processor": [here["cpu"], *here["instructions"]]}


def _ranges(record: Mapping[str, Any]) -> Ranges:
    return {name: (low, high) for name, (low, high) in record["ranges"].items()}
