"""How many: the sizes of an encoder, and what they cost.

A `Blueprint` is frozen, hashable and JSON, and knows nothing of tensors, so planning costs microseconds.
Which heads are kept is a `Selection` (surgery.py); the values are a state dict.
"""

import json
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from penjing.errors import InputError

Head = Literal["none", "sequence", "token", "question", "masked"]


@dataclass(frozen=True, slots=True)
class Layer:
    """One encoder layer: how many attention heads and feed-forward neurons; either may be zero."""

    heads: int
    neurons: int


@dataclass(frozen=True, slots=True)
class Blueprint:
    """Sizes of a post-norm Transformer encoder with one task head.

    `embedding` is the width of the embedding tables; where it is not `hidden`, a linear map joins the two
    (Lan et al. 2020, ALBERT, section 3.1). With a `rank`, the word table is the product of one that is `rank` wide and a matrix
    without bias (Acharya et al. 2019, section 3), before the norm, so that at full rank it is exact; 0 is a table in one piece.
    `bits` is the width that the weights of the linear layers and the
    embedding tables are stored with. The heads: `sequence` is a dense layer on the first token, `pooled` wide (0: as wide
    as `hidden`), and a linear layer to `outputs`; `token` and `question` are one linear layer; `masked` is tied to the
    embedding.
    """

    vocabulary: int
    positions: int
    token_types: int
    embedding: int
    hidden: int
    head_width: int
    layers: tuple[Layer, ...]
    head: Head = "none"
    outputs: int = 0
    bits: int = 32
    pooled: int = 0
    rank: int = 0

    def __post_init__(self) -> None:
        for name in ("vocabulary", "positions", "embedding", "hidden", "head_width"):
            if getattr(self, name) < 1:
                raise InputError(f"blueprint: {name} is {getattr(self, name)}; it must be at least 1")
        counts = [self.token_types, self.outputs, self.pooled, self.rank, *(min(layer.heads, layer.neurons) for layer in self.layers)]
        if min(counts) < 0:
            raise InputError("blueprint: a count is negative; every count must be at least 0")
        if self.head not in get_args(Head):
            raise InputError(f"blueprint: head is {self.head!r}; it must be one of {', '.join(get_args(Head))}")

    @property
    def pooled_width(self) -> int:
        """Outputs of the sequence head's dense layer."""
        return self.pooled or self.hidden

    @property
    def word_width(self) -> int:
        """Columns of the word table that is stored."""
        return self.rank or self.embedding

    # -- costs -----------------------------------------------------------------------------------------------

    @property
    def matrices(self) -> int:
        """Weights that are stored with `bits`: the embedding table of words and every linear layer's matrix."""
        total = self.vocabulary * self.word_width + self.rank * self.embedding
        if self.embedding != self.hidden:
            total += self.embedding * self.hidden
        total += sum(_layer_matrices(self, layer) for layer in self.layers)
        head = {"none": 0, "sequence": self.pooled_width * (self.hidden + self.outputs), "masked": self.hidden * self.embedding}
        return total + head.get(self.head, self.hidden * self.outputs)

    @property
    def vectors(self) -> int:
        """Weights that stay in 32 bits: positions, token types, biases, norms."""
        total = (self.positions + self.token_types + 2) * self.embedding
        if self.embedding != self.hidden:
            total += self.hidden
        for layer in self.layers:
            attention = 3 * layer.heads * self.head_width + 3 * self.hidden
            total += attention + layer.neurons + 3 * self.hidden
        head = {"none": 0, "sequence": self.pooled_width + self.outputs, "masked": 3 * self.embedding + self.vocabulary}
        return total + head.get(self.head, self.outputs)

    @property
    def parameters(self) -> int:
        """Trainable numbers."""
        return self.matrices + self.vectors

    @property
    def bytes(self) -> int:
        """Bytes of the weights, without headers, scales or tokenizer."""
        return (self.matrices * self.bits + 7) // 8 + 4 * self.vectors

    def macs(self, length: int) -> int:
        """Multiply-accumulates of the encoder layers for one text of `length` tokens."""
        attention = sum(2 * length * length * layer.heads * self.head_width for layer in self.layers)
        return attention + length * sum(_layer_matrices(self, layer) for layer in self.layers)

    # -- JSON ------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """A JSON object; layers are `[heads, neurons]` pairs."""
        return asdict(self) | {"layers": [[layer.heads, layer.neurons] for layer in self.layers]}

    def to_json(self) -> str:
        """Compact JSON; `Blueprint.from_json` reads it back equal."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "Blueprint":
        """Read `to_dict`'s object; an unknown or missing field is an `InputError`."""
        try:
            sizes = [value for name, value in fields.items() if name not in ("layers", "head")]
            if any(type(value) is not int for value in [*sizes, *(size for layer in fields["layers"] for size in layer)]):
                raise TypeError("a size is not an integer")
            return cls(**{**fields, "layers": tuple(Layer(h, n) for h, n in fields["layers"])})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"blueprint: not a blueprint's fields ({error}); write it with Blueprint.to_json") from error

    @classmethod
    def from_json(cls, text: str) -> "Blueprint":
        """Read `to_json`'s text."""
        try:
            return cls.from_dict(json.loads(text))
        except json.JSONDecodeError as error:
            raise InputError(f"blueprint: not JSON ({error}); write it with Blueprint.to_json") from error

    # -- shape -----------------------------------------------------------------------------------------------

    @property
    def uniform(self) -> bool:
        """Whether a plain Hugging Face configuration can say it: equal layers, whose heads fill the width, and a whole word table."""
        equal = len(set(self.layers)) == 1 and self.layers[0].heads * self.head_width == self.hidden and self.layers[0].neurons > 0
        return equal and self.pooled_width == self.hidden and not self.rank

    def with_layers(self, layers: tuple[Layer, ...]) -> "Blueprint":
        """The same blueprint with other layers."""
        return replace(self, layers=layers)


def _layer_matrices(blueprint: Blueprint, layer: Layer) -> int:
    return blueprint.hidden * (4 * layer.heads * blueprint.head_width + 2 * layer.neurons)
