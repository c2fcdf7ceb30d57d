"""A model with exits as several ONNX graphs: from the tokens to the first exit, from there to the next, and from the last exit to the end."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import onnx

from penjing.blueprint import Blueprint
from penjing.engines.clock.machine import safe_weight_bits
from penjing.engines.form import Form, whole_file
from penjing.engines.network import Deployed
from penjing.engines.onnx.files import graph_of
from penjing.files.whole import write_bytes
from penjing.selection import Selection

Value = TypeVar("Value")


def ends_of(blueprint: Blueprint) -> tuple[int, ...]:
    """The numbers of the layers, from 1, after which the segments end."""
    return (*blueprint.exits, len(blueprint.layers))


def segments_of(deployed: Deployed) -> list[Deployed]:
    """A network of each segment: its layers alone, numbered from 0, with the head that stands behind them.

    The heads of exits stay in float: they read one token, and their inputs are not calibrated.
    """
    blueprint = deployed.network.blueprint
    ends = ends_of(blueprint)
    heads = [*blueprint.heads[1:], "head"]
    return [_segment(deployed, range(*bounds), head) for bounds, head in zip(pairwise((0, *ends)), heads, strict=True)]


def _segment(deployed: Deployed, layers: range, head: str) -> Deployed:
    network = deployed.network
    blueprint = replace(network.blueprint, exits=())
    selection = Selection(tuple(Selection.all(blueprint).layers[i] for i in layers))
    owners = {blueprint.owner(layers[new]): new for new in selection.owners(blueprint)}
    ranges = None if deployed.ranges is None else _renamed(deployed.ranges, owners, head)
    float_layers = _renamed(dict.fromkeys(deployed.float_layers), owners, head)
    if head != "head":
        float_layers |= dict.fromkeys(f"head.{name.rpartition('.')[0]}" for name in blueprint.head_shapes() if name.endswith(".weight"))
    own = replace(network, blueprint=selection.plan(blueprint), weights=_renamed(network.weights, owners, head))
    return replace(
        deployed, network=own, ranges=ranges, float_layers=tuple(name for name in float_layers if f"{name}.weight" in own.weights)
    )


def _renamed(named: dict[str, Value], owners: dict[int, int], head: str) -> dict[str, Value]:
    """The values of the embeddings, of the layers that are kept by their new numbers, and of this head as the only one."""
    result = {}
    for name, value in named.items():
        first, _, rest = name.partition(".")
        if first == "layers":
            number, _, part = rest.partition(".")
            if int(number) in owners:
                result[f"layers.{owners[int(number)]}.{part}"] = value
        elif name.startswith(f"{head}."):
            result[f"head.{name.removeprefix(f'{head}.')}"] = value
        elif first not in ("head", "exits"):
            result[name] = value
    return result


def write_segments(deployed: Deployed, folder: Path, form: Form) -> None:
    """Write the graphs of a form that leaves early, each whole or not at all, in the dialect and numbers of its one graph."""
    segments = segments_of(deployed)
    for number, (segment, file) in enumerate(zip(segments, form.more, strict=True)):
        states = (number > 0, number < len(segments) - 1)
        graph = graph_of(segment, whole_file(form.file), safe_weight_bits(), states)
        onnx.checker.check_model(graph)
        write_bytes(folder / file, graph.SerializeToString())
