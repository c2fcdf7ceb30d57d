"""From texts to token numbers: the tokenizer's file, what it is given, and the cut to a length.

A tokenizer is one object that many threads call, and to change it while another thread encodes fails ("Already borrowed") or changes
what that thread gets. So it is set up once, alike for every length (`prepare`), and cutting is done here (`kept_tokens`). That is also
cheaper: tokenizers cuts a text into all its pieces, and two long texts into each piece of one with each of the other.
"""

import threading
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Encoding, Tokenizer, pre_tokenizers

from penjing.errors import InputError, reason_of, shown

NOWHERE = "a \u0378"
"""A text with a character that no vocabulary has."""
NEVER = 2**40
"""Tokens to cut at that no text has."""
_PREPARING = threading.Lock()


# -- the tokenizer -------------------------------------------------------------------------------------------------


def open_tokenizer(path: Path, what: str) -> Tokenizer:
    """Read a tokenizer.json; one that is no tokenizer, or that lacks what it needs for any text, is an `InputError` that begins with `what`."""
    try:
        tokenizer = Tokenizer.from_file(str(path))
        prepare(tokenizer, words=False)
        tokenizer.encode(NOWHERE)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # what its Rust code did not foresee is no Exception
        raise InputError(f"{what}: {path} is no tokenizer ({reason_of(error)}); copy it again") from error
    return tokenizer


def encodings(tokenizer: Tokenizer, given: Sequence[Any], words: bool) -> list[Encoding]:
    """What the tokenizer makes of texts; where it cannot, an `InputError` names the text."""
    try:
        return list(tokenizer.encode_batch(given, is_pretokenized=words))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        if len(given) == 1:
            raise InputError(f"tokenizer: it cannot encode {shown(given[0])} ({reason_of(error)}); give one that knows any text") from error
    return [encoding for each in given for encoding in encodings(tokenizer, [each], words)]


def prepare(tokenizer: Tokenizer, words: bool) -> None:
    """Set `tokenizer` up to pad and cut nothing and, where it is given `words` alone, to see a space before each; nothing is done where it is.

    The side that its file says is cut stays. Threads that share a tokenizer must agree on `words`.
    """
    if _prepared(tokenizer, words):
        return
    with _PREPARING:
        if _prepared(tokenizer, words):  # by another thread meanwhile, which may be encoding
            return
        tokenizer.no_padding()
        if tokenizer.truncation is not None:
            tokenizer.enable_truncation(NEVER, direction=tokenizer.truncation["direction"])
        if words and isinstance(tokenizer.pre_tokenizer, pre_tokenizers.ByteLevel):
            tokenizer.pre_tokenizer.add_prefix_space = True


def _prepared(tokenizer: Tokenizer, words: bool) -> bool:
    truncation = tokenizer.truncation
    if tokenizer.padding is not None or (truncation is not None and truncation["max_length"] != NEVER):
        return False
    # A byte-level tokenizer (RoBERTa) must see a space before each word that is given alone.
    return not (words and isinstance(tokenizer.pre_tokenizer, pre_tokenizers.ByteLevel)) or tokenizer.pre_tokenizer.add_prefix_space


# -- what it is given ----------------------------------------------------------------------------------------------


def readable(given: Any) -> Any:
    """A text, or several, with every half of a character replaced by U+FFFD, as other characters that cannot be read are.

    JSON can hold such a half (a lone surrogate), and UTF-8 and so tokenizers can not. Two halves that fit are their character.
    """
    if not isinstance(given, str):
        return tuple(readable(each) for each in given)
    try:
        given.encode()
    except UnicodeEncodeError:
        return given.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return given


def listed(inputs: Any, takes: str) -> list[Any]:
    """What a person gave to be answered, in order: anything that can be gone through, but a text, or what has no order or no single column."""
    if isinstance(inputs, str | bytes | bytearray):
        raise InputError(f"predict: got one text; give a list of texts ({takes})")
    tabular = isinstance(inputs, Mapping | Set) or hasattr(inputs, "columns")
    if tabular or not isinstance(inputs, Iterable) or getattr(inputs, "ndim", 1) == 0:
        raise InputError(f"predict: got a {type(inputs).__name__}; give a list ({takes})")
    return list(inputs)


def text_of(value: Any, where: str, takes: str) -> str:
    """`value`, which has to be a text."""
    if not isinstance(value, str):
        raise _wrong(value, where, takes)
    return str(value)


def texts_of(value: Any, where: str, takes: str, count: int | None = None) -> tuple[str, ...]:
    """`value`, which has to be a sequence of texts, of `count` of them where that is given."""
    array = isinstance(value, np.ndarray) and value.ndim == 1
    if isinstance(value, str | bytes | bytearray) or not (array or isinstance(value, Sequence)) or count not in (None, len(value)):
        raise _wrong(value, where, takes)
    return tuple(text_of(each, f"{where}[{i}]", takes) for i, each in enumerate(value))


def _wrong(value: Any, where: str, takes: str) -> InputError:
    return InputError(f"predict: {where} is {'None' if value is None else f'a {type(value).__name__}, {shown(value)}'}; {takes}")


# -- the cut -------------------------------------------------------------------------------------------------------


def kept_tokens(encoding: Encoding, max_length: int, left: bool = False) -> list[int]:
    """Which tokens of a text, or of two, are kept where they are more than `max_length`, as tokenizers' `longest_first` cuts.

    Special tokens all stay; of a text its first tokens, or with `left` its last, and of two the longer is cut first.
    """
    sequences = encoding.sequence_ids
    parts = [[i for i, sequence in enumerate(sequences) if sequence == number] for number in (0, 1)]
    room = max_length - sequences.count(None)
    if room < 1:
        raise InputError(f"max_length: {max_length} leaves no room beside the {sequences.count(None)} special tokens of a text; give more")
    dropped: set[int] = set()
    for part, size in zip(parts, _sizes(len(parts[0]), len(parts[1]), room), strict=True):
        dropped.update(part[: len(part) - size] if left else part[size:])
    return [i for i in range(len(sequences)) if i not in dropped]


def _sizes(first: int, second: int, room: int) -> tuple[int, int]:
    """How many tokens two texts of so many keep."""
    if first + second <= room:
        return first, second
    short, long = sorted((first, second))
    long = max(short, room - short) if short <= room else short
    if short + long > room:
        short, long = room // 2, room - room // 2
    return (short, long) if first <= second else (long, short)
