"""How many: the sizes of an encoder and of the task head on it, and what they cost.

A `Blueprint` is frozen, hashable and JSON, and knows nothing of tensors, so planning costs microseconds.
Which heads are kept is a `Selection` (selection.py); the values are a state dict.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from math import prod
from typing import Literal, get_args

from penjing.errors import InputError
from penjing.files.references import SEPARATOR
from penjing.files.whole import Json

Attending = Literal["full", "window", "low-rank", "fixed"]
"""The forms of a layer's attention; see `Layer`."""
Size = Literal["hidden", "embedding", "vocabulary", "pooled_width", "outputs"]
"""The sizes of a blueprint that an axis of a head's parameter may have, by the blueprint's names."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a task head: its name within the head, and what each axis counts (a size of the blueprint, or a fixed number)."""

    name: str
    axes: tuple[Size | int, ...]


def _linear(name: str, outputs: Size, inputs: Size) -> tuple[Parameter, ...]:
    return Parameter(f"{name}.weight", (outputs, inputs)), Parameter(f"{name}.bias", (outputs,))


@dataclass(frozen=True, slots=True)
class Head:
    """The task head of an encoder: what it reads and answers, its parameters, and where its network and its graph are.

    A head of one's own is a row like those of `HEADS`, at the top of a module that is imported, with a network class beside it.

    Attributes:
        name: by which a file holds the row: its name in `HEADS`, or "module:name" of a row of one's own.
        network: "module:class" of its network, a `PenjingPreTrainedModel` whose module `head` holds the parameters.
        suffix: how the names of transformers' classes with such a head end; `AutoModel` + suffix opens what is written.
        answers: one row of outputs for a "text"; for each "token"; starts and ends of a "span"; each token's "word"; or "states", no answers.
        reads: "first": the network reads the states of the first token alone, so that the last layer need compute no other.
        outputs: how many there are; None: as many as there are labels.
        parameters: by which costs are counted, hidden units and tokens are cut, and a folder of weights is checked.
        graph: "module:function" `(emitter, states) -> logits` that writes its part of an ONNX graph; "": it has none.
    """

    name: str
    network: str
    suffix: str
    answers: Literal["text", "token", "span", "word", "states"]
    reads: Literal["first", "all"] = "all"
    outputs: int | None = None
    parameters: tuple[Parameter, ...] = ()
    graph: str = ""

    def __hash__(self) -> int:
        return hash(self.name)

    @property
    def per_token(self) -> bool:
        """Whether each token has an answer of its own."""
        return self.answers == "token"

    @property
    def first_only(self) -> bool:
        """Whether the states of the first token alone are read."""
        return self.reads == "first"

    @property
    def bare(self) -> bool:
        """Whether there is no head: the encoder alone."""
        return self.answers == "states"

    @property
    def labelled(self) -> bool:
        """Whether the outputs are labels."""
        return self.outputs is None

    @property
    def pooled(self) -> bool:
        """Whether it has a layer of a width of its own, `Blueprint.pooled_width`."""
        return any("pooled_width" in parameter.axes for parameter in self.parameters)

    @property
    def activated(self) -> bool:
        """Whether an activation of its own follows a dense layer."""
        return any(parameter.name == "dense.weight" for parameter in self.parameters)

    @property
    def own(self) -> bool:
        """Whether it is a user's own, in no table."""
        return SEPARATOR in self.name

    @property
    def auto_class(self) -> str:
        """The class of transformers that opens a model with such a head."""
        return f"AutoModel{'' if self.bare else self.suffix}"


_NETWORKS = "penjing.model.modeling_penjing:Penjing"
_GRAPHS = "penjing.engines.onnx.heads"

HEADS: dict[str, Head] = {
    head.name: head
    for head in (
        Head("none", f"{_NETWORKS}Model", "Model", answers="states", outputs=0),
        Head(
            name="sequence",
            network=f"{_NETWORKS}ForSequenceClassification",
            suffix="ForSequenceClassification",
            answers="text",
            reads="first",
            parameters=(*_linear("dense", "pooled_width", "hidden"), *_linear("out", "outputs", "pooled_width")),
            graph=f"{_GRAPHS}:first_token",
        ),
        Head(
            name="token",
            network=f"{_NETWORKS}ForTokenClassification",
            suffix="ForTokenClassification",
            answers="token",
            parameters=_linear("out", "outputs", "hidden"),
            graph=f"{_GRAPHS}:each_token",
        ),
        Head(
            name="question",
            network=f"{_NETWORKS}ForQuestionAnswering",
            suffix="ForQuestionAnswering",
            answers="span",
            outputs=2,
            parameters=_linear("out", "outputs", "hidden"),
            graph=f"{_GRAPHS}:each_token",
        ),
        Head(
            name="masked",
            network=f"{_NETWORKS}ForMaskedLM",
            suffix="ForMaskedLM",
            answers="word",
            outputs=0,
            parameters=(
                *_linear("dense", "embedding", "hidden"),
                Parameter("norm.weight", ("embedding",)),
                Parameter("norm.bias", ("embedding",)),
                Parameter("bias", ("vocabulary",)),
            ),
        ),
    )
}
"""The heads that Penjing has: none; a dense layer on the first token, an activation and a linear layer; one linear layer on every token,
for labels and for spans; and a language model's, tied to the word embedding."""


def head_named(head: Head | str) -> Head:
    """The head of this name; an `InputError` where there is none. A row stands for itself.

    A user's own head, "module:name", has to be in a module that is imported already: a name that a file holds imports nothing.
    """
    if isinstance(head, Head):
        return head
    if not isinstance(head, str) or (head not in HEADS and SEPARATOR not in head):
        raise InputError(f"blueprint: head is {head!r}; it must be one of {', '.join(HEADS)}")
    if head in HEADS:
        return HEADS[head]
    module, _, attribute = head.partition(SEPARATOR)
    own = getattr(sys.modules.get(module), attribute, None)
    if not isinstance(own, Head) or own.name != head:
        raise InputError(f"blueprint: head is {head!r}, one of somebody's own; import {module!r}, which has to hold it as {attribute!r}")
    return own


@dataclass(frozen=True, slots=True)
class Layer:
    """One encoder layer: how many attention heads and feed-forward neurons, either may be zero, and what it computes.

    Attributes:
        activation: of the neurons, by transformers' name; "": the one that the configuration gives for all layers.
        shares: the number of an earlier layer, with weights of its own, that this one runs again (Lan et al. 2020, ALBERT, section 3.1);
            None: it has its own.
        attention: "full"; "window": a token sees those at most `span` away, and the first token sees and is seen by all (Beltagy et al.
            2020, Longformer, section 3.1); "low-rank": keys and values are those of `span` pooled rows (Wang et al. 2020, Linformer, section 4);
            "fixed": by a pattern of offsets up to `span`, without queries and keys (Raganato et al. 2020, section 3).
        span: of the attention, at least 1; 0 where it is full.
        tokens: the percent of a text's tokens that go on from this layer's attention, those that the first token attends to most, itself
            always among them (Goyal et al. 2020, PoWER-BERT, section 3; Liang et al. 2022, EViT, section 3.2). A layer without heads
            lets all go on.
    """

    heads: int
    neurons: int
    activation: str = ""
    shares: int | None = None
    attention: Attending = "full"
    span: int = 0
    tokens: int = 100

    @property
    def compared(self) -> bool:
        """Whether there are queries and keys."""
        return self.heads > 0 and self.attention != "fixed"

    def left(self, length: int) -> int:
        """How many of `length` tokens go on."""
        return -(-length * self.tokens // 100) if self.heads else length

    def to_list(self) -> list[int | Json]:
        """`[heads, neurons]`, and an object of the fields that are not as usual, where there are any."""
        unusual = {field.name: getattr(self, field.name) for field in fields(self)[2:] if getattr(self, field.name) != field.default}
        return [self.heads, self.neurons, *([unusual] if unusual else [])]

    @classmethod
    def from_list(cls, content: Sequence[int | Json]) -> "Layer":
        """Read `to_list`'s list; a `TypeError` or `ValueError` where it is none."""
        heads, neurons, *more = content
        if len(more) > 1 or any(type(count) is not int for count in (heads, neurons)):
            raise TypeError("a layer is [heads, neurons], and an object of what else it computes")
        layer = cls(heads, neurons, **(more[0] if more else {}))  # type: ignore[arg-type]
        if not isinstance(layer.activation, str) or type(layer.shares) not in (int, type(None)):
            raise TypeError("a layer's activation is no name, or the layer that it shares no number")
        if type(layer.span) is not int or type(layer.tokens) is not int:
            raise TypeError("a layer's span, or its percent of tokens, is no integer")
        return layer


@dataclass(frozen=True, slots=True)
class Blueprint:
    """Sizes of a post-norm Transformer encoder with one task head.

    `embedding` is the width of the embedding tables; where it is not `hidden`, a linear map joins the two
    (Lan et al. 2020, ALBERT, section 3.1). With a `rank`, the word table is the product of one that is `rank` wide and a matrix
    without bias (Acharya et al. 2019, section 3), before the norm, so that at full rank it is exact; 0 is a table in one piece.
    `bits` is the width that the weights of the linear layers and the word table are stored with; positions, token types, biases and
    norms stay in 32. The head is a row of `HEADS` (or its name), or one's own; `pooled` is the width of its dense
    layer, where it has one of a width of its own (0: as wide as `hidden`). `exits` are numbers of layers, counted from 1,
    after which a text may leave: behind each stands one more head of the same row, with weights of its own (Xin et al. 2020, DeeBERT,
    section 3). With a `position_rank` the position table is a product like the word table's; 0: in one piece.
    """

    vocabulary: int
    positions: int
    token_types: int
    embedding: int
    hidden: int
    head_width: int
    layers: tuple[Layer, ...]
    head: Head = HEADS["none"]
    outputs: int = 0
    bits: int = 32
    pooled: int = 0
    rank: int = 0
    exits: tuple[int, ...] = ()
    position_rank: int = 0

    def __post_init__(self) -> None:
        for name in ("vocabulary", "positions", "embedding", "hidden", "head_width"):
            if getattr(self, name) < 1:
                raise InputError(f"blueprint: {name} is {getattr(self, name)}; it must be at least 1")
        counts = [
            self.token_types,
            self.outputs,
            self.pooled,
            self.rank,
            self.position_rank,
            *(min(layer.heads, layer.neurons) for layer in self.layers),
        ]
        if min(counts) < 0:
            raise InputError("blueprint: a count is negative; every count must be at least 0")
        for i, layer in enumerate(self.layers):
            if layer.shares is not None and not (0 <= layer.shares < i and replace(layer, shares=None) == self.layers[layer.shares]):
                raise InputError(
                    f"blueprint: layer {i} shares layer {layer.shares}; that must be an earlier one, as large, with weights of its own"
                )
        object.__setattr__(self, "head", head_named(self.head))
        if list(self.exits) != sorted({layer for layer in self.exits if 0 < layer < len(self.layers)}):
            raise InputError(f"blueprint: exits are {list(self.exits)}; they ascend from 1, below the {len(self.layers)} layers")
        if self.exits and self.head.answers != "text":
            raise InputError(f"blueprint: a text leaves early, and the head {self.head.name!r} answers no text; leave out exits")
        if self.exits and any(layer.tokens < 100 for layer in self.layers):
            raise InputError("blueprint: a layer drops tokens, and exits hand all of them on; leave out exits, or let all tokens go on")
        for i, layer in enumerate(self.layers):
            self._check_attention(i, layer)

    def _check_attention(self, i: int, layer: Layer) -> None:
        if layer.attention not in get_args(Attending):
            raise InputError(f"blueprint: the attention of layer {i} is {layer.attention!r}; allowed are {', '.join(get_args(Attending))}")
        most = {"full": 0, "low-rank": self.positions}.get(layer.attention, sys.maxsize)
        if not min(1, most) <= layer.span <= most:
            allowed = {"full": "0", "low-rank": f"1 to {most}, the positions"}.get(layer.attention, "at least 1")
            raise InputError(f"blueprint: the span of layer {i} is {layer.span}; for {layer.attention} attention it must be {allowed}")
        if not 1 <= layer.tokens <= 100:
            raise InputError(f"blueprint: tokens of layer {i} is {layer.tokens}; it is a percent, 1 to 100")
        if layer.tokens < 100 and layer.attention != "full":
            raise InputError(f"blueprint: layer {i} has {layer.attention} attention and drops tokens; only full attention ranks them")
        if layer.tokens < 100 and not self.head.first_only:
            raise InputError(
                f"blueprint: layer {i} drops tokens, and the head {self.head.name} reads them all; only a head that answers a text by its"
                " first token can do without"
            )

    @property
    def pooled_width(self) -> int:
        """Outputs of the head's dense layer."""
        return self.pooled or self.hidden

    @property
    def word_width(self) -> int:
        """Columns of the word table that is stored."""
        return self.rank or self.embedding

    def owner(self, layer: int) -> int:
        """The number of the layer that has the weights of this one: itself, or the one that it shares."""
        shares = self.layers[layer].shares
        return layer if shares is None else shares

    @property
    def distinct(self) -> tuple[int, ...]:
        """The numbers of the layers that have weights of their own."""
        return tuple(i for i, layer in enumerate(self.layers) if layer.shares is None)

    def sharing(self, owner: int) -> tuple[int, ...]:
        """The numbers of the layers that have the weights of this one, itself first."""
        return (owner, *(i for i, layer in enumerate(self.layers) if layer.shares == owner))

    def head_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each parameter of the head, by its name within the head."""
        return {
            parameter.name: tuple(axis if isinstance(axis, int) else int(getattr(self, axis)) for axis in parameter.axes)
            for parameter in self.head.parameters
        }

    @property
    def heads(self) -> tuple[str, ...]:
        """The modules that hold the parameters of a head: the last one, and that of each exit."""
        return ("head", *(f"exits.{number}" for number in range(len(self.exits))))

    # -- costs -----------------------------------------------------------------------------------------------

    @property
    def matrices(self) -> int:
        """Weights that are stored with `bits`: the embedding table of words and every linear layer's matrix."""
        total = self.vocabulary * self.word_width + self.rank * self.embedding
        if self.embedding != self.hidden:
            total += self.embedding * self.hidden
        total += sum(_layer_matrices(self, self.layers[i]) for i in self.distinct)
        return total + len(self.heads) * sum(prod(shape) for shape in self.head_shapes().values() if len(shape) > 1)

    @property
    def vectors(self) -> int:
        """Weights that stay in 32 bits: positions, token types, biases, norms, and what attention has beside its linear layers."""
        total = self.positions * (self.position_rank or self.embedding) + (self.position_rank + self.token_types + 2) * self.embedding
        if self.embedding != self.hidden:
            total += self.hidden
        for layer in (self.layers[i] for i in self.distinct):
            attention = (3 if layer.compared else 1) * layer.heads * self.head_width + 3 * self.hidden
            if layer.heads and layer.attention == "low-rank":
                attention += layer.span * self.positions
            if layer.attention == "fixed":
                attention += layer.heads * (2 * layer.span + 3)
            total += attention + layer.neurons + 3 * self.hidden
        return total + len(self.heads) * sum(prod(shape) for shape in self.head_shapes().values() if len(shape) < 2)

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
        return sum(self.layer_macs(layer, read) for layer, read in zip(self.layers, self.lengths(length), strict=True))

    def lengths(self, length: int) -> list[int]:
        """How many tokens each layer reads of a text of `length` tokens."""
        result = []
        for layer in self.layers:
            result.append(length)
            length = layer.left(length)
        return result

    def layer_macs(self, layer: Layer, length: int) -> int:
        """Multiply-accumulates of one layer that reads `length` tokens: its linear layers, and its weights times its values.

        What ranks tokens that may be dropped is not counted: one row of scores.
        """
        inner = layer.heads * self.head_width
        left = layer.left(length)
        rows = layer.span if layer.attention == "low-rank" else length  # of keys and values
        seen = min(length, 2 * layer.span + 2) if layer.attention == "window" else rows
        queries_and_keys = self.hidden * inner * (left + rows) + left * seen * inner if layer.compared else 0
        values = self.hidden * inner * (left + rows) + left * seen * inner
        pooling = rows * length * self.hidden if layer.attention == "low-rank" and inner else 0
        return queries_and_keys + values + pooling + left * 2 * layer.neurons * self.hidden

    # -- JSON ------------------------------------------------------------------------------------------------

    def to_dict(self) -> Json:
        """A JSON object; layers as `Layer.to_list` gives them, the head is its name, exits and the positions' rank where there are any."""
        sizes = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in ("exits", "position_rank")}
        exits = {"exits": list(self.exits)} if self.exits else {}
        rank = {"position_rank": self.position_rank} if self.position_rank else {}
        return sizes | {"layers": [layer.to_list() for layer in self.layers], "head": self.head.name} | exits | rank

    def to_json(self) -> str:
        """Compact JSON; `Blueprint.from_json` reads it back equal."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_dict(cls, content: Json) -> "Blueprint":
        """Read `to_dict`'s object; an unknown field, or a missing one that has no default, is an `InputError`."""
        try:
            exits = tuple(content.get("exits", ()))
            sizes = [value for name, value in content.items() if name not in ("layers", "head", "exits")]
            if any(type(value) is not int for value in (*sizes, *exits)):
                raise TypeError("a size is not an integer")
            return cls(**{**content, "layers": tuple(Layer.from_list(layer) for layer in content["layers"]), "exits": exits})
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
        """Whether a plain Hugging Face configuration can say it: equal layers, whose heads fill the width, a whole word table, no exits."""
        first = self.layers[0] if self.layers else Layer(0, 0)
        usual = first == Layer(self.hidden // self.head_width, first.neurons) and first.heads * self.head_width == self.hidden
        equal = usual and len(set(self.layers)) == 1 and first.neurons > 0
        return equal and self.pooled_width == self.hidden and not (self.rank or self.position_rank or self.exits)

    def with_layers(self, layers: tuple[Layer, ...]) -> "Blueprint":
        """The same blueprint with other layers, and no exits."""
        return replace(self, layers=layers, exits=())


def _layer_matrices(blueprint: Blueprint, layer: Layer) -> int:
    return blueprint.hidden * ((4 if layer.compared else 2) * layer.heads * blueprint.head_width + 2 * layer.neurons)
