"""Stages: what a job goes through, one after another. Each is saved whole, and loaded back by itself."""

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
"""The folder of a stage that holds the model it made."""


@dataclass(frozen=True)
class Work:
    """What a job works on, as it goes from stage to stage.

    model: what is made smaller. base: the uncut model that it comes from, which teaches it and which `selection` counts in. data, tests,
    tokenizer: the texts as the base's tokenizer, in that folder, encodes them. schemes, coded: how each matrix is stored in few bits, and its
    codes. ranges, float_layers: of int8. student: what was taught, where that is no encoder.
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
        """Whether no stage has made another model of the base so far."""
        return self.model is self.base


@dataclass(frozen=True)
class Note:
    """What a stage tells: a line for people, and of a model that it made the quality on texts held out, and its bytes."""

    note: str = ""
    quality: float | None = None
    bytes: int | None = None


class Planner(ABC):
    """Decides what is kept, in what rank and in how many bits: for a budget, or as the settings say."""

    @abstractmethod
    def selection(self, settings: Settings, work: Work, context: Context) -> tuple[Selection, str]:
        """What of the base is kept by these settings of `prune`, and a line for people."""

    @abstractmethod
    def rank(self, work: Work, context: Context) -> int:
        """Of the word embedding, so that it fits in the size that is asked; 0: in one piece."""

    @abstractmethod
    def schemes(self, settings: Settings, work: Work, context: Context) -> dict[str, Scheme]:
        """How each matrix is stored by these settings of `store`, where the Hessian and the size that is asked decide."""


@dataclass(frozen=True)
class Context:
    """What stages work with, and what does not change from stage to stage.

    run: the folder. teacher, folder, data: the model that is given, and the data as its tokenizer encodes them. gold: labels of the texts held out
    to choose by. recipe: its settings in order. engine: that the result has to run on. size_bytes: that the deployment may have; None: any. int8: whether integers are exported. planner: what
    decides, and whether that is for a budget (`to_budget`). depth: the part of the layers that an attempt keeps, and `suffix` what its stages' folders are called by.
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
        """The training texts by side, as the base encodes and answers them."""
        return Texts(work.data, work.base, self.seed)

    def calibration(self, work: Work, count: int) -> Examples:
        """So many of the training texts that are learned from."""
        return self.texts(work).calibration(count)

    def judging(self, work: Work) -> Examples:
        """The training texts held out that everything but the weights is chosen on; where they have no labels, with the teacher's answers."""
        return replace(work.data.train.take(work.data.sides.judging), gold=list(self.gold))

    def lengths(self, work: Work) -> tuple[int, int]:
        """Tokens of the median text, as the work's tokenizer and as the teacher's own encodes it."""
        own = int(np.median(work.data.eval.encoded.lengths))
        return own, int(np.median(self.data.eval.encoded.lengths))

    # -- training --------------------------------------------------------------------------------------------

    def teaching(self, work: Work, settings: DistillSettings, wanted: TextSettings) -> Teaching:
        """How the base teaches, by these settings of distillation, on these texts."""
        return Teaching(work.data, work.base, settings, wanted, self.material, self.seed, self.run.partial)

    def shown(self, title: str) -> Any:
        """A context whose value is told how far a training is: a bar of this title, or nobody."""
        return self.progress(title) if self.progress else nullcontext(silent)

    # -- files -----------------------------------------------------------------------------------------------

    def tokenizer_file(self, folder: Path) -> Path:
        """The tokenizer.json of a folder, made into partial/ where it has none."""
        return tokenizer_file(folder, self.run.partial / "tokenizer")

    def room(self, work: Work) -> float | None:
        """Bytes that the size which is asked leaves for the weights."""
        return None if self.size_bytes is None else self.size_bytes - self.tokenizer_file(work.tokenizer).stat().st_size

    @property
    def packs(self) -> bool:
        """Whether models are written packed, zeros in a bit."""
        taught = is_taught(self.recipe)
        return any(Trait.ZEROS in item.effects(taught).makes for item in self.recipe)

    def keep(self, work: Work, folder: Path, note: str, coded: Mapping[str, Coded] | None = None) -> Note:
        """Write the work's model into a stage's folder, and say how good it is on training texts held out."""
        write(work.model, folder / MODEL, tokenizer=work.tokenizer, packed=coded is not None or self.packs, coded=coded)
        judging = self.judging(work)
        quality = quality_of(work.data.task, judging, logits_of(work.model, judging.encoded))
        size = sum(file.stat().st_size for file in (folder / MODEL).iterdir())
        return Note(f"{work.data.task.metric().name} {quality:.2f} on texts held out, {note}", quality, size)


Record = TypeVar("Record", bound=Note)


class Stage(ABC, Generic[Record]):
    """One step of a job: `make` does the work and writes what is large into `folder`; `load` is the work with what the stage added,
    read from what `make` left."""

    name: str
    record: type[Record]
    shared: ClassVar[bool] = False
    """Whether it is made once for all attempts, where it comes before all that differ."""

    def wanted(self, work: Work, context: Context) -> bool:
        """Whether there is anything to do."""
        return True

    @abstractmethod
    def make(self, work: Work, context: Context, folder: Path) -> Record:
        """Do the work on `work`, which is not changed, and write into `folder`."""

    @abstractmethod
    def load(self, work: Work, context: Context, record: Record, folder: Path) -> Work:
        """The work with what this stage added."""

    def __call__(self, work: Work, context: Context) -> Work:
        """Carry the stage out, or take what an earlier run left."""
        if not self.wanted(work, context):
            return work
        kept, place = context.run.step(f"{self.name}{context.suffix}", lambda folder: to_json(self.make(work, context, folder)))
        return self.load(work, context, from_json(self.record, kept, str(place)), place)


def loaded(work: Work, folder: Path) -> Work:
    """The work with the model that a stage wrote into `folder`, and its codes where it is stored in few bits."""
    codes = load_coded(folder / MODEL / PACKED) if work.coded is not None else None
    return replace(work, model=read(folder / MODEL), coded=codes)


@final
@dataclass(frozen=True)
class Applied(Settings):
    """A `Step` of one's own in a recipe: it observes so many training texts, plans, and is applied."""

    step: Step[Any, Any]
    texts: int = 1000

    @property
    def name(self) -> str:  # type: ignore[override]
        """The step's own."""
        return self.step.name

    def effects(self, taught: bool) -> Effects:
        """What the step itself says, else that it gives weights new values."""
        return self.step.effects

    @property
    def cuts(self) -> bool:
        """Whatever it changes is asked for by hand."""
        return True

    def stages(self, recipe: Sequence[Settings]) -> Sequence[Stage[Any]]:
        """One, that writes the model."""
        return [ApplyStep(self.step, self.texts)]


@final
class ApplyStep(Stage[Note]):
    """Observe, plan, apply."""

    record = Note

    def __init__(self, step: Step[Any, Any], texts: int) -> None:
        self.name = step.name
        self.step = step
        self.texts = texts

    def make(self, work: Work, context: Context, folder: Path) -> Note:
        evidence = self.step.observe(work.model, context.calibration(work, self.texts))
        plan = self.step.plan(blueprint_of(work.model), evidence)
        model = self.step.apply(work.model, plan, evidence)
        return context.keep(replace(work, model=model), folder, f"after {self.name}, not trained")

    def load(self, work: Work, context: Context, record: Note, folder: Path) -> Work:
        return loaded(work, folder)
