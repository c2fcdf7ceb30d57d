"""ONNX Runtime on the CPU."""

from pathlib import Path
from typing import final

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from penjing.arrays import Feeds
from penjing.engines.engine import Engine, name_of
from penjing.errors import InputError


@final
class OnnxRuntimeEngine(Engine):
    """An ONNX model, a file or its bytes, in one session."""

    def __init__(self, model: Path | bytes, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            self.session = onnxruntime.InferenceSession(
                model if isinstance(model, bytes) else str(model), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise InputError(f"engine: ONNX Runtime cannot load {name_of(model)} ({str(error).splitlines()[0][:200]})") from error
        self.session._model_bytes = None  # it would hold the bytes for good, and never reads them again
        self.inputs = [value.name for value in self.session.get_inputs()]

    def run(self, feeds: Feeds) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = self.session.run(["logits"], {name: feeds[name] for name in self.inputs})[0]
        return logits
