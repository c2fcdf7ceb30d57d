"""Building a model from a blueprint, and the blueprint of a model."""

from dataclasses import replace
from typing import Any

from penjing.blueprint import HEADS, Blueprint, Head, head_named
from penjing.errors import InputError
from penjing.files.references import resolved
from penjing.model.fields import blueprint_of_fields, fields_of
from penjing.model.modeling_penjing import PenjingConfig, PenjingPreTrainedModel

_MADE_ANEW = ("architectures", "auto_map", "head", "num_hidden_layers", "transformers_version")
"""Fields of a configuration that a new model says itself."""


def model_class_of(head: Head | str) -> type[PenjingPreTrainedModel]:
    """The class of the models that have this head."""
    head = head_named(head)
    network = resolved(head.network, {}, f"head {head.name}", imports=True)
    if not isinstance(network, type) or not issubclass(network, PenjingPreTrainedModel):
        raise InputError(f"head {head.name}: {head.network} is no network; give a class that is a PenjingPreTrainedModel")
    return network


def head_of_model(model: PenjingPreTrainedModel) -> Head:
    """The head of a model of ours."""
    own = getattr(model.config, "head", None)
    if own is not None:
        return head_named(own)
    return next(head for head in HEADS.values() if isinstance(model, model_class_of(head)))


def outputs_of(head: Head, labels: int) -> int:
    """The outputs of a head, where there are so many labels."""
    return labels if head.outputs is None else head.outputs


def blueprint_of(model: PenjingPreTrainedModel) -> Blueprint:
    """The blueprint of a model of ours."""
    head = head_of_model(model)
    return blueprint_of_fields(model.config, head, outputs_of(head, model.config.num_labels or 0))


def build(blueprint: Blueprint, like: PenjingConfig | None = None, **changes: Any) -> PenjingPreTrainedModel:
    """A model of this blueprint with fresh weights; everything that is no size is taken from `like`."""
    fields = {name: value for name, value in (like or PenjingConfig()).to_dict().items() if name not in _MADE_ANEW}
    fields |= fields_of(blueprint)
    if blueprint.outputs and blueprint.outputs != len(fields.get("id2label") or {}):
        fields.pop("id2label", None)
        fields.pop("label2id", None)
        fields["num_labels"] = blueprint.outputs
    if blueprint.head.own:
        fields["head"] = blueprint.head.name
    model = model_class_of(blueprint.head)(PenjingConfig(**(fields | changes))).eval()
    if blueprint.head.own:
        _check_parameters(model, blueprint)
    return model


def with_exits(model: PenjingPreTrainedModel, exits: tuple[int, ...]) -> PenjingPreTrainedModel:
    """A new model of the same weights with these exits; a new one begins with the weights of the last head."""
    before = blueprint_of(model)
    after = replace(before, exits=exits)
    old = dict(zip(before.exits, before.heads[1:], strict=True))
    sources = ["head", *(old.get(layer, "head") for layer in exits)]
    state = model.state_dict()
    heads = {
        f"{new}.{name}": state[f"{source}.{name}"]
        for new, source in zip(after.heads, sources, strict=True)
        for name in before.head_shapes()
    }
    result = build(after, model.config)
    result.load_state_dict({name: value for name, value in state.items() if not name.startswith("exits.")} | heads)
    return result


def _check_parameters(model: PenjingPreTrainedModel, blueprint: Blueprint) -> None:
    """An `InputError` where a network's head has other parameters than its row says: they would be counted and cut wrongly."""
    state = {name: tuple(value.shape) for name, value in model.state_dict().items() if not name.startswith("encoder.")}
    expected = {f"{head}.{name}": shape for head in blueprint.heads for name, shape in blueprint.head_shapes().items()}
    for name in sorted(state.keys() | expected):
        if state.get(name) != expected.get(name):
            raise InputError(
                f"head {blueprint.head.name}: {name} is {state.get(name, 'not there')} in its network, and its row says"
                f" {expected.get(name, 'that there is none')}; correct `parameters`, or the network"
            )
