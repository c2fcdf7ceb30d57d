"""A blueprint for the terminal."""

import math

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from penjing.blueprint import Blueprint
from penjing.report.drawing import count, size


def inspect_text(blueprint: Blueprint) -> RenderableType:
    """A blueprint for the terminal, within 80 columns: each layer's heads and neurons as bars, then the costs."""
    most_heads = max([layer.heads for layer in blueprint.layers] + [1])
    most_neurons = max([layer.neurons for layer in blueprint.layers] + [1])
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="dim")
    table.add_column("layer", justify="right")
    table.add_column("heads", justify="right")
    table.add_column("", min_width=min(most_heads, 16), no_wrap=True)
    table.add_column("neurons", justify="right")
    table.add_column("", min_width=24, no_wrap=True)
    for index, layer in reversed(list(enumerate(blueprint.layers))):
        cells = math.ceil(layer.heads * min(1, 16 / most_heads))
        bar = _blocks(24 * layer.neurons / most_neurons)
        heads, neurons = Text("■" * cells, "green"), Text(bar, "green")
        table.add_row(str(index), str(layer.heads), heads, str(layer.neurons), neurons)
    costs = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1))
    costs.add_column(style="dim")
    costs.add_column(justify="right")
    costs.add_row("embeddings", f"{blueprint.vocabulary:,} tokens × {blueprint.embedding}")
    costs.add_row("hidden width", f"{blueprint.hidden:,}")
    costs.add_row("task head", f"{blueprint.head.name}, {blueprint.outputs} outputs")
    if blueprint.exits:
        costs.add_row("exits after layers", ", ".join(map(str, blueprint.exits)))
    if shared := len(blueprint.layers) - len(blueprint.distinct):
        costs.add_row("layers with another's weights", str(shared))
    costs.add_row("parameters", count(blueprint.parameters))
    costs.add_row(f"weights, {blueprint.bits} bits", size(blueprint.bytes))
    for length in (32, 128):
        costs.add_row(f"MACs, {length} tokens", count(blueprint.macs(length)))
    return Group(table, Text(""), costs)


def _blocks(length: float) -> str:
    """A bar `length` cells long, to an eighth; what is not zero shows."""
    eighths = math.ceil(8 * length)
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()
