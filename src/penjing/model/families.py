"""Model families: names of their modules and configuration fields, one table row per family.

Our names are on the left of every row, Hugging Face's on the right; `{i}` is the layer.
A name is a module that has `weight` (and mostly `bias`).
"""

import re
from collections.abc import Container
from dataclasses import dataclass

from penjing.blueprint import HEADS, Blueprint, Head
from penjing.errors import InputError

_BERT_ENCODER = {
    "embeddings.word": "embeddings.word_embeddings",
    "embeddings.position": "embeddings.position_embeddings",
    "embeddings.token_type": "embeddings.token_type_embeddings",
    "embeddings.norm": "embeddings.LayerNorm",
    "embeddings.projection": "embeddings_project",
    "layers.{i}.attention.query": "encoder.layer.{i}.attention.self.query",
    "layers.{i}.attention.key": "encoder.layer.{i}.attention.self.key",
    "layers.{i}.attention.value": "encoder.layer.{i}.attention.self.value",
    "layers.{i}.attention.output": "encoder.layer.{i}.attention.output.dense",
    "layers.{i}.attention.norm": "encoder.layer.{i}.attention.output.LayerNorm",
    "layers.{i}.feed_forward.up": "encoder.layer.{i}.intermediate.dense",
    "layers.{i}.feed_forward.down": "encoder.layer.{i}.output.dense",
    "layers.{i}.feed_forward.norm": "encoder.layer.{i}.output.LayerNorm",
}

_DISTILBERT_ENCODER = {
    "embeddings.word": "embeddings.word_embeddings",
    "embeddings.position": "embeddings.position_embeddings",
    "embeddings.norm": "embeddings.LayerNorm",
    "layers.{i}.attention.query": "transformer.layer.{i}.attention.q_lin",
    "layers.{i}.attention.key": "transformer.layer.{i}.attention.k_lin",
    "layers.{i}.attention.value": "transformer.layer.{i}.attention.v_lin",
    "layers.{i}.attention.output": "transformer.layer.{i}.attention.out_lin",
    "layers.{i}.attention.norm": "transformer.layer.{i}.sa_layer_norm",
    "layers.{i}.feed_forward.up": "transformer.layer.{i}.ffn.lin1",
    "layers.{i}.feed_forward.down": "transformer.layer.{i}.ffn.lin2",
    "layers.{i}.feed_forward.norm": "transformer.layer.{i}.output_layer_norm",
}

_TOKEN = {"head.out": "classifier"}
_QUESTION = {"head.out": "qa_outputs"}
_ROBERTA_SEQUENCE = {"head.dense": "classifier.dense", "head.out": "classifier.out_proj"}

_BERT_CONFIG = {
    "vocabulary": "vocab_size",
    "positions": "max_position_embeddings",
    "token_types": "type_vocab_size",
    "embedding": "embedding_size",
    "hidden": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "neurons": "intermediate_size",
    "activation": "hidden_act",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "eps": "layer_norm_eps",
}

_DISTILBERT_CONFIG = {
    "vocabulary": "vocab_size",
    "positions": "max_position_embeddings",
    "hidden": "dim",
    "layers": "n_layers",
    "heads": "n_heads",
    "neurons": "hidden_dim",
    "activation": "activation",
    "dropout": "dropout",
    "attention_dropout": "attention_dropout",
}


@dataclass(frozen=True)
class Family:
    """A model family: names of modules and configuration fields, and the few ways in which families differ."""

    model_type: str
    class_prefix: str
    weight_prefix: str
    encoder: dict[str, str]
    heads: dict[str, dict[str, str]]
    config: dict[str, str]
    head_activation: str
    pretraining: str
    """A pattern of the weights that pre-training leaves and no head of ours reads, after `weight_prefix`."""
    decoder: str
    """The module that a masked language model's head ties to the word embedding, for files that hold it twice."""
    decoder_activation: str | None = None
    """The activation of a masked language model's head; None: the encoder's."""
    factorised: bool = False
    """Whether the embedding may be narrower than the encoder."""
    pads_positions: bool = False
    """Whether position numbers start after the padding token's (RoBERTa): those first rows are never read."""

    @property
    def pools(self) -> bool:
        """Whether the dense layer of its classifiers is part of the encoder (BERT's pooler), so that one without a head may have it too."""
        return self.heads["sequence"]["head.dense"].startswith(self.weight_prefix)

    def activation_of(self, head: Head, encoder: str) -> str:
        """The activation of a head, of a model whose feed-forward layers have the activation `encoder`."""
        return (self.decoder_activation or encoder) if head.answers == "word" else self.head_activation

    def unused(self, name: str) -> bool:
        """Whether a weight changes no answer: numbers of positions, a pooler that no head reads, heads of pre-training."""
        buffers = r"(embeddings\.)?(position_ids|token_type_ids)|pooler\.dense\.(weight|bias)"
        return re.fullmatch(f"{buffers}|{self.pretraining}", name.removeprefix(self.weight_prefix)) is not None

    def of_head(self, name: str, head: Head) -> bool:
        """Whether a weight belongs to this head."""
        modules = self.heads.get(head.name, {})
        return name in modules.values() or name.rpartition(".")[0] in modules.values()

    def head_of(self, names: Container[str]) -> Head:
        """The head that weights of these names have, the most particular where one has all that another has ("none" where they have
        none); an `InputError` where several fit."""

        def stored(module: str, family_module: str) -> bool:
            name = family_module if module == "head.bias" else f"{family_module}.weight"
            return name in names or name.removeprefix(self.weight_prefix) in names

        whole = {head: set(modules.values()) for head, modules in self.heads.items() if all(stored(*pair) for pair in modules.items())}
        if len(whole) > 1:
            whole.pop("masked", None)  # what pre-training left
        best = [head for head, modules in whole.items() if not any(modules < others for others in whole.values())]
        if len(best) > 1:
            raise InputError(f"model: its weights are of several heads ({', '.join(best)}); name its class by architectures in config.json")
        return HEADS[best[0] if best else "none"]

    def names(self, blueprint: Blueprint, prefix: str) -> dict[str, str]:
        """Parameter names: ours → the family's, for a model of this blueprint whose encoder is under `prefix`."""
        modules: dict[str, str] = {}
        for name, family_name in self.encoder.items():
            if "{i}" in name:
                for i in range(len(blueprint.layers)):
                    modules[f"encoder.{name.format(i=i)}"] = prefix + family_name.format(i=i)
            elif not _absent(name, blueprint):
                modules[f"encoder.{name}"] = prefix + family_name
        if not blueprint.head.bare:
            modules |= self.heads[blueprint.head.name]
        names = {}
        for name, family_name in modules.items():
            if name == "head.bias":
                names[name] = family_name
                continue
            names[f"{name}.weight"] = f"{family_name}.weight"
            if not name.startswith(("encoder.embeddings.word", "encoder.embeddings.position", "encoder.embeddings.token")):
                names[f"{name}.bias"] = f"{family_name}.bias"
        return names


def _absent(module: str, blueprint: Blueprint) -> bool:
    return (module == "embeddings.token_type" and blueprint.token_types == 0) or (
        module == "embeddings.projection" and blueprint.embedding == blueprint.hidden
    )


def _roberta(model_type: str, class_prefix: str) -> Family:
    heads: dict[str, dict[str, str]] = {
        "sequence": _ROBERTA_SEQUENCE,
        "token": _TOKEN,
        "question": _QUESTION,
        "masked": {"head.dense": "lm_head.dense", "head.norm": "lm_head.layer_norm", "head.bias": "lm_head.bias"},
    }
    return Family(
        model_type, class_prefix, "roberta.", _BERT_ENCODER, heads, _BERT_CONFIG, "tanh", r"lm_head\..+", "lm_head.decoder",
        decoder_activation="gelu", pads_positions=True,
    )  # fmt: skip


FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        Family(
            model_type="bert",
            class_prefix="Bert",
            weight_prefix="bert.",
            encoder=_BERT_ENCODER,
            heads={
                "sequence": {"head.dense": "bert.pooler.dense", "head.out": "classifier"},
                "token": _TOKEN,
                "question": _QUESTION,
                "masked": {
                    "head.dense": "cls.predictions.transform.dense",
                    "head.norm": "cls.predictions.transform.LayerNorm",
                    "head.bias": "cls.predictions.bias",
                },
            },
            config=_BERT_CONFIG,
            head_activation="tanh",
            pretraining=r"cls\.(predictions|seq_relationship)\..+",
            decoder="cls.predictions.decoder",
        ),
        _roberta("roberta", "Roberta"),
        _roberta("xlm-roberta", "XLMRoberta"),
        Family(
            model_type="electra",
            class_prefix="Electra",
            weight_prefix="electra.",
            encoder=_BERT_ENCODER,
            heads={
                "sequence": _ROBERTA_SEQUENCE,
                "token": _TOKEN,
                "question": _QUESTION,
                "masked": {
                    "head.dense": "generator_predictions.dense",
                    "head.norm": "generator_predictions.LayerNorm",
                    "head.bias": "generator_lm_head.bias",
                },
            },
            config=_BERT_CONFIG,
            head_activation="gelu",
            pretraining=r"(discriminator_predictions|generator_predictions|generator_lm_head)\..+",
            decoder="generator_lm_head",
            decoder_activation="gelu",
            factorised=True,
        ),
        Family(
            model_type="distilbert",
            class_prefix="DistilBert",
            weight_prefix="distilbert.",
            encoder=_DISTILBERT_ENCODER,
            heads={
                "sequence": {"head.dense": "pre_classifier", "head.out": "classifier"},
                "token": _TOKEN,
                "question": _QUESTION,
                "masked": {"head.dense": "vocab_transform", "head.norm": "vocab_layer_norm", "head.bias": "vocab_projector.bias"},
            },
            config=_DISTILBERT_CONFIG,
            head_activation="relu",
            pretraining=r"vocab_(transform|layer_norm|projector)\..+",
            decoder="vocab_projector",
        ),
    )
}


def family_of(model_type: object) -> Family:
    """The row of a Hugging Face `model_type`; an unsupported one is named, with those that are supported."""
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise InputError(f"model: the family {model_type!r} is not supported; give one of {', '.join(FAMILIES)}, or a model Penjing wrote")
    return FAMILIES[model_type]
