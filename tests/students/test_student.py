"""Every student, and one that is defined here: what it is shipped as answers as it does itself, and what it cannot learn is refused."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Self, final

import numpy as np
import onnx
import pytest
from lessons import VOCABULARY, fitting_of, texts
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from penjing.engines.engine import Engine
from penjing.engines.form import FLOAT_FORMS, PORTABLE_FLOAT, Form
from penjing.engines.opening import open_engine
from penjing.errors import InputError
from penjing.files.whole import write_bytes
from penjing.steps.teach.distill import DistillSettings
from penjing.steps.teach.teaching import Material
from penjing.students.bilstm import Bilstm
from penjing.students.fitting import Fit, Fitting
from penjing.students.logistic import Logistic
from penjing.students.names import STUDENTS
from penjing.students.soft_tree import SoftTree
from penjing.students.static import Static
from penjing.students.student import MODEL, Answer, ParityTexts, Student
from penjing.students.tree import Tree
from penjing.students.trees import Trees
from penjing.tasks.sequence import Classification, Pair
from penjing.tasks.tagging import Tagging
from penjing.tasks.task import Task
from penjing.text.encoded import Encoded, Feeds, Logits

# -- a student of one's own --------------------------------------------------------------------------------------


@final
@dataclass(frozen=True)
class Centroids(Student):
    """Nearest centroid of a class: a text is its share of each token (V,), and z = `scale`·(2·x·c - ‖c‖²) of the centroid c of a class."""

    name: ClassVar[str] = "centroids"
    shipped: ClassVar[tuple[Form, ...]] = tuple(form for form in FLOAT_FORMS if form.file == PORTABLE_FLOAT)

    scale: float = 50.0

    def fit(self, fitting: Fitting, folder: Path) -> Fit:
        targets, _ = fitting.targets()
        c = (targets / targets.sum(0)).T @ shares(fitting.train.encoded)  # (C, V)
        (folder / MODEL).mkdir(parents=True)
        table = (2 * self.scale * c.T).astype(np.float32)
        bias = (-self.scale * (c**2).sum(1)).astype(np.float32)
        np.savez(folder / MODEL / "centroids.npz", table=table, bias=bias)
        return Fit(int(table.size + bias.size), "; a centroid each")

    def load(self, model: Path) -> Answer:
        table, bias = read(model)

        def answer(encoded: Encoded) -> Logits:
            return list((shares(encoded) @ table + bias).astype(np.float32))

        return answer

    def export(self, model: Path, folder: Path) -> None:
        table, bias = read(model)
        nodes = [
            helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
            helper.make_node("ReduceMean", ["rows"], ["mean"], axes=[1], keepdims=0),
            helper.make_node("Add", ["mean", "bias"], ["logits"]),
        ]
        graph = helper.make_graph(
            nodes, "centroids", [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "length"])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(bias)])],
            [numpy_helper.from_array(table, "table"), numpy_helper.from_array(bias, "bias")],
        )  # fmt: skip
        model_proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model_proto)
        write_bytes(folder / PORTABLE_FLOAT, model_proto.SerializeToString())


def read(model: Path) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    with np.load(model / "centroids.npz") as saved:
        return saved["table"], saved["bias"]


def shares(encoded: Encoded) -> NDArray[np.float64]:
    """The share of each token in each text: (N, V)."""
    return np.stack([np.bincount(encoded.row(i), minlength=VOCABULARY) / encoded.lengths[i] for i in range(len(encoded))])


# -- the law of every student ------------------------------------------------------------------------------------

CLASSES, PAIR, TAGS = Classification(("no", "so so", "yes")), Pair(("no", "yes")), Tagging(("B-x", "O"))
SMALL: dict[str, Student] = {
    "bilstm": Bilstm(width=8, hidden=6, dense=7), "logistic": Logistic(bits=12), "trees": Trees(rounds=5, least=2, leaves=6),
    "tree": Tree(least=2, leaves=16), "soft-tree": SoftTree(depth=2, least=2, epochs=30, learning_rate=0.05), "static": Static(epochs=1), "centroids": Centroids(),
}  # fmt: skip
CASES = [(name, task) for name in SMALL for task in (CLASSES, PAIR)] + [("bilstm", TAGS)]
LAW = pytest.mark.parametrize(("name", "task"), CASES, ids=lambda value: value if isinstance(value, str) else value.name)


def losses_of(student: Student) -> dict[str, float]:
    return {"mse": 1.0, "hard": 0.5} if student.trained else {"kl": 1.0, "hard": 0.5}


def fitted(student: Student, task: Task, folder: Path, **options: Any) -> Fit:
    folder.mkdir()
    return student.fit(fitting_of(task, folder / "partial", losses_of(student), **options), folder)


def exported(student: Student, folder: Path) -> Path:
    (folder / "engine").mkdir()
    student.export(folder / MODEL, folder / "engine")
    return folder / "engine"


def test_the_law_is_of_every_student_of_the_table() -> None:
    assert set(SMALL) == {*STUDENTS, "centroids"} and all(STUDENTS[name].name == name for name in STUDENTS)
    for name, student in STUDENTS.items():
        assert type(student) is type(SMALL[name]) and student == type(student)() and student.paper and student.when


@LAW
def test_what_is_exported_answers_as_the_student_does_itself(name: str, task: Task, tmp_path: Path) -> None:
    student, held = SMALL[name], texts(task, 40, seed=2).encoded
    fit = fitted(student, task, tmp_path / "one")
    assert fit.parameters > 0 and any((tmp_path / "one" / MODEL).iterdir())
    own = student.load(tmp_path / "one" / MODEL)(held)
    shape = {len(z.shape) for z in own}
    assert shape == {2 if task.head.per_token else 1} and {z.shape[-1] for z in own} == {len(task.labels)}
    assert np.ptp(np.concatenate([np.atleast_2d(z) for z in own]), axis=0).max() > 1e-3
    engine, forms = exported(student, tmp_path / "one"), student.forms(None)
    for form in forms:
        for z, answer in zip(own, open_engine(form, engine, 1).logits(held), strict=True):
            np.testing.assert_allclose(answer - answer.mean(), z - z.mean(), atol=student.parity_limit)
    parity = ParityTexts(held, texts(task, 30, seed=1).encoded)
    differences = student.differences(tmp_path / "one", engine, forms, parity, 1)
    assert differences.keys() == {form.engine for form in forms} == set(student.engines)
    assert max(differences.values()) <= student.parity_limit

    fitted(student, task, tmp_path / "other", teacher_seed=5)
    other = exported(student, tmp_path / "other")
    assert min(student.differences(tmp_path / "one", other, forms, parity, 1).values()) > student.parity_limit


@LAW
def test_a_fit_is_decided_by_its_seed(name: str, task: Task, tmp_path: Path) -> None:
    student, held = SMALL[name], texts(task, 20, seed=2).encoded
    logits = []
    for folder, seed in (("one", 0), ("again", 0)):
        fitted(student, task, tmp_path / folder, seed=seed)
        logits.append(np.concatenate(student.load(tmp_path / folder / MODEL)(held)))
    assert np.array_equal(*logits)


def test_settings_are_fields_and_decide(tmp_path: Path) -> None:
    assert [field.name for field in fields(Logistic())] == ["bits", "orders", "least", "strength"]
    sizes = [fitted(replace(SMALL["bilstm"], hidden=hidden), CLASSES, tmp_path / str(hidden)).parameters for hidden in (3, 6)]  # type: ignore[type-var]
    assert sizes[0] < sizes[1]


# -- what is refused ---------------------------------------------------------------------------------------------


class OwnEngine(Engine):
    """An engine that is in no table."""

    name = "own"

    @classmethod
    def open(cls, model: Path | bytes, form: Form, threads: int) -> Self:
        return cls(form)

    def run(self, feeds: Feeds) -> NDArray[np.float32]:
        return np.zeros((len(feeds["input_ids"]), 2), np.float32)


class OtherFiles(OwnEngine):
    """An engine of files that no student ships."""

    @classmethod
    def forms(cls, int8: bool) -> Sequence[Form]:
        return (Form("other", "other", "other.bin"),)


def data(task: Task, types: bool = True) -> Any:
    encoded = texts(task, 4).encoded
    if not types:
        encoded = replace(encoded, types=np.zeros_like(encoded.types))
    return SimpleNamespace(task=task, eval=SimpleNamespace(encoded=encoded))


KL = DistillSettings(losses={"kl": 1.0})
NOTHING = Material()
ALL, ARRAYS, READS_TYPES = tuple(SMALL), ("logistic", "trees", "tree", "soft-tree", "static", "centroids"), ("bilstm", "static")


def refused(student: Student, task: Task, settings: DistillSettings, material: Material, types: bool = True) -> str:
    try:
        student.check(data(task, types), settings, material)
    except InputError as error:
        return str(error)
    return ""


def taught(**options: Any) -> DistillSettings:
    return DistillSettings(**({"losses": {"kl": 1.0, "hard": 1.0}} | options))


@pytest.mark.parametrize(
    ("names", "task", "settings", "material", "said"),
    [
        (ARRAYS, TAGS, KL, NOTHING, "preset: {} answers whole texts, and tagging asks about each word"),
        (ARRAYS, CLASSES, taught(losses={"mse": 1.0, "kl": 1.0}), NOTHING, "losses: {} learns probabilities, and mse compares logits"),
        (ALL, CLASSES, taught(losses={"kl": 1.0, "hidden": 1.0}), NOTHING, "losses: hidden compare encoders, and {} is none"),
        (ALL, CLASSES, taught(noise=0.1), NOTHING, "noise: a {} student has nothing to do with it"),
        (ALL, CLASSES, taught(adversarial=0.1), NOTHING, "adversarial: a {} student has nothing to do with it"),
        (ARRAYS, CLASSES, taught(anneal=True), NOTHING, "anneal: a {} student has nothing to do with it"),
        (ALL, CLASSES, KL, Material(general=texts(CLASSES, 2)), "general: a {} student has nothing to do with it"),
        (ALL, CLASSES, KL, Material(companions=[(Path(), data(CLASSES))]), "with: a {} student has nothing to do with it"),
        (ALL, CLASSES, KL, Material(student=Path("x")), "student: a {} student has nothing to do with it"),
    ],
)
def test_what_a_student_cannot_learn_is_refused(
    names: Sequence[str], task: Task, settings: DistillSettings, material: Material, said: str
) -> None:
    messages = {name: refused(student, task, settings, material) for name, student in SMALL.items()}
    assert {name for name, message in messages.items() if message} == set(names)
    assert all(messages[name].startswith(said.format(name)) for name in names)


def test_pairs_take_token_types_where_they_are_told_apart_by_them() -> None:
    messages = {name: refused(student, PAIR, KL, NOTHING, types=False) for name, student in SMALL.items()}
    assert {name for name, message in messages.items() if "by token types" in message} == set(READS_TYPES)
    assert not any(refused(student, PAIR, KL, NOTHING) for student in SMALL.values())
    assert not any(refused(student, CLASSES, KL, NOTHING, types=False) for student in SMALL.values())


@pytest.mark.parametrize("name", ALL)
def test_an_engine_runs_what_it_has_the_file_of(name: str) -> None:
    student = SMALL[name]
    arrays = name in ("logistic", "trees", "tree", "soft-tree", "static")
    assert student.engines == (("numpy",) if arrays else ("onnxruntime", "openvino"))
    for engine in student.engines:
        student.check_engine(engine)
        assert [form.engine for form in student.forms(engine)] == [engine]
    student.check_engine(None)
    for engine in ("torch", "onnxruntime" if arrays else "numpy", OtherFiles, *([OwnEngine] if arrays else [])):
        with pytest.raises(InputError, match=rf"engine: {name} does not run on .*; leave the option out"):
            student.check_engine(engine)
    if not arrays:
        (form,) = student.forms(OwnEngine)
        assert form.file == PORTABLE_FLOAT and form.engine == f"{__name__}:OwnEngine"
