"""Hugging Face ↔ ours: read any supported checkpoint, write one that Hugging Face loads.

Reading gives our encoder with the checkpoint's weights, in float32. Writing gives a plain Hugging Face checkpoint
where the blueprint is uniform, and else our own, with modeling_penjing.py beside it.
"""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers.activations import ACT2FN

from penjing.atomic import whole_folder
from penjing.blueprint import Blueprint, Head, Layer
from penjing.coded import Coded
from penjing.errors import InputError
from penjing.families import FAMILIES, Family, family_of
from penjing.modeling_penjing import (
    PenjingConfig,
    PenjingForMaskedLM,
    PenjingForQuestionAnswering,
    PenjingForSequenceClassification,
    PenjingForTokenClassification,
    PenjingModel,
    PenjingPreTrainedModel,
)
from penjing.packing import PACKED, load_packed, save_packed

MODEL_CLASSES: dict[Head, type[PenjingPreTrainedModel]] = {
    "none": PenjingModel,
    "sequence": PenjingForSequenceClassification,
    "token": PenjingForTokenClassification,
    "question": PenjingForQuestionAnswering,
    "masked": PenjingForMaskedLM,
}
_SUFFIXES: dict[str, Head] = {
    "ForSequenceClassification": "sequence",
    "ForTokenClassification": "token",
    "ForQuestionAnswering": "question",
    "ForMaskedLM": "masked",
    "Model": "none",
}
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.txt", "vocab.json", "merges.txt", "sentencepiece.bpe.model",
)  # fmt: skip


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
        outputs=_outputs(head, config.num_labels or 0),
        pooled=config.pooled_size,
        rank=config.embedding_rank,
    )


def _outputs(head: Head, labels: int) -> int:
    return {"sequence": labels, "token": labels, "question": 2}.get(head, 0)


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
        if not (path / "config.json").is_file():
            raise InputError(f"model: {path} has no config.json; give the folder that save_pretrained wrote")
        return path
    if path.exists() or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(model)):
        raise InputError(f"model: {model} is no folder with a model; give a folder or a hub id")
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                str(model), allow_patterns=["*.json", "*.safetensors", "*.txt", "*.model", *(["pytorch_model.bin"] if pickle else [])]
            )
        )
    except Exception as error:
        raise InputError(f"model: {model} is no folder here, and the hub did not give it ({_first_line(error)})") from error


def read(model: str | Path, *, head: Head | None = None, labels: list[str] | None = None, pickle: bool = False) -> PenjingPreTrainedModel:
    """Read a checkpoint of any supported family, or one of our own, as our encoder in float32, in eval mode.

    Args:
        model: folder or hub id.
        head: the head wanted; None takes the checkpoint's. A head that the checkpoint lacks is new, drawn at random.
        labels: names of the outputs; None keeps the checkpoint's. Another set than the checkpoint's gives a new head.
        pickle: read `pytorch_model.bin` where there are no safetensors (with `weights_only`).
    """
    folder = locate(model, pickle)
    config, family = _read_config(folder)
    found = _head_of(config)
    wanted = head or found
    ours, blueprint = _translate(config, family, wanted, labels)
    result = build(blueprint, ours)
    weights = _read_weights(folder, pickle)
    state = _rename(weights, family, blueprint, ours) if family else _reprefix(weights, found, wanted)
    named = _named(config)
    same_head = wanted == found and blueprint.outputs == _outputs(found, _label_count(config))
    if same_head and labels and named:
        same_head = set(labels) == set(named)
        if same_head and labels != named:
            order = [named.index(name) for name in labels]
            state |= {name: state[name][order] for name in ("head.out.weight", "head.out.bias") if name in state}
    if not same_head:
        # A pretrained pooler is kept for a new classifier, as Hugging Face does.
        kept = ("encoder.", "head.dense.") if found == "none" and wanted == "sequence" else ("encoder.",)
        state = {name: value for name, value in state.items() if wanted == "none" or name.startswith(kept)}
    missing, unexpected = _load(result, state, folder)
    broken = [name for name in missing if name.startswith("encoder.") or wanted == "none" or same_head]
    if broken:
        raise InputError(f"model: {folder} lacks {len(broken)} weights of its own blueprint, the first {broken[0]}")
    strange = [name for name in unexpected if family is None and not name.startswith("head.")]
    if strange:
        raise InputError(f"model: {folder} has {len(strange)} weights that its configuration does not, the first {strange[0]}")
    return result


def _reprefix(weights: dict[str, Tensor], found: Head, wanted: Head) -> dict[str, Tensor]:
    """Our own names, with `encoder.` in front where a head is wanted, and without where none is."""
    if (found == "none") == (wanted == "none"):
        return weights
    if found == "none":
        return {f"encoder.{name}": value for name, value in weights.items()}
    return {name.removeprefix("encoder."): value for name, value in weights.items() if name.startswith("encoder.")}


def is_own(model: str | Path) -> bool:
    """Whether the checkpoint is in our own format, rather than plain Hugging Face."""
    return _read_config(locate(model))[1] is None


def head_of(model: str | Path) -> Head:
    """The head that the checkpoint carries."""
    return _head_of(_read_config(locate(model))[0])


def check_head(model: str | Path, head: Head, task: str, option: str = "model") -> None:
    """Refuse a checkpoint that has no trained head for a task which takes one label of several, of each text or word.

    A head of one output (regression) has no second label to choose, and the outputs of a multi-label head do not exclude one another.
    """
    config = _read_config(locate(model))[0]
    if _head_of(config) != head:
        raise InputError(f"{option}: {model} has no trained head for {task}; make one with penjing train")
    kind, outputs = config.get("problem_type"), blueprint_at(model).outputs
    if outputs < 2 or kind not in (None, "single_label_classification"):
        raise InputError(
            f"{option}: {model} answers with {outputs} {'output' if outputs == 1 else 'outputs'}{f' ({kind})' if kind else ''}, and {task}"
            " takes one label of at least two; give a model that was trained for that, or make one with penjing train"
        )


def blueprint_at(model: str | Path) -> Blueprint:
    """The blueprint of a checkpoint, from its configuration alone."""
    config, family = _read_config(locate(model))
    return _translate(config, family, _head_of(config), None)[1]


def label_names(model: str | Path) -> list[str]:
    """The checkpoint's own label names, in order; empty where it has none beside LABEL_0, LABEL_1…"""
    return _named(_read_config(locate(model))[0])


def _read_config(folder: Path) -> tuple[dict[str, Any], Family | None]:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        model_type = config.get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"model: {folder / 'config.json'} is not a configuration ({error})") from error
    if model_type == PenjingConfig.model_type:
        return config, None
    return config, family_of(model_type)


def _head_of(config: dict[str, Any]) -> Head:
    name = (config.get("architectures") or ["Model"])[0]
    for suffix, head in _SUFFIXES.items():
        if name.endswith(suffix):
            return head
    return "none"


def _label_count(config: dict[str, Any]) -> int:
    return len(config["id2label"]) if config.get("id2label") else int(config.get("num_labels", 2))


def _named(config: dict[str, Any]) -> list[str]:
    table = config.get("id2label") or {}
    names = [str(table[key]) for key in sorted(table, key=int)]
    return [] if all(re.fullmatch(r"LABEL_\d+", name) for name in names) else names


def _translate(config: dict[str, Any], family: Family | None, head: Head, labels: list[str] | None) -> tuple[PenjingConfig, Blueprint]:
    """Their configuration as ours, and the blueprint; sizes that cannot be are an `InputError`."""
    names = labels if labels is not None else _named(config)
    outputs = _outputs(head, len(names) or _label_count(config))
    label_fields: dict[str, Any] = {}
    if names and head in ("sequence", "token"):
        label_fields = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    elif outputs:
        label_fields = {"num_labels": outputs}
    if family is None:
        fields = {k: v for k, v in config.items() if k not in ("architectures", "auto_map", "id2label", "label2id")}
        try:
            ours = PenjingConfig(**(fields | label_fields))
        except (TypeError, ValueError) as error:
            raise InputError(f"model: its configuration cannot be ({_first_line(error)})") from error
        blueprint = Blueprint.from_dict({
            "vocabulary": ours.vocab_size, "positions": ours.max_position_embeddings, "token_types": ours.type_vocab_size,
            "embedding": ours.embedding_size, "hidden": ours.hidden_size, "head_width": ours.head_width, "layers": ours.layers,
            "head": head, "outputs": outputs, "pooled": ours.pooled_size, "rank": ours.embedding_rank,
        })  # fmt: skip
        return _checked(ours), blueprint
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise InputError(f"model: position_embedding_type is {config['position_embedding_type']!r}; only 'absolute' is supported")
    from transformers import AutoConfig

    try:
        theirs = AutoConfig.for_model(**config)
    except Exception as error:
        raise InputError(f"model: its configuration cannot be ({_first_line(error)})") from error
    size: dict[str, Any] = {ours: getattr(theirs, name, None) for ours, name in family.config.items()}
    pad = theirs.pad_token_id if theirs.pad_token_id is not None else 0
    if size["hidden"] % size["heads"]:
        raise InputError(f"model: {size['heads']} heads do not divide the width {size['hidden']}")
    # The head's own activation: a masked-LM head uses the encoder's, except where the family fixes it.
    fixed = "gelu" if family.pads_positions or family.factorised else size["activation"]
    ours = PenjingConfig(
        hidden_act=size["activation"],
        head_act=fixed if head == "masked" else family.head_activation,
        layer_norm_eps=getattr(theirs, "layer_norm_eps", 1e-12),
        hidden_dropout_prob=size["dropout"],
        attention_probs_dropout_prob=size["attention_dropout"],
        initializer_range=theirs.initializer_range,
        pad_token_id=pad,
        problem_type=config.get("problem_type"),
        origin={k: v for k, v in config.items() if k not in ("architectures", "id2label", "label2id", "dtype", "torch_dtype")},
        **label_fields,
    )
    blueprint = Blueprint(
        vocabulary=size["vocabulary"],
        positions=size["positions"] - (pad + 1 if family.pads_positions else 0),
        token_types=size.get("token_types") or 0,
        embedding=size["embedding"] if family.factorised else size["hidden"],
        hidden=size["hidden"],
        head_width=size["hidden"] // size["heads"],
        layers=(Layer(size["heads"], size["neurons"]),) * size["layers"],
        head=head,
        outputs=outputs,
    )
    return _checked(ours), blueprint


def _checked(config: PenjingConfig) -> PenjingConfig:
    if config.hidden_act not in ACT2FN:
        raise InputError(f"model: the activation {config.hidden_act!r} is not known; give one of {', '.join(sorted(ACT2FN))}")
    return config


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__


def _read_weights(folder: Path, pickle: bool) -> dict[str, Tensor]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            files = [folder / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"model: {index} is damaged ({_first_line(error)}); copy it again") from error
    else:
        dense, packed = folder / "model.safetensors", folder / PACKED
        files = [packed if packed.is_file() and not dense.is_file() else dense]
    weights: dict[str, Tensor] = {}
    if all(file.is_file() for file in files):
        for file in files:
            try:
                weights |= _read_packed(file) if file.name == PACKED else load_file(file)
            except (SafetensorError, OSError, ValueError) as error:
                raise InputError(f"model: {file} is damaged ({error}); copy it again") from error
    elif (folder / "pytorch_model.bin").is_file():
        if not pickle:
            raise InputError(
                f"model: {folder} has only pytorch_model.bin, a pickle, which can carry code; "
                "convert it to safetensors, or allow it with penjing train --pickle"
            )
        try:
            weights = torch.load(folder / "pytorch_model.bin", map_location="cpu", weights_only=True)
        except Exception as error:
            raise InputError(f"model: pytorch_model.bin cannot be read as plain weights ({error})") from error
    else:
        raise InputError(f"model: {folder} has no {files[0].name}; give the folder that save_pretrained wrote")
    return {name: value.float() if value.is_floating_point() else value for name, value in weights.items()}


def _read_packed(file: Path) -> dict[str, Tensor]:
    return {name: torch.from_numpy(value) for name, value in load_packed(file).items()}


def _rename(weights: dict[str, Tensor], family: Family, blueprint: Blueprint, config: PenjingConfig) -> dict[str, Tensor]:
    """Their names → ours; old TensorFlow names of the norms are understood, and a missing encoder prefix too."""
    weights = {re.sub(r"gamma$", "weight", re.sub(r"beta$", "bias", name)): value for name, value in weights.items()}
    prefix = family.weight_prefix if any(name.startswith(family.weight_prefix) for name in weights) else ""
    names = family.names(blueprint, prefix)
    if not prefix:  # saved without a head: its pooler has no prefix either
        names = {ours: theirs.removeprefix(family.weight_prefix) for ours, theirs in names.items()}
    state = {ours: weights[theirs] for ours, theirs in names.items() if theirs in weights}
    if family.pads_positions and "encoder.embeddings.position.weight" in state:
        first = (config.pad_token_id or 0) + 1
        state["encoder.embeddings.position.weight"] = state["encoder.embeddings.position.weight"][first:]
    if blueprint.head == "none":
        state = {name.removeprefix("encoder."): value for name, value in state.items()}
    return state


def _load(model: PenjingPreTrainedModel, state: dict[str, Tensor], folder: Path) -> tuple[list[str], list[str]]:
    own = model.state_dict()
    for name, value in state.items():
        if name in own and own[name].shape != value.shape:
            raise InputError(f"model: {folder}: {name} has shape {tuple(value.shape)} and its configuration says {tuple(own[name].shape)}")
    missing, unexpected = model.load_state_dict(state, strict=False)
    return list(missing), list(unexpected)


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
            copy_tokenizer(tokenizer, folder)
        for name, content in (extra or {}).items():
            text = content if isinstance(content, str) else json.dumps(content, indent=1, ensure_ascii=False)
            (folder / name).write_text(text, encoding="utf-8")


def copy_tokenizer(source: str | Path, target: Path) -> None:
    """Copy the tokenizer of a checkpoint; where it has no tokenizer.json, one is made from its own files."""
    folder = locate(source)
    for name in TOKENIZER_FILES:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, target / name)
    if not (target / "tokenizer.json").is_file():
        from transformers import AutoTokenizer

        try:
            AutoTokenizer.from_pretrained(folder).save_pretrained(target)
        except Exception as error:
            raise InputError(f"model: {folder} has no tokenizer that can be read ({error})") from error


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
    suffix = next(suffix for suffix, head in _SUFFIXES.items() if head == blueprint.head)
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
