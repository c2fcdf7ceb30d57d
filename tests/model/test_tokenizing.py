"""A text becomes the tokens that AutoTokenizer makes of it, from every file of a folder, and after tokenizer.json is all that is left."""

import json
from pathlib import Path
from typing import Any

import pytest
import transformers
from commands import refused, write_rows
from conftest import tiny_config, tiny_teacher
from hypothesis import given, settings
from hypothesis import strategies as st
from spelling import KINDS, NEW, TEXTS, added, byte_level, configure, wordpiece
from tokenizers import Tokenizer

from penjing.errors import InputError
from penjing.model.tokenizing import copy_tokenizer, longest_said, tokenizer_at
from penjing.tasks.encoder import Encoder
from penjing.tasks.sequence import Classification, Pair
from penjing.tasks.sources import longest_text, tokenizer_file, tokenizer_of

LONGEST = 16
PAIRS = [(a, b) for a in TEXTS[:5] for b in (TEXTS[7], "", "good film")]


def assert_like_transformers(tokenizer: Tokenizer, folder: Path, texts: list[str] = TEXTS, pairs: list[tuple[str, str]] = PAIRS) -> None:
    """Token numbers, token types and the cut, of texts and pairs."""
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    one = Encoder(Classification(["a", "b"]), tokenizer, LONGEST)(texts)[0]
    for i, text in enumerate(texts):
        assert one.row(i).tolist() == theirs(text, truncation=True, max_length=LONGEST)["input_ids"], text
    two = Encoder(Pair(["a", "b"]), tokenizer, LONGEST)(pairs)[0]
    for i, (a, b) in enumerate(pairs):
        found = theirs([a], [b], truncation=True, max_length=LONGEST, return_token_type_ids=True)
        assert two.row(i).tolist() == found["input_ids"][0], (a, b)
        assert two.types[two.offsets[i] : two.offsets[i + 1]].tolist() == found["token_type_ids"][0]


def assert_all_alike(folder: Path, target: Path, **more: Any) -> None:
    """As it is opened; as it is copied; and from the copy's tokenizer.json alone, which serving reads."""
    assert_like_transformers(tokenizer_of(folder), folder, **more)
    target.mkdir()
    copy_tokenizer(folder, target)
    assert_like_transformers(Tokenizer.from_file(str(target / "tokenizer.json")), folder, **more)
    alone = target / "alone"
    alone.mkdir()
    (alone / "tokenizer.json").write_bytes(tokenizer_file(folder, target / "made").read_bytes())
    assert_like_transformers(tokenizer_of(alone), folder, **more)
    (target / "config.json").write_bytes((folder / "config.json").read_bytes())
    assert_like_transformers(tokenizer_of(target), folder, **more)
    assert tokenizer_at(target).alike
    assert_like_transformers(tokenizer_of(folder), target, **more)


SETTINGS: list[tuple[str, dict[str, Any]]] = [
    *((kind, changes) for kind in KINDS for changes in ({}, {"truncation_side": "left"}, {"tokenizer_class": None}, {"tokenizer_class": "PreTrainedTokenizerFast"})),
    ("WordPiece", {"do_lower_case": False}),
    ("WordPiece", {"do_lower_case": False, "strip_accents": True}),
    ("WordPiece", {"do_lower_case": True, "strip_accents": False}),
    ("WordPiece", {"tokenize_chinese_chars": False}),
    ("WordPiece", {"do_lower_case": False, "tokenizer_class": None, "truncation_side": "left"}),
    ("BPE", {"add_prefix_space": True}),
    ("BPE", {"add_prefix_space": True, "trim_offsets": False, "truncation_side": "left"}),
    ("Unigram", {"add_prefix_space": False}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "changes"), SETTINGS, ids=str)
def test_what_the_configuration_says_over_the_file_is_followed(kind: str, changes: dict[str, Any], tmp_path: Path) -> None:
    folder = configure(KINDS[kind](tmp_path / "m"), **changes)
    assert_all_alike(folder, tmp_path / "copy")


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_added_tokens_are_tokens(kind: str, special: bool, tmp_path: Path) -> None:
    folder = KINDS[kind](tmp_path / "m")
    configure(folder, **added(folder, special=special, lstrip=special))
    assert_all_alike(folder, tmp_path / "copy")
    text = Encoder(Classification(["a", "b"]), tokenizer_of(folder), LONGEST)([f"good {NEW}"])[0]
    assert tokenizer_of(folder).token_to_id(NEW) in text.row(0)


def test_old_files_are_followed_where_there_is_no_other(tmp_path: Path) -> None:
    folder = wordpiece(tmp_path / "added")
    (folder / "added_tokens.json").write_text(json.dumps({NEW: Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size()}))
    (folder / "special_tokens_map.json").write_text(json.dumps({"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": {"content": "[MASK]", "lstrip": True}}))  # fmt: skip
    assert_all_alike(folder, tmp_path / "copy")

    bert, words = wordpiece(tmp_path / "words", do_lower_case=False), tmp_path / "words" / "tokenizer.json"
    vocabulary = json.loads(words.read_text(encoding="utf-8"))["model"]["vocab"]
    (bert / "vocab.txt").write_text("".join(f"{token}\n" for token in vocabulary), encoding="utf-8")
    words.unlink()
    assert_all_alike(bert, tmp_path / "words-copy")

    roberta, merged = byte_level(tmp_path / "merges"), tmp_path / "merges" / "tokenizer.json"
    model = json.loads(merged.read_text(encoding="utf-8"))["model"]
    (roberta / "vocab.json").write_text(json.dumps(model["vocab"]))
    (roberta / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in model["merges"]), encoding="utf-8")
    merged.unlink()
    assert_all_alike(roberta, tmp_path / "merges-copy")


@given(data=st.data())
@settings(max_examples=40)
def test_any_settings_and_any_texts_are_as_transformers_has_them(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    kind = data.draw(st.sampled_from(sorted(KINDS)))
    flags = {
        "WordPiece": ["do_lower_case", "strip_accents", "tokenize_chinese_chars"], "BPE": ["add_prefix_space"], "Unigram": ["add_prefix_space"],
    }[kind]  # fmt: skip
    changes: dict[str, Any] = {name: data.draw(st.sampled_from([None, True, False])) for name in flags}
    changes["truncation_side"] = data.draw(st.sampled_from([None, "left", "right"]))
    changes["model_max_length"] = data.draw(st.sampled_from([None, 8, 512, 10**30]))
    folder = KINDS[kind](tmp_path_factory.mktemp("tokenizer") / "m")
    changes |= added(folder, special=data.draw(st.booleans())) if data.draw(st.booleans()) else {}
    configure(folder, **changes)
    words = st.sampled_from(["good", "Good", "café", " ", "  ", "我", "好", NEW, "x", "É", "\t", "end."])
    text = st.lists(words, max_size=12).map("".join) | st.text(st.characters(codec="utf-8"), max_size=12)
    texts, pairs = data.draw(st.lists(text, min_size=1, max_size=4)), data.draw(st.lists(st.tuples(text, text), min_size=1, max_size=4))
    assert_like_transformers(tokenizer_of(folder), folder, texts, pairs)


def test_a_file_that_says_all_is_left_as_it_is(tmp_path: Path) -> None:
    folder = tiny_teacher(tmp_path / "m")
    assert tokenizer_at(folder).content == (folder / "tokenizer.json").read_bytes()
    assert tokenizer_file(folder, tmp_path / "made") == folder / "tokenizer.json" and not (tmp_path / "made").exists()


def test_a_change_under_the_same_path_is_seen(tmp_path: Path) -> None:
    folder = wordpiece(tmp_path / "m")
    before = tokenizer_of(folder).encode("Good").tokens
    configure(folder, do_lower_case=False)
    assert (before, tokenizer_of(folder).encode("Good").tokens) == (["[CLS]", "good", "[SEP]"], ["[CLS]", "Good", "[SEP]"])


def test_a_text_is_as_long_as_the_tokenizer_says_within_the_positions(tmp_path: Path) -> None:
    folder = wordpiece(tmp_path / "m")  # 24 positions
    for said, longest in ((None, 24), (512, 24), (10**30, 24), (1e30, 24), (16, 16), (16.0, 16)):
        configure(folder, model_max_length=said)
        assert longest_text(folder, 0) == longest
        assert longest_text(folder, 20) == 20
    for wrong in ("long", -3, 2.5, True, [64]):
        configure(folder, model_max_length=wrong)
        with pytest.raises(InputError, match="model_max_length"):
            longest_said(folder)


# -- what is refused ---------------------------------------------------------------------------------------------


def vocabulary(folder: Path, *leave: str) -> Path:
    """Keep the vocabulary in vocab.txt alone, without some of its tokens."""
    tokens = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens if token not in leave), encoding="utf-8")
    (folder / "tokenizer.json").unlink()
    return folder


def no_merges(folder: Path) -> Path:
    (byte_level(folder) / "vocab.json").write_text((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").unlink()
    return folder


def without(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).unlink()
    return folder


def damaged(folder: Path, name: str, content: str) -> Path:
    (folder / name).write_text(content)
    return folder


def smaller(folder: Path, rows: int) -> Path:
    tiny_config("bert", vocab_size=rows).save_pretrained(wordpiece(folder))
    return folder


def padded_with(folder: Path, token: int) -> Path:
    tiny_config("roberta", vocab_size=400, pad_token_id=token).save_pretrained(wordpiece(folder))
    return folder


REFUSED: dict[str, tuple[Any, str]] = {
    "no file at all": (lambda f: without(wordpiece(f), "tokenizer.json", "tokenizer_config.json"), "has no tokenizer; copy tokenizer.json"),
    "a configuration alone": (lambda f: without(wordpiece(f), "tokenizer.json"), "has no tokenizer; copy tokenizer.json"),
    "no merges": (no_merges, "merges.txt"),
    "a vocabulary of another family": (lambda f: configure(vocabulary(wordpiece(f, "roberta")), tokenizer_class=None), "RobertaTokenizer"),
    "an empty vocabulary": (lambda f: damaged(vocabulary(wordpiece(f)), "vocab.txt", ""), "vocabulary"),
    "no [CLS]": (lambda f: vocabulary(wordpiece(f), "[CLS]"), "has no '[CLS]'"),
    "no [SEP]": (lambda f: vocabulary(wordpiece(f), "[SEP]"), "has no '[SEP]'"),
    "no [UNK]": (lambda f: vocabulary(wordpiece(f), "[UNK]"), "has no '[UNK]'"),
    "another class token": (lambda f: configure(wordpiece(f), cls_token="<start>"), "has no '<start>'"),
    "a damaged file": (lambda f: damaged(wordpiece(f), "tokenizer.json", '{"model": {'), "the tokenizer of"),
    "a damaged configuration": (lambda f: damaged(wordpiece(f), "tokenizer_config.json", "{"), "tokenizer_config.json is not"),
    "more tokens than rows": (lambda f: smaller(f, 50), "as token 50, and the model 50 tokens"),
    "special tokens that are split": (lambda f: configure(wordpiece(f), split_special_tokens=True), "split_special_tokens"),
    "code": (lambda f: configure(wordpiece(f), tokenizer_class="Own", auto_map={"AutoTokenizer": ["own.Own", None]}), "auto_map"),
    "padding with a word": (lambda f: padded_with(f, 7), "pads with token 7"),
    "padding with the unknown word": (lambda f: padded_with(f, 1), "pads with token 1 (pad_token_id), '[UNK]'"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_tokenizer_that_is_not_the_models_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    make, said = REFUSED[case]
    with pytest.raises(InputError) as caught:
        tokenizer_of(make(tmp_path / "m"))
    assert said in str(caught.value) and "\n" not in str(caught.value) and str(caught.value).startswith("model: ")


def test_a_model_that_never_saw_a_mask_needs_none(tmp_path: Path) -> None:
    folder = vocabulary(wordpiece(tmp_path / "m"), "[MASK]")
    rows = len((folder / "vocab.txt").read_text(encoding="utf-8").splitlines())
    tiny_config("bert", vocab_size=rows).save_pretrained(folder)
    assert tokenizer_of(folder).token_to_id("[MASK]") is None
    assert tokenizer_of(folder).encode("good").tokens == ["[CLS]", "good", "[SEP]"]


def test_token_types_that_the_model_has_not_are_refused(tmp_path: Path) -> None:
    folder = wordpiece(tmp_path / "m")
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    for piece in content["post_processor"]["single"]:
        next(iter(piece.values()))["type_id"] = 1
    (folder / "tokenizer.json").write_text(json.dumps(content))
    configure(folder, tokenizer_class="PreTrainedTokenizerFast")
    with pytest.raises(InputError, match="token types"):
        tokenizer_of(folder)
    tiny_config("bert", vocab_size=400, type_vocab_size=1).save_pretrained(folder)  # reads none of them
    tokenizer_of(folder)


@pytest.mark.parametrize("command", ["eval", "train", "compress"])
def test_commands_refuse_a_folder_without_a_tokenizer(command: str, tmp_path: Path) -> None:
    folder = tiny_teacher(tmp_path / "m")
    without(folder, "tokenizer.json", "tokenizer_config.json")
    write_rows(tmp_path / "data.jsonl", [{"text": "good", "label": "positive"}, {"text": "bad", "label": "negative"}] * 4)
    data = tmp_path / "data.jsonl"
    options = [folder, "--data", data] if command == "eval" else ["--model", folder, "--task", "classification", "--train", data, "--eval", data, "--out", tmp_path / "out"]  # fmt: skip
    assert "has no tokenizer; copy tokenizer.json" in refused(command, *options)
    assert not (tmp_path / "out" / "model").exists()
