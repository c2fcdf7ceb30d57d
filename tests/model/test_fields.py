"""One table says which field of a configuration holds which of a blueprint's: both ways give each other's back."""

from dataclasses import fields, replace
from inspect import signature

import pytest
from conftest import blueprints
from hypothesis import given
from hypothesis import strategies as st

from penjing.blueprint import HEADS, Blueprint, Head, Layer
from penjing.model.families import FAMILIES, Family
from penjing.model.fields import FIELDS, FUNCTIONS, blueprint_of_fields, family_blueprint, family_fields, fields_of, functions_of
from penjing.model.modeling_penjing import PenjingConfig

NOT_SIZES = {"head", "outputs", "bits"}
"""A blueprint's fields that a configuration says otherwise: by its class, its labels, and not at all."""


def test_every_size_has_a_field_of_the_configuration() -> None:
    assert set(FIELDS) == {field.name for field in fields(Blueprint)} - NOT_SIZES
    assert set(FIELDS.values()) | set(FUNCTIONS.values()) <= set(signature(PenjingConfig).parameters)


@given(blueprints(), st.integers(0, 7))
def test_our_own_fields_give_the_blueprint_back(blueprint: Blueprint, pooled: int) -> None:
    blueprint = replace(blueprint, pooled=pooled)
    assert blueprint_of_fields(PenjingConfig(**fields_of(blueprint)), blueprint.head, blueprint.outputs) == blueprint


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_a_familys_fields_give_the_blueprint_and_what_is_computed_back(family: Family, head: Head) -> None:
    types = 3 if "token_types" in family.config else 0
    width = 10 if family.factorised else 16
    blueprint = Blueprint(60, 24, types, width, 16, 8, (Layer(2, 24),) * 3, head, 2 if head.labelled else head.outputs or 0)
    config = PenjingConfig(hidden_act="relu", hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.2)
    said = family_fields(blueprint, config, family, unread=2)
    assert ("embedding_size" in said) == family.factorised
    values = {name: said.get(theirs) for name, theirs in family.config.items()}
    assert family_blueprint(values, family, head, blueprint.outputs, unread=2) == blueprint
    assert functions_of(values) == {name: getattr(config, name) for name in FUNCTIONS.values()}


def test_a_heads_activation_is_the_familys_own() -> None:
    assert {name: family.activation_of(HEADS["masked"], "silu") for name, family in FAMILIES.items()} == {
        "bert": "silu", "roberta": "gelu", "xlm-roberta": "gelu", "electra": "gelu", "distilbert": "silu",
    }  # fmt: skip
    assert {name: family.activation_of(HEADS["sequence"], "silu") for name, family in FAMILIES.items()} == {
        "bert": "tanh", "roberta": "tanh", "xlm-roberta": "tanh", "electra": "gelu", "distilbert": "relu",
    }  # fmt: skip
