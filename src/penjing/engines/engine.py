"""One small interface: token numbers in, logits out; and a `Form`, the declared way in which a model is run."""

import json
import os
import re
import warnings
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from penjing.engines.clock.machine import safe_weight_bits
from penjing.errors import InputError, reason_of, shown
from penjing.tasks.task import task_named
from penjing.text.encoded import Encoded, Feeds

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


FEEDS = ("input_ids", "token_type_ids", "attention_mask")
"""What an engine is given, by name."""


class Engine(ABC):
    """A loaded model. `run` takes texts of one length, without padding, and gives logits (B, C) or (B, S, C).

    Any number of threads may call it, each for its own texts: what it returns is nobody else's.
    """

    batch = 32
    ports: tuple[str | int | None, ...] = ()
    """The sizes of the logits that the file declares, the last one C; empty where it declares none."""

    @abstractmethod
    def run(self, feeds: Feeds) -> NDArray[np.float32]:
        """feeds: `FEEDS`, each (B, S) int64."""

    def logits(self, encoded: Encoded) -> list[NDArray[np.float32]]:
        """Logits of every text, in order, in batches of exactly equal lengths; an `InputError` where the model cannot run on them."""
        result: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * len(encoded)
        for rows in encoded.exact_batches(self.batch):
            feeds = encoded.feeds(rows)
            try:
                found = self.run(feeds)
                if found.shape[:-1] not in ((len(rows),), feeds["input_ids"].shape):
                    raise ValueError(f"its logits are {list(found.shape)}")
            except Exception as error:
                raise InputError(
                    f"engine: the model cannot answer a text of {feeds['input_ids'].shape[1]} tokens ({reason_of(error)}); export it again"
                ) from error
            for row, value in zip(rows, found, strict=True):
                result[row] = value
        return result


def cannot_load(engine: str, model: Path | bytes, error: Exception) -> InputError:
    """What is said of a model, a file or its bytes, that an engine did not take."""
    name = "the graph of packed weights" if isinstance(model, bytes) else str(model)
    return InputError(f"engine: {engine} cannot load {name} ({reason_of(error)})")


def check_ports(inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """A `ValueError` where a graph takes what no engine is given, or gives no logits."""
    strange = sorted(set(inputs) - set(FEEDS))
    if strange or "input_ids" not in inputs or list(outputs) != ["logits"]:
        raise ValueError(f"it takes {', '.join(inputs)} and gives {', '.join(outputs)}; that has to be {', '.join(FEEDS)} and logits")


def warn_of_weights(form: Form, folder: Path) -> None:
    """Warn where the folder's int8 weights have more bits than this processor sums safely."""
    if form.int8 and not form.packed and (folder / DESCRIPTION).is_file():
        _warn_of_weights(folder, read_description(folder))


def _warn_of_weights(folder: Path, about: dict[str, Any]) -> None:
    if about.get("weight_bits", 0) > safe_weight_bits():
        warnings.warn(f"{folder} was made for a processor with VNNI; int8 sums can overflow on this one: export it here", stacklevel=3)


def open_engine(form: Form, folder: str | Path, threads: int | None = None) -> Engine:
    """Load the model of `form` from `folder` on so many threads (None: all cores).

    A file that is not the one of its checksum, or that does not answer with the labels that the folder's description names, is an
    `InputError`. Warns where its int8 weights have more bits than this processor sums safely.
    """
    if threads is not None and (type(threads) is not int or threads < 0):
        raise InputError(f"threads: {shown(threads)} is out of range; give how many, or 0 for all cores")
    folder, threads = Path(folder), threads or os.cpu_count() or 1
    for path in (folder / name for name in form.files):
        if not path.exists():
            raise InputError(f"engine: {path} is missing; export the model again")
    about = read_description(folder) if (folder / DESCRIPTION).is_file() else None
    if about is not None:
        check_files(folder, about, form.files)
        if form.int8 and not form.packed:
            _warn_of_weights(folder, about)
    engine = _load(form, _graph(form, folder) if form.packed else folder / form.file, threads)
    if about is not None and engine.ports:
        _check_answers(engine.ports, about, folder / form.file)
    engine.batch = form.batch
    return engine


def _check_answers(ports: tuple[str | int | None, ...], about: dict[str, Any], path: Path) -> None:
    """An `InputError` where logits of these sizes are none of the described task and labels."""
    sizes = 3 if task_named(about["task"]).head == "token" else 2
    if len(ports) != sizes or ports[-1] != len(about["labels"]):
        given = " x ".join("any" if size is None else str(size) for size in ports)
        raise InputError(
            f"engine: {path} answers with {given} numbers, and {DESCRIPTION} names the {len(about['labels'])} labels of {about['task']}"
            f" ({shown(about['labels'])}); export the model again"
        )


def _graph(form: Form, folder: Path) -> bytes:
    try:
        from penjing.engines.onnx.packed import graph_bytes
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
DESCRIPTION_FORMAT = 1
TOKENIZER = "tokenizer.json"


def read_description(folder: Path) -> dict[str, Any]:
    """What an engine folder says of itself: its forms (the chosen one first), task, labels, longest text.

    Every field is checked; what cannot be, or is of a later format, is an `InputError`.
    """
    path = folder / DESCRIPTION
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(about, dict):
            raise ValueError("it is no object")
        if about.get("format", 1) != DESCRIPTION_FORMAT:
            raise InputError(
                f"engine: {path} has format {shown(about['format'])}, and this code reads {DESCRIPTION_FORMAT}; take a newer Penjing"
            )
        for name, (fits, allowed) in _FIELDS.items():
            if name in about and not fits(about[name]):
                raise ValueError(f"{name} is {shown(about[name])}; it has to be {allowed}")
        missing = [name for name in _NEEDED if name not in about]
        if missing:
            raise ValueError(f"it lacks {', '.join(missing)}")
        forms_of(about)
    except FileNotFoundError as error:
        raise InputError(f"engine: {folder} has no {DESCRIPTION}; give a folder that penjing compress wrote") from error
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(f"engine: {path} is damaged ({reason_of(error)}); export the model again") from error
    return about


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 1


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _are_labels(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_text, value)) and len(set(value)) == len(value)


def _is_temperature(value: Any) -> bool:
    return type(value) in (int, float) and 1e-6 <= value <= 1e6


def _are_checksums(value: Any) -> bool:
    return isinstance(value, dict) and all(type(each) is int for each in value.values())


_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "task": (_is_text, "the name of a task"),
    "labels": (_are_labels, "a list of different names"),
    "max_length": (_is_count, "a number of tokens"),
    "temperature": (_is_temperature, "a number above 0, from 1e-6 to 1e6"),
    "weight_bits": (_is_count, "a number of bits"),
    "metric": (_is_text, "a name"),
    "positive": (_is_text, "a label"),
    "crc32": (_are_checksums, "a checksum by file"),
    "forms": (lambda value: isinstance(value, list) and bool(value), "a list of forms"),
}
_NEEDED = ("task", "labels", "max_length", "forms")


def forms_of(description: dict[str, Any]) -> Sequence[Form]:
    """The forms in a description; a `ValueError` or `TypeError` where one cannot be, or names a file outside of its folder."""
    forms = [Form(**fields) for fields in description["forms"]]
    for form in forms:
        for name, fits in (("name", _is_text), ("bfloat16", _is_flag), ("packed", _is_flag), ("batch", _is_count), ("bucket", _is_bucket)):
            if not fits(getattr(form, name)):
                raise ValueError(f"the {name} of a form is {shown(getattr(form, name))}")
        if form.engine not in ENGINES:
            raise ValueError(f"the form {shown(form.name)} runs on {shown(form.engine)}; known are {', '.join(ENGINES)}")
        if form.packed and form.engine not in ("onnxruntime", "openvino"):
            raise ValueError(f"the form {shown(form.name)} is packed, and {form.engine} runs no graph")
        if not _is_text(form.file) or not re.fullmatch(r"[\w-][\w.-]{0,199}", form.file, re.ASCII):
            raise ValueError(f"the form {shown(form.name)} is in {shown(form.file)}, and files are named in the folder itself")
    return forms


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_bucket(value: Any) -> bool:
    return type(value) is int and value >= 0


def checksums(folder: Path, forms: Sequence[Form]) -> dict[str, int]:
    """The CRC-32 of the graphs of these forms and of the tokenizer, by name; weights that are no graph have one in their own file."""
    names = {form.file for form in forms if not form.packed and form.file.endswith(".onnx")} | {TOKENIZER}
    return {name: _crc32(folder / name) for name in sorted(names)}


def check_files(folder: Path, about: dict[str, Any], names: Sequence[str]) -> None:
    """An `InputError` where a file is not the one whose checksum the description holds. Folders of before have none."""
    for name in names:
        if name in about.get("crc32", {}) and _crc32(folder / name) != about["crc32"][name]:
            raise InputError(
                f"engine: {folder / name} is damaged, or of another export: its checksum is not that in {DESCRIPTION}; export again"
            )


def _crc32(path: Path) -> int:
    value = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            value = zlib.crc32(block, value)
    return value
