"""What a job has made, as it is exported, judged and delivered."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

from penjing.engines.form import Form
from penjing.engines.parity import PARITY
from penjing.files.whole import Json
from penjing.tasks.data import Data
from penjing.text.encoded import Encoded, Logits


class Product(ABC):
    """A model that is done: an encoder, or a student that is none."""

    @property
    def parity_limit(self) -> float:
        """How far the logits of an exported file may be from the model's own."""
        return PARITY

    @property
    @abstractmethod
    def forms(self) -> list[Form]:
        """The forms worth measuring."""

    @abstractmethod
    def logits(self, encoded: Encoded) -> Logits:
        """The model's own, in float32."""

    @abstractmethod
    def export(self, folder: Path, data: Data) -> int:
        """Write the files of all forms into an engine folder; the bytes of the weights."""

    def in_float(self) -> Product | None:
        """The same in float32, which stands in where none of its int8 forms may be shipped; None where none may."""
        return None

    @abstractmethod
    def differences(self, texts: Encoded, exported: Path, threads: int) -> dict[str, float]:
        """Largest difference of float32 logits from the model's own on texts held out, by engine."""

    def apart(self, texts: Encoded, exported: Path, threads: int) -> dict[str, float]:
        """By int8 form, how far the exported integers' logits are from their emulation; none where none is emulated."""
        return {}

    @abstractmethod
    def write_model(self, folder: Path, tokenizer: Path, extra: Mapping[str, str]) -> None:
        """Write the model's folder, whole or not at all: weights, configuration, the tokenizer of that folder, and `extra` files by name."""

    @property
    @abstractmethod
    def parameters(self) -> int:
        """Numbers that were learned."""

    def about(self) -> Json:
        """What it is where it is no encoder."""
        return {}
