"""A student of one's own, defined here: it learns what the teacher answers, and is exported, reported and served."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from penjing.engines.form import FLOAT_FORMS, PORTABLE_FLOAT, Form
from penjing.files.whole import write_bytes
from penjing.steps.teach.distill import DistillSettings
from penjing.students.fitting import Fit, Fitting
from penjing.students.student import MODEL, Answer, Student
from penjing.text.encoded import Encoded, Logits

TABLE = "table.npy"


@final
@dataclass(frozen=True)
class TokenVotes(Student):
    """Each token votes by the mean of the targets (N, C) of the texts that hold it; a text is the mean of its tokens' votes."""

    name: ClassVar[str] = "token-votes"
    shipped: ClassVar[tuple[Form, ...]] = tuple(form for form in FLOAT_FORMS if form.file == PORTABLE_FLOAT)

    strength: float = 4.0

    def fit(self, fitting: Fitting, folder: Path) -> Fit:
        targets, _ = fitting.targets()
        tokens = fitting.tokenizer.get_vocab_size()
        votes = np.full((tokens, targets.shape[1]), 1.0)
        for row, target in enumerate(targets):
            votes[np.unique(fitting.train.encoded.row(row))] += target
        table = self.strength * np.log(votes / votes.sum(1, keepdims=True))
        (folder / MODEL).mkdir(parents=True)
        np.save(folder / MODEL / TABLE, table.astype(np.float32))
        return Fit(table.size)

    def load(self, model: Path) -> Answer:
        table = np.load(model / TABLE)

        def answer(encoded: Encoded) -> Logits:
            return [table[encoded.row(i)].mean(0) for i in range(len(encoded))]

        return answer

    def export(self, model: Path, folder: Path) -> None:
        table = np.load(model / TABLE)
        nodes = [
            helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
            helper.make_node("ReduceMean", ["rows"], ["logits"], axes=[1], keepdims=0),
        ]
        graph = helper.make_graph(
            nodes, "votes", [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "length"])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", table.shape[1]])], [numpy_helper.from_array(table, "table")],
        )  # fmt: skip
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(proto)
        write_bytes(folder / PORTABLE_FLOAT, proto.SerializeToString())


def test_it_takes_the_training_over(shop: Any, steps: Callable[[Any], list[str]]) -> None:
    report = shop.compress(recipe=[DistillSettings(losses={"kl": 1.0}), TokenVotes()])
    assert steps(report) == ["baseline", "distill", "export", "choose", "verify"]
    assert report.student is not None and report.student.kind == "token-votes" and report.result.parameters > 0
    own = TokenVotes().load(shop.out / "model")
    answers = shop.answers(["good film", "a bad bad film"])
    assert len(answers) == 2 and callable(own)
