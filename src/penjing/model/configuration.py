"""The config.json of a model: family, head and labels; fields that change the computation unsupported are refused.

Most fields that transformers does not read either are passed over, since they change nothing for it. Refused are those that it reads
and the encoder of `modeling_penjing` does not, and those that other code, or an older transformers, computed otherwise by.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.activations import ACT2FN

from penjing.blueprint import HEADS, Blueprint, Head, head_named
from penjing.errors import InputError, reason_of
from penjing.files.whole import Json
from penjing.model.families import Family, family_of
from penjing.model.fields import blueprint_of_fields, family_blueprint, functions_of
from penjing.model.modeling_penjing import PenjingConfig
from penjing.model.weights import json_object

PRETRAINING = ("ForPreTraining", "ForNextSentencePrediction")
"""Classes whose encoder is read and whose heads, of pre-training, are left."""
FOLLOWED: Json = {
    "is_decoder": False, "add_cross_attention": False, "is_encoder_decoder": False, "position_embedding_type": "absolute",
    "quantization_config": {}, "compression_config": {}, "pruned_heads": {}, "per_layer_config": {}, "fusion_config": {},
}  # fmt: skip
"""Fields that change what is computed, and the one value that is followed (beside null)."""
MODEL_CODE = ("AutoConfig", "AutoModel")
"""How the names in `auto_map` begin whose code changes what is computed."""
MOST_LAYERS = 10_000
MOST_LABELS = 1_000_000
_SIZES = ("vocabulary", "positions", "token_types", "embedding", "hidden", "layers", "heads", "neurons")
_NOT_KEPT = ("architectures", "auto_map", "id2label", "label2id", "num_labels", "problem_type", "dtype", "torch_dtype")
"""Fields of a configuration that are written anew."""


def numbered(outputs: int) -> list[str]:
    """The names of outputs that have none, as transformers calls them."""
    return [f"LABEL_{i}" for i in range(outputs)]


@dataclass(frozen=True)
class Configuration:
    """An opened config.json: the `fields` in `folder`; `family` None: Penjing's own format; `head` None: it names no class."""

    folder: Path
    fields: Json
    family: Family | None
    head: Head | None

    @property
    def class_prefix(self) -> str:
        """The prefix of its class names."""
        return self.family.class_prefix if self.family else "Penjing"

    @property
    def problem_type(self) -> str | None:
        """The problem type of its outputs: one label of several, several labels, or numbers; None where it is not given."""
        kind = self.fields.get("problem_type")
        return None if kind is None else str(kind)

    def labels(self) -> list[str]:
        """The names of the outputs, in order; empty where there is no table of them."""
        table = self.fields.get("id2label") or {}
        where = f"model: id2label in {self.folder / 'config.json'}"
        if not isinstance(table, dict):
            raise InputError(f'{where} is no table; it is to be as {{"0": "negative", "1": "positive"}}')
        strange = [key for key in table if not re.fullmatch("[0-9]{1,9}", key)]
        if strange:
            raise InputError(
                f'{where} has the key {strange[0][:60]!r}; its keys are numbers of outputs, as {{"0": "negative", "1": "positive"}}'
            )
        unnamed = [value for value in table.values() if value is None or isinstance(value, list | dict)]
        if unnamed:
            raise InputError(f"{where} names an output {str(unnamed[0])[:60]}; give each a name")
        names = {int(key): str(value) for key, value in table.items()}
        if sorted(names) != list(range(len(table))):
            raise InputError(
                f"{where} numbers {len(table)} outputs as {_some(sorted(names))}; number them 0 to {len(table) - 1}, each once"
            )
        ordered = [names[i] for i in range(len(names))]
        twice = next((name for name in ordered if ordered.count(name) > 1), None) if len(set(ordered)) < len(ordered) else None
        if twice is not None:
            raise InputError(f"{where} names two outputs {twice!r}; give each a name of its own")
        self._check_other_table(ordered)
        return ordered

    def _check_other_table(self, names: list[str]) -> None:
        """label2id has to be the other way around, or be left as it comes (LABEL_0, LABEL_1, …)."""
        other = self.fields.get("label2id") or {}
        if not isinstance(other, dict):
            other = {str(other): None}
        numbers = {name: int(number) if str(number).isdecimal() else None for name, number in other.items()}
        expected = {name: i for i, name in enumerate(names)}
        if names and numbers != expected and not all(re.fullmatch(r"LABEL_\d+", name) for name in numbers):
            raise InputError(
                f"model: {self.folder / 'config.json'} says {_some(names)} in id2label and {_some(list(other))} in label2id, which are not the"
                " same table; correct the wrong one, or leave label2id out"
            )

    def named(self) -> list[str]:
        """The names of the outputs; empty also where they are only numbered, LABEL_0, LABEL_1, …"""
        names = self.labels()
        return [] if names == numbered(len(names)) else names

    def label_count(self) -> int:
        """The number of outputs of a head with labels."""
        names = self.labels()
        stated = self.fields.get("num_labels")
        if names and stated not in (None, len(names)):
            raise InputError(
                f"model: {self.folder / 'config.json'} says num_labels {stated} and names {len(names)} in id2label; correct the wrong one"
            )
        return len(names) or (2 if stated is None else int(stated))


def read_configuration(folder: Path) -> Configuration:
    """Read a folder's config.json; an `InputError` names a field whose value is not supported."""
    path = folder / "config.json"
    fields = json_object(path, "a configuration")
    family = None if fields.get("model_type") == PenjingConfig.model_type else family_of(fields.get("model_type"))
    for name, followed in FOLLOWED.items():
        value = fields.get(name)
        if value is not None and value != followed:
            raise InputError(f"model: {path} says {name} {str(value)[:80]!r}, which is not followed; only {followed!r} is")
    labels = fields.get("num_labels")
    if labels is not None and (type(labels) is not int or not 0 <= labels <= MOST_LABELS):
        raise InputError(f"model: {path} says num_labels {str(labels)[:60]!r}; give how many outputs there are")
    auto = fields.get("auto_map")
    if family and isinstance(auto, dict) and any(name.startswith(MODEL_CODE) for name in auto):
        raise InputError(
            f"model: {path} names code of its own (auto_map: {_some(sorted(auto))}), which is never run; give a plain {family.class_prefix}"
        )
    return Configuration(folder, fields, family, _head_of(fields, family, path))


def _head_of(fields: Json, family: Family | None, path: Path) -> Head | None:
    """The head that our own format names, or that of the class that is named; None where none is."""
    architectures = fields.get("architectures")
    own = fields.get("head")
    if family is None and own is not None:
        try:
            return head_named(own)
        except InputError as error:
            raise InputError(f"model: {path}: {error}") from error
    if not architectures:
        return None
    prefix = family.class_prefix if family else "Penjing"
    suffixes = {head.suffix: head for head in (*(head for head in HEADS.values() if not head.bare), HEADS["none"])}
    suffixes |= dict.fromkeys(PRETRAINING, HEADS["none"]) if family else {}
    known = {prefix + suffix: head for suffix, head in suffixes.items()}
    named = architectures if isinstance(architectures, list) else [architectures]
    strange = [name for name in named if not isinstance(name, str) or name not in known]
    if strange or len({known[name] for name in named}) > 1:
        wrong = strange[0] if strange else " and ".join(named)
        raise InputError(
            f"model: {path} names the class {str(wrong)[:80]} (architectures), which is not supported; it is to be one of {', '.join(known)}"
        )
    return known[named[0]]


def _some(names: list[Any]) -> str:
    return ", ".join(str(name)[:40] for name in names[:5]) + (", ..." if len(names) > 5 else "")


# -- translation ------------------------------------------------------------------------------------------------


def first_position(family: Family | None, config: PenjingConfig) -> int:
    """The rows of the position table in the files that no token reads."""
    return (config.pad_token_id or 0) + 1 if family and family.pads_positions else 0


def translate(configuration: Configuration, head: Head, labels: list[str] | None) -> tuple[PenjingConfig, Blueprint]:
    """The configuration translated to `PenjingConfig`, with this head, and the blueprint; `InputError` for impossible sizes.

    labels: names of the outputs; None takes the configuration's.
    """
    outputs = head.outputs or 0
    stated = Json()
    if head.labelled:
        names = configuration.named() if labels is None else labels
        outputs = configuration.label_count() if labels is None else len(labels)
        stated = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    if outputs and not stated.get("id2label"):
        stated = {"num_labels": outputs}
    # New outputs are one label of several, whatever the old ones were.
    kind = configuration.problem_type
    stated["problem_type"] = kind if labels is None or kind == "single_label_classification" else None
    try:
        config, blueprint = (_from_own if configuration.family is None else _from_family)(configuration, head, outputs, stated)
    except InputError:
        raise
    except Exception as error:  # what transformers says of values that it did not foresee can be anything
        raise _cannot_be(configuration, reason_of(error)) from error
    _check(configuration, config, blueprint)
    return config, blueprint


def _from_own(configuration: Configuration, head: Head, outputs: int, labels: Json) -> tuple[PenjingConfig, Blueprint]:
    kept = {name: value for name, value in configuration.fields.items() if name not in (*_NOT_KEPT, "head")}
    config = PenjingConfig(**(kept | labels))
    return config, blueprint_of_fields(config, head, outputs)


def _from_family(configuration: Configuration, head: Head, outputs: int, labels: Json) -> tuple[PenjingConfig, Blueprint]:
    from transformers import AutoConfig

    fields = configuration.fields
    family = configuration.family
    assert family is not None
    original = AutoConfig.for_model(**(fields | {"id2label": None, "label2id": None}))
    size: Json = {ours: getattr(original, name, None) for ours, name in family.config.items()}
    _check_sizes(configuration, family, size)
    pad = original.pad_token_id
    if type(pad) is not int or not 0 <= pad < size["vocabulary"]:
        if family.pads_positions:
            raise _cannot_be(
                configuration, f"pad_token_id is {pad}, and positions are counted from it; it is one of 0 to {size['vocabulary'] - 1}"
            )
        pad = 0  # padding is masked
    config = PenjingConfig(
        **functions_of(size),
        head_act=family.activation_of(head, size["activation"]),
        initializer_range=original.initializer_range,
        pad_token_id=pad,
        origin={k: v for k, v in fields.items() if k not in _NOT_KEPT},
        **labels,
    )
    return config, family_blueprint(size, family, head, outputs, first_position(family, config))


def _check_sizes(configuration: Configuration, family: Family, size: Json) -> None:
    """Check that a blueprint can have these sizes; else `InputError`."""
    read = [name for name in _SIZES if name in family.config and (name != "embedding" or family.factorised)]
    wrong = next((name for name in read if type(size[name]) is not int), None)
    if wrong:
        raise _cannot_be(configuration, f"{family.config[wrong]} is {str(size[wrong])[:60]!r}, and no integer")
    if size["heads"] < 1 or size["hidden"] % size["heads"]:
        raise _cannot_be(configuration, f"{size['heads']} heads do not divide the width {size['hidden']}")
    if size["neurons"] < 1:
        raise _cannot_be(configuration, f"{family.config['neurons']} is {size['neurons']}; it is at least 1")
    if not 0 <= size["layers"] <= MOST_LAYERS:
        raise _cannot_be(configuration, f"it has {size['layers']} layers; 0 to {MOST_LAYERS:,} are allowed")
    embedding = configuration.fields.get("embedding_size")
    if not family.factorised and embedding not in (None, size["hidden"]):
        raise _cannot_be(configuration, f"embedding_size is {str(embedding)[:60]}, and {family.class_prefix} embeds in {size['hidden']}")


def _cannot_be(configuration: Configuration, why: str) -> InputError:
    return InputError(f"model: the configuration {configuration.folder / 'config.json'} cannot be ({why})")


def _check(configuration: Configuration, config: PenjingConfig, blueprint: Blueprint) -> None:
    """Check that a model can be computed with this configuration; else `InputError`."""
    if config.problem_type not in (None, "regression", "single_label_classification", "multi_label_classification"):
        raise _cannot_be(configuration, f"problem_type is {str(config.problem_type)[:60]!r}")
    for name in (config.hidden_act, config.head_act, *(layer.activation for layer in blueprint.layers if layer.activation)):
        if not isinstance(name, str) or (name not in ACT2FN and name != "tanh"):
            raise InputError(f"model: the activation {str(name)[:60]!r} is not known; give one of {', '.join(sorted(ACT2FN))}")
    limits = {"layer_norm_eps": 1.0, "hidden_dropout_prob": 1.0, "attention_probs_dropout_prob": 1.0, "initializer_range": 1e6}
    for name, most in limits.items():
        value = getattr(config, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
            raise _cannot_be(configuration, f"{name} is {str(value)[:60]!r}; it is a number from 0 to {most:g}")
    if config.pad_token_id is not None and (type(config.pad_token_id) is not int or not 0 <= config.pad_token_id < blueprint.vocabulary):
        raise _cannot_be(configuration, f"pad_token_id is {str(config.pad_token_id)[:60]!r}; it is one of 0 to {blueprint.vocabulary - 1}")
