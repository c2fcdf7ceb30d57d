"""Stages: each result is saved whole, and another run of the same folder loads it and makes nothing again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import rows_of, write_rows
from conftest import half
from torch import nn

from penjing.blueprint import Blueprint
from penjing.engines.form import MODEL
from penjing.errors import InputError
from penjing.files.run import RECORD
from penjing.job.asked import Budget, Job
from penjing.job.recipe import Item, Recipe
from penjing.job.starting import begun, checked, to_budget
from penjing.maths.stored import Scheme
from penjing.model.building import blueprint_of
from penjing.model.checkpoint import open_checkpoint
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.model.surgery import copy_of, cut
from penjing.selection import LayerSelection, Selection
from penjing.steps.bits.quantize import QuantizeSettings
from penjing.steps.bits.store import StoreSettings, uniform
from penjing.steps.cut.gradual import GradualSettings
from penjing.steps.cut.head_weights import HeadWeightsSettings
from penjing.steps.cut.prune import PruneSettings
from penjing.steps.cut.sparsify import SparsifySettings
from penjing.steps.cut.vocabulary import VocabularySettings
from penjing.steps.product import Product
from penjing.steps.reshape.factorise import FactoriseSettings
from penjing.steps.reshape.positions import PositionsSettings
from penjing.steps.reshape.project import ProjectSettings
from penjing.steps.reshape.share import ShareSettings
from penjing.steps.settings import Effects, Settings
from penjing.steps.stage import Context, Note, Planner, Stage, Work, loaded
from penjing.steps.step import Step
from penjing.steps.teach.distill import DistillSettings
from penjing.steps.teach.distillation import Distillation
from penjing.steps.teach.replace import ReplaceSettings
from penjing.steps.teach.teaching import Material
from penjing.students.bilstm import Bilstm
from penjing.students.logistic import Logistic
from penjing.students.stage import StudentSettings
from penjing.tasks.data import Data
from penjing.tasks.judging import quality_of
from penjing.tasks.sources import load_data
from penjing.tasks.task import Examples
from penjing.text.reading import Reading
from penjing.training.loop import Schedule
from penjing.training.predict import logits_of

TAUGHT = Distillation(DistillSettings(Schedule(epochs=1, batch_size=16, patience=100), losses={"kl": 1.0}))


class Halves(Planner):
    """A planner that asks nobody: half of the heads and neurons, rank 4, and the bits of the settings."""

    def selection(self, settings: Settings, work: Work, context: Context) -> tuple[Selection, str]:
        return half(blueprint_of(work.base)), "half"

    def rank(self, work: Work, context: Context) -> int:
        return 4

    def schemes(self, settings: Settings, work: Work, context: Context) -> dict[str, Scheme]:
        return uniform(work.model, StoreSettings(bits=3, group=16))


class Doubled(Step[float, Any]):
    """A user's own step: the last layer's weights times a number that depends on the texts."""

    name = "doubled"

    def observe(self, model: PenjingPreTrainedModel, data: Examples) -> float:
        return 2.0 + len(data) / 1000

    def plan(self, blueprint: Any, evidence: float) -> Any:
        return blueprint

    def apply(self, model: PenjingPreTrainedModel, plan: Any, evidence: float) -> PenjingPreTrainedModel:
        result = copy_of(model)
        with torch.no_grad():
            result.get_parameter("head.out.weight").mul_(evidence)
        return result


class Upper(Step[None, Any]):
    """A user's own step: the upper layers alone. told: whether its plan says which."""

    name = "upper"

    def __init__(self, told: bool = True) -> None:
        self.told = told

    def observe(self, model: PenjingPreTrainedModel, data: Examples) -> None:
        """Nothing is looked at."""

    def plan(self, blueprint: Blueprint, evidence: None) -> Any:
        layers = Selection.all(blueprint).layers
        selection = Selection(layers[len(layers) // 2 :])
        return selection if self.told else selection.plan(blueprint)

    def apply(self, model: PenjingPreTrainedModel, plan: Any, evidence: None) -> PenjingPreTrainedModel:
        return cut(model, Upper().plan(blueprint_of(model), None))


RECIPES: dict[str, Recipe] = {
    "cut": Recipe.of(VocabularySettings(), PruneSettings(texts=16, heads=0.5), TAUGHT, QuantizeSettings(texts=16)),
    "tokens second": Recipe.of(PruneSettings(texts=16, heads=0.5), VocabularySettings(), TAUGHT),
    "at once": Recipe.of(FactoriseSettings(), Doubled(), SparsifySettings(0.5, schedule="one-shot"), QuantizeSettings(texts=16)),
    "stored": Recipe.of(QuantizeSettings(texts=16, smooth=0.5), StoreSettings(scheme="mixed")),
    "stored in training": Recipe.of(TAUGHT, StoreSettings(bits=2, group=16, training=True)),
    "int8 in training": Recipe.of(TAUGHT, QuantizeSettings(texts=16, calibration="mse", training=True)),
    "gradual": Recipe.of(TAUGHT, GradualSettings(0.5)),
    "replaced": Recipe.of(PruneSettings(texts=16, neurons=0.5, repair="none"), TAUGHT, ReplaceSettings()),
    "positions": Recipe.of(PruneSettings(texts=16, heads=0.5), HeadWeightsSettings(16, 2), PositionsSettings()),
    "shared": Recipe.of(ShareSettings(1, texts=16), ProjectSettings(4), TAUGHT),
    "masks": Recipe.of(TAUGHT, SparsifySettings(0.5)),
    "student": Recipe.of(TAUGHT, StudentSettings(Logistic())),
}


@pytest.fixture(scope="module")
def data(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Data:
    folder = tmp_path_factory.mktemp("data")
    for name, count in (("train", 60), ("dev", 12)):
        write_rows(folder / f"{name}.jsonl", rows_of("classification", count, count))
    reading = Reading(max_length=16)
    return load_data(teacher, "classification", folder / "train.jsonl", folder / "dev.jsonl", reading, lambda text: None)


Begin = Callable[[Recipe], tuple[Context, Work]]


@pytest.fixture
def begin(teacher: Path, data: Data, tmp_path: Path) -> Begin:
    """A new run of one folder, and the work at its start."""

    def start(recipe: Recipe) -> tuple[Context, Work]:
        job = Job(teacher, data, Budget(), recipe, tmp_path / "out", 1, tests=[("more", data.eval)])
        context, work = begun(job, open_checkpoint(teacher), lambda text: None, None)
        return replace(context, planner=Halves()), work

    return start


def content(value: Any, texts: Examples) -> Any:
    """A value of the work as what can be compared: arrays and weights by their hashes, a student by its answers."""
    if isinstance(value, nn.Module):
        return {name: content(weight.numpy(), texts) for name, weight in value.state_dict().items()}
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, sha256(value.tobytes()).hexdigest()
    if isinstance(value, Data):
        return value.train.fingerprint(), value.eval.fingerprint(), value.tokenizer.to_str()
    if isinstance(value, Examples):
        return value.fingerprint()
    if isinstance(value, Product):
        return [content(answer, texts) for answer in value.logits(texts.encoded)]
    if isinstance(value, dict):
        return {name: content(item, texts) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [content(item, texts) for item in value]
    if hasattr(value, "__dataclass_fields__"):
        return {field.name: content(getattr(value, field.name), texts) for field in fields(value)}
    return value


def contents(work: Work) -> dict[str, Any]:
    return {field.name: content(getattr(work, field.name), work.data.eval) for field in fields(work)}


def passed(stages: Sequence[Stage[Any]], work: Work, context: Context) -> list[dict[str, Any]]:
    """The contents of the work after every stage, each of which leaves its work as it was."""
    result = []
    for stage in stages:
        before = contents(work)
        after = stage(work, context)
        assert contents(work) == before
        result.append(contents(after))
        work = after
    return result


def must_not_make(self: Any, work: Work, context: Context, folder: Path) -> Any:
    raise AssertionError(f"{self.name} is made again")


@pytest.mark.parametrize("name", RECIPES)
def test_a_second_run_loads_equal_work_and_makes_nothing(name: str, begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    stages = RECIPES[name].stages()
    context, work = begin(RECIPES[name])
    written: list[dict[str, Any]] = []
    keep = Context.keep

    def kept(self: Context, work: Work, *arguments: Any) -> Note:
        written.append(content(work.model, work.data.eval))
        return keep(self, work, *arguments)

    monkeypatch.setattr(Context, "keep", kept)
    first = passed(stages, work, context)
    assert len(context.run.records) == len(stages) and first[-1] != contents(work)  # every stage was run
    if written:
        assert written[-1] == first[-1]["model"]  # what is loaded is what was made

    for stage in stages:
        monkeypatch.setattr(type(stage), "make", must_not_make)
    again, start = begin(RECIPES[name])
    assert passed(stages, start, again) == first
    assert [record.name for record in again.run.records] == [record.name for record in context.run.records]
    assert again.run.records == context.run.records


def test_every_kind_of_stage_is_looked_at() -> None:
    from penjing.students.stage import TeachStudent

    known = {type(stage) for recipe in RECIPES.values() for stage in recipe.stages()}
    ours = {kind for kind in subclasses(Stage) if kind.__module__.startswith("penjing.")}
    assert TeachStudent in ours and known == ours


def subclasses(kind: type[Any]) -> set[type[Any]]:
    return {found for sub in kind.__subclasses__() for found in (sub, *subclasses(sub))}


@pytest.mark.parametrize(
    "before", [[PruneSettings(texts=16, heads=0.5), TAUGHT], [FactoriseSettings()], [Doubled()]], ids=["cut", "ranks", "own"]
)
def test_tokens_are_cut_of_the_model_as_it_is_wherever_they_are_cut(before: list[Item], begin: Begin) -> None:
    recipe = Recipe.of(*before, VocabularySettings())
    context, work = begin(recipe)
    *others, last = recipe.stages()
    for stage in others:
        work = stage(work, context)
    after = last(work, context)
    kept = after.data.tokenizer.get_vocab_size()
    assert kept < work.data.tokenizer.get_vocab_size()
    assert [blueprint_of(model).vocabulary for model in (after.model, after.base)] == [kept, kept]
    expected, found = (logits_of(now.model, now.data.train.encoded) for now in (work, after))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    judging = context.judging(after)
    assert context.run.records[-1].quality == pytest.approx(quality_of(after.data.task, judging, logits_of(after.model, judging.encoded)))


@pytest.mark.parametrize("kind", ["bilstm", "given"])
def test_torch_s_own_seed_is_nobody_s_but_the_caller_s(kind: str, teacher: Path, data: Data, tmp_path: Path) -> None:
    recipe = Recipe.of(TAUGHT, Bilstm(width=8, hidden=4, dense=4)) if kind == "bilstm" else Recipe.of(TAUGHT)
    after = []
    for seed in (1, 2):
        material = Material(student=teacher if kind == "given" else None)
        job = Job(teacher, data, Budget(), recipe, tmp_path / f"out{seed}", 1, material=material)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            context, work = begun(job, open_checkpoint(teacher), lambda text: None, None)
            stages_of(recipe if kind == "bilstm" else Recipe(()), work, context)
            after.append(torch.rand(1).item())
    assert after[0] != after[1]


@dataclass(frozen=True)
class Coloured(Settings):
    """Settings that ask for what no gate checks."""

    name = "coloured"

    def effects(self, taught: bool) -> Effects:
        return Effects()

    def stages(self, recipe: Sequence[Settings]) -> Sequence[Stage[Any]]:
        return []

    def limits(self) -> dict[str, float]:
        return {"colour": 1.0}


def test_a_limit_that_no_gate_checks_is_refused_before_anything_is_done(teacher: Path, data: Data, tmp_path: Path) -> None:
    job = Job(teacher, data, Budget(), Recipe.of(Coloured()), tmp_path / "out", 1)
    with pytest.raises(InputError, match="recipe: 'colour' is no gate; known are macs"):
        checked(job, open_checkpoint(teacher), lambda text: None)


@pytest.mark.parametrize(
    ("items", "planned"),
    [
        ([VocabularySettings(), PruneSettings(), TAUGHT], True), ([Doubled(), PruneSettings(), TAUGHT], True),
        ([PruneSettings(heads=0.5), TAUGHT], False), ([TAUGHT, GradualSettings(0.5)], False),
    ],
)  # fmt: skip
def test_a_budget_plans_unless_a_step_says_how_much_is_left(
    items: list[Item], planned: bool, teacher: Path, data: Data, tmp_path: Path
) -> None:
    assert to_budget(Job(teacher, data, Budget(max_drop=1.0), Recipe.of(*items), tmp_path / "out", 1)) == planned
    assert not to_budget(Job(teacher, data, Budget(), Recipe.of(*items), tmp_path / "out", 1))


# -- what is saved is whole ----------------------------------------------------------------------------------------


class Killed(Exception):
    pass


@dataclass
class Broken(Stage[Note]):
    """A stage that writes its model and then fails, as often as `failures` says."""

    failures: int
    goes: bool = True
    name = "broken"
    record = Note

    def wanted(self, work: Work, context: Context) -> bool:
        return self.goes

    def make(self, work: Work, context: Context, folder: Path) -> Note:
        model = Doubled().apply(work.model, None, 2.0)
        note = context.keep(replace(work, model=model), folder, "written")
        self.failures -= 1
        if self.failures >= 0:
            raise Killed
        return note

    def load(self, work: Work, context: Context, record: Note, folder: Path) -> Work:
        assert record.note.endswith("written")
        return loaded(work, folder)


def test_a_stage_that_breaks_off_leaves_nothing_and_is_made_whole_by_the_next_run(begin: Begin) -> None:
    stage = Broken(1)
    context, work = begin(Recipe())
    place = context.run.folder / "steps" / "01-broken"
    with pytest.raises(Killed):
        stage(work, context)
    assert not place.exists()
    context, work = begin(Recipe())
    result = stage(work, context)
    assert (place / RECORD).is_file() and (place / MODEL / "config.json").is_file()
    weight = result.model.get_parameter("head.out.weight")
    assert torch.equal(weight, 2 * work.model.get_parameter("head.out.weight"))


def test_a_stage_that_is_not_wanted_gives_the_work_itself(begin: Begin) -> None:
    context, work = begin(Recipe())
    assert Broken(0, goes=False)(work, context) is work
    assert not context.run.records and not (context.run.folder / "steps").exists()


def test_an_attempt_s_stage_has_a_folder_of_its_own(begin: Begin) -> None:
    context, work = begin(Recipe())
    Broken(0)(work, replace(context, suffix="-half"))
    assert (context.run.folder / "steps" / "01-broken-half" / RECORD).is_file()


# -- what is told, and what is packed ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cut", "tokens second", "at once", "gradual", "masks"])
def test_a_record_says_the_quality_and_the_bytes_of_the_model_that_is_loaded(name: str, begin: Begin) -> None:
    context, work = begin(RECIPES[name])
    for stage in RECIPES[name].stages():
        work = stage(work, context)
        record = context.run.records[-1]
        place = context.run.folder / "steps" / f"{context.run.count:02d}-{stage.name}" / MODEL
        assert record.note and record.name == stage.name
        if place.is_dir():
            judging = context.judging(work)
            assert record.quality == pytest.approx(quality_of(work.data.task, judging, logits_of(work.model, judging.encoded)))
            assert stage.name == "vocabulary" or record.bytes == sum(file.stat().st_size for file in place.iterdir())


@pytest.mark.parametrize(
    ("name", "packed", "coded"), [("masks", True, False), ("stored in training", True, True), ("gradual", False, False)]
)
def test_zeros_and_codes_are_written_packed(name: str, packed: bool, coded: bool, begin: Begin) -> None:
    context, work = begin(RECIPES[name])
    for stage in RECIPES[name].stages():
        work = stage(work, context)
    (place,) = (path for path in (context.run.folder / "steps").glob(f"*/{MODEL}"))
    assert (place / "packed.safetensors").is_file() == packed and (place / "model.safetensors").is_file() == (not packed)
    assert (work.coded is not None) == coded and (not coded or set(work.coded or {}) == set(work.schemes))


def test_what_nobody_asks_for_is_not_done(begin: Begin) -> None:
    """Nothing is cut where nothing is asked, an untouched model is not taught by itself, and what is in float needs no ranges."""
    for recipe, changes in (
        (Recipe.of(PruneSettings()), {}), (Recipe.of(TAUGHT), {}), (Recipe.of(QuantizeSettings(smooth=0.5)), {"int8": False}),
        (Recipe.of(FactoriseSettings()), {"planner": Everything()}),
    ):  # fmt: skip
        context, work = begin(recipe)
        for stage in recipe.stages():
            assert stage(work, replace(context, **changes)) is work
        assert not context.run.records
    recipe = Recipe.of(PruneSettings(texts=16))
    context, work = begin(recipe)
    assert stages_of(recipe, work, replace(context, to_budget=True)) == ["observe", "plan", "prune"]


class Everything(Planner):
    """A planner that leaves everything as it is."""

    def selection(self, settings: Settings, work: Work, context: Context) -> tuple[Selection, str]:
        return Selection.all(blueprint_of(work.base)), "everything"

    def rank(self, work: Work, context: Context) -> int:
        return 0

    def schemes(self, settings: Settings, work: Work, context: Context) -> dict[str, Scheme]:
        return {}


def stages_of(recipe: Recipe, work: Work, context: Context) -> list[str]:
    """The stages that were carried out."""
    for stage in recipe.stages():
        work = stage(work, context)
    return [record.name for record in context.run.records]


def test_a_plan_of_everything_is_not_cut(begin: Begin) -> None:
    recipe = Recipe.of(PruneSettings(texts=16, heads=1.0))
    context, work = begin(recipe)
    assert stages_of(recipe, work, replace(context, planner=Everything())) == ["observe", "plan"]


class LastHead(Planner):
    """A planner that keeps the last head of every layer of the model as it is."""

    def selection(self, settings: Settings, work: Work, context: Context) -> tuple[Selection, str]:
        layers = Selection.all(blueprint_of(work.model)).layers
        return Selection(tuple(replace(layer, heads=layer.heads[-1:]) for layer in layers)), "the last head"

    def rank(self, work: Work, context: Context) -> int:
        return 0

    def schemes(self, settings: Settings, work: Work, context: Context) -> dict[str, Scheme]:
        return {}


def test_what_is_kept_is_counted_in_the_base_whatever_was_cut_before(begin: Begin) -> None:
    recipe = Recipe.of(Upper(), PruneSettings(texts=16, heads=0.5))
    context, work = begin(recipe)
    for stage in recipe.stages():
        work = stage(work, replace(context, planner=LastHead()))
    whole = blueprint_of(work.base).layers[1]
    assert work.selection == Selection((LayerSelection(1, (whole.heads - 1,), tuple(range(whole.neurons))),))
    assert work.selection.plan(blueprint_of(work.base)) == blueprint_of(work.model)


def test_a_step_that_cuts_layers_says_which(begin: Begin) -> None:
    recipe = Recipe.of(Upper(told=False))
    context, work = begin(recipe)
    with pytest.raises(
        InputError, match="recipe: upper leaves 1 of 2 layers, and its plan does not say which; let `plan` give a Selection"
    ):
        stages_of(recipe, work, context)


@pytest.mark.parametrize(("old", "new"), [('"selection"', '"selections"'), ('"layers"', '"layer"'), ('"note"', '"notes"')])
def test_a_damaged_record_is_one_line_that_names_it(old: str, new: str, begin: Begin) -> None:
    recipe = Recipe.of(PruneSettings(texts=16, heads=0.5))
    context, work = begin(recipe)
    stages_of(recipe, work, context)
    record = context.run.folder / "steps" / "02-plan" / RECORD
    text = record.read_text()
    assert old in text
    record.write_text(text.replace(old, new, 1))
    context, work = begin(recipe)
    with pytest.raises(InputError) as caught:
        stages_of(recipe, work, context)
    assert "02-plan" in str(caught.value) and "\n" not in str(caught.value)
