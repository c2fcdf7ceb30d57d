"""The interface of students that are no BERT: fitting to a teacher, logits, and exported files."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from penjing.engines.form import ENGINES, Form
from penjing.engines.form import MODEL as MODEL
from penjing.engines.opening import EngineKind, engine_class, engine_name
from penjing.engines.parity import PARITY, differences
from penjing.errors import InputError
from penjing.steps.teach.distill import DistillSettings
from penjing.steps.teach.teaching import Material
from penjing.students.fitting import Fit, Fitting
from penjing.tasks.data import Data
from penjing.text.encoded import Encoded, Logits
from penjing.training.objective import ANSWERS, HARD

SOFT = frozenset({"kl", HARD})
"""Losses that have the same minimum as the cross-entropy with `fitting.probabilities`."""
Answer = Callable[[Encoded], Logits]
"""A function from texts to their logits."""


@dataclass(frozen=True)
class ParityTexts:
    """Held-out texts for the parity of exported files: a `sample` of those that a form is chosen by, and `dev` of `Fitting`."""

    sample: Encoded
    dev: Encoded


@dataclass(frozen=True)
class Usual:
    """A student's usual training.

    losses: on answers, by name. rate, epochs: learning rate and epochs. copies: augmented copies of each text, where the teacher labels
    them.
    """

    losses: Mapping[str, float] = field(default_factory=lambda: {"kl": 1.0})
    rate: float = 1e-4
    epochs: int = 3
    copies: int = 0


@dataclass(frozen=True)
class Student(ABC):
    """The base class of a student that is no BERT; its settings are its fields, so a subclass is a frozen dataclass.

    A user's own subclass defines `name`, `shipped`, `fit`, `load` and `export`; the rest has defaults.
    """

    name: ClassVar[str]
    paper: ClassVar[str] = ""
    """The source of the method."""
    when: ClassVar[str] = ""
    """A line on when to use it."""
    shipped: ClassVar[tuple[Form, ...]]
    """The forms of the exported files, all of which are measured."""
    parity_limit: ClassVar[float] = PARITY
    """The limit on `differences`."""
    tagging: ClassVar[bool] = False
    """Whether it can label words too."""
    token_types: ClassVar[bool] = False
    """Whether it separates the texts of a pair by their token types."""
    trained: ClassVar[bool] = False
    """Whether a network is trained by epochs, with any loss on answers (`Fitting.teach`); else it learns `Fitting.targets`."""
    transformers: ClassVar[bool] = False
    """Whether transformers loads its folder."""
    usual: ClassVar[Usual] = Usual()
    """The losses and the training where the caller names none."""

    # -- what is allowed -----------------------------------------------------------------------------------------

    @property
    def engines(self) -> tuple[str, ...]:
        """The engines that run it."""
        return tuple(dict.fromkeys(form.engine for form in self.shipped))

    def check_engine(self, engine: EngineKind | None) -> None:
        """An `InputError` where this engine does not run the student; None is any engine."""
        if engine is not None and not self.forms(engine):
            raise InputError(f"engine: {self.name} does not run on {engine_name(engine)}; leave the option out")

    def check(self, data: Data, settings: DistillSettings, material: Material) -> None:
        """An `InputError` where the student cannot learn this task from these texts by these losses."""
        task = data.task
        if task.head.per_token and not self.tagging:
            raise InputError(f"preset: {self.name} answers whole texts, and {task.name} asks about each word; give bilstm, or a BERT")
        self._check_options(settings, material)
        unfit = set(settings.answers) - SOFT
        if not self.trained and unfit:
            raise InputError(
                f"losses: {self.name} learns probabilities, and {', '.join(sorted(map(str, unfit)))} compares logits; give kl or hard"
            )
        if task.two_texts and self.token_types and not data.eval.encoded.types.any():
            raise InputError(
                f"preset: {self.name} tells the texts of a pair by token types, which this tokenizer does not make; give a BERT"
            )
        if settings.states:
            raise InputError(
                f"losses: {', '.join(map(str, settings.states))} compare encoders, and {self.name} is none; give {', '.join(ANSWERS)} or hard"
            )

    def _check_options(self, settings: DistillSettings, material: Material) -> None:
        given = {
            "general": bool(material.general),
            "with": bool(material.companions),
            "student": bool(material.student),
            "noise": bool(settings.noise),
            "adversarial": bool(settings.adversarial),
            "anneal": settings.anneal and not self.trained,
        }
        for option, is_given in given.items():
            if is_given:
                raise InputError(f"{option}: a {self.name} student has nothing to do with it; leave it out")

    # -- learning and answering ----------------------------------------------------------------------------------

    @abstractmethod
    def fit(self, fitting: Fitting, folder: Path) -> Fit:
        """Fit the student and write it to `folder`/model/; what only `differences` reads goes beside it.

        All random draws are by `fitting.seed`.
        """

    @abstractmethod
    def load(self, model: Path) -> Answer:
        """The fitted student's logits function, from the folder model/ that `fit` wrote."""

    # -- the engine's folder -------------------------------------------------------------------------------------

    def forms(self, engine: EngineKind | None) -> list[Form]:
        """The forms that are measured: those of one engine, or all `shipped`.

        A user's own engine runs the files that its class names.
        """
        if engine is None:
            return list(self.shipped)
        name = engine_name(engine)
        if name in ENGINES:
            return [form for form in self.shipped if form.engine == name]
        files = {form.file for form in self.shipped}
        return [replace(form, engine=name) for form in engine_class(engine).forms(int8=False) if form.file in files]

    @abstractmethod
    def export(self, model: Path, folder: Path) -> None:
        """Write the files of all `shipped` forms into `folder`, from the folder model/ that `fit` wrote."""

    def differences(self, fitted: Path, exported: Path, forms: Sequence[Form], texts: ParityTexts, threads: int) -> dict[str, float]:
        """Largest difference between the logits of the student as it was fitted and those of what was exported, by engine.

        Args:
            fitted: the folder that `fit` wrote to. exported: that of `export`.
            forms: those of `forms`.
        """
        logits = self.load(fitted / MODEL)(texts.sample)
        return differences(logits, texts.sample, exported, forms, threads)
