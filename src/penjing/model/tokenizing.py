"""The tokenizer of a model folder as AutoTokenizer makes it, in one tokenizer.json that the tokenizers library reads by itself.

A folder says twice how its texts become tokens: tokenizer.json, and tokenizer_config.json with further files, which transformers puts
over it (lower case, accents, Chinese characters, a space before the first word, the side that is cut, added tokens). Serving reads
tokenizer.json alone, so what is written there is what transformers makes of all of them.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from penjing.errors import InputError, reason_of
from penjing.files.whole import Json, write_bytes, write_json
from penjing.model.weights import json_object

TOKENIZER = "tokenizer.json"
CONFIG = "tokenizer_config.json"
FILES = (
    TOKENIZER, CONFIG, "special_tokens_map.json", "added_tokens.json", "vocab.txt", "vocab.json", "merges.txt", "sentencepiece.bpe.model",
)  # fmt: skip
"""The files of a tokenizer in a model folder."""
VOCABULARIES = (TOKENIZER, "vocab.txt", "vocab.json", "sentencepiece.bpe.model")
"""The files that hold tokens: one of them is needed."""
NO_LENGTH = 1_000_000
"""A model_max_length from here on is none: transformers writes 10³⁰ where nothing is said."""


@dataclass(frozen=True)
class Made:
    """The tokenizer of a folder, converted.

    content: of its tokenizer.json. kind: the class of transformers' tokenizer. alike: whether the folder's own tokenizer.json is
    equivalent.
    """

    content: bytes
    kind: str
    alike: bool


def tokenizer_at(folder: Path) -> Made:
    """The tokenizer of a model folder, as AutoTokenizer makes it.

    Raises:
        InputError: a file is missing or damaged, or the vocabulary lacks a token that every text or an unknown word takes.
    """
    digest = hashlib.sha256()
    for name in (*FILES, "config.json"):
        if (folder / name).is_file():
            digest.update(name.encode() + hashlib.sha256((folder / name).read_bytes()).digest())
    return _made(folder, digest.hexdigest())


def longest_said(folder: Path) -> int | None:
    """The longest text in tokens by tokenizer_config.json; None where it gives none."""
    path = folder / CONFIG
    config = json_object(path, "a tokenizer's configuration") if path.is_file() else {}
    value = config.get("model_max_length") or config.get("max_len")
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is None or (number and value >= NO_LENGTH):
        return None
    if not number or not value >= 1 or value != int(value):
        raise InputError(f"model: {path} says model_max_length {str(value)[:60]!r}; give how many tokens a text may have")
    return int(value)


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy the tokenizer of the model folder `source`; the copy's tokenizer.json is complete."""
    made = tokenizer_at(source)
    for name in FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    config = json_object(source / CONFIG, "a tokenizer's configuration") if (source / CONFIG).is_file() else None
    if config is None or not (source / TOKENIZER).is_file():
        _auto(source).save_pretrained(target)
    elif "tokenizer_class" not in config:  # known by the family so far, which a pruned model's own format does not name
        write_json(target / CONFIG, config | {"tokenizer_class": made.kind})
    write_bytes(target / TOKENIZER, made.content)


@contextmanager
def understood(what: str) -> Iterator[None]:
    """Context manager that turns any error in reading a user's file into an `InputError` that names it.

    Errors of the Rust code of tokenizers may be no `Exception`.
    """
    try:
        yield
    except (InputError, KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:
        raise InputError(f"model: {what} cannot be read ({reason_of(error)}); copy it again") from error


def parse(content: bytes, path: Path) -> Tokenizer:
    """The tokenizer of a tokenizer.json; an `InputError` where it is none."""
    with understood(f"the tokenizer {path}"):
        return Tokenizer.from_buffer(content)


def check_fits(tokenizer: Tokenizer, folder: Path, rows: int, types: int, unplaced: int | None) -> None:
    """An `InputError` where the tokenizer is not the one of a model with `rows` tokens and `types` token types (0 or 1: they are not read).

    unplaced: the token that takes no position, which no text may have; None: there is none.
    """
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    beyond = sorted((number, token) for token, number in vocabulary.items() if number >= rows)
    if beyond:
        raise InputError(
            f"model: the tokenizer of {folder} has {beyond[0][1]!r} as token {beyond[0][0]}, and the model {rows} tokens; give the model's own"
            " tokenizer, or train one of more tokens (resize_token_embeddings)"
        )
    single, pair = tokenizer.encode("a"), tokenizer.encode("a", "a")
    if types > 1 and (any(single.type_ids) or max(pair.type_ids, default=0) >= types):
        raise InputError(
            f"model: the tokenizer of {folder} makes token types that the model has not, {types} of them; give the model's own tokenizer"
        )
    special = {number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    unknown = tokenizer.token_to_id(getattr(tokenizer.model, "unk_token", None) or "")
    taken = {unknown, *(number for number, mask in zip(pair.ids, pair.special_tokens_mask, strict=True) if mask)}
    if unplaced is not None and tokenizer.id_to_token(unplaced) is not None and (unplaced not in special or unplaced in taken):
        raise InputError(
            f"model: {folder} pads with token {unplaced} (pad_token_id), {tokenizer.id_to_token(unplaced)!r} in its tokenizer, which texts hold:"
            " it would get no position; give the tokenizer that the model was trained with"
        )


@lru_cache(maxsize=4)
def _made(folder: Path, digest: str) -> Made:
    """The converted tokenizer, cached by the `digest` of the files: they may change."""
    with understood(f"the tokenizer of {folder}"):
        return _make(folder)


def _make(folder: Path) -> Made:
    own = folder / TOKENIZER
    if not any((folder / name).is_file() for name in VOCABULARIES):
        raise InputError(
            f"model: {folder} has no tokenizer; copy {TOKENIZER} (or vocab.txt; vocab.json and merges.txt; sentencepiece.bpe.model) from the"
            " model that it was made from"
        )
    if not own.is_file() and (folder / "vocab.json").is_file() and not (folder / "merges.txt").is_file():
        raise InputError(f"model: {folder} has vocab.json, and no merges.txt to go with it; copy it too, or tokenizer.json")
    config = json_object(folder / CONFIG, "a tokenizer's configuration") if (folder / CONFIG).is_file() else {}
    if config.get("auto_map"):
        raise InputError(f"model: {folder / CONFIG} names code of its own (auto_map), which is never run; give a tokenizer of transformers")
    tokenizer = _auto(folder)
    needed = {file: name for file, name in type(tokenizer).vocab_files_names.items() if file != "tokenizer_file" and name}
    missing = [name for name in needed.values() if not (folder / name).is_file()]
    if missing and not own.is_file():
        raise InputError(
            f"model: {folder} has no {missing[0]}, which {type(tokenizer).__name__} takes, and no {TOKENIZER}; copy one of them"
        )
    if not hasattr(tokenizer, "backend_tokenizer"):
        raise InputError(
            f"model: the tokenizer of {folder}, {type(tokenizer).__name__}, is one of Python alone; only those of the library tokenizers are supported"
        )
    if tokenizer.split_special_tokens:
        raise InputError(f"model: {folder / CONFIG} says split_special_tokens, which is not followed; leave it out")
    rows = json_object(folder / "config.json", "a configuration").get("vocab_size") if (folder / "config.json").is_file() else None
    mask = tokenizer.mask_token_id
    known = set(tokenizer.backend_tokenizer.get_vocab(with_added_tokens=False)) | set(_declared(folder))
    if isinstance(rows, int) and mask is not None and mask >= rows and tokenizer.mask_token not in known:
        tokenizer = _auto(folder, mask_token=None)  # transformers' own, of a model that never saw one
    backend = tokenizer.backend_tokenizer
    backend.no_padding()
    backend.no_truncation()
    lacking = [token for token in backend.encode("", "").tokens if token not in known]
    unknown = getattr(backend.model, "unk_token", None)
    if unknown and unknown not in backend.get_vocab(with_added_tokens=False):
        lacking.append(unknown)
    if lacking:
        raise InputError(
            f"model: the vocabulary of {folder} has no {lacking[0]!r}, which its tokenizer takes; copy the model's own vocabulary"
        )
    if tokenizer.truncation_side == "left":
        backend.enable_truncation(NO_LENGTH, direction="left")
    content = backend.to_str().encode()
    before = own.read_bytes() if own.is_file() else b""
    alike = bool(before) and _compared(before, own) == _compared(content, folder)
    return Made(before if alike else content, type(tokenizer).__name__, alike)


def _auto(folder: Path, **changes: Any) -> Any:
    """transformers' tokenizer of a folder; no code of the folder is run, and nothing is fetched."""
    import transformers

    spoken = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        return transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True, **changes)
    finally:
        transformers.logging.set_verbosity(spoken)


def _declared(folder: Path) -> Iterator[str]:
    """The tokens that the tokenizer's files add to the vocabulary."""
    for name, field in ((TOKENIZER, "added_tokens"), (CONFIG, "added_tokens_decoder"), ("added_tokens.json", None)):
        if not (folder / name).is_file():
            continue
        content: Any = json_object(folder / name, "a table")
        added = content if field is None else content.get(field) or {}
        for entry in added.values() if isinstance(added, dict) and field else added:
            yield str(entry.get("content") if isinstance(entry, dict) else entry)


def _compared(content: bytes, path: Path) -> Json:
    """The content of a tokenizer.json for comparison: without padding, and of truncation the side alone.

    Scores are as they are written: the library reads many of them wrong by one unit in the last place.
    """
    tokenizer = parse(content, path)
    content_json: Json = json.loads(tokenizer.to_str()) | {"padding": None}
    content_json["truncation"] = "left" if tokenizer.truncation and tokenizer.truncation["direction"] == "left" else "right"
    if content_json["model"]["type"] == "Unigram":
        content_json["model"]["vocab"] = json.loads(content)["model"]["vocab"]
    return content_json
