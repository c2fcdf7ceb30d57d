"""Answers from an exported model: tokenizers, numpy and the engine; neither torch nor transformers."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from penjing.engines.engine import DESCRIPTION, TOKENIZER, check_files, forms_of, open_engine, read_description
from penjing.errors import InputError
from penjing.maths.statistics import softmax
from penjing.tasks.task import Tagging, task_named
from penjing.text.encoding import open_tokenizer

Answer = dict[str, Any]


def engine_folder(folder: Path) -> Path:
    """The engine's folder: the one given, or the `engine/` in it."""
    return folder if (folder / DESCRIPTION).is_file() else folder / "engine"


@final
class Predictor:
    """A model that answers texts; made by `penjing.load`. Any number of threads may call one."""

    def __init__(self, folder: str | Path, *, engine: str | None = None, threads: int | None = None) -> None:
        """Load from what `penjing compress` wrote.

        Args:
            engine: onnxruntime or openvino; None takes the one that was fastest where the model was made.
            threads: that one answer is computed by; None takes two, where there are as many.
        """
        self.folder = engine_folder(Path(folder))
        about = read_description(self.folder)
        forms = [form for form in forms_of(about) if engine in (None, form.engine)]
        if not forms:
            have = ", ".join(sorted({form.engine for form in forms_of(about)}))
            raise InputError(f"engine: {self.folder} has no form for {engine!r}; it has {have}")
        self.form, self.labels, self.max_length = forms[0], list(about["labels"]), about["max_length"]
        self.temperature = float(about.get("temperature", 1.0))
        self.task = task_named(about["task"])(self.labels)
        if not (self.folder / TOKENIZER).is_file():
            raise InputError(f"engine: {self.folder / TOKENIZER} is missing; export the model again")
        check_files(self.folder, about, [TOKENIZER])
        self.tokenizer = open_tokenizer(self.folder / TOKENIZER, "engine")
        self.engine = open_engine(self.form, self.folder, threads or min(2, os.cpu_count() or 1))

    def __call__(self, inputs: Iterable[Any]) -> list[Answer]:
        """Texts, pairs of texts, or lists of words → `{"label", "score"}` each, or `{"labels", "scores"}` per word.

        A score is the probability of the answer, softmax(logits / temperature), with the temperature of the folder. Whatever is in a
        text, it is answered; where an input is none of the task's, an `InputError` names it by its place.
        """
        encoded, first, _ = self.task.encode(self.tokenizer, self.task.asked(inputs), self.max_length)
        logits = self.engine.logits(encoded)
        if not all(np.isfinite(row).all() for row in logits):
            raise InputError(f"engine: the model in {self.folder} answers with what is no number; export it again, or on another engine")
        answers = self.task.decode(logits, first)
        if isinstance(self.task, Tagging):
            return [
                {"labels": tags, "scores": [self._score(row[t]) if t >= 0 else 0.0 for t in tokens]}
                for tags, row, tokens in zip(answers, logits, first, strict=True)
            ]
        return [{"label": name, "score": self._score(row)} for name, row in zip(answers, logits, strict=True)]

    def _score(self, logits: NDArray[np.float32]) -> float:
        return float(softmax(logits / np.float32(self.temperature)).max())
