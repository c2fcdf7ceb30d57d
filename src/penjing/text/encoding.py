"""Encoding of texts to token ids: tokenizer files, checks of inputs, and truncation to a length.

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
    """Read a tokenizer.json.

    Raises:
        InputError: it is no tokenizer, or lacks what it needs for any text; the message begins with `what`.
    """
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
    """The encodings of texts by a tokenizer; an `InputError` names a text that it cannot encode."""
    try:
        return list(tokenizer.encode_batch(given, is_pretokenized=words))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        if len(given) == 1:
            raise InputError(f"tokenizer: it cannot encode {shown(given[0])} ({reason_of(error)}); give one that knows any text") from error
    return [encoding for text in given for encoding in encodings(tokenizer, [text], words)]


def prepare(tokenizer: Tokenizer, words: bool) -> None:
    """Set a tokenizer up, once: no padding, no truncation and, where it encodes single `words`, a space before each.

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
    """A text, or several, with lone surrogates (halves of a character) replaced by U+FFFD.

    JSON can contain a lone surrogate, but UTF-8, and so tokenizers, cannot. Two halves that fit become their character.
    """
    if not isinstance(given, str):
        return tuple(readable(text) for text in given)
    try:
        given.encode()
    except UnicodeEncodeError:
        return given.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return given


def listed(inputs: Any, takes: str) -> list[Any]:
    """The inputs of a prediction as a list: any ordered iterable, but no single text and no table."""
    if isinstance(inputs, str | bytes | bytearray):
        raise InputError(f"predict: got one text; give a list of texts ({takes})")
    tabular = isinstance(inputs, Mapping | Set) or hasattr(inputs, "columns")
    if tabular or not isinstance(inputs, Iterable) or getattr(inputs, "ndim", 1) == 0:
        raise InputError(f"predict: got a {type(inputs).__name__}; give a list ({takes})")
    return list(inputs)


def text_of(value: Any, where: str, takes: str) -> str:
    """A value that must be a text; else `InputError`."""
    if not isinstance(value, str):
        raise _wrong(value, where, takes)
    return str(value)


def texts_of(value: Any, where: str, takes: str, count: int | None = None) -> tuple[str, ...]:
    """A value that must be a sequence of texts, `count` of them where that is given; else `InputError`."""
    array = isinstance(value, np.ndarray) and value.ndim == 1
    if isinstance(value, str | bytes | bytearray) or not (array or isinstance(value, Sequence)) or count not in (None, len(value)):
        raise _wrong(value, where, takes)
    return tuple(text_of(text, f"{where}[{i}]", takes) for i, text in enumerate(value))


def _wrong(value: Any, where: str, takes: str) -> InputError:
    return InputError(f"predict: {where} is {'None' if value is None else f'a {type(value).__name__}, {shown(value)}'}; {takes}")


# -- the cut -------------------------------------------------------------------------------------------------------


def kept_tokens(encoding: Encoding, max_length: int, left: bool = False) -> list[int]:
    """Truncation: numbers of the tokens of a text, or of two, that are kept in `max_length`, as by tokenizers' `longest_first`.

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
    """The numbers of tokens that two texts keep in a room."""
    if first + second <= room:
        return first, second
    short, long = sorted((first, second))
    long = max(short, room - short) if short <= room else short
    if short + long > room:
        short, long = room // 2, room - room // 2
    return (short, long) if first <= second else (long, short)
