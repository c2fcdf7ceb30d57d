"""Opening: engines by name, by class and by reference; an engine of one's own, from its forms to its figures."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self, final

import numpy as np
import pytest
from conftest import VOCABULARY, penjing_model, tiny_teacher
from numpy.typing import NDArray

from penjing.blueprint import Blueprint, Layer
from penjing.engines.cascade import CascadeEngine
from penjing.engines.clock.measure import RawInputs, Sampling, Subject, measure
from penjing.engines.description import Description, checksums
from penjing.engines.engine import Engine
from penjing.engines.exits import ExitsEngine
from penjing.engines.form import EAGER, ENGINES, FLOAT_FORMS, INT8_FORMS, TOKENIZER, TORCH_FORMS, Form
from penjing.engines.network import Deployed
from penjing.engines.numpy import NumpyEngine
from penjing.engines.onnx.export import export, network_of
from penjing.engines.onnx.packed import write_network
from penjing.engines.onnxruntime import OnnxRuntimeEngine
from penjing.engines.opening import engine_class, engine_name, forms_for, open_engine
from penjing.engines.openvino import OpenVinoEngine
from penjing.engines.pytorch import TorchEngine
from penjing.errors import InputError, PenjingError
from penjing.files.records import to_json
from penjing.model.checkpoint import read
from penjing.tasks.encoder import Encoder
from penjing.tasks.sequence import Classification
from penjing.tasks.sources import tokenizer_of
from penjing.text.encoded import Encoded, Feeds

SHAPE = Blueprint(VOCABULARY, 24, 2, 10, 12, 5, (Layer(3, 17), Layer(2, 8)), "sequence", 2)
INPUTS = ["good film", "bad", "a good good film"] * 4
CLASSES = {
    "onnxruntime": OnnxRuntimeEngine, "openvino": OpenVinoEngine, "torch": TorchEngine, "numpy": NumpyEngine, "exits": ExitsEngine,
    "cascade": CascadeEngine,
}  # fmt: skip


@final
class Reversed(Engine):
    """ONNX Runtime on the batch in reverse: an engine that is given the ONNX files of standard operators."""

    name = "reversed"

    def __init__(self, inner: OnnxRuntimeEngine, form: Form) -> None:
        super().__init__(form)
        self.inner = inner
        self.ports = inner.ports

    @classmethod
    def open(cls, model: Path | bytes, form: Form, threads: int) -> Self:
        return cls(OnnxRuntimeEngine(model, form, threads), form)

    def run(self, feeds: Feeds) -> NDArray[np.float32]:
        return self.inner.run({name: value[::-1].copy() for name, value in feeds.items()})[::-1]


@final
class MeanVector(Engine):
    """An engine with a file of its own: logits are the mean of the word vectors, without a position, norm or layer."""

    name = "mean vector"
    graphs = False

    def __init__(self, vectors: NDArray[np.float32], form: Form) -> None:
        super().__init__(form)
        self.vectors = vectors

    @classmethod
    def open(cls, model: Path | bytes, form: Form, threads: int) -> Self:
        assert isinstance(model, Path)
        return cls(np.load(model), form)

    def run(self, feeds: Feeds) -> NDArray[np.float32]:
        return self.vectors[feeds["input_ids"]].mean(1)[:, :2]  # (V, W) of (B, S) → (B, 2)

    @classmethod
    def forms(cls, int8: bool) -> Sequence[Form]:
        return [Form("mean vector", cls.name, "vectors.npy", batch=4)]

    @classmethod
    def export(cls, deployed: Deployed, folder: Path, form: Form) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / form.file, deployed.network.weights["embeddings.word.weight"])


def texts(count: int = 9) -> Encoded:
    random = np.random.default_rng(0)
    rows = [random.integers(0, VOCABULARY, n).tolist() for n in random.integers(1, 20, count)]
    return Encoded.of(rows, [[0] * len(row) for row in rows])


# -- which engine --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_of_the_table_has_its_name_and_its_class(name: str) -> None:
    kind = engine_class(name)
    assert kind is CLASSES[name] is engine_class(kind) and kind.name == name == engine_name(kind) == engine_name(name)
    for int8 in (False, True) if name not in ("numpy", "exits", "cascade") else ():
        assert forms_for(kind, int8=int8) == forms_for(name, int8=int8) == list(kind.forms(int8)) != []
        assert all(form.engine == name for form in kind.forms(int8))


@pytest.mark.parametrize("name", ["tensorrt", "no_such_module:Engine", "penjing.engines.engine:None_", "penjing.errors:InputError", ""])
def test_what_is_no_engine_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"^engine: "):
        engine_class(name)
    with pytest.raises(InputError, match=r"^engine: "):
        open_engine(Form("x", name, ""), Path())


def test_a_package_that_is_missing_is_named_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line says how it is installed."""
    monkeypatch.setitem(ENGINES, "openvino", "no_such_package.engine:Engine")
    with pytest.raises(ModuleNotFoundError) as raised:
        engine_class("openvino")
    assert raised.value.name == "no_such_package"


def test_an_engine_that_another_process_cannot_import_is_refused() -> None:
    class Local(Engine):
        name = "local"

    with pytest.raises(InputError, match="define it at the top of a module"):
        forms_for(Local)


def test_only_forms_that_round_as_asked_are_measured() -> None:
    assert forms_for(None) == list(INT8_FORMS) and forms_for(None, int8=False) == list(FLOAT_FORMS)
    assert forms_for("torch", rounding="static") == list(TORCH_FORMS)
    with pytest.raises(InputError, match="export: openvino has no dynamic form"):
        forms_for("openvino", rounding="dynamic")
    with pytest.raises(InputError, match="has no dynamic form"):
        forms_for(Reversed, rounding="dynamic")


# -- an engine of one's own ----------------------------------------------------------------------------------------


def test_its_forms_name_it_so_that_they_can_be_read_back() -> None:
    (int8,), (exact,) = forms_for(Reversed), forms_for(Reversed, int8=False)
    assert (int8.file, exact.file) == ("model.onnx", "float32.onnx") and int8.int8 and not exact.int8
    assert exact.engine == f"{Reversed.__module__}:Reversed" == engine_name(Reversed)
    assert engine_class(exact.engine) is Reversed and forms_for(exact.engine) == [int8]
    assert forms_for(Reversed, rounding="static") == [int8]


def test_it_answers_from_the_graph_that_it_is_given(tmp_path: Path) -> None:
    model, encoded = penjing_model(SHAPE), texts()
    (form,) = forms_for(Reversed, int8=False)
    export(model, tmp_path, [form, FLOAT_FORMS[0]], segments=False)
    assert [file.name for file in tmp_path.iterdir()] == [FLOAT_FORMS[0].file]
    engine = open_engine(form, tmp_path, 1)
    assert type(engine) is Reversed and engine.form == form
    expected = open_engine(FLOAT_FORMS[0], tmp_path, 1).logits(encoded)
    for a, b in zip(engine.logits(encoded), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_it_writes_a_file_of_its_own_and_the_folder_is_described(tmp_path: Path) -> None:
    model, encoded = penjing_model(SHAPE), texts()
    (form,) = forms_for(MeanVector)
    export(model, tmp_path, [FLOAT_FORMS[0].file, form], segments=False)
    (tmp_path / TOKENIZER).write_text("{}")
    Description("classification", ("no", "yes"), 24, (form,), crc32=checksums(tmp_path, [form])).write(tmp_path)
    (read_back,) = Description.read(tmp_path).forms
    engine = open_engine(read_back, tmp_path, 1)
    vectors = model.state_dict()["encoder.embeddings.word.weight"].numpy()
    for i, row in enumerate(engine.logits(encoded)):
        np.testing.assert_allclose(row, vectors[encoded.row(i)].mean(0)[:2], rtol=1e-5)
    np.save(tmp_path / form.file, vectors + 1)
    with pytest.raises(InputError, match=r"vectors\.npy is damaged, or of another export"):
        open_engine(read_back, tmp_path, 1)


def test_it_is_packed_only_where_it_runs_graphs(tmp_path: Path) -> None:
    model, encoded = penjing_model(SHAPE), texts()
    write_network(network_of(model), {}, tmp_path, ranges=None, segments=False)
    packed = replace(FLOAT_FORMS[0], packed=True)
    expected = open_engine(packed, tmp_path, 1).logits(encoded)
    found = open_engine(replace(packed, engine=engine_name(Reversed)), tmp_path, 1).logits(encoded)
    assert all(np.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in zip(found, expected, strict=True))
    with pytest.raises(InputError, match=r"is packed, and .*MeanVector runs no graph"):
        open_engine(replace(packed, engine=engine_name(MeanVector)), tmp_path, 1)


def test_it_is_measured_in_a_process_of_its_own_beside_eager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process finds the module of the engine, though it is started without the folders of this one."""
    model = tmp_path / "model"
    tiny_teacher(model, "sequence")
    task = Classification(["a", "b"])
    encoded, _, _ = Encoder(task, tokenizer_of(model), 32)(INPUTS)
    forms = [*forms_for(Reversed, int8=False), *forms_for(MeanVector)]
    export(read(model), tmp_path / "engine", forms, segments=False)
    subjects = [Subject(EAGER, model), *(Subject(form, tmp_path / "engine", tokenizer=model / TOKENIZER) for form in forms)]
    found = measure(subjects, encoded, threads=1, sampling=Sampling(rounds=2, throughput_texts=12), raw=RawInputs(task, INPUTS, 32))
    for each in found:
        figures = to_json(each.figures())
        assert all(value is not None and value > 0 for name, value in figures.items() if name != "steady")
    gone = Form("gone", "no_such_module:Engine", forms[0].file)
    with pytest.raises(PenjingError, match=r"measure: gone failed .*no_such_module"):
        measure([Subject(gone, tmp_path / "engine")], encoded, threads=1)
