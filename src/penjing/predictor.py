"""Answers from an exported model: tokenizers, numpy and the engine; neither torch nor transformers."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from penjing.engines.engine import DESCRIPTION, forms_of, open_engine, read_description
from penjing.errors import InputError
from penjing.maths.statistics import softmax
from penjing.tasks.task import Tagging, task_named

Answer = dict[str, Any]


def engine_folder(folder: Path) -> Path:
    """The engine's folder: the one given, or the `engine/` in it."""
    return folder if (folder / DESCRIPTION).is_file() else folder / "engine"


@final
class Predictor:
    """A model that answers texts; made by `penjing.load`."""

    def __init__(self, folder: str | Path, *, engine: str | None = None, threads: int | None = None) -> None:
        """Load from what `penjing compress` wrote.

        Args:
            engine: onnxruntime or openvino; None takes the one that was fastest where the model was made.
        """
        self.folder = engine_folder(Path(folder))
        about = read_description(self.folder)
        forms = [form for form in forms_of(about) if engine in (None, form.engine)]
        if not forms:
            have = ", ".join(sorted({form.engine for form in forms_of(about)}))
            raise InputError(f"engine: {self.folder} has no form for {engine!r}; it has {have}")
        self.form, self.labels = forms[0], list(about["labels"])
        self.max_length = int(about["max_length"])
        self.temperature = float(about.get("temperature", 1.0))
        self.task = task_named(about["task"])(self.labels)
        self.tokenizer = Tokenizer.from_file(str(self.folder / "tokenizer.json"))
        self.engine = open_engine(self.form, self.folder, threads or min(2, os.cpu_count() or 1))

    def __call__(self, inputs: Sequence[Any]) -> list[Answer]:
        """Texts, pairs of texts, or lists of words → `{"label", "score"}` each, or `{"labels", "scores"}` per word.

        A score is the probability of the answer, softmax(logits / temperature), with the temperature of the folder.
        """
        if isinstance(inputs, str):
            raise InputError("predict: got one text; give a list of texts")
        encoded, first, _ = self.task.encode(self.tokenizer, inputs, self.max_length)
        logits = self.engine.logits(encoded)
        answers = self.task.decode(logits, first)
        if isinstance(self.task, Tagging):
            return [
                {"labels": tags, "scores": [self._score(row[t]) if t >= 0 else 0.0 for t in tokens]}
                for tags, row, tokens in zip(answers, logits, first, strict=True)
            ]
        return [{"label": name, "score": self._score(row)} for name, row in zip(answers, logits, strict=True)]

    def _score(self, logits: NDArray[np.float32]) -> float:
        return float(softmax(logits / np.float32(self.temperature)).max())
