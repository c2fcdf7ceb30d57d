"""Packed weights: a lossless file format for zeros and low-bit codes, each tensor in the fewest bytes.

A packed file is a safetensors file. Its tensors are the parts that the codecs make, named `tensor:part`, and its
metadata hold a header in JSON, with the CRC-32 of the rest of it:

    {"version": 2, "tensors": {name: {"codec": "bitmap", "shape": [384, 384], "dtype": "float32", "crc32": 907060870}, …}}

| codec    | value of an entry             | parts                                                                           |
| -------- | ----------------------------- | ------------------------------------------------------------------------------- |
| dense    | as it is                      | `values`: the tensor                                                            |
| bitmap   | as it is                      | `bitmap`: a bit per entry, row by row, the lowest of a byte first; `values`: the entries whose bit is set |
| grid     | scale·(code - zero)           | `codes`; `scale`, `zero`: one per group                                         |
| codebook | table[code]                   | `codes`; `table`: a row per group                                               |
| power    | ±scale·2^(|k| - m), or 0      | `codes`: k + m, with k = 0 for zero and m = 2^(bits-1) - 1; `scale`: one per group |

n entries of b bytes, z of them zero, take ⌈n/8⌉ + (n - z)·b bytes as a bitmap: in float32 fewer than dense as soon as
more than 1/32 are zero. What counts as zero is the bit pattern, so -0.0 and NaN come back as they were.

The last three, `Coded`, give float32. A group is `group` neighbours in a row (along the last axis; the last group of a row may be
shorter), or with group 0 the whole tensor. Codes are stored in the smallest of three ways, the header's `coding`:

| coding | bytes of n codes below `levels`                                                                          |
| ------ | -------------------------------------------------------------------------------------------------------- |
| bits   | `bits` bits each, the lowest first, across the bytes                                                     |
| digits | as many codes as a byte holds, digits of a number to the base `levels` (five of 3 levels, two of 16)      |
| zlib   | the bytes of `digits`, entropy-coded                                                                     |

Parameters are stored in the narrowest of uint8, float16 and float32 that holds them exactly. Where that is smaller, all their first
bytes, then all their second ones and so on are entropy-coded; the header's `deflated` gives the dtype and shape of such a parameter.

Version 1, without checksums and with the first two codecs alone, is read as well. This file imports numpy, safetensors and
coded.py alone, because it travels with every model that is saved.
"""

import json
import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from .coded import PARAMETERS, Array, Coded, Json, decode_coded, encode_coded, form_of, is_shape

PACKED = "packed.safetensors"
"""The name of packed weights in a model folder."""

VERSION = 2
MOST_AT_ALL = 2**24
MOST_A_BYTE = 256
"""The most entries that a file may declare, in all and per byte: far more than are ever stored.

They keep a small file from filling the memory.
"""
_HEADER = "penjing"
_DTYPES = ("float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")
_INTEGERS = {"float32": np.int32, "float16": np.int16}
"""The integers that show the bits of each dtype that has a bitmap."""


# -- codecs ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Codec:
    """How a tensor is stored: `encode` gives its parts by name and the further `fields` of its header entry; `decode` takes both."""

    parts: tuple[str, ...]
    fields: tuple[str, ...]
    encode: Callable[[Any], tuple[dict[str, Array], Json]]
    decode: Callable[[dict[str, Array], Json], "Array | Coded"]


def _encode_dense(tensor: Array) -> tuple[dict[str, Array], Json]:
    return {"values": tensor}, {}


def _decode_dense(parts: dict[str, Array], entry: Json) -> Array:
    return parts["values"]


def _encode_bitmap(tensor: Array) -> tuple[dict[str, Array], Json]:
    flat = tensor.reshape(-1)
    mask = flat.view(_INTEGERS[flat.dtype.name]) != 0
    return {"bitmap": np.packbits(mask, bitorder="little"), "values": flat[mask]}, {}


def _decode_bitmap(parts: dict[str, Array], entry: Json) -> Array:
    bitmap = parts["bitmap"]
    values = parts["values"]
    count = math.prod(entry["shape"])
    if bitmap.dtype != np.uint8 or bitmap.shape != (-(-count // 8),):
        raise ValueError(f"its bitmap is {form_of(bitmap)}, and {count} entries need {-(-count // 8)} bytes")
    mask = np.unpackbits(bitmap, bitorder="little").view(np.bool_)
    marked = int(np.count_nonzero(mask))
    if mask[count:].any() or values.shape != (marked,):
        raise ValueError(f"its bitmap marks {marked} of {count} entries, and its values are {form_of(values)}")
    result = np.zeros(count, values.dtype)
    result[mask[:count]] = values
    return result.reshape(entry["shape"])


_OF_CODES = ("bits", "group", "levels", "coding", "deflated")
CODECS = {
    "dense": Codec(("values",), (), _encode_dense, _decode_dense),
    "bitmap": Codec(("bitmap", "values"), (), _encode_bitmap, _decode_bitmap),
} | {codec: Codec(("codes", *parameters), _OF_CODES, encode_coded, decode_coded) for codec, parameters in PARAMETERS.items()}


# -- a state dict ------------------------------------------------------------------------------------------------


def pack(state: Mapping[str, Array | Coded]) -> tuple[dict[str, Array], Json]:
    """The tensors to store for a state dict, and the header that says how to read them.

    float32 and float16 become a bitmap where that is smaller, `Coded` stays in its codes; all else is dense.
    """
    tensors: dict[str, Array] = {}
    entries: Json = {}
    for name, value in state.items():
        if isinstance(value, Coded):
            codec, dtype = value.codec, "float32"
        else:
            value = np.asarray(value, order="C")
            codec, dtype = _smallest(value), value.dtype.name
        parts, fields = CODECS[codec].encode(value)
        parts = {part: np.asarray(array, order="C") for part, array in parts.items()}  # safetensors writes a view as if it were whole
        entries[name] = {"codec": codec, "shape": list(value.shape), "dtype": dtype, **fields, "crc32": _checksum(parts)}
        tensors |= {f"{name}:{part}": array for part, array in parts.items()}
    return tensors, {"version": VERSION, "tensors": entries}


def _smallest(tensor: Array) -> str:
    if tensor.dtype.name not in _INTEGERS:
        return "dense"
    values = int(np.count_nonzero(tensor.view(_INTEGERS[tensor.dtype.name])))
    return "bitmap" if -(-tensor.size // 8) + values * tensor.itemsize < tensor.nbytes else "dense"


def _checksum(parts: dict[str, Array]) -> int:
    """The CRC-32 of the parts' bytes, one after another."""
    result = 0
    for part in parts.values():
        result = zlib.crc32(part.reshape(-1).view(np.uint8).data, result)
    return result


def unpack(tensors: Mapping[str, Array], header: Json) -> dict[str, Array]:
    """The state dict of what `pack` gave, bit for bit, codes as their values; a `ValueError` where the two are not whole."""
    return {name: _values(value) for name, value in _unpack(_entries(header), tensors, tensors.__getitem__)}


def _values(value: Array | Coded) -> Array:
    return value.values() if isinstance(value, Coded) else value


def _unpack(entries: dict[str, Json], stored: Iterable[str], read: Callable[[str], Array]) -> Iterator[tuple[str, Array | Coded]]:
    """Name after name and what is stored by it, one at a time."""
    wanted = {f"{name}:{part}" for name, entry in entries.items() for part in CODECS[entry["codec"]].parts}
    for what, names in (("lack", wanted.difference(stored)), ("should not have", set(stored) - wanted)):
        if names:
            raise ValueError(f"packed weights {what} {len(names)} tensors, the first {min(names)}")
    for name, entry in entries.items():
        yield name, _decode(name, entry, read)


def _entries(header: Any) -> dict[str, Json]:
    """The header's tensors, checked."""
    version = header.get("version") if isinstance(header, dict) else None
    if type(version) is not int or not 1 <= version <= VERSION:
        raise ValueError(f"packed weights have version {version!r}, and this code reads 1 to {VERSION}; take a newer Penjing")
    entries = header.get("tensors")
    if not isinstance(entries, dict) or len(header) != 2:
        raise ValueError(f"packed weights have a header of {', '.join(header)}; it takes version and tensors")
    known = {"dense", "bitmap"} if version == 1 else set(CODECS)
    for name, entry in entries.items():
        codec = entry.get("codec") if isinstance(entry, dict) else None
        if not isinstance(codec, str) or codec not in known:
            raise ValueError(f"packed weights have {name} by the codec {codec!r}; known are {', '.join(sorted(known))}")
        fields = ["codec", "shape", "dtype", *CODECS[codec].fields, *(["crc32"] if version > 1 else [])]
        if set(entry) != set(fields):
            raise ValueError(f"packed weights describe {name} as {entry!r}; that takes {', '.join(fields)}")
        if entry["dtype"] not in _DTYPES:
            raise ValueError(f"packed weights have {name} in {entry['dtype']!r}; known are {', '.join(_DTYPES)}")
        shape = entry["shape"]
        if not is_shape(shape):
            raise ValueError(f"packed weights give {name} the shape {shape!r}; that takes a list of sizes")
    return entries


def _decode(name: str, entry: Json, read: Callable[[str], Array]) -> Array | Coded:
    codec = CODECS[entry["codec"]]
    try:
        parts = {part: read(f"{name}:{part}") for part in codec.parts}
        checksum = _checksum(parts)
        if entry.get("crc32", checksum) != checksum:
            raise ValueError(f"its parts have the checksum {checksum}; the header says {entry['crc32']!r}")
        value = codec.decode(parts, entry)
    except (ValueError, TypeError, AttributeError) as error:  # the latter two: numpy lacks the type of a part
        raise ValueError(f"packed weights are damaged at {name}: {error}") from error
    dtype = "float32" if isinstance(value, Coded) else value.dtype.name
    if list(value.shape) != entry["shape"] or dtype != entry["dtype"]:
        raise ValueError(f"packed weights have {name} as {dtype} {list(value.shape)}; the header says {entry['dtype']} {entry['shape']}")
    return value


def save_packed(state: Mapping[str, Array | Coded], path: str | Path) -> None:
    """Write a state dict to the file `path`."""
    tensors, header = pack(state)
    save_file(tensors, path, metadata=_metadata(header))


def load_packed(path: str | Path) -> dict[str, Array]:
    """Read what `save_packed` wrote, a tensor at a time; memory is the result and the parts of one tensor.

    A file that is not whole is a `ValueError`, or safetensors' own `SafetensorError`.
    """
    return {name: _values(value) for name, value in _load(path)}


def load_coded(path: str | Path) -> dict[str, Coded]:
    """Those tensors that `save_packed` wrote in few bits, as their codes; errors as of `load_packed`."""
    return {name: value for name, value in _load(path) if isinstance(value, Coded)}


def packed_shapes(path: str | Path) -> dict[str, tuple[int, ...]]:
    """Name → shape of what `save_packed` wrote, from the header alone; errors as of `load_packed`."""
    with safe_open(path, framework="np") as file:
        return {name: tuple(entry["shape"]) for name, entry in _entries(_header(file.metadata() or {})).items()}


def _load(path: str | Path) -> Iterator[tuple[str, Array | Coded]]:
    with safe_open(path, framework="np") as file:
        entries = _entries(_header(file.metadata() or {}))
        stored = Path(path).stat().st_size
        declared = sum(math.prod(entry["shape"]) for entry in entries.values())
        if declared > MOST_AT_ALL + MOST_A_BYTE * stored:
            raise ValueError(f"packed weights declare {declared} entries, more than {stored} bytes can hold")
        yield from _unpack(entries, list(file.keys()), file.get_tensor)


def _header(metadata: dict[str, str]) -> Any:
    """What a file's metadata say; where they hold a checksum, it is theirs."""
    try:
        header = json.loads(metadata.get(_HEADER, "null"))
        if isinstance(header, dict) and header.get("version") == VERSION:
            header.pop("crc32", None)
            if metadata != _metadata(header):
                raise ValueError("packed weights have a damaged header: it is not the one of its checksum")
    except RecursionError as error:
        raise ValueError("packed weights have a header that is nested without end") from error
    return header


def _metadata(header: Json) -> dict[str, str]:
    """One entry alone: safetensors writes several in any order, and equal weights are to give equal files."""
    return {_HEADER: json.dumps(header | {"crc32": zlib.crc32(json.dumps(header).encode())})}
