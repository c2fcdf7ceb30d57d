"""Which: the heads, neurons, layers, hidden units and tokens that are kept, the exact cut, and the word table in two factors.

No data is needed, and no input is modified.
"""

from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from penjing.blueprint import Blueprint, Layer
from penjing.checkpoint import blueprint_of, build
from penjing.errors import InputError
from penjing.maths.lowrank import low_rank
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
    """What is kept of an encoder: layer by layer, in order; of the hidden units and of the tokens, None for all of them.

    Where some of the hidden units go, a norm is taken over those that are left (Xia et al. 2022, CoFi, section 3.1).
    """

    layers: tuple[LayerSelection, ...]
    hidden: Index | None = None
    tokens: Index | None = None

    @classmethod
    def all(cls, blueprint: Blueprint) -> "Selection":
        """Everything: the identity of `then`, and of `cut`."""
        return cls(
            tuple(LayerSelection(i, tuple(range(layer.heads)), tuple(range(layer.neurons))) for i, layer in enumerate(blueprint.layers))
        )

    def to_dict(self) -> dict[str, Any]:
        """A JSON object; each layer as `[layer, heads, neurons]`."""
        layers = [[kept.layer, list(kept.heads), list(kept.neurons)] for kept in self.layers]
        return {"layers": layers, "hidden": self.hidden, "tokens": self.tokens}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "Selection":
        """Read `to_dict`'s object."""
        layers = tuple(LayerSelection(layer, tuple(heads), tuple(neurons)) for layer, heads, neurons in fields["layers"])
        hidden, tokens = (None if fields[name] is None else tuple(fields[name]) for name in ("hidden", "tokens"))
        return cls(layers, hidden, tokens)

    def plan(self, blueprint: Blueprint) -> Blueprint:
        """The blueprint that is left."""
        for kept in self.layers:
            if not 0 <= kept.layer < len(blueprint.layers):
                raise InputError(f"selection: layer {kept.layer} of {len(blueprint.layers)} does not exist")
            whole = blueprint.layers[kept.layer]
            _check("head", kept.heads, whole.heads)
            _check("neuron", kept.neurons, whole.neurons)
        _check("layer", tuple(kept.layer for kept in self.layers), len(blueprint.layers))
        result = blueprint.with_layers(tuple(Layer(len(kept.heads), len(kept.neurons)) for kept in self.layers))
        if self.tokens is not None:
            _check("token", self.tokens, blueprint.vocabulary)
            result = replace(result, vocabulary=len(self.tokens))
        if self.hidden is not None and len(self.hidden) < blueprint.hidden:
            _check("hidden", self.hidden, blueprint.hidden)
            width = len(self.hidden)
            if blueprint.embedding != blueprint.hidden:
                if width == blueprint.embedding:
                    raise InputError(
                        f"selection: {width} hidden units is the width of the embedding, which a linear map joins; keep one more or less"
                    )
                result = replace(result, hidden=width)
            else:
                result = replace(result, hidden=width, embedding=width)
            if blueprint.head == "sequence":
                result = replace(result, pooled=blueprint.pooled_width if blueprint.pooled_width != width else 0)
        return result

    def then(self, later: "Selection") -> "Selection":
        """This selection followed by `later`, which counts in what this one leaves."""
        layers = tuple(
            LayerSelection(
                self.layers[kept.layer].layer,
                tuple(self.layers[kept.layer].heads[i] for i in kept.heads),
                tuple(self.layers[kept.layer].neurons[i] for i in kept.neurons),
            )
            for kept in later.layers
        )
        return Selection(layers, _then(self.hidden, later.hidden), _then(self.tokens, later.tokens))


def _then(first: Index | None, later: Index | None) -> Index | None:
    return later if first is None else first if later is None else tuple(first[i] for i in later)


def _check(what: str, kept: Index, count: int) -> None:
    if list(kept) != sorted(set(kept)) or any(not 0 <= i < count for i in kept):
        raise InputError(f"selection: {what} numbers must ascend within 0 … {count - 1}, got {list(kept)[:8]}")


_AXES: dict[str, tuple[str, ...]] = {
    "embeddings.word.weight": ("tokens", "embedding"),
    "embeddings.position.weight": ("", "embedding"),
    "embeddings.token_type.weight": ("", "embedding"),
    "embeddings.norm.weight": ("embedding",),
    "embeddings.norm.bias": ("embedding",),
    "embeddings.projection.weight": ("hidden", ""),
    "embeddings.projection.bias": ("hidden",),
    **{f"attention.{part}.weight": ("heads", "hidden") for part in ("query", "key", "value")},
    **{f"attention.{part}.bias": ("heads",) for part in ("query", "key", "value")},
    "attention.output.weight": ("hidden", "heads"),
    "feed_forward.up.weight": ("neurons", "hidden"),
    "feed_forward.up.bias": ("neurons",),
    "feed_forward.down.weight": ("hidden", "neurons"),
    **{f"{part}.bias": ("hidden",) for part in ("attention.output", "attention.norm", "feed_forward.down", "feed_forward.norm")},
    **{f"{part}.norm.weight": ("hidden",) for part in ("attention", "feed_forward")},
    "head.out.weight": ("", "hidden"),
}
"""What the axes of each parameter count, by its name within the encoder, the layer, or the model."""
_RANK_AXES: dict[str, tuple[str, ...]] = {"embeddings.word.weight": ("tokens", ""), "embeddings.word_map.weight": ("embedding", "")}
"""The same where the word table has a rank: no cut changes that."""
_HEAD_AXES: dict[str, dict[str, tuple[str, ...]]] = {
    "sequence": {"head.dense.weight": ("", "hidden"), "head.out.weight": ("", "")},
    "masked": {
        "head.dense.weight": ("embedding", "hidden"),
        **dict.fromkeys(("head.dense.bias", "head.norm.weight", "head.norm.bias"), ("embedding",)),
        "head.bias": ("tokens",),
    },
}


def slice_state(state: dict[str, Tensor], blueprint: Blueprint, selection: Selection) -> dict[str, Tensor]:
    """The state dict of what is kept (names as in modeling_penjing.py, with or without `encoder.` in front)."""
    prefix = "" if blueprint.head == "none" else "encoder."
    places = {kept.layer: (new, kept) for new, kept in enumerate(selection.layers)}
    axes = _AXES | (_RANK_AXES if blueprint.rank else {}) | _HEAD_AXES.get(blueprint.head, {})
    shared = blueprint.embedding == blueprint.hidden
    result = {}
    for name, value in state.items():
        index = {"hidden": selection.hidden, "tokens": selection.tokens, "embedding": selection.hidden if shared else None}
        part, new_name = name.removeprefix(prefix), name
        if part.startswith("layers."):
            _, number, part = part.split(".", 2)
            if int(number) not in places:
                continue
            new, kept = places[int(number)]
            new_name = f"{prefix}layers.{new}.{part}"
            index |= {"neurons": kept.neurons, "heads": _rows(kept.heads, blueprint.head_width)}
        for axis, counts in enumerate(axes.get(part, ())):
            chosen = index.get(counts)
            if chosen is not None:
                value = value.index_select(axis, torch.tensor(chosen, dtype=torch.long, device=value.device))
        if value.shape[0]:  # a layer without heads has no query, one without neurons no up
            result[new_name] = value.clone()
    return result


def _rows(heads: Index, width: int) -> Index:
    """The features of these heads."""
    return tuple(head * width + i for head in heads for i in range(width))


_TOKEN_FIELDS = ("pad_token_id", "bos_token_id", "eos_token_id", "sep_token_id", "cls_token_id", "mask_token_id")


def cut(model: PenjingPreTrainedModel, selection: Selection) -> PenjingPreTrainedModel:
    """A new model with what is kept; the logits are those of the old one with the rest masked to zero.

    Where tokens go, the padding must stay. The tokens that the configuration names get their new numbers there; one that is
    gone is None.
    """
    blueprint, config = blueprint_of(model), cast(PenjingConfig, model.config)
    plan = selection.plan(blueprint)
    result = build(plan, config, **_renumbered(config, selection.tokens))
    result.load_state_dict(slice_state(model.state_dict(), blueprint, selection), strict=True)
    result.train(model.training)
    return result


@torch.no_grad()
def factorise(model: PenjingPreTrainedModel, rank: int, weights: Tensor | None = None) -> PenjingPreTrainedModel:
    """A new model whose word table is a product (V, rank) · (rank, E): of all of that rank the nearest, and at rank E exact.

    weights: (V,), how much the squared error of each token's row counts, for example how often texts hold it; None: all the same
    (Acharya et al. 2019; Hsu et al. 2022, FWSVD). A table that has a rank already is multiplied out first.
    """
    blueprint, embeddings = blueprint_of(model), cast(Any, model.base_model).embeddings
    if not 1 <= rank <= blueprint.embedding:
        raise InputError(f"rank: {rank} is not allowed; the embedding is {blueprint.embedding} wide, so give 1 to {blueprint.embedding}")
    if weights is not None and (weights.shape != (blueprint.vocabulary,) or not bool((weights >= 0).all())):
        raise InputError(f"rank: weights of shape {tuple(weights.shape)}; give {blueprint.vocabulary}, one a token, none negative")
    table: Tensor = embeddings.word.weight
    if embeddings.word_map is not None:
        table = table @ embeddings.word_map.weight.T
    factors = low_rank(table, table.new_ones(len(table)) if weights is None else weights.to(table.device), rank)
    place = "embeddings" if blueprint.head == "none" else "encoder.embeddings"
    result = build(replace(blueprint, rank=rank), cast(PenjingConfig, model.config))
    result.load_state_dict(model.state_dict() | {f"{place}.word.weight": factors[0], f"{place}.word_map.weight": factors[1].T})
    return result.train(model.training)


def copy_of(model: PenjingPreTrainedModel) -> PenjingPreTrainedModel:
    """A model with the same weights, in eval mode, with the dropout that its configuration says."""
    result = type(model)(model.config)
    result.load_state_dict(model.state_dict())
    return result.eval()


def _renumbered(config: PenjingConfig, tokens: Index | None) -> dict[str, Any]:
    """The configuration's fields that hold a token's number, counted in what is kept."""
    if tokens is None:
        return {}
    new = {old: i for i, old in enumerate(tokens)}

    def fields(given: dict[str, Any]) -> dict[str, Any]:
        named = {name: given[name] for name in _TOKEN_FIELDS if isinstance(given.get(name), int)}
        for name, old in named.items():
            if name == "pad_token_id" and old not in new:
                raise InputError(f"selection: token {old}, the padding, is not kept; keep it")
        return {name: new.get(old) for name, old in named.items()}

    return fields(config.to_dict()) | {"origin": config.origin | fields(config.origin)}
