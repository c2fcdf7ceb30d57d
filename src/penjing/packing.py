"""Sparse weights, small on disk and back exactly: each tensor by the codec that takes the fewest bytes.

A packed file is a safetensors file. Its tensors are the parts that the codecs make, named `tensor:part`, and its
metadata hold a header in JSON:

    {"version": 1, "tensors": {name: {"codec": "bitmap", "shape": [384, 384], "dtype": "float32"}, …}}

| codec  | parts                                                                                               |
| ------ | --------------------------------------------------------------------------------------------------- |
| dense  | `values`: the tensor                                                                                |
| bitmap | `bitmap`: a bit per entry, row by row, the lowest of a byte first; `values`: the entries whose bit is set |

n entries of b bytes, z of them zero, take ⌈n/8⌉ + (n - z)·b bytes as a bitmap: in float32 fewer than dense as soon as
more than 1/32 are zero. What counts as zero is the bit pattern, so -0.0 and NaN come back as they were.

This file imports torch and safetensors alone, because it travels with every model that is saved.
"""

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

PACKED = "packed.safetensors"
"""The name of packed weights in a model folder."""

VERSION = 1
_HEADER = "penjing"
_INTEGERS = {torch.float32: torch.int32, torch.float16: torch.int16, torch.bfloat16: torch.int16}
"""The integers that show the bits of each dtype that has a bitmap."""


@dataclass(frozen=True)
class Codec:
    """How a tensor is stored: `encode` gives its parts by name, `decode` makes a tensor of these and its shape."""

    parts: tuple[str, ...]
    encode: Callable[[Tensor], dict[str, Tensor]]
    decode: Callable[[dict[str, Tensor], list[int]], Tensor]


def _encode_dense(tensor: Tensor) -> dict[str, Tensor]:
    return {"values": tensor}


def _decode_dense(parts: dict[str, Tensor], shape: list[int]) -> Tensor:
    return parts["values"].clone()


def _encode_bitmap(tensor: Tensor) -> dict[str, Tensor]:
    flat = tensor.flatten()
    mask = flat.view(_INTEGERS[flat.dtype]) != 0
    bits = torch.cat([mask, mask.new_zeros(-len(mask) % 8)]).view(-1, 8)
    return {"bitmap": (bits << _places()).sum(1, dtype=torch.uint8), "values": flat[mask]}


def _decode_bitmap(parts: dict[str, Tensor], shape: list[int]) -> Tensor:
    bitmap, values, count = parts["bitmap"], parts["values"], math.prod(shape)
    if bitmap.dtype != torch.uint8 or bitmap.shape != (-(-count // 8),):
        raise ValueError(f"its bitmap is {_form(bitmap)}, and {count} entries need {-(-count // 8)} bytes")
    mask = ((bitmap[:, None] >> _places()) & 1).view(torch.bool).flatten()
    marked = int(mask.count_nonzero())
    if mask[count:].any() or values.shape != (marked,):
        raise ValueError(f"its bitmap marks {marked} of {count} entries, and its values are {_form(values)}")
    return values.new_zeros(count).masked_scatter_(mask[:count], values).view(shape)


def _places() -> Tensor:
    return torch.arange(8, dtype=torch.uint8, device="cpu")


CODECS = {
    "dense": Codec(("values",), _encode_dense, _decode_dense),
    "bitmap": Codec(("bitmap", "values"), _encode_bitmap, _decode_bitmap),
}


def pack(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors to store for a state dict, and the header that says how to read them.

    float32, float16 and bfloat16 become a bitmap where that is smaller; all else is dense.
    """
    tensors: dict[str, Tensor] = {}
    entries: dict[str, Any] = {}
    for name, tensor in state.items():
        tensor = tensor.detach().cpu().contiguous()
        codec = _smallest(tensor)
        entries[name] = {"codec": codec, "shape": list(tensor.shape), "dtype": _name(tensor.dtype)}
        tensors |= {f"{name}:{part}": value for part, value in CODECS[codec].encode(tensor).items()}
    return tensors, {"version": VERSION, "tensors": entries}


def _smallest(tensor: Tensor) -> str:
    if tensor.dtype not in _INTEGERS:
        return "dense"
    count, size = tensor.numel(), tensor.element_size()
    values = int(tensor.view(_INTEGERS[tensor.dtype]).count_nonzero())
    return "bitmap" if -(-count // 8) + values * size < count * size else "dense"


def unpack(tensors: dict[str, Tensor], header: dict[str, Any]) -> dict[str, Tensor]:
    """The state dict of what `pack` gave, bit for bit; a `ValueError` where the two are not whole."""
    return _unpack(header, tensors, tensors.__getitem__)


def _unpack(header: Any, stored: Iterable[str], read: Callable[[str], Tensor]) -> dict[str, Tensor]:
    entries = _entries(header)
    wanted = {f"{name}:{part}" for name, entry in entries.items() for part in CODECS[entry["codec"]].parts}
    for what, names in (("lack", wanted.difference(stored)), ("should not have", set(stored) - wanted)):
        if names:
            raise ValueError(f"packed weights {what} {len(names)} tensors, the first {min(names)}")
    return {name: _decode(name, entry, read) for name, entry in entries.items()}


def _entries(header: Any) -> dict[str, dict[str, Any]]:
    """The header's tensors, checked."""
    if not isinstance(header, dict) or header.get("version") != VERSION:
        version = header.get("version") if isinstance(header, dict) else None
        raise ValueError(f"packed weights have version {version!r}, and this code reads {VERSION}; take a newer Penjing")
    entries = header.get("tensors")
    if not isinstance(entries, dict) or len(header) != 2:
        raise ValueError(f"packed weights have a header of {', '.join(header)}; it takes version and tensors")
    for name, entry in entries.items():
        if not isinstance(entry, dict) or set(entry) != {"codec", "shape", "dtype"}:
            raise ValueError(f"packed weights describe {name} as {entry!r}; that takes codec, shape and dtype")
        if entry["codec"] not in list(CODECS):
            raise ValueError(f"packed weights have {name} by the codec {entry['codec']!r}; known are {', '.join(CODECS)}")
        shape = entry["shape"]
        if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
            raise ValueError(f"packed weights give {name} the shape {shape!r}; that takes a list of sizes")
    return entries


def _decode(name: str, entry: dict[str, Any], read: Callable[[str], Tensor]) -> Tensor:
    codec = CODECS[entry["codec"]]
    try:
        tensor = codec.decode({part: read(f"{name}:{part}") for part in codec.parts}, entry["shape"])
    except ValueError as error:
        raise ValueError(f"packed weights are damaged at {name}: {error}") from error
    if list(tensor.shape) != entry["shape"] or _name(tensor.dtype) != entry["dtype"]:
        raise ValueError(f"packed weights have {name} as {_form(tensor)}; the header says {entry['dtype']} {entry['shape']}")
    return tensor


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _form(tensor: Tensor) -> str:
    return f"{_name(tensor.dtype)} {list(tensor.shape)}"


def save_packed(state: dict[str, Tensor], path: str | Path) -> None:
    """Write a state dict to the file `path`."""
    tensors, header = pack(state)
    save_file(tensors, path, metadata={"format": "pt", _HEADER: json.dumps(header)})


def load_packed(path: str | Path) -> dict[str, Tensor]:
    """Read what `save_packed` wrote, a tensor at a time; memory is the result and the parts of one tensor.

    A file that is not whole is a `ValueError`, or safetensors' own `SafetensorError`.
    """
    with safe_open(path, framework="pt") as file:
        header = json.loads((file.metadata() or {}).get(_HEADER, "null"))
        return _unpack(header, list(file.keys()), file.get_tensor)
