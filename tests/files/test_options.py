"""What fields tell of themselves: written beside the field, read by whoever makes an option or reads YAML of it."""

import dataclasses
import math
from dataclasses import dataclass, field, fields
from typing import Any

import pytest

from penjing.files.options import Option, like, option, option_of


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
