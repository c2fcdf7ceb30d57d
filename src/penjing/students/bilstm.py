"""The BiLSTM student: word vectors from its teacher, training by distillation, and export as an ONNX graph."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from penjing.engines.form import FLOAT_FORMS, PORTABLE_FLOAT, Form
from penjing.files.whole import write_bytes
from penjing.model.modeling_bilstm import (
    BilstmConfig,
    BilstmForSequenceClassification,
    BilstmForTokenClassification,
    BilstmPreTrainedModel,
)
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.model.watch import encoder_of
from penjing.students.fitting import Fit, Fitting
from penjing.students.static import principal
from penjing.students.student import MODEL, Answer, Student, Usual
from penjing.training.predict import logits_of

_NETWORKS: dict[str, type[BilstmPreTrainedModel]] = {
    network.__name__: network for network in (BilstmForSequenceClassification, BilstmForTokenClassification)
}


@final
@dataclass(frozen=True)
class Bilstm(Student):
    """A BiLSTM student, in the sizes of Tang et al. 2019, section 4.3.

    width: of a word vector. hidden: units of each direction. dense: units of the dense layer.
    """

    name: ClassVar[str] = "bilstm"
    usual: ClassVar[Usual] = Usual({"mse": 1.0}, rate=1e-3, epochs=10)
    paper: ClassVar[str] = "Tang et al. 2019"
    when: ClassVar[str] = "faster than any BERT and better than a bag of words, also to tag"
    shipped: ClassVar[tuple[Form, ...]] = tuple(form for form in FLOAT_FORMS if form.file == PORTABLE_FLOAT)
    tagging: ClassVar[bool] = True
    token_types: ClassVar[bool] = True
    trained: ClassVar[bool] = True
    transformers: ClassVar[bool] = True

    width: int = 300
    hidden: int = 150
    dense: int = 200
    dropout: float = 0.1

    def fit(self, fitting: Fitting, folder: Path) -> Fit:
        """Train by the losses of the settings, and write a folder that transformers loads."""
        network = build(fitting.teacher, per_token=fitting.task.head.per_token, pairs=fitting.pairs, settings=self, seed=fitting.seed)
        history = fitting.teach(network, self.dropout)
        network.save_pretrained(folder / MODEL)
        return Fit(sum(p.numel() for p in network.parameters()), f"; {history.steps} steps")

    def load(self, model: Path) -> Answer:
        """The network's logits in PyTorch."""
        network = read(model)
        return lambda texts: logits_of(network, texts)

    def export(self, model: Path, folder: Path) -> None:
        """Export the ONNX file of standard operators."""
        write_bytes(folder / PORTABLE_FLOAT, graph(read(model)).SerializeToString())


def build(
    teacher: PenjingPreTrainedModel,
    *,
    per_token: bool = False,
    pairs: bool = False,
    settings: Bilstm | None = None,
    seed: int = 0,
) -> BilstmPreTrainedModel:
    """A new BiLSTM with the teacher's labels and word vectors (`words_of`), other weights drawn by the seed; in eval mode.

    Args:
        per_token: whether it answers each token, in place of the text.
        pairs: whether texts come in two, which are then read one by one.
    """
    s = settings or Bilstm()
    words = words_of(teacher, s.width, seed)
    config = BilstmConfig(
        vocab_size=len(words), embedding_size=words.shape[1], hidden_size=s.hidden, dense_size=s.dense, pairs=pairs, dropout=s.dropout,
        pad_token_id=teacher.config.pad_token_id, id2label=teacher.config.id2label, label2id=teacher.config.label2id,
    )  # fmt: skip
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        model = (BilstmForTokenClassification if per_token else BilstmForSequenceClassification)(config)
        model.word.weight.copy_(torch.from_numpy(words))
    return model.eval()


def read(folder: Path) -> BilstmPreTrainedModel:
    """The BiLSTM in a folder that `save_pretrained` wrote, in eval mode."""
    config = BilstmConfig.from_pretrained(folder)
    model: BilstmPreTrainedModel = _NETWORKS[(config.architectures or [""])[0]].from_pretrained(folder)
    return model.eval()


def words_of(teacher: PenjingPreTrainedModel, width: int, seed: int) -> NDArray[np.float32]:
    """Word vectors from the teacher: its word table in `width` principal components (V, width) at most, with variance 1 over all."""
    encoder = encoder_of(teacher)
    table = encoder.embeddings.word.weight.detach().float()
    if encoder.embeddings.word_map is not None:
        table = table @ encoder.embeddings.word_map.weight.detach().float().T
    words = principal(table.cpu().numpy(), width, seed)
    return words / words.std()


# -- ONNX --------------------------------------------------------------------------------------------------------


def graph(model: BilstmPreTrainedModel) -> onnx.ModelProto:
    """The ONNX model: input_ids, and of pairs token_type_ids, (B, S) of exact lengths → logits, of standard operators alone."""
    return _Emitter({name: value.detach().float().cpu().numpy() for name, value in model.state_dict().items()}, model).model()


class _Emitter:
    """Builder of an ONNX graph: its nodes and constants, in the order in which they are added."""

    def __init__(self, weights: dict[str, NDArray[np.float32]], model: BilstmPreTrainedModel) -> None:
        self.weights = weights
        self.config = model.config
        self.per_token = isinstance(model, BilstmForTokenClassification)
        self.pairs = model.config.pairs and not self.per_token
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, NDArray[Any]] = {}

    def op(self, kind: str, *inputs: str, outputs: tuple[str, ...] | None = None, **attributes: Any) -> str:
        """Add a node; returns the name of its last output."""
        names = outputs or (f"{kind}_{len(self.nodes)}",)
        self.nodes.append(helper.make_node(kind, list(inputs), list(names), name=names[-1], **attributes))
        return names[-1]

    def constant(self, name: str, value: Any) -> str:
        self.constants[name] = np.asarray(value)
        return name

    def integers(self, *values: int) -> str:
        """The constant (n,) of these numbers."""
        return self.constant("integers_" + "_".join(map(str, values)), np.array(values, np.int64))

    def linear(self, x: str, name: str) -> str:
        product = self.op("MatMul", x, self.constant(f"{name}.weight", self.weights[f"{name}.weight"].T))
        return self.op("Add", product, self.constant(f"{name}.bias", self.weights[f"{name}.bias"]))

    def gates(self, part: str) -> NDArray[np.float32]:
        """`lstm.{part}` of both directions (2, 4·H, …), the gates from PyTorch's order i, f, g, o to ONNX's i, o, f, c."""
        both = [np.split(self.weights[f"lstm.{part}_l0{direction}"], 4) for direction in ("", "_reverse")]
        return np.stack([np.concatenate([i, o, f, g]) for i, f, g, o in both])

    def lstm(self, ids: str) -> None:
        """Add the LSTM over words (B, S): outputs `states` (S, 2, B, H) and `last` (2, B, H)."""
        x = self.op("Gather", self.constant("word", self.weights["word.weight"]), self.op("Transpose", ids, perm=[1, 0]))
        matrices = [self.constant(f"lstm.{part}", self.gates(part)) for part in ("weight_ih", "weight_hh")]
        bias = self.constant("lstm.bias", np.concatenate([self.gates("bias_ih"), self.gates("bias_hh")], axis=1))
        self.op("LSTM", x, *matrices, bias, outputs=("states", "last"), hidden_size=self.config.hidden_size, direction="bidirectional")

    def of_text(self) -> str:
        """Features of a text: the last state of both directions, (B, 2·H)."""
        self.lstm("input_ids")
        shape = self.constant("shape", np.array([-1, 2 * self.config.hidden_size], np.int64))
        return self.op("Reshape", self.op("Transpose", "last", perm=[1, 0, 2]), shape)

    def of_pair(self) -> str:
        """Features of a pair, [h₁, h₂, h₁·h₂, |h₁ - h₂|] (B, 8·H), from states within the pair (a, b) and the swapped pair (b, a).

        OpenVINO's LSTM takes no length per text, and so none is given: forwards the first of two texts, and backwards the second, is
        read from the initial state on.
        """
        zero, one = (self.constant(name, np.int64(value)) for name, value in (("zero", 0), ("one", 1)))
        length = self.op("Gather", self.op("Shape", "input_ids"), one)
        last = self.op("Sub", length, one)
        second = self.op("Min", self.op("Max", self.op("ReduceSum", "token_type_ids", self.integers(1), keepdims=1), one), last)
        first = self.op("Sub", length, second)
        place = self.op("Mod", self.op("Add", first, self.op("Range", zero, length, one)), length)
        self.lstm(self.op("Concat", "input_ids", self.op("GatherElements", "input_ids", place, axis=1), axis=0))
        states = self.op("Transpose", "states", perm=[2, 0, 1, 3])
        begins = self.op("Concat", first, second, axis=0)
        ends = self.op("Max", self.op("Sub", begins, one), zero)
        forwards = self.picked(states, zero, ends)
        backwards = self.picked(states, one, self.op("Min", begins, last))
        u, v = (
            self.op("Concat", self.op("Gather", forwards, text), self.op("Gather", backwards, turned), axis=1)
            for text, turned in ((zero, one), (one, zero))
        )
        return self.op("Concat", u, v, self.op("Mul", u, v), self.op("Abs", self.op("Sub", u, v)), axis=1)

    def picked(self, states: str, direction: str, index: str) -> str:
        """States of one direction at one token: of (2·B, S, 2, H) at index (2·B, 1), as (2, B, H)."""
        rows = self.op("GatherND", self.op("Gather", states, direction, axis=2), index, batch_dims=1)
        return self.op("Reshape", rows, self.constant("shape", np.array([2, -1, self.config.hidden_size], np.int64)))

    def model(self) -> onnx.ModelProto:
        """The finished ONNX model."""
        if self.per_token:
            self.lstm("input_ids")
            shape = self.constant("shape", np.array([0, 0, 2 * self.config.hidden_size], np.int64))
            x = self.op("Reshape", self.op("Transpose", "states", perm=[2, 0, 1, 3]), shape)
        else:
            x = self.op("Relu", self.linear(self.of_pair() if self.pairs else self.of_text(), "dense"))
        self.linear(x, "out")
        self.nodes[-1].output[0] = "logits"
        size: list[str | int] = ["batch", "length"]
        inputs = ["input_ids", *(["token_type_ids"] if self.pairs else [])]
        logits = [*(size if self.per_token else size[:1]), self.config.num_labels]
        made = helper.make_graph(
            self.nodes,
            "penjing-bilstm",
            [helper.make_tensor_value_info(name, TensorProto.INT64, size) for name in inputs],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, logits)],
            [numpy_helper.from_array(np.asarray(value, order="C"), name) for name, value in self.constants.items()],
        )
        return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="penjing")
