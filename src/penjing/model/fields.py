"""The fields of a configuration that a blueprint gives: one table for our own format, and one for what the families' configurations say.

Everything that turns a blueprint into a configuration or back reads these tables: building a model, looking at one, and reading and
writing both formats.
"""

from collections.abc import Mapping
from typing import Any

from penjing.blueprint import Blueprint, Head, Layer
from penjing.files.whole import Json
from penjing.model.families import Family
from penjing.model.modeling_penjing import PenjingConfig

FIELDS = {
    "vocabulary": "vocab_size",
    "positions": "max_position_embeddings",
    "token_types": "type_vocab_size",
    "embedding": "embedding_size",
    "hidden": "hidden_size",
    "head_width": "head_width",
    "layers": "layers",
    "pooled": "pooled_size",
    "rank": "embedding_rank",
    "exits": "exits",
    "position_rank": "position_rank",
}
"""A blueprint's fields, as `Blueprint.to_dict` gives them, and the fields of `PenjingConfig` that hold the same."""
FUNCTIONS = {
    "activation": "hidden_act",
    "eps": "layer_norm_eps",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
}
"""What is computed, by its name in `Family.config`, and the field of `PenjingConfig` that holds the same."""
EPSILON = 1e-12
"""The norms' epsilon of a family whose configuration names none."""


# -- our own format ----------------------------------------------------------------------------------------------


def fields_of(blueprint: Blueprint) -> Json:
    """The fields of `PenjingConfig` for the sizes of a blueprint."""
    content: Json = {"exits": [], "position_rank": 0} | blueprint.to_dict()
    return {ours: content[name] for name, ours in FIELDS.items()}


def blueprint_of_fields(config: PenjingConfig, head: Head, outputs: int) -> Blueprint:
    """The blueprint of a `PenjingConfig`; an `InputError` where a size is no integer. A head that answers no text has no exits."""
    sizes = {name: getattr(config, ours) for name, ours in FIELDS.items()}
    none: Json = {} if head.answers == "text" else {"exits": []}
    return Blueprint.from_dict(sizes | none | {"head": head, "outputs": outputs})


# -- the families' -----------------------------------------------------------------------------------------------


def family_fields(blueprint: Blueprint, config: PenjingConfig, family: Family, unread: int) -> Json:
    """The fields of a family's configuration for a blueprint, which must be uniform, and for the functions of `config`.

    unread: rows of the position table before the first that a token reads.
    """
    values = {name: getattr(config, ours) for name, ours in FUNCTIONS.items()} | {
        "vocabulary": blueprint.vocabulary,
        "positions": blueprint.positions + unread,
        "token_types": blueprint.token_types,
        "hidden": blueprint.hidden,
        "embedding": blueprint.embedding,
        "layers": len(blueprint.layers),
        "heads": blueprint.layers[0].heads,
        "neurons": blueprint.layers[0].neurons,
    }
    return {family_name: values[name] for name, family_name in family.config.items() if name != "embedding" or family.factorised}


def family_blueprint(values: Mapping[str, Any], family: Family, head: Head, outputs: int, unread: int) -> Blueprint:
    """The blueprint of a family's configuration; values: checked, by the names in `Family.config`."""
    return Blueprint(
        vocabulary=values["vocabulary"],
        positions=values["positions"] - unread,
        token_types=values.get("token_types") or 0,
        embedding=values["embedding"] if family.factorised else values["hidden"],
        hidden=values["hidden"],
        head_width=values["hidden"] // values["heads"],
        layers=(Layer(values["heads"], values["neurons"]),) * values["layers"],
        head=head,
        outputs=outputs,
    )


def functions_of(values: Mapping[str, Any]) -> Json:
    """The fields of `PenjingConfig` for the functions of a family's configuration."""
    return {ours: values.get(name, EPSILON) if name == "eps" else values[name] for name, ours in FUNCTIONS.items()}


def says_functions(config: PenjingConfig, blueprint: Blueprint, family: Family) -> bool:
    """Whether a family's configuration can express the functions of `config`: some activations and epsilons it cannot."""
    activation = family.activation_of(blueprint.head, config.hidden_act)
    return (not blueprint.head.activated or config.head_act == activation) and ("eps" in family.config or config.layer_norm_eps == EPSILON)
