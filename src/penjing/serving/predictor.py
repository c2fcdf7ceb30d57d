"""Answers from an exported model: tokenizers, numpy and the engine; neither torch nor transformers."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, final

import numpy as np

from penjing.engines.clock.machine import cores
from penjing.engines.description import DESCRIPTION, Description
from penjing.engines.form import TOKENIZER
from penjing.engines.opening import open_engine
from penjing.errors import InputError
from penjing.tasks.encoder import Encoder
from penjing.tasks.names import task_named
from penjing.tasks.task import Answer
from penjing.text.encoding import open_tokenizer


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
            threads: that one answer is computed by; 0 takes all cores, None two, where there are as many.
        """
        self.folder = engine_folder(Path(folder))
        about = Description.read(self.folder)
        forms = about.forms_on(engine)
        if not forms:
            raise InputError(f"engine: {self.folder} has no form for {engine!r}; it has {', '.join(about.engines)}")
        self.form, self.labels, self.max_length = forms[0], list(about.labels), about.max_length
        self.temperature = about.temperature
        self.task = task_named(about.task)(self.labels)
        if not (self.folder / TOKENIZER).is_file():
            raise InputError(f"engine: {self.folder / TOKENIZER} is missing; export the model again")
        about.check_files(self.folder, [TOKENIZER])
        self.encoder = Encoder(self.task, open_tokenizer(self.folder / TOKENIZER, "engine"), self.max_length)
        self.engine = open_engine(self.form, self.folder, min(2, cores()) if threads is None else threads)

    def __call__(self, inputs: Iterable[Any]) -> list[Answer]:
        """Texts, pairs of texts, or lists of words → `{"label", "score"}` each, or `{"labels", "scores"}` per word.

        A score is the probability of the answer, softmax(logits / temperature), with the temperature of the folder. Whatever is in a
        text, it is answered; where an input is none of the task's, an `InputError` names it by its place.
        """
        encoded, first_tokens, _ = self.encoder(self.task.asked(inputs))
        logits = self.engine.logits(encoded)
        if not all(np.isfinite(row).all() for row in logits):
            raise InputError(f"engine: the model in {self.folder} answers with what is no number; export it again, or on another engine")
        return self.task.shown(logits, first_tokens, self.temperature)


def load(folder: str | Path, *, engine: str | None = None, threads: int | None = None) -> Predictor:
    """A callable that answers texts, from a folder that `penjing compress` wrote; it imports no torch."""
    return Predictor(folder, engine=engine, threads=threads)
