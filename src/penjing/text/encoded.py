"""Encoded texts: token ids of many texts, ragged, in numpy; and their batches for engines and training."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
"""An array of any numbers."""
Feeds = dict[str, NDArray[np.int64]]
"""Engine inputs by name, each (batch, length)."""
Logits = Sequence[NDArray[np.float32]]
"""Logits of each text: (C,), or (tokens, C)."""
BATCH_TOKENS = 16384
"""The most tokens in a batch of which only the answers are kept."""


@dataclass(frozen=True)
class Encoded:
    """N encoded texts: `ids` and `types` flat (T,), text i in `offsets[i] … offsets[i + 1]`, offsets (N + 1,)."""

    ids: NDArray[np.int32]
    types: NDArray[np.int8]
    offsets: NDArray[np.int64]

    @classmethod
    def of(cls, ids: list[list[int]], types: list[list[int]]) -> "Encoded":
        """Encoded texts from lists of token ids and token types, one per text."""
        offsets = np.cumsum([0, *map(len, ids)])
        flat_ids = np.fromiter((i for row in ids for i in row), np.int32, offsets[-1])
        return cls(flat_ids, np.fromiter((i for row in types for i in row), np.int8, offsets[-1]), offsets)

    @classmethod
    def joined(cls, parts: Sequence["Encoded"]) -> "Encoded":
        """The texts of several parts, one after the other."""
        offsets = np.cumsum([0, *(length for part in parts for length in part.lengths)])
        return cls(np.concatenate([part.ids for part in parts]), np.concatenate([part.types for part in parts]), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """The number of tokens of each text (N,)."""
        return np.diff(self.offsets)

    def row(self, i: int) -> NDArray[np.int32]:
        """The token ids of text i."""
        return self.ids[self.offsets[i] : self.offsets[i + 1]]

    def take(self, rows: NDArray[np.int64]) -> "Encoded":
        """The texts of these numbers, in the given order."""
        picks = [np.arange(self.offsets[i], self.offsets[i + 1]) for i in rows]
        flat = np.concatenate(picks) if picks else np.zeros(0, np.int64)
        offsets = np.concatenate([[0], np.cumsum(self.lengths[rows])]).astype(np.int64)
        return Encoded(self.ids[flat], self.types[flat], offsets)

    def feeds(self, rows: NDArray[np.int64]) -> Feeds:
        """Inputs for texts of one and the same length: no padding, so the mask is all ones."""
        length = int(self.lengths[rows[0]])
        index = self.offsets[rows][:, None] + np.arange(length)
        ids = self.ids[index].astype(np.int64)
        return {"input_ids": ids, "token_type_ids": self.types[index].astype(np.int64), "attention_mask": np.ones_like(ids)}

    def padded(self, rows: NDArray[np.int64], pad: int) -> Feeds:
        """Inputs for texts of any lengths, padded with `pad` to the longest."""
        lengths = self.lengths[rows]
        mask = np.arange(int(lengths.max()))[None, :] < lengths[:, None]
        index = np.where(mask, self.offsets[rows][:, None] + np.arange(mask.shape[1]), 0)
        ids = np.where(mask, self.ids[index], pad).astype(np.int64)
        types = np.where(mask, self.types[index], 0).astype(np.int64)
        return {"input_ids": ids, "token_type_ids": types, "attention_mask": mask.astype(np.int64)}

    def exact_batches(self, size: int, tokens: int = BATCH_TOKENS) -> Iterator[NDArray[np.int64]]:
        """Batches of at most `size` texts of exactly equal length (and at most `tokens`), shortest first, covering each text once."""
        order = np.argsort(self.lengths, kind="stable")
        for group in np.split(order, np.flatnonzero(np.diff(self.lengths[order])) + 1):
            most = max(1, min(size, tokens // max(1, int(self.lengths[group[0]])))) if len(group) else size
            for start in range(0, len(group), most):
                yield group[start : start + most]

    def sample(self, count: int, seed: int) -> NDArray[np.int64]:
        """The numbers of at most `count` texts, evenly spaced over the lengths, in random order."""
        order = np.argsort(self.lengths, kind="stable")
        rows = order[np.linspace(0, len(self) - 1, min(count, len(self))).round().astype(np.int64)]
        return np.random.default_rng(seed).permutation(rows)

    def of_length(self, length: int, count: int) -> "Encoded":
        """`count` texts of exactly `length` tokens, of these texts end to end; for timing."""
        flat = np.resize(self.ids, count * length)
        return Encoded(flat, np.zeros(len(flat), np.int8), np.arange(count + 1, dtype=np.int64) * length)

    def save(self, path: Path) -> None:
        """Write as .npz."""
        np.savez(path, ids=self.ids, types=self.types, offsets=self.offsets)

    @classmethod
    def load(cls, path: Path) -> "Encoded":
        """Read what `save` wrote."""
        with np.load(path) as data:
            fields: dict[str, Any] = {name: data[name] for name in ("ids", "types", "offsets")}
            return cls(**fields)


def save_rows(path: Path, rows: Logits) -> None:
    """Write arrays of one text each, (C,) or (tokens, C), as one .npz."""
    stacked = [np.atleast_2d(row) for row in rows]
    np.savez(path, values=np.concatenate(stacked), counts=np.array([len(row) for row in stacked]), flat=rows[0].ndim == 1)


def load_rows(path: Path) -> list[NDArray[np.float32]]:
    """Read what `save_rows` wrote."""
    with np.load(path) as saved:
        rows = np.split(saved["values"], np.cumsum(saved["counts"])[:-1])
        return [row[0] for row in rows] if saved["flat"] else list(rows)
