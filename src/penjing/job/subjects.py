"""What `eval` and `bench` take: a folder that `compress` wrote, or any Hugging Face model folder."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from penjing.engines.engine import EAGER, ENGINES, TOKENIZER, Form, check_files, forms_of, read_description
from penjing.errors import InputError
from penjing.model.checkpoint import check_head, check_numbers, head_of, locate
from penjing.serving.predictor import engine_folder
from penjing.tasks.positive import positive_of
from penjing.tasks.sources import labels_of, longest_text, make_task, tokenizer_of
from penjing.tasks.task import Task, task_named
from penjing.text.reading import Reading


@dataclass(frozen=True)
class Model:
    """A folder, the forms it can be run in (the one to run first), and how to encode for it."""

    folder: Path
    forms: list[Form]
    task: Task
    tokenizer: Tokenizer
    max_length: int
    temperature: float = 1.0
    """What its scores are softened by."""


def open_model(folder: str, engine: str | None, task: str, reading: Reading) -> Model:
    """Look into a folder.

    Args:
        engine: only forms of this one; None for all. PyTorch runs `model/` beside an exported `engine/`.
        task: needed where the folder does not say; a model that labels tokens is for tagging.
    """
    if engine is not None and engine not in ENGINES:
        raise InputError(f"--engine: {engine!r} is none; allowed are {', '.join(ENGINES)}")
    exported = engine_folder(Path(folder))
    if not exported.is_dir():
        return _plain(locate(folder), engine, task, reading)
    about = read_description(exported)
    check_files(exported, about, [TOKENIZER])
    kind, temperature = _described(about, reading), float(about.get("temperature", 1.0))
    if engine == "torch":
        check_numbers(exported.parent / "model")
        return Model(exported.parent / "model", [EAGER], kind, tokenizer_of(exported), about["max_length"], temperature)
    forms = [form for form in forms_of(about) if engine in (None, form.engine)]
    if not forms:
        raise InputError(
            f"--engine: {exported} was not exported for {engine!r}; it has {', '.join(sorted({f.engine for f in forms_of(about)}))}"
        )
    return Model(exported, forms, kind, tokenizer_of(exported), about["max_length"], temperature)


def _described(about: dict[str, Any], reading: Reading) -> Task:
    """The task of an engine folder: its own metric, unless another is asked for."""
    metric, own = reading.metric, str(about.get("metric", ""))
    if not metric and own in task_named(about["task"]).metrics:
        metric = own
    positive = reading.positive or (str(about.get("positive", "")) if metric == "f1" else "")
    if metric == own == "f1" and not positive and positive_of(about["labels"]) is None:
        positive = about["labels"][-1]  # what folders that name none were judged by
    reading = replace(reading, metric=metric, positive=positive)
    kind = make_task(about["task"], reading)
    kind.labels = list(about["labels"])
    kind.metric()
    return kind


def _plain(folder: Path, engine: str | None, task: str, reading: Reading) -> Model:
    if engine not in (None, "torch"):
        raise InputError(f"--engine: {folder} is a plain model, which runs on torch; compress it to run on {engine}")
    head = head_of(folder)
    if head not in ("sequence", "token"):
        raise InputError(f"model: {folder} has no head for a task that is supported; train it with penjing train")
    kind = make_task(task or ("tagging" if head == "token" else "classification"), reading)
    if kind.head != head:
        raise InputError(f"--task: {kind.name} does not fit {folder}, which labels {'tokens' if head == 'token' else 'texts'}")
    check_head(folder, head, kind.name)
    check_numbers(folder)
    kind.labels = labels_of(folder)
    kind.metric()
    return Model(folder, [EAGER], kind, tokenizer_of(folder), longest_text(folder, reading.max_length))
