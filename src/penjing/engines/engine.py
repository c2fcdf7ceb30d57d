"""One small interface: token numbers in, logits out; and a `Form`, the declared way in which a model is run."""

import json
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from penjing.arrays import Encoded, Feeds
from penjing.engines.machine import safe_weight_bits
from penjing.errors import InputError

EngineName = Literal["torch", "onnxruntime", "openvino", "numpy"]
PORTABLE = ("model.onnx", "float32.onnx")
"""Files of standard operators: int8, float32."""
FUSED = ("fused-int8.onnx", "fused-float32.onnx")
"""Files of ONNX Runtime's own operators: int8, float32."""
DEPLOYED = ("weights.safetensors", "network.json")
"""What every packed form of a folder is built from."""
ENGINES: tuple[EngineName, ...] = ("onnxruntime", "openvino", "torch", "numpy")


@dataclass(frozen=True)
class Form:
    """How a model is run: engine, file (relative to its folder; for torch the folder itself), and the engine's options.

    `bucket`: OpenVINO compiles static shapes, lengths rounded up to a multiple of it; 0 leaves the length dynamic.
    `bfloat16`: what is float is computed in bfloat16 (OpenVINO: where it likes to; PyTorch: everywhere).
    `batch`: texts answered together; 1 where activations are rounded as they come, over the whole batch, so that an
    answer would depend on its neighbours, and where another batch size would compile another model.
    `packed`: `file` is not there: its graph is built from packed weights when the engine opens it (packed.py).
    """

    name: str
    engine: EngineName
    file: str
    bucket: int = 0
    bfloat16: bool = False
    batch: int = 32
    packed: bool = False

    def to_dict(self) -> dict[str, Any]:
        """A JSON object."""
        return asdict(self)

    @property
    def portable(self) -> bool:
        """Whether it runs the portable file as it is: every length, no special options."""
        return self.file in PORTABLE and not self.bucket

    @property
    def int8(self) -> bool:
        """Whether it computes in int8, by one of our files."""
        return self.file in (PORTABLE[0], FUSED[0])

    @property
    def files(self) -> tuple[str, ...]:
        """What it is loaded from, relative to its folder."""
        return DEPLOYED if self.packed else (self.file,)


EAGER = Form("torch eager", "torch", "")
"""A model folder as Hugging Face runs it."""
EAGER_BF16 = Form("torch eager bf16", "torch", "", bfloat16=True)
"""The same in bfloat16."""


class Engine(ABC):
    """A loaded model. `run` takes texts of one length, without padding, and gives logits (B, C) or (B, S, C)."""

    batch = 32

    @abstractmethod
    def run(self, feeds: Feeds) -> NDArray[np.float32]:
        """feeds: `input_ids`, `token_type_ids`, `attention_mask`, each (B, S) int64."""

    def logits(self, encoded: Encoded) -> list[NDArray[np.float32]]:
        """Logits of every text, in order, in batches of exactly equal lengths."""
        result: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * len(encoded)
        for rows in encoded.exact_batches(self.batch):
            for row, value in zip(rows, self.run(encoded.feeds(rows)), strict=True):
                result[row] = value
        return result


def name_of(model: Path | bytes) -> str:
    """What an error calls the model that an engine was given."""
    return "the graph of packed weights" if isinstance(model, bytes) else str(model)


def warn_of_weights(form: Form, folder: Path) -> None:
    """Warn where the folder's int8 weights have more bits than this processor sums safely."""
    described = form.int8 and not form.packed and (folder / DESCRIPTION).is_file()
    if described and int(read_description(folder).get("weight_bits", 0)) > safe_weight_bits():
        warnings.warn(f"{folder} was made for a processor with VNNI; int8 sums can overflow on this one: export it here", stacklevel=3)


def open_engine(form: Form, folder: str | Path, threads: int | None = None) -> Engine:
    """Load the model of `form` from `folder` on so many threads (None: all cores).

    Warns where its int8 weights have more bits than this processor sums safely.
    """
    threads = threads or os.cpu_count() or 1
    for path in (Path(folder) / name for name in form.files):
        if not path.exists():
            raise InputError(f"engine: {path} is missing; export the model again")
    warn_of_weights(form, Path(folder))
    engine = _load(form, _graph(form, Path(folder)) if form.packed else Path(folder) / form.file, threads)
    engine.batch = form.batch
    return engine


def _graph(form: Form, folder: Path) -> bytes:
    try:
        from penjing.engines.packed import graph_bytes
    except ModuleNotFoundError as error:
        raise InputError(
            f"engine: a packed model takes the package {error.name}, which is missing; pip install 'penjing[packed]'"
        ) from error
    return graph_bytes(folder, form)


def _load(form: Form, model: Path | bytes, threads: int) -> Engine:
    if form.engine == "onnxruntime":
        from penjing.engines.onnxruntime import OnnxRuntimeEngine

        return OnnxRuntimeEngine(model, threads)
    if form.engine == "openvino":
        from penjing.engines.openvino import OpenVinoEngine

        return OpenVinoEngine(model, threads, bucket=form.bucket, bfloat16=form.bfloat16)
    if form.engine == "torch":
        from penjing.engines.pytorch import TorchEngine

        assert isinstance(model, Path)
        return TorchEngine(model, threads, bfloat16=form.bfloat16)
    if form.engine == "numpy":
        from penjing.engines.numpy import NumpyEngine

        assert isinstance(model, Path)
        return NumpyEngine(model)
    raise InputError(f"engine: {form.engine!r} is none; allowed are {', '.join(ENGINES)}")


DESCRIPTION = "engine.json"


def read_description(folder: Path) -> dict[str, Any]:
    """What an engine folder says of itself: its forms (the chosen one first), task, labels, longest text."""
    try:
        description: dict[str, Any] = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        forms_of(description)
    except FileNotFoundError as error:
        raise InputError(f"engine: {folder} has no {DESCRIPTION}; give a folder that penjing compress wrote") from error
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"engine: {folder / DESCRIPTION} is damaged ({error}); export the model again") from error
    return description


def forms_of(description: dict[str, Any]) -> Sequence[Form]:
    """The forms in a description."""
    return [Form(**fields) for fields in description["forms"]]
