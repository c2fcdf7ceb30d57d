"""Penjing (盆景): makes a fine-tuned BERT small and fast on the machine where it will run, with the proof."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from penjing.serving.predictor import Predictor

__version__ = "0.1.0"


def load(folder: str | Path, *, engine: str | None = None, threads: int | None = None) -> "Predictor":
    """A callable that answers texts, from a folder that `penjing compress` wrote; it imports no torch."""
    from penjing.serving.predictor import Predictor

    return Predictor(folder, engine=engine, threads=threads)
