"""Recipes: settings that differ, strictly."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from penjing.errors import InputError
from penjing.job.recipe import Recipe, read_recipe
from penjing.steps.bits.quantize import QuantizeSettings
from penjing.steps.cut.criteria import COMPARABLE, IMPORTANCE
from penjing.steps.cut.gradual import GradualSettings
from penjing.steps.cut.prune import PruneSettings
from penjing.steps.cut.sparsify import SparsifySettings


def _recipe(folder: Path, text: str) -> Recipe:
    (folder / "recipe.yaml").write_text(text)
    return read_recipe(folder / "recipe.yaml")


def test_an_empty_recipe_is_the_default(tmp_path: Path) -> None:
    assert _recipe(tmp_path, "") == Recipe()


def test_settings_that_differ_and_steps_left_out(tmp_path: Path) -> None:
    recipe = _recipe(tmp_path, "prune: false\ndistill:\n  temperature: 4\n  schedule: {epochs: 7}\n")
    assert recipe.prune is None and recipe.distill is not None
    assert recipe.distill.temperature == 4 and recipe.distill.schedule.epochs == 7
    assert recipe.distill.schedule.batch_size == Recipe().distill.schedule.batch_size


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("destil: true", "'destil'; allowed are prune, gradual, sparsify, texts, distill, store, quantize"),
        ("distill: {schedule: {epochs: many}}", "epochs is 'many'; give a number like 3"),
        ("distill: {schedule: {epochs: 2.5}}", "epochs is 2.5"),
        ("- prune", "give a mapping"),
        ("prune: 3", "prune is 3; give a mapping"),
        ("prune: {importance: 3}", "importance is 3; give a value like 'fisher'"),
        ("prune: {importance: magic}", "--importance: 'magic' is none; allowed are fisher, block-fisher, obs"),
        ("prune: {per_layer: 1}", "per_layer is 1; give a value like False"),
        ("prune: {head_weights: 'yes'}", "head_weights is 'yes'; give a value like False"),
        ("prune: {texts: 0}", "texts is 0; give a number like 1000, not below 1"),
        ("prune: {macs: half}", "macs is 'half'; give a number like 3, not below 0"),
        ("prune: {macs: true}", "macs is True; give a number"),
        ("prune: {macs: .nan}", "macs is nan; give a number"),
        ("prune: {macs: -0.5}", "macs is -0.5; give a number"),
        ("prune: {macs: 1.5}", "--macs: 1.5 is out of range"),
        ("prune: {layers: 2.5}", "--layers: 2.5 is out of range; give how many layers are kept, at least 1"),
        ("prune: {layers: true}", "layers is True; give a number"),
        ("gradual: {part: 0}", "part is 0; it must be above 0"),
        ("gradual: {parts: 0.5}", "gradual has 'parts'; allowed are part, warmup, prune_until"),
        ("gradual: true\ndistill: false", "--schedule: gradual structured pruning trains"),
        ("gradual: true\nsparsify: true", "gradual pruning and sparsity do not go in one run"),
        ("store: true\nsparsify: true", "store would fill the zeros"),
        ("store: true\nquantize: {training: true}", "store would undo"),
        ("store: true\nquantize: {smooth: 0.5}", "--smooth"),
        ("quantize: {training: true, smooth: 0.5}", "--smooth"),
        ("store: {training: true}\ngradual: true", "do not go in one run"),
        ("store: {training: true}\ndistill: false", "--no-training: training in few bits is learned"),
        ("store: {scheme: linear, bits: 1}", "--bits: linear has no 1; allowed are 2, 3"),
        ("store: {scheme: ternary, halves: true}", "training: true"),
        ("store: {scheme: linear, halves: true, training: true}", "halves splits ternary"),
        ("store: {group: -1}", "group is -1"),
        ("quantize: {scheme: int4}", "--scheme: 'int4' is none; allowed are any, dynamic, static"),
        ("sparsify: {scope: everything}", "--scope: 'everything' is none; allowed are"),
        ("sparsify: {scope: false}", "scope is False; give a value like 'global'"),
        ("sparsify: {rounds: 2.5}", "rounds is 2.5; give a number like 4, not below 1"),
        ("sparsify: {sparsity: 1}", "--sparsity: 1 is out of range"),
        ("a: [", "cannot be read as YAML"),
        ("distill: {losses: {kd: 1}}", "'kd' is none; allowed are kl"),
        ("distill: {losses: kl}", "give a mapping of names to weights"),
        ("texts: {how: magic}", "allowed are neighbours"),
        ("student: gpt", "'gpt' is none; allowed are bilstm"),
        ("student: logistic\nprune: {macs: 0.5}", "a logistic has nothing that prune could change"),
        ("student: trees\nsparsify: true\nstore: true", "set sparsify, store to false"),
        ("student: bilstm\nquantize: {texts: 9}", "nothing that quantize could change"),
        ("student: static\ngradual: {part: 0.2}", "nothing that gradual could change"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        _recipe(tmp_path, text)
    assert said in str(caught.value)


def test_every_section_is_read(tmp_path: Path) -> None:
    recipe = _recipe(
        tmp_path,
        """
prune: {importance: obs, repair: scales, heads: 0, neurons: 0.5, layers: 3, vocabulary: 0, per_layer: true, head_weights: true}
sparsify: {sparsity: 0.8, scope: row, embeddings: true}
quantize: {texts: 9}
""",
    )
    assert recipe.prune == PruneSettings(1000, "obs", "scales", None, None, 0, 0.5, None, 3, None, 0, True, True)
    assert recipe.sparsify == SparsifySettings(0.8, scope="row", embeddings=True) and recipe.gradual is None
    assert recipe.quantize == QuantizeSettings(texts=9) and recipe.distill == Recipe().distill


@pytest.mark.parametrize(("name", "default"), [("gradual", GradualSettings()), ("sparsify", SparsifySettings())])
def test_a_step_that_is_left_out_by_itself_can_be_asked_for(tmp_path: Path, name: str, default: Any) -> None:
    for text, expected in ((": true", default), (":", default), (": {}", default), (": false", None)):
        recipe = _recipe(tmp_path, name + text)
        assert recipe == replace(Recipe(), **{name: expected})
        assert recipe.by_hand == (expected is not None)


def test_a_student_that_is_no_bert_is_distilled_and_nothing_else(tmp_path: Path) -> None:
    recipe = _recipe(tmp_path, "student: logistic\ndistill: {losses: {kl: 1}}")
    assert (recipe.student, recipe.prune, recipe.quantize) == ("logistic", None, None) and recipe.distill


def test_a_setting_can_be_taken_back(tmp_path: Path) -> None:
    assert _recipe(tmp_path, "prune: {macs: null, layers: null}") == Recipe()


# -- settings of prune -------------------------------------------------------------------------------------------

PARTS = ("macs", "latency", "heads", "neurons", "hidden", "vocabulary")
ZERO = ("heads", "neurons", "vocabulary")


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("value", [-0.1, 0, 1e-9, 1, 1.01, math.nan, math.inf])
def test_a_part_is_above_zero_and_at_most_one(name: str, value: float) -> None:
    if 0 < value <= 1 or (value == 0 and name in ZERO):
        settings = PruneSettings(**{name: value})
        assert Recipe(prune=settings).by_hand and settings.cuts == (name != "vocabulary")
        assert settings.limited == (name in ("macs", "latency"))
        return
    option = "vocab" if name == "vocabulary" else name
    with pytest.raises(InputError, match=f"--{option}: {value} is out of range; give the part that is kept, above 0 and at most 1"):
        PruneSettings(**{name: value})


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"importance": "magic"}, "--importance: 'magic' is none; allowed are " + ", ".join(IMPORTANCE)),
        ({"repair": "glue"}, "--repair: 'glue' is none; allowed are none, scales, weights"),
        ({"layers": 0}, "--layers: 0 is out of range; give how many layers are kept, at least 1"),
        ({"layers": 2.5}, "--layers: 2.5 is out of range"),
        ({"layers": True}, "--layers: True is out of range"),
        ({"macs": 0.5, "heads": 0.5}, "--heads, --neurons: --macs or --latency says how much is cut in all; give those, or these"),
        ({"latency": 0.5, "neurons": 0.0}, "--heads, --neurons: --macs or --latency says"),
        ({"macs": 0.5, "latency": 0.5}, "--macs, --latency: two limits on the cost; give one"),
        ({"hidden": 0.5, "importance": "gates"}, "--hidden: --importance gates scores heads and neurons alone; give another"),
    ],
)
def test_settings_that_do_not_go_are_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        PruneSettings(**fields)
    assert said in str(caught.value)


def test_what_is_asked_by_hand_and_what_the_budget_decides() -> None:
    assert not Recipe().by_hand and not PruneSettings().cuts and set(COMPARABLE) <= set(IMPORTANCE)
    assert PruneSettings(layers=3).cuts and not PruneSettings(layers=3).limited
    assert Recipe(prune=PruneSettings(macs=0.5)).macs == 0.5
    assert Recipe(gradual=GradualSettings(0.4)).macs == 0.4
    assert Recipe(prune=None).macs is None and not Recipe(prune=None).by_hand


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefghij", "bcdefghijk", strict=True)
)
"""Nine lists of nine lists and so on: a few hundred bytes that hold 9^11 texts."""


@pytest.mark.parametrize(
    "text",
    [
        BOMB,
        BOMB.replace("k: &k", "prune: &k"),
        BOMB.replace("k: &k", "distill: {losses: &k") + "}",
        "prune: &p {macs: *p}",
        "prune: &p [*p]",
        "[" * 5000,
        "distill: {temperature: 2026-02-30}",
        "distill: {temperature: " + "9" * 5000 + "}",
        "distill: {temperature: .inf}\nprune: {macs: .nan}",
        "? [a, b]\n: 1",
        "prune: !!python/object/apply:os.system ['true']",
        "1: 2",
        "null: 2",
        "\x00",
        "a: b: c",
    ],
    ids=range(15),
)
def test_a_hostile_recipe_is_refused_in_one_short_line(text: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as raised:
        _recipe(tmp_path, text)
    assert "\n" not in str(raised.value) and str(raised.value).startswith("--") and len(str(raised.value)) < 500
