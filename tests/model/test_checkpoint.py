"""Reading gives Hugging Face's logits, for every family and head; what cannot be read whole is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from conftest import (
    FAMILIES,
    HEADS,
    POSITIONS,
    batch,
    half,
    logits,
    perturb,
    tiny,
    tiny_config,
    tiny_teacher,
)
from models import inputs_for, saved
from safetensors.torch import load_file, save_file

from penjing.errors import InputError
from penjing.model import checkpoint as checkpoint_module
from penjing.model import configuration
from penjing.model.building import blueprint_of
from penjing.model.checkpoint import locate, open_checkpoint, read
from penjing.model.surgery import cut
from penjing.model.writing import write
from penjing.tasks.sources import load_data, longest_text, tokenizer_of
from penjing.text.reading import Reading

# -- read --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_hugging_faces(family: str, head: str, tmp_path: Path) -> None:
    model = tiny(family, head)
    ours = read(saved(model, tmp_path / "m"))
    assert blueprint_of(ours) == open_checkpoint(tmp_path / "m").blueprint
    assert open_checkpoint(tmp_path / "m").head.name == blueprint_of(ours).head.name == head
    assert not ours.training
    for seed in range(3):
        inputs = inputs_for(model, seed)
        torch.testing.assert_close(logits(ours, inputs), logits(model, inputs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_without_mask_or_token_types_are_hugging_faces(family: str, head: str, tmp_path: Path) -> None:
    model = tiny(family, head)
    ours = read(saved(model, tmp_path / "m"))
    inputs = {"input_ids": inputs_for(model)["input_ids"][:1]}
    torch.testing.assert_close(logits(ours, inputs), logits(model, inputs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("activation", ["relu", "gelu_new", "silu"])
@pytest.mark.parametrize("family", FAMILIES)
def test_activations_and_epsilon_are_the_checkpoints(family: str, activation: str, tmp_path: Path) -> None:
    name = {"distilbert": "activation"}.get(family, "hidden_act")
    changes = {name: activation} | ({} if family == "distilbert" else {"layer_norm_eps": 1e-2})
    heads: tuple[str, ...] = ("sequence", "masked")
    for head in heads:
        model = tiny(family, head, **changes)
        ours = read(saved(model, tmp_path / head))
        inputs = inputs_for(model)
        torch.testing.assert_close(logits(ours, inputs), logits(model, inputs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "family,changes",
    [
        ("bert", {"num_labels": 1}),
        ("bert", {"num_labels": 2}),
        ("bert", {"type_vocab_size": 1}),
        ("bert", {"type_vocab_size": 3}),
        ("electra", {"embedding_size": 16}),
        ("electra", {"embedding_size": 20}),
        ("roberta", {"type_vocab_size": 2}),
        ("roberta", {"pad_token_id": 0}),
        ("distilbert", {"sinusoidal_pos_embds": True}),
        ("bert", {"num_labels": 2, "problem_type": "multi_label_classification"}),
    ],
    ids=str,
)
def test_unusual_configurations(family: str, changes: dict[str, Any], tmp_path: Path) -> None:
    model = tiny(family, "sequence", **changes)
    ours = read(saved(model, tmp_path / "m"))
    inputs = inputs_for(model)
    longest = blueprint_of(ours).positions
    inputs = {name: value[:, :longest] for name, value in inputs.items()}
    torch.testing.assert_close(logits(ours, inputs), logits(model, inputs), rtol=1e-5, atol=1e-5)
    assert ours.config.problem_type == model.config.problem_type
    assert ours.config.num_labels == model.config.num_labels


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_as_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    model = tiny("bert").to(dtype)
    ours = read(saved(model, tmp_path / "m"))
    assert {weight.dtype for weight in ours.parameters()} == {torch.float32}
    inputs = inputs_for(model)
    torch.testing.assert_close(logits(ours, inputs), logits(model.float(), inputs), rtol=1e-5, atol=1e-5)


def test_shards_are_read(tmp_path: Path) -> None:
    model = tiny("bert")
    folder = saved(model, tmp_path / "m", max_shard_size="8KB")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 2
    inputs = inputs_for(model)
    torch.testing.assert_close(logits(read(folder), inputs), logits(model, inputs), rtol=1e-5, atol=1e-5)
    shards[1].unlink()
    with pytest.raises(InputError):
        read(folder)


def test_old_names_of_the_norms_are_read(tmp_path: Path) -> None:
    model = tiny("bert")
    folder = saved(model, tmp_path / "m")
    old = {}
    for name, value in load_file(folder / "model.safetensors").items():
        if "LayerNorm" in name:
            name = name.replace(".weight", ".gamma").replace(".bias", ".beta")
        old[name] = value
    assert sum(name.endswith((".gamma", ".beta")) for name in old) == 10
    save_file(old, folder / "model.safetensors")
    inputs = inputs_for(model)
    torch.testing.assert_close(logits(read(folder), inputs), logits(model, inputs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_bare_encoder_gets_a_new_head(family: str, tmp_path: Path) -> None:
    model = tiny(family, "none")
    folder = saved(model, tmp_path / "m")
    assert not any(name.startswith(f"{family}.") for name in load_file(folder / "model.safetensors"))
    ours = read(folder, head="sequence", labels=["bad", "fair", "good", "great"])
    assert blueprint_of(ours).outputs == 4 and ours.config.id2label[3] == "great"
    inputs = inputs_for(model)
    torch.testing.assert_close(logits(ours.base_model, inputs), logits(model, inputs), rtol=1e-5, atol=1e-5)
    assert logits(ours, inputs).shape == (4, 4)
    assert torch.all(torch.isfinite(logits(ours, inputs)))


@pytest.mark.parametrize("source", [transformers.BertForMaskedLM, transformers.BertForPreTraining])
def test_a_pretrained_model_gets_a_new_head(source: Any, tmp_path: Path) -> None:
    model = perturb(source(tiny_config("bert")))
    ours = read(saved(model, tmp_path / "m"), head="token", labels=["O", "B-A", "I-A"])
    inputs = inputs_for(model)
    torch.testing.assert_close(logits(ours.base_model, inputs), logits(model.bert, inputs), rtol=1e-5, atol=1e-5)
    assert logits(ours, inputs).shape == (4, POSITIONS, 3)


def test_labels_are_the_checkpoints_or_those_given(tmp_path: Path) -> None:
    folder = tiny_teacher(tmp_path / "m", labels=["no", "perhaps", "yes"])
    inputs = batch([9, 4], vocabulary=40, token_types=2)
    whole = read(folder)
    assert open_checkpoint(folder).label_names == ["no", "perhaps", "yes"] == [whole.config.id2label[i] for i in range(3)]
    assert torch.equal(logits(read(folder, labels=["no", "perhaps", "yes"]), inputs), logits(whole, inputs))
    other = read(folder, labels=["north", "south", "west"])
    assert torch.equal(logits(other.base_model, inputs), logits(whole.base_model, inputs))
    assert not torch.equal(other.head.out.weight, whole.head.out.weight)
    assert read(folder, labels=["a", "b"]).config.id2label == {0: "a", 1: "b"}
    assert open_checkpoint(saved(tiny("bert"), tmp_path / "unnamed")).label_names == []


def test_labels_given_in_another_order_keep_their_logits(tmp_path: Path) -> None:
    folder = tiny_teacher(tmp_path / "m", labels=["no", "perhaps", "yes"])
    inputs = batch([9, 4], vocabulary=40, token_types=2)
    whole, turned = read(folder), read(folder, labels=["yes", "no", "perhaps"])
    assert [turned.config.id2label[i] for i in range(3)] == ["yes", "no", "perhaps"]
    torch.testing.assert_close(logits(turned, inputs), logits(whole, inputs)[:, [2, 0, 1]])


# -- what cannot be read -----------------------------------------------------------------------------------------


def test_pickle_is_refused_unless_allowed(tmp_path: Path) -> None:
    model = tiny("bert")
    folder = saved(model, tmp_path / "m")
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="allow it with `pickle`"):
        read(folder)
    inputs = inputs_for(model)
    torch.testing.assert_close(logits(read(folder, pickle=True), inputs), logits(model, inputs), rtol=1e-5, atol=1e-5)


class Malicious:
    """A pickle that would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_a_pickle_with_code_is_refused_even_then(tmp_path: Path) -> None:
    folder = saved(tiny("bert"), tmp_path / "m")
    (folder / "model.safetensors").unlink()
    torch.save({"weight": Malicious(tmp_path / "touched")}, folder / "pytorch_model.bin")
    with pytest.raises(InputError):
        read(folder, pickle=True)
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("keep", [0, 4, 100, -100])
def test_truncated_weights_are_refused(keep: int, tmp_path: Path) -> None:
    folder = saved(tiny("bert"), tmp_path / "m")
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:keep])
    with pytest.raises(InputError, match="damaged"):
        read(folder)


@pytest.mark.parametrize("content", ['{"weight_map": {', "{}", "[]"])
def test_a_damaged_index_is_refused(content: str, tmp_path: Path) -> None:
    folder = saved(tiny("bert"), tmp_path / "m", max_shard_size="8KB")
    (folder / "model.safetensors.index.json").write_text(content)
    with pytest.raises(InputError):
        read(folder)


@pytest.mark.parametrize("content", ["", "{", "[]", '"bert"', "\x00\xff"])
def test_a_damaged_configuration_is_refused(content: str, tmp_path: Path) -> None:
    folder = saved(tiny("bert"), tmp_path / "m")
    (folder / "config.json").write_text(content, encoding="latin-1")
    with pytest.raises(InputError):
        read(folder)


@pytest.mark.parametrize(
    "family,changes",
    [
        ("bert", {"num_attention_heads": 3}),
        ("bert", {"hidden_size": "wide"}),
        ("bert", {"hidden_act": "swoosh"}),
        ("bert", {"vocab_size": 0}),
        ("bert", {"num_hidden_layers": 3}),
        ("bert", {"intermediate_size": 25}),
        ("bert", {"position_embedding_type": "relative_key"}),
        ("penjing", {"layers": None}),
        ("penjing", {"layers": [[1, 2, 3]]}),
        ("penjing", {"hidden_size": "wide"}),
        ("penjing", {"layers": [[1, 12], [0, 9]]}),
    ],
    ids=str,
)
def test_a_configuration_that_cannot_be_is_refused(family: str, changes: dict[str, Any], tmp_path: Path) -> None:
    folder = saved(tiny("bert"), tmp_path / "m")
    if family == "penjing":
        model = read(folder)
        write(cut(model, half(blueprint_of(model))), folder)
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == family
    (folder / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(InputError):
        read(folder)


def test_missing_weights_of_the_encoder_are_refused(tmp_path: Path) -> None:
    folder = saved(tiny("bert"), tmp_path / "m")
    weights = load_file(folder / "model.safetensors")
    del weights["bert.encoder.layer.1.output.dense.weight"]
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(
        InputError, match=r"lacks 1 weights of its own configuration, the first bert\.encoder\.layer\.1\.output\.dense\.weight"
    ):
        read(folder)


@pytest.mark.parametrize("config", [transformers.GPT2Config(), transformers.AlbertConfig(), transformers.DebertaV2Config()])
def test_another_family_is_refused_by_name(config: transformers.PreTrainedConfig, tmp_path: Path) -> None:
    config.save_pretrained(tmp_path)
    with pytest.raises(InputError) as caught:
        read(tmp_path)
    assert all(name in str(caught.value) for name in (config.model_type, *FAMILIES))


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"config\.json"):
        read(tmp_path)
    tiny_config("bert").save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"model\.safetensors"):
        read(tmp_path)
    with pytest.raises(InputError):
        read(tmp_path / "config.json")
    with pytest.raises(InputError):
        read(tmp_path / "not" / "there" / "at" / "all")


def test_a_head_for_another_task_is_refused_in_one_line(tmp_path: Path) -> None:
    folder = tiny_teacher(tmp_path / "m")
    open_checkpoint(folder).check_head("sequence", "classification")
    config = json.loads((folder / "config.json").read_text())
    for changes, head, said in (
        ({}, "token", "no trained head for classification"),
        ({"problem_type": "multi_label_classification"}, "sequence", "2 outputs (multi_label_classification)"),
        ({"problem_type": "regression"}, "sequence", "2 outputs (regression)"),
        ({"id2label": {"0": "score"}, "label2id": {"score": 0}}, "sequence", "with 1 output,"),
    ):
        (folder / "config.json").write_text(json.dumps(config | changes))
        with pytest.raises(InputError) as caught:
            open_checkpoint(folder).check_head(head, "classification", "--teacher")
        assert said in str(caught.value) and str(caught.value).startswith("--teacher") and "\n" not in str(caught.value)
    (folder / "config.json").write_text(json.dumps(config | {"problem_type": "single_label_classification"}))
    open_checkpoint(folder).check_head("sequence", "classification")


# -- read once ---------------------------------------------------------------------------------------------------


def test_what_is_asked_of_an_open_checkpoint_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_teacher(tmp_path / "m", labels=["no", "perhaps", "yes"])
    read_files: list[str] = []

    def counted(module: Any, name: str, say: Any) -> None:
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *given, **options: (read_files.append(say(given)), real(*given, **options))[1])

    counted(configuration, "json_object", lambda given: given[0].name)
    counted(checkpoint_module, "shapes_of", lambda given: "shapes")
    checkpoint = open_checkpoint(folder)
    assert open_checkpoint(checkpoint) is checkpoint and locate(checkpoint) == folder == checkpoint.folder
    assert read_files == ["config.json"]
    checkpoint.check_head("sequence", "classification")
    assert checkpoint.labels == checkpoint.label_names == ["no", "perhaps", "yes"]
    assert checkpoint.positions == checkpoint.encoder.positions == longest_text(checkpoint, 0)
    assert checkpoint.activation == "gelu" and checkpoint.family is not None and checkpoint.unplaced is None and not checkpoint.is_own
    assert tokenizer_of(checkpoint).get_vocab_size() <= checkpoint.blueprint.vocabulary
    assert read_files == ["config.json"]
    assert checkpoint.matched.blueprint == checkpoint.blueprint == blueprint_of(checkpoint.read()) and checkpoint.shapes
    checkpoint.check_numbers()
    assert read_files == ["config.json", "shapes"]


def test_texts_are_read_with_one_look_at_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, opened = tiny_teacher(tmp_path / "m"), 0
    real = checkpoint_module.read_configuration

    def counted(folder: Path) -> Any:
        nonlocal opened
        opened += 1
        return real(folder)

    monkeypatch.setattr(checkpoint_module, "read_configuration", counted)
    rows = [json.dumps({"text": f"good {word}", "label": "positive" if i % 2 else "negative"}) for i, word in enumerate("abcdefgh")]
    (tmp_path / "data.jsonl").write_text("\n".join(rows))
    data = str(tmp_path / "data.jsonl")
    load_data(str(folder), "classification", data, data, Reading(), lambda text: None)
    assert opened == 1
    load_data(open_checkpoint(folder), "classification", data, data, Reading(), lambda text: None)
    assert opened == 2
