"""Which: the heads, neurons and layers that are kept, and the exact cut. No data is needed, and no input is modified."""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from penjing.blueprint import Blueprint, Layer
from penjing.checkpoint import blueprint_of, build
from penjing.errors import InputError
from penjing.modeling_penjing import PenjingConfig, PenjingPreTrainedModel

Index = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LayerSelection:
    """What is kept of one layer: its number, and the numbers of its heads and neurons, ascending."""

    layer: int
    heads: Index
    neurons: Index


@dataclass(frozen=True, slots=True)
class Selection:
    """What is kept of an encoder, layer by layer, in order."""

    layers: tuple[LayerSelection, ...]

    @classmethod
    def all(cls, blueprint: Blueprint) -> "Selection":
        """Everything: the identity of `then`, and of `cut`."""
        return cls(
            tuple(LayerSelection(i, tuple(range(layer.heads)), tuple(range(layer.neurons))) for i, layer in enumerate(blueprint.layers))
        )

    def to_list(self) -> list[list[Any]]:
        """JSON: `[layer, heads, neurons]` of each layer."""
        return [[kept.layer, list(kept.heads), list(kept.neurons)] for kept in self.layers]

    @classmethod
    def from_list(cls, fields: list[list[Any]]) -> "Selection":
        """Read `to_list`'s lists."""
        return cls(tuple(LayerSelection(layer, tuple(heads), tuple(neurons)) for layer, heads, neurons in fields))

    def plan(self, blueprint: Blueprint) -> Blueprint:
        """The blueprint that is left."""
        for kept in self.layers:
            if not 0 <= kept.layer < len(blueprint.layers):
                raise InputError(f"selection: layer {kept.layer} of {len(blueprint.layers)} does not exist")
            whole = blueprint.layers[kept.layer]
            _check("head", kept.heads, whole.heads)
            _check("neuron", kept.neurons, whole.neurons)
        _check("layer", tuple(kept.layer for kept in self.layers), len(blueprint.layers))
        return blueprint.with_layers(tuple(Layer(len(kept.heads), len(kept.neurons)) for kept in self.layers))

    def then(self, later: "Selection") -> "Selection":
        """This selection followed by `later`, which counts in what this one leaves."""
        return Selection(
            tuple(
                LayerSelection(
                    self.layers[kept.layer].layer,
                    tuple(self.layers[kept.layer].heads[i] for i in kept.heads),
                    tuple(self.layers[kept.layer].neurons[i] for i in kept.neurons),
                )
                for kept in later.layers
            )
        )


def _check(what: str, kept: Index, count: int) -> None:
    if list(kept) != sorted(set(kept)) or any(not 0 <= i < count for i in kept):
        raise InputError(f"selection: {what} numbers must ascend within 0 … {count - 1}, got {list(kept)[:8]}")


def slice_state(state: dict[str, Tensor], blueprint: Blueprint, selection: Selection) -> dict[str, Tensor]:
    """The state dict of what is kept (names as in modeling_penjing.py, with or without `encoder.` in front)."""
    prefix = "" if blueprint.head == "none" else "encoder."
    result = {name: value for name, value in state.items() if not name.startswith(f"{prefix}layers.")}
    for new, kept in enumerate(selection.layers):
        heads = torch.tensor(kept.heads, dtype=torch.long)
        rows = (heads[:, None] * blueprint.head_width + torch.arange(blueprint.head_width)).flatten()
        neurons = torch.tensor(kept.neurons, dtype=torch.long)
        old = f"{prefix}layers.{kept.layer}."
        for name, value in state.items():
            if not name.startswith(old):
                continue
            part = name.removeprefix(old)
            module = part.rsplit(".", 1)[0]
            if module in ("attention.query", "attention.key", "attention.value"):
                value = value[rows]
            elif part == "attention.output.weight":
                value = value[:, rows]
            elif module == "feed_forward.up":
                value = value[neurons]
            elif part == "feed_forward.down.weight":
                value = value[:, neurons]
            if value.shape[0]:
                result[f"{prefix}layers.{new}.{part}"] = value.clone()
    return result


def cut(model: PenjingPreTrainedModel, selection: Selection) -> PenjingPreTrainedModel:
    """A new model with what is kept; the logits are those of the old one with the rest masked to zero."""
    blueprint, config = blueprint_of(model), cast(PenjingConfig, model.config)
    result = build(selection.plan(blueprint), config)
    result.load_state_dict(slice_state(model.state_dict(), blueprint, selection), strict=True)
    result.train(model.training)
    return result
