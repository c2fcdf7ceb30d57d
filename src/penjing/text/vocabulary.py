"""Vocabulary pruning: the choice of tokens to keep, and tokenizer files rewritten to match.

A user's texts never produce most tokens of BERT or XLM-R, and each costs a row of the embedding. The kept tokens are numbered
0 … K - 1 in their old order. What spells a word out of sub-words always stays, so that a word whose own token is gone
falls back to smaller ones. Where each character of the vocabulary's tokens is a token by itself, as trainers make it, no word
becomes unknown that was not. (A word of a WordLevel tokenizer, which has no sub-words, does.)

`tokenizer` is always a parsed tokenizer.json. WordPiece, BPE, Unigram and WordLevel differ here in what spells a word, in BPE's
merges, and in Unigram's list with scores.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from penjing.errors import InputError
from penjing.files.whole import Json, write_json, write_text


def choose_tokens(tokenizer: Json, counts: NDArray[np.int64], part: float | None) -> tuple[int, ...]:
    """Choose the tokens to keep; returns their ids, ascending.

    `counts` (V,) says how often the texts produced each token of the model's V; count whole texts, since one that is cut
    within a word may spell its beginning otherwise. Special and added tokens are kept, and what spells any word. Beside
    these, with `part` None, every token that was seen: the texts then give the same tokens as before. With a `part` in
    (0, 1] the most frequent tokens, ties by number, until round(part · V) are kept in all; a BPE token comes with all that
    it is merged from, and is passed over where they are too many.

    Raises `InputError` where `part` is too small for what is always kept, or the tokenizer has more tokens than the model.
    """
    read = _as_read(tokenizer)
    numbers = _numbers(read)
    parts = _parts(read["model"])
    if max(numbers) >= len(counts):
        raise InputError(f"tokenizer: has token number {max(numbers)}, and the model {len(counts)} tokens; give the model's own tokenizer")
    kept = _with_parts(_named(read) | _spelling(read), set(), parts)
    seen = counts.tolist()
    if part is None:
        return tuple(sorted(kept | _with_parts({number for number in numbers if seen[number]}, kept, parts)))

    target = round(part * len(counts))
    if part > 1 or target < len(kept):
        smallest = math.ceil(10_000 * len(kept) / len(counts)) / 10_000
        raise InputError(f"part of the vocabulary: {part} is not allowed; {len(kept)} of {len(counts)} must stay, so give {smallest} to 1")
    for number in sorted(numbers - kept, key=lambda number: (-seen[number], number)):
        more = _with_parts({number}, kept, parts)
        if len(kept) + len(more) <= target:
            kept |= more
    return tuple(sorted(kept))


def renumber(tokenizer: Json, kept: tuple[int, ...]) -> Json:
    """The tokenizer with the tokens `kept` alone, ascending; token `kept[i]` becomes number i. The input is not modified.

    Raises `InputError` where the tokenizer cannot be read, or `kept` lacks a token that it names, or holds one it has not.
    """
    read = _as_read(tokenizer)
    if list(kept) != sorted(set(kept)) or not _named(read) <= set(kept) <= _numbers(read):
        raise InputError(f"tokens kept: {len(kept)} numbers; give ascending ones of the tokenizer, with {sorted(_named(read))} among them")
    new = {old: number for number, old in enumerate(kept)}
    for container, key in _references(read):
        container[key] = new[container[key]]

    model = read["model"]
    if model["type"] == "Unigram":
        model["vocab"] = [entry for old, entry in enumerate(model["vocab"]) if old in new]
    else:
        model["vocab"] = {token: new[old] for token, old in sorted(model["vocab"].items(), key=lambda item: item[1]) if old in new}
    if model["type"] == "BPE":
        model["merges"] = [pair for pair in model["merges"] if {*pair, _merged(model, pair)} <= model["vocab"].keys()]
    return read


def write_pruned(source: Path, target: Path, kept: tuple[int, ...]) -> None:
    """Write the tokenizer of the folder `source` into the folder `target` with the tokens `kept` alone.

    That is tokenizer.json, and of the files that repeat it those that `source` has. sentencepiece.bpe.model is left out:
    tokenizer.json holds all of it. Raises what `renumber` raises.
    """
    pruned = renumber(_load(source / "tokenizer.json"), kept)
    write_json(target / "tokenizer.json", pruned)
    new = {old: number for number, old in enumerate(kept)}

    if (source / "tokenizer_config.json").is_file():
        config = _load(source / "tokenizer_config.json")
        if "added_tokens_decoder" in config:
            known = ((new.get(int(old)), token) for old, token in config["added_tokens_decoder"].items())
            config["added_tokens_decoder"] = {str(number): token for number, token in known if number is not None}
        write_json(target / "tokenizer_config.json", config)
    if (source / "special_tokens_map.json").is_file():
        write_json(target / "special_tokens_map.json", _load(source / "special_tokens_map.json"))
    if (source / "added_tokens.json").is_file():
        added = _load(source / "added_tokens.json")
        write_json(target / "added_tokens.json", {token: new[old] for token, old in added.items() if old in new})

    model = pruned["model"]
    if (source / "vocab.txt").is_file() and model["type"] == "WordPiece":
        write_text(target / "vocab.txt", "".join(f"{token}\n" for token in model["vocab"]))
    if (source / "vocab.json").is_file() and model["type"] in ("BPE", "WordLevel"):
        write_json(target / "vocab.json", model["vocab"])
    if (source / "merges.txt").is_file() and model["type"] == "BPE":
        write_text(target / "merges.txt", "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in model["merges"]))


def _load(path: Path) -> Json:
    try:
        content: Json = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise InputError(f"tokenizer: {path} is no JSON ({error}); copy it again") from error
    return content


def _as_read(tokenizer: Json) -> Json:
    """The tokenizer as the library reads it: the model's type named, merges as pairs, added tokens under the numbers they get.

    Scores stay as they are given: the library reads many of them wrong by one unit in the last place, so writing what it
    has read would move them once more, and a word's two spellings can be that close.
    """
    try:
        read: Json = json.loads(Tokenizer.from_str(json.dumps(tokenizer)).to_str())
    except Exception as error:
        raise InputError(f"tokenizer: cannot be read ({str(error)[:160]}); allowed are WordPiece, BPE, Unigram and WordLevel") from error
    if read["model"]["type"] == "Unigram":
        read["model"]["vocab"] = tokenizer["model"]["vocab"]
    own = dict(_own(read["model"]))
    among = [token["content"] for token in read["added_tokens"] if token["content"] not in own and token["id"] < max(own.values())]
    if among:
        raise InputError(
            f"tokenizer: the numbers of the vocabulary have gaps, and the added token {among[0]!r} got one of them; close the gaps"
        )
    return read


def _own(model: Json) -> list[tuple[str, int]]:
    """The model's tokens with their numbers."""
    if model["type"] == "Unigram":
        return [(token, number) for number, (token, _) in enumerate(model["vocab"])]
    return list(model["vocab"].items())


def _numbers(read: Json) -> set[int]:
    """Every number that has a token."""
    return {number for _, number in _own(read["model"])} | {token["id"] for token in read["added_tokens"]}


def _references(read: Json) -> Iterator[tuple[Any, Any]]:
    """Every place outside the vocabulary where a token's number stands, as (container, key)."""
    for token in read["added_tokens"]:
        yield token, "id"
    if read["padding"] is not None:
        yield read["padding"], "pad_id"
    if read["model"].get("unk_id") is not None:
        yield read["model"], "unk_id"
    processors = [read["post_processor"]]
    while processors:
        match processor := processors.pop():
            case {"type": "Sequence"}:
                processors.extend(processor["processors"])
            case {"type": "TemplateProcessing"}:
                for special in processor["special_tokens"].values():
                    yield from ((special["ids"], i) for i in range(len(special["ids"])))
            case {"type": "BertProcessing" | "RobertaProcessing"}:
                yield from ((processor[name], 1) for name in ("sep", "cls"))


def _named(read: Json) -> set[int]:
    """The tokens that the tokenizer names: special and added ones, the unknown and the padding token."""
    model = read["model"]
    named = {container[key] for container, key in _references(read)}
    if model.get("unk_token") in dict(_own(model)):
        named.add(model["vocab"][model["unk_token"]])
    if not named <= _numbers(read):
        raise InputError(f"tokenizer: it names the tokens {sorted(named - _numbers(read))}, which it has not; correct tokenizer.json")
    return named


CHINESE = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002a6df\U0002a700-\U0002ceaf\U0002f800-\U0002fa1f]")
"""The characters that BERT's normalizer makes words of their own."""


def _spelling(read: Json) -> set[int]:
    """What any word is spelled with where nothing longer fits: single characters, in each of their forms, and bytes.

    With Unigram also a token of the lowest score: an unknown character scores a fixed amount less. A Chinese character that
    continues a word is left out where each is a word of its own, so that no text produces it: a third of bert-base-chinese.
    """
    model = read["model"]
    if model["type"] == "WordLevel":
        return set()
    prefix, suffix = model.get("continuing_subword_prefix") or "", model.get("end_of_word_suffix") or ""
    spelling = {number for token, number in _own(model) if 1 in (len(token), len(token.removeprefix(prefix).removesuffix(suffix)))}
    normalizer = read["normalizer"] or {}
    if prefix and normalizer.get("type") == "BertNormalizer" and normalizer.get("handle_chinese_chars"):
        spelling -= {number for token, number in _own(model) if token.startswith(prefix) and CHINESE.match(token, len(prefix))}
    if model.get("byte_fallback"):
        spelling |= {number for token, number in _own(model) if re.fullmatch("<0x[0-9A-F]{2}>", token)}
    if model["type"] == "Unigram":
        scores = [score for _, score in model["vocab"]]
        spelling.add(scores.index(min(scores)))
    return spelling


def _merged(model: Json, pair: list[str]) -> str:
    """The token that BPE makes of two: the second loses its continuing prefix."""
    return pair[0] + pair[1][len(model["continuing_subword_prefix"] or "") :]


def _parts(model: Json) -> dict[int, set[int]]:
    """BPE: what each token is merged from."""
    parts: dict[int, set[int]] = {}
    for pair in model.get("merges", ()):
        parts.setdefault(model["vocab"][_merged(model, pair)], set()).update(model["vocab"][token] for token in pair)
    return parts


def _with_parts(numbers: Iterable[int], kept: set[int], parts: dict[int, set[int]]) -> set[int]:
    """The tokens to add to `kept` (which has the parts of all its own) for it to hold `numbers` and their parts."""
    missing: set[int] = set()
    waiting = list(numbers)
    while waiting:
        number = waiting.pop()
        if number not in kept and number not in missing:
            missing.add(number)
            waiting.extend(parts.get(number, ()))
    return missing
