"""The job with a student that is no BERT: the teacher's answers, learned by a BiLSTM, a regression, trees or static embeddings."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from penjing.engines.engine import Engine, EngineName, Form
from penjing.engines.numpy import FILE, NUMPY_FORM, Learned, NumpyEngine
from penjing.engines.onnx.export import FLOAT_FORMS, PORTABLE_FLOAT, forms_for
from penjing.errors import BudgetError, InputError
from penjing.files.run import Run
from penjing.files.whole import whole_folder, write_bytes, write_json, write_text
from penjing.job import choice, proof, verification
from penjing.job.asked import Job, teaching_of
from penjing.job.delivery import Inside, describe, report_of
from penjing.job.pipeline import BASELINE_TEXTS, run_on
from penjing.maths.statistics import softmax
from penjing.model.checkpoint import blueprint_of, check_head, locate, read
from penjing.model.tokenizing import copy_tokenizer
from penjing.report.page import model_card, page
from penjing.steps.teach.distill import targets_of
from penjing.steps.teach.teaching import shown
from penjing.students import bilstm, logistic, static, trees
from penjing.students.fitted import largest_difference
from penjing.tasks.judge import quality_of
from penjing.tasks.sources import tokenizer_file
from penjing.tasks.task import IGNORED, Examples
from penjing.text.encoded import Encoded
from penjing.training.objective import ANSWERS, HARD
from penjing.training.predict import logits_of
from penjing.training.teacher import TeacherOutputs

BILSTM = "bilstm"
Tell = Callable[[str], None]
Logits = list[NDArray[np.float32]]


def distil_student(job: Job, tell: Tell = lambda text: None, progress: Callable[[str], Any] | None = None) -> dict[str, Any]:
    """Teach the student that `job.recipe.student` names, and write what `compress` writes; returns the report."""
    torch.set_num_threads(job.threads)
    return _Teaching(job, tell, progress).run()


class _Teaching:
    """One run."""

    def __init__(self, job: Job, tell: Tell, progress: Callable[[str], Any] | None) -> None:
        self.job, self.progress, self.kind, task = job, progress, job.recipe.student, job.data.task
        if task.head == "token" and self.kind != BILSTM:
            raise InputError(f"--preset: {self.kind} answers whole texts, and {task.name} asks about each word; give bilstm, or a BERT")
        check_head(job.model, task.head, task.name)
        engine = None if self.kind == BILSTM else "numpy"
        if job.engine not in (None, engine, *(("onnxruntime", "openvino") if self.kind == BILSTM else ())):
            raise InputError(f"--engine: {self.kind} does not run on {job.engine}; leave the option out")
        settings, material = job.recipe.distill, job.material
        assert settings
        given = {
            "general": material.general, "with": material.companions, "student": material.student, "noise": settings.noise,
            "anneal": settings.anneal and self.kind != BILSTM,
        }  # fmt: skip
        for option in (name for name, value in given.items() if value):
            raise InputError(f"--{option}: a {self.kind} student has nothing to do with it; leave it out")
        unfit = set(settings.answers) - {"kl", HARD}
        if self.kind != BILSTM and unfit:
            raise InputError(f"--losses: {self.kind} learns probabilities, and {', '.join(sorted(unfit))} compares logits; give kl or hard")
        if task.name == "pair" and self.kind in (BILSTM, "static") and not job.data.eval.encoded.types.any():
            raise InputError(
                f"--preset: {self.kind} tells the texts of a pair by token types, which this tokenizer does not make; give a BERT"
            )
        if settings.states:
            raise InputError(
                f"--losses: {', '.join(settings.states)} compare encoders, and {self.kind} is none; give {', '.join(ANSWERS)} or hard"
            )
        self.teacher = read(locate(job.model), head=task.head, labels=task.labels)
        self.folder = Run(job.out, job.asked | run_on(job), tell)
        self.tell, self.trial = tell, proof.trial_of(job, tell)
        self.segments = self.trial.segments
        self.teaching = teaching_of(job, job.data, self.teacher, self.folder.partial)
        self.settings = self.teaching.settings

    def run(self) -> dict[str, Any]:
        job, step = self.job, self.folder.step
        baseline, before = step("baseline", self.baseline)
        known = proof.Known(
            locate(job.model), self.tokenizer_file(), blueprint_of(self.teacher), before, baseline, job.data.eval, self.teaching.texts.judging
        )  # fmt: skip
        taught, place = step("distill", self.teach)
        _, exported = step("export", lambda folder: self.export(place / "model", folder))
        chosen, _ = step("choose", lambda _: self.choose(place, exported, known))
        if chosen["chosen"] is None:
            raise BudgetError(
                f"parity: {chosen['note']} ({chosen['parity']}), so none is shipped; what was learned is in {place / 'model'}"
            )
        verified, _ = step("verify", lambda _: self.verify(place / "model", exported, known, chosen))
        if not verified["steady"]:
            self.tell(f"the machine was busy ({verified['disturbance']}), so no speed-up is claimed: measure again when it is quiet")
        inside = Inside(
            taught["parameters"], None, student={"kind": self.kind, "head": job.data.task.head, "transformers": self.kind == BILSTM}
        )
        report = report_of(job, job.data, blueprint_of(self.teacher), inside, verified, self.folder.records)
        self.deliver(report, place / "model", exported, Form(**verified["chosen"]), chosen["temperature"])
        write_json(job.out / "report.json", report)
        write_text(job.out / "report.html", page(report))
        self.folder.finish()
        return report

    # -- the steps -------------------------------------------------------------------------------------------

    def baseline(self, folder: Path) -> dict[str, Any]:
        """The teacher as it is, and what the engines' int8 makes of it."""
        forms = forms_for(cast(EngineName, self.job.engine if self.kind == BILSTM else None), int8=False)
        texts = self.teaching.texts
        return proof.baseline(
            self.job, texts.judging, self.teacher, texts.calibration(BASELINE_TEXTS), forms, folder, self.tokenizer_file(), self.trial
        )  # fmt: skip

    def teach(self, folder: Path) -> dict[str, Any]:
        """The student, taught what the teacher answers, or the labels."""
        task = self.job.data.task
        dev, train = self.teaching.split()
        parameters, note = self.teach_bilstm(folder, train, dev) if self.kind == BILSTM else self.teach_arrays(folder, train, dev)
        judging = self.teaching.texts.judging
        quality = quality_of(task, judging, self.own(folder / "model")(judging.encoded))
        size = sum(file.stat().st_size for file in (folder / "model").iterdir())
        return {
            "parameters": parameters, "quality": quality, "bytes": size,
            "note": f"{task.metric().name} {quality:.2f} on texts held out, {parameters / 1e6:.2f} million numbers learned from {len(train)} texts{note}",
        }  # fmt: skip

    def targets(self, texts: Examples, outputs: TeacherOutputs) -> NDArray[np.float32]:
        """The probabilities (N, C) to learn: the teacher's at the temperature, and the labels, by their weights."""
        settings, classes = self.settings, len(self.job.data.task.labels)
        hard = settings.answers.get(HARD, 0.0)
        soft = sum(weight for name, weight in settings.answers.items() if name != HARD)
        labels = np.concatenate(targets_of(self.job.data.task, texts))
        known = (labels != IGNORED)[:, None]
        given = np.eye(classes, dtype=np.float32)[np.where(labels == IGNORED, 0, labels)]
        if not soft:
            return given
        said = softmax(outputs.logits / settings.temperature)
        return np.asarray(np.where(known, (hard * given + soft * said) / (hard + soft), said), np.float32)

    def teach_arrays(self, folder: Path, train: Examples, dev: Examples) -> tuple[int, str]:
        """A student of arrays: one file. What is held out says when trees and static embeddings have learned enough."""
        step, seed = self.teaching.distill(dev), self.job.seed
        learned_from, judged_by = (self.targets(texts, step.observe(self.teacher, texts)) for texts in (train, dev))
        encoded, targets = Encoded.joined([train.encoded, dev.encoded]), np.concatenate([learned_from, judged_by])
        held = np.arange(len(train), len(encoded))
        if self.kind == "logistic":
            fitted = logistic.fit(train.encoded, learned_from)
        elif self.kind == "trees":
            fitted = trees.fit(encoded, targets, trees.TreesSettings(seed=seed), held=held)
        else:
            before, after = static.frame_of(self.job.data.tokenizer)
            vectors, how = static.token_vectors(self.teacher, (before, after), seed=seed), static.StaticSettings(seed=seed)
            fitted = static.fit(encoded, targets, vectors, {*before, *after}, held=held, pairs=self.segments, settings=how)
        fitted.write(folder, dev.encoded)
        return sum(int(array.size) for array in fitted.learned.arrays.values()), ""

    def teach_bilstm(self, folder: Path, train: Examples, dev: Examples) -> tuple[int, str]:
        """A BiLSTM: a folder that transformers loads."""
        torch.manual_seed(self.job.seed)
        student = bilstm.build(
            self.teacher, self.job.data.task.head, pairs=self.segments, settings=bilstm.BilstmSettings(seed=self.job.seed)
        )
        with shown(self.progress, "distill") as report:
            step = self.teaching.distill(dev, progress=report)
            lesson = step.lesson(step.observe(self.teacher, train))
            history = replace(lesson, settings=replace(self.settings, dropout=student.config.dropout)).teach(student)
        student.save_pretrained(folder / "model")
        return sum(p.numel() for p in student.parameters()), f"; {history.steps} steps"

    def own(self, model: Path) -> Callable[[Encoded], Logits]:
        """The logits that the student itself gives."""
        if self.kind == BILSTM:
            network = bilstm.read(model, self.job.data.task.head)
            return lambda encoded: logits_of(network, encoded)
        engine: Engine = NumpyEngine(Learned.read(model / FILE))
        return engine.logits

    @property
    def forms(self) -> list[Form]:
        """How the student can be run."""
        if self.kind != BILSTM:
            return [NUMPY_FORM]
        return [form for form in FLOAT_FORMS if form.file == PORTABLE_FLOAT and self.job.engine in (None, form.engine)]

    def export(self, model: Path, folder: Path) -> dict[str, Any]:
        """The file that the engine runs, the tokenizer, and what the folder says of itself."""
        if self.kind == BILSTM:
            write_bytes(folder / PORTABLE_FLOAT, bilstm.graph(bilstm.read(model, self.job.data.task.head)).SerializeToString())
        else:
            shutil.copyfile(model / FILE, folder / FILE)
        size = sum(file.stat().st_size for file in folder.iterdir())
        shutil.copyfile(self.tokenizer_file(), folder / "tokenizer.json")
        describe(folder, self.job.data, self.forms)
        return {"bytes": size, "note": f"{size / 1e6:.1f} MB of weights"}

    def tokenizer_file(self) -> Path:
        """The teacher's tokenizer.json, made into partial/ where it has none."""
        return tokenizer_file(locate(self.job.model), self.folder.partial / "tokenizer")

    def choose(self, taught: Path, exported: Path, known: proof.Known) -> dict[str, Any]:
        """Hold every form against the student as it was learned, on texts held out, and choose the one to ship."""
        job, judging = self.job, self.teaching.texts.judging
        few, own = choice.sample(judging, job.seed), self.own(taught / "model")
        if self.kind == BILSTM:
            far, limit = choice.differences(self.trial, own(few), few, exported, self.forms), proof.PARITY
        else:  # what is written is held against what the library that fitted it answers
            difference = largest_difference(taught, exported / FILE, self.teaching.texts.weights.encoded)
            far = {NUMPY_FORM.engine: difference if np.isfinite(difference) else choice.NO_NUMBER}
            limit = proof.PARITY_HALF
        return choice.choose(
            self.trial, known, judging, own(judging.encoded), job.data.eval.encoded, (exported, exported), self.forms, far, {},
            proof.int8_limit(job.budget), job.budget.confidence, list, limit,
        )  # fmt: skip

    def verify(self, model: Path, exported: Path, known: proof.Known, chosen: dict[str, Any]) -> dict[str, Any]:
        """Everything that is said of the student, on data that nothing was chosen by."""
        job, trial = self.job, self.trial
        data, own = job.data, self.own(model)(job.data.eval.encoded)
        found = verification.verify(trial, known, data.eval, own, exported, chosen, data.train, job.budget.confidence)
        form = Form(**found["chosen"])
        tests = [verification.on_other_data(trial, known, exported, form, name, each, each, data.train) for name, each in job.tests]
        return found | {"tests": tests, "shapes": [], "stored": None}

    def deliver(self, report: dict[str, Any], model: Path, exported: Path, chosen: Form, temperature: float) -> None:
        """Write model/ and engine/."""
        with whole_folder(self.job.out / "model") as folder:
            shutil.copytree(model, folder, dirs_exist_ok=True)
            copy_tokenizer(locate(self.job.model), folder)
            write_text(folder / "README.md", model_card(report))
        with whole_folder(self.job.out / "engine") as folder:
            for name in {*(form.file for form in self.forms), "tokenizer.json"}:
                shutil.copyfile(exported / name, folder / name)
            fit = {row["name"] for row in report["forms"] if row["fit"]}
            describe(folder, self.job.data, [chosen, *(form for form in self.forms if form != chosen and form.name in fit)], temperature)
