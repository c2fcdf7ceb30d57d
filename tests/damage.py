"""The ways in which a file is damaged: cut, flipped, moved, given sizes and values that it should not have."""

import json
import re
from typing import Any

import numpy as np

Random = np.random.Generator

HOSTILE: list[Any] = [
    None, True, -1, 0, 1, 2**31, 2**40, 2**63, 10**30, 0.5, -0.0, 1e308, float("nan"), float("inf"), "", "x", "../x", "/etc/passwd", "\ud800",
    "9" * 400, [], {}, [[[]]], {"a": 1}, [2**40], [None], "\x00", "é" * 300,
]  # fmt: skip
NUMBERS = [b"1099511627776", b"-1", b"1e999", b"NaN", b"0", b"4294967295", b"9" * 400, b"0x1F"]
SIZES = [2**40, 2**63, 2**64 - 1, 0, 1, 2**31]


def cut(content: bytes, random: Random) -> bytes:
    return content[: int(random.integers(len(content) + 1))]


def flipped(content: bytes, random: Random) -> bytes:
    result = bytearray(content)
    for _ in range(int(random.integers(1, 9)) if content else 0):
        result[int(random.integers(len(content)))] ^= int(random.integers(1, 256))
    return bytes(result)


def noise(content: bytes, random: Random) -> bytes:
    return random.bytes(int(random.integers(300)))


def moved(content: bytes, random: Random) -> bytes:
    """A piece left out, twice, of zeros, or of noise."""
    start, stop = sorted(int(i) for i in random.integers(len(content) + 1, size=2))
    stop = min(stop, start + 1000)
    piece = content[start:stop]
    return content[:start] + [b"", 2 * piece, bytes(len(piece)), random.bytes(len(piece))][int(random.integers(4))] + content[stop:]


def sized(content: bytes, random: Random) -> bytes:
    """A length, where there may be one, that is huge."""
    place = int(random.choice([0, int(random.integers(len(content) + 1))]))
    size = SIZES[int(random.integers(len(SIZES)))].to_bytes(8, "little")[: int(random.choice([4, 8]))]
    return content[:place] + size + content[place + len(size) :]


def renumbered(content: bytes, random: Random) -> bytes:
    """A number in a text that is another."""
    found = list(re.finditer(rb"-?\d+(\.\d+)?", content[:100_000]))
    if not found:
        return flipped(content, random)
    one = found[int(random.integers(len(found)))]
    return content[: one.start()] + NUMBERS[int(random.integers(len(NUMBERS)))] + content[one.end() :]


def nested(content: bytes, random: Random) -> bytes:
    return [b"[", b'{"a":', b"- "][int(random.integers(3))] * 5000


def restructured(content: bytes, random: Random) -> bytes:
    """One value, key or item of JSON, of JSON Lines' first line, or of a safetensors' header, that is another."""
    try:
        size = int.from_bytes(content[:8], "little")
        if content[8:9] == b"{" and size <= len(content):
            header = json.loads(content[8 : 8 + size])
            text = json.dumps(_changed(header, random)).encode()
            return len(text).to_bytes(8, "little") + text + content[8 + size :]
        first, _, rest = content.partition(b"\n")
        try:
            return json.dumps(_changed(json.loads(content), random)).encode()
        except ValueError:
            return json.dumps(_changed(json.loads(first), random)).encode() + b"\n" + rest
    except ValueError:
        return moved(content, random)


def _changed(value: Any, random: Random) -> Any:
    """A JSON value with one thing in it changed."""
    if isinstance(value, dict) and value and random.random() < 0.9:
        name = list(value)[int(random.integers(len(value)))]
        if random.random() < 0.1:
            return {key: each for key, each in value.items() if key != name}
        if random.random() < 0.1:
            return {f"{key}x" if key == name else key: each for key, each in value.items()}
        return value | {name: _changed(value[name], random)}
    if isinstance(value, list) and value and random.random() < 0.8:
        place = int(random.integers(len(value)))
        if random.random() < 0.2:
            return [*value[:place], *value[place + 1 :]]
        return [*value[:place], _changed(value[place], random), *value[place + 1 :]]
    if isinstance(value, str) and value.startswith("{") and random.random() < 0.9:  # JSON in JSON: our own headers
        try:
            return json.dumps(_changed(json.loads(value), random))
        except ValueError:
            pass
    return HOSTILE[int(random.integers(len(HOSTILE)))]


WAYS = (cut, flipped, noise, moved, sized, renumbered, nested, restructured, restructured, restructured)


def damaged(content: bytes, random: Random) -> bytes:
    """The content, damaged in one way."""
    return WAYS[int(random.integers(len(WAYS)))](content, random)
