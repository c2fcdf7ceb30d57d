"""ONNX Runtime on the CPU."""

from pathlib import Path
from typing import final

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from penjing.arrays import Feeds
from penjing.engines.engine import Engine
from penjing.errors import InputError


@final
class OnnxRuntimeEngine(Engine):
    """An ONNX file in one session."""

    def __init__(self, path: Path, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise InputError(f"engine: ONNX Runtime cannot load {path} ({str(error).splitlines()[0][:200]})") from error
        self.inputs = [value.name for value in self.session.get_inputs()]

    def run(self, feeds: Feeds) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = self.session.run(["logits"], {name: feeds[name] for name in self.inputs})[0]
        return logits
