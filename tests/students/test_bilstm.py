"""The BiLSTM: answers do not hang on padding, its graph computes the same, and its folder loads without Penjing."""

import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import pytest
import torch
from conftest import WITHOUT_PENJING, batch, logits, penjing_model, perturb
from scipy.spatial.distance import pdist

from penjing.blueprint import Blueprint, Layer
from penjing.engines.form import FLOAT_FORMS
from penjing.engines.onnxruntime import OnnxRuntimeEngine
from penjing.engines.openvino import OpenVinoEngine
from penjing.model.modeling_bilstm import BilstmPreTrainedModel
from penjing.students.bilstm import Bilstm, build, graph, words_of
from penjing.text.encoded import Encoded
from penjing.training.loop import Schedule, fit
from penjing.training.predict import labels_loss, logits_of

Kind = Literal["single", "pairs", "tagging"]
KINDS: tuple[Kind, ...] = ("single", "pairs", "tagging")
ALL = pytest.mark.parametrize("kind", KINDS)
BLUEPRINT = Blueprint(60, 24, 2, 16, 16, 8, (Layer(2, 32),), "sequence", 3)
SMALL = Bilstm(width=12, hidden=7, dense=9)


def student(kind: Kind, settings: Bilstm = SMALL) -> Any:
    teacher = penjing_model(BLUEPRINT)
    model = build(teacher, per_token=kind == "tagging", pairs=kind == "pairs", settings=settings)
    return perturb(model, by=0.3)


def texts(lengths: list[int], pairs: bool = True, seed: int = 0) -> Encoded:
    """Random texts, with `pairs` each of two parts, the second of one token at least."""
    rng = np.random.default_rng(seed)
    ids = [rng.integers(1, 60, n).tolist() for n in lengths]
    firsts = [int(rng.integers(1, n)) if pairs and n > 1 else n for n in lengths]
    return Encoded.of(ids, [[0] * first + [1] * (n - first) for first, n in zip(firsts, lengths, strict=True)])


@ALL
def test_answers_do_not_hang_on_padding(kind: Kind) -> None:
    model, encoded = student(kind), texts([5, 2, 9, 5, 1])
    padded = {name: torch.from_numpy(value) for name, value in encoded.padded(np.arange(5), pad=0).items()}
    wide = {name: torch.nn.functional.pad(value, (0, 4), value=3 * (name == "input_ids")) for name, value in padded.items()}
    expected = logits_of(model, encoded)
    for feeds in (padded, wide):
        for i, row in enumerate(logits(model, feeds).numpy()):
            np.testing.assert_allclose(row[: len(expected[i])] if kind == "tagging" else row, expected[i], atol=1e-5)


def test_both_directions_reach_the_answer() -> None:
    model = student("single")
    inputs = batch([8], vocabulary=60)
    expected = logits(model, inputs)
    for place in (0, 7):
        other = inputs["input_ids"].clone()
        other[0, place] = (other[0, place] + 1) % 60
        assert not torch.allclose(logits(model, {"input_ids": other}), expected, atol=1e-4)


def test_the_halves_of_a_pair_are_read_one_by_one() -> None:
    model = student("pairs")
    ids = torch.tensor([[4, 5, 6, 7, 8]])
    with torch.no_grad():
        features = model.compare(ids, None, torch.tensor([[0, 0, 0, 1, 1]]))
        turned = model.compare(torch.tensor([[7, 8, 4, 5, 6]]), None, torch.tensor([[0, 0, 1, 1, 1]]))
        (u, v), (_, alone) = features[:, :28].chunk(2, dim=1), model.read(torch.tensor([[7, 8]]), None)
    torch.testing.assert_close(v, alone)
    torch.testing.assert_close(turned[:, :28], torch.cat([v, u], dim=1))
    torch.testing.assert_close(turned[:, 28:], features[:, 28:])
    torch.testing.assert_close(features[:, 28:], torch.cat([u * v, (u - v).abs()], dim=1))


def test_hidden_states_are_those_that_the_answers_come_from() -> None:
    model, inputs = student("tagging"), batch([6, 3], vocabulary=60)
    with torch.no_grad():
        output = model(**inputs, output_hidden_states=True)
        torch.testing.assert_close(model.out(output.hidden_states[-1]), output.logits)
    assert student("single")(**inputs).hidden_states is None


@ALL
@pytest.mark.parametrize("engine", [OnnxRuntimeEngine, OpenVinoEngine])
def test_the_graph_answers_as_pytorch_does(kind: Kind, engine: Any) -> None:
    model, encoded = student(kind), texts([5, 2, 9, 5, 5, 13, 2])
    exported = graph(model)
    onnx.checker.check_model(exported, full_check=True)
    assert [value.name for value in exported.graph.input] == ["input_ids", *(["token_type_ids"] if kind == "pairs" else [])]
    found = engine(exported.SerializeToString(), FLOAT_FORMS[0], 1).logits(encoded)
    for a, b in zip(found, logits_of(model, encoded), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.parametrize("engine", [OnnxRuntimeEngine, OpenVinoEngine])
def test_a_pair_of_one_text_is_answered_alike_everywhere(engine: Any) -> None:
    model, lengths = student("pairs"), [6, 1, 6, 2]
    whole = texts(lengths, pairs=False)
    for types in (whole.types, whole.types + np.int8(1)):
        encoded = Encoded(whole.ids, types, whole.offsets)
        for a, b in zip(
            engine(graph(model).SerializeToString(), FLOAT_FORMS[0], 1).logits(encoded), logits_of(model, encoded), strict=True
        ):
            np.testing.assert_allclose(a, b, atol=1e-4)


# -- building and training ---------------------------------------------------------------------------------------


def test_words_are_the_teachers_up_to_their_scale() -> None:
    teacher = penjing_model(BLUEPRINT)
    table, words = teacher.encoder.embeddings.word.weight.detach().numpy(), words_of(teacher, 99, 0)
    ratio = pdist(words) / pdist(table)
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-3)
    assert words.std() == pytest.approx(1, abs=1e-5)
    low = words_of(penjing_model(Blueprint(60, 24, 2, 16, 16, 8, (), "sequence", 3, rank=4)), 99, 0)
    assert np.linalg.matrix_rank(low, tol=1e-3) == 4


def test_a_student_has_the_labels_of_its_teacher_and_depends_on_the_seed_alone() -> None:
    names = {0: "bad", 1: "so so", 2: "good"}
    teacher = penjing_model(BLUEPRINT, id2label=names, label2id={name: i for i, name in names.items()})
    first, state = build(teacher, settings=SMALL), torch.get_rng_state()
    assert first.config.id2label == names and not first.training
    torch.manual_seed(9)
    again, other = (build(teacher, settings=SMALL, seed=s) for s in (0, 1))
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in first.state_dict().items())
    assert not torch.equal(first.lstm.weight_hh_l0, other.lstm.weight_hh_l0)
    torch.set_rng_state(state)


@ALL
def test_the_loop_trains_it(kind: Kind, tmp_path: Path) -> None:
    encoded = texts([6, 4, 8, 5] * 12)
    per_token = kind == "tagging"
    targets = [(row % 3 if per_token else row[-1:] % 3).astype(np.int64) for row in (encoded.row(i) for i in range(len(encoded)))]
    model: BilstmPreTrainedModel = student(kind, Bilstm(width=12, hidden=16, dense=16))

    def right(model: Any) -> float:
        answers = logits_of(model, encoded)
        return float(np.mean([np.mean(np.atleast_2d(z).argmax(1) == t) for z, t in zip(answers, targets, strict=True)]))

    before = right(model)
    history = fit(model, encoded, labels_loss(targets), right, Schedule(epochs=20, batch_size=8, learning_rate=1e-2), tmp_path / "s.pt")
    assert history.best > max(0.8, before)
    assert right(model) == pytest.approx(history.best)


# -- the folder --------------------------------------------------------------------------------------------------

RELOAD = (
    WITHOUT_PENJING
    + """
import torch, transformers

AUTO = {"pairs": transformers.AutoModelForSequenceClassification, "tagging": transformers.AutoModelForTokenClassification}
for kind, auto in AUTO.items():
    folder = sys.argv[1] + "/" + kind
    model = auto.from_pretrained(folder, trust_remote_code=True).eval()
    with torch.no_grad():
        torch.save(model(**torch.load(folder + "/feeds.pt")).logits, folder + "/logits.pt")
"""
)


def test_a_folder_loads_in_a_process_without_penjing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    feeds = {name: torch.from_numpy(value) for name, value in texts([6, 3]).padded(np.arange(2), pad=0).items()}
    models = {"pairs": student("pairs"), "tagging": student("tagging")}
    for kind, model in models.items():
        model.save_pretrained(tmp_path / kind)
        torch.save(feeds, tmp_path / kind / "feeds.pt")
    subprocess.run([sys.executable, "-c", RELOAD, str(tmp_path)], check=True, timeout=120, capture_output=True)
    for kind, model in models.items():
        with torch.no_grad():
            torch.testing.assert_close(torch.load(tmp_path / kind / "logits.pt"), model(**feeds).logits, atol=1e-6, rtol=1e-5)
