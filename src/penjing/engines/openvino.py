"""OpenVINO on the CPU, with the lengths left dynamic or in static buckets."""

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, final

import numpy as np
from numpy.typing import NDArray

from penjing.engines.engine import Engine, cannot_load, check_ports
from penjing.engines.form import Form, forms_of_engine
from penjing.text.encoded import Feeds


@contextmanager
def absent(package: str) -> Iterator[None]:
    """As if a package that was not imported yet were not installed."""
    modules: dict[str, Any] = sys.modules  # None: importing it is an ImportError
    known = package in modules
    modules.setdefault(package, None)
    try:
        yield
    finally:
        if not known:
            del modules[package]


with absent("openvino_telemetry"):  # which tells Google Analytics of every import, from a process that it forks, unless one opts out
    import openvino


TABLES = {
    "embeddings.position": "", "embeddings.word.weight": "input_ids", "embeddings.word.q": "input_ids", "word": "input_ids", "embeddings.token_type.weight": "token_type_ids",
}  # fmt: skip
"""The constants whose rows an input numbers."""


@dataclass(frozen=True)
class Compiled:
    """A compiled model, and those of its infer requests that no thread is using.

    A request holds one text's inputs and outputs, so each belongs to one call until that has its answer; there are as many as were
    ever needed at once.
    """

    model: openvino.CompiledModel
    idle: list[openvino.InferRequest] = field(default_factory=list)

    def infer(self, inputs: Feeds) -> NDArray[np.float32]:
        """The logits, copied out of the request."""
        try:
            request = self.idle.pop()
        except IndexError:
            request = self.model.create_infer_request()
        logits: NDArray[np.float32] = request.infer(inputs, share_inputs=True, share_outputs=False)[0]
        self.idle.append(request)
        return logits


@final
class OpenVinoEngine(Engine):
    """An ONNX model, a file or its bytes; with a bucket, one compiled model per length rounded up (one for single texts, one for
    batches), made when first met, while other lengths go on. The model is read once: its copies share the weights."""

    name = "openvino"

    def __init__(self, model: Path | bytes, form: Form, threads: int) -> None:
        super().__init__(form)
        bucket = self.bucket = form.bucket
        self.core = openvino.Core()
        self.options = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "bf16" if form.bfloat16 else "f32",
        }
        self.compiled: dict[tuple[int, int], Compiled] = {}
        self.compiling: dict[tuple[int, int], threading.Lock] = {}
        try:
            self.model = self.core.read_model(model)
            self.inputs = [value.get_any_name() for value in self.model.inputs]
            check_ports(self.inputs, [value.get_any_name() for value in self.model.outputs])
            sizes = self.model.outputs[0].get_partial_shape()
            self.ports = tuple(size.get_length() if size.is_static else None for size in sizes)
            rows = {
                op.get_friendly_name(): int(op.get_output_shape(0)[0])
                for op in self.model.get_ordered_ops()
                if op.get_friendly_name() in TABLES
            }
            self.positions = rows["embeddings.position"] if bucket else rows.get("embeddings.position", sys.maxsize)
            self.limits = [(TABLES[name], count) for name, count in rows.items() if TABLES[name] in self.inputs]
        except Exception as error:
            raise cannot_load("OpenVINO", model, error) from error

    @classmethod
    def open(cls, model: Path | bytes, form: Form, threads: int) -> Self:
        return cls(model, form, threads)

    @classmethod
    def forms(cls, int8: bool) -> Sequence[Form]:
        return forms_of_engine(cls.name, int8)

    def _compiled(self, batch: int, length: int) -> Compiled:
        key = (1 if batch == 1 else -1, length) if self.bucket else (-1, -1)
        found = self.compiled.get(key)
        if found is None:
            with self.compiling.setdefault(key, threading.Lock()):
                found = self.compiled.get(key)  # of another thread, meanwhile
                if found is None:
                    model = self.model.clone()
                    if self.bucket:
                        model.reshape({name: list(key) for name in self.inputs})
                    found = self.compiled[key] = Compiled(self.core.compile_model(model, "CPU", self.options))
        return found

    def run(self, feeds: Feeds) -> NDArray[np.float32]:
        batch, length = feeds["input_ids"].shape
        if length > self.positions or any(feeds[name].max(initial=0) >= count for name, count in self.limits):
            raise ValueError("it has tokens or positions that the model has not")  # OpenVINO would answer, with anything
        wanted = min(-(-length // self.bucket) * self.bucket, self.positions) if self.bucket else length
        if wanted != length:
            feeds = {name: np.pad(value, ((0, 0), (0, wanted - length))) for name, value in feeds.items()}
        logits = self._compiled(batch, wanted).infer({name: feeds[name] for name in self.inputs})
        return logits[:, :length] if logits.ndim == 3 and wanted != length else logits
