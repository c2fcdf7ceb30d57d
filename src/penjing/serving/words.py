"""The k likeliest words behind a mask, without the product with the whole vocabulary: maximum inner product search.

The logits of a masked language model are x · Eᵀ + b. A search reads E in 4 bits for each pair of columns (product quantization: Jégou et al. 2011;
tables in registers: André et al. 2017), which is 16 times fewer bytes than float32, takes the words with the largest approximate
scores as candidates, and scores these again with the float32 rows. So every score is a logit, and what can be lost is a word that is not
among the candidates.

The bias is more columns, for which every state has ones. Its range is many times that of a weight, and 16 values are too few for it, so it is
cut into `PARTS` equal parts: column j has how far the bias goes into part j.

A folder holds `words.json` (format, sizes, checksums), `matrix.npy` (V, W), `bias.npy` (V,) and `index.faiss`.
Shapes: n states, V words, W width.
"""

import json
import zlib
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from penjing.errors import InputError, reason_of, shown
from penjing.files.whole import Json, whole_folder

FORMAT = 1
CANDIDATES = 128
"""Words that are scored again in float32, of each state."""
CENTROIDS = 16
"""Values of a pair of columns, which 4 bits number."""
PARTS, LOWEST = 8, 5
"""Columns of the bias, and the percentile below which it counts as that: what is least likely of all shall not widen the range."""
DESCRIPTION, MATRIX, BIAS, INDEX = "words.json", "matrix.npy", "bias.npy", "index.faiss"
Floats = NDArray[np.float32]


@final
class WordSearch:
    """A search of the words with the largest logits; made by `build` or `load`. Any number of threads may call one."""

    def __init__(self, matrix: Floats, bias: Floats, index: Any) -> None:
        """A search of words (V, W) with biases (V,) in an index over both; `build` makes one."""
        self.matrix, self.bias, self.index = matrix, bias, index

    @classmethod
    def build(cls, matrix: Floats, bias: Floats | None = None) -> "WordSearch":
        """A search of the words whose rows are `matrix` (V, W), with biases (V,); equal words give equal searches."""
        matrix = np.ascontiguousarray(matrix, np.float32)
        bias = np.zeros(len(matrix), np.float32) if bias is None else np.ascontiguousarray(bias, np.float32)
        _check_words(matrix, bias)
        faiss = _faiss()
        parts = _parts(bias)
        rows = _rows(matrix, parts)
        index = faiss.index_factory(rows.shape[1], f"PQ{rows.shape[1] // 2}x4fs", faiss.METRIC_INNER_PRODUCT)
        index.pq.cp.min_points_per_centroid = 1
        index.train(rows)
        values = faiss.vector_to_array(index.pq.centroids).reshape(-1, CENTROIDS, 2)
        values[-PARTS:, :, 0], values[-PARTS:, :, 1] = np.linspace(0, parts.max(), CENTROIDS), 0  # k-means hardly sees the few likely words
        faiss.copy_array_to_vector(values.ravel(), index.pq.centroids)
        index.add(rows)
        return cls(matrix, bias, index)

    def search(self, states: Floats, k: int = 1, candidates: int = CANDIDATES) -> tuple[NDArray[np.int64], Floats]:
        """The numbers (n, k) and logits (n, k) of the likeliest words of states (n, W), the likeliest first.

        Args:
            candidates: words that are scored with their float32 rows; with all V, the answer is exact.
        """
        states = np.ascontiguousarray(states, np.float32)
        self._check_states(states, k, candidates)
        numbers, scores = np.empty((len(states), k), np.int64), np.empty((len(states), k), np.float32)
        for row, state in enumerate(states):
            near = self._candidates(state, max(k, candidates))
            logits = self.matrix[near] @ state + self.bias[near]
            best = np.argsort(-logits, kind="stable")[:k]
            numbers[row], scores[row] = near[best], logits[best]
        return numbers, scores

    def _candidates(self, state: Floats, count: int) -> NDArray[np.int64]:
        """The words with the largest approximate scores of a state (W,), (count,), ascending; several states at once would share threads."""
        if count >= len(self.matrix):
            return np.arange(len(self.matrix))
        found: NDArray[np.int64] = self.index.search(_rows(state[None], np.ones((1, PARTS), np.float32)), count)[1][0]
        return np.sort(found)

    def _check_states(self, states: Floats, k: int, candidates: int) -> None:
        words, width = self.matrix.shape
        if states.ndim != 2 or states.shape[1] != width:
            raise InputError(f"states: their shape is {list(states.shape)}; it has to be (n, {width})")
        if not np.isfinite(states).all():
            raise InputError("states: some are no numbers; give those of a model that answers with numbers")
        for name, value in (("k", k), ("candidates", candidates)):
            if not 1 <= value <= words:
                raise InputError(f"{name}: it is {value}; 1 to {words}, the words there are, are allowed")

    # -- files -----------------------------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> None:
        """Write the folder, whole or not at all."""
        faiss = _faiss()
        with whole_folder(Path(folder)) as made:
            np.save(made / MATRIX, self.matrix)
            np.save(made / BIAS, self.bias)
            (made / INDEX).write_bytes(faiss.serialize_index(self.index).tobytes())
            about: Json = {"format": FORMAT, "crc32": {name: _crc32(made / name) for name in (MATRIX, BIAS, INDEX)}}
            (made / DESCRIPTION).write_text(json.dumps(about))

    @classmethod
    def load(cls, folder: str | Path) -> "WordSearch":
        """Read what `save` wrote; the matrix is mapped, so that processes share it. An `InputError` where it is not whole."""
        faiss, place = _faiss(), Path(folder)
        try:
            about = json.loads((place / DESCRIPTION).read_bytes())
            if about["format"] != FORMAT:
                raise InputError(f"words: {place} has format {shown(about['format'])}, and this code reads {FORMAT}; take a newer Penjing")
            for name in (MATRIX, BIAS, INDEX):
                if about["crc32"][name] != _crc32(place / name):
                    raise ValueError(f"the checksum of {name} does not match")
            matrix, bias = np.asarray(np.load(place / MATRIX, mmap_mode="r")), np.load(place / BIAS)
            index = faiss.deserialize_index(np.fromfile(place / INDEX, np.uint8))
            _check_words(matrix, bias)
            if (index.ntotal, index.d) != (len(matrix), _width(matrix)):
                raise ValueError(f"its index is of {index.ntotal} words, and {len(matrix)} there are")
        except InputError as error:
            raise InputError(f"words: {place}: {error}") from error
        except (OSError, ValueError, TypeError, KeyError, EOFError, RuntimeError, RecursionError, OverflowError) as error:
            raise InputError(f"words: {place} holds no whole search ({reason_of(error)}); build it again") from error
        return cls(matrix, bias, index)


def _rows(matrix: Floats, parts: Floats) -> Floats:
    """A matrix (n, W) and the columns (n, PARTS) of the bias: in pairs, those of the bias with a zero each."""
    rows = np.zeros((len(matrix), _width(matrix)), np.float32)
    rows[:, : matrix.shape[1]], rows[:, -2 * PARTS :: 2] = matrix, parts
    return rows


def _width(matrix: Floats) -> int:
    return (matrix.shape[1] + 1) // 2 * 2 + 2 * PARTS


def _parts(bias: Floats) -> Floats:
    """How far each bias (V,) goes into each of the equal parts of their range: (V, PARTS); its rows add up to the bias, but for a constant."""
    low = np.percentile(bias, LOWEST).astype(np.float32)
    size = (bias.max() - low) / np.float32(PARTS)
    return np.clip(bias[:, None] - low - size * np.arange(PARTS, dtype=np.float32), 0, size)


def _check_words(matrix: Floats, bias: Floats) -> None:
    if matrix.ndim != 2 or not matrix.shape[1] or bias.shape != matrix.shape[:1] or matrix.dtype != np.float32 or bias.dtype != np.float32:
        raise InputError(f"matrix, bias: their shapes are {list(matrix.shape)} and {list(bias.shape)}; (V, W) and (V,) are allowed")
    if len(matrix) < CENTROIDS:
        raise InputError(f"matrix: it has {len(matrix)} words; a search takes {CENTROIDS} at least")
    if not all(np.isfinite(value) for array in (matrix, bias) for value in (array.min(), array.max())):
        raise InputError("matrix, bias: some are no numbers; give those of a model that answers with numbers")


def _crc32(path: Path) -> int:
    value = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            value = zlib.crc32(block, value)
    return value


def _faiss() -> Any:
    try:
        import faiss
    except ModuleNotFoundError as error:
        raise InputError("words: a search takes the package faiss-cpu, which is missing; pip install 'penjing[nearest]'") from error
    return faiss
