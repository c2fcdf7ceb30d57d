"""The rule by which steps go together in a recipe: every pair in both orders, with a training and without one."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from penjing.errors import InputError
from penjing.job.recipe import Recipe
from penjing.steps.bits.quantize import QuantizeSettings
from penjing.steps.bits.store import StoreSettings
from penjing.steps.cut.gradual import GradualSettings
from penjing.steps.cut.head_weights import HeadWeightsSettings
from penjing.steps.cut.prune import PruneSettings
from penjing.steps.cut.sparsify import SparsifySettings
from penjing.steps.cut.vocabulary import VocabularySettings
from penjing.steps.names import STEPS
from penjing.steps.reshape.activation import ActivationSettings
from penjing.steps.reshape.attention import AttentionSettings
from penjing.steps.reshape.factorise import FactoriseSettings
from penjing.steps.reshape.positions import PositionsSettings
from penjing.steps.reshape.project import ProjectSettings
from penjing.steps.reshape.share import ShareSettings
from penjing.steps.reshape.tokens import TokensSettings
from penjing.steps.settings import Effects, Settings, Trait, as_json, check_effects, check_name, effects, in_order, is_taught
from penjing.steps.stage import Stage
from penjing.steps.teach.distillation import Distillation
from penjing.steps.teach.exits import ExitsSettings
from penjing.steps.teach.mutual import MutualSettings
from penjing.steps.teach.replace import ReplaceSettings
from penjing.steps.teach.self_distill import SelfDistillSettings
from penjing.students.names import STUDENTS
from penjing.students.stage import StudentSettings

VARIANTS: dict[str, Settings] = {
    "vocabulary": VocabularySettings(),
    "prune": PruneSettings(macs=0.5),
    "gradual": GradualSettings(),
    "replace": ReplaceSettings(),
    "share": ShareSettings(1),
    "factorise": FactoriseSettings(4),
    "project": ProjectSettings(4),
    "attention": AttentionSettings(),
    "activation": ActivationSettings(),
    "positions": PositionsSettings(),
    "tokens": TokensSettings(),
    "head-weights": HeadWeightsSettings(),
    "mutual": MutualSettings(),
    "self-distill": SelfDistillSettings(),
    "exits": ExitsSettings(),
    "sparsify": SparsifySettings(),
    "sparsify at once": SparsifySettings(schedule="one-shot"),
    "store": StoreSettings(),
    "store in training": StoreSettings(training=True),
    "quantize": QuantizeSettings(),
    "quantize in training": QuantizeSettings(training=True),
    "smooth": QuantizeSettings(smooth=0.5),
} | {name: StudentSettings(student) for name, student in STUDENTS.items()}
"""Every step, and every way in which its effects are others."""
NEED_TRAINING = {
    "gradual",
    "replace",
    "mutual",
    "self-distill",
    "exits",
    "sparsify",
    "store in training",
    "quantize in training",
    *STUDENTS,
}
LEAVES = {
    "sparsify": Trait.ZEROS, "sparsify at once": Trait.ZEROS, "store": Trait.CODES, "store in training": Trait.CODES,
    "quantize in training": Trait.RANGES,
}  # fmt: skip
"""What a later step can spoil."""
RESHAPED = {"prune", "share", "factorise", "project", "attention", "activation", "positions", "tokens"}
SPOILS = {
    Trait.ZEROS: {*RESHAPED, "head-weights", "store", "store in training"},
    Trait.CODES: {"vocabulary", *RESHAPED, "head-weights", "sparsify at once", "smooth"},
    Trait.RANGES: {*RESHAPED, "head-weights", "sparsify at once", "store", "store in training", "smooth"},
}
"""The steps that give weights new values, by what is lost by it."""


def names(*settings: Settings) -> list[str]:
    return [item.name for item in settings]


def refusal(items: Sequence[Settings]) -> str:
    """What is said of a recipe; "" where it goes."""
    try:
        check_effects(items)
    except InputError as error:
        return str(error)
    return ""


def goes(first: str, second: str, *, taught: str) -> bool:
    """Whether the steps go in this order, where a training stands nowhere ("no"), or before, between or after them."""
    pair = [first, second]
    trained = [name for name in pair if name in NEED_TRAINING or (taught != "no" and name == "sparsify at once")]
    if taught == "no":
        if trained:
            return False
        order = pair
    else:  # what is trained counts in the training's place
        if len(trained) > 1:
            return False
        place = {"before": 0, "between": 1, "after": 2}[taught]
        order = [name for name in (*pair[:place], "training", *trained, *pair[place:]) if name not in trained]
        order[order.index("training") + 1 : order.index("training") + 1] = trained
    left = dict[Trait, str]()
    for name in order:
        if name == "training":
            if left:
                return False
            continue
        if name == "replace" and not {"vocabulary", *RESHAPED} & set(order[: order.index(name)]):
            return False  # nothing is cut
        if name in STUDENTS and set(order[: order.index(name)]) & {"vocabulary", *RESHAPED}:
            return False  # nothing is left of what was cut
        if any(trait in left for trait, spoilers in SPOILS.items() if name in spoilers):
            return False
        if any(before in STUDENTS for before in order[: order.index(name)]):
            return False  # there is no encoder any more
        if name in LEAVES:
            left[LEAVES[name]] = name
    return True


def recipe_of(first: Settings, second: Settings, taught: str) -> list[Settings]:
    items = [first, second]
    if taught != "no":
        items.insert({"before": 0, "between": 1, "after": 2}[taught], Distillation())
    return items


def test_every_step_of_the_table_is_looked_at() -> None:
    assert {type(settings) for settings in VARIANTS.values()} == {*STEPS.values(), StudentSettings} - {Distillation}
    assert list(STEPS) == [
        "vocabulary", "prune", "gradual", "share", "factorise", "project", "attention", "activation", "positions", "tokens", "head-weights",
        "distill", "replace", "mutual", "self-distill", "exits", "sparsify", "store", "quantize",
    ]  # fmt: skip
    assert all(issubclass(step, Settings) and step.name == name and step.paper and step.when for name, step in STEPS.items())


@pytest.mark.parametrize("taught", ["no", "before", "between", "after"])
@pytest.mark.parametrize("first", VARIANTS)
def test_a_pair_goes_or_is_refused_in_a_line_that_names_both(first: str, taught: str) -> None:
    for second in VARIANTS:
        if second != first:
            check_pair(first, second, taught)


def check_pair(first: str, second: str, taught: str) -> None:
    """The law of one pair, where a training stands nowhere, or before, between or after them."""
    one, other = VARIANTS[first], VARIANTS[second]
    items = recipe_of(one, other, taught)
    said = refusal(items)
    if one.name == other.name:  # of one step there is one
        with pytest.raises(InputError) as caught:
            Recipe(tuple(items))
        twice = f"recipe: {one.name} stands in it twice; give it once, or do the second on the result of the first"
        assert str(caught.value) == (said or twice) and said.startswith("recipe: " if said else "")
        return
    assert (not said) == goes(first, second, taught=taught), said
    if said:
        named = [name for name in {*names(*items), "distill"} if name in said.replace(",", " ").replace(";", " ").split()]
        assert said.startswith("recipe: ") and "\n" not in said and len(named) >= 2, said
    else:
        assert sorted(names(*in_order(items))) == sorted(names(*items))


@pytest.mark.parametrize("name", VARIANTS)
def test_a_step_alone_goes_unless_it_is_trained_and_nothing_is_taught(name: str) -> None:
    said = refusal([VARIANTS[name]])
    assert bool(said) == (name in NEED_TRAINING) and (("add prune" if name == "replace" else "add distill") in said) == bool(said)
    assert bool(refusal([Distillation(), VARIANTS[name]])) == (name == "replace")


def test_messages_say_what_is_lost_and_what_to_do() -> None:
    cases = {
        ("sparsify at once", "prune"): "recipe: prune would undo the zeros of sparsify; leave one of them out, or do prune in a run before",
        ("store", "smooth"): "recipe: quantize would undo the codes of few bits of store; leave one of them out, or do quantize in a run before",
        ("gradual", "store in training"): "recipe: gradual and store do not go in one run, since each takes the training over; do the second on"
        " the result of the first",
        ("logistic", "quantize"): "recipe: logistic is no encoder, and has nothing that quantize could change; leave one of them out",
    }  # fmt: skip
    for (first, second), said in cases.items():
        taught = "no" if "at once" in first or first == "store" else "before"
        assert refusal(recipe_of(VARIANTS[first], VARIANTS[second], taught)) == said
    assert refusal(recipe_of(VARIANTS["prune"], VARIANTS["logistic"], "after")) == (
        "recipe: logistic would undo what was cut of prune; leave one of them out"
    )
    assert refusal([VARIANTS["gradual"]]) == (
        "recipe: gradual is learned while distilling, and nothing is taught; add distill, or leave gradual out"
    )
    assert refusal([Distillation(), VARIANTS["replace"]]) == (
        "recipe: replace trains what was cut, and nothing is cut before distill; add prune, or leave replace out"
    )


# -- effects -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Own(Settings):
    """A step of any effects; `riding`: it goes on during the training."""

    name: str  # type: ignore[misc]
    does: Effects
    riding: bool = False

    def effects(self, taught: bool) -> Effects:
        return self.does

    def trains(self, taught: bool) -> bool:
        return self.riding

    def stages(self, recipe: Sequence[Settings]) -> Sequence[Stage[Any]]:
        return []


TRAITS = st.sets(st.sampled_from([Trait.CUTS, Trait.ZEROS, Trait.CODES, Trait.RANGES]), max_size=2)


@st.composite
def own_steps(draw: st.DrawFn) -> Own:
    """A step that makes and undoes anything, and may need a training."""
    needs = {Trait.ENCODER} | ({Trait.TRAINING} if draw(st.booleans()) else set())
    takes = needs & {Trait.TRAINING} if draw(st.booleans()) else set[Trait]()
    return Own("step", effects(list(needs), list(takes), list(draw(TRAITS)), list(draw(TRAITS))), riding=Trait.TRAINING in needs)


@given(st.lists(own_steps(), max_size=5), st.booleans())
def test_what_goes_finds_what_it_needs_and_keeps_what_was_made(steps: list[Own], taught: bool) -> None:
    items: list[Settings] = [replace(step, name=f"step{i}") for i, step in enumerate(steps)]
    if taught:
        items.insert(len(items) // 2, Distillation())
    if refusal(items):
        return
    there = {Trait.ENCODER}
    for item in in_order(items):
        does = item.effects(taught)
        assert does.needs <= there and not does.undoes & there
        there = there - does.takes | does.makes


@given(st.lists(own_steps(), max_size=5), st.booleans())
def test_less_is_never_refused_where_more_goes_but_for_the_training(steps: list[Own], taught: bool) -> None:
    """A recipe that goes still goes without any step that is not the training."""
    items: list[Settings] = [replace(step, name=f"step{i}") for i, step in enumerate(steps)]
    if taught:
        items.insert(0, Distillation())
    if refusal(items):
        return
    for gone in items:
        if not isinstance(gone, Distillation):
            assert not refusal([item for item in items if item is not gone])


@given(st.permutations(list(VARIANTS.values())), st.integers(0, 5))
def test_what_goes_on_during_the_training_comes_directly_after_it(items: list[Settings], place: int) -> None:
    mixed = [*items[:place], Distillation(), *items[place:]]
    order = in_order(mixed)
    assert len(order) == len(mixed) and {id(item) for item in order} == {id(item) for item in mixed}
    at = next(i for i, item in enumerate(order) if isinstance(item, Distillation))
    riders = [item for item in mixed if item.trains(True)]
    assert order[at + 1 : at + 1 + len(riders)] == riders
    rest = [item for item in mixed if not item.trains(True)]
    assert [item for item in order if not item.trains(True)] == rest


@pytest.mark.parametrize("name", VARIANTS)
def test_without_a_training_nothing_rides_and_the_order_is_as_it_was(name: str) -> None:
    items = [VARIANTS[name], VocabularySettings()]
    assert not is_taught(items) and in_order(items) == items and not VARIANTS[name].trains(False)


def test_a_step_that_needs_a_training_is_missed_however_it_says_that_it_trains() -> None:
    own = Own("own", effects([Trait.ENCODER, Trait.TRAINING], takes=[Trait.TRAINING]), riding=True)
    assert "own is learned while distilling" in refusal([own]) and not refusal([own, Distillation()])


@pytest.mark.parametrize("taught", [True, False])
@pytest.mark.parametrize("name", VARIANTS)
def test_a_step_does_not_undo_what_it_makes_itself(name: str, taught: bool) -> None:
    does = VARIANTS[name].effects(taught)
    assert not does.makes & does.undoes and does.takes <= does.needs
    assert Trait.TRAINING not in does.makes


# -- as JSON ----------------------------------------------------------------------------------------------------------


def _function() -> None:
    """Something that can be referred to."""


@dataclass(frozen=True)
class Size:
    """A class of one's own."""

    count: int


@dataclass(frozen=True)
class Width:
    """Another, of the same fields."""

    count: int


def values() -> Iterator[tuple[Any, Any]]:
    yield from [(None, None), (True, True), (3, 3), (0.5, 0.5), ("a", "a"), (Path("a/b"), "a/b")]
    yield [1, (2, Path("c"))], [1, [2, "c"]]
    yield {"kl": 1.0, _function: 2.0}, {"kl": 1.0, f"{__name__}:_function": 2.0}
    yield _function, f"{__name__}:_function"
    yield partial(_function), f"{__name__}:_function"
    yield Own, f"{__name__}:Own"
    yield PruneSettings, "penjing.steps.cut.prune:PruneSettings"
    yield VocabularySettings(0.5), {"object": "penjing.steps.cut.vocabulary:VocabularySettings", "part": 0.5, "corpus": None}
    yield partial(_function, 1, size=2), {"object": f"{__name__}:_function", "arguments": [1], "size": 2}
    yield {"b", "a", "c"}, ["a", "b", "c"]
    yield np.float32(0.5), 0.5
    yield np.int64(3), 3
    yield {"range": np.arange(3), "weights": torch.ones(2)}, {"range": [0, 1, 2], "weights": [1.0, 1.0]}
    yield [Size(3), Width(3)], [{"object": f"{__name__}:Size", "count": 3}, {"object": f"{__name__}:Width", "count": 3}]


@pytest.mark.parametrize(("value", "expected"), list(values()), ids=lambda value: type(value).__name__)
def test_settings_are_told_as_json(value: Any, expected: Any) -> None:
    assert as_json(value) == expected == json.loads(json.dumps(as_json(value)))


def test_an_object_of_one_s_own_is_told_by_its_class_and_its_attributes() -> None:
    class Local:
        """A class that no file can name."""

    with pytest.raises(InputError, match="define it at the top of a module of its own"):
        as_json(Local())

    own = Plain(3)
    assert as_json(own) == {"object": f"{__name__}:Plain", "size": 3}
    assert as_json(Plain(4)) != as_json(own)


class Plain:
    """A class with a setting."""

    def __init__(self, size: int) -> None:
        self.size = size


def test_a_corpus_is_told_by_what_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a film\n")
    before = VocabularySettings(corpus=tmp_path / "a.txt").to_json()
    (tmp_path / "a.txt").write_text("another film\n")
    after = VocabularySettings(corpus=tmp_path / "a.txt").to_json()
    assert before["corpus"] != after["corpus"] and str(tmp_path) not in str(before)


@pytest.mark.parametrize(("value", "allowed"), [("a", True), ("c", False), ("", False), (None, False), (["a"], False)])
def test_names_are_checked(value: Any, allowed: bool) -> None:
    if allowed:
        check_name("kind", value, ("a", "b"))
        return
    with pytest.raises(InputError, match=r"^kind: .* is none; allowed are a, b$"):
        check_name("kind", value, ("a", "b"))


def test_orders_of_three_name_what_is_in_the_way() -> None:
    """Of every three steps, in every order, with a training first: what is refused names a step that is there."""
    for three in product(("vocabulary", "prune", "sparsify", "store", "quantize", "quantize in training"), repeat=3):
        if len({VARIANTS[name].name for name in three}) < 3:
            continue
        items = [Distillation(), *(VARIANTS[name] for name in three)]
        said = refusal(items)
        assert not said or sum(name in said for name in names(*items)) >= 2, said


@pytest.mark.parametrize(
    ("items", "named", "reason"),
    [
        ([VARIANTS["sparsify at once"], VARIANTS["store"]], ("store", "sparsify"), "the zeros"),
        ([Distillation(), VARIANTS["sparsify"], VARIANTS["store"]], ("store", "sparsify"), "the zeros"),
        ([Distillation(), VARIANTS["gradual"], VARIANTS["store in training"]], ("gradual", "store"), "takes the training over"),
        ([VARIANTS["sparsify"]], ("sparsify", "distill"), "nothing is taught"),
        ([VARIANTS["store"], Distillation()], ("distill", "store"), "the codes of few bits"),
        ([VARIANTS["prune"], Distillation(), VARIANTS["logistic"]], ("logistic", "prune"), "what was cut"),
        ([Distillation(), VARIANTS["logistic"], VARIANTS["prune"]], ("logistic", "prune"), "is no encoder"),
    ],
)  # fmt: skip
def test_recipes_that_do_not_go_are_refused_for_their_own_reason(items: list[Settings], named: tuple[str, ...], reason: str) -> None:
    said = refusal(items)
    assert reason in said and all(name in said for name in named), said
