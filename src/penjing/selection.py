"""Which: the heads, neurons, layers, hidden units and tokens that are kept."""

from dataclasses import dataclass, replace

from penjing.blueprint import Blueprint
from penjing.errors import InputError
from penjing.files.whole import Json

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

    def to_dict(self) -> Json:
        """A JSON object; each layer as `[layer, heads, neurons]`."""
        layers = [[kept.layer, list(kept.heads), list(kept.neurons)] for kept in self.layers]
        return {"layers": layers, "hidden": self.hidden, "tokens": self.tokens}

    @classmethod
    def from_dict(cls, fields: Json) -> "Selection":
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
        sizes = [(len(kept.heads), len(kept.neurons)) for kept in self.layers]
        owners = self.owners(blueprint)
        result = blueprint.with_layers(
            tuple(
                replace(blueprint.layers[kept.layer], heads=heads, neurons=neurons, shares=None if owner == new else owner)
                for new, (kept, (heads, neurons), owner) in enumerate(zip(self.layers, sizes, owners, strict=True))
            )
        )
        result = replace(result, exits=tuple(self.exits(blueprint)))
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
            if blueprint.head.pooled:
                result = replace(result, pooled=blueprint.pooled_width if blueprint.pooled_width != width else 0)
        return result

    def owners(self, blueprint: Blueprint) -> tuple[int, ...]:
        """For each kept layer the new number of the one that has its weights: the first that is kept of those that share them.

        Raises:
            InputError: two that share their weights keep different heads or neurons.
        """
        first: dict[int, int] = {}
        result = []
        for new, kept in enumerate(self.layers):
            owner = first.setdefault(blueprint.owner(kept.layer), new)
            whole = self.layers[owner]
            if (kept.heads, kept.neurons) != (whole.heads, whole.neurons):
                raise InputError(
                    f"selection: layers {whole.layer} and {kept.layer} share their weights; keep the same heads and neurons of both"
                )
            result.append(owner)
        return tuple(result)

    def exits(self, blueprint: Blueprint) -> dict[int, int]:
        """The exits that are left: where each stands now, and its number among those of the blueprint.

        An exit stays behind the layers that ran before it. Where two then stand at one place, the later stays; where none of those layers
        is left, or all that are left, it goes.
        """
        places = [sum(kept.layer < layer for kept in self.layers) for layer in blueprint.exits]
        return {place: number for number, place in enumerate(places) if 0 < place < len(self.layers)}

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
