"""The interface of an engine: token numbers in, logits out. The engines themselves are found in `opening.py`."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from penjing.engines.form import FEEDS, PORTABLE_FLOAT, PORTABLE_INT8, Form
from penjing.engines.network import Deployed
from penjing.errors import InputError, reason_of
from penjing.text.encoded import Encoded, Feeds


class Engine(ABC):
    """A loaded model. `run` takes texts of one length, without padding, and gives logits (B, C) or (B, S, C).

    Any number of threads may call it, each for its own texts: what it returns is nobody else's.

    An engine of one's own is a subclass at the top of a module that other processes can import. It needs `name`, `open` and `run`; it is
    then given the ONNX files of standard operators. One with files of its own sets `graphs` to False and says `forms` and `export` too.
    """

    name: ClassVar[str]
    graphs: ClassVar[bool] = True
    """Whether it runs ONNX graphs: the files that `onnx/files.py` writes by name, and the bytes of one that is built of packed weights."""
    ports: tuple[str | int | None, ...] = ()
    """The sizes of the logits that the file declares, the last one C; empty where it declares none."""

    def __init__(self, form: Form) -> None:
        self.form = form

    @classmethod
    @abstractmethod
    def open(cls, model: Path | bytes, form: Form, threads: int) -> Self:
        """Load the file of `form`, or the bytes of its graph, on so many threads; an `InputError` where it cannot."""

    @abstractmethod
    def run(self, feeds: Feeds) -> NDArray[np.float32]:
        """The logits of one batch. feeds: `FEEDS`, each (B, S) int64."""

    @classmethod
    def forms(cls, int8: bool) -> Sequence[Form]:
        """The forms worth measuring, those in int8 or those in float32; the file of standard operators unless overridden."""
        file = PORTABLE_INT8 if int8 else PORTABLE_FLOAT
        return (Form(f"{cls.name} {'int8' if int8 else 'float32'}", cls.name, file),)

    @classmethod
    def export(cls, deployed: Deployed, folder: Path, form: Form) -> None:
        """Write the file of one of its forms into `folder`; the ONNX file of that name unless overridden."""
        from penjing.engines.onnx.files import write_graph  # the package onnx need not be there where a model is served

        write_graph(deployed, folder, form.file)

    def logits(self, encoded: Encoded) -> list[NDArray[np.float32]]:
        """Logits of every text, in order, in batches of exactly equal lengths; an `InputError` where the model cannot run on them."""
        result: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * len(encoded)
        for rows in encoded.exact_batches(self.form.batch):
            feeds = encoded.feeds(rows)
            try:
                found = self.run(feeds)  # (B, C) or (B, S, C)
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
    """The error of a model, a file or its bytes, that an engine did not take."""
    name = "the graph of packed weights" if isinstance(model, bytes) else str(model)
    return InputError(f"engine: {engine} cannot load {name} ({reason_of(error)})")


def check_ports(inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """A `ValueError` where a graph takes what no engine is given, or gives no logits."""
    strange = sorted(set(inputs) - set(FEEDS))
    if strange or "input_ids" not in inputs or list(outputs) != ["logits"]:
        raise ValueError(f"it takes {', '.join(inputs)} and gives {', '.join(outputs)}; that has to be {', '.join(FEEDS)} and logits")
