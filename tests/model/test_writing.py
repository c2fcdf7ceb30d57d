"""What is written, Hugging Face loads, without Penjing; a plain checkpoint says all that the model computes."""

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
    VOCABULARY,
    WITHOUT_PENJING,
    half,
    logits,
    tiny,
    tiny_teacher,
    tiny_tokenizer,
)
from models import inputs_for, saved
from safetensors.torch import save_file

from penjing.errors import InputError
from penjing.model.building import blueprint_of, build
from penjing.model.checkpoint import open_checkpoint, read
from penjing.model.families import FAMILIES as FAMILIES_ROWS
from penjing.model.surgery import cut
from penjing.model.writing import write
from penjing.selection import LayerSelection, Selection


def assert_plain(folder: Path, family: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == family and "auto_map" not in config
    assert not list(folder.glob("*.py"))


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_uniform_model_is_written_as_its_own_family_exactly(family: str, head: str, tmp_path: Path) -> None:
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
    assert open_checkpoint(tmp_path / "plain").blueprint == open_checkpoint(tmp_path / "theirs").blueprint


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
def test_a_pruned_model_is_read_back(family: str, head: str, tmp_path: Path) -> None:
    model = tiny(family, head)
    whole = read(saved(model, tmp_path / "theirs"))
    small = cut(whole, half(blueprint_of(whole)))
    write(small, tmp_path / "pruned")
    back = read(tmp_path / "pruned")
    assert blueprint_of(back) == blueprint_of(small) == open_checkpoint(tmp_path / "pruned").blueprint != blueprint_of(whole)
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


# -- what the model computes -------------------------------------------------------------------------------------


def changed(model: Any, **changes: Any) -> Any:
    """The same weights, with other fields of the configuration."""
    result = build(blueprint_of(model), model.config, **changes)
    result.load_state_dict(model.state_dict())
    return result


@pytest.mark.parametrize("head", ["sequence", "token", "masked"])
@pytest.mark.parametrize("family", FAMILIES)
def test_another_activation_is_written(family: str, head: str, tmp_path: Path) -> None:
    theirs = tiny(family, head)
    model = changed(read(saved(theirs, tmp_path / "theirs")), hidden_act="silu")
    inputs = inputs_for(theirs)
    assert not torch.allclose(logits(model, inputs), logits(theirs, inputs), atol=1e-3)
    write(model, tmp_path / "again")
    back = read(tmp_path / "again")
    assert back.config.hidden_act == "silu" and torch.equal(logits(back, inputs), logits(model, inputs))
    if head != "masked" or "gelu" in (FAMILIES_ROWS[family].decoder_activation or ""):  # the head's own activation is as it was
        assert_plain(tmp_path / "again", family)
        hugging_face = AUTO[head].from_pretrained(tmp_path / "again").eval()
        torch.testing.assert_close(logits(hugging_face, inputs), logits(model, inputs), rtol=1e-5, atol=1e-5)
    else:  # of these a language model's head has the encoder's activation: no plain configuration can say two
        assert json.loads((tmp_path / "again" / "config.json").read_text())["model_type"] == "penjing"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("changes", [{"head_act": "silu"}, {"layer_norm_eps": 1e-3}], ids=str)
def test_what_a_family_cannot_say_is_written_in_our_own_format(family: str, changes: dict[str, Any], tmp_path: Path) -> None:
    theirs = tiny(family, "sequence")
    model, inputs = changed(read(saved(theirs, tmp_path / "theirs")), **changes), inputs_for(theirs)
    write(model, tmp_path / "again")
    assert torch.equal(logits(read(tmp_path / "again"), inputs), logits(model, inputs))
    own = json.loads((tmp_path / "again" / "config.json").read_text())["model_type"] == "penjing"
    assert own == ("head_act" in changes or family == "distilbert")


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
            results[f"{family}-{head}"]["ours"] = blueprint_of(read(folder / "again")) == open_checkpoint(folder).blueprint
    return results


@pytest.mark.parametrize("family,head", PRUNED)
def test_a_pruned_model_lives_without_penjing(family: str, head: str, fresh: dict[str, dict[str, Any]]) -> None:
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
