"""The exact cut of a model to a selection. No data is needed, and no input is modified."""

import torch
from torch import Tensor

from penjing.blueprint import Blueprint, Head
from penjing.errors import InputError
from penjing.files.whole import Json
from penjing.model.building import blueprint_of, build
from penjing.model.modeling_penjing import PenjingConfig, PenjingPreTrainedModel
from penjing.selection import Index, Selection

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
    "attention.pattern": ("whole heads", ""),
    "attention.pooling": ("rows", ""),
    "attention.output.weight": ("hidden", "heads"),
    "feed_forward.up.weight": ("neurons", "hidden"),
    "feed_forward.up.bias": ("neurons",),
    "feed_forward.down.weight": ("hidden", "neurons"),
    **{f"{part}.bias": ("hidden",) for part in ("attention.output", "attention.norm", "feed_forward.down", "feed_forward.norm")},
    **{f"{part}.norm.weight": ("hidden",) for part in ("attention", "feed_forward")},
}
"""What the axes of each parameter count, by its name within the encoder, the layer, or the model."""
_RANK_AXES: dict[str, tuple[str, ...]] = {"embeddings.word.weight": ("tokens", ""), "embeddings.word_map.weight": ("embedding", "")}
"""The same where the word table has a rank: no cut changes that."""
_POSITION_AXES: dict[str, tuple[str, ...]] = {"embeddings.position.weight": (), "embeddings.position_map": ("embedding",)}
"""The same where the position table has one."""
_HEAD_AXES = {"hidden": "hidden", "embedding": "embedding", "vocabulary": "tokens"}
"""The sizes of a head's parameters that a cut changes, and what they count."""


def _axes_of(head: Head) -> dict[str, tuple[str, ...]]:
    """The axes of each parameter of a head, by name."""
    return {f"head.{parameter.name}": tuple(_HEAD_AXES.get(str(axis), "") for axis in parameter.axes) for parameter in head.parameters}


def slice_state(state: dict[str, Tensor], blueprint: Blueprint, selection: Selection) -> dict[str, Tensor]:
    """The state dict cut to a selection (names as in modeling_penjing.py, with or without `encoder.` in front)."""
    prefix = "" if blueprint.head.bare else "encoder."
    owners = selection.owners(blueprint)
    places = {blueprint.owner(selection.layers[new].layer): (new, selection.layers[new]) for new in set(owners)}
    axes = _AXES | (_RANK_AXES if blueprint.rank else {}) | (_POSITION_AXES if blueprint.position_rank else {}) | _axes_of(blueprint.head)
    shared = blueprint.embedding == blueprint.hidden
    exits = {old: new for new, old in enumerate(selection.exits(blueprint).values())}
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
            index |= {"whole heads": kept.heads, "rows": None if kept.heads else ()}
        elif part.startswith("exits."):
            _, number, part = part.split(".", 2)
            if int(number) not in exits:
                continue
            new_name, part = f"exits.{exits[int(number)]}.{part}", f"head.{part}"
        for axis, counts in enumerate(axes.get(part, ())):
            chosen = index.get(counts)
            if chosen is not None:
                value = value.index_select(axis, torch.tensor(chosen, dtype=torch.long, device=value.device))
        if value.shape[:1] != (0,):  # a layer without heads has no query or pooling, one without neurons no up
            result[new_name] = value.clone()
    return result


def _rows(heads: Index, width: int) -> Index:
    """The features of these heads."""
    return tuple(head * width + i for head in heads for i in range(width))


_TOKEN_FIELDS = ("pad_token_id", "bos_token_id", "eos_token_id", "sep_token_id", "cls_token_id", "mask_token_id")


def cut(model: PenjingPreTrainedModel, selection: Selection) -> PenjingPreTrainedModel:
    """A new model cut to a selection; its logits are those of the old one with the rest masked to zero.

    Where tokens go, the padding must stay. The tokens that the configuration names get their new numbers there; one that is
    gone is None.
    """
    blueprint = blueprint_of(model)
    config = model.config
    plan = selection.plan(blueprint)
    result = build(plan, config, **_renumbered(config, selection.tokens))
    result.load_state_dict(slice_state(model.state_dict(), blueprint, selection), strict=True)
    result.train(model.training)
    return result


def copy_of(model: PenjingPreTrainedModel) -> PenjingPreTrainedModel:
    """A model with the same weights, in eval mode, with the dropout that its configuration says."""
    result = type(model)(model.config)
    result.load_state_dict(model.state_dict())
    return result.eval()


def _renumbered(config: PenjingConfig, tokens: Index | None) -> Json:
    """The configuration's fields that hold a token's number, counted in what is kept."""
    if tokens is None:
        return {}
    new = {old: i for i, old in enumerate(tokens)}

    def fields(given: Json) -> Json:
        named = {name: given[name] for name in _TOKEN_FIELDS if isinstance(given.get(name), int)}
        for name, old in named.items():
            if name == "pad_token_id" and old not in new:
                raise InputError(f"selection: token {old}, the padding, is not kept; keep it")
        return {name: new.get(old) for name, old in named.items()}

    return fields(config.to_dict()) | {"origin": config.origin | fields(config.origin)}
