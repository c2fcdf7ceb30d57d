"""What every command shares: the application, the words for its options, and how it speaks."""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import fields
from functools import wraps
from inspect import Parameter, signature
from pathlib import Path
from typing import Annotated, Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import typer
from rich.console import Console

from penjing.cli.numeric import number
from penjing.errors import InputError
from penjing.text.reading import Reading

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
console = Console(stderr=True)


def tell(text: str) -> None:
    """A line for the person who waits."""
    console.print(text, soft_wrap=True, highlight=False, markup=False)


def named_folder(given: str) -> Path:
    """A folder that is named: "" would be the current one, which nobody asked for who left a variable empty."""
    if not str(given).strip():
        raise InputError("--out: it is empty; give a folder, or . for the current one")
    return Path(given)


Model = Annotated[str, typer.Option("--model", help="Folder or hub id of the model.")]
TaskName = Annotated[str, typer.Option("--task", help="classification, pair or tagging.")]
TrainFile = Annotated[str, typer.Option("--train", help="Training data: JSON Lines, CSV, TSV, Parquet (also .gz), or a hub name.")]
EvalFile = Annotated[str, typer.Option("--eval", help="Evaluation data, likewise; without it a tenth of the training data is held out.")]
Out = Annotated[Path, typer.Option("--out", parser=named_folder, metavar="<folder>", help="Folder to write.")]
Seed = Annotated[int, number("--seed", int, 0, 2**32 - 1)]  # what numpy can be seeded with
MaxLength = Annotated[int, number("--max-length", int, 0, help="Tokens of a text at most; longer ones are cut. 0: the model's positions.")]
TextColumns = Annotated[str, typer.Option("--text-columns", help="Column, or two with a comma between, that hold the text.")]
LabelColumn = Annotated[str, typer.Option("--label-column", help="Column that holds the label.")]
Metric = Annotated[str, typer.Option("--metric", help="accuracy, macro-f1, f1 (of one label) or mcc; of tags entity-f1,"
    " entity-f1-strict or word-accuracy. Without it accuracy, and entity-f1 where the tags mark spans.")]  # fmt: skip
Positive = Annotated[
    str, typer.Option("--positive", help="With --metric f1: the label that it is of; without it, the one that names tell.")
]
Encoding = Annotated[str, typer.Option("--encoding", help="Of text files that are not UTF-8, as gbk, cp1252 or utf-16.")]
Delimiter = Annotated[str, typer.Option("--delimiter", help="What stands between two fields of CSV and TSV, as ';' or tab.")]
Header = Annotated[str, typer.Option("--header", help="Columns of CSV and TSV files whose first line does not name them, as text,label.")]
LabelMap = Annotated[str, typer.Option("--label-map", help="What the model calls labels of the data, as a=negative,b=positive.")]
Pickle = Annotated[bool, typer.Option("--pickle", help="Read pytorch_model.bin where there are no safetensors.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
Threads = Annotated[int, number("--threads", int, 0, os.cpu_count() or 1, help="Threads of every engine; 0: all cores.")]
Epochs = Annotated[int, number("--epochs", int, 1, 10_000)]
BatchSize = Annotated[int, number("--batch-size", int, 1, 100_000)]
Rate = Annotated[float, number("--learning-rate", float, most=1)]
Test = Annotated[list[str] | None, typer.Option("--test", help="Further data to report on.")]
MaxDrop = Annotated[float | None, typer.Option("--max-drop", help="Points of the metric that may be lost.")]
Confidence = Annotated[
    float | None,
    typer.Option(
        "--confidence", help="With --max-drop, as 0.95: not what was lost but what may have been, the interval's end, is held against it."
    ),
]
Wait = Annotated[float, number("--wait", float, 0, help="Seconds that each measurement waits for a quiet machine at most.")]
TrainEpochs = Annotated[int | None, number("--epochs", int, 1, 10_000, help="Epochs of distillation.")]
NoTraining = Annotated[bool, typer.Option("--no-training", help="Leave distillation out.")]
Folder = Annotated[str, typer.Argument(help="What compress wrote, or a model folder.")]
DataFile = Annotated[str, typer.Option("--data", help="Data: JSON Lines, CSV, TSV, Parquet (also .gz), or a hub name.")]
Engine = Annotated[str | None, typer.Option("--engine", help="openvino, onnxruntime or torch; without it, the fastest.")]
AnyTask = Annotated[str, typer.Option("--task", help="classification, pair or tagging; where the folder does not say.")]


_READING: dict[str, Any] = {
    "max_length": MaxLength, "text_columns": TextColumns, "encoding": Encoding, "delimiter": Delimiter, "header": Header,
    "label_column": LabelColumn, "label_map": LabelMap, "metric": Metric, "positive": Positive,
}  # fmt: skip
_OF_LABELS = ("label_column", "label_map", "metric", "positive")


def reads(*, labels: bool = True) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorates a command that reads data: its `reading` is made of options, of those on labels where it reads `labels`."""
    options = {name: kind for name, kind in _READING.items() if labels or name not in _OF_LABELS}
    defaults = {field.name: field.default for field in fields(Reading)}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def reading(**given: Any) -> None:
            how = Reading(**{name: given.pop(name) for name in options if name in given})
            command(reading=how, **given)

        added = [Parameter(name, Parameter.KEYWORD_ONLY, default=defaults[name], annotation=kind) for name, kind in options.items()]
        own = signature(command).parameters.values()
        parameters = [each for one in own for each in (added if one.name == "reading" else [one.replace(kind=Parameter.KEYWORD_ONLY)])]
        reading.__signature__ = signature(command).replace(parameters=parameters)  # type: ignore[attr-defined]
        return reading

    return decorate


def say(result: dict[str, Any], as_json: bool, text: str) -> None:
    """The result for a machine, or for a person."""
    if as_json:
        say_json(result)
    else:
        print(text)


def say_json(result: dict[str, Any]) -> None:
    """One JSON object; with every character that is not ASCII escaped, where the output's encoding lacks one of them."""
    text = json.dumps(result, ensure_ascii=False)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(result)
    print(text)


def cores() -> int:
    """Processors that this process may use: its affinity, and a container's quota."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(count, int(quota) // int(period)))
    except (OSError, ValueError):
        return count
