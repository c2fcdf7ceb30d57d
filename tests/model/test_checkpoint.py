"""Reading gives Hugging Face's logits, for every family and head; what is written, Hugging Face loads, without Penjing."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from conftest import (
    AUTO,
    FAMILIES,
    HEADS,
    POSITIONS,
    VOCABULARY,
    WITHOUT_PENJING,
    batch,
    half,
    logits,
    perturb,
    tiny,
    tiny_config,
    tiny_teacher,
    tiny_tokenizer,
)
from safetensors.torch import load_file, save_file

from penjing.blueprint import Head
from penjing.errors import InputError
from penjing.model.checkpoint import blueprint_at, blueprint_of, check_head, head_of, label_names, read, write
from penjing.model.surgery import cut
from penjing.selection import LayerSelection, Selection


def saved(model: Any, folder: Path, **options: Any) -> Path:
    model.save_pretrained(folder, **options)
    return folder


def inputs_for(model: Any, seed: int = 0) -> dict[str, torch.Tensor]:
    """A padded batch with every length from one token to all positions, and token types where the family has two."""
    config = model.config
    types = config.type_vocab_size if config.model_type in ("bert", "electra") else 1
    return batch([POSITIONS, 1, 9, 16], vocabulary=VOCABULARY, pad=config.pad_token_id, token_types=types, seed=seed)


# -- read --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_hugging_faces(family: str, head: Head, tmp_path: Path) -> None:
    model = tiny(family, head)
    ours = read(saved(model, tmp_path / "m"))
    assert blueprint_of(ours) == blueprint_at(tmp_path / "m")
    assert head_of(tmp_path / "m") == blueprint_of(ours).head == head
    assert not ours.training
    for seed in range(3):
        inputs = inputs_for(model, seed)
        torch.testing.assert_close(logits(ours, inputs), logits(model, inputs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_without_mask_or_token_types_are_hugging_faces(family: str, head: Head, tmp_path: Path) -> None:
    model = tiny(family, head)
    ours = read(saved(model, tmp_path / "m"))
    inputs = {"input_ids": inputs_for(model)["input_ids"][:1]}
    torch.testing.assert_close(logits(ours, inputs), logits(model, inputs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("activation", ["relu", "gelu_new", "silu"])
@pytest.mark.parametrize("family", FAMILIES)
def test_activations_and_epsilon_are_the_checkpoints(family: str, activation: str, tmp_path: Path) -> None:
    name = {"distilbert": "activation"}.get(family, "hidden_act")
    changes = {name: activation} | ({} if family == "distilbert" else {"layer_norm_eps": 1e-2})
    heads: tuple[Head, ...] = ("sequence", "masked")
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
    assert label_names(folder) == ["no", "perhaps", "yes"] == [whole.config.id2label[i] for i in range(3)]
    assert torch.equal(logits(read(folder, labels=["no", "perhaps", "yes"]), inputs), logits(whole, inputs))
    other = read(folder, labels=["north", "south", "west"])
    assert torch.equal(logits(other.base_model, inputs), logits(whole.base_model, inputs))
    assert not torch.equal(other.head.out.weight, whole.head.out.weight)
    assert read(folder, labels=["a", "b"]).config.id2label == {0: "a", 1: "b"}
    assert label_names(saved(tiny("bert"), tmp_path / "unnamed")) == []


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
    with pytest.raises(InputError, match="--pickle"):
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


# -- write -------------------------------------------------------------------------------------------------------


def assert_plain(folder: Path, family: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == family and "auto_map" not in config
    assert not list(folder.glob("*.py"))


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_uniform_model_is_written_as_its_own_family_exactly(family: str, head: Head, tmp_path: Path) -> None:
    names = {"id2label": {0: "a", 1: "b", 2: "c"}, "label2id": {"a": 0, "b": 1, "c": 2}}
    model = tiny(family, head, **(names if head in ("sequence", "token") else {"num_labels": 2}))
    write(read(saved(model, tmp_path / "theirs")), tmp_path / "plain")
    assert_plain(tmp_path / "plain", family)
    back, found = AUTO[head].from_pretrained(tmp_path / "plain", output_loading_info=True)
    assert type(back) is type(model)
    assert not found["unexpected_keys"] and not found["mismatched_keys"]
    assert {name for name in found["missing_keys"] if "pooler" not in name} == set()
    inputs = inputs_for(model)
    assert torch.equal(logits(back.eval(), inputs), logits(model, inputs))
    same, ours = back.config.to_dict(), model.config.to_dict()
    ignored = {"dtype", "torch_dtype", "_name_or_path", "architectures", "transformers_version"}
    assert {name: same.get(name) for name in ours if name not in ignored} == {n: v for n, v in ours.items() if n not in ignored}
    assert blueprint_at(tmp_path / "plain") == blueprint_at(tmp_path / "theirs")


@pytest.mark.parametrize("family", FAMILIES)
def test_fewer_equal_layers_are_still_plain(family: str, tmp_path: Path) -> None:
    model = tiny(family)
    whole = read(saved(model, tmp_path / "theirs"))
    small = cut(whole, Selection((LayerSelection(1, (0, 1), tuple(range(0, 24, 2))),)))
    write(small, tmp_path / "plain")
    assert_plain(tmp_path / "plain", family)
    back = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "plain").eval()
    inputs = inputs_for(model)
    torch.testing.assert_close(logits(back, inputs), logits(small, inputs), rtol=1e-5, atol=1e-5)
    assert sum(w.numel() for w in back.parameters()) <= sum(w.numel() for w in model.parameters())


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_pruned_model_is_read_back(family: str, head: Head, tmp_path: Path) -> None:
    model = tiny(family, head)
    whole = read(saved(model, tmp_path / "theirs"))
    small = cut(whole, half(blueprint_of(whole)))
    write(small, tmp_path / "pruned")
    back = read(tmp_path / "pruned")
    assert blueprint_of(back) == blueprint_of(small) == blueprint_at(tmp_path / "pruned") != blueprint_of(whole)
    inputs = inputs_for(model)
    assert torch.equal(logits(back, inputs), logits(small, inputs))
    assert (tmp_path / "pruned" / "modeling_penjing.py").is_file()


def test_writing_takes_the_tokenizer_and_further_files_and_replaces_what_was_there(tmp_path: Path) -> None:
    folder = tiny_teacher(tmp_path / "teacher")
    model = read(folder)
    target = tmp_path / "deep" / "target"
    write(cut(model, half(blueprint_of(model))), target)
    write(model, target, tokenizer=folder, extra={"penjing.json": {"a": "盆景"}, "README.md": "# tiny\n"})
    assert_plain(target, "bert")
    assert (target / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()
    assert json.loads((target / "penjing.json").read_text(encoding="utf-8")) == {"a": "盆景"}
    assert (target / "README.md").read_text() == "# tiny\n"
    assert [path.name for path in target.parent.iterdir()] == ["target"]
    assert transformers.AutoTokenizer.from_pretrained(target)("a good film").input_ids[0] == 2


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    model = read(saved(tiny("bert"), tmp_path / "theirs"))
    write(model, tmp_path / "target")
    before = (tmp_path / "target" / "config.json").read_bytes()
    with pytest.raises((TypeError, InputError)):
        write(model, tmp_path / "target", extra={"penjing.json": {"a": object()}})
    assert (tmp_path / "target" / "config.json").read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"theirs", "target"}


# -- a process without Penjing -----------------------------------------------------------------------------------

FRESH = (
    WITHOUT_PENJING
    + """
import importlib, json, traceback
from pathlib import Path

try:
    importlib.import_module("penjing")
    sys.exit("penjing could be imported")
except ImportError:
    pass

import torch, transformers
from safetensors.torch import load_file

torch.set_num_threads(1)
transformers.logging.set_verbosity_error()
AUTO = {
    "sequence": transformers.AutoModelForSequenceClassification, "token": transformers.AutoModelForTokenClassification,
    "question": transformers.AutoModelForQuestionAnswering, "masked": transformers.AutoModelForMaskedLM,
    "none": transformers.AutoModel,
}
PIPELINES = {"sequence": "text-classification", "token": "token-classification", "masked": "fill-mask"}


def answer(model, inputs):
    with torch.no_grad():
        out = model(**inputs)
    if "start_logits" in out:
        value = torch.stack([out.start_logits, out.end_logits], -1)
    else:
        value = out.logits if "logits" in out else out.last_hidden_state
    return value if value.ndim == 2 else value * inputs["attention_mask"][..., None]


def train(model, inputs, head):
    mask = inputs["attention_mask"].bool()
    labels = {
        "sequence": lambda: {"labels": torch.arange(len(mask)) % model.config.num_labels},
        "token": lambda: {"labels": torch.where(mask, inputs["input_ids"] % model.config.num_labels, -100)},
        "question": lambda: {"start_positions": torch.zeros(len(mask), dtype=torch.long), "end_positions": mask.sum(1) - 1},
        "masked": lambda: {"labels": torch.where(mask, inputs["input_ids"], -100)},
    }[head]()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    loss = model(**inputs, **labels).loss
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        return [loss.item(), model(**inputs, **labels).loss.item()]


def run(folder):
    head, tensors = json.loads((folder / "head.json").read_text()), load_file(folder / "io.safetensors")
    expected = tensors.pop("expected")
    model = AUTO[head].from_pretrained(folder, trust_remote_code=True).eval()
    result = {"class": type(model).__module__, "error": (answer(model, tensors) - expected).abs().max().item()}
    if head in PIPELINES:
        pipe = transformers.pipeline(PIPELINES[head], model=str(folder), trust_remote_code=True, device="cpu")
        text = "mary was a good [MASK] in the bank ." if head == "masked" else "mary loved the good films in london ."
        result["pipeline"] = [row.get("label") or row.get("entity") or row.get("token_str") for row in pipe(text)]
    if head != "none":
        result["losses"] = train(model, tensors, head)
    model.save_pretrained(folder / "again")
    back = AUTO[head].from_pretrained(folder / "again", trust_remote_code=True).eval()
    result["again"] = (answer(back, tensors) - answer(model, tensors)).abs().max().item()
    result["moved"] = (answer(back, tensors) - expected).abs().max().item()
    return result


results = {}
for folder in sorted(Path(sys.argv[1]).iterdir()):
    try:
        results[folder.name] = run(folder)
    except Exception:
        results[folder.name] = {"failed": traceback.format_exc()}
Path(sys.argv[2]).write_text(json.dumps(results))
"""
)

PRUNED = [(family, head) for family in FAMILIES for head in ("sequence", "token")]
PRUNED += [("bert", "question"), ("electra", "masked"), ("roberta", "none")]


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What a process where Penjing cannot be imported makes of a pruned model of each family and head."""
    assert tiny_tokenizer().get_vocab_size() <= VOCABULARY
    root = tmp_path_factory.mktemp("fresh")
    tokenizer = tiny_teacher(root / "tokenizer")
    for family, head in PRUNED:
        names = {"id2label": {0: "O", 1: "B-X", 2: "I-X"}, "label2id": {"O": 0, "B-X": 1, "I-X": 2}}
        model = tiny(family, head, **(names if head in ("sequence", "token") else {}))
        whole = read(saved(model, root / "theirs"))
        small, folder = cut(whole, half(blueprint_of(whole))), root / "models" / f"{family}-{head}"
        write(small, folder, tokenizer=tokenizer)
        inputs = inputs_for(model)
        save_file(inputs | {"expected": logits(small, inputs)}, folder / "io.safetensors")
        (folder / "head.json").write_text(json.dumps(head))
    home = os.environ | {"HF_HOME": str(root / "home"), "HF_HUB_OFFLINE": "1"}
    home = {name: value for name, value in home.items() if name not in ("PYTHONPATH", "HF_MODULES_CACHE")}
    done = subprocess.run(
        [sys.executable, "-c", FRESH, str(root / "models"), str(root / "results.json")],
        cwd=root, env=home, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    results: dict[str, dict[str, Any]] = json.loads((root / "results.json").read_text())
    for (family, head), folder in ((pair, root / "models" / "-".join(pair)) for pair in PRUNED):
        if (folder / "again").is_dir():
            results[f"{family}-{head}"]["ours"] = blueprint_of(read(folder / "again")) == blueprint_at(folder)
    return results


@pytest.mark.parametrize("family,head", PRUNED)
def test_a_pruned_model_lives_without_penjing(family: str, head: Head, fresh: dict[str, dict[str, Any]]) -> None:
    result = fresh[f"{family}-{head}"]
    assert "failed" not in result, result["failed"]
    assert result["class"].startswith("transformers_modules.")
    assert result["error"] <= 1e-6
    assert result["again"] <= 1e-6
    assert result["ours"]
    if head != "none":
        before, after = result["losses"]
        assert 0 < after < before
        assert result["moved"] > 1e-5
    if head == "sequence":
        assert len(result["pipeline"]) == 1 and result["pipeline"][0] in ("O", "B-X", "I-X")
    if head == "token":
        assert set(result["pipeline"]) <= {"B-X", "I-X"}
    if head == "masked":
        assert len(result["pipeline"]) == 5


def test_a_head_for_another_task_is_refused_in_one_line(tmp_path: Path) -> None:
    folder = tiny_teacher(tmp_path / "m")
    check_head(folder, "sequence", "classification")
    config = json.loads((folder / "config.json").read_text())
    for changes, head, said in (
        ({}, "token", "no trained head for classification"),
        ({"problem_type": "multi_label_classification"}, "sequence", "2 outputs (multi_label_classification)"),
        ({"problem_type": "regression"}, "sequence", "2 outputs (regression)"),
        ({"id2label": {"0": "score"}, "label2id": {"score": 0}}, "sequence", "with 1 output,"),
    ):
        (folder / "config.json").write_text(json.dumps(config | changes))
        with pytest.raises(InputError) as caught:
            check_head(folder, head, "classification", "--teacher")
        assert said in str(caught.value) and str(caught.value).startswith("--teacher") and "\n" not in str(caught.value)
    (folder / "config.json").write_text(json.dumps(config | {"problem_type": "single_label_classification"}))
    check_head(folder, "sequence", "classification")
