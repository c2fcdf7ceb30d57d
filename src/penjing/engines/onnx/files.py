"""The ONNX files that engines run, by name: standard operators or ONNX Runtime's own, in int8 or float32."""

from pathlib import Path

import onnx

from penjing.engines.clock.machine import safe_weight_bits
from penjing.engines.form import FUSED, INT8_FILES, PORTABLE
from penjing.engines.network import Deployed
from penjing.engines.onnx.graph import build_graph
from penjing.errors import InputError
from penjing.files.whole import write_bytes


def graph_of(deployed: Deployed, file: str, weight_bits: int, states: tuple[bool, bool] = (False, False)) -> onnx.ModelProto:
    """The graph that the ONNX file of this name holds, or a segment of it (`states`); an `InputError` where there is no such file."""
    if file not in (*PORTABLE, *FUSED):
        raise InputError(f"engine: no graph is called {file!r}; {', '.join((*PORTABLE, *FUSED))} are")
    return build_graph(
        deployed.network,
        "fused" if file in FUSED else "portable",
        int8=file in INT8_FILES,
        ranges=deployed.ranges,
        segments=deployed.segments or file in PORTABLE,
        weight_bits=weight_bits,
        float_layers=deployed.float_layers,
        states=states,
    )


def write_graph(deployed: Deployed, folder: Path, file: str) -> None:
    """Write the ONNX file of this name, whole or not at all, with int8 weights of the bits that are safe on this machine."""
    graph = graph_of(deployed, file, safe_weight_bits())
    onnx.checker.check_model(graph)
    write_bytes(folder / file, graph.SerializeToString())
