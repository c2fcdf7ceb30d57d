"""More texts for distillation, made of those there are; the teacher answers them like any other.

Token numbers change and never text, so one text, pairs and tagging are served alike: a replacement keeps the length and the token
types. N-grams alone shorten a text. What equals an original, or a new text before it, is left out; the same seed gives the same texts.
Sources: Jiao et al. 2020, TinyBERT, algorithm 1; Tang et al. 2019, "Distilling Task-Specific Knowledge from BERT into Simple Neural
Networks", section 3, on data augmentation. Letters: V tokens of the vocabulary, E width of the word table, T tokens of all texts.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float32, Int, Int32
from tokenizers import Tokenizer

from penjing.errors import InputError
from penjing.model.modeling_penjing import PenjingForMaskedLM
from penjing.model.run import batches, device_of
from penjing.text.encoded import Encoded
from penjing.training.loop import mixed_precision

Flags = Bool[np.ndarray, " V"]
"""A flag for each token of the vocabulary."""
Places = Bool[np.ndarray, " T"]
"""A flag for each token of the texts."""
Near = Int32[np.ndarray, "V k"]
"""Candidates for each token of the vocabulary."""
MARKS = ("Ġ", "▁")
"""How byte-level and metaspace tokenizers begin a word."""
BLOCK_BYTES = 64 << 20
"""Of the similarities that are held at once."""
LONGEST = 5
"""Words of an n-gram at most (Tang et al. 2019)."""
SCORED_TOKENS = 2048
"""Of a batch for the masked language model: the scores of its masked tokens are (tokens, V)."""


# -- which tokens --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Words:
    """What each token is, (V,) each: `whole`, a word where none follows that is `continuing`; `framing`, what the tokenizer puts around texts."""

    whole: Flags
    continuing: Flags
    framing: Flags

    def places(self, texts: Encoded) -> Places:
        """Tokens (T,) of the texts that are a word by themselves."""
        continued = np.append(self.continuing[texts.ids[1:]], False)
        continued[texts.offsets[1:-1] - 1] = False
        return self.whole[texts.ids] & ~continued


def replaceable(tokenizer: Tokenizer) -> Words:
    """What may be replaced, and by what: words of letters that are one token; no number, mark, special, added or unused token.

    Where a word begins with a mark (Ġ, ▁), a token without one continues the word before it if its first character is a letter or a
    digit: such tokenizers part punctuation from words and do not mark it. The first word of a text that RoBERTa reads has no mark
    either, and is never replaced.
    """
    prefix = json.loads(tokenizer.to_str())["model"].get("continuing_subword_prefix") or ""
    numbers = tokenizer.get_vocab()
    mark = "" if prefix else next((mark for mark in MARKS if any(token.startswith(mark) for token in numbers)), "")
    whole, continuing, framing = (np.zeros(max(numbers.values()) + 1, np.bool_) for _ in range(3))
    for token, number in numbers.items():
        text = tokenizer.decode([number]).strip()
        begins = not token.startswith(prefix) if prefix else token.startswith(mark)
        whole[number] = begins and text.isalpha()
        continuing[number] = not begins and (bool(prefix) or text[:1].isalnum() or text[:1] == "\ufffd")  # part of a character
    empty = tokenizer.encode("")
    framing[np.array(empty.ids, np.int64)[np.array(empty.special_tokens_mask, np.bool_)]] = True
    named = list(tokenizer.get_added_tokens_decoder())
    whole[named] = continuing[named] = False
    return Words(whole & ~framing, continuing & ~framing, framing)


def neighbours(table: Float32[np.ndarray, "V E"], allowed: Flags, k: int) -> Near:
    """The k tokens (V, k) that are most like each, by the cosine of their rows of the word table (V, E), the nearest first.

    Of the `allowed` (V,) tokens, itself left out; the row of a token that is not allowed is its own number. This takes the place of
    the GloVe vectors of TinyBERT.
    """
    words = np.flatnonzero(allowed)
    _check_candidates(k, len(words) - 1)
    unit = F.normalize(torch.from_numpy(table[words]), dim=1)
    near = np.repeat(np.arange(len(table), dtype=np.int32)[:, None], k, axis=1)
    rows = max(1, BLOCK_BYTES // (4 * len(words)))
    for start in range(0, len(words), rows):
        similar = unit[start : start + rows] @ unit.T
        similar.diagonal(start).fill_(-torch.inf)
        near[words[start : start + rows]] = words[similar.topk(k).indices.numpy()]
    return near


def _check_candidates(k: int, most: int) -> None:
    if not 0 < k <= most:
        raise InputError(f"candidates: {k} words are asked for to draw from, and the vocabulary allows 1 … {most}; give one of these")


# -- new texts -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RuleRates:
    """The probabilities of the rules of Tang et al. 2019: that a word is masked, replaced by a neighbour, and a text cut to an n-gram."""

    mask: float = 0.1
    near: float = 0.1
    ngram: float = 0.25


def by_neighbours(texts: Encoded, near: Near, allowed: Words, copies: int, rate: float, seed: int) -> Encoded:
    """Each word replaced with probability `rate` by one of its `near` (V, k), drawn uniformly; up to `copies` new texts of each."""
    return by_rules(texts, near, 0, allowed, copies, seed, RuleRates(mask=0.0, near=rate, ngram=0.0))


def by_rules(
    texts: Encoded, near: Near | None, mask_id: int, allowed: Words, copies: int, seed: int, rates: RuleRates
) -> Encoded:  # fmt: skip
    """Each word is masked with probability `rates.mask`, else replaced by one of its `near` (V, k) with `rates.near`; then, with
    `rates.ngram`, an n-gram of the text is taken. Up to `copies` new texts of each.

    The iteration of Tang et al. 2019; neighbours stand for words of the same part of speech, and both texts of
    a pair are changed at a time. For tagging `rates.ngram` has to be 0.
    """
    places = allowed.places(texts)

    def once(random: np.random.Generator) -> Encoded:
        draw = np.where(places, random.random(len(places)), np.inf)
        ids = np.where(draw < rates.mask, np.int32(mask_id), texts.ids)
        if near is not None:
            swapped = (rates.mask <= draw) & (draw < rates.mask + rates.near)
            ids[swapped] = _drawn(near[ids[swapped]], random)
        rows = np.flatnonzero(random.random(len(texts)) < rates.ngram)
        return _ngrams(replace(texts, ids=ids), rows, allowed, random)

    return _copies(once, texts, copies, seed)


def by_masked_lm(
    texts: Encoded, model: PenjingForMaskedLM, mask_id: int, allowed: Words, copies: int, rate: float, k: int, seed: int
) -> Encoded:
    """Each word replaced with probability `rate` by one of the k likeliest words in its place, drawn uniformly (TinyBERT, algorithm 1).

    Up to `copies` new texts of each (the paper: 20, with rate 0.4 and k 15). `model` has to have the texts' vocabulary. It sees all
    words that are replaced in a copy masked, and answers in one pass; the paper masks one word at a time, and sees those replaced before.
    """
    _check_candidates(k, int(allowed.whole.sum()))
    places = allowed.places(texts)

    def once(random: np.random.Generator) -> Encoded:
        chosen = places & (random.random(len(places)) < rate)
        masked = replace(texts, ids=np.where(chosen, np.int32(mask_id), texts.ids))
        ids = texts.ids.copy()
        ids[chosen] = _drawn(_likeliest(model, masked, chosen, allowed.whole, k)[chosen], random)
        return replace(texts, ids=ids)

    return _copies(once, texts, copies, seed)


@torch.inference_mode()
def _likeliest(model: PenjingForMaskedLM, masked: Encoded, chosen: Places, whole: Flags, k: int) -> Int32[np.ndarray, "T k"]:
    """The k likeliest words (T, k) in the places that are chosen, zeros elsewhere; batches of exactly equal lengths."""
    device = device_of(model)
    words = torch.from_numpy(np.flatnonzero(whole)).to(device)
    result = np.zeros((len(chosen), k), np.int32)
    model.eval()
    for rows, feeds in batches(model, masked, 64, SCORED_TOKENS):
        index = masked.offsets[rows][:, None] + np.arange(feeds["input_ids"].shape[1])
        wanted = chosen[index]
        with torch.autocast(device.type, torch.bfloat16, enabled=mixed_precision() == "bf16"):
            states = model.encoder(**feeds).last_hidden_state[torch.from_numpy(wanted).to(device)]
            scores = model.head(states, model.encoder.embeddings)[:, words]
        result[index[wanted]] = words[scores.topk(k).indices].cpu().numpy()
    return result


def _drawn(candidates: Int32[np.ndarray, "N k"], random: np.random.Generator) -> Int32[np.ndarray, " N"]:
    """One of each row's k candidates (N, k), uniformly: (N,)."""
    count, k = candidates.shape
    return candidates[np.arange(count), random.integers(k, size=count)]


def _ngrams(texts: Encoded, rows: Int[np.ndarray, " _"], allowed: Words, random: np.random.Generator) -> Encoded:
    """The texts; of those in `rows` the framing tokens, and of the words after each an n-gram, its length and place uniform."""
    kept = np.ones(len(texts.ids), np.bool_)
    for i in rows:
        framing = allowed.framing[texts.row(i)]
        for part in np.split(np.arange(texts.offsets[i], texts.offsets[i + 1]), np.flatnonzero(framing)):
            inside = part[~allowed.framing[texts.ids[part]]]
            if len(inside):
                word = np.cumsum(~allowed.continuing[texts.ids[inside[1:]]], dtype=np.int64)
                word = np.concatenate([[0], word])
                n = min(int(random.integers(1, LONGEST + 1)), int(word[-1]) + 1)
                first = random.integers(word[-1] + 2 - n)
                kept[inside] = (first <= word) & (word < first + n)
    offsets = np.concatenate([[0], np.cumsum(kept)])[texts.offsets]
    return Encoded(texts.ids[kept], texts.types[kept], offsets)


def _copies(once: Callable[[np.random.Generator], Encoded], texts: Encoded, copies: int, seed: int) -> Encoded:
    """`once` for each copy, with random numbers of its own, so that more copies begin with the same; without duplicates."""
    return without_duplicates(Encoded.joined([once(np.random.default_rng((seed, copy))) for copy in range(copies)]), texts)


def without_duplicates(new: Encoded, old: Encoded) -> Encoded:
    """The new texts, in order, that equal no old one and no new one before; in tokens and types."""
    seen = set(_keys(old))
    kept = []
    for i, key in enumerate(_keys(new)):
        if key not in seen:
            seen.add(key)
            kept.append(i)
    return new.take(np.array(kept, np.int64))


def _keys(texts: Encoded) -> Iterator[bytes]:
    """Each text as bytes; as a token takes four and its type one, two texts of different lengths never have the same."""
    for first, end in zip(texts.offsets, texts.offsets[1:], strict=False):
        yield texts.ids[first:end].tobytes() + texts.types[first:end].tobytes()
