"""What every command shares: the application, the words for its options, and how it speaks."""

import json
import os
from pathlib import Path
from typing import Annotated, Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import typer
from rich.console import Console

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
console = Console(stderr=True)


def tell(text: str) -> None:
    """A line for the person who waits."""
    console.print(text, soft_wrap=True, highlight=False, markup=False)


Model = Annotated[str, typer.Option("--model", help="Folder or hub id of the model.")]
TaskName = Annotated[str, typer.Option("--task", help="classification, pair or tagging.")]
TrainFile = Annotated[str, typer.Option("--train", help="Training data: JSON Lines, CSV, TSV, Parquet (also .gz), or a hub name.")]
EvalFile = Annotated[str, typer.Option("--eval", help="Evaluation data, likewise; without it a tenth of the training data is held out.")]
Out = Annotated[Path, typer.Option("--out", help="Folder to write.")]
Seed = Annotated[int, typer.Option("--seed")]
MaxLength = Annotated[int, typer.Option("--max-length", help="Tokens of a text at most; longer ones are cut. 0: the model's positions.")]
TextColumns = Annotated[str, typer.Option("--text-columns", help="Column, or two with a comma between, that hold the text.")]
LabelColumn = Annotated[str, typer.Option("--label-column", help="Column that holds the label.")]
Metric = Annotated[str, typer.Option("--metric", help="accuracy, macro-f1, f1 (of one label) or mcc; of tags entity-f1,"
    " entity-f1-strict or word-accuracy. Without it accuracy, and entity-f1 where the tags mark spans.")]  # fmt: skip
Positive = Annotated[
    str, typer.Option("--positive", help="With --metric f1: the label that it is of; without it, the one that names tell.")
]
Pickle = Annotated[bool, typer.Option("--pickle", help="Read pytorch_model.bin where there are no safetensors.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
Threads = Annotated[int, typer.Option("--threads", min=0, help="Threads of every engine; 0: all cores.")]
Epochs = Annotated[int, typer.Option("--epochs", min=1)]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1)]
Rate = Annotated[float, typer.Option("--learning-rate", min=0)]
Test = Annotated[list[str] | None, typer.Option("--test", help="Further data to report on.")]
MaxDrop = Annotated[float | None, typer.Option("--max-drop", help="Points of the metric that may be lost.")]
Confidence = Annotated[
    float | None,
    typer.Option(
        "--confidence", help="With --max-drop, as 0.95: not what was lost but what may have been, the interval's end, is held against it."
    ),
]
Wait = Annotated[float, typer.Option("--wait", min=0, help="Seconds that each measurement waits for a quiet machine at most.")]
TrainEpochs = Annotated[int | None, typer.Option("--epochs", min=1, help="Epochs of distillation.")]
NoTraining = Annotated[bool, typer.Option("--no-training", help="Leave distillation out.")]
Folder = Annotated[str, typer.Argument(help="What compress wrote, or a model folder.")]
DataFile = Annotated[str, typer.Option("--data", help="Data: JSON Lines, CSV, TSV, Parquet (also .gz), or a hub name.")]
Engine = Annotated[str | None, typer.Option("--engine", help="openvino, onnxruntime or torch; without it, the fastest.")]
AnyTask = Annotated[str, typer.Option("--task", help="classification, pair or tagging; where the folder does not say.")]


def say(result: dict[str, Any], as_json: bool, text: str) -> None:
    """The result for a machine, or for a person."""
    print(json.dumps(result, ensure_ascii=False) if as_json else text)


def cores() -> int:
    """Processors that this process may use: its affinity, and a container's quota."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(count, int(quota) // int(period)))
    except (OSError, ValueError):
        return count
