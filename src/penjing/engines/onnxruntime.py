"""ONNX Runtime on the CPU."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self, final

import numpy as np
from numpy.typing import NDArray

from penjing.engines.engine import Engine, cannot_load, check_ports
from penjing.engines.form import Form, forms_of_engine
from penjing.text.encoded import Feeds

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # it would tell Microsoft of every session, and of the model's name and hash
import onnxruntime

onnxruntime.disable_telemetry_events()  # what the variable does not: where it was imported before, and on Windows


def session_of(model: Path | bytes, threads: int) -> Any:
    """A session of an ONNX model, a file or its bytes, on so many threads; an `InputError` where it cannot be loaded."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(
            model if isinstance(model, bytes) else str(model), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        raise cannot_load("ONNX Runtime", model, error) from error
    session._model_bytes = None  # it would hold the bytes for good, and never reads them again
    return session


@final
class OnnxRuntimeEngine(Engine):
    """An ONNX model, a file or its bytes, in one session, whose `run` is safe from any number of threads."""

    name = "onnxruntime"

    def __init__(self, model: Path | bytes, form: Form, threads: int) -> None:
        super().__init__(form)
        self.session = session_of(model, threads)
        try:
            self.inputs = [value.name for value in self.session.get_inputs()]
            check_ports(self.inputs, [value.name for value in self.session.get_outputs()])
        except Exception as error:
            raise cannot_load("ONNX Runtime", model, error) from error
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
