"""The product of a job: the finished model as it is exported, judged and delivered."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

from penjing.engines.form import Form
from penjing.engines.parity import PARITY
from penjing.tasks.data import Data
from penjing.text.encoded import Encoded, Logits


class Product(ABC):
    """The base class of a finished model: an encoder, or a student of another kind."""

    @property
    def parity_limit(self) -> float:
        """The largest allowed difference of an exported file's logits from the model's own."""
        return PARITY

    @property
    @abstractmethod
    def forms(self) -> list[Form]:
        """The deployment forms worth measuring."""

    @abstractmethod
    def logits(self, encoded: Encoded) -> Logits:
        """The model's own logits, in float32."""

    @abstractmethod
    def export(self, folder: Path, data: Data) -> int:
        """Write the files of all forms into an engine folder; returns the bytes of the weights."""

    def in_float(self) -> Product | None:
        """The same product in float32, used where none of its int8 forms may be shipped; None where there is none."""
        return None

    @abstractmethod
    def differences(self, texts: Encoded, exported: Path, threads: int) -> dict[str, float]:
        """The largest difference of float32 logits from the model's own on held-out texts, by engine."""

    def apart(self, texts: Encoded, exported: Path, threads: int) -> dict[str, float]:
        """The distance of the exported integers' logits from their emulation, by int8 form; empty where none is emulated."""
        return {}

    @abstractmethod
    def write_model(self, folder: Path, tokenizer: Path, extra: Mapping[str, str]) -> None:
        """Write the model's folder, atomically: weights, configuration, tokenizer, and `extra` files.

        tokenizer: the folder of the tokenizer. extra: contents of further files, by name.
        """

    @property
    @abstractmethod
    def parameters(self) -> int:
        """The number of learned parameters."""
