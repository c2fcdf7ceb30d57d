"""ONNX Runtime on the CPU."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Self, final

import numpy as np
from numpy.typing import NDArray

from penjing.engines.engine import Engine, cannot_load, check_ports
from penjing.engines.form import Form, forms_of_engine
from penjing.text.encoded import Feeds

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # it would tell Microsoft of every session, and of the model's name and hash
import onnxruntime

onnxruntime.disable_telemetry_events()  # what the variable does not: where it was imported before, and on Windows


@final
class OnnxRuntimeEngine(Engine):
    """An ONNX model, a file or its bytes, in one session, whose `run` is safe from any number of threads."""

    name = "onnxruntime"

    def __init__(self, model: Path | bytes, form: Form, threads: int) -> None:
        super().__init__(form)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            self.session = onnxruntime.InferenceSession(
                model if isinstance(model, bytes) else str(model), options, providers=["CPUExecutionProvider"]
            )
            self.inputs = [value.name for value in self.session.get_inputs()]
            check_ports(self.inputs, [value.name for value in self.session.get_outputs()])
        except Exception as error:
            raise cannot_load("ONNX Runtime", model, error) from error
        self.session._model_bytes = None  # it would hold the bytes for good, and never reads them again
        self.ports = tuple(self.session.get_outputs()[0].shape)

    @classmethod
    def open(cls, model: Path | bytes, form: Form, threads: int) -> Self:
        return cls(model, form, threads)

    @classmethod
    def forms(cls, int8: bool) -> Sequence[Form]:
        return forms_of_engine(cls.name, int8)

    def run(self, feeds: Feeds) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = self.session.run(["logits"], {name: feeds[name] for name in self.inputs})[0]
        return logits
