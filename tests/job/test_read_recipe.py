"""Recipes from YAML: a list of steps in order, strictly; and the old form, a mapping that changes the default recipe, with a note."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from penjing.errors import InputError
from penjing.job.by_hand import schedule_of
from penjing.job.presets import PRESETS
from penjing.job.reading import OLD, Compressing, read_recipe
from penjing.job.recipe import Recipe
from penjing.steps.bits.quantize import QuantizeSettings
from penjing.steps.bits.store import StoreSettings
from penjing.steps.cut.gradual import GradualSettings
from penjing.steps.cut.prune import PruneSettings
from penjing.steps.cut.sparsify import SparsifySettings
from penjing.steps.cut.vocabulary import VocabularySettings
from penjing.steps.names import STEPS
from penjing.steps.settings import Settings
from penjing.steps.teach.distill import DistillSettings
from penjing.steps.teach.distillation import Distillation
from penjing.students.names import STUDENTS
from penjing.students.stage import StudentSettings
from penjing.training.texts import TextSettings

Read = Callable[[str], Recipe]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """A recipe of this YAML, of the form that is given no note."""

    def read_yaml(text: str) -> Recipe:
        told = list[str]()
        (tmp_path / "recipe.yaml").write_text(text)
        recipe = read_recipe(tmp_path / "recipe.yaml", told.append)
        assert not told
        return recipe

    return read_yaml


@pytest.fixture
def read_old(tmp_path: Path) -> Read:
    """A recipe of this YAML of the old form, which is told."""

    def read_yaml(text: str) -> Recipe:
        told = list[str]()
        (tmp_path / "recipe.yaml").write_text(text)
        recipe = read_recipe(tmp_path / "recipe.yaml", told.append)
        assert told == [OLD]
        return recipe

    return read_yaml


# -- a list of steps -----------------------------------------------------------------------------------------------


def test_an_empty_recipe_is_the_default(read: Read) -> None:
    assert read("") == read("# nothing\n") == Recipe()
    assert read("[]") == Recipe(())


def test_names_alone_are_steps_by_default(read: Read) -> None:
    assert read("- prune\n- distill\n- quantize\n") == Recipe()
    for text in ("- prune:\n- distill: {}\n- quantize: true\n", "[prune, {distill: }, {quantize: {}}]"):
        assert read(text) == Recipe()


TRAINED = ("gradual", "replace", "mutual", "self-distill", "exits", "sparsify")
"""Steps that go on during a training."""


@pytest.mark.parametrize("name", [*(name for name in STEPS if name not in ("distill", *TRAINED)), "distill"])
def test_every_step_can_stand_alone(name: str, read: Read) -> None:
    assert read(f"- {name}\n") == Recipe((STEPS[name](),))


def test_the_order_is_kept(read: Read) -> None:
    recipe = read("- quantize\n- vocabulary: {part: 0}\n")
    assert [item.name for item in recipe.steps] == ["quantize", "vocabulary"]
    recipe = read("- prune: {macs: 0.5, importance: obs}\n- distill: {epochs: 2}\n- vocabulary\n- quantize\n")
    assert [item.name for item in recipe.steps] == ["prune", "distill", "vocabulary", "quantize"]
    assert recipe.get(PruneSettings) == PruneSettings(macs=0.5, importance="obs")


def test_settings_that_differ(read: Read) -> None:
    recipe = read("- distill:\n    temperature: 4\n    schedule: {epochs: 7}\n")
    how = recipe.distillation
    assert how is not None and recipe.get(PruneSettings) is None
    assert (how.temperature, how.schedule.epochs, how.schedule.batch_size) == (4, 7, DistillSettings().schedule.batch_size)


def test_every_step_is_read(read: Read) -> None:
    recipe = read(
        """
- vocabulary: {part: 0}
- prune: {importance: obs, repair: scales, heads: 0, neurons: 0.5, layers: 3, per_layer: true, head_weights: true}
- distill
- sparsify: {sparsity: 0.8, scope: row, embeddings: true}
- quantize: {texts: 9}
"""
    )
    assert recipe == Recipe.of(
        VocabularySettings(0.0),
        PruneSettings(1000, "obs", "scales", None, None, 0, 0.5, None, 3, None, True, True),
        Distillation(),
        SparsifySettings(0.8, scope="row", embeddings=True),
        QuantizeSettings(texts=9),
    )


@pytest.mark.parametrize("name", [name for name, preset in PRESETS.items() if not preset.student])
def test_distillation_by_the_name_of_a_preset(name: str, read: Read) -> None:
    assert read(f"- distill: {{preset: {name}}}\n").distillation == PRESETS[name].settings()
    epochs = read(f"- distill: {{preset: {name}, epochs: 7, temperature: 3}}\n").distillation
    assert epochs == replace(schedule_of(PRESETS[name].settings(), 7), temperature=3)
    assert epochs.schedule.epochs == 7


def test_epochs_and_texts_of_distillation(read: Read) -> None:
    taught = read("- distill: {epochs: 2, texts: {copies: 3, how: rules}}\n").get(Distillation)
    assert taught is not None and taught.texts == TextSettings(copies=3, how="rules")
    assert taught.how == schedule_of(DistillSettings(), 2) and taught.how.schedule.least_steps == 0


@pytest.mark.parametrize("name", STUDENTS)
def test_a_student_by_its_name_or_as_student(name: str, read: Read) -> None:
    wanted = Recipe.of(Distillation(DistillSettings(losses={"kl": 1})), STUDENTS[name])
    for text in (f"- student: {name}\n", f"- {name}\n", f"- {name}: {{}}\n"):
        assert read(f"- distill: {{losses: {{kl: 1}}}}\n{text}") == wanted


def test_a_student_with_settings_of_its_own(read: Read) -> None:
    recipe = read("- distill: {losses: {kl: 1}}\n- logistic: {bits: 9}\n")
    taught = recipe.get(StudentSettings)
    assert taught is not None and taught.student == replace(STUDENTS["logistic"], bits=9)


@pytest.mark.parametrize("number", ["1e-4", "1.0e-4", "0.0001"])
def test_numbers_are_read_as_they_are_written(number: str, read: Read) -> None:
    how = read(f"- distill: {{schedule: {{learning_rate: {number}}}}}\n").distillation
    assert how is not None and how.schedule.learning_rate == 1e-4


# -- what is wrong, in both forms ----------------------------------------------------------------------------------

SETTINGS = [
    ("distill: {schedule: {epochs: many}}", "epochs is 'many'; give a number like 3"),
    ("distill: {schedule: {epochs: 2.5}}", "epochs is 2.5"),
    ("prune: 3", "prune is 3; give a mapping"),
    ("prune: {importance: 3}", "importance is 3; give a value like 'fisher'"),
    ("prune: {importance: magic}", "importance: 'magic' is none; allowed are fisher, block-fisher, obs"),
    ("prune: {per_layer: 1}", "per_layer is 1; give a value like False"),
    ("prune: {head_weights: 'yes'}", "head_weights is 'yes'; give a value like False"),
    ("prune: {texts: 0}", "texts is 0; give a number like 1000, not below 1"),
    ("prune: {macs: half}", "macs is 'half'; give a number like 3, not below 0"),
    ("prune: {macs: true}", "macs is True; give a number"),
    ("prune: {macs: .nan}", "macs is nan; give a number"),
    ("prune: {macs: -0.5}", "macs is -0.5; give a number"),
    ("prune: {macs: 1.5}", "macs: 1.5 is out of range"),
    ("prune: {layers: 2.5}", "layers: 2.5 is out of range; give how many layers are kept, at least 1"),
    ("prune: {layers: true}", "layers is True; give a number"),
    ("gradual: {part: 0}", "part is 0; it must be above 0"),
    ("replace: {schedule: cosine}", "schedule: 'cosine' is none; allowed are linear, constant"),
    ("replace: {rate: 1.5}", "rate: 1.5 is out of range"),
    ("replace: {until: 2}", "until: 2 is out of range"),
    ("gradual: {parts: 0.5}", "gradual has 'parts'; allowed are part, warmup, prune_until"),
    ("quantize: {training: true, smooth: 0.5}", "smooth: a model that was trained rounded"),
    ("quantize: {ranges: learned}", "ranges: they are learned in the training for static int8"),
    ("quantize: {ranges: learned, scheme: dynamic, training: true}", "ranges: they are learned in the training for static int8"),
    ("store: {scheme: linear, bits: 1}", "bits: linear has no 1; allowed are 2, 3"),
    ("store: {scheme: ternary, halves: true}", "training: true"),
    ("store: {scheme: linear, halves: true, training: true}", "halves splits ternary"),
    ("store: {scheme: xnor}", "scheme: xnor rounds the inputs too, which is trained"),
    ("store: {scheme: xnor, activation_bits: 8, training: true}", "activation_bits: xnor reads the signs"),
    ("store: {gradient_bits: 4}", "training: true"),
    ("store: {group: -1}", "group is -1"),
    ("quantize: {scheme: int4}", "scheme: 'int4' is none; allowed are any, dynamic, static"),
    ("sparsify: {scope: everything}", "scope: 'everything' is none; allowed are"),
    ("sparsify: {scope: false}", "scope is False; give a value like 'global'"),
    ("sparsify: {rounds: 2.5}", "rounds is 2.5; give a number like 4, not below 1"),
    ("sparsify: {sparsity: 1}", "sparsity: 1 is out of range"),
    ("distill: {losses: {kd: 1}}", "'kd' is none; allowed are kl"),
    ("distill: {losses: kl}", "give a mapping of names to weights"),
    ("distill: {preset: kd}", "preset is 'kd'; allowed are states, labels, hinton"),
    ("distill: {preset: logistic}", "preset is 'logistic'; allowed are states"),
    ("distill: {epochs: 0}", "epochs is 0; give a number like 3, not below 1"),
    ("distill: {epochs: 2.5}", "epochs is 2.5; give a number"),
    ("distill: {texts: {how: magic}}", "augment: 'magic' is none; allowed are neighbours"),
    ("distill: {texts: false}", "texts is False; give a mapping of settings"),
    ("distill: {texts: {hows: rules}}", "texts has 'hows'; allowed are part, by, copies, how"),
    ("vocabulary: {part: 2}", "vocab: 2 is out of range"),
    ("factorise: {rank: -1}", "rank is -1; give a number like 0, not below 0"),
]
"""One step and what is said of it."""
TOGETHER = [
    (["gradual: true", "distill: false"], "recipe: gradual is learned while distilling, and nothing is taught; add distill"),
    (["gradual: true", "sparsify: true"], "recipe: gradual and sparsify do not go in one run"),
    (["store: true", "sparsify: true"], "recipe: store would undo the zeros of sparsify"),
    (["store: true", "quantize: {training: true}"], "recipe: store would undo the ranges that int8 was trained in of quantize"),
    (["store: true", "quantize: {smooth: 0.5}"], "recipe: quantize would undo the codes of few bits of store"),
    (["store: {training: true}", "gradual: true"], "recipe: gradual and store do not go in one run"),
    (["store: {training: true}", "distill: false"], "recipe: store is learned while distilling, and nothing is taught; add distill"),
    (["student: logistic", "prune: {macs: 0.5}"], "recipe: logistic would undo what was cut of prune; leave one of them out"),
    (["student: trees", "sparsify: true", "store: true"], "recipe: sparsify and trees do not go in one run"),
    (["student: bilstm", "quantize: {texts: 9}"], "recipe: bilstm is no encoder, and has nothing that quantize could change"),
    (["student: static", "gradual: {part: 0.2}"], "recipe: gradual and static do not go in one run"),
]
"""Steps that do not go together, in the old form, and what is said."""
AS_LISTS = [
    ("- gradual", TOGETHER[0][1]),
    ("- distill\n- gradual\n- sparsify", TOGETHER[1][1]),
    ("- distill\n- sparsify\n- store", TOGETHER[2][1]),
    ("- distill\n- store\n- quantize: {training: true}", TOGETHER[3][1]),
    ("- store\n- quantize: {smooth: 0.5}", TOGETHER[4][1]),
    ("- distill\n- gradual\n- store: {training: true}", TOGETHER[5][1]),
    ("- store: {training: true}", TOGETHER[6][1]),
    ("- prune: {macs: 0.5}\n- distill\n- student: logistic", TOGETHER[7][1]),
    ("- distill\n- sparsify\n- store\n- student: trees", TOGETHER[8][1]),
    ("- distill\n- student: bilstm\n- quantize: {texts: 9}", TOGETHER[9][1]),
    ("- distill\n- gradual: {part: 0.2}\n- static", TOGETHER[10][1]),
]
"""The same, in the order in which the steps come."""
FORM = [
    ("3", "is 3; give a list of steps"),
    ("prune", "is 'prune'; give a list of steps"),
    ("false", "is False; give a list of steps"),
    ("- 3", "step 1 is 3; give a step's name, or one name and a mapping of settings"),
    ("- prune\n- [distill]", "step 2 is ['distill']; give a step's name"),
    ("- {prune: {}, distill: {}}", "step 1 is {"),
    ("- {}", "step 1 is {}; give a step's name"),
    (
        "- destil",
        f"step 1 has 'destil'; allowed are {', '.join(STEPS)}, bilstm, logistic",
    ),
    ("- prune: false", "prune is False; give a mapping of settings"),
    ("- 1: {}", "step 1 has 1; allowed are"),
    ("- distill\n- student: gpt", "the student 'gpt' is none; allowed are bilstm"),
    ("- distill\n- student: [1]", "the student [1] is none; allowed are bilstm"),
    ("- distill\n- logistic: {bit: 3}", "logistic has 'bit'; allowed are bits"),
    ("- logistic", "recipe: logistic is learned while distilling, and nothing is taught; add distill"),
    ("a: [", "cannot be read as YAML"),
]
OLD_FORM = [
    (
        "destil: true",
        f"'destil'; allowed are {', '.join(STEPS)}, texts, student",
    ),
    ("texts: {how: magic}", "allowed are neighbours"),
    ("student: gpt", "'gpt' is none; allowed are bilstm"),
    ("prune: {vocabulary: 2}", "vocab: 2 is out of range"),
    ("prune: {vocabulary: half}", "part is 'half'; give a number"),
]
"""Of the old form alone."""


def _first(text: str) -> str:
    """What a step needs to come before it in a list."""
    needs = text.startswith(("gradual", "sparsify")) or "training: true" in text
    return "- distill\n" if needs else ""


@pytest.mark.parametrize(("text", "said"), [*FORM, *((f"{_first(text)}- {text}", said) for text, said in SETTINGS), *AS_LISTS])
def test_what_is_wrong_is_said(text: str, said: str, read: Read) -> None:
    with pytest.raises(InputError) as caught:
        read(text)
    assert said in str(caught.value)


@pytest.mark.parametrize(("text", "said"), [*OLD_FORM, *SETTINGS, *(("\n".join(lines), said) for lines, said in TOGETHER)])
def test_what_is_wrong_in_the_old_form_is_said(text: str, said: str, read_old: Read) -> None:
    with pytest.raises(InputError) as caught:
        read_old(text)
    assert said in str(caught.value)


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefghij", "bcdefghijk", strict=True)
)
"""Nine lists of nine lists and so on: a few hundred bytes that hold 9^11 texts."""
HOSTILE = [
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
]
HOSTILE_LISTS = [
    f"- {BOMB.splitlines()[0]}\n" + "".join(f"- {line}\n" for line in BOMB.splitlines()[1:]),
    f"- &a [x, x, x, x, x, x, x, x, x]\n- prune: {{macs: [*a, *a, {'[' * 50}1{']' * 50}]}}",
    "- prune: &p {macs: *p}",
    "- &p [*p]",
    "&p [*p]",
    "- distill: {temperature: " + "9" * 5000 + "}",
    "- distill: {temperature: .inf}",
    "- distill: {losses: {kl: 1.0e+309}}",
    "- distill: {texts: {copies: -1}}",
    "- distill: {texts: [1, 2]}",
    "- distill: {preset: {a: 1}}",
    "- distill: {preset: [states]}",
    "- distill: {epochs: " + "9" * 400 + "}",
    "- [a, b]",
    "- {[a, b]: 1}",
    "- null",
    "- null: 2",
    "- 2026-02-28",
    "- student: {logistic: 1}",
    "- vocabulary: {corpus: [1]}",
    "- prune: {" + "x" * 5000 + ": 1}",
    "- " + "x" * 5000,
    "- distill: {losses: {kl: 1}, losses: 3}",
    "- store: {bits: " + "9" * 400 + "}",
]


@pytest.mark.parametrize("text", [*HOSTILE, *HOSTILE_LISTS], ids=range(len(HOSTILE) + len(HOSTILE_LISTS)))
def test_a_hostile_recipe_is_refused_in_one_short_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(InputError) as raised:
        read_recipe(tmp_path / "recipe.yaml")
    said = str(raised.value)
    assert "\n" not in said and said.split(":")[0].isidentifier() and len(said) < 500


def test_a_file_that_is_none_is_said(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(InputError, match=r"recipe: .* cannot be read as YAML"):
            read_recipe(path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"recipe: .* cannot be read as YAML"):
        read_recipe(tmp_path / "binary.yaml")


# -- the old form --------------------------------------------------------------------------------------------------


def test_settings_that_differ_and_steps_left_out(read_old: Read) -> None:
    recipe = read_old("prune: false\ndistill:\n  temperature: 4\n  schedule: {epochs: 7}\n")
    how = recipe.distillation
    assert recipe.get(PruneSettings) is None and how is not None
    assert how.temperature == 4 and how.schedule.epochs == 7
    assert how.schedule.batch_size == DistillSettings().schedule.batch_size


def test_every_section_is_read(read_old: Read) -> None:
    recipe = read_old(
        """
prune: {importance: obs, repair: scales, heads: 0, neurons: 0.5, layers: 3, vocabulary: 0, per_layer: true, head_weights: true}
sparsify: {sparsity: 0.8, scope: row, embeddings: true}
quantize: {texts: 9}
"""
    )
    assert recipe.get(PruneSettings) == PruneSettings(1000, "obs", "scales", None, None, 0, 0.5, None, 3, None, True, True)
    assert recipe.get(VocabularySettings) == VocabularySettings(0.0)
    assert recipe.get(SparsifySettings) == SparsifySettings(0.8, scope="row", embeddings=True) and recipe.get(GradualSettings) is None
    assert recipe.get(QuantizeSettings) == QuantizeSettings(texts=9) and recipe.distillation == Recipe().distillation
    assert [item.name for item in recipe.steps] == ["vocabulary", "prune", "distill", "sparsify", "quantize"]


@pytest.mark.parametrize("default", [GradualSettings(), SparsifySettings()], ids=["gradual", "sparsify"])
def test_a_step_that_is_left_out_by_itself_can_be_asked_for(default: Settings, read_old: Read) -> None:
    wanted = Recipe().with_(default)
    if isinstance(default, GradualSettings):  # it decides what goes
        wanted = wanted.without(PruneSettings)
    for text, expected in ((": true", wanted), (":", wanted), (": {}", wanted), (": false", Recipe())):
        recipe = read_old(default.name + text)
        assert recipe == expected
        assert recipe.by_hand == (expected is wanted)


def test_a_student_that_is_no_bert_is_distilled_and_nothing_else(read_old: Read) -> None:
    recipe = read_old("student: logistic\ndistill: {losses: {kl: 1}}")
    assert recipe == Recipe.of(DistillSettings(losses={"kl": 1}), STUDENTS["logistic"])


def test_texts_are_those_of_the_distillation(read_old: Read) -> None:
    taught = read_old("texts: {copies: 2, how: rules}").get(Distillation)
    assert taught is not None and taught.texts == TextSettings(copies=2, how="rules")
    assert read_old("texts: true") == Recipe()
    assert read_old("texts: {copies: 2}\ndistill: false") == Recipe().without(Distillation)


def test_a_setting_can_be_taken_back(read_old: Read) -> None:
    assert read_old("prune: {macs: null, layers: null, vocabulary: null}") == Recipe()


def test_bits_that_are_stored_come_after_the_training(read_old: Read) -> None:
    assert [item.name for item in read_old("quantize: false\nstore: {bits: 3}\nprune: false\n").steps] == ["distill", "store"]
    assert read_old("store: {bits: 3}").get(StoreSettings) == StoreSettings(bits=3)


# -- what `compress` is asked --------------------------------------------------------------------------------------


def test_epochs_and_minutes_are_those_of_the_recipe_s_distillation(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("- distill: {epochs: 9, temperature: 2}\n")
    read = Compressing(tmp_path / "recipe.yaml", epochs=2, minutes=1.5).read(str)
    how = read.distillation
    assert how is not None and (how.schedule.epochs, how.schedule.minutes, how.temperature) == (2, 1.5, 2)
    kept = Compressing(tmp_path / "recipe.yaml").read(str).distillation
    assert kept is not None and (kept.schedule.epochs, kept.schedule.minutes) == (9, None)


def test_no_training_leaves_distillation_out(tmp_path: Path) -> None:
    assert Compressing(no_training=True).read(str) == Recipe().without(Distillation)
    assert Compressing().read(str) == Recipe()
    (tmp_path / "recipe.yaml").write_text("- prune: {layers: 1}\n")
    for asked in (Compressing(tmp_path / "recipe.yaml"), Compressing(tmp_path / "recipe.yaml", no_training=True)):
        assert asked.read(str) == Recipe.of(PruneSettings(layers=1))
    (tmp_path / "recipe.yaml").write_text("- distill\n- sparsify\n")
    with pytest.raises(InputError, match=r"^no_training: sparsify of the recipe is learned in the training; leave one of them out$"):
        Compressing(tmp_path / "recipe.yaml", no_training=True).read(str)


@pytest.mark.parametrize("option", ["epochs", "minutes"])
@pytest.mark.parametrize(
    ("steps", "no_training", "fix"),
    [
        ("- distill", True, "leave out `no_training`"), ("- prune: {layers: 1}", False, "add distill to the `recipe`"),
        ("- distill: {losses: {kl: 1}}\n- logistic", False, "the student is fitted, not trained by epochs"),
    ],
)  # fmt: skip
def test_a_length_of_no_training_is_refused(option: str, steps: str, no_training: bool, fix: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(f"{steps}\n")
    lengths: dict[str, Any] = {option: 2}
    with pytest.raises(InputError, match=rf"^{option}: nothing asks for it; {fix}$"):
        Compressing(tmp_path / "recipe.yaml", no_training=no_training, **lengths).read(str)
