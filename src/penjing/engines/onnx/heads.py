"""What the task heads add to an ONNX graph: functions that `Head.graph` refers to.

Each takes the emitter of the graph and the name of the encoder's states, (batch, length, hidden), or (batch, 1, hidden) where the head
reads the first token alone. It adds its nodes, and gives the name of the logits: (batch, outputs) where a text has one answer, else
(batch, length, outputs).
"""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from penjing.engines.network import Network


class Emitter(Protocol):
    """The graph that is being written."""

    network: Network
    fused: bool
    """Whether there is no attention mask: the texts of a batch are equally long. Else `attention_mask` (batch, length) is an input."""

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """Add a node; the name of its output, or the list of them."""

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """Add an initializer, once per name."""

    def shape(self, *sizes: int) -> str:
        """The constant of these integers."""

    made: dict[str, str]
    """Names of values that several layers read, by what they are."""

    def weight(self, name: str) -> NDArray[np.float32]:
        """The weight of this name."""

    def matmul(self, x: str, name: str, w: NDArray[np.float32], b: NDArray[np.float32] | None) -> str:
        """x · w + b, rounded as the graph's form says; `name`: the linear layer whose input x is."""

    def linear(self, x: str, name: str) -> str:
        """The linear layer of this name, rounded as the graph's form says."""

    def activate(self, x: str, kind: str) -> str:
        """The activation of this name."""


def first_token(emitter: Emitter, states: str) -> str:
    """A dense layer on the first token, an activation and a linear layer: (batch, 1, hidden) → (batch, outputs)."""
    network = emitter.network
    x = emitter.op("Reshape", states, emitter.shape(-1, network.blueprint.hidden))
    x = emitter.activate(emitter.linear(x, "head.dense"), network.head_activation)
    return emitter.linear(x, "head.out")


def each_token(emitter: Emitter, states: str) -> str:
    """One linear layer on every token: (batch, length, hidden) → (batch, length, outputs)."""
    return emitter.linear(states, "head.out")
