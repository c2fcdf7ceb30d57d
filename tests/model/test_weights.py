"""A checkpoint is read whole from every kind of file, or refused in a line that names what is wrong; nothing is ever drawn at random."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import ended, refused, write_rows
from conftest import FAMILIES, batch, logits, tiny, tiny_teacher
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import BertConfig, BertForPreTraining

from penjing.engines.form import EAGER
from penjing.engines.pytorch import TorchEngine
from penjing.errors import InputError
from penjing.model.checkpoint import open_checkpoint, read

Weights = dict[str, Tensor]
ROWS = [{"text": "good film", "label": "positive"}, {"text": "bad film", "label": "negative"}] * 6


def rewritten(folder: Path, change: Callable[[Weights], Weights]) -> Path:
    """The folder with other weights."""
    weights = change(load_file(folder / "model.safetensors"))
    save_file({name: value.contiguous() for name, value in weights.items()}, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def under(prefix: str) -> Callable[[Weights], Weights]:
    return lambda weights: {prefix + name: value for name, value in weights.items()}


def dropping(*parts: str) -> Callable[[Weights], Weights]:
    return lambda weights: {name: value for name, value in weights.items() if not any(part in name for part in parts)}


def adding(**more: Tensor) -> Callable[[Weights], Weights]:
    return lambda weights: weights | {name.replace("__", "."): value for name, value in more.items()}


def changing(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[Weights], Weights]:
    return lambda weights: weights | {name: change(weights[name])}


def spoilt(value: float) -> Callable[[Tensor], Tensor]:
    return lambda tensor: tensor.flatten().index_fill(0, torch.tensor([3]), value).view_as(tensor)


WRONG: dict[str, tuple[Callable[[Weights], Weights], str]] = {
    "compiled": (under("_orig_mod."), "begin with '_orig_mod.'"),
    "of several processors": (under("module."), "begin with 'module.'"),
    "both": (under("module._orig_mod."), "begin with 'module._orig_mod.'"),
    "of Lightning": (under("model."), "begin with 'model.'"),
    "an adapter's": (under("base_model.model."), "begin with 'base_model.model.'"),
    "compiled, and no head": (lambda w: under("_orig_mod.")(dropping("classifier")(w)), "begin with '_orig_mod.'"),
    "no head": (dropping("classifier"), "lacks 2 weights of its own configuration, the first classifier.weight"),
    "no pooler": (dropping("pooler"), "lacks 2 weights of its own configuration, the first bert.pooler.dense.weight"),
    "no last layer": (dropping("layer.1."), "the first bert.encoder.layer.1.attention.self.query.weight"),
    "a layer more": (adding(bert__encoder__layer__2__output__dense__bias=torch.zeros(32)), "the first bert.encoder.layer.2.output.dense.bias"),
    "a field of tags": (adding(crf__transitions=torch.zeros(2, 2)), "the first crf.transitions"),
    "low rank": (adding(bert__encoder__layer__0__attention__self__query__lora_A__default__weight=torch.zeros(4, 32)), "lora_A"),
    "a projection": (adding(bert__embeddings_project__weight=torch.zeros(32, 32)), "bert.embeddings_project.weight"),
    "relative positions": (adding(bert__encoder__layer__0__attention__self__distance_embedding__weight=torch.zeros(9, 16)), "distance_embedding"),
    "another head too": (adding(qa_outputs__weight=torch.zeros(2, 32), qa_outputs__bias=torch.zeros(2)), "qa_outputs.bias"),
    "three outputs": (changing("classifier.weight", lambda w: torch.cat([w, w[:1]])), "classifier.weight has the shape (3, 32), and the configuration says (2, 32)"),
    "fewer tokens": (changing("bert.embeddings.word_embeddings.weight", lambda w: w[:-1]), "bert.embeddings.word_embeddings.weight has the shape"),
    "NaN": (changing("bert.encoder.layer.1.output.dense.weight", spoilt(float("nan"))), "bert.encoder.layer.1.output.dense.weight holds what is no number"),
    "infinite": (changing("classifier.bias", lambda b: b + float("inf")), "classifier.bias holds what is no number"),
    "integers": (changing("classifier.weight", lambda w: w.to(torch.int8)), "classifier.weight is stored as torch.int8"),
    "old names beside new": (adding(bert__embeddings__LayerNorm__gamma=torch.ones(32)), "old names"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_weights_that_are_not_those_of_the_configuration_are_refused_everywhere_alike(case: str, tmp_path: Path) -> None:
    change, said = WRONG[case]
    folder = rewritten(tiny_teacher(tmp_path / "m"), change)
    looks: list[Callable[[], object]] = [lambda: read(folder), lambda: open_checkpoint(folder).check_numbers()]
    if case not in ("NaN", "infinite", "integers"):  # an engine reads the headers alone: who opens it has read the rest
        looks += [lambda: open_checkpoint(folder).matched, lambda: TorchEngine(folder, EAGER, 1)]
    for look in looks:
        with pytest.raises(InputError) as caught:
            look()
        assert said in str(caught.value) and "\n" not in str(caught.value) and str(folder) in str(caught.value)


@pytest.mark.parametrize("case", ["compiled", "no head", "three outputs", "NaN", "a field of tags"])
@pytest.mark.parametrize("command", ["eval", "teacher", "bench", "quantize"])
def test_no_command_takes_them(command: str, case: str, tmp_path: Path) -> None:
    change, said = WRONG[case]
    folder, data = rewritten(tiny_teacher(tmp_path / "m"), change), tmp_path / "data.jsonl"
    write_rows(data, ROWS)
    options: dict[str, list[object]] = {
        "eval": ["eval", folder, "--data", data, "--threads", 1],
        "teacher": ["eval", tiny_teacher(tmp_path / "fine"), "--teacher", folder, "--data", data, "--threads", 1],
        "bench": ["bench", folder, "--data", data, "--threads", 1],
        "quantize": ["quantize", "--model", folder, "--task", "classification", "--train", data, "--eval", data, "--scheme", "dynamic-int8", "--out", tmp_path / "out"],
    }  # fmt: skip
    assert said in refused(*options[command])
    assert not (tmp_path / "out" / "engine").exists()


HARMLESS = {
    "bert": {"bert.embeddings.position_ids": torch.arange(24)[None], "cls.seq_relationship.weight": torch.zeros(2, 16), "cls.predictions.bias": torch.zeros(60)},
    "roberta": {"roberta.embeddings.position_ids": torch.arange(26)[None], "roberta.pooler.dense.weight": torch.zeros(16, 16), "lm_head.bias": torch.zeros(60)},
    "xlm-roberta": {"roberta.embeddings.token_type_ids": torch.zeros(1, 26), "lm_head.decoder.bias": torch.zeros(60)},
    "electra": {"discriminator_predictions.dense.weight": torch.zeros(16, 16), "generator_lm_head.bias": torch.zeros(60)},
    "distilbert": {"distilbert.embeddings.position_ids": torch.arange(24)[None], "vocab_projector.bias": torch.zeros(60)},
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_what_changes_no_answer_is_left_and_said(family: str, tmp_path: Path) -> None:
    model = tiny(family, "sequence")
    model.save_pretrained(tmp_path)
    rewritten(tmp_path, lambda weights: weights | HARMLESS[family])
    assert open_checkpoint(tmp_path).matched.unused == sorted(HARMLESS[family])
    inputs = batch([9, 4, 1], vocabulary=60, pad=model.config.pad_token_id)
    torch.testing.assert_close(logits(read(tmp_path), inputs), logits(model, inputs), rtol=1e-5, atol=1e-5)
    feeds = {name: value.numpy() for name, value in inputs.items()} | {"token_type_ids": torch.zeros_like(inputs["input_ids"]).numpy()}
    torch.testing.assert_close(torch.from_numpy(TorchEngine(tmp_path, EAGER, 1).run(feeds)), logits(model, inputs), rtol=1e-5, atol=1e-5)


def test_a_language_model_with_outputs_of_its_own_is_refused(tmp_path: Path) -> None:
    model = tiny("bert", "masked", tie_word_embeddings=False)
    model.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="only a tied one is supported"):
        read(tmp_path)
    rewritten(tmp_path, dropping("decoder"))
    with pytest.raises(InputError, match="tie_word_embeddings"):
        read(tmp_path)


@pytest.mark.parametrize("kind", ["BertForPreTraining", "BertForMaskedLM", "BertModel"])
def test_a_new_classifier_starts_from_the_pretrained_pooler(kind: str, tmp_path: Path) -> None:
    """As transformers does, whatever head the checkpoint was pre-trained with."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24, "vocab_size": 60}
    model = BertForPreTraining(BertConfig(**sizes))
    model.save_pretrained(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(fields | {"architectures": [kind]}))
    ours = read(tmp_path, head="sequence", labels=["a", "b", "c"])
    assert torch.equal(ours.head.dense.weight, model.bert.pooler.dense.weight) and torch.equal(
        ours.head.dense.bias, model.bert.pooler.dense.bias
    )


@pytest.mark.parametrize(
    ("family", "head", "part"),
    [("bert", "masked", "predictions.bias"), ("roberta", "masked", "layer_norm"), ("electra", "token", "classifier.bias")],
)
def test_a_head_that_is_not_taken_need_not_be_whole(family: str, head: str, part: str, tmp_path: Path) -> None:
    model = tiny(family, head)
    model.save_pretrained(tmp_path)
    rewritten(tmp_path, dropping(part))
    with pytest.raises(InputError, match=f"lacks .*{part}"):
        read(tmp_path)
    inputs = batch([9, 4], vocabulary=60, pad=model.config.pad_token_id)
    ours = read(tmp_path, head="sequence", labels=["a", "b", "c"])
    torch.testing.assert_close(logits(ours.base_model, inputs), logits(model.base_model, inputs), rtol=1e-5, atol=1e-5)


# -- files -------------------------------------------------------------------------------------------------------


def pickled(folder: Path, shards: int = 1) -> Any:
    """A model whose weights are pickles; the model."""
    model = tiny("bert")
    model.save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    weights = model.state_dict()
    if shards == 1:
        torch.save(weights, folder / "pytorch_model.bin")
        return model
    names = [f"pytorch_model-{i + 1:05}-of-{shards:05}.bin" for i in range(shards)]
    placed = {name: names[i % shards] for i, name in enumerate(weights)}
    for file in names:
        torch.save({name: value for name, value in weights.items() if placed[name] == file}, folder / file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": placed}))
    return model


@pytest.mark.parametrize("shards", [1, 3])
def test_pickles_are_read_where_they_are_allowed_alone(shards: int, tmp_path: Path) -> None:
    model = pickled(tmp_path, shards)
    for look in (read, lambda folder: open_checkpoint(folder).matched, lambda folder: open_checkpoint(folder).check_numbers()):
        with pytest.raises(InputError, match=r"has only pytorch_model.*\.bin, a pickle.*allow it with `pickle`"):
            look(tmp_path)
    inputs = batch([9, 4], vocabulary=60, token_types=2)
    torch.testing.assert_close(logits(read(tmp_path, pickle=True), inputs), logits(model, inputs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "content", [[torch.zeros(3)], {"state_dict": {"a": torch.zeros(3)}, "epoch": 3}, torch.zeros(3), {3: torch.zeros(3)}], ids=str
)
def test_a_pickle_of_something_else_is_refused(content: Any, tmp_path: Path) -> None:
    pickled(tmp_path)
    torch.save(content, tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match="is no table of weights by name"):
        read(tmp_path, pickle=True)


def test_one_file_comes_before_shards_as_in_transformers(tmp_path: Path) -> None:
    stale, model = tiny("bert", seed=1), tiny("bert")
    stale.save_pretrained(tmp_path, max_shard_size="8KB")
    model.save_pretrained(tmp_path / "one")
    (tmp_path / "one" / "model.safetensors").rename(tmp_path / "model.safetensors")
    inputs = batch([9, 4], vocabulary=60, token_types=2)
    torch.testing.assert_close(logits(read(tmp_path), inputs), logits(model, inputs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"a": "../outside.safetensors"}, "names no files beside it"),
        ({"a": 3}, "names no files beside it"),
        ({"a": ["model.safetensors"]}, "names no files beside it"),
        ({}, "names no files beside it"),
        ({"a": "absent.safetensors"}, "has no absent.safetensors, which its index names"),
    ],
    ids=str,
)
def test_an_index_names_files_that_are_beside_it(table: dict[str, Any], said: str, tmp_path: Path) -> None:
    tiny("bert").save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path.parent / "outside.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))
    with pytest.raises(InputError, match=said):
        read(tmp_path)


def test_an_adapter_is_refused(tmp_path: Path) -> None:
    folder = tiny_teacher(tmp_path / "m")
    (folder / "adapter_config.json").write_text("{}")
    for left in ([], ["config.json"]):
        for name in left:
            (folder / name).unlink()
        with pytest.raises(InputError, match=r"holds an adapter .*merge_and_unload"):
            read(folder)


def test_train_reads_shards_of_pickles(tmp_path: Path) -> None:
    folder, data = tiny_teacher(tmp_path / "m"), tmp_path / "data.jsonl"
    write_rows(data, ROWS)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    for i, part in enumerate((lambda n: "layer.0" in n, lambda n: "layer.0" not in n)):
        torch.save({name: value for name, value in weights.items() if part(name)}, folder / f"pytorch_model-{i}.bin")
    index = {name: f"pytorch_model-{int('layer.0' not in name)}.bin" for name in weights}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": index}))
    command = ["train", "--model", folder, "--task", "classification", "--train", data, "--eval", data, "--epochs", 1]
    assert "--pickle" in refused(*command, "--out", tmp_path / "refused")
    status, _, err = ended(*command, "--pickle", "--out", tmp_path / "out")
    assert status == 0 and (tmp_path / "out" / "model.safetensors").is_file(), err
