"""The shared parts of all commands: the application, lazily imported commands, common options, and output."""

import importlib
import json
import os
import re
import sys
from collections.abc import Callable, Mapping
from functools import cache, wraps
from pathlib import Path
from typing import Annotated, Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import typer
from rich.console import Console
from typer.core import TyperGroup

from penjing.errors import InputError
from penjing.files.run import claimed
from penjing.files.whole import Json

COMMANDS: Mapping[str, tuple[str, str]] = {
    "train": ("training", "Fine-tune a teacher."),
    "compress": ("compress", "The main job: a smaller, faster model for a budget, with the proof."),
    "prune": ("by_hand", "Cut one thing by hand: heads, neurons, layers, units, tokens, single weights."),
    "distill": ("by_hand", "Teach a small student, by any of the published losses."),
    "quantize": ("by_hand", "Round the weights: to integers (faster), or to few bits (smaller)."),
    "share": ("reshaping", "Let groups of layers run one set of weights: smaller, not faster."),
    "factorise": ("reshaping", "The word embedding as a product of two small matrices, the nearest of a rank."),
    "project": ("reshaping", "The same by a random projection, to compare."),
    "eval": ("view", "Quality with an interval, and what flipped against a teacher."),
    "bench": ("view", "Latency and throughput side by side, each in a process of its own."),
    "inspect": ("view", "What a model is, and what it costs."),
    "methods": ("methods", "Every method, its paper, and when to use it."),
    "demo": ("compress", "The whole job, offline."),
}
"""The module of each command, which is imported when the command is called, and what it does in a line."""


class Commands(TyperGroup):
    """The commands, each imported when it is called: what they compute with takes seconds to import."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of the commands, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of a name; None where there is none."""
        return command_named(cmd_name)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The list of commands in the help."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, cls=Commands)
console = Console(stderr=True)


@cache
def command_named(name: str) -> Any:
    """The command of this name, as Typer makes it; None where there is none."""
    if name not in COMMANDS:
        return None
    importlib.import_module(f"penjing.cli.{COMMANDS[name][0]}")
    info = next(entry for entry in app.registered_commands if (entry.name or getattr(entry.callback, "__name__", "")) == name)
    return typer.main.get_command_from_info(info, pretty_exceptions_short=False, rich_markup_mode=None)


# -- speaking --------------------------------------------------------------------------------------------------------


def tell(text: str) -> None:
    """Print a line for the user who waits."""
    console.print(dashed(text), soft_wrap=True, highlight=False, markup=False)


def dashed(text: str) -> str:
    """A library message with field names replaced by options of the running command.

    Fields are named at the beginning ("epochs: 0 is…") or in `marks`.
    """
    options = _options_of(next((word for word in sys.argv[1:] if word in COMMANDS), ""))

    def flag(name: str) -> str:
        return options.get(name, name)

    head, colon, rest = text.partition(": ")
    names = head.split(", ")
    if colon and all(name in options for name in names):
        text = f"{', '.join(map(flag, names))}: {rest}"
    return re.sub(r"`(\w+)`", lambda match: flag(match.group(1)), text)


@cache
def _options_of(command: str) -> Mapping[str, str]:
    """The options of a command by field; where an option has another name than its field, both are known."""
    running = command_named(command)
    flags = {parameter.name: parameter.opts[0] for parameter in running.params if parameter.opts[0].startswith("--")} if running else {}
    return flags | {flag.removeprefix("--").replace("-", "_"): flag for flag in flags.values()}


def say(result: Json, as_json: bool, text: str) -> None:
    """Print the result: as JSON, or as text."""
    if as_json:
        say_json(result)
    else:
        print(text)


def say_json(result: Json) -> None:
    """Print one JSON object; with non-ASCII characters escaped, where the output's encoding lacks one of them."""
    text = json.dumps(result, ensure_ascii=False)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(result)
    print(text)


# -- options that are no settings ------------------------------------------------------------------------------------


def named_folder(given: str) -> Path:
    """A folder that is named: "" would be the current one, which nobody asked for who left a variable empty."""
    if not str(given).strip():
        raise InputError("--out: it is empty; give a folder, or . for the current one")
    return Path(given)


def claims(own: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorates a command that writes a folder: it holds its `out` from its first moment to its last; `own` as in `claimed`."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def holding(**options: Any) -> None:
            with claimed(options["out"], own, tell):
                command(**options)

        return holding

    return decorate


DATA = "Data"
OUTPUT = "Output"
Model = Annotated[str, typer.Option("--model", help="Folder or hub id of the model.", rich_help_panel=DATA, metavar="<text>")]
Out = Annotated[Path, typer.Option("--out", parser=named_folder, metavar="<folder>", help="Folder to write.", rich_help_panel=OUTPUT)]
Pickle = Annotated[bool, typer.Option("--pickle", help="Read pytorch_model.bin where there are no safetensors.", rich_help_panel=DATA)]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.", rich_help_panel=OUTPUT)]
Folder = Annotated[str, typer.Argument(help="What compress wrote, or a model folder.")]
DataFile = Annotated[
    str,
    typer.Option("--data", help="Data: JSON Lines, CSV, TSV, Parquet (also .gz), or a hub name.", rich_help_panel=DATA, metavar="<text>"),
]
