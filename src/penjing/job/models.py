"""Models that `eval` and `bench` open: a folder that `compress` wrote, or any Hugging Face model folder."""

from dataclasses import dataclass, replace
from pathlib import Path

from tokenizers import Tokenizer

from penjing.engines.description import Description
from penjing.engines.form import EAGER, TOKENIZER, Form
from penjing.engines.opening import engine_class
from penjing.errors import InputError
from penjing.files.references import is_reference
from penjing.model.checkpoint import locate, open_checkpoint
from penjing.serving.predictor import engine_folder
from penjing.tasks.encoder import Encoder
from penjing.tasks.names import task_named
from penjing.tasks.positive import positive_of
from penjing.tasks.sources import longest_text, make_task, tokenizer_of
from penjing.tasks.task import Task
from penjing.text.reading import Reading


@dataclass(frozen=True)
class Model:
    """An opened model: its folder, the forms it can run in (the preferred one first), and the encoding of texts."""

    folder: Path
    forms: list[Form]
    task: Task
    tokenizer: Tokenizer
    max_length: int
    temperature: float = 1.0
    """The softmax temperature of its scores."""

    @property
    def encoder(self) -> Encoder:
        """The encoder of the model's texts."""
        return Encoder(self.task, self.tokenizer, self.max_length)


def open_model(folder: str, engine: str | None, task: str, reading: Reading) -> Model:
    """Open a model folder.

    Args:
        engine: only forms of this engine; None for all. PyTorch runs `model/` beside an exported `engine/`.
        task: needed where the folder does not name it; a model that labels tokens is for tagging.
    """
    if engine is not None:
        engine_class(engine)
    exported = engine_folder(Path(folder))
    if not exported.is_dir():
        return _plain(locate(folder), engine, task, reading)
    about = Description.read(exported)
    about.check_files(exported, [TOKENIZER])
    kind = _described(about, reading)
    temperature = about.temperature
    if engine == "torch":
        open_checkpoint(exported.parent / "model").check_numbers()
        return Model(exported.parent / "model", [EAGER], kind, tokenizer_of(exported), about.max_length, temperature)
    forms = about.forms_on(engine)
    if not forms:
        raise InputError(f"engine: {exported} was not exported for {engine!r}; it has {', '.join(about.engines)}")
    return Model(exported, forms, kind, tokenizer_of(exported), about.max_length, temperature)


def _described(about: Description, reading: Reading) -> Task:
    """The task of an engine folder, with its own metric unless another is requested."""
    metric = reading.metric
    own = about.metric
    if not metric and (own in task_named(about.task).metrics or is_reference(own)):
        metric = own
    positive = reading.positive or (about.positive if metric == "f1" else "")
    if metric == own == "f1" and not positive and positive_of(about.labels) is None:
        positive = about.labels[-1]  # the positive label of older folders, which name none
    reading = replace(reading, metric=metric, positive=positive)
    kind = make_task(about.task, reading).with_labels(about.labels)
    kind.metric()
    return kind


def _plain(folder: Path, engine: str | None, task: str, reading: Reading) -> Model:
    if engine not in (None, "torch"):
        raise InputError(f"engine: {folder} is a plain model, which runs on torch; compress it to run on {engine}")
    checkpoint = open_checkpoint(folder)
    head = checkpoint.head
    if not head.labelled:
        raise InputError(f"model: {folder} has no head for a task that is supported; train it with penjing train")
    kind = make_task(task or ("tagging" if head.per_token else "classification"), reading)
    if kind.head != head:
        raise InputError(f"task: {kind.name} does not fit {folder}, which labels {'tokens' if head.per_token else 'texts'}")
    checkpoint.check_head(head, kind.name)
    checkpoint.check_numbers()
    kind = kind.with_labels(checkpoint.labels)
    kind.metric()
    return Model(folder, [EAGER], kind, tokenizer_of(checkpoint), longest_text(checkpoint, reading.max_length))
