"""The word behind a mask without the product with the whole vocabulary: recall, time and bytes of several searches, as Markdown.

    python benchmarks/nearest.py minilm|e5 [searches,…]

`nearest_heads.py` makes the model and the states first. Recall is against the argmax of the full product in float32, on held-out texts
that nothing was chosen by. Times are of one text at a time, two threads, the median of the fastest of 20 rounds: with one mask, with
four, and with one mask after 64 MB of other memory have been read, as an encoder does between two masks. A search that is not exact is scored again with
the float32 rows of its candidates. Needs faiss-cpu, and for its row usearch.
"""

import os

os.environ |= {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}

import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import faiss
import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from penjing.serving.words import PARTS, WordSearch, _parts, _rows

CACHE = Path(".cache/nearest")
THREADS, ROUNDS, CALLS, SEED, SCORED = 2, 20, 11, 0, 1000
OTHER = np.ones(64 << 17)
Floats = NDArray[np.float32]
Numbers = NDArray[np.int64]
Best = Callable[[Floats], Numbers]
"""States (n, H) → the word of each (n,)."""


@dataclass(frozen=True)
class Words:
    """The table (V, H) and bias (V,) of a head, states of texts to choose by and to report, and the words that were hidden there."""

    matrix: Floats
    bias: Floats
    chosen: Floats
    reported: Floats
    hidden: Numbers

    @property
    def rows(self) -> Floats:
        """Words with the bias as one more column, and a column of zeros: (V, H + 2)."""
        return np.hstack([self.matrix, self.bias[:, None], np.zeros((len(self.bias), 1), np.float32)])

    def best_of(self, states: Floats, near: Numbers) -> Numbers:
        """The best words of candidates (n, c), by their float32 rows; -1 is none."""
        return np.array([self._best(state, row[row >= 0]) for state, row in zip(states, near, strict=True)])

    def _best(self, state: Floats, near: Numbers) -> int:
        return int(near[(self.matrix[near] @ state + self.bias[near]).argmax()]) if len(near) else -1


@dataclass(frozen=True)
class Row:
    """One line of the table: a search at one effort, and the bytes that it reads from beside the float32 rows."""

    name: str
    effort: str
    megabytes: float
    seconds: float
    best: Best
    exact: bool = False


def asked(states: Floats) -> Floats:
    """States with a one for the bias and a zero: (n, H + 2)."""
    return np.hstack([states, np.ones((len(states), 1), np.float32), np.zeros((len(states), 1), np.float32)])


# -- the full product ----------------------------------------------------------------------------------------------


def full_numpy(words: Words) -> Iterator[Row]:
    table = words.matrix.T
    yield Row("full, numpy", "", words.matrix.nbytes / 1e6, 0, lambda states: (states @ table + words.bias).argmax(1), exact=True)


def full_torch(words: Words) -> Iterator[Row]:
    torch.set_num_threads(THREADS)
    table, bias = torch.from_numpy(words.matrix), torch.from_numpy(words.bias)

    def best(states: Floats) -> Numbers:
        return torch.nn.functional.linear(torch.from_numpy(states), table, bias).argmax(1).numpy()

    yield Row("full, PyTorch", "", words.matrix.nbytes / 1e6, 0, best, exact=True)


def _session(nodes: Sequence[onnx.NodeProto], constants: dict[str, Floats]) -> ort.InferenceSession:
    graph = helper.make_graph(
        list(nodes), "words", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", None])],
        [helper.make_tensor_value_info("word", TensorProto.INT64, ["n"])], [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )  # fmt: skip
    options = ort.SessionOptions()
    options.intra_op_num_threads = THREADS
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def full_onnxruntime(words: Words) -> Iterator[Row]:
    best = helper.make_node("ArgMax", ["logits"], ["word"], axis=1, keepdims=0)
    nodes = [helper.make_node("MatMul", ["x", "E"], ["product"]), helper.make_node("Add", ["product", "b"], ["logits"]), best]
    session = _session(nodes, {"E": np.ascontiguousarray(words.matrix.T), "b": words.bias})
    yield Row("full, ONNX Runtime", "", words.matrix.nbytes / 1e6, 0, lambda states: session.run(None, {"x": states})[0], exact=True)


def int8_onnxruntime(words: Words) -> Iterator[Row]:
    """Weights in int8, a scale for each word; states as they come."""
    scale = np.abs(words.matrix).max(1) / 127
    codes = np.rint(words.matrix / scale[:, None]).astype(np.int8)
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("MatMulInteger", ["q", "E", "z"], ["whole"]),
        helper.make_node("Cast", ["whole"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["s", "scale"], ["both"]),
        helper.make_node("Mul", ["float", "both"], ["product"]),
        helper.make_node("Add", ["product", "b"], ["logits"]),
        helper.make_node("ArgMax", ["logits"], ["word"], axis=1, keepdims=0),
    ]
    session = _session(nodes, {"E": np.ascontiguousarray(codes.T), "scale": scale.astype(np.float32), "b": words.bias})
    yield Row("full int8, ONNX Runtime", "", codes.nbytes / 1e6, 0, lambda states: session.run(None, {"x": states})[0])


# -- searches ------------------------------------------------------------------------------------------------------


def penjing_search(words: Words) -> Iterator[Row]:
    begun = time.perf_counter()
    search = WordSearch.build(words.matrix, words.bias)
    seconds, size = time.perf_counter() - begun, len(faiss.serialize_index(search.index)) / 1e6
    for candidates in (16, 64, 128, 256, 512, 1024):
        yield Row("WordSearch", f"{candidates}", size, seconds, lambda states, c=candidates: search.search(states, 1, c)[0][:, 0])


def one_column(words: Words) -> Iterator[Row]:
    """The same with the bias as it is usually folded in: one more column."""
    yield from _faiss_rows(
        words, "4 bits, the bias one column", f"PQ{words.rows.shape[1] // 2}x4fs", [(0, c) for c in (64, 128, 256, 512, 1024)]
    )


def svd(words: Words) -> Iterator[Row]:
    """SVD-softmax (Shim et al. 2017): a preview by the largest singular directions, then the float32 rows of the best."""
    begun = time.perf_counter()
    values, turn = np.linalg.eigh(words.matrix.T.astype(np.float64) @ words.matrix)
    turn = turn[:, np.argsort(-values)].astype(np.float32)
    seconds = time.perf_counter() - begun
    for width in (32, 64, 128):
        preview, some = np.ascontiguousarray(words.matrix @ turn[:, :width]), np.ascontiguousarray(turn[:, :width])

        def best(states: Floats, table: Floats = preview, turned: Floats = some) -> Numbers:
            rough = states @ turned @ table.T + words.bias
            return words.best_of(states, np.argpartition(rough, -256, axis=1)[:, -256:])

        yield Row("SVD-softmax, 256 candidates", f"{width} columns", preview.nbytes / 1e6, seconds, best)


def _faiss_rows(
    words: Words, name: str, spec: str, efforts: Sequence[tuple[int, int]], rows: Floats | None = None, metric: int | None = None
) -> Iterator[Row]:
    """Rows of an index of faiss; efforts: (nprobe or efSearch, candidates)."""
    rows = words.rows if rows is None else rows
    begun = time.perf_counter()
    index = faiss.index_factory(rows.shape[1], spec, faiss.METRIC_INNER_PRODUCT if metric is None else metric)
    index.train(rows)
    index.add(rows)
    seconds, size = time.perf_counter() - begun, len(faiss.serialize_index(index)) / 1e6
    for effort, candidates in efforts:

        def best(states: Floats, effort: int = effort, candidates: int = candidates) -> Numbers:
            if hasattr(index, "nprobe"):
                index.nprobe = effort
            elif hasattr(index, "hnsw"):
                index.hnsw.efSearch = effort
            questions = asked(states) if rows.shape[1] == states.shape[1] + 2 else _rows(states, np.ones((len(states), PARTS), np.float32))
            return words.best_of(states, index.search(questions, candidates)[1])

        yield Row(name, f"{effort}, {candidates}" if effort else f"{candidates}", size, seconds, best)


def inverted(words: Words) -> Iterator[Row]:
    lists, rows = 1 << round(np.log2(4 * np.sqrt(len(words.bias)))), _rows(words.matrix, _parts(words.bias))
    name, spec = f"faiss IVF{lists}, 4 bits (probes, candidates)", f"IVF{lists},PQ{rows.shape[1] // 2}x4fs"
    yield from _faiss_rows(words, name, spec, [(probes, 128) for probes in (8, 32, 128)], rows)


def graph_inner(words: Words) -> Iterator[Row]:
    efforts = [(ef, 8) for ef in (16, 64, 256)]
    yield from _faiss_rows(words, "faiss HNSW32, SQ8, inner product (efSearch, candidates)", "HNSW32,SQ8", efforts)


def graph_l2(words: Words) -> Iterator[Row]:
    """Nearest neighbours of rows of one length (Neyshabur and Srebro 2015): the last column is what a row lacks of the longest."""
    rows = words.rows
    rows[:, -1] = np.sqrt(np.maximum((rows**2).sum(1).max() - (rows**2).sum(1), 0))
    efforts = [(ef, 8) for ef in (16, 64, 256)]
    yield from _faiss_rows(words, "faiss HNSW32, SQ8, distance (efSearch, candidates)", "HNSW32,SQ8", efforts, rows, faiss.METRIC_L2)


def graph_usearch(words: Words) -> Iterator[Row]:
    from usearch.index import Index

    begun, rows = time.perf_counter(), words.rows
    index = Index(ndim=rows.shape[1], metric="ip", dtype="bf16", connectivity=32, expansion_add=128)
    index.add(np.arange(len(rows)), rows, threads=THREADS)
    seconds = time.perf_counter() - begun
    for effort in (16, 64, 256):

        def best(states: Floats, effort: int = effort) -> Numbers:
            index.expansion_search = effort
            keys = index.search(asked(states), 8, threads=1).keys
            return words.best_of(states, np.atleast_2d(keys).astype(np.int64))

        yield Row("usearch HNSW32, bf16 (expansion)", f"{effort}", index.memory_usage / 1e6, seconds, best)


SEARCHES: dict[str, Callable[[Words], Iterator[Row]]] = {
    "numpy": full_numpy, "torch": full_torch, "onnxruntime": full_onnxruntime, "int8": int8_onnxruntime, "penjing": penjing_search,
    "one": one_column, "svd": svd, "inverted": inverted, "usearch": graph_usearch, "graph": graph_inner, "distance": graph_l2,
}  # fmt: skip


# -- measuring -----------------------------------------------------------------------------------------------------


def milliseconds(best: Best, states: Floats, masks: int, between: Callable[[], object]) -> float:
    """The median time of a call with this many masks, in the fastest of the rounds: other work only adds time."""
    medians = []
    for first in range(0, ROUNDS * CALLS * masks, CALLS * masks):
        times = []
        for at in range(first, first + CALLS * masks, masks):
            rows = np.ascontiguousarray(np.take(states, range(at, at + masks), axis=0, mode="wrap"))
            between()
            begun = time.perf_counter()
            best(rows)
            times.append(time.perf_counter() - begun)
        medians.append(float(np.median(times)))
    return 1e3 * min(medians)


def main(name: str, only: Sequence[str]) -> None:
    """The table of one head."""
    faiss.omp_set_num_threads(THREADS)
    held = np.load(CACHE / f"{name}.npz")
    words = Words(*(held[key] for key in ("matrix", "bias", "chosen_states", "reported_states", "reported_words")))
    truth = {side: known(name, side, words) for side in ("chosen", "reported")}
    right = 100 * (truth["reported"] == words.hidden).mean()
    packages = ", ".join(f"{package} {version(package)}" for package in ("numpy", "torch", "onnxruntime", "faiss-cpu"))
    print(
        f"{name}: {len(words.bias):,} words × {words.matrix.shape[1]}; {len(words.hidden)} masks reported, {right:.1f} % of them right by the full product;"
    )
    print(f"{platform.machine()}, {processor()}, {THREADS} threads, seed {SEED}; {packages}\n")
    print(
        "| search | effort | MB | made in s | recall, chosen | recall@1 | ms, 1 mask | ms, 4 masks | ms, 1 mask, cold |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    )
    for each in [each for each in SEARCHES if not only or each in only]:
        with suppress(ModuleNotFoundError):
            for row in SEARCHES[each](words):
                print(line(row, words, truth), flush=True)
    if not only or "ten" in only:
        several(words, truth["reported"])


def several(words: Words, truth: Numbers) -> None:
    """Print how often the word is found of all masks that are reported, and which part of the ten likeliest of the first."""
    products = [part @ words.matrix.T + words.bias for part in np.array_split(words.reported[:SCORED], 8)]
    likeliest = np.concatenate([np.argpartition(-product, 10, axis=1)[:, :10] for product in products])
    search = WordSearch.build(words.matrix, words.bias)
    for candidates in (16, 64, 128, 256):
        found = search.search(words.reported, 10, candidates)[0]
        ten = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found.tolist(), likeliest.tolist(), strict=False)])
        first = int((found[:, 0] == truth).sum())
        print(f"WordSearch, {candidates} candidates: the likeliest of {first} of {len(truth)} masks, recall@10 {ten:.4f}", flush=True)


def line(row: Row, words: Words, truth: dict[str, Numbers]) -> str:
    """A search as a line of the table."""
    sides = ("chosen", "reported")
    recalls = [1.0 if row.exact else recall(row.best, getattr(words, side)[:SCORED], truth[side][:SCORED]) for side in sides]
    ways = ((1, bool), (4, bool), (1, OTHER.sum))
    times = " | ".join(f"{milliseconds(row.best, words.reported, masks, between):.3f}" for masks, between in ways)
    return f"| {row.name} | {row.effort} | {row.megabytes:.1f} | {row.seconds:.0f} | {recalls[0]:.4f} | {recalls[1]:.4f} | {times} |"


def recall(best: Best, states: Floats, truth: Numbers) -> float:
    """How often the word is the full product's, one text at a time, as it is timed."""
    return float((np.concatenate([best(state[None]) for state in states]) == truth).mean())


def known(name: str, side: str, words: Words) -> Numbers:
    """The argmax of the full product in float32, kept beside the states."""
    path = CACHE / f"{name}_{side}.npy"
    if not path.is_file():
        parts = np.array_split(getattr(words, side), 16)
        np.save(path, np.concatenate([(part @ words.matrix.T + words.bias).argmax(1) for part in parts]))
    return np.load(path)


def processor() -> str:
    """The processor's name, on Linux."""
    with suppress(OSError):
        return next(
            (each.split(":")[1].strip() for each in Path("/proc/cpuinfo").read_text().splitlines() if each.startswith("model name")), "?"
        )
    return "?"


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2].split(",") if len(sys.argv) > 2 else ())
