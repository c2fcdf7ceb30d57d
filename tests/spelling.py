"""Tiny tokenizers of the three kinds on disk, as transformers keeps them, and texts that tell their settings apart."""

import json
from pathlib import Path
from typing import Any

from conftest import SPECIAL, tiny_config
from tokenizers import AddedToken, ByteLevelBPETokenizer, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

CORPUS = ["good film in Paris, good films", "a bad plot; it was not a good movie", "café déjà vu in London", "我好 你好 电影 好"]
TEXTS = [
    "Good film in Paris", "good café, CAFÉ!", "  leading and trailing  ", "我好good film你好", "", "a", "ÀÉ naïve\tnew\nline",
    "good bad " * 20 + "the very end", "[MASK] <mask> <s> [SEP]", "good<new>film <new> x", "unknown ☂ sign",
]  # fmt: skip
NEW = "<new>"


def _write(folder: Path, family: str, tokenizer: Tokenizer, config: dict[str, Any], rows: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config, ensure_ascii=False), encoding="utf-8")
    pad = {"pad_token_id": tokenizer.token_to_id("<pad>")} if "roberta" in family else {}
    tiny_config(family, vocab_size=rows or tokenizer.get_vocab_size() + 8, **pad).save_pretrained(folder)
    return folder


def wordpiece(folder: Path, family: str = "bert", **config: Any) -> Path:
    """BERT's: lower case, unless `config` (tokenizer_config.json) says otherwise."""
    letters = sorted({letter for text in [*CORPUS, "ABCDEFGHIJKLMNOPQRSTUVWXYZÀÉ"] for letter in text if not letter.isspace()})
    words = ["good", "Good", "film", "paris", "Paris", "cafe", "café", "bad", "the", "very", "end", "我好"]
    tokens = dict.fromkeys([*SPECIAL, *words, *letters, *(f"##{letter}" for letter in letters)])
    tokenizer = Tokenizer(models.WordPiece({token: i for i, token in enumerate(tokens)}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    numbers = {name: tokenizer.token_to_id(name) for name in ("[CLS]", "[SEP]")}
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", list(numbers.items()))
    tokenizer.add_special_tokens(list(SPECIAL))
    return _write(folder, family, tokenizer, {"tokenizer_class": "BertTokenizer"} | config)


def byte_level(folder: Path, family: str = "roberta", **config: Any) -> Path:
    """RoBERTa's."""
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(CORPUS * 3, vocab_size=330, special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    tokenizer: Tokenizer = trained._tokenizer
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=False)
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", AddedToken("<mask>", lstrip=True, special=True)])
    return _write(folder, family, tokenizer, {"tokenizer_class": "RobertaTokenizer"} | config)


def unigram(folder: Path, family: str = "xlm-roberta", **config: Any) -> Path:
    """XLM-R's."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer.train_from_iterator(CORPUS * 5, trainers.UnigramTrainer(vocab_size=90, special_tokens=special, unk_token="<unk>"))
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", "<s> $A </s> </s> $B </s>", [("<s>", 0), ("</s>", 2)])
    return _write(folder, family, tokenizer, {"tokenizer_class": "XLMRobertaTokenizer"} | config)


KINDS = {"WordPiece": wordpiece, "BPE": byte_level, "Unigram": unigram}


def added(folder: Path, **fields: Any) -> dict[str, Any]:
    """`added_tokens_decoder` with one token more than the folder's vocabulary, which is not special."""
    number = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size()
    token = {"content": NEW, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": False} | fields
    return {"added_tokens_decoder": {str(number): token}}


def configure(folder: Path, **changes: Any) -> Path:
    """Change fields of tokenizer_config.json; None leaves one out."""
    path = folder / "tokenizer_config.json"
    config = {name: value for name, value in (json.loads(path.read_text()) | changes).items() if value is not None}
    path.write_text(json.dumps(config, ensure_ascii=False), encoding="utf-8")
    return folder
