"""Recipes: settings that differ, strictly."""

from pathlib import Path

import pytest

from penjing.errors import InputError
from penjing.recipe import Recipe, read_recipe


def _recipe(folder: Path, text: str) -> Recipe:
    (folder / "recipe.yaml").write_text(text)
    return read_recipe(folder / "recipe.yaml")


def test_an_empty_recipe_is_the_default(tmp_path: Path) -> None:
    assert _recipe(tmp_path, "") == Recipe()


def test_settings_that_differ_and_steps_left_out(tmp_path: Path) -> None:
    recipe = _recipe(tmp_path, "prune: false\ndistill:\n  temperature: 4\n  schedule: {epochs: 7}\n")
    assert recipe.prune is None and recipe.distill is not None
    assert recipe.distill.temperature == 4 and recipe.distill.schedule.epochs == 7
    assert recipe.distill.schedule.batch_size == Recipe().distill.schedule.batch_size  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("destil: true", "'destil'; allowed are prune, distill, quantize"),
        ("distill: {schedule: {epochs: many}}", "epochs is 'many'; give a number like 3"),
        ("distill: {schedule: {epochs: 2.5}}", "epochs is 2.5"),
        ("- prune", "give a mapping"),
        ("a: [", "cannot be read as YAML"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        _recipe(tmp_path, text)
    assert said in str(caught.value)
