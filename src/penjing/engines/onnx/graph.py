"""The encoder as an ONNX graph, written straight from its blueprint and weights.

Two dialects. `portable` uses standard operators alone, takes an attention mask, and runs on any engine; its int8
form is QDQ with calibrated activations. `fused` uses ONNX Runtime's own operators (Attention, SkipLayerNormalization,
BiasGelu and their int8 forms, activations rounded as they come) and takes no mask: it is for batches of exactly equal
lengths. In both, the last layer computes only the first token where the head reads no other.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from penjing.blueprint import HEADS, Blueprint
from penjing.engines.network import Network, Ranges
from penjing.engines.onnx.attention import Attending, Tokens, masked
from penjing.errors import InputError
from penjing.files.references import resolved
from penjing.maths.rounding import affine, symmetric

Dialect = Literal["portable", "fused"]
MICROSOFT = "com.microsoft"
FLOAT_ALWAYS = frozenset({"head.out"})
"""What no int8 form rounds: the layer that gives the logits."""
STATES = "states"
"""The states (batch, length, hidden) that a segment hands on: an output of one, and an input of the next."""
PROJECTIONS = ("query", "key", "value")
"""The linear layers that read the input of an attention block; the fused dialect rounds all of them or none."""
GELU_ERF, GELU_TANH = ("gelu",), ("gelu_new", "gelu_pytorch_tanh", "gelu_fast")


def weight_shapes(blueprint: Blueprint) -> dict[str, tuple[int, ...]]:
    """The shape of each weight of a network by name, of a head that has a graph."""
    shapes: dict[str, tuple[int, ...]] = {}

    def linear(name: str, outputs: int, inputs: int) -> None:
        shapes.update({f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)})

    def norm(name: str, width: int) -> None:
        shapes.update({f"{name}.weight": (width,), f"{name}.bias": (width,)})

    width, hidden = blueprint.embedding, blueprint.hidden
    shapes["embeddings.word.weight"] = (blueprint.vocabulary, blueprint.word_width)
    if blueprint.rank:
        shapes["embeddings.word_map.weight"] = (width, blueprint.rank)
    shapes["embeddings.position.weight"] = (blueprint.positions, blueprint.position_rank or width)
    if blueprint.position_rank:
        shapes["embeddings.position_map"] = (width, blueprint.position_rank)
    if blueprint.token_types:
        shapes["embeddings.token_type.weight"] = (blueprint.token_types, width)
    norm("embeddings.norm", width)
    if width != hidden:
        linear("embeddings.projection", hidden, width)
    for i in blueprint.distinct:
        layer = blueprint.layers[i]
        attention, feed_forward, inner = f"layers.{i}.attention", f"layers.{i}.feed_forward", layer.heads * blueprint.head_width
        for part in PROJECTIONS if layer.compared else PROJECTIONS[2:] if layer.heads else ():
            linear(f"{attention}.{part}", inner, hidden)
        if layer.heads and layer.attention == "low-rank":
            shapes[f"{attention}.pooling"] = (layer.span, blueprint.positions)
        if layer.heads and layer.attention == "fixed":
            shapes[f"{attention}.pattern"] = (layer.heads, 2 * layer.span + 3)
        linear(f"{attention}.output", hidden, inner)
        norm(f"{attention}.norm", hidden)
        if layer.neurons:
            linear(f"{feed_forward}.up", layer.neurons, hidden)
        linear(f"{feed_forward}.down", hidden, layer.neurons)
        norm(f"{feed_forward}.norm", hidden)
    return shapes | {f"{head}.{name}": shape for head in blueprint.heads for name, shape in blueprint.head_shapes().items()}


def first_token_layers(blueprint: Blueprint, fused: bool = False) -> frozenset[str]:
    """The linear layers that the graph computes for the first token alone: of the last layer, where the head reads no other.

    The fused graph takes query, key and value together, so of all tokens, but where keys and values are of pooled rows; a layer that
    shares its weights computes all in another place.
    """
    end = len(blueprint.layers) - 1
    if not blueprint.head.first_only or not blueprint.layers or len(blueprint.sharing(blueprint.owner(end))) > 1:
        return frozenset()
    last = f"layers.{end}"
    together = fused and blueprint.layers[end].attention != "low-rank"
    names = ("attention.output", "feed_forward.up", "feed_forward.down", *(() if together else ("attention.query",)))
    return frozenset(f"{last}.{name}" for name in names)


def build_graph(
    network: Network,
    dialect: Dialect = "portable",
    *,
    int8: bool = False,
    ranges: Ranges | None = None,
    segments: bool = True,
    weight_bits: int = 8,
    float_layers: Collection[str] = (),
    states: tuple[bool, bool] = (False, False),
) -> onnx.ModelProto:
    """The ONNX model: input_ids, token_type_ids (where `segments`), attention_mask (portable) → logits.

    Args:
        ranges: needed for the portable int8 form.
        segments: whether there is a second text; without, the first token type is folded into the positions.
        weight_bits: 7 where the CPU adds pairs of u8·s8 products in 16 bits (no VNNI), which overflows with 8.
        float_layers: linear layers that int8 leaves as they are. The fused form takes query, key and value together: one
            of them in float keeps all three.
        states: of a segment: whether it begins with the `STATES` of the one before, in place of tokens, and whether it gives its own,
            besides its logits, to one behind.
    """
    head = network.blueprint.head
    if not head.graph:
        raise InputError(
            f"export: the head {head.name!r} is not supported; {', '.join(row.name for row in HEADS.values() if row.graph)} are"
        )
    if int8 and dialect == "portable" and ranges is None:
        raise InputError("export: the portable int8 form needs calibrated ranges")
    for name in float_layers:
        if f"{name}.weight" not in network.weights:
            raise InputError(
                f"export: the model has no linear layer {name!r} to leave in float; its names are like layers.0.attention.query"
            )
    left = FLOAT_ALWAYS.union(float_layers)
    if dialect == "fused":
        blocks = {name.rpartition(".")[0] for name in float_layers if name.endswith(PROJECTIONS)}
        left = left.union(f"{block}.{part}" for block in blocks for part in PROJECTIONS)
    emitter = _Emitter(network, dialect == "fused", int8, ranges or {}, segments, weight_bits, left, *states)
    return emitter.model()


@dataclass
class _Emitter:
    network: Network
    fused: bool
    int8: bool
    ranges: Ranges
    segments: bool
    weight_bits: int
    float_layers: frozenset[str]
    continues: bool = False
    goes_on: bool = False
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, NDArray[Any]] = field(default_factory=dict)
    made: dict[str, str] = field(default_factory=dict)
    """Names of values that several layers read, by what they are."""

    # -- pieces ----------------------------------------------------------------------------------------------

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """Add a node; returns the name of its output, or the list of them."""
        standard = {"LayerNormalization", "DynamicQuantizeLinear", "QuantizeLinear", "DequantizeLinear"}
        microsoft = kind.startswith(("Attention", "QAttention", "Skip", "Bias", "FastGelu", "DynamicQuantizeMatMul"))
        domain = MICROSOFT if (microsoft or kind == "Gelu") and kind not in standard else ""
        names = [f"{kind}_{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, name=names[0], domain=domain, **attributes))
        return names[0] if outputs == 1 else names

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """Add an initializer, once per name."""
        if name not in self.constants:
            self.constants[name] = value
        return name

    def shape(self, *sizes: int) -> str:
        return self.constant("shape_" + "_".join(map(str, sizes)), np.array(sizes, np.int64))

    def weight(self, name: str) -> NDArray[np.float32]:
        return self.network.weights[name]

    def rounded(self, name: str, w: NDArray[np.float32]) -> tuple[str, str, str]:
        """The names of q, S and zero of a matrix (inputs, outputs), rounded per output channel."""
        q, scale = symmetric(w, axis=1, bits=self.weight_bits)
        zero = np.zeros_like(scale, dtype=np.int8)
        return self.constant(f"{name}.q", q), self.constant(f"{name}.scale", scale), self.constant(f"{name}.zero", zero)

    def quantized(self, x: str, module: str) -> str:
        """x → Q → DQ with the calibrated range of `module`'s input, once per x."""
        name = f"{x}.dq"
        if not any(name in node.output for node in self.nodes):
            if module not in self.ranges:
                raise InputError(f"export: the portable int8 form needs the calibrated range of {module}, and there is none")
            scale, zero = affine(*self.ranges[module])
            s, z = self.constant(f"{x}.scale", np.array(scale)), self.constant(f"{x}.zero", np.array(zero))
            q = self.op("QuantizeLinear", x, s, z)
            self.nodes.append(helper.make_node("DequantizeLinear", [q, s, z], [name], name=name))
        return name

    def matmul(self, x: str, name: str, w: NDArray[np.float32], b: NDArray[np.float32] | None) -> str:
        """x · w + b in the form asked for; `name` is the module whose input range holds for x."""
        bias = None if b is None else self.constant(f"{name}.bias", b)
        if not self.int8 or name in self.float_layers:
            y: str = self.op("MatMul", x, self.constant(f"{name}.weight", w))
        elif self.fused:
            q, scale, zero = self.rounded(name, w)
            return str(self.op("DynamicQuantizeMatMul", x, q, scale, zero, bias or ""))
        else:
            q, scale, zero = self.rounded(name, w)
            y = self.op("MatMul", self.quantized(x, name), self.op("DequantizeLinear", q, scale, zero, axis=1))
        return y if bias is None else str(self.op("Add", y, bias))

    def linear(self, x: str, name: str) -> str:
        """The linear layer `name`; its weights are stored (outputs, inputs)."""
        return self.matmul(x, name, self.weight(f"{name}.weight").T, self.weight(f"{name}.bias"))

    def norm(self, x: str, name: str) -> str:
        scale, bias = (self.constant(f"{name}.{part}", self.weight(f"{name}.{part}")) for part in ("weight", "bias"))
        return str(self.op("LayerNormalization", x, scale, bias, axis=-1, epsilon=self.network.epsilon))

    def add_norm(self, x: str, y: str, name: str) -> str:
        """norm(x + y)."""
        if not self.fused:
            return self.norm(self.op("Add", x, y), name)
        scale, bias = (self.constant(f"{name}.{part}", self.weight(f"{name}.{part}")) for part in ("weight", "bias"))
        return str(self.op("SkipLayerNormalization", x, y, scale, bias, epsilon=self.network.epsilon))

    def add_bias_norm(self, x: str, block: str, output: str) -> str:
        """norm(x + b): a block without heads or neurons."""
        return self.norm(self.op("Add", x, self.constant(f"{output}.bias", self.weight(f"{output}.bias"))), f"{block}.norm")

    def activate(self, x: str, kind: str) -> str:
        if kind in GELU_ERF:
            if self.fused:
                return str(self.op("Gelu", x))
            half, one = self.constant("half", np.array(0.5, np.float32)), self.constant("one", np.array(1, np.float32))
            root = self.constant("root2", np.array(np.sqrt(2), np.float32))
            erf = self.op("Erf", self.op("Div", x, root))
            return str(self.op("Mul", self.op("Mul", x, self.op("Add", erf, one)), half))
        if kind in GELU_TANH:
            if self.fused:
                return str(self.op("FastGelu", x))
            return self._gelu_tanh(x)
        simple = {"relu": "Relu", "tanh": "Tanh"}
        if kind == "silu":
            return str(self.op("Mul", x, self.op("Sigmoid", x)))
        if kind == "quick_gelu":
            steep = self.constant("number_1.702", np.array(1.702, np.float32))
            return str(self.op("Mul", x, self.op("Sigmoid", self.op("Mul", x, steep))))
        if kind not in simple:
            allowed = ", ".join((*simple, "silu", "quick_gelu", *GELU_ERF, *GELU_TANH))
            raise InputError(f"export: the activation {kind!r} is not supported; one of {allowed} is")
        return str(self.op(simple[kind], x))

    def _gelu_tanh(self, x: str) -> str:
        def number(value: float) -> str:
            return self.constant(f"number_{value}", np.array(value, np.float32))

        cube = self.op("Mul", self.op("Mul", x, x), x)
        inner = self.op("Mul", self.op("Add", x, self.op("Mul", cube, number(0.044715))), number(float(np.sqrt(2 / np.pi))))
        return str(self.op("Mul", self.op("Mul", x, number(0.5)), self.op("Add", self.op("Tanh", inner), number(1.0))))

    # -- the encoder -----------------------------------------------------------------------------------------

    def model(self) -> onnx.ModelProto:
        """The whole graph."""
        blueprint, head = self.network.blueprint, self.network.blueprint.head
        x = STATES if self.continues else self.embeddings()
        if self.continues:
            self.made["length"] = self.op("Slice", self.op("Shape", STATES), self.shape(1), self.shape(2))
        tokens = Tokens(self.made["length"]) if self.fused else masked(self, "attention_mask", self.made["length"])
        for i in range(len(blueprint.layers)):
            first_only = head.first_only and not self.goes_on and i == len(blueprint.layers) - 1
            x, tokens = self.attention(x, i, tokens, first_only)
            x = self.feed_forward(x, i)
        handed_on = self.op("Identity", x) if self.goes_on else ""
        if head.first_only and (self.goes_on or not blueprint.layers):
            x = self.first(x)
        logits = resolved(head.graph, {}, f"head {head.name}", imports=True)(self, x)
        if logits != self.nodes[-1].output[0]:  # the head computes more after them
            self.op("Identity", logits)
        self.nodes[-1].output[0] = "logits"

        shape: list[str | int] = ["batch", "length"]
        named = ["input_ids", *(["token_type_ids"] if self.takes_segments else [])]
        inputs = [*([] if self.continues else named), *([] if self.fused else ["attention_mask"])]
        states = [*shape, blueprint.hidden]
        answers = [*(shape[:1] if head.answers == "text" else shape), blueprint.outputs]
        port = helper.make_tensor_value_info
        graph = helper.make_graph(
            self.nodes,
            "penjing",
            [*([port(STATES, TensorProto.FLOAT, states)] if self.continues else []), *(port(n, TensorProto.INT64, shape) for n in inputs)],
            [port("logits", TensorProto.FLOAT, answers), *([port(handed_on, TensorProto.FLOAT, states)] if self.goes_on else [])],
        )
        opsets = [helper.make_opsetid("", 17), *([helper.make_opsetid(MICROSOFT, 1)] if self.fused else [])]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=8, producer_name="penjing")
        for name, value in self.constants.items():  # last, one by one: in memory they are the most of it, and the calls above copy
            model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return model

    @property
    def takes_segments(self) -> bool:
        return self.segments and self.network.blueprint.token_types > 1

    def table(self, name: str, indices: str) -> str:
        """Rows of an embedding table; in int8 each row has a scale of its own."""
        w = self.weight(f"{name}.weight")
        if not self.int8 or name != "embeddings.word":
            return str(self.op("Gather", self.constant(f"{name}.weight", w), indices))
        q, scale = symmetric(w, axis=0)
        rows = self.op("Cast", self.op("Gather", self.constant(f"{name}.q", q), indices), to=TensorProto.FLOAT)
        return str(self.op("Mul", rows, self.op("Gather", self.constant(f"{name}.scale", scale[:, None]), indices)))

    def embeddings(self) -> str:
        """input_ids → (batch, length, hidden)."""
        blueprint = self.network.blueprint
        position = self.weight("embeddings.position.weight")
        if blueprint.token_types and not self.takes_segments and not blueprint.position_rank:
            position = position + self.weight("embeddings.token_type.weight")[0]
        zero, one, two = (self.shape(i) for i in range(3))
        length = self.made["length"] = self.op("Slice", self.op("Shape", "input_ids"), one, two)
        x = self.table("embeddings.word", "input_ids")
        if blueprint.rank:
            x = self.matmul(x, "embeddings.word_map", self.weight("embeddings.word_map.weight").T, None)
        rows = self.op("Slice", self.constant("embeddings.position", position), zero, length, zero)
        if blueprint.position_rank:
            first = self.weight("embeddings.token_type.weight")[0] if blueprint.token_types and not self.takes_segments else None
            rows = self.op("MatMul", rows, self.constant("embeddings.position_map", self.weight("embeddings.position_map").T))
            rows = rows if first is None else self.op("Add", rows, self.constant("embeddings.token_type", first))
        x = self.op("Add", x, rows)
        if self.takes_segments:
            x = self.op("Add", x, self.table("embeddings.token_type", "token_type_ids"))
        x = self.norm(x, "embeddings.norm")
        return x if blueprint.embedding == blueprint.hidden else self.linear(x, "embeddings.projection")

    def first(self, x: str) -> str:
        """(batch, length, hidden) → (batch, 1, hidden)."""
        return str(self.op("Slice", x, self.shape(0), self.shape(1), self.shape(1)))

    def attention(self, x: str, i: int, tokens: Tokens, first_only: bool) -> tuple[str, Tokens]:
        """The attention block of layer i, residual and norm included, and the tokens that go on; with `first_only`, of the first token."""
        block, layer = f"layers.{self.network.blueprint.owner(i)}.attention", self.network.blueprint.layers[i]
        rows = self.first(x) if first_only else x
        if not layer.heads:
            return self.add_bias_norm(rows, block, f"{block}.output"), tokens
        # The first token sees all through a window, and no token follows it.
        if (
            self.fused
            and (layer.attention == "full" or (layer.attention == "window" and first_only))
            and (first_only or layer.tokens == 100)
        ):
            context = self.fused_context(x, block, layer.heads)
            context = self.first(context) if first_only else context
        else:
            attending = Attending(self, block, layer, tokens)
            if layer.tokens < 100 and not first_only:
                rows, context, tokens = attending.of_those_left(x)
            else:
                context = attending.context(x, rows)
        return self.add_norm(rows, self.linear(context, f"{block}.output"), f"{block}.norm"), tokens

    def fused_context(self, x: str, block: str, heads: int) -> str:
        w = np.concatenate([self.weight(f"{block}.{part}.weight").T for part in PROJECTIONS], axis=1)
        b = self.constant(f"{block}.qkv.bias", np.concatenate([self.weight(f"{block}.{part}.bias") for part in PROJECTIONS]))
        if not self.int8 or f"{block}.query" in self.float_layers:
            return str(self.op("Attention", x, self.constant(f"{block}.qkv.weight", w), b, num_heads=heads))
        xq, xs, xz = self.op("DynamicQuantizeLinear", x, outputs=3)
        q, scale, zero = self.rounded(f"{block}.qkv", w)
        return str(self.op("QAttention", xq, q, b, xs, scale, "", xz, zero, num_heads=heads))

    def feed_forward(self, x: str, i: int) -> str:
        """The feed-forward block of layer i, residual and norm included."""
        block, layer = f"layers.{self.network.blueprint.owner(i)}.feed_forward", self.network.blueprint.layers[i]
        if not layer.neurons:
            return self.add_bias_norm(x, block, f"{block}.down")
        activation = layer.activation or self.network.activation
        if self.fused and activation in GELU_ERF:
            bias = self.constant(f"{block}.up.bias", self.weight(f"{block}.up.bias"))
            y = self.op("BiasGelu", self.matmul(x, f"{block}.up", self.weight(f"{block}.up.weight").T, None), bias)
        else:
            y = self.activate(self.linear(x, f"{block}.up"), activation)
        return self.add_norm(x, self.linear(y, f"{block}.down"), f"{block}.norm")
