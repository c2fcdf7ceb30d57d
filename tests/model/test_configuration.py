"""What config.json says is followed, or refused in a line that names the field."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import FAMILIES, tiny, tiny_config

from penjing.errors import InputError
from penjing.model.checkpoint import open_checkpoint, read
from penjing.model.configuration import read_configuration


def described(folder: Path, family: str = "bert", **changes: Any) -> Path:
    """A configuration alone, with fields changed; None leaves one out."""
    tiny_config(family).save_pretrained(folder)
    fields = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({name: value for name, value in fields.items() if value is not None}))
    return folder


def names(*labels: str) -> dict[str, Any]:
    return {"id2label": {str(i): name for i, name in enumerate(labels)}, "label2id": {name: i for i, name in enumerate(labels)}}


# -- labels ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        (names("no", "yes"), ["no", "yes"]),
        (names("no", "yes") | {"label2id": None}, ["no", "yes"]),
        (names("no", "yes") | {"label2id": {"LABEL_0": 0, "LABEL_1": 1}}, ["no", "yes"]),
        ({"id2label": {"1": "yes", "0": "no"}, "label2id": {"yes": "1", "no": "0"}}, ["no", "yes"]),
        ({"id2label": {"0": 0, "1": 1}, "label2id": {"0": 0, "1": 1}}, ["0", "1"]),
        (names("LABEL_0", "LABEL_1"), []),
        (names("LABEL_1", "LABEL_0"), ["LABEL_1", "LABEL_0"]),
        (names(*(f"LABEL_{i}" for i in (0, 1, 10, 2))), ["LABEL_0", "LABEL_1", "LABEL_10", "LABEL_2"]),
        ({"id2label": None, "label2id": None}, []),
        ({"id2label": None, "label2id": None, "num_labels": 5}, []),
    ],
    ids=str,
)
def test_labels_are_named_in_the_order_of_the_outputs(fields: dict[str, Any], found: list[str], tmp_path: Path) -> None:
    folder = described(tmp_path, architectures=["BertForSequenceClassification"], **fields)
    assert open_checkpoint(folder).label_names == found
    count = len(found) or fields.get("num_labels", 2)
    assert (
        open_checkpoint(folder).labels == (found or [f"LABEL_{i}" for i in range(count)])
        and open_checkpoint(folder).blueprint.outputs == count
    )


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"id2label": {"negative": 0, "positive": 1}}, "has the key 'negative'; its keys are numbers of outputs"),
        ({"id2label": {"²": "a", "1": "b"}}, "has the key '²'"),
        ({"id2label": {"-1": "a", "0": "b"}}, "has the key '-1'"),
        ({"id2label": {"0": "a", "2": "b"}}, "numbers 2 outputs as 0, 2; number them 0 to 1"),
        ({"id2label": {"1": "a", "2": "b"}}, "numbers 2 outputs as 1, 2"),
        ({"id2label": {"0": "a", "00": "b"}}, "numbers 2 outputs as 0"),
        ({"id2label": ["a", "b"]}, "is no table"),
        ({"id2label": {"0": None, "1": "b"}}, "names an output None"),
        ({"id2label": {"0": "a", "1": "a"}}, "names two outputs 'a'"),
        (names("no", "yes") | {"label2id": {"no": 1, "yes": 0}}, "not the same table"),
        (names("no", "yes") | {"label2id": {"no": 0, "maybe": 1}}, "not the same table"),
        (names("no", "yes") | {"label2id": 3}, "not the same table"),
        (names("LABEL_0", "LABEL_1") | {"label2id": {"no": 0, "yes": 1}}, "not the same table"),
        (names("no", "yes") | {"num_labels": 3}, "says num_labels 3 and names 2"),
        ({"num_labels": "two"}, "says num_labels 'two'"),
        ({"num_labels": 10**12}, "says num_labels"),
    ],
    ids=str,
)
def test_labels_that_contradict_themselves_are_refused(fields: dict[str, Any], said: str, tmp_path: Path) -> None:
    fields = {"id2label": None, "label2id": None, "num_labels": None} | fields
    folder = described(tmp_path, architectures=["BertForSequenceClassification"], **fields)
    for look in (lambda folder: open_checkpoint(folder).blueprint, lambda folder: open_checkpoint(folder).labels):
        with pytest.raises(InputError) as caught:
            look(folder)
        assert said in str(caught.value) and "config.json" in str(caught.value) and "\n" not in str(caught.value)


# -- fields and classes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"is_decoder": True}, "is_decoder"),
        ({"is_decoder": True, "add_cross_attention": True}, "is_decoder"),
        ({"add_cross_attention": True}, "add_cross_attention"),
        ({"is_encoder_decoder": True}, "is_encoder_decoder"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}, "quantization_config"),
        ({"pruned_heads": {"0": [1]}}, "pruned_heads"),
        ({"per_layer_config": {"0": {"intermediate_size": 8}}}, "per_layer_config"),
        ({"embedding_size": 8}, "embedding_size is 8"),
        ({"auto_map": {"AutoModelForSequenceClassification": "own.Own"}}, "auto_map: AutoModelForSequenceClassification"),
        ({"architectures": ["BertForMultipleChoice"]}, "BertForMultipleChoice"),
        ({"architectures": ["BertCrfForTokenClassification"]}, "BertCrfForTokenClassification"),
        ({"architectures": ["BertLMHeadModel"]}, "BertLMHeadModel"),
        ({"architectures": ["RobertaForSequenceClassification"]}, "RobertaForSequenceClassification"),
        ({"architectures": ["BertModel", "BertForTokenClassification"]}, "BertModel and BertForTokenClassification"),
        ({"architectures": [3]}, "the class 3"),
        ({"model_type": ["bert"]}, "the family ['bert'] is not supported"),
        ({"intermediate_size": 0}, "intermediate_size is 0"),
        ({"num_attention_heads": 0}, "0 heads"),
        ({"num_hidden_layers": 10**9}, "1000000000 layers"),
        ({"hidden_dropout_prob": 2.0}, "hidden_dropout_prob is '2.0'"),
        ({"layer_norm_eps": -1.0}, "layer_norm_eps is '-1.0'"),
        ({"problem_type": "ranking"}, "problem_type"),
    ],
    ids=str,
)
def test_a_field_that_is_not_followed_is_named(fields: dict[str, Any], said: str, tmp_path: Path) -> None:
    folder = described(tmp_path, **({"architectures": ["BertForSequenceClassification"]} | fields))
    with pytest.raises(InputError) as caught:
        print(open_checkpoint(folder).blueprint)
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"is_decoder": False, "add_cross_attention": False, "position_embedding_type": "absolute", "pruned_heads": {}},
        {"quantization_config": None, "use_cache": False, "classifier_dropout": 0.3, "output_hidden_states": True, "return_dict": False},
        {"embedding_size": 16, "chunk_size_feed_forward": 3, "gradient_checkpointing": True, "torch_dtype": "float16"},
        {"pad_token_id": -1},
        {"auto_map": {"AutoTokenizer": ["own.Own", None]}},
    ],
    ids=str,
)
def test_what_changes_no_answer_is_passed_over(fields: dict[str, Any], tmp_path: Path) -> None:
    folder = described(tmp_path, architectures=["BertForSequenceClassification"], **fields)
    assert open_checkpoint(folder).blueprint.outputs == 3


def test_positions_that_are_counted_from_the_padding_need_one(tmp_path: Path) -> None:
    for pad in (-1, 60):
        with pytest.raises(InputError, match="positions are counted from it"):
            print(open_checkpoint(described(tmp_path, "roberta", architectures=["RobertaModel"], pad_token_id=pad)).blueprint)


def test_epsilon_is_distilberts_own_whatever_its_configuration_says(tmp_path: Path) -> None:
    """transformers does not read the field there."""
    model = tiny("distilbert", layer_norm_eps=0.5)
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["layer_norm_eps"] == 0.5
    assert read(tmp_path).config.layer_norm_eps == 1e-12


# -- the head ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["sequence", "token", "question", "masked", "none"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_head_is_told_from_the_weights_where_no_class_is_named(family: str, head: Any, tmp_path: Path) -> None:
    tiny(family, head).save_pretrained(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    for absent in ({}, {"architectures": None}, {"architectures": []}):
        (tmp_path / "config.json").write_text(json.dumps({name: v for name, v in fields.items() if name != "architectures"} | absent))
        assert read_configuration(tmp_path).head is None
        assert (
            open_checkpoint(tmp_path).head.name
            == head
            == open_checkpoint(tmp_path).blueprint.head.name
            == open_checkpoint(tmp_path).matched.blueprint.head.name
        )
    if head in ("sequence", "token"):
        open_checkpoint(tmp_path).check_head(head, "a task")


def test_a_head_that_may_be_either_is_asked_for(tmp_path: Path) -> None:
    """BERT's old taggers have a pooler too, which makes their weights those of a classifier of texts."""
    tiny("bert", "sequence", **names("O", "B-X", "I-X")).save_pretrained(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    fields.pop("architectures")
    (tmp_path / "config.json").write_text(json.dumps(fields))
    with pytest.raises(InputError, match="may label texts or words; name its class by architectures"):
        print(open_checkpoint(tmp_path).head)
