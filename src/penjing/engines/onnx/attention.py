"""Attention in an ONNX graph, in each of the forms that a layer may have, and the choice of the tokens that go on.

Written with standard operators, for both dialects; all-to-all attention in one operator is the fused dialect's own (graph.py).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from penjing.blueprint import Layer
from penjing.engines.onnx.heads import Emitter

LOW = np.float32(-1e9)
"""The logit of what is not seen."""
EMPTY = np.float32(1e-9)
"""What an empty row of a low-rank layer counts, as in model/attending.py."""


@dataclass(frozen=True)
class Tokens:
    """The tokens of a batch at a place of the graph, by the names of values.

    length: of the texts, (1,). mask: (batch, length), int64; "" where all texts are equally long. bias: (batch, 1, 1, length), zero where
    there is a token and very low where there is none; "" likewise.
    """

    length: str
    mask: str = ""
    bias: str = ""


def masked(emitter: Emitter, mask: str, length: str) -> Tokens:
    """The tokens of this mask."""
    real = emitter.op("Cast", emitter.op("Unsqueeze", mask, emitter.shape(1, 2)), to=TensorProto.FLOAT)
    one, low = emitter.constant("one", np.array(1, np.float32)), emitter.constant("low", np.array(LOW))
    return Tokens(length, mask, emitter.op("Mul", emitter.op("Sub", one, real), low))


@dataclass(frozen=True)
class Attending:
    """One attention block: its name, its layer, and the tokens that it reads."""

    emitter: Emitter
    block: str
    layer: Layer
    tokens: Tokens

    def context(self, x: str, queries: str) -> str:
        """The heads' contexts (batch, rows, heads · width) of the rows `queries`, where x (batch, length, hidden) is read."""
        if self.layer.attention == "fixed":
            return self._fixed(x, first_only=queries != x)
        if self.layer.attention == "low-rank":
            return self._low_rank(x, queries)
        q, k, v = self.query(queries), self.by_head("key", x, 0, 2, 3, 1), self.by_head("value", x, 0, 2, 1, 3)
        if self.layer.attention == "window" and queries == x:
            return self.mixed(self.probabilities(q, k, self._band()), v)
        return self.mixed(self.probabilities(q, k, self.tokens.bias), v)

    def of_those_left(self, x: str) -> tuple[str, str, Tokens]:
        """The rows of x whose tokens go on (batch, rows, hidden), their contexts, and these tokens; see `places_left` in model/attending.py."""
        emitter = self.emitter
        k, v = self.by_head("key", x, 0, 2, 3, 1), self.by_head("value", x, 0, 2, 1, 3)
        of_first = self.probabilities(self.query(self.until(x, 1, end=emitter.shape(1))), k, self.tokens.bias)
        places, left = self._left(emitter.op("ReduceMean", of_first, axes=[1, 2], keepdims=0))
        rows = emitter.op("GatherND", x, emitter.op("Unsqueeze", places, emitter.shape(2)), batch_dims=1)
        return rows, self.mixed(self.probabilities(self.query(rows), k, self.tokens.bias), v), left

    def _left(self, significance: str) -> tuple[str, Tokens]:
        """The places (batch, rows) of the tokens that go on, by the significance (batch, length) of all; and these tokens."""
        emitter, positions = self.emitter, self.emitter.network.blueprint.positions
        # A table, since OpenVINO rounds the quotients of integers.
        counts = emitter.constant(f"left_{self.layer.tokens}", np.array([self.layer.left(n) for n in range(positions + 1)]))
        first = emitter.constant("first", np.array([2] + [0] * (positions - 1), np.float32))  # above every probability
        most = emitter.op("Gather", counts, self.tokens.length)
        ranked = emitter.op("Add", significance, self.until(first, 0))
        _, order = emitter.op("TopK", ranked, most, outputs=2, axis=1)
        if not self.tokens.mask:
            return emitter.op("TopK", order, most, outputs=2, axis=1, largest=0)[0], Tokens(most)
        count = emitter.op(
            "Gather", counts, emitter.op("ReduceSum", self.tokens.mask, emitter.shape(1))
        )  # (batch, 1), of each text's own length
        real = emitter.op("Less", self.until(emitter.constant("places", np.arange(positions)), 0, end=most), count)
        order, _ = emitter.op("TopK", emitter.op("Where", real, order, self.tokens.length), most, outputs=2, axis=1, largest=0)
        places = emitter.op("Min", order, emitter.op("Sub", self.tokens.length, emitter.shape(1)))
        return places, masked(emitter, emitter.op("Cast", real, to=TensorProto.INT64), most)

    # -- pieces ------------------------------------------------------------------------------------------------

    def by_head(self, name: str, source: str, *order: int, scale: float = 1.0) -> str:
        """What a projection gives (batch, rows, hidden), by head: axes batch, rows, head, width in this order."""
        emitter, heads = self.emitter, self.layer.heads
        name = f"{self.block}.{name}"
        w, b = emitter.weight(f"{name}.weight").T * np.float32(scale), emitter.weight(f"{name}.bias") * np.float32(scale)
        y = emitter.op("Reshape", emitter.matmul(source, name, w, b), emitter.shape(0, 0, heads, emitter.network.blueprint.head_width))
        return str(emitter.op("Transpose", y, perm=list(order)))

    def query(self, source: str) -> str:
        """Queries (batch, heads, rows, width), scaled."""
        return self.by_head("query", source, 0, 2, 1, 3, scale=1 / np.sqrt(self.emitter.network.blueprint.head_width))

    def probabilities(self, q: str, k: str, bias: str) -> str:
        """Softmax of q (batch, heads, rows, width) times k (batch, heads, width, length), plus the bias."""
        scores = self.emitter.op("MatMul", q, k)
        return str(self.emitter.op("Softmax", self.emitter.op("Add", scores, bias) if bias else scores, axis=-1))

    def mixed(self, probabilities: str, v: str) -> str:
        """Probabilities (batch, heads, rows, length) times v (batch, heads, length, width): (batch, rows, heads · width)."""
        emitter = self.emitter
        context = emitter.op("Transpose", emitter.op("MatMul", probabilities, v), perm=[0, 2, 1, 3])
        return str(emitter.op("Reshape", context, emitter.shape(0, 0, self.layer.heads * emitter.network.blueprint.head_width)))

    def until(self, x: str, axis: int, start: str = "", end: str = "") -> str:
        """x from `start` to `end` along an axis; by default from 0, to the length."""
        emitter = self.emitter
        return str(emitter.op("Slice", x, start or emitter.shape(0), end or self.tokens.length, emitter.shape(axis)))

    def number(self, name: str, value: NDArray[np.float32]) -> str:
        """A constant of this block."""
        return self.emitter.constant(f"{self.block}.{name}", value)

    # -- forms -------------------------------------------------------------------------------------------------

    def _band(self) -> str:
        """The bias (1 or batch, 1, length, length) of a window, once for all layers that have the same; see `within` in model/attending.py.

        All scores are computed: in blocks they are fewer, and take longer (LOG.md).
        """
        emitter, span, places = self.emitter, self.layer.span, np.arange(self.emitter.network.blueprint.positions)
        key = f"band_{span}_{self.tokens.length}"
        if key not in emitter.made:
            seen = (np.abs(places[:, None] - places) <= span) | (places == 0) | (places[:, None] == 0)
            band = self.until(self.until(emitter.constant(f"band_{span}", np.where(seen, np.float32(0), LOW)), 0), 1)
            emitter.made[key] = emitter.op("Add", band, self.tokens.bias) if self.tokens.bias else band
        return emitter.made[key]

    def _low_rank(self, x: str, queries: str) -> str:
        """Keys and values of pooled rows; see `pooled` in model/attending.py."""
        emitter, E = self.emitter, self.emitter.weight(f"{self.block}.pooling")
        weights = self.until(self.number("pooling", E), 1)  # (rows, length)
        if self.tokens.mask:
            real = emitter.op("Cast", emitter.op("Unsqueeze", self.tokens.mask, emitter.shape(1)), to=TensorProto.FLOAT)
            weights = emitter.op("Mul", weights, real)  # (batch, rows, length)
            held = emitter.op("MatMul", real, self.until(self.number("pooling.size", np.abs(E).T), 0))  # (batch, 1, rows)
        else:
            sums = self.number("pooling.size", np.cumsum(np.abs(E).T, 0, dtype=np.float32))  # (positions, rows)
            held = emitter.op(
                "Unsqueeze", emitter.op("Gather", sums, emitter.op("Sub", self.tokens.length, emitter.shape(1))), emitter.shape(0)
            )
        held = emitter.op("Max", held, emitter.constant("empty", np.array(EMPTY)))
        rows = emitter.op("MatMul", emitter.op("Div", weights, emitter.op("Transpose", held, perm=[0, 2, 1])), x)
        bias = emitter.op("Unsqueeze", emitter.op("Log", held), emitter.shape(1))  # (batch, 1, 1, rows)
        q, k, v = self.query(queries), self.by_head("key", rows, 0, 2, 3, 1), self.by_head("value", rows, 0, 2, 1, 3)
        return self.mixed(self.probabilities(q, k, bias), v)

    def _fixed(self, x: str, first_only: bool) -> str:
        """A pattern of offsets, first and last token; see `pattern_logits` in model/attending.py.

        All rows are one vector of offsets 0, 1, …, -2, -1 that moves on by one in each: repeated, and read in rows that are one shorter.
        """
        emitter, positions = self.emitter, self.emitter.network.blueprint.positions
        pattern = emitter.weight(f"{self.block}.pattern")  # (heads, 2 · span + 3)
        heads, span = len(pattern), self.layer.span
        ahead = pattern[:, np.minimum(np.arange(positions), span) + span]  # (heads, positions): offsets 0, 1, …
        logits = self.until(self.number("pattern.ahead", ahead[:, None]), 2)  # (heads, 1, length)
        if not first_only:
            length, two = self.tokens.length, emitter.shape(2)
            behind = pattern[:, span - np.minimum(np.arange(positions, 0, -1), span)]  # (heads, positions): offsets …, -2, -1
            back = emitter.op("Neg", length)
            turn = emitter.op(
                "Concat", logits, self.until(self.number("pattern.behind", behind[:, None]), 2, back, emitter.shape(positions)), axis=2
            )
            every = emitter.op("Expand", turn, emitter.op("Concat", emitter.shape(heads), length, emitter.shape(1), axis=0))
            flat = emitter.op("Reshape", every, emitter.shape(heads, -1))  # (heads, length · 2 · length)
            flat = self.until(flat, 1, end=back)
            shorter = emitter.op("Sub", emitter.op("Mul", length, two), emitter.shape(1))
            flat = emitter.op("Reshape", flat, emitter.op("Concat", emitter.shape(heads), length, shorter, axis=0))
            logits = self.until(flat, 2)  # (heads, length, length)
        first = np.zeros((heads, 1, positions), np.float32)
        first[:, 0, 0] = pattern[:, -2]
        ends = self.until(self.number("pattern.first", first), 2)  # (heads, 1, length)
        if self.tokens.mask:
            ends = emitter.op("Add", ends, emitter.op("Mul", self._last(), self.number("pattern.last", pattern[:, -1, None, None])))
            ends = emitter.op("Add", ends, self.tokens.bias)  # (batch, heads, 1, length)
        else:
            last = np.zeros((1, heads, 1, positions), np.float32)
            last[0, :, 0, -1] = pattern[:, -1]
            back = emitter.op("Neg", self.tokens.length)
            ends = emitter.op("Add", ends, self.until(self.number("pattern.last", last), 3, back, emitter.shape(positions)))
        probabilities = emitter.op("Softmax", emitter.op("Add", logits, ends), axis=-1)
        return self.mixed(probabilities, self.by_head("value", x, 0, 2, 1, 3))

    def _last(self) -> str:
        """(batch, 1, 1, length), one at the last token of each text and zero elsewhere: where the mask goes from one to zero."""
        emitter = self.emitter
        real = emitter.op("Cast", emitter.op("Unsqueeze", self.tokens.mask, emitter.shape(1, 2)), to=TensorProto.FLOAT)
        later = emitter.op("Pad", real, emitter.shape(0, 0, 0, 0, 0, 0, 0, 1))
        return str(emitter.op("Sub", real, self.until(later, 3, emitter.shape(1), emitter.shape(emitter.network.blueprint.positions + 1))))
