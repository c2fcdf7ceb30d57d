"""OpenVINO on the CPU, with the lengths left dynamic or in static buckets."""

from pathlib import Path
from typing import Any, final

import numpy as np
import openvino
from numpy.typing import NDArray

from penjing.arrays import Feeds
from penjing.engines.engine import Engine, name_of
from penjing.errors import InputError


@final
class OpenVinoEngine(Engine):
    """An ONNX model, a file or its bytes; with `bucket`, one compiled model per length rounded up (one for single texts, one for
    batches), made when first met. The model is read once: its copies share the weights."""

    def __init__(self, model: Path | bytes, threads: int, bucket: int = 0, bfloat16: bool = False) -> None:
        self.bucket = bucket
        self.core = openvino.Core()
        self.options = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "bf16" if bfloat16 else "f32",
        }
        self.requests: dict[tuple[int, int], Any] = {}
        try:
            self.model = self.core.read_model(model)
            self.inputs = [value.get_any_name() for value in self.model.inputs]
            tables = [op.get_output_shape(0) for op in self.model.get_ordered_ops() if op.get_friendly_name() == "embeddings.position"]
            self.positions = int(tables[0][0]) if bucket else 0
        except Exception as error:
            raise InputError(f"engine: OpenVINO cannot load {name_of(model)} ({str(error).splitlines()[0][:200]})") from error

    def _request(self, batch: int, length: int) -> Any:
        key = (1 if batch == 1 else -1, length) if self.bucket else (-1, -1)
        if key not in self.requests:
            model = self.model.clone()
            if self.bucket:
                model.reshape({name: list(key) for name in self.inputs})
            self.requests[key] = self.core.compile_model(model, "CPU", self.options).create_infer_request()
        return self.requests[key]

    def run(self, feeds: Feeds) -> NDArray[np.float32]:
        batch, length = feeds["input_ids"].shape
        wanted = min(-(-length // self.bucket) * self.bucket, self.positions) if self.bucket else length
        if wanted != length:
            feeds = {name: np.pad(value, ((0, 0), (0, wanted - length))) for name, value in feeds.items()}
        request = self._request(batch, wanted)
        logits: NDArray[np.float32] = request.infer({name: feeds[name] for name in self.inputs}, share_inputs=True)[0]
        return logits[:, :length] if logits.ndim == 3 and wanted != length else logits.copy()
