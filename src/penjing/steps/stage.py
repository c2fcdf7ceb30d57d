"""Stages of a job, run one after another: each writes its result and can be loaded from it again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar, final

import numpy as np

from penjing.engines.network import Ranges
from penjing.files.records import from_json, to_json
from penjing.files.run import Run
from penjing.maths.stored import Scheme
from penjing.model.building import blueprint_of
from penjing.model.checkpoint import read
from penjing.model.coded import Coded
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.model.packing import PACKED, load_coded
from penjing.model.writing import write
from penjing.selection import Selection
from penjing.steps.cut.importance import Importance
from penjing.steps.product import Product
from penjing.steps.settings import Effects, Settings, Trait, is_taught
from penjing.steps.step import Step
from penjing.steps.teach.distill import DistillSettings
from penjing.steps.teach.teaching import Material, Teaching
from penjing.tasks.data import Data
from penjing.tasks.judging import quality_of
from penjing.tasks.sources import tokenizer_file
from penjing.tasks.task import Examples
from penjing.training.loop import silent
from penjing.training.predict import logits_of
from penjing.training.texts import Texts, TextSettings

MODEL = "model"
"""Name of the model's folder inside a stage's folder."""


@dataclass(frozen=True)
class Work:
    """The state of a job between two stages: model, data, tokenizer, and the results of the stages so far.

    model: the model that is compressed. base: the uncut model that it comes from, its teacher; `selection` numbers the base's parts.
    data, tests: the texts, encoded by the base's tokenizer. tokenizer: that tokenizer's folder. importance: scores of heads, neurons,
    layers and hidden units. schemes, coded: the storage scheme of each matrix in few bits, and its codes. ranges, float_layers: the
    activation ranges of int8, and the linear layers that stay in float. student: the trained model, where it is no encoder.
    """

    model: PenjingPreTrainedModel
    base: PenjingPreTrainedModel
    data: Data
    tests: tuple[tuple[str, Examples], ...]
    tokenizer: Path
    selection: Selection
    importance: Importance | None = None
    schemes: Mapping[str, Scheme] = field(default_factory=dict)
    coded: Mapping[str, Coded] | None = None
    ranges: Ranges | None = None
    float_layers: frozenset[str] = frozenset()
    student: Product | None = None

    @property
    def untouched(self) -> bool:
        """Whether the model is still the base: no stage has changed it so far."""
        return self.model is self.base


@dataclass(frozen=True)
class Note:
    """The record of a stage: a note for people; and, of a stage that makes a model, its quality on held-out texts and its bytes."""

    note: str = ""
    quality: float | None = None
    bytes: int | None = None


class Planner(ABC):
    """The planner: decides the selection, the embedding's rank and the bits, for a budget or as the settings say."""

    @abstractmethod
    def selection(self, settings: Settings, work: Work, context: Context) -> tuple[Selection, str]:
        """The selection of the base that these settings of `prune` keep, and a note for people."""

    @abstractmethod
    def rank(self, work: Work, context: Context) -> int:
        """The rank of the word embedding at which the requested size is met; 0: not factorised."""

    @abstractmethod
    def schemes(self, settings: Settings, work: Work, context: Context) -> dict[str, Scheme]:
        """The storage scheme of each matrix under these settings of `store`, chosen by the Hessian and the requested size."""


@dataclass(frozen=True)
class Context:
    """The surroundings of the stages: settings, data and files that stay the same throughout an attempt.

    run: the job's folder. teacher, folder, data: the given model, and the data as its tokenizer encodes them. gold: labels of the
    held-out texts that everything but the weights is chosen on. recipe: the settings of the steps, in order. material: further models
    and texts of distillation. int8: whether integers are exported. planner, to_budget: the planner, and whether it plans for a budget.
    engine: the engine that the result has to run on. size_bytes: the limit on the deployment's bytes; None: any. progress: makes a
    progress bar of a title. depth: the part of the layers that the attempt keeps. suffix: the ending of its stages' folder names.
    """

    run: Run
    teacher: PenjingPreTrainedModel
    folder: Path
    data: Data
    gold: Sequence[Any]
    recipe: Sequence[Settings]
    material: Material
    seed: int
    int8: bool
    planner: Planner
    to_budget: bool = False
    engine: str | None = None
    size_bytes: float | None = None
    progress: Callable[[str], Any] | None = None
    depth: float | None = None
    suffix: str = ""

    # -- texts -----------------------------------------------------------------------------------------------

    def texts(self, work: Work) -> Texts:
        """The training texts, split into those to learn from and those held out, as the base encodes and answers them."""
        return Texts(work.data, work.base, self.seed)

    def calibration(self, work: Work, count: int) -> Examples:
        """Calibration texts: `count` of the training texts that are learned from."""
        return self.texts(work).calibration(count)

    def judging(self, work: Work) -> Examples:
        """The held-out training texts that everything but the weights is chosen on.

        Where they have no labels, the teacher's answers stand in.
        """
        return replace(work.data.train.take(work.data.sides.judging), gold=list(self.gold))

    def lengths(self, work: Work) -> tuple[int, int]:
        """The median length of a text in tokens: by the work's tokenizer, and by the teacher's own."""
        own = int(np.median(work.data.eval.encoded.lengths))
        return own, int(np.median(self.data.eval.encoded.lengths))

    # -- training --------------------------------------------------------------------------------------------

    def teaching(self, work: Work, settings: DistillSettings, wanted: TextSettings) -> Teaching:
        """The teaching by the base: with these settings of distillation, on these texts."""
        return Teaching(work.data, work.base, settings, wanted, self.material, self.seed, self.run.partial)

    def shown(self, title: str) -> Any:
        """A context manager that gives the progress callback of a training: a bar of this title, or a silent one."""
        return self.progress(title) if self.progress else nullcontext(silent)

    # -- files -----------------------------------------------------------------------------------------------

    def tokenizer_file(self, folder: Path) -> Path:
        """Path of a folder's tokenizer.json, converted into partial/ where the folder has none."""
        return tokenizer_file(folder, self.run.partial / "tokenizer")

    def room(self, work: Work) -> float | None:
        """Bytes that the requested size leaves for the weights; None: no size was requested."""
        return None if self.size_bytes is None else self.size_bytes - self.tokenizer_file(work.tokenizer).stat().st_size

    @property
    def packs(self) -> bool:
        """Whether models are written packed, with a bitmap of the zeros."""
        taught = is_taught(self.recipe)
        return any(Trait.ZEROS in item.effects(taught).makes for item in self.recipe)

    def keep(self, work: Work, folder: Path, note: str, coded: Mapping[str, Coded] | None = None) -> Note:
        """Write the work's model into a stage's folder, and measure its quality on held-out training texts."""
        write(work.model, folder / MODEL, tokenizer=work.tokenizer, packed=coded is not None or self.packs, coded=coded)
        judging = self.judging(work)
        quality = quality_of(work.data.task, judging, logits_of(work.model, judging.encoded))
        size = sum(file.stat().st_size for file in (folder / MODEL).iterdir())
        return Note(f"{work.data.task.metric().name} {quality:.2f} on texts held out, {note}", quality, size)


Record = TypeVar("Record", bound=Note)


class Stage(ABC, Generic[Record]):
    """The base class of a stage: `make` computes and writes the result, `load` reads it back into the work.

    `make` writes what is large into `folder` and returns the record; `load` needs nothing but the record and the folder.
    """

    name: str
    record: type[Record]
    shared: ClassVar[bool] = False
    """Whether all attempts share the stage's result, as long as no stage before it differs."""

    def wanted(self, work: Work, context: Context) -> bool:
        """Whether the stage runs at all."""
        return True

    @abstractmethod
    def make(self, work: Work, context: Context, folder: Path) -> Record:
        """Compute the stage's result from `work`, which is not changed, and write it into `folder`."""

    @abstractmethod
    def load(self, work: Work, context: Context, record: Record, folder: Path) -> Work:
        """A new work with the stage's result, read from `folder`."""

    def __call__(self, work: Work, context: Context) -> Work:
        """Run the stage, or load the result of an interrupted run."""
        if not self.wanted(work, context):
            return work
        kept, place = context.run.step(f"{self.name}{context.suffix}", lambda folder: to_json(self.make(work, context, folder)))
        return self.load(work, context, from_json(self.record, kept, str(place)), place)


def loaded(work: Work, folder: Path) -> Work:
    """A new work with the model that a stage wrote into `folder`, and its codes where it is stored in few bits."""
    codes = load_coded(folder / MODEL / PACKED) if work.coded is not None else None
    return replace(work, model=read(folder / MODEL), coded=codes)


@final
@dataclass(frozen=True)
class Applied(Settings):
    """Settings that put a user's own `Step` into a recipe; `texts`: how many training texts it observes."""

    step: Step[Any, Any]
    texts: int = 1000

    @property
    def name(self) -> str:  # type: ignore[override]
        """The step's own name."""
        return self.step.name

    def effects(self, taught: bool) -> Effects:
        """The step's own effects; by default it gives every weight a new value."""
        return self.step.effects

    @property
    def cuts(self) -> bool:
        """Always: a user's own step is asked for by hand, not by a budget."""
        return True

    def stages(self, recipe: Sequence[Settings]) -> Sequence[Stage[Any]]:
        """The one stage that applies the step and writes the model."""
        return [ApplyStep(self.step, self.texts)]


@final
class ApplyStep(Stage[Note]):
    """The stage of a step by itself: observe, plan, apply. texts: how many training texts it observes; 0: all, those held out too."""

    record = Note

    def __init__(self, step: Step[Any, Any], texts: int = 0) -> None:
        self.name = step.name
        self.step = step
        self.texts = texts

    def make(self, work: Work, context: Context, folder: Path) -> Note:
        evidence = self.step.observe(work.model, context.calibration(work, self.texts) if self.texts else work.data.train)
        plan = self.step.plan(blueprint_of(work.model), evidence)
        model = self.step.apply(work.model, plan, evidence)
        return context.keep(replace(work, model=model), folder, f"after {self.name}, not trained")

    def load(self, work: Work, context: Context, record: Note, folder: Path) -> Work:
        return loaded(work, folder)
