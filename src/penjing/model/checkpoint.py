"""Hugging Face ↔ ours: read any supported checkpoint, write one that Hugging Face loads.

Reading gives our encoder with the checkpoint's weights, in float32. Writing gives a plain Hugging Face checkpoint
where the blueprint is uniform, and else our own, with modeling_penjing.py beside it.
"""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from penjing.blueprint import Blueprint, Head, Layer
from penjing.errors import InputError, reason_of
from penjing.files.whole import whole_folder
from penjing.model.coded import Coded
from penjing.model.configuration import SUFFIXES, Configuration, first_position, numbered, outputs_of, read_configuration, translate
from penjing.model.families import FAMILIES, Family
from penjing.model.modeling_penjing import (
    PenjingConfig,
    PenjingForMaskedLM,
    PenjingForQuestionAnswering,
    PenjingForSequenceClassification,
    PenjingForTokenClassification,
    PenjingModel,
    PenjingPreTrainedModel,
)
from penjing.model.packing import PACKED, save_packed
from penjing.model.tokenizing import copy_tokenizer
from penjing.model.weights import Shapes, load_weights, refuse_adapter, shapes_of

MODEL_CLASSES: dict[Head, type[PenjingPreTrainedModel]] = {
    "none": PenjingModel,
    "sequence": PenjingForSequenceClassification,
    "token": PenjingForTokenClassification,
    "question": PenjingForQuestionAnswering,
    "masked": PenjingForMaskedLM,
}
POSITION = "encoder.embeddings.position.weight"


# -- blueprint ↔ configuration -----------------------------------------------------------------------------------


def blueprint_of(model: PenjingPreTrainedModel) -> Blueprint:
    """The blueprint of a model of ours."""
    head = next(head for head, kind in MODEL_CLASSES.items() if isinstance(model, kind))
    config = model.config
    return Blueprint(
        vocabulary=config.vocab_size,
        positions=config.max_position_embeddings,
        token_types=config.type_vocab_size,
        embedding=config.embedding_size,
        hidden=config.hidden_size,
        head_width=config.head_width,
        layers=tuple(Layer(heads, neurons) for heads, neurons in config.layers),
        head=head,
        outputs=outputs_of(head, config.num_labels or 0),
        pooled=config.pooled_size,
        rank=config.embedding_rank,
    )


def build(blueprint: Blueprint, like: PenjingConfig | None = None, **changes: Any) -> PenjingPreTrainedModel:
    """A model of this blueprint with fresh weights; everything that is no size is taken from `like`."""
    fields = (like or PenjingConfig()).to_dict()
    for name in ("architectures", "auto_map", "num_hidden_layers", "transformers_version"):
        fields.pop(name, None)
    fields |= {
        "vocab_size": blueprint.vocabulary,
        "max_position_embeddings": blueprint.positions,
        "type_vocab_size": blueprint.token_types,
        "embedding_size": blueprint.embedding,
        "hidden_size": blueprint.hidden,
        "head_width": blueprint.head_width,
        "layers": [[layer.heads, layer.neurons] for layer in blueprint.layers],
        "pooled_size": blueprint.pooled,
        "embedding_rank": blueprint.rank,
    }
    if blueprint.outputs and blueprint.outputs != len(fields.get("id2label") or {}):
        fields.pop("id2label", None)
        fields.pop("label2id", None)
        fields["num_labels"] = blueprint.outputs
    return MODEL_CLASSES[blueprint.head](PenjingConfig(**(fields | changes))).eval()


# -- read --------------------------------------------------------------------------------------------------------


def locate(model: str | Path, pickle: bool = False) -> Path:
    """The folder of a checkpoint: itself, or a hub id's snapshot (downloaded, or from the local cache)."""
    path = Path(model)
    if path.is_dir():
        refuse_adapter(path)
        if not (path / "config.json").is_file():
            raise InputError(f"model: {path} has no config.json; give the folder that save_pretrained wrote")
        return path
    if path.exists() or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(model)):
        raise InputError(f"model: {model} is no folder with a model; give a folder or a hub id")
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                str(model), allow_patterns=["*.json", "*.safetensors", "*.txt", "*.model", *(["pytorch_model*.bin"] if pickle else [])]
            )
        )
    except Exception as error:
        raise InputError(f"model: {model} is no folder here, and the hub did not give it ({reason_of(error)})") from error


@dataclass(frozen=True)
class Opened:
    """What a checkpoint is, by its configuration and the names and shapes of its weights, which fit one another.

    `stored`: our name of each parameter → the name in the files, and `unused` the names that no head of ours reads. `labels`: of the
    outputs, LABEL_0, LABEL_1, … where it names none.
    """

    configuration: Configuration
    config: PenjingConfig
    blueprint: Blueprint
    stored: Mapping[str, str]
    unused: Sequence[str]

    @property
    def folder(self) -> Path:
        """Where it is."""
        return self.configuration.folder

    @property
    def labels(self) -> list[str]:
        """The names of the outputs, in order."""
        return self.configuration.labels() or numbered(self.blueprint.outputs)


def opened(model: str | Path, pickle: bool = False) -> Opened:
    """Look at a checkpoint; an `InputError` where it is not whole, has what would be left out, or asks for what is not followed."""
    folder = locate(model, pickle)
    return _opened(read_configuration(folder), shapes_of(folder, pickle))


def _opened(configuration: Configuration, shapes: Shapes, *, without_head: bool = False) -> Opened:
    """`without_head`: of the encoder alone; the weights of its head may be there or not."""
    found = _head_of(configuration, shapes)
    head: Head = "none" if without_head else found
    config, blueprint = translate(configuration, head, None)
    if len(blueprint.layers) > len(shapes):  # before anything is built so deep
        raise InputError(f"model: {configuration.folder} has {len(shapes)} weights, and its configuration {len(blueprint.layers)} layers")
    try:
        with torch.device("meta"):
            expected = {name: tuple(value.shape) for name, value in build(blueprint, config).state_dict().items()}
    except Exception as error:  # sizes beyond what torch counts to
        raise InputError(
            f"model: no model can have the sizes that {configuration.folder / 'config.json'} says ({reason_of(error)})"
        ) from error
    if head == "none":
        expected = {f"encoder.{name}": shape for name, shape in expected.items()}
    stored, unused = _stored(configuration, blueprint, found, expected, shapes)
    first = first_position(configuration.family, config)
    for ours, theirs in stored.items():
        shape = expected[ours]
        if first and ours == POSITION:
            shape = (shape[0] + first, *shape[1:])
        if shapes[theirs] != shape:
            raise InputError(f"model: {configuration.folder}: {theirs} has the shape {shapes[theirs]}, and the configuration says {shape}")
    return Opened(configuration, config, blueprint, stored, unused)


def _stored(
    configuration: Configuration, blueprint: Blueprint, head: Head, expected: Collection[str], shapes: Shapes
) -> tuple[dict[str, str], list[str]]:
    """Our name of each parameter → the name in the files, and the names that are left; a missing or a strange one is an `InputError`.

    head: the one that the files have; where it is not the blueprint's, its weights may be left.
    """
    folder, family = configuration.folder, configuration.family
    if family is None:
        names = {name: name if head != "none" else name.removeprefix("encoder.") for name in expected}
        found = {name: name for name in shapes}
    else:
        prefix = family.weight_prefix if any(name.startswith(family.weight_prefix) for name in shapes) else ""
        names = family.names(blueprint, prefix)
        if not prefix:  # saved without a head: its pooler has no prefix either
            names = {ours: theirs.removeprefix(family.weight_prefix) for ours, theirs in names.items()}
        found = {_modern(name): name for name in shapes}
        if len(found) < len(shapes):
            raise InputError(f"model: {folder} holds norms by their old names (gamma, beta) and by the new ones; leave one of the two")
    missing = [name for name in names.values() if name not in found]
    if missing:
        whole = family.names(blueprint, family.weight_prefix) if family else names
        wrapped = _wrapper(whole.values(), found) or _wrapper(names.values(), found)
        if wrapped:
            raise InputError(
                f"model: the names of the weights in {folder} begin with {wrapped!r}, as torch.compile, DataParallel, Lightning or an adapter"
                f" leave them; save the model that is inside, or take {wrapped!r} off every name"
            )
        raise InputError(f"model: {folder} lacks {len(missing)} weights of its own configuration, the first {missing[0]}; copy it again")
    unused = sorted(found.keys() - set(names.values()))
    left = blueprint.head != head

    def known(name: str) -> bool:
        return left and name.startswith("head.") if family is None else family.unused(name) or (left and family.of_head(name, head))

    strange = [name for name in unused if not known(name)]
    if strange:
        raise InputError(
            f"model: {folder} has {len(strange)} weights that {configuration.class_prefix} with its configuration has not, the first"
            f" {found[strange[0]]}; they would be left out, so give a model without them"
        )
    return {ours: found[theirs] for ours, theirs in names.items()}, [found[name] for name in unused]


def _modern(name: str) -> str:
    """TensorFlow's names of the norms as they are today, as transformers reads them."""
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def _wrapper(wanted: Collection[str], found: Collection[str]) -> str:
    """What most of the names that are wanted have in front of them in the files; "" where they have nothing in front."""
    first = next(iter(wanted))
    fronts = {name.removesuffix(first) for name in found if name.endswith(f".{first}")}
    return next((front for front in sorted(fronts) if 2 * sum(front + each in found for each in wanted) > len(wanted)), "")


def read(model: str | Path, *, head: Head | None = None, labels: list[str] | None = None, pickle: bool = False) -> PenjingPreTrainedModel:
    """Read a checkpoint of any supported family, or one of our own, as our encoder in float32, in eval mode.

    Whatever is read is whole: an `InputError` names the weight that is missing, that would be left out, or that is no number.

    Args:
        model: folder or hub id.
        head: the head wanted; None takes the checkpoint's. A head that the checkpoint lacks is new, drawn at random.
        labels: names of the outputs; None keeps the checkpoint's. Another set than the checkpoint's gives a new head.
        pickle: read `pytorch_model.bin` where there are no safetensors (with `weights_only`).
    """
    folder = locate(model, pickle)
    configuration = read_configuration(folder)
    weights = load_weights(folder, pickle)
    shapes = {name: tuple(value.shape) for name, value in weights.items()}
    found = _head_of(configuration, shapes)
    wanted = head or found
    known = _opened(configuration, shapes, without_head=wanted != found)
    state = _state(known, weights)
    if wanted == found and labels is None:
        config, blueprint = known.config, known.blueprint
    else:
        config, blueprint = translate(configuration, wanted, labels)
    same_head = wanted == found and blueprint.outputs == known.blueprint.outputs
    if same_head and labels and set(labels) == set(known.labels):
        order = [known.labels.index(name) for name in labels]
        state |= {name: state[name][order] for name in ("head.out.weight", "head.out.bias")}
    elif same_head and labels and configuration.named():
        same_head = False
    if not same_head:
        # The dense layer before the outputs is kept for new ones, as Hugging Face does; BERT's is its pooler, which every BERT may have.
        dense = {name: value for name, value in state.items() if name.startswith("head.dense.")} if wanted == found == "sequence" else {}
        dense |= _pooler(known, weights) if wanted == "sequence" != found else {}
        state = {name: value for name, value in state.items() if name.startswith("encoder.")} | dense
    if wanted == "none":
        state = {name.removeprefix("encoder."): value for name, value in state.items()}
    result = build(blueprint, config)
    result.load_state_dict(state, strict=False)
    return result


def _state(known: Opened, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our parameters, of the head that is stored, from the files' weights."""
    state = {ours: weights[theirs] for ours, theirs in known.stored.items()}
    for ours, value in state.items():
        name = f"model: {known.folder}: {known.stored[ours]}"
        if not value.is_floating_point() or value.layout != torch.strided or value.is_quantized:
            raise InputError(f"{name} is stored as {value.dtype}; give a model that is not quantized, in float32, float16 or bfloat16")
        if not torch.isfinite(value).all():
            raise InputError(f"{name} holds what is no number (NaN or infinite); the training that made it failed: give another checkpoint")
    _check_tied(known, weights)
    first = first_position(known.configuration.family, known.config)
    return state | {POSITION: state[POSITION][first:]}


def check_numbers(model: str | Path) -> None:
    """Refuse a checkpoint whose weights are not all numbers, or not those of its own configuration."""
    known = opened(model)
    _state(known, load_weights(known.folder))


def _check_tied(known: Opened, weights: Mapping[str, Tensor]) -> None:
    """A language model's head takes the word embedding for its outputs: where the file has others, they would be left out."""
    family = known.configuration.family
    if family is None or known.blueprint.head != "masked":
        return
    for name, ours in ((f"{family.decoder}.weight", "encoder.embeddings.word.weight"), (f"{family.decoder}.bias", "head.bias")):
        if name in weights and not torch.equal(weights[name], weights[known.stored[ours]]):
            raise InputError(f"model: {known.folder}: {name} is another than {known.stored[ours]}, and only a tied one is supported")
    untied = known.configuration.fields.get("tie_word_embeddings") is False
    if untied and f"{family.decoder}.weight" not in weights:
        raise InputError(f"model: {known.folder} lacks {family.decoder}.weight, and says tie_word_embeddings false; copy it again")


def _pooler(known: Opened, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """BERT's pooler, of a checkpoint whose head does not take it; empty where it has none that fits, or another family none at all."""
    family, width = known.configuration.family, known.blueprint.hidden
    if family is None or not family.pools:
        return {}
    dense = family.heads["sequence"]["head.dense"]
    result = {}
    for part, shape in (("weight", (width, width)), ("bias", (width,))):
        name = next((name for name in (f"{dense}.{part}", f"{dense.removeprefix(family.weight_prefix)}.{part}") if name in weights), None)
        if name is None:
            return {}
        if tuple(weights[name].shape) != shape or not weights[name].isfinite().all():
            raise InputError(f"model: {known.folder}: {name} is no pooler of finite numbers and the shape {shape}; copy it again")
        result[f"head.dense.{part}"] = weights[name]
    return result


def is_own(model: str | Path) -> bool:
    """Whether the checkpoint is in our own format, rather than plain Hugging Face."""
    return read_configuration(locate(model)).family is None


def head_of(model: str | Path) -> Head:
    """The head that the checkpoint carries: of the class that it names, or else of its weights' names."""
    return _head_of(read_configuration(locate(model)))


def _head_of(configuration: Configuration, shapes: Shapes | None = None) -> Head:
    if configuration.head is not None:
        return configuration.head
    if configuration.family is None:
        raise InputError(f"model: {configuration.folder / 'config.json'} names no class (architectures); copy it again")
    names = {_modern(name) for name in (shapes_of(configuration.folder) if shapes is None else shapes)}
    head = configuration.family.head_of(names)
    if head == "sequence" and configuration.family.pools and "O" in configuration.labels():
        raise InputError(
            f"model: the weights in {configuration.folder} may label texts or words; name its class by architectures in config.json, as"
            f" {configuration.family.class_prefix}ForTokenClassification"
        )
    return head


_LABELLED = {"sequence": "labels texts", "token": "labels words", "question": "answers questions", "masked": "is a language model"}


def check_head(model: str | Path, head: Head, task: str, option: str = "model") -> None:
    """Refuse a checkpoint that has no trained head for a task which takes one label of several, of each text or word.

    A head of one output (regression) has no second label to choose, and the outputs of a multi-label head do not exclude one another.
    """
    configuration = read_configuration(locate(model))
    found = _head_of(configuration)
    if found != head:
        does = f"{_LABELLED[found]} and " if found in _LABELLED else ""
        raise InputError(f"{option}: {model} {does}has no trained head for {task}; make one with penjing train")
    kind, outputs = configuration.problem_type, configuration.label_count()
    if outputs < 2 or kind not in (None, "single_label_classification"):
        raise InputError(
            f"{option}: {model} answers with {outputs} {'output' if outputs == 1 else 'outputs'}{f' ({kind})' if kind else ''}, and {task}"
            " takes one label of at least two; give a model that was trained for that, or make one with penjing train"
        )


def blueprint_at(model: str | Path) -> Blueprint:
    """The blueprint of a checkpoint, from its configuration (and the names of its weights, where it names no class)."""
    configuration = read_configuration(locate(model))
    return translate(configuration, _head_of(configuration), None)[1]


def encoder_at(model: str | Path) -> tuple[Blueprint, int | None]:
    """The blueprint of a checkpoint without its head, from its configuration alone, and the token that takes no position (None: all do)."""
    configuration = read_configuration(locate(model))
    config, blueprint = translate(configuration, "none", None)
    return blueprint, config.pad_token_id if configuration.family and configuration.family.pads_positions else None


def label_names(model: str | Path) -> list[str]:
    """The checkpoint's own label names, in order; empty where it has none beside LABEL_0, LABEL_1…"""
    return read_configuration(locate(model)).named()


# -- write -------------------------------------------------------------------------------------------------------


def write(
    model: PenjingPreTrainedModel,
    path: str | Path,
    *,
    tokenizer: str | Path | None = None,
    extra: dict[str, Any] | None = None,
    packed: bool = False,
    coded: Mapping[str, Coded] | None = None,
) -> None:
    """Write `model` to the folder `path`, whole or not at all, with the tokenizer files of the folder `tokenizer`.

    `extra` are further files: JSON objects, or texts, by name.

    A uniform blueprint is written as a plain Hugging Face checkpoint of the family it came from; any other with
    modeling_penjing.py, for `trust_remote_code=True`. With `packed` it is always our own, its zeros take a bit each,
    and the parameters that `coded` names are stored in their codes, in place of the model's values (packed.safetensors).
    """
    coded, state = coded or {}, model.state_dict()
    for name, code in coded.items():
        if not packed or name not in state or tuple(state[name].shape) != code.shape:
            raise InputError(f"coded: {name} {list(code.shape)} is no parameter of a packed model; give packed=True and names of its own")
    blueprint = blueprint_of(model)
    origin = FAMILIES.get(model.config.origin.get("model_type", ""))
    with whole_folder(Path(path)) as folder:
        if packed:
            model.save_pretrained(folder, state_dict={})  # the configuration and the code alone
            # numpy has no bfloat16.
            dense = {name: value.float() if value.dtype == torch.bfloat16 else value for name, value in state.items() if name not in coded}
            save_packed({name: coded[name] if name in coded else dense[name].cpu().numpy() for name in state}, folder / PACKED)
        elif origin is not None and blueprint.uniform and (origin.factorised or blueprint.embedding == blueprint.hidden):
            _write_plain(model, blueprint, origin, folder)
        else:
            model.save_pretrained(folder)
        if tokenizer is not None:
            copy_tokenizer(locate(tokenizer), folder)
        for name, content in (extra or {}).items():
            text = content if isinstance(content, str) else json.dumps(content, indent=1, ensure_ascii=False)
            (folder / name).write_text(text, encoding="utf-8")


def _write_plain(model: PenjingPreTrainedModel, blueprint: Blueprint, family: Family, folder: Path) -> None:
    from safetensors.torch import save_file
    from transformers import AutoConfig

    config, pad = model.config, model.config.pad_token_id or 0
    first = pad + 1 if family.pads_positions else 0
    sizes = {
        "vocabulary": blueprint.vocabulary,
        "positions": blueprint.positions + first,
        "token_types": blueprint.token_types,
        "hidden": blueprint.hidden,
        "embedding": blueprint.embedding,
        "layers": len(blueprint.layers),
        "heads": blueprint.layers[0].heads,
        "neurons": blueprint.layers[0].neurons,
    }
    fields = dict(config.origin) | {family.config[name]: value for name, value in sizes.items() if name in family.config}
    if not family.factorised:
        fields.pop("embedding_size", None)
    if blueprint.outputs:
        fields |= {"id2label": config.id2label, "label2id": config.label2id, "problem_type": config.problem_type}
    suffix = next(suffix for suffix, head in SUFFIXES.items() if head == blueprint.head)
    fields["architectures"] = [family.class_prefix + suffix]
    AutoConfig.for_model(**fields).save_pretrained(folder)

    state = model.state_dict()
    names = family.names(blueprint, "" if blueprint.head == "none" else family.weight_prefix)
    result = {}
    for ours, theirs in names.items():
        value = state[ours.removeprefix("encoder.") if blueprint.head == "none" else ours]
        if first and ours == "encoder.embeddings.position.weight":
            value = torch.cat([value.new_zeros(first, value.shape[1]), value])
        result[theirs] = value.contiguous()
    save_file(result, folder / "model.safetensors", metadata={"format": "pt"})
