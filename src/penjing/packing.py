"""Weights small on disk: zeros and few bits, each tensor in the fewest bytes; what was put in comes back exactly.

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

Version 1, without checksums and with the first two codecs alone, is read as well. This file imports numpy and safetensors alone,
because it travels with every model that is saved.
"""

import json
import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

PACKED = "packed.safetensors"
"""The name of packed weights in a model folder."""

Array = NDArray[Any]
Float = NDArray[np.float32]
Bytes = NDArray[np.uint8]

VERSION = 2
_HEADER = "penjing"
_DTYPES = ("float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")
_INTEGERS = {"float32": np.int32, "float16": np.int16}
"""The integers that show the bits of each dtype that has a bitmap."""
_PARAMETERS = {"grid": ("scale", "zero"), "codebook": ("table",), "power": ("scale",)}
_NUMBERS = ("uint8", "float16", "float32")
"""What parameters are stored in."""
_AT_ONCE = 2**18
"""Entries that are decoded at a time, so that what lies between the codes and the result stays small."""


# -- few bits ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Coded:
    """A tensor as codes and the parameters that its groups share; what cannot be is a `ValueError`.

    codec: grid, codebook or power (see above); bits: 1 … 8 of a code; shape: of the tensor.
    group: entries of a row that share parameters, as many as a row has (or more) for one set per row; 0 for one set in all.
    codes: (*shape), uint8.
    parameters: `scale` (groups,) and `zero` (groups,) or (1,); `table` (groups, levels); row after row.
    """

    codec: str
    bits: int
    shape: tuple[int, ...]
    group: int
    codes: Bytes
    parameters: Mapping[str, Array]

    def __post_init__(self) -> None:
        if self.codec not in _PARAMETERS:
            raise ValueError(f"the codec {self.codec!r} has no codes; those that have are {', '.join(_PARAMETERS)}")
        if type(self.bits) is not int or not 1 <= self.bits <= 8 or type(self.group) is not int or self.group < 0:
            raise ValueError(f"bits are {self.bits!r} and the group {self.group!r}; they go from 1 to 8 and from 0")
        if self.codes.dtype != np.uint8 or self.codes.shape != tuple(self.shape):
            raise ValueError(f"codes are {_form(self.codes)}, and the shape {list(self.shape)}")
        if set(self.parameters) != set(_PARAMETERS[self.codec]):
            raise ValueError(f"parameters are {', '.join(self.parameters)}; {self.codec} takes {', '.join(_PARAMETERS[self.codec])}")
        for name, value in self.parameters.items():
            sizes = {self.groups, 1} if name == "zero" else {self.groups}
            if value.ndim != (2 if name == "table" else 1) or len(value) not in sizes:
                raise ValueError(f"its {name} is {_form(value)}, and there are {self.groups} groups")
        levels = {"grid": 2**self.bits, "power": 2**self.bits - 1}.get(self.codec) or self.parameters["table"].shape[1]
        if self.codes.size and int(self.codes.max()) >= levels:
            raise ValueError(f"a code is {self.codes.max()}, and there are {levels} levels")

    @property
    def groups(self) -> int:
        """How many groups there are."""
        rows, columns = self._rows
        return rows * -(-columns // self.group) if self.group else 1

    @property
    def bytes(self) -> int:
        """What the parts take on disk."""
        return sum(part.nbytes for part in _encode_coded(self)[0].values())

    @property
    def _rows(self) -> tuple[int, int]:
        """Rows and columns; where all share one set, each entry is a row."""
        if not self.group:
            return math.prod(self.shape), 1
        return math.prod(self.shape[:-1]), self.shape[-1] if self.shape else 1

    def values(self) -> Float:
        """The tensor in float32."""
        rows, columns = self._rows
        codes, result = self.codes.reshape(rows, columns), np.empty((rows, columns), np.float32)
        step = max(1, _AT_ONCE // max(1, columns))
        for i in range(0, rows, step):
            part = slice(i, i + step)
            result[part] = self._decode(codes[part], part)
        return result.reshape(self.shape)

    def _decode(self, codes: Bytes, rows: slice) -> Float:
        """Values of the codes of some rows."""
        if self.codec == "codebook":
            table = self.parameters["table"].astype(np.float32, copy=False)
            first = np.arange(self.groups) * table.shape[1]
            return table.reshape(-1)[self._spread(first, rows) + codes]
        scale: Float = self._spread(self.parameters["scale"].astype(np.float32, copy=False), rows)
        if self.codec == "power":
            return powers(self.bits)[codes] * scale
        zero: Float = self._spread(self.parameters["zero"].astype(np.float32, copy=False), rows)
        return np.subtract(codes, zero, dtype=np.float32) * scale

    def _spread(self, parameter: Array, rows: slice) -> Array:
        """A parameter for each entry of some rows, or one for all of them."""
        if len(parameter) == 1:
            return parameter[:, None]
        count, columns = self._rows
        return np.repeat(parameter.reshape(count, -1)[rows], min(self.group, columns), axis=1)[:, :columns]


def powers(bits: int) -> Float:
    """The 2^bits - 1 numbers -1, -1/2, …, 0, …, 1/2, 1."""
    m = 2 ** (bits - 1) - 1
    halves = np.ldexp(np.float32(1), np.arange(1 - m, 1, dtype=np.int32))
    return np.concatenate([-halves[::-1], np.zeros(1, np.float32), halves])


# -- codes as bytes ----------------------------------------------------------------------------------------------


def _to_bits(codes: Bytes, bits: int) -> Bytes:
    """`bits` bits of each code, the lowest first: eight codes are a word of `bits` bytes."""
    eights = _padded(codes, 8)
    words = np.zeros(len(eights), "<u8")
    for i in range(8):
        words |= eights[:, i].astype("<u8") << np.uint64(bits * i)
    return words.view(np.uint8).reshape(-1, 8)[:, :bits].reshape(-1)[: _bits_size(len(codes), bits)]


def _from_bits(stored: Bytes, bits: int, count: int) -> Bytes:
    pieces = np.zeros((-(-count // 8), 8), np.uint8)
    pieces[:, :bits] = _padded(stored, bits)
    words = pieces.view("<u8")[:, 0]
    result = np.empty((len(words), 8), np.uint8)
    for i in range(8):
        result[:, i] = (words >> np.uint64(bits * i)) & np.uint64(2**bits - 1)
    return result.reshape(-1)[:count]


def _bits_size(count: int, bits: int) -> int:
    return -(-count * bits // 8)


def _digits(levels: int) -> int:
    """How many codes below `levels` a byte holds."""
    return max(d for d in range(1, 9) if levels**d <= 256) if levels > 1 else 8


def _to_digits(codes: Bytes, levels: int) -> Bytes:
    """Σ code_j·levels^j over the codes of each byte."""
    groups = _padded(codes, _digits(levels))
    result = np.zeros(len(groups), np.uint8)
    for j in range(groups.shape[1]):
        result += groups[:, j] * np.uint8(levels**j % 256)
    return result


def _from_digits(stored: Bytes, levels: int, count: int) -> Bytes:
    powers = levels ** np.arange(_digits(levels))
    table = (np.arange(256)[:, None] // powers % levels).astype(np.uint8)
    return table[stored].reshape(-1)[:count]


def _padded(values: Bytes, size: int) -> Bytes:
    """(n,) → (⌈n/size⌉, size), zeros at the end."""
    return np.concatenate([values, np.zeros(-len(values) % size, np.uint8)]).reshape(-1, size)


def _deflate(data: Bytes) -> Bytes:
    """The smaller of Huffman's codes alone and zlib's usual way, which also finds what repeats."""
    results = []
    for strategy in (zlib.Z_HUFFMAN_ONLY, zlib.Z_DEFAULT_STRATEGY):
        deflate = zlib.compressobj(9 if strategy == zlib.Z_HUFFMAN_ONLY else 6, strategy=strategy)
        results.append(deflate.compress(data.data) + deflate.flush())
    return np.frombuffer(min(results, key=len), np.uint8)


def _inflate(name: str, stored: Bytes, size: int) -> Bytes:
    inflate = zlib.decompressobj()
    try:
        data = inflate.decompress(stored.data, size + 1)
    except (zlib.error, OverflowError) as error:
        raise ValueError(f"its {name} is no zlib stream of {size} bytes ({error})") from error
    if len(data) != size or not inflate.eof or inflate.unused_data:
        raise ValueError(f"its {name} is no zlib stream of {size} bytes")
    return np.frombuffer(data, np.uint8)


# -- codecs ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Codec:
    """How a tensor is stored: `encode` gives its parts by name and the further `fields` of its header entry; `decode` takes both."""

    parts: tuple[str, ...]
    fields: tuple[str, ...]
    encode: Callable[[Any], tuple[dict[str, Array], dict[str, Any]]]
    decode: Callable[[dict[str, Array], dict[str, Any]], "Array | Coded"]


def _encode_dense(tensor: Array) -> tuple[dict[str, Array], dict[str, Any]]:
    return {"values": tensor}, {}


def _decode_dense(parts: dict[str, Array], entry: dict[str, Any]) -> Array:
    return parts["values"]


def _encode_bitmap(tensor: Array) -> tuple[dict[str, Array], dict[str, Any]]:
    flat = tensor.reshape(-1)
    mask = flat.view(_INTEGERS[flat.dtype.name]) != 0
    return {"bitmap": np.packbits(mask, bitorder="little"), "values": flat[mask]}, {}


def _decode_bitmap(parts: dict[str, Array], entry: dict[str, Any]) -> Array:
    bitmap, values, count = parts["bitmap"], parts["values"], math.prod(entry["shape"])
    if bitmap.dtype != np.uint8 or bitmap.shape != (-(-count // 8),):
        raise ValueError(f"its bitmap is {_form(bitmap)}, and {count} entries need {-(-count // 8)} bytes")
    mask = np.unpackbits(bitmap, bitorder="little").view(np.bool_)
    marked = int(np.count_nonzero(mask))
    if mask[count:].any() or values.shape != (marked,):
        raise ValueError(f"its bitmap marks {marked} of {count} entries, and its values are {_form(values)}")
    result = np.zeros(count, values.dtype)
    result[mask[:count]] = values
    return result.reshape(entry["shape"])


def _encode_coded(coded: Coded) -> tuple[dict[str, Array], dict[str, Any]]:
    codes = coded.codes.reshape(-1)
    levels = int(codes.max(initial=0)) + 1
    digits = _to_digits(codes, levels)
    ways = {"bits": _to_bits(codes, coded.bits), "digits": digits, "zlib": _deflate(digits)}
    coding = min(ways, key=lambda way: ways[way].nbytes)
    parts, deflated = {"codes": ways[coding]}, {}
    for name, value in coded.parameters.items():
        parts[name] = narrow = _narrow(value)
        form = {"dtype": narrow.dtype.name, "shape": list(narrow.shape)}
        small = _deflate(np.ascontiguousarray(narrow).reshape(-1, 1).view(np.uint8).T.copy())
        if len(small) + len(json.dumps({name: form})) < narrow.nbytes:
            parts[name], deflated[name] = small, form
    return parts, {"bits": coded.bits, "group": coded.group, "levels": levels, "coding": coding, "deflated": deflated}


def _decode_coded(parts: dict[str, Array], entry: dict[str, Any]) -> Coded:
    bits, levels, coding, shape = entry["bits"], entry["levels"], entry["coding"], tuple(entry["shape"])
    if type(bits) is not int or not 1 <= bits <= 8 or type(levels) is not int or not 1 <= levels <= 2**bits:
        raise ValueError(f"it has {bits!r} bits and {levels!r} levels; bits go from 1 to 8 and levels to 2^bits")
    stored, count = parts["codes"], math.prod(shape)
    size = _bits_size(count, bits) if coding == "bits" else -(-count // _digits(levels))
    if coding not in ("bits", "digits", "zlib"):
        raise ValueError(f"its coding is {coding!r}; known are bits, digits and zlib")
    if stored.dtype != np.uint8 or stored.ndim != 1 or (coding != "zlib" and len(stored) != size):
        raise ValueError(f"its codes are {_form(stored)}, and {count} of them as {coding} need {size} bytes")
    if coding == "bits":
        codes = _from_bits(stored, bits, count)
    else:
        codes = _from_digits(_inflate("codes", stored, size) if coding == "zlib" else stored, levels, count)
    deflated = entry["deflated"]
    if not isinstance(deflated, dict) or not deflated.keys() <= set(_PARAMETERS[entry["codec"]]):
        raise ValueError(f"its deflated parameters are {deflated!r}; it has {', '.join(_PARAMETERS[entry['codec']])}")
    parameters = {name: _decode_parameter(name, parts[name], deflated.get(name)) for name in _PARAMETERS[entry["codec"]]}
    return Coded(entry["codec"], bits, shape, entry["group"], codes.reshape(shape), parameters)


def _decode_parameter(name: str, stored: Array, form: Any) -> Array:
    if form is None:
        result = stored
    elif stored.dtype != np.uint8 or stored.ndim != 1:
        raise ValueError(f"its {name} is {_form(stored)}, and a zlib stream is uint8 in one dimension")
    elif not isinstance(form, dict) or set(form) != {"dtype", "shape"} or form["dtype"] not in _NUMBERS or not _is_shape(form["shape"]):
        raise ValueError(f"its {name} is described as {form!r}; that takes dtype, one of {', '.join(_NUMBERS)}, and shape")
    else:
        dtype = np.dtype(form["dtype"])
        planes = _inflate(name, stored, math.prod(form["shape"]) * dtype.itemsize).reshape(dtype.itemsize, -1)
        result = planes.T.copy().view(dtype).reshape(form["shape"])
    if result.dtype.name not in _NUMBERS:
        raise ValueError(f"its {name} is {_form(result)}; that takes {', '.join(_NUMBERS)}")
    return result


def _narrow(values: Array) -> Array:
    """The same numbers, bit for bit as float32, in the narrowest of uint8, float16 and float32 that holds them."""
    exact = values.astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        narrower = [exact.astype(dtype) for dtype in (np.uint8, np.float16)]
    return next((n for n in narrower if np.array_equal(n.astype(np.float32).view(np.int32), exact.view(np.int32))), exact)


_OF_CODES = ("bits", "group", "levels", "coding", "deflated")
CODECS = {
    "dense": Codec(("values",), (), _encode_dense, _decode_dense),
    "bitmap": Codec(("bitmap", "values"), (), _encode_bitmap, _decode_bitmap),
} | {codec: Codec(("codes", *parameters), _OF_CODES, _encode_coded, _decode_coded) for codec, parameters in _PARAMETERS.items()}


# -- a state dict ------------------------------------------------------------------------------------------------


def pack(state: Mapping[str, Array | Coded]) -> tuple[dict[str, Array], dict[str, Any]]:
    """The tensors to store for a state dict, and the header that says how to read them.

    float32 and float16 become a bitmap where that is smaller, `Coded` stays in its codes; all else is dense.
    """
    tensors: dict[str, Array] = {}
    entries: dict[str, Any] = {}
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


def unpack(tensors: Mapping[str, Array], header: dict[str, Any]) -> dict[str, Array]:
    """The state dict of what `pack` gave, bit for bit, codes as their values; a `ValueError` where the two are not whole."""
    return {name: _values(value) for name, value in _unpack(header, tensors, tensors.__getitem__)}


def _values(value: Array | Coded) -> Array:
    return value.values() if isinstance(value, Coded) else value


def _unpack(header: Any, stored: Iterable[str], read: Callable[[str], Array]) -> Iterator[tuple[str, Array | Coded]]:
    """Name after name and what is stored by it, one at a time."""
    entries = _entries(header)
    wanted = {f"{name}:{part}" for name, entry in entries.items() for part in CODECS[entry["codec"]].parts}
    for what, names in (("lack", wanted.difference(stored)), ("should not have", set(stored) - wanted)):
        if names:
            raise ValueError(f"packed weights {what} {len(names)} tensors, the first {min(names)}")
    for name, entry in entries.items():
        yield name, _decode(name, entry, read)


def _entries(header: Any) -> dict[str, dict[str, Any]]:
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
        if not _is_shape(shape):
            raise ValueError(f"packed weights give {name} the shape {shape!r}; that takes a list of sizes")
    return entries


def _is_shape(shape: Any) -> bool:
    return isinstance(shape, list) and all(type(size) is int and size >= 0 for size in shape)


def _decode(name: str, entry: dict[str, Any], read: Callable[[str], Array]) -> Array | Coded:
    codec = CODECS[entry["codec"]]
    try:
        parts = {part: read(f"{name}:{part}") for part in codec.parts}
        checksum = _checksum(parts)
        if entry.get("crc32", checksum) != checksum:
            raise ValueError(f"its parts have the checksum {checksum}; the header says {entry['crc32']!r}")
        value = codec.decode(parts, entry)
    except ValueError as error:
        raise ValueError(f"packed weights are damaged at {name}: {error}") from error
    dtype = "float32" if isinstance(value, Coded) else value.dtype.name
    if list(value.shape) != entry["shape"] or dtype != entry["dtype"]:
        raise ValueError(f"packed weights have {name} as {dtype} {list(value.shape)}; the header says {entry['dtype']} {entry['shape']}")
    return value


def _form(tensor: Array) -> str:
    return f"{tensor.dtype.name} {list(tensor.shape)}"


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


def _load(path: str | Path) -> Iterator[tuple[str, Array | Coded]]:
    with safe_open(path, framework="np") as file:
        metadata = file.metadata() or {}
        header = json.loads(metadata.get(_HEADER, "null"))
        if isinstance(header, dict) and header.get("version") == VERSION:
            header.pop("crc32", None)
            if metadata != _metadata(header):
                raise ValueError("packed weights have a damaged header: it is not the one of its checksum")
        yield from _unpack(header, list(file.keys()), file.get_tensor)


def _metadata(header: dict[str, Any]) -> dict[str, str]:
    """One entry alone: safetensors writes several in any order, and equal weights are to give equal files."""
    return {_HEADER: json.dumps(header | {"crc32": zlib.crc32(json.dumps(header).encode())})}
