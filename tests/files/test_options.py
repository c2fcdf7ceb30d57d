"""What fields tell of themselves: written beside the field, read by whoever makes an option or reads YAML of it."""

import dataclasses
import math
from dataclasses import dataclass, field, fields
from typing import Any, get_type_hints

import pytest

from penjing.files.options import PANELS, Option, like, option, option_of
from penjing.job.api import Given, Machinery
from penjing.job.asked import Budget
from penjing.job.by_hand import Distilling, Pruning, Quantizing
from penjing.job.evaluation import Looking
from penjing.job.material import Sources
from penjing.job.reading import Compressing
from penjing.steps.bits.quantize import QuantizeSettings
from penjing.steps.bits.store import StoreSettings
from penjing.steps.cut.gradual import GradualSettings
from penjing.steps.cut.prune import PruneSettings
from penjing.steps.cut.sparsify import SparsifySettings
from penjing.steps.cut.vocabulary import VocabularySettings
from penjing.steps.reshape.factorise import FactoriseSettings
from penjing.steps.teach.distill import DistillSettings
from penjing.text.reading import Reading
from penjing.training.texts import TextSettings


@dataclass(frozen=True)
class Fruit:
    """A dataclass whose fields tell of themselves, but for one."""

    weight: float = option(1.5, "In grams.", least=None, most=100)
    kind: str = option("apple", "Of which tree.", allowed=("apple", "pear"), panel="data", name="tree")
    parts: tuple[str, ...] = option(tuple, "What it is made of.", required=True)
    secret: int = 3


def told(kind: Any, name: str) -> Option | None:
    return option_of(next(each for each in fields(kind) if each.name == name))


def test_a_field_has_its_default_and_what_is_told_of_it() -> None:
    assert Fruit() == Fruit(1.5, "apple", (), 3)
    assert told(Fruit, "weight") == Option("In grams.", least=None, most=100)
    assert told(Fruit, "kind") == Option("Of which tree.", allowed=("apple", "pear"), panel="data", name="tree")
    assert told(Fruit, "secret") is None
    assert Option() == Option("", 0, math.inf, (), "", "method", required=False)


def test_a_default_that_is_a_function_makes_a_new_one_for_each() -> None:
    @dataclass(frozen=True)
    class Basket:
        """Each with a list of its own."""

        fruits: list[Fruit] = option(list, "What is in it.")

    first, second = Basket(), Basket()
    assert first.fruits == [] and first.fruits is not second.fruits
    assert told(Fruit, "parts") == Option("What it is made of.", required=True) and Fruit().parts == ()


def test_a_field_like_another_tells_the_same_with_what_differs() -> None:
    @dataclass(frozen=True)
    class Order:
        """Fields of `Fruit`, and changed ones."""

        weight: float = like(Fruit, "weight")
        heavy: float | None = like(Fruit, "weight", None, most=7, help="In tons.")
        kind: str = like(Fruit, "kind", panel="method")
        parts: tuple[str, ...] = like(Fruit, "parts")
        secret: int = like(Fruit, "secret", help="Told after all.")

    assert Order() == Order(1.5, None, "apple", (), 3)
    assert told(Order, "weight") == told(Fruit, "weight")
    assert told(Order, "heavy") == Option("In tons.", least=None, most=7)
    assert told(Order, "kind") == dataclasses.replace(told(Fruit, "kind") or Option(), panel="method")
    assert told(Order, "parts") == told(Fruit, "parts") and told(Order, "secret") == Option("Told after all.")


def test_a_field_like_one_that_is_not_there_is_our_own_bug() -> None:
    with pytest.raises(StopIteration):
        like(Fruit, "colour")


def test_metadata_of_others_are_none() -> None:
    @dataclass(frozen=True)
    class Other:
        """Metadata under the same key."""

        size: int = field(default=1, metadata={"option": "large"})

    assert told(Other, "size") is None


# -- what is told in the source ------------------------------------------------------------------------------------

KINDS = (
    Budget, Compressing, Distilling, DistillSettings, FactoriseSettings, Given, GradualSettings, Looking, Machinery, PruneSettings, Pruning,
    Quantizing, QuantizeSettings, Reading, Sources, SparsifySettings, StoreSettings, TextSettings, VocabularySettings,
)  # fmt: skip
TOLD = [(kind, each.name) for kind in KINDS for each in fields(kind) if option_of(each)]


@pytest.mark.parametrize(("kind", "name"), TOLD, ids=[f"{kind.__name__}.{name}" for kind, name in TOLD])
def test_every_option_says_what_it_is_and_allows_its_default(kind: Any, name: str) -> None:
    described = told(kind, name)
    assert described is not None and described.panel in PANELS
    assert described.help and described.help[0].isupper() and described.help.endswith(".") and "--" not in described.help
    each = next(found for found in fields(kind) if found.name == name)
    default = each.default_factory() if each.default_factory is not dataclasses.MISSING else each.default
    assert default is not dataclasses.MISSING
    if described.allowed and default is not None:
        assert default in described.allowed
    if isinstance(default, (int, float)) and not isinstance(default, bool):
        assert (default > 0 if described.least is None else default >= described.least) and default <= described.most
    assert not described.required or kind in (Given, Quantizing)
    assert name in get_type_hints(kind)


def test_marked_names_are_options_somewhere() -> None:
    """What a help text puts in `marks` is the name of a field, or of its option."""
    known = {name for _, name in TOLD} | {described.name for kind, name in TOLD if (described := told(kind, name)) and described.name}
    for kind, name in TOLD:
        described = told(kind, name)
        assert described is not None
        marked = described.help.split("`")[1::2]
        assert set(marked) <= known, (kind, name)
