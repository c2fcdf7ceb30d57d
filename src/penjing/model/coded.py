"""Low-bit tensors: codes and parameters, and their encoding in the fewest bytes; the file format is that of `packing.py`.

This file imports numpy alone, because it travels with every model that is saved.
"""

import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Json = dict[str, Any]
"""A JSON object of a file's header."""
Array = NDArray[Any]
Float = NDArray[np.float32]
Bytes = NDArray[np.uint8]

PARAMETERS = {"grid": ("scale", "zero"), "codebook": ("table",), "power": ("scale",)}
"""Names of the parameters that a group's codes share, by codec."""
NUMBERS = ("uint8", "float16", "float32")
"""Data types of stored parameters."""
AT_ONCE = 2**18
"""Entries that are decoded at a time, to keep intermediate arrays small."""


@dataclass(frozen=True)
class Coded:
    """A low-bit tensor: codes, and parameters that the entries of a group share; `ValueError` where they do not fit.

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
        if self.codec not in PARAMETERS:
            raise ValueError(f"the codec {self.codec!r} has no codes; those that have are {', '.join(PARAMETERS)}")
        if type(self.bits) is not int or not 1 <= self.bits <= 8 or type(self.group) is not int or self.group < 0:
            raise ValueError(f"bits are {self.bits!r} and the group {self.group!r}; they go from 1 to 8 and from 0")
        if self.codes.dtype != np.uint8 or self.codes.shape != tuple(self.shape):
            raise ValueError(f"codes are {form_of(self.codes)}, and the shape {list(self.shape)}")
        if set(self.parameters) != set(PARAMETERS[self.codec]):
            raise ValueError(f"parameters are {', '.join(self.parameters)}; {self.codec} takes {', '.join(PARAMETERS[self.codec])}")
        for name, value in self.parameters.items():
            sizes = {self.groups, 1} if name == "zero" else {self.groups}
            if value.ndim != (2 if name == "table" else 1) or len(value) not in sizes:
                raise ValueError(f"its {name} is {form_of(value)}, and there are {self.groups} groups")
        levels = {"grid": 2**self.bits, "power": 2**self.bits - 1}.get(self.codec) or self.parameters["table"].shape[1]
        if self.codes.size and int(self.codes.max()) >= levels:
            raise ValueError(f"a code is {self.codes.max()}, and there are {levels} levels")

    @property
    def groups(self) -> int:
        """The number of groups."""
        rows, columns = self._rows
        return rows * -(-columns // self.group) if self.group else 1

    @property
    def bytes(self) -> int:
        """The bytes of the parts on disk."""
        return sum(part.nbytes for part in encode_coded(self)[0].values())

    @property
    def _rows(self) -> tuple[int, int]:
        """Rows and columns of the matrix of codes; where all share one set, each entry is a row."""
        if not self.group:
            return math.prod(self.shape), 1
        return math.prod(self.shape[:-1]), self.shape[-1] if self.shape else 1

    def values(self) -> Float:
        """The decoded tensor in float32."""
        rows, columns = self._rows
        codes = self.codes.reshape(rows, columns)
        result = np.empty((rows, columns), np.float32)
        step = max(1, AT_ONCE // max(1, columns))
        for i in range(0, rows, step):
            part = slice(i, i + step)
            result[part] = self._decode(codes[part], part)
        return result.reshape(self.shape)

    def _decode(self, codes: Bytes, rows: slice) -> Float:
        """The decoded values of some rows of codes."""
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
        """A parameter repeated for each entry of some rows, or one for all of them."""
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
    """Bit packing of codes: `bits` bits each, the lowest first, so that eight codes take `bits` bytes."""
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
    """The number of codes below `levels` that fit in a byte."""
    return max(d for d in range(1, 9) if levels**d <= 256) if levels > 1 else 8


def _to_digits(codes: Bytes, levels: int) -> Bytes:
    """Mixed-radix packing of codes: Σ code_j·levels^j over the codes of each byte."""
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
    """Values (n,) as rows (⌈n/size⌉, size), padded with zeros."""
    return np.concatenate([values, np.zeros(-len(values) % size, np.uint8)]).reshape(-1, size)


def _deflate(data: Bytes) -> Bytes:
    """The smaller zlib stream of two strategies: Huffman codes alone, and the default, which also matches repetitions."""
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


# -- parts ---------------------------------------------------------------------------------------------------------


def encode_coded(coded: Coded) -> tuple[dict[str, Array], Json]:
    codes = coded.codes.reshape(-1)
    levels = int(codes.max(initial=0)) + 1
    digits = _to_digits(codes, levels)
    ways = {"bits": _to_bits(codes, coded.bits), "digits": digits, "zlib": _deflate(digits)}
    coding = min(ways, key=lambda way: ways[way].nbytes)
    parts = {"codes": ways[coding]}
    deflated = {}
    for name, value in coded.parameters.items():
        parts[name] = narrow = _narrow(value)
        form = {"dtype": narrow.dtype.name, "shape": list(narrow.shape)}
        small = _deflate(np.ascontiguousarray(narrow).reshape(-1, 1).view(np.uint8).T.copy())
        if len(small) + len(json.dumps({name: form})) < narrow.nbytes:
            parts[name] = small
            deflated[name] = form
    return parts, {"bits": coded.bits, "group": coded.group, "levels": levels, "coding": coding, "deflated": deflated}


def decode_coded(parts: dict[str, Array], entry: Json) -> Coded:
    bits, levels, coding, shape = entry["bits"], entry["levels"], entry["coding"], tuple(entry["shape"])
    if type(bits) is not int or not 1 <= bits <= 8 or type(levels) is not int or not 1 <= levels <= 2**bits:
        raise ValueError(f"it has {bits!r} bits and {levels!r} levels; bits go from 1 to 8 and levels to 2^bits")
    stored = parts["codes"]
    count = math.prod(shape)
    size = _bits_size(count, bits) if coding == "bits" else -(-count // _digits(levels))
    if coding not in ("bits", "digits", "zlib"):
        raise ValueError(f"its coding is {coding!r}; known are bits, digits and zlib")
    if stored.dtype != np.uint8 or stored.ndim != 1 or (coding != "zlib" and len(stored) != size):
        raise ValueError(f"its codes are {form_of(stored)}, and {count} of them as {coding} need {size} bytes")
    if coding == "bits":
        codes = _from_bits(stored, bits, count)
    else:
        codes = _from_digits(_inflate("codes", stored, size) if coding == "zlib" else stored, levels, count)
    deflated = entry["deflated"]
    if not isinstance(deflated, dict) or not deflated.keys() <= set(PARAMETERS[entry["codec"]]):
        raise ValueError(f"its deflated parameters are {deflated!r}; it has {', '.join(PARAMETERS[entry['codec']])}")
    parameters = {name: _decode_parameter(name, parts[name], deflated.get(name)) for name in PARAMETERS[entry["codec"]]}
    return Coded(entry["codec"], bits, shape, entry["group"], codes.reshape(shape), parameters)


def _decode_parameter(name: str, stored: Array, form: Any) -> Array:
    if form is None:
        result = stored
    elif stored.dtype != np.uint8 or stored.ndim != 1:
        raise ValueError(f"its {name} is {form_of(stored)}, and a zlib stream is uint8 in one dimension")
    elif not isinstance(form, dict) or set(form) != {"dtype", "shape"} or form["dtype"] not in NUMBERS or not is_shape(form["shape"]):
        raise ValueError(f"its {name} is described as {form!r}; that takes dtype, one of {', '.join(NUMBERS)}, and shape")
    else:
        dtype = np.dtype(form["dtype"])
        planes = _inflate(name, stored, math.prod(form["shape"]) * dtype.itemsize).reshape(dtype.itemsize, -1)
        result = planes.T.copy().view(dtype).reshape(form["shape"])
    if result.dtype.name not in NUMBERS:
        raise ValueError(f"its {name} is {form_of(result)}; that takes {', '.join(NUMBERS)}")
    return result


def _narrow(values: Array) -> Array:
    """The narrowest type of uint8, float16 and float32 that holds these numbers exactly, bit for bit as float32."""
    exact = values.astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        narrower = [exact.astype(dtype) for dtype in (np.uint8, np.float16)]
    return next((n for n in narrower if np.array_equal(n.astype(np.float32).view(np.int32), exact.view(np.int32))), exact)


def is_shape(shape: Any) -> bool:
    return isinstance(shape, list) and all(type(size) is int and size >= 0 for size in shape)


def form_of(tensor: Array) -> str:
    return f"{tensor.dtype.name} {list(tensor.shape)}"
