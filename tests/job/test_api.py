"""The functions that people call: options go to the settings whose fields they are, data may be rows, and what is wrong is one line."""

from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, cast

import pytest
from commands import rows_of, told, write_rows
from conftest import tiny_teacher

import penjing
from penjing.engines.clock.measure import Sampling, Subject
from penjing.engines.clock.measurement import Measurement
from penjing.engines.clock.trial import Trial
from penjing.engines.form import ENGINES
from penjing.engines.numpy import NumpyEngine
from penjing.engines.pytorch import TorchEngine
from penjing.errors import InputError
from penjing.files.references import resolved
from penjing.job import api, evaluation
from penjing.job.api import Given, Machinery
from penjing.job.asked import Budget
from penjing.job.by_hand import Distilling, Pruning, Quantizing, Replacing
from penjing.job.evaluation import Benchmark, Evaluation
from penjing.job.material import Sources
from penjing.job.recipe import Recipe
from penjing.job.reshaping import Factorising, Projecting, Retraining, Sharing
from penjing.steps.bits.quantize import QuantizeSettings
from penjing.steps.bits.store import StoreSettings
from penjing.steps.cut.prune import PruneSettings
from penjing.steps.cut.vocabulary import VocabularySettings
from penjing.steps.teach.distillation import Distillation
from penjing.students.names import STUDENTS
from penjing.students.stage import StudentSettings
from penjing.tasks.sequence import Classification
from penjing.text.encoded import Encoded
from penjing.text.reading import Reading
from penjing.training.finetune import Split
from penjing.training.state import History

KINDS: dict[str, tuple[Any, ...]] = {
    "compress": (Budget, Given, Reading, Machinery),
    "prune": (Pruning, Budget, Given, Reading, Machinery),
    "quantize": (Quantizing, Budget, Given, Reading, Machinery),
    "replace": (Replacing, Budget, Given, Reading, Machinery),
    "distill": (Distilling, Sources, Budget, Given, Reading, Machinery),
    "share": (Sharing, Retraining, Budget, Given, Reading, Machinery),
    "factorise": (Factorising, Retraining, Budget, Given, Reading, Machinery),
    "project": (Projecting, Retraining, Budget, Given, Reading, Machinery),
    "train": (Given, Reading, Machinery),
}
"""What each function takes the fields of."""
NEEDED: dict[str, dict[str, Any]] = {"prune": {"layers": 1}, "distill": {"layers": 1}, "replace": {"layers": 1}}
ROWS = rows_of("classification", 40, 0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_teacher(tmp_path_factory.mktemp("api") / "teacher")


Ran = Callable[..., tuple[Any, ...]]


@pytest.fixture
def ran(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ran:
    """What a function hands to the run: recipe, budget, data, reading, machinery, and of `distill` the sources."""

    def call(name: str, **options: Any) -> tuple[Any, ...]:
        runs: list[tuple[Any, ...]] = []
        monkeypatch.setattr(api, "run", lambda *given: runs.append(given))
        getattr(penjing, name)(model, tmp_path / "out", **options)
        ((given_model, out, *rest),) = runs
        assert given_model == model and out == tmp_path / "out" and not out.exists()
        return tuple(rest)

    return call


# -- options -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_an_option_is_a_field_of_one_kind_alone(name: str) -> None:
    """So that none can be given, and go nowhere."""
    owners = [(each.name, kind) for kind in KINDS[name] for each in fields(kind)]
    assert len({option for option, _ in owners}) == len(owners)


@pytest.mark.parametrize("name", KINDS)
def test_every_field_is_an_option_and_reaches_its_dataclass(name: str) -> None:
    """Each with a value that no other has."""
    for kind in KINDS[name]:
        for field in fields(kind):
            mark = object()
            with pytest.MonkeyPatch.context() as patch:
                if hasattr(kind, "__post_init__"):
                    patch.setattr(kind, "__post_init__", lambda self: None)
                parts = api._parts({field.name: mark}, *KINDS[name])
            assert [type(part) for part in parts] == list(KINDS[name])
            assert getattr(parts[KINDS[name].index(kind)], field.name) is mark


@pytest.mark.parametrize("name", KINDS)
def test_an_option_that_is_not_given_is_as_its_field_says(name: str) -> None:
    for part, kind in zip(api._parts({}, *KINDS[name]), KINDS[name], strict=True):
        assert part == kind()
        for field in fields(kind):
            if field.default is not MISSING:
                assert getattr(part, field.name) == field.default


@pytest.mark.parametrize("name", KINDS)
def test_an_unknown_option_is_one_clear_line(name: str, model: Path, tmp_path: Path) -> None:
    for option in ("speed_up", "reading", "layer", "budget"):
        with pytest.raises(InputError) as caught:
            getattr(penjing, name)(model, tmp_path / "out", train=ROWS, **{option: 7})
        said = str(caught.value)
        assert said.startswith(f"{option}: there is no such option; allowed are ") and "\n" not in said
        assert {"train", "eval", "max_length", "seed"} <= set(said.split("allowed are ")[1].split(", "))
        assert not (tmp_path / "out").exists()


def test_options_of_compress_reach_what_they_are_of(ran: Ran) -> None:
    lines = list[str]()
    recipe, budget, given, reading, machinery = ran(
        "compress", task="pair", train="t", eval="e", test=["a", "b"], speedup=7, max_drop=1.5, confidence=0.9, max_length=9,
        text_columns="a,b", engine="onnxruntime", threads=2, wait=0, seed=3, command="a command", tell=lines.append,
    )  # fmt: skip
    assert recipe == Recipe() and budget == Budget(7, max_drop=1.5, confidence=0.9)
    assert given == Given("pair", "t", "e", ["a", "b"]) and reading == Reading(9, "a,b")
    assert machinery == Machinery("onnxruntime", 2, 0, 3, "a command", lines.append)


def test_a_recipe_is_a_list_of_steps_or_the_default(ran: Ran) -> None:
    assert ran("compress", train=ROWS)[0] == Recipe()
    assert ran("compress", train=ROWS, recipe=[PruneSettings(macs=0.5)])[0] == Recipe.of(PruneSettings(macs=0.5))
    assert ran("compress", train=ROWS, recipe=Recipe.of(StoreSettings()))[0] == Recipe.of(StoreSettings())
    with pytest.raises(InputError, match="recipe: prune would undo the codes"):
        ran("compress", train=ROWS, recipe=[StoreSettings(), PruneSettings()])


def test_an_engine_of_the_table_is_its_name_however_it_is_given(ran: Ran) -> None:
    for name, reference in ENGINES.items():
        *_, machinery = ran("compress", train=ROWS, engine=resolved(name, ENGINES, "engine"))
        assert machinery.engine == name and resolved(reference, {}, "engine").name == name


def test_steps_by_hand_make_their_recipes(ran: Ran) -> None:
    recipe, *_ = ran("prune", train=ROWS, neurons=0.5, vocab=0, importance="obs", epochs=2)
    prune, vocabulary, taught = recipe.get(PruneSettings), recipe.get(VocabularySettings), recipe.get(Distillation)
    assert prune == PruneSettings(neurons=0.5, importance="obs") and vocabulary == VocabularySettings(0)
    assert taught.how.schedule.epochs == 2 and recipe.get(QuantizeSettings) is None
    assert ran("quantize", train=ROWS, scheme="kmeans", bits=3)[0] == Recipe.of(StoreSettings("kmeans", 3))
    assert ran("quantize", train=ROWS)[0] == Recipe.of(QuantizeSettings("dynamic"))
    recipe, *_, sources = ran("distill", train=ROWS, preset="logistic", unlabelled="u", cache=Path("c"))
    assert recipe.get(StudentSettings) == StudentSettings(STUDENTS["logistic"]) and sources == Sources(unlabelled="u", cache=Path("c"))
    assert ran("distill", train=ROWS, student="a model")[-1].student == "a model"


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("compress", {"speedup": 0}, "speedup: 0 is not allowed; give a number above 0"),
        ("compress", {"engine": "numpy"}, "engine: numpy runs students of arrays alone"),
        ("compress", {"engine": "tensorrt"}, "engine: 'tensorrt' is none"),
        ("compress", {"task": "summary"}, "task: 'summary' is none"),
        ("compress", {"train": []}, "data: rows are given that are none"),
        ("compress", {"train": [["good", "positive"]]}, "data: rows are given that are none"),
        ("compress", {"train": [{"words": "good", "label": "positive"}]}, "the columns are label, words; name it with `text_columns`"),
        ("prune", {}, "prune: nothing is asked; give `macs`, `latency`"),
        ("prune", {"macs": 0.5, "schedule": "gradual", "no_training": True}, "schedule: gradual structured pruning trains; leave `no_training` out"),
        ("prune", {"sparsity": 0.5, "importance": "movement", "no_training": True}, "no_training: single weights then go with `schedule` one-shot"),
        ("quantize", {"scheme": "static-int8", "engine": "torch"}, "engine: PyTorch does not compute in integers"),
        ("quantize", {"scheme": "static-int8", "engine": TorchEngine}, "engine: PyTorch does not compute in integers"),
        ("compress", {"engine": NumpyEngine}, "engine: numpy runs students of arrays alone"),
        ("quantize", {"scheme": "int4"}, "scheme: 'int4' is none"),
        ("distill", {}, "distill: the student would be the teacher itself; give `layers`"),
        ("replace", {}, "replace: the successor would be the model itself; give `layers`"),
        ("replace", {"layers": 1, "schedule": "cosine"}, "schedule: 'cosine' is none; allowed are linear, constant"),
        ("replace", {"layers": 1, "schedule": "constant", "rate": 0.0}, "rate: 0.0 is out of range"),
        ("distill", {"layers": 1, "masked_lm": "m"}, "masked_lm: nothing asks for it; give `augment` masked-lm"),
        ("distill", {"layers": 1, "general_texts": 3}, "general_texts: nothing asks for it; give `general`"),
        ("distill", {"layers": 1, "general": Path("short.txt")}, "general: 64 texts are too few to learn on; give more than 64"),
        ("distill", {"student": "other"}, "student: the tokenizer of other makes other tokens than the model's"),
        ("distill", {"preset": "kd", "layers": 1}, "preset: 'kd' is none"),
        ("prune", {"vocab": 0, "epochs": 2}, "epochs: nothing asks for it; give `macs`, `latency`"),
        ("prune", {"vocab": 0, "importance": "fisher"}, "importance: nothing asks for it; give `macs`"),
        ("prune", {"vocab": 0, "scope": "layer"}, "scope: nothing asks for it"),
        ("prune", {"sparsity": 0.5, "repair": "none"}, "repair: nothing asks for it; give `macs`"),
        ("prune", {"sparsity": 0.5, "head_weights": True}, "head_weights: nothing asks for it"),
        ("prune", {"macs": 0.5, "schedule": "gradual", "repair": "none"}, "repair: nothing asks for it"),
        ("prune", {"heads": 0.5, "embeddings": True}, "embeddings: nothing asks for it; give `sparsity`"),
        ("prune", {"heads": 0.5, "corpus": Path("c")}, "corpus: nothing asks for it; give `vocab`"),
        ("prune", {"heads": 0.5, "epochs": 2, "no_training": True}, "epochs: nothing asks for it; leave out `no_training`"),
        ("quantize", {"scheme": "linear", "smooth": 0.5}, "smooth: nothing asks for it; give `scheme` static-int8"),
        ("quantize", {"scheme": "kmeans", "texts": 9}, "texts: nothing asks for it; give `scheme` static-int8"),
        ("quantize", {"scheme": "dynamic-int8", "group": 16}, "group: nothing asks for it; give `scheme` linear"),
        ("quantize", {"scheme": "static-int8", "epochs": 2}, "epochs: nothing asks for it; give `scheme` qat-int8"),
        ("quantize", {"scheme": "ternary", "epochs": 2, "no_training": True}, "epochs: nothing asks for it; leave out `no_training`"),
        ("train", {"threads": 1}, "threads: there is no such option"),
        ("train", {"engine": "torch"}, "engine: there is no such option"),
        ("train", {"test": [ROWS]}, "test: there is no such option"),
        ("train", {"max_length": 4096}, "max_length: 4096 is not allowed; the model has 64 positions"),
    ],
)  # fmt: skip
def test_messages_speak_of_fields(
    name: str, options: dict[str, Any], said: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "short.txt").write_text("a good film\n" * 64)
    if "student" in options:
        tiny_teacher(tmp_path / "other")
        tokenizer = tmp_path / "other" / "tokenizer.json"
        tokenizer.write_text(tokenizer.read_text().replace('"good"', '"goods"'))
    with pytest.raises(InputError) as caught:
        getattr(penjing, name)(model, tmp_path / "out", **{"train": ROWS, "eval": ROWS[:8]} | options)
    assert said in str(caught.value) and "--" not in str(caught.value) and not (tmp_path / "out").exists()


# -- data as rows, and what comes back -----------------------------------------------------------------------------


def test_rows_are_data(shop: Any) -> None:
    report = shop.compress(recipe=[], test=[rows_of("classification", 8, 2), rows_of("classification", 9, 3)], engine="onnxruntime")
    asked = report.asked
    assert (asked.train, asked.eval, asked.test) == ("rows 1", "rows 1", ("rows 1", "rows 2"))
    assert [row.data for row in report.tests] == ["rows 1", "rows 2"] and report.met is None
    assert [row.overlap.examples for row in report.tests] == [8, 9] and asked.engine == "onnxruntime"


def test_rows_and_a_file_of_them_are_the_same_data(shop: Any, tmp_path: Path) -> None:
    rows, dev = rows_of("classification", 60, 0), rows_of("classification", 24, 1)
    write_rows(tmp_path / "train.jsonl", rows)
    report = shop.compress(recipe=[], train=str(tmp_path / "train.jsonl"), eval=dev)
    assert report.asked.train == str(tmp_path / "train.jsonl") and report.asked.eval == "rows 1"
    given = report.asked.data
    (tmp_path / "again").mkdir()
    again = type(shop)(tmp_path / "again").compress(recipe=[], train=rows, eval=dev)
    assert again.asked.data == given and again.result.judged.quality == report.result.judged.quality


def test_a_task_of_labels_and_metric_of_its_own_may_be_given(shop: Any) -> None:
    report = shop.compress(Classification(metric="macro-f1"), recipe=[], metric="f1")
    assert report.metric == "f1" and report.task == "classification"  # what is asked of the reading goes before


def test_a_teacher_is_trained_on_rows_and_evaluated(model: Path, tmp_path: Path) -> None:
    lines = list[str]()
    trained = penjing.train(
        model, tmp_path / "out", train=ROWS, eval=ROWS[:9], epochs=1, batch_size=8, learning_rate=1e-3, seed=1, tell=lines.append
    )  # fmt: skip
    assert trained.metric == "accuracy" and 0 <= trained.quality <= 100 and trained.held_out > 0 and trained.history.steps > 0
    assert (tmp_path / "out" / "config.json").is_file() and any("rows" in line for line in lines)
    found = penjing.evaluate(tmp_path / "out", ROWS[:9], teacher=model, tell=lines.append)
    assert isinstance(found, Evaluation) and found.quality.quality == pytest.approx(trained.quality) and found.flipped is not None
    macro = penjing.evaluate(tmp_path / "out", ROWS[:9], metric="macro-f1", threads=1)
    assert macro.metric == "macro_f1"
    with pytest.raises(InputError, match=r"^speedup: there is no such option; allowed are .*threads"):
        penjing.evaluate(tmp_path / "out", ROWS[:9], speedup=2)
    assert found.data == "the rows of data" and all(len(line) < 500 for line in lines)


BROKEN = "raise RuntimeError('half written')"


def test_a_module_that_is_named_and_cannot_be_imported_is_named_with_the_reason(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_task.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=r"^broken_task:Own: broken_task cannot be imported \(half written\); give a module on the path$"):
        penjing.evaluate(model, ROWS, task="broken_task:Own")
    with pytest.raises(InputError, match=r"^nowhere:Own: nowhere cannot be imported \(No module named 'nowhere'\)"):
        penjing.evaluate(model, ROWS, task="nowhere:Own")


def test_a_further_task_is_imported(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_task.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=r"^broken_task:Own: broken_task cannot be imported"):
        Sources(companions=["broken_task:Own,model,train,eval"]).read(None, 0, print)  # type: ignore[arg-type]


def test_options_of_a_training_reach_its_schedule(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def finetune(model: Path, task: Any, split: Split, out: Path, schedule: Any, **options: Any) -> tuple[History, float]:
        asked.extend([out, schedule, options["pickle"], split])
        return History(), 50.0

    monkeypatch.setattr(api, "finetune", finetune)
    trained = penjing.train(model, str(tmp_path / "out"), train=ROWS, epochs=7, batch_size=8, learning_rate=1e-3, seed=5, pickle=True)
    out, schedule, pickle, split = asked
    assert (schedule.epochs, schedule.batch_size, schedule.learning_rate, schedule.seed) == (7, 8, 1e-3, 5)
    assert out == tmp_path / "out" and pickle and trained.held_out == len(split.dev) and trained.quality == 50.0
    assert len(split.eval) == 4 and len(split.train) + len(split.dev) <= len(ROWS) - 4  # what stands in others is on neither side
    assert not set(split.train.inputs) & set(split.dev.inputs)


def test_models_are_timed_side_by_side(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that is told; test_cli.py measures."""
    asked = list[tuple[int, int]]()

    def measure(subjects: Sequence[Subject], encoded: Encoded, *, threads: int, sampling: Sampling, **rest: Any) -> list[Measurement]:
        asked.append((threads, sampling.rounds))
        return told(cast(Trial, None), subjects, encoded, rounds=sampling.rounds)

    monkeypatch.setattr(evaluation, "measure", measure)
    found = penjing.bench([model, str(model)], ROWS[:6], rounds=2, threads=1)
    assert isinstance(found, Benchmark) and [row.folder for row in found.results] == [str(model)] * 2 and asked == [(1, 2)]
    assert [row.speedup for row in found.results] == [1.0, 1.0] and found.threads == 1
    with pytest.raises(InputError, match=r"^metric: there is no such option"):
        penjing.bench([model], ROWS[:6], metric="accuracy")


# -- the names -----------------------------------------------------------------------------------------------------


def test_every_public_name_is_there_and_no_other() -> None:
    assert {"compress", "prune", "quantize", "distill", "train", "evaluate", "bench", "load"} <= set(penjing.__all__)
    for name in penjing.__all__:
        assert callable(getattr(penjing, name)) and name in dir(penjing)
    with pytest.raises(AttributeError, match=r"module 'penjing' has no attribute 'squeeze'; it has .*compress"):
        penjing.squeeze  # noqa: B018


def test_files_may_be_given_as_strings() -> None:
    assert Sources(general="lines.txt", cache="kept") == Sources(general=Path("lines.txt"), cache=Path("kept"))  # type: ignore[arg-type]
