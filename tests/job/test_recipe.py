"""Recipes: steps in order, looked up and changed by their kind, and the settings of prune, strictly."""

import math
from typing import Any, final

import pytest

from penjing.blueprint import Blueprint
from penjing.errors import InputError
from penjing.job.recipe import Item, Recipe, recipe_of
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.steps.bits.quantize import QuantizeSettings
from penjing.steps.bits.store import StoreSettings
from penjing.steps.cut.criteria import CRITERIA
from penjing.steps.cut.gradual import GradualSettings
from penjing.steps.cut.prune import PruneSettings
from penjing.steps.cut.sparsify import SparsifySettings
from penjing.steps.cut.vocabulary import VocabularySettings
from penjing.steps.reshape.factorise import FactoriseSettings
from penjing.steps.settings import Settings
from penjing.steps.stage import Applied
from penjing.steps.step import Step
from penjing.steps.teach.distill import DistillSettings
from penjing.steps.teach.distillation import Distillation
from penjing.students.logistic import Logistic
from penjing.students.stage import StudentSettings
from penjing.tasks.task import Examples

# -- the list ------------------------------------------------------------------------------------------------------


def test_the_default_recipe_prunes_distils_and_quantizes() -> None:
    assert Recipe() == Recipe.of(PruneSettings(), Distillation(), QuantizeSettings()) == recipe_of(None)
    assert [type(item) for item in Recipe().steps] == [PruneSettings, Distillation, QuantizeSettings]
    assert Recipe().taught and not Recipe().takers and not Recipe().limits


def test_settings_of_losses_and_a_student_stand_in_a_list_as_they_are() -> None:
    how = DistillSettings(losses={"kl": 1.0})
    recipe = recipe_of([how, Logistic()])
    assert recipe.steps == (Distillation(how), StudentSettings(Logistic())) and recipe.distillation == how
    assert recipe_of(recipe) is recipe and recipe_of([]) == Recipe(())


def test_a_step_is_found_by_its_kind() -> None:
    prune = PruneSettings(macs=0.5)
    recipe = Recipe.of(prune, QuantizeSettings(texts=9))
    assert recipe.get(PruneSettings) == prune and recipe.get(QuantizeSettings) == QuantizeSettings(texts=9)
    assert recipe.get(StoreSettings) is None and recipe.distillation is None and not recipe.taught


def test_settings_take_the_place_of_those_of_the_same_kind() -> None:
    recipe = Recipe.of(QuantizeSettings(), PruneSettings())
    assert recipe.with_(PruneSettings(layers=3)) == Recipe.of(QuantizeSettings(), PruneSettings(layers=3))
    how = DistillSettings(temperature=2.0)
    assert Recipe().with_(how) == Recipe.of(PruneSettings(), how, QuantizeSettings())


@pytest.mark.parametrize(
    ("item", "order"),
    [
        (VocabularySettings(), ["vocabulary", "prune", "distill", "quantize"]),
        (FactoriseSettings(), ["prune", "factorise", "distill", "quantize"]),
        (SparsifySettings(), ["prune", "distill", "sparsify", "quantize"]),
        (StoreSettings(), ["prune", "distill", "store", "quantize"]),
    ],
)
def test_a_new_step_comes_where_it_usually_does(item: Item, order: list[str]) -> None:
    assert [step.name for step in Recipe().with_(item).steps] == order
    assert [step.name for step in Recipe.of(Distillation()).with_(item).steps] == [
        name for name in order if name not in ("prune", "quantize")
    ]


def test_steps_are_left_out_by_their_kind() -> None:
    assert Recipe().without(PruneSettings, Distillation) == Recipe.of(QuantizeSettings())
    assert Recipe().without(StoreSettings) == Recipe()


def test_what_goes_on_during_the_training_takes_it_over() -> None:
    assert [item.name for item in Recipe.of(Distillation(), SparsifySettings(0.5)).takers] == ["sparsify"]
    assert [item.name for item in Recipe.of(Distillation(), StoreSettings(training=True)).takers] == ["store"]
    assert not Recipe.of(SparsifySettings(0.5, schedule="one-shot")).takers


def test_a_recipe_is_told_as_a_list_of_names_with_settings() -> None:
    told = Recipe.of(PruneSettings(macs=0.5), StoreSettings("kmeans", 3)).to_json()
    assert [list(step) for step in told] == [["prune"], ["store"]]
    assert told[0]["prune"]["macs"] == 0.5 and told[1]["store"] == {
        "scheme": "kmeans", "bits": 3, "group": 128, "clip": "mse", "training": False, "activation_bits": 0, "curvature": "gauss-newton",
        "squash": False, "halves": False, "gradient_bits": 0,
    }  # fmt: skip


@final
class Same(Step[None, Blueprint]):
    """A step that changes nothing."""

    name = "same"

    def observe(self, model: PenjingPreTrainedModel, data: Examples) -> None:
        """Nothing is looked at."""

    def plan(self, blueprint: Blueprint, evidence: None) -> Blueprint:
        return blueprint

    def apply(self, model: PenjingPreTrainedModel, plan: Blueprint, evidence: None) -> PenjingPreTrainedModel:
        return model


def test_a_step_of_one_s_own_stands_in_it_as_it_is_and_is_asked_for_by_hand() -> None:
    step = Same()
    recipe = Recipe.of(step)
    assert recipe.steps == (Applied(step),) and recipe.by_hand and [item.name for item in recipe.steps] == ["same"]
    assert [stage.name for stage in recipe.stages()] == ["same"]


def test_of_one_kind_there_is_one_but_any_number_of_steps_of_one_s_own() -> None:
    for item in (PruneSettings(heads=0.5), DistillSettings(), VocabularySettings(), QuantizeSettings()):
        with pytest.raises(InputError, match=r"^recipe: \w+ stands in it twice; give it once"):
            Recipe.of(item, Same(), item)
    twice = Recipe.of(Same(), Same())
    assert len(twice.steps) == 2 and len(twice.with_(Same()).steps) == 3


# -- settings of prune ---------------------------------------------------------------------------------------------

PARTS = ("macs", "latency", "heads", "neurons", "hidden", "vocabulary")
ZERO = ("heads", "neurons", "vocabulary")


def _part(name: str, value: float) -> PruneSettings | VocabularySettings:
    return VocabularySettings(value) if name == "vocabulary" else PruneSettings(**{name: value})


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("value", [-0.1, 0, 1e-9, 1, 1.01, math.nan, math.inf])
def test_a_part_is_above_zero_and_at_most_one(name: str, value: float) -> None:
    if 0 < value <= 1 or (value == 0 and name in ZERO):
        settings = _part(name, value)
        assert Recipe.of(settings).by_hand and settings.cuts and settings.structural == (name != "vocabulary")
        assert isinstance(settings, VocabularySettings) or settings.limited == (name in ("macs", "latency"))
        return
    option = "vocab" if name == "vocabulary" else name
    with pytest.raises(InputError, match=f"^{option}: {value} is out of range; give the part that is kept, above 0 and at most 1"):
        _part(name, value)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"importance": "magic"}, "importance: 'magic' is none; allowed are " + ", ".join(CRITERIA)),
        ({"repair": "glue"}, "repair: 'glue' is none; allowed are none, scales, weights"),
        ({"layers": 0}, "layers: 0 is out of range; give how many layers are kept, at least 1"),
        ({"layers": 2.5}, "layers: 2.5 is out of range"),
        ({"layers": True}, "layers: True is out of range"),
        ({"macs": 0.5, "heads": 0.5}, "heads, neurons: `macs` or `latency` says how much is cut in all; give those, or these"),
        ({"latency": 0.5, "neurons": 0.0}, "heads, neurons: `macs` or `latency` says"),
        ({"macs": 0.5, "latency": 0.5}, "macs, latency: two limits on the cost; give one"),
        ({"hidden": 0.5, "importance": "gates"}, "hidden: `importance` gates scores heads and neurons alone; give another"),
    ],
)
def test_settings_that_do_not_go_are_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        PruneSettings(**fields)
    assert str(caught.value).startswith(said)


def test_what_is_asked_by_hand_and_what_the_budget_decides() -> None:
    assert not Recipe().by_hand and not PruneSettings().cuts
    assert {name for name, criterion in CRITERIA.items() if criterion.comparable} == {"fisher", "block-fisher", "obs", "gates"}
    assert PruneSettings(layers=3).cuts and not PruneSettings(layers=3).limited
    assert Recipe.of(PruneSettings(macs=0.5)).limits == {"macs": 0.5}
    assert Recipe.of(Distillation(), GradualSettings(0.4)).limits == {"macs": 0.4}
    without: list[Settings] = [Distillation(), QuantizeSettings()]
    assert not Recipe(tuple(without)).limits and not Recipe(tuple(without)).by_hand
