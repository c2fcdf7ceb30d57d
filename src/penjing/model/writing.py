"""Writing a model: a plain Hugging Face checkpoint where its blueprint is uniform, and else our own with the code that runs it."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch

from penjing.blueprint import Blueprint
from penjing.errors import InputError
from penjing.files.whole import Json, whole_folder
from penjing.model.building import blueprint_of
from penjing.model.checkpoint import POSITION, locate
from penjing.model.coded import Coded
from penjing.model.configuration import first_position
from penjing.model.families import FAMILIES, Family
from penjing.model.fields import family_fields, says_functions
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.model.packing import PACKED, save_packed
from penjing.model.tokenizing import copy_tokenizer


def write(
    model: PenjingPreTrainedModel,
    path: str | Path,
    *,
    tokenizer: str | Path | None = None,
    extra: Json | None = None,
    packed: bool = False,
    coded: Mapping[str, Coded] | None = None,
) -> None:
    """Write `model` to the folder `path` atomically, with the tokenizer files of the folder `tokenizer`.

    `extra` are further files: JSON objects, or texts, by name.

    A uniform blueprint is written as a plain Hugging Face checkpoint of the family it came from; any other with
    modeling_penjing.py, for `trust_remote_code=True`. With `packed` it is always our own, its zeros take a bit each,
    and the parameters that `coded` names are stored in their codes, in place of the model's values (packed.safetensors).
    """
    coded = coded or {}
    state = model.state_dict()
    for name, code in coded.items():
        if not packed or name not in state or tuple(state[name].shape) != code.shape:
            raise InputError(f"coded: {name} {list(code.shape)} is no parameter of a packed model; give packed=True and names of its own")
    blueprint = blueprint_of(model)
    family = _plain_family(model, blueprint)
    with whole_folder(Path(path)) as folder:
        if packed:
            _save(model, folder, state_dict={})  # the configuration and the code alone
            # numpy has no bfloat16.
            dense = {name: value.float() if value.dtype == torch.bfloat16 else value for name, value in state.items() if name not in coded}
            save_packed({name: coded[name] if name in coded else dense[name].cpu().numpy() for name in state}, folder / PACKED)
        elif family is not None:
            _write_plain(model, blueprint, family, folder)
        else:
            _save(model, folder)
        if tokenizer is not None:
            copy_tokenizer(locate(tokenizer), folder)
        for name, content in (extra or {}).items():
            text = content if isinstance(content, str) else json.dumps(content, indent=1, ensure_ascii=False)
            (folder / name).write_text(text, encoding="utf-8")


def _plain_family(model: PenjingPreTrainedModel, blueprint: Blueprint) -> Family | None:
    """The family that the model came from, where a plain configuration of it can describe the model."""
    family = FAMILIES.get(model.config.origin.get("model_type", ""))
    if family is None or not blueprint.uniform or not (family.factorised or blueprint.embedding == blueprint.hidden):
        return None
    return family if not blueprint.head.own and says_functions(model.config, blueprint, family) else None


def _save(model: PenjingPreTrainedModel, folder: Path, state_dict: dict[str, torch.Tensor] | None = None) -> None:
    """Write our own format, with the code that runs it where there is no Penjing.

    The module of a network of one's own is copied too, and takes its parts from the copied modeling_penjing.py; it is run without
    Penjing where it imports nothing else of it.
    """
    network = type(model)
    head = blueprint_of(model).head
    if head.own:
        network.register_for_auto_class(head.auto_class)
    model.save_pretrained(folder, state_dict=state_dict)
    code = folder / f"{network.__module__.rpartition('.')[2]}.py"
    if head.own and code.is_file():
        text = code.read_text(encoding="utf-8")
        code.write_text(text.replace(f"from {PenjingPreTrainedModel.__module__} import", "from .modeling_penjing import"), encoding="utf-8")


def _write_plain(model: PenjingPreTrainedModel, blueprint: Blueprint, family: Family, folder: Path) -> None:
    from safetensors.torch import save_file
    from transformers import AutoConfig

    config = model.config
    head = blueprint.head
    unread = first_position(family, config)
    fields = dict(config.origin) | family_fields(blueprint, config, family, unread)
    if not family.factorised:
        fields.pop("embedding_size", None)
    if blueprint.outputs:
        fields |= {"id2label": config.id2label, "label2id": config.label2id, "problem_type": config.problem_type}
    fields["architectures"] = [family.class_prefix + head.suffix]
    AutoConfig.for_model(**fields).save_pretrained(folder)

    state = model.state_dict()
    result = {}
    for name, family_name in family.names(blueprint, "" if head.bare else family.weight_prefix).items():
        value = state[name.removeprefix("encoder.") if head.bare else name]
        if unread and name == POSITION:
            value = torch.cat([value.new_zeros(unread, value.shape[1]), value])  # (unread + positions, E)
        result[family_name] = value.contiguous()
    save_file(result, folder / "model.safetensors", metadata={"format": "pt"})
