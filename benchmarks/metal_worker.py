"""One process of metal.py: times integer matrix multiplies or a form, or takes a form's time apart. JSON in, JSON out."""

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from metal_profile import grouped, onnxruntime_profile, openvino_profile
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from penjing.engines.form import Form
from penjing.engines.opening import open_engine
from penjing.text.encoded import Feeds

Call = Callable[[], NDArray[Any]]
THREADS = os.cpu_count() or 1


def random_feeds(batch: int, length: int, vocabulary: int) -> Feeds:
    """Texts of random tokens."""
    ids = np.random.default_rng(0).integers(0, vocabulary, (batch, length))
    return {"input_ids": ids, "token_type_ids": np.zeros_like(ids), "attention_mask": np.ones_like(ids)}


def times_ms(call: Callable[[], object], repeats: int, seconds: float) -> list[float]:
    """Milliseconds of each call, after a warm-up of a third of the time; fewer calls where they are slow, at least three."""
    end = time.perf_counter() + seconds / 3
    call()
    while time.perf_counter() < end:
        call()
    result: list[float] = []
    end = time.perf_counter() + seconds
    while len(result) < 3 or (len(result) < repeats and time.perf_counter() < end):
        start = time.perf_counter()
        call()
        result.append(1e3 * (time.perf_counter() - start))
    return result


# -- integer matrix multiplies -------------------------------------------------------------------------------------


def rescaled(accumulated: NDArray[Any], scale: float) -> NDArray[Any]:
    """The u8 that stands for 32-bit sums: round(sum / scale) + 128, clipped."""
    return np.clip(np.rint(accumulated / scale) + 128, 0, 255)


def onnx_matmul(kind: str, w: NDArray[np.int8], scale: float) -> bytes:
    """x (M, K) · w (K, N). QDQ: u8 in, u8 out, one scale per output channel; the others give what their operator gives."""
    k, n = w.shape
    constants = {
        "w": w, "one": np.array(1, np.float32), "zero": np.array(0, np.uint8), "ws": np.ones(n, np.float32),
        "wz": np.zeros(n, np.int8), "ys": np.array(scale, np.float32), "yz": np.array(128, np.uint8),
    }  # fmt: skip
    nodes, x, y, domain = {
        "QDQ": (
            [("DequantizeLinear", ["x", "one", "zero"], "xf", {}), ("DequantizeLinear", ["w", "ws", "wz"], "wf", {"axis": 1}),
             ("MatMul", ["xf", "wf"], "yf", {}), ("QuantizeLinear", ["yf", "ys", "yz"], "y", {})],
            TensorProto.UINT8, TensorProto.UINT8, "",
        ),
        "MatMulInteger": ([("MatMulInteger", ["x", "w"], "y", {})], TensorProto.UINT8, TensorProto.INT32, ""),
        "DynamicQuantizeMatMul": (
            [("DynamicQuantizeMatMul", ["x", "w", "ws", "wz"], "y", {})], TensorProto.FLOAT, TensorProto.FLOAT, "com.microsoft",
        ),
    }[kind]  # fmt: skip
    used = {name for _, inputs, _, _ in nodes for name in inputs}
    graph = helper.make_graph(
        [helper.make_node(op, inputs, [out], domain=domain, **attributes) for op, inputs, out, attributes in nodes],
        "matmul",
        [helper.make_tensor_value_info("x", x, ["M", k])],
        [helper.make_tensor_value_info("y", y, ["M", n])],
        [numpy_helper.from_array(value, name) for name, value in constants.items() if name in used],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def onnxruntime_call(kind: str, a: NDArray[Any], w: NDArray[np.int8], scale: float) -> Call:
    """One of ONNX Runtime's ways to multiply."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    session = onnxruntime.InferenceSession(onnx_matmul(kind, w, scale), options, providers=["CPUExecutionProvider"])
    x = a.astype(np.float32) if kind == "DynamicQuantizeMatMul" else a
    return lambda: session.run(["y"], {"x": x})[0]


def openvino_call(kind: str, a: NDArray[Any], w: NDArray[np.int8], scale: float) -> Call:
    """OpenVINO, at a static shape."""
    import openvino

    core = openvino.Core()
    model = core.read_model(onnx_matmul(kind, w, scale))
    model.reshape({"x": list(a.shape)})
    options = {"INFERENCE_NUM_THREADS": THREADS, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
    request = core.compile_model(model, "CPU", options).create_infer_request()
    return lambda: request.infer({"x": a}, share_inputs=True, share_outputs=True)[0]


def torch_call(kind: str, a: NDArray[Any], w: NDArray[np.int8], scale: float) -> Call:
    """PyTorch: `_int_mm` (s8 · s8 → s32), or oneDNN's quantized linear layer (u8 · s8 → u8)."""
    import torch

    torch.set_num_threads(THREADS)
    x, n = torch.from_numpy(a), w.shape[1]
    if kind == "_int_mm":
        x, weights = x.to(torch.int8), torch.from_numpy(np.ascontiguousarray(w.T)).t()  # by columns, or it takes a slow path
        return lambda: torch._int_mm(x, weights).numpy()
    packed = torch.ops.onednn.qlinear_prepack(torch.from_numpy(np.ascontiguousarray(w.T)), list(x.shape))
    linear, ones, zeros = torch.ops.onednn.qlinear_pointwise, torch.ones(n), torch.zeros(n, dtype=torch.int32)
    return lambda: linear(x, 1.0, 0, packed, ones, zeros, None, scale, 128, torch.uint8, "none", [], "").numpy()


MULTIPLIES: dict[str, tuple[Callable[[str, NDArray[Any], NDArray[np.int8], float], Call], str]] = {
    "OpenVINO u8·s8 → u8": (openvino_call, "QDQ"),
    "ONNX Runtime QLinearMatMul": (onnxruntime_call, "QDQ"),
    "ONNX Runtime MatMulInteger": (onnxruntime_call, "MatMulInteger"),
    "ONNX Runtime DynamicQuantizeMatMul": (onnxruntime_call, "DynamicQuantizeMatMul"),
    "PyTorch _int_mm": (torch_call, "_int_mm"),
    "PyTorch oneDNN qlinear": (torch_call, "qlinear"),
}


def multiply(name: str, shape: list[int], repeats: int, seconds: float) -> list[float]:
    """Times of one multiply of (M, K) by (K, N); its first row is checked against numpy's."""
    (m, k, n), rng = shape, np.random.default_rng(0)
    # Even seven bits fill every unit of the hardware; s8 · s8 takes these activations too.
    a, w = rng.integers(0, 128, (m, k), np.uint8), rng.integers(-127, 128, (k, n), np.int8)
    a[:, 0] = 127
    exact = a[:1].astype(np.int64) @ w.astype(np.int64)
    scale = float(np.abs(exact).max()) / 120
    make, kind = MULTIPLIES[name]
    call = make(kind, a, w, scale)
    found = np.asarray(call()[:1], np.float64)
    wanted = rescaled(exact, scale) if kind in ("QDQ", "qlinear") else exact
    slack = {"QDQ": 1.0, "qlinear": 1.0, "DynamicQuantizeMatMul": 0.02 * np.abs(exact).max()}.get(kind, 0.0)  # that one rounds anew
    if np.abs(found - wanted).max() > slack:
        raise RuntimeError(f"{name} multiplies wrongly: {found[0, :3]} for {wanted[0, :3]}")
    return times_ms(call, repeats, seconds)


def main() -> None:
    """Do what the one argument says; the answer is the last line on standard output."""
    job = json.loads(sys.argv[1])
    if job["do"] == "multiply":
        answer: Any = [multiply(job["name"], shape, job["repeats"], job["seconds"]) for shape in job["shapes"]]
    else:
        form = Form(**job["form"])
        batches = [random_feeds(batch, job["length"], job["vocabulary"]) for batch in job["batches"]]
        if job["do"] == "profile":
            take = openvino_profile if form.engine == "openvino" else onnxruntime_profile
            taken = [take(form, job["folder"], feeds, job["repeats"], THREADS) for feeds in batches]
            answer = [grouped(ops, job["source"], feeds["input_ids"].shape) for ops, feeds in zip(taken, batches, strict=True)]
        else:
            engine = open_engine(form, job["folder"], THREADS)
            answer = [times_ms(lambda feeds=feeds: engine.run(feeds), job["repeats"], job["seconds"]) for feeds in batches]
    print("\n" + json.dumps(answer))


if __name__ == "__main__":
    main()
