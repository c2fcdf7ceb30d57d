"""Where a form's time goes: what the engines say of their operations, in groups, and the integer products by their role."""

import json
import re
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from penjing.engines.form import Form
from penjing.engines.opening import open_engine
from penjing.text.encoded import Feeds

GROUPS = ("integer products", "attention", "GELU", "norms, residuals, biases", "quantize, convert, reorder", "embeddings", "other")
INTEGER = {"QLinearMatMul", "QGemm", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QAttention"}
ATTENTION = {"MatMul", "FusedMatMul", "Softmax", "ScaledDotProductAttention", "Attention", "Transpose"}
GELU = {"Gelu", "BiasGelu", "FastGelu", "QuickGelu", "Erf"}
NORM = {"MVN", "LayerNormalization", "SkipLayerNormalization"}
ROUNDING = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "FakeQuantize", "Convert", "Cast", "Reorder"}
PRODUCT = re.compile(r"(?:(?:DynamicQuantize)?MatMul|QAttention)_\d+_0")
PARTS = {"attention.query": "query, key, value", "attention.key": "query, key, value", "attention.value": "query, key, value",
         "attention.qkv": "query, key, value with attention", "attention.output": "attention output",
         "feed_forward.up": "up", "feed_forward.down": "down"}  # fmt: skip


@dataclass(frozen=True)
class Operation:
    """What an engine ran: its kind, its kernel, the nodes of the file that are fused in it, milliseconds a run."""

    kind: str
    kernel: str
    names: tuple[str, ...]
    ms: float


def openvino_profile(form: Form, folder: str, feeds: Feeds, runs: int, threads: int) -> list[Operation]:
    """From OpenVINO's counters, in order. They are means since the start, so those of the warm-up are taken off."""
    engine: Any = open_engine(form, folder, threads)
    engine.options["PERF_COUNT"] = True
    counted: list[dict[str, float]] = []
    for count in (runs, 3 * runs):
        for _ in range(count):
            engine.run(feeds)
        (compiled,) = engine.compiled.values()
        (request,) = compiled.idle
        counted.append({info.node_name: 1e3 * info.real_time.total_seconds() for info in request.get_profiling_info()})
    ordered = []
    for op in request.get_compiled_model().get_runtime_model().get_ops():
        said = {key: str(getattr(value, "value", value)) for key, value in op.get_rt_info().items()}
        first, whole = (each.get(op.get_friendly_name(), 0.0) for each in counted)
        names = tuple(said["originalLayersNames"].split(","))
        ordered.append(
            (int(said["execOrder"]), Operation(said["layerType"], said["primitiveType"], names, max(0.0, (4 * whole - first) / 3)))
        )
    return [op for _, op in sorted(ordered, key=lambda pair: pair[0])]


def onnxruntime_profile(form: Form, folder: str, feeds: Feeds, runs: int, threads: int) -> list[Operation]:
    """From ONNX Runtime's trace, in order: medians over the runs, without the first quarter."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as place:
        options.profile_file_prefix = str(Path(place) / "trace")
        session = onnxruntime.InferenceSession(str(Path(folder) / form.file), options, providers=["CPUExecutionProvider"])
        inputs = {value.name: feeds[value.name] for value in session.get_inputs()}
        for _ in range(4 * runs):
            session.run(["logits"], inputs)
        events = json.loads(Path(session.end_profiling()).read_text())
    seen: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            seen[event["args"]["op_name"], event["name"].removesuffix("_kernel_time")].append(event["dur"] / 1e3)
    return [Operation(kind, "", (name,), float(np.median(ms[len(ms) // 4 :]))) for (kind, name), ms in seen.items()]


def products(graph: onnx.GraphProto) -> dict[str, tuple[str, int, int]]:
    """Linear layers by the name of their node: the layer's name, inputs, outputs."""
    sizes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    decoded = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    found = {}
    for node in graph.node:
        weight = decoded.get(node.input[1], node.input[1]) if len(node.input) > 1 else ""
        if PRODUCT.fullmatch(node.name) and len(sizes.get(weight, ())) == 2:
            found[node.name] = (weight.rpartition(".")[0], *sizes[weight])
    return found


def masks(graph: onnx.GraphProto) -> set[str]:
    """Names of the nodes that add a mask to attention's scores."""
    masked = {node.input[0] for node in graph.node if node.op_type == "Softmax"}
    return {node.name for node in graph.node if node.op_type == "Add" and node.output[0] in masked}


def gelus(graph: onnx.GraphProto) -> set[str]:
    """Names of the nodes of GELUs written in standard operators."""
    reached = {node.output[0] for node in graph.node if node.op_type == "Erf"}
    for node in graph.node:
        if node.op_type in ("Add", "Mul") and reached.intersection(node.input):
            reached.add(node.output[0])
    return {node.name for node in graph.node if node.output[0] in reached}


def is_integer(op: Operation) -> bool:
    """Whether it is a product of integers."""
    return op.kind in INTEGER or (op.kind == "FullyConnected" and op.kernel.upper().endswith(("I8", "U8")))


def is_norm(op: Operation) -> bool:
    """Whether it is a layer norm, or a part of one."""
    return op.kind in NORM or any(name.startswith(("LayerNormalization", "MVN")) and "nncf" not in name for name in op.names)


def group_of(op: Operation, linear: set[str], gelu: set[str], mask: set[str]) -> str:
    """The group of an operation behind the embeddings; one that is fused of several goes to the heaviest."""
    if is_integer(op):
        return "integer products"
    if linear.intersection(op.names):
        return "other"  # a linear layer in float: the head
    if op.kind in ATTENTION or mask.intersection(op.names) or any(name.startswith("Softmax") for name in op.names):
        return "attention"
    if op.kind in GELU or gelu.intersection(op.names):
        return "GELU"
    if op.kind in ROUNDING:
        return "quantize, convert, reorder"
    if is_norm(op) or any(re.fullmatch(r"Add_\d+_0", name) for name in op.names):
        return "norms, residuals, biases"
    return "quantize, convert, reorder" if any("Quantize" in name or "nncf" in name for name in op.names) else "other"


def grouped(ops: list[Operation], source: str, shape: tuple[int, int]) -> dict[str, Any]:
    """Milliseconds of each group; and of the integer products by role: calls, (M, K, N), milliseconds, multiply-accumulates.

    `source` is the ONNX file whose names the operations have; `shape` is (batch, length).
    """
    graph = onnx.load(source).graph
    linear, gelu, mask = products(graph), gelus(graph), masks(graph)
    head = next(row for row in linear.values() if row[0] == "head.out")  # its node has the name of the output
    last = f"layers.{max(int(layer.split('.')[1]) for layer, _, _ in linear.values() if layer.startswith('layers.'))}."
    whole = {f"{last}attention.{part}" for part in ("key", "value", "qkv")}
    groups: dict[str, float] = dict.fromkeys(GROUPS, 0.0)
    roles: dict[str, dict[str, Any]] = {}
    embedded = False
    for op in ops:
        embedded = embedded or is_norm(op)
        # A weight that is decoded in each run comes first of all in ONNX Runtime.
        group = group_of(op, set(linear), gelu, mask) if embedded or op.kind == "DequantizeLinear" else "embeddings"
        groups[group] += op.ms
        if group != "integer products":
            continue
        layer, k, n = next((linear[name] for text in op.names for name in PRODUCT.findall(text) if name in linear), head)
        first_only = layer.startswith(("head.", last)) and layer not in whole
        m = shape[0] if first_only else shape[0] * shape[1]
        role = "first tokens alone" if first_only else PARTS[layer.split(".", 2)[-1]]
        row = roles.setdefault(role, {"shapes": [], "calls": 0, "ms": 0.0, "macs": 0})
        row["shapes"] += [each for each in [[m, k, n]] if each not in row["shapes"]]
        row["calls"] += 1
        row["ms"] += op.ms
        row["macs"] += m * k * n
    return {"groups": groups, "products": roles}
