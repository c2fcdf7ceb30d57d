"""The files that hold a model folder's weights: their names and shapes, or the tensors; what cannot be read is an `InputError`."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from penjing.errors import InputError, reason_of
from penjing.files.whole import Json
from penjing.model.packing import PACKED, load_packed, packed_shapes

Shapes = dict[str, tuple[int, ...]]
V = TypeVar("V")

WHOLE = ("model.safetensors", "pytorch_model.bin")
"""A checkpoint in one file; beside an `INDEX` it is in several."""
INDEX = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
ADAPTER = "adapter_config.json"
"""What says that the folder holds a part of a model (LoRA), which is added to another's weights."""


def json_object(path: Path, what: str) -> Json:
    """The JSON object in a file; anything else is an `InputError` that names the file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"model: {path} is not {what} ({reason_of(error)}); copy it again") from error
    if not isinstance(content, dict):
        raise InputError(f"model: {path} is not {what} (it is no JSON object); copy it again")
    return content


def refuse_adapter(folder: Path) -> None:
    """An `InputError` where the folder holds a part of a model alone, or changes of one."""
    if (folder / ADAPTER).is_file():
        raise InputError(
            f"model: {folder} holds an adapter ({ADAPTER}); merge it into its model: merge_and_unload(), then save_pretrained()"
        )


def weight_files(folder: Path, pickle: bool = False) -> list[Path]:
    """The files that hold the weights, in the order that transformers looks in: safetensors in one file, in several, packed, and pickles.

    Raises `InputError` where there are none, where some are missing, and where they are pickles and `pickle` does not allow it.
    """
    refuse_adapter(folder)
    for whole, index in zip(WHOLE, INDEX, strict=True):
        files = [folder / whole] if (folder / whole).is_file() else _shards(folder / index) if (folder / index).is_file() else []
        if files and whole == WHOLE[1] and not pickle:
            raise InputError(
                f"model: {folder} has only {files[0].name}, a pickle, which can carry code; "
                "convert it to safetensors, or allow it with `pickle`, as penjing train does"
            )
        if files:
            return files
        if whole == WHOLE[0] and (folder / PACKED).is_file():
            return [folder / PACKED]
    raise InputError(f"model: {folder} has no {WHOLE[0]}; give the folder that save_pretrained wrote")


def _shards(index: Path) -> list[Path]:
    table = json_object(index, "an index of weights").get("weight_map")
    names = set(table.values()) if isinstance(table, dict) and all(isinstance(name, str) for name in table.values()) else set()
    if not names or any(Path(name).name != name for name in names):
        raise InputError(f"model: {index} is damaged (its weight_map names no files beside it); copy it again")
    missing = sorted(names - {file.name for file in index.parent.iterdir() if file.is_file()})  # a name may be too long to ask for
    if missing:
        raise InputError(f"model: {index.parent} has no {missing[0]}, which its index names; copy the whole folder again")
    return [index.parent / name for name in sorted(names)]


def shapes_of(folder: Path, pickle: bool = False) -> Shapes:
    """Name → shape of every weight, from the files' headers (of a pickle: from all of it)."""
    return _joined(weight_files(folder, pickle), _shapes)


def load_weights(folder: Path, pickle: bool = False) -> dict[str, Tensor]:
    """Name → tensor of every weight, on the CPU and as it is stored, but for floating numbers, which are float32."""
    weights = _joined(weight_files(folder, pickle), _tensors)
    return {name: value.float() if value.is_floating_point() else value for name, value in weights.items()}


def _joined(files: list[Path], read: Callable[[Path], Mapping[str, V]]) -> dict[str, V]:
    result: dict[str, V] = {}
    for file in files:
        try:
            part = read(file)
        except (InputError, MemoryError):
            raise
        except Exception as error:  # what a library says of bytes that it did not foresee can be anything
            raise InputError(f"model: {file} is damaged ({reason_of(error)}); copy it again") from error
        twice = sorted(result.keys() & part.keys())
        if twice:
            raise InputError(f"model: {file.parent} has {twice[0]} in two files; copy the whole folder again")
        result |= part
    return result


def _shapes(file: Path) -> Shapes:
    if file.name == PACKED:
        return packed_shapes(file)
    if file.suffix == ".bin":
        return {name: tuple(value.shape) for name, value in _tensors(file).items()}
    with safe_open(file, framework="pt") as content:
        return {name: tuple(content.get_slice(name).get_shape()) for name in content.keys()}  # noqa: SIM118  (it is no dict)


def _tensors(file: Path) -> dict[str, Tensor]:
    if file.name == PACKED:
        return {name: torch.from_numpy(value) for name, value in load_packed(file).items()}
    if file.suffix != ".bin":
        return load_file(file)
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(f"model: {file} cannot be read as plain weights ({reason_of(error)}); convert it to safetensors") from error
    if not isinstance(content, Mapping) or not all(isinstance(n, str) and isinstance(w, Tensor) for n, w in content.items()):
        held = f"; it holds {', '.join(map(str, content))[:80]}" if isinstance(content, Mapping) else ""
        raise InputError(f"model: {file} is no table of weights by name{held}; give what save_pretrained wrote")
    return dict(content)
