"""Options are made of the fields of dataclasses: names, types, ranges, defaults and panels; and what every field of ours tells of itself."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import pytest
import typer

from penjing.cli.derive import TITLES, WIDTH, Options, Panels, by_name, takes
from penjing.cli.options import COMMANDS, command_named, dashed
from penjing.cli.training import Training
from penjing.errors import InputError
from penjing.files.options import PANELS, Option, option, option_of
from penjing.job.api import Given, Machinery
from penjing.job.asked import Budget
from penjing.job.by_hand import Distilling, Pruning, Quantizing
from penjing.job.evaluation import Looking
from penjing.job.material import Sources
from penjing.job.reading import Compressing
from penjing.job.reshaping import Factorising, Projecting, Retraining, Sharing
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

# -- a command of one's own ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Brewing:
    """Every type of field that an option is made of."""

    tea: str = option("green", "Which leaves.", allowed=("green", "black"), panel="data", required=True)
    minutes: float = option(3.0, "How long, with `sugar_cubes` a little longer.", least=None, most=60)
    sugar_cubes: int | None = option(None, "How many.", least=1, most=9, panel="training")
    strong: bool = option(False, "Twice the leaves.")
    cups: Sequence[str] = option(tuple, "For whom.", name="cup", panel="output")
    pot: Path | None = option(None, "In which folder.", panel="machine")
    kettle: str | type[int] | None = option(None, "A name, or an object where it is called from Python.")
    secret: int = 3


GIVEN: list[dict[str, Any]] = []


def command(*kinds: Any, without: Sequence[str] = ()) -> Any:
    """A command that remembers what it is given."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None)

    @app.command(cls=Panels)
    @takes(*kinds, without=without)
    def brew(water: Annotated[str, typer.Argument(help="From where.")], options: Options, loud: bool = False) -> None:
        GIVEN.append({"water": water, "options": options, "loud": loud})

    return typer.main.get_command(app)


def brewed(*arguments: str, kinds: Sequence[Any] = (Brewing,), without: Sequence[str] = ()) -> dict[str, Any]:
    """What the command is given for these arguments."""
    GIVEN.clear()
    command(*kinds, without=without)(list(arguments), standalone_mode=False)
    (given,) = GIVEN
    return given


def test_a_value_that_is_not_given_is_the_field_s_default() -> None:
    assert brewed("tap", "--tea", "black") == {
        "water": "tap", "loud": False,
        "options": {"tea": "black", "minutes": 3.0, "sugar_cubes": None, "strong": False, "cups": (), "pot": None, "kettle": None},
    }  # fmt: skip
    assert Brewing(**brewed("tap", "--tea", "green")["options"]) == Brewing()


def test_values_have_the_types_of_their_fields() -> None:
    arguments = [
        "tap",
        "--tea",
        "black",
        "--minutes",
        "4",
        "--sugar-cubes",
        "2",
        "--strong",
        "--cup",
        "Ann",
        "--cup",
        "Bob",
        "--pot",
        "a/b",
    ]
    options = brewed(*arguments, "--kettle", "iron", "--loud")["options"]
    assert options == {
        "tea": "black", "minutes": 4.0, "sugar_cubes": 2, "strong": True, "cups": ("Ann", "Bob"), "pot": Path("a/b"), "kettle": "iron",
    }  # fmt: skip
    assert isinstance(options["minutes"], float) and isinstance(options["pot"], Path)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--minutes", "0"], "--minutes: 0 is not allowed; give a number above 0, and at most 60"),
        (["--minutes", "nan"], "--minutes: nan is not allowed"),
        (["--sugar-cubes", "10"], "--sugar-cubes: 10 is not allowed; give a whole number from 1 to 9"),
        (["--sugar-cubes", "1.5"], "--sugar-cubes: 1.5 is not allowed"),
    ],
)
def test_numbers_are_within_the_range_of_their_field(arguments: list[str], said: str) -> None:
    with pytest.raises(InputError) as caught:
        brewed("tap", "--tea", "black", *arguments)
    assert said in str(caught.value)


def test_what_is_required_is_asked_for_and_what_tells_nothing_is_no_option() -> None:
    with pytest.raises(typer.BadParameter.__base__ or Exception) as caught:
        brewed("tap")
    assert "--tea" in str(getattr(caught.value, "param", None).opts)  # type: ignore[union-attr]
    with pytest.raises(typer.BadParameter.__base__ or Exception):
        brewed("tap", "--tea", "black", "--secret", "4")


def test_fields_can_be_left_out_and_come_from_several_kinds() -> None:
    @dataclass(frozen=True)
    class Serving:
        """Another kind."""

        spoon: bool = option(False, "With a spoon.")

    options = brewed("tap", "--spoon", kinds=(Brewing, Serving), without=("tea", "cups"))["options"]
    assert options["spoon"] is True and not {"tea", "cups"} & set(options)
    assert by_name(options, "spoon", "minutes", "tea") == {"spoon": True, "minutes": 3.0}


def test_help_is_in_panels_in_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    command(Brewing)(["--help"], standalone_mode=False)
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert max(map(len, lines)) <= WIDTH
    panels = [line.rstrip(":") for line in lines if line.rstrip(":") in (*TITLES.values(), "Arguments")]
    assert panels == ["Arguments", "Data", "Method", "Training", "Machine", "Output"]
    under = {option_: next(p for p in reversed(panels) if text.index(f"\n{p}:") < text.index(f"\n  {option_} ")) for option_ in
             ("--tea", "--minutes", "--sugar-cubes", "--strong", "--pot", "--cup", "--kettle", "--loud")}  # fmt: skip
    assert under == {
        "--tea": "Data", "--minutes": "Method", "--sugar-cubes": "Training", "--strong": "Method", "--pot": "Machine", "--cup": "Output",
        "--kettle": "Method", "--loud": "Output",
    }  # fmt: skip
    said = " ".join(text.split())
    assert (
        "Which leaves. green, black." in said and "with --sugar-cubes a little longer" in said and "`" not in text and "secret" not in text
    )
    assert "<path>" in text and "<float>" in text and "<int>" in text and "<text>" in text


# -- the commands --------------------------------------------------------------------------------------------------

KINDS_OF: dict[str, tuple[Any, ...]] = {
    "train": (Training, Given, Reading),
    "compress": (Budget, Compressing, Given, Machinery, Reading),
    "prune": (Pruning, Budget, Given, Machinery, Reading),
    "distill": (Distilling, Sources, Budget, Given, Machinery, Reading),
    "quantize": (Quantizing, Budget, Given, Machinery, Reading),
    "share": (Sharing, Retraining, Budget, Given, Machinery, Reading),
    "factorise": (Factorising, Retraining, Budget, Given, Machinery, Reading),
    "project": (Projecting, Retraining, Budget, Given, Machinery, Reading),
    "eval": (Looking, Reading),
    "bench": (Looking, Reading),
    "inspect": (),
    "methods": (),
    "demo": (Machinery,),
}
LEFT_OUT: Mapping[str, set[str]] = {
    "train": {"test"}, "prune": {"speedup", "latency_ms", "size_mb"}, "distill": {"speedup", "latency_ms", "size_mb"},
    **{name: {"speedup", "latency_ms", "size_mb"} for name in ("quantize", "share", "factorise", "project")}, "bench": {"label_column", "label_map", "metric", "positive"},
    "demo": {"engine", "wait"},
}  # fmt: skip
"""Fields that a command has no option of."""
OF_THE_COMMAND = {"model", "out", "as_json", "pickle", "folder", "folders", "data", "teacher", "rounds"}
"""Parameters that are no settings."""


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_an_option_of_every_field_that_tells_of_itself(name: str) -> None:
    params = {param.name: param for param in command_named(name).params}
    told = {each.name: (kind, each) for kind in KINDS_OF[name] for each in fields(kind) if option_of(each)}
    assert set(params) - OF_THE_COMMAND == set(told) - LEFT_OUT.get(name, set()) - OF_THE_COMMAND
    for field, (_, each) in told.items():
        described = option_of(each)
        if field in LEFT_OUT.get(name, set()) or field in OF_THE_COMMAND or described is None:
            continue
        option_ = params[field]
        assert option_.opts[0] == f"--{(described.name or field).replace('_', '-')}" and option_.rich_help_panel == TITLES[described.panel]
        assert option_.required == described.required


def test_fields_in_messages_are_options_of_the_command_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [
        ("prune", "macs: 1.5 is out of range", "--macs: 1.5 is out of range"),
        ("prune", "heads, neurons: `macs` or `latency` says", "--heads, --neurons: --macs or --latency says"),
        ("prune", "vocab: 2 is out of range", "--vocab: 2 is out of range"),
        ("prune", "stored_mb: it says", "--stored-mb: it says"),
        ("prune", "recipe: gradual is learned", "recipe: gradual is learned"),
        ("compress", "recipe: store would undo", "--recipe: store would undo"),
        ("compress", "macs: 1.5 is out of range", "macs: 1.5 is out of range"),
        ("distill", "with: several tasks; leave out `part`, `unlabelled`", "--with: several tasks; leave out --part, --unlabelled"),
        ("distill", "companions: these", "--with: these"),
        ("distill", "masked_lm: nothing asks for it; give `augment` masked-lm", "--masked-lm: nothing asks for it; give --augment masked-lm"),
        ("quantize", "activation_bits, squash, halves: they say", "activation_bits, squash, halves: they say"),
        ("eval", "engine: 'x' is none", "--engine: 'x' is none"),
        ("", "macs: `macs` alone", "macs: macs alone"),
        ("inspect", "model: a folder has no config.json", "model: a folder has no config.json"),
    ]  # fmt: skip
    for name, text, expected in cases:
        monkeypatch.setattr("sys.argv", ["penjing", *([name] if name else [])])
        assert dashed(text) == expected


# -- what is told --------------------------------------------------------------------------------------------------

KINDS = (
    Budget, Compressing, Distilling, DistillSettings, FactoriseSettings, Given, GradualSettings, Looking, Machinery, PruneSettings, Pruning,
    Quantizing, QuantizeSettings, Reading, Sources, SparsifySettings, StoreSettings, TextSettings, Training, VocabularySettings,
)  # fmt: skip
TOLD = [(kind, each.name) for kind in KINDS for each in fields(kind) if option_of(each)]


def told_of(kind: Any, name: str) -> Option:
    described = option_of(next(each for each in fields(kind) if each.name == name))
    assert described is not None
    return described


@pytest.mark.parametrize(("kind", "name"), TOLD, ids=[f"{kind.__name__}.{name}" for kind, name in TOLD])
def test_every_option_says_what_it_is_and_allows_its_default(kind: Any, name: str) -> None:
    described = told_of(kind, name)
    assert described.panel in PANELS and described.help.endswith(".") and "--" not in described.help
    each = next(field for field in fields(kind) if field.name == name)
    default = each.default_factory() if each.default_factory is not dataclasses.MISSING else each.default
    assert default is not dataclasses.MISSING and name in get_type_hints(kind)
    if described.allowed and default is not None:
        assert default in described.allowed
    if isinstance(default, (int, float)) and not isinstance(default, bool):
        assert (default > 0 if described.least is None else default >= described.least) and default <= described.most
    assert not described.required or kind in (Given, Quantizing)


def test_marked_names_are_options() -> None:
    """What a help text puts in `marks` is a field, or its option."""
    known = {name for _, name in TOLD} | {told_of(kind, name).name for kind, name in TOLD}
    for kind, name in TOLD:
        marked = told_of(kind, name).help.split("`")[1::2]
        assert set(marked) <= known, (kind, name)
