"""Answers from an exported model: tokenizers, numpy and the engine; neither torch nor transformers."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

from tokenizers import Tokenizer

from penjing.engines.engine import DESCRIPTION, forms_of, open_engine, read_description
from penjing.engines.machine import safe_weight_bits
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
        if not self.form.packed and int(about.get("weight_bits", 8)) > safe_weight_bits():
            warnings.warn(f"{self.folder} was made for a processor with VNNI; sums can overflow on this one: export it here", stacklevel=2)
        self.max_length = int(about["max_length"])
        self.task = task_named(about["task"])(self.labels)
        self.tokenizer = Tokenizer.from_file(str(self.folder / "tokenizer.json"))
        self.engine = open_engine(self.form, self.folder, threads or min(2, os.cpu_count() or 1))

    def __call__(self, inputs: Sequence[Any]) -> list[Answer]:
        """Texts, pairs of texts, or lists of words → `{"label", "score"}` each, or `{"labels", "scores"}` per word."""
        if isinstance(inputs, str):
            raise InputError("predict: got one text; give a list of texts")
        encoded, first, _ = self.task.encode(self.tokenizer, inputs, self.max_length)
        logits = self.engine.logits(encoded)
        answers = self.task.decode(logits, first)
        if isinstance(self.task, Tagging):
            return [
                {"labels": tags, "scores": [float(softmax(row[t]).max()) if t >= 0 else 0.0 for t in tokens]}
                for tags, row, tokens in zip(answers, logits, first, strict=True)
            ]
        return [{"label": name, "score": float(softmax(row).max())} for name, row in zip(answers, logits, strict=True)]
