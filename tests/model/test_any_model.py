"""Any model that transformers makes is read with its logits, or refused; any damage to a file is a model or one line."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import AUTO, FAMILIES, HEADS, batch, logits, perturb, tiny, tiny_config
from hypothesis import given, settings
from hypothesis import strategies as st
from spelling import byte_level, wordpiece

from penjing.engines.form import EAGER
from penjing.engines.pytorch import TorchEngine
from penjing.errors import InputError
from penjing.job.inspection import inspection
from penjing.model.checkpoint import open_checkpoint, read

ACTIVATIONS = ["gelu", "relu", "gelu_new", "silu", "tanh", "gelu_pytorch_tanh", "quick_gelu", "relu6", "mish", "sigmoid"]
PASSED_OVER = {
    "classifier_dropout": 0.4, "output_hidden_states": True, "chunk_size_feed_forward": 2, "use_cache": False, "layer_norm_eps": 0.1,
    "seq_classif_dropout": 0.9, "summary_type": "mean", "position_embedding_type": "absolute", "is_decoder": False, "return_dict": False,
    "sinusoidal_pos_embds": True, "bos_token_id": 3, "hidden_dropout_prob": 0.7, "unknown_to_all": [1], "pruned_heads": {},
}  # fmt: skip
REFUSED: dict[str, Any] = {
    "is_decoder": True, "is_encoder_decoder": True, "position_embedding_type": "relative_key_query", "pruned_heads": {"0": [0]},
    "quantization_config": {"load_in_8bit": True},
}  # fmt: skip


@st.composite
def configurations(draw: Any) -> tuple[str, str, dict[str, Any]]:
    """A family, a head, and sizes and fields that transformers takes."""
    family, head = draw(st.sampled_from(FAMILIES)), draw(st.sampled_from(list(HEADS)))
    heads, width = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    hidden, layers, neurons, vocabulary = heads * width, draw(st.integers(0, 3)), draw(st.integers(1, 9)), draw(st.integers(12, 40))
    fields: dict[str, Any] = {
        "vocab_size": vocabulary,
        "pad_token_id": draw(st.integers(0, 11)),
        "initializer_range": draw(st.sampled_from([0.02, 1.0])),
    }
    activation = draw(st.sampled_from(ACTIVATIONS))
    if family == "distilbert":
        fields |= {"dim": hidden, "n_layers": layers, "n_heads": heads, "hidden_dim": neurons, "activation": activation}
    else:
        fields |= {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads, "intermediate_size": neurons}
        fields |= {
            "hidden_act": activation,
            "layer_norm_eps": draw(st.sampled_from([1e-12, 1e-5, 0.3])),
            "type_vocab_size": draw(st.integers(1, 3)),
        }
    if family == "electra":
        fields["embedding_size"] = draw(st.integers(2, 8))
    fields["max_position_embeddings"] = draw(st.integers(3, 9)) + (fields["pad_token_id"] + 1 if "roberta" in family else 0)
    if head != "question":
        count = draw(st.integers(1, 4))
        fields |= (
            {"num_labels": count}
            if draw(st.booleans())
            else {"id2label": {i: f"label {i}" for i in range(count)}, "label2id": {f"label {i}": i for i in range(count)}}
        )
    for name in draw(st.lists(st.sampled_from(sorted(PASSED_OVER)), max_size=4, unique=True)):
        fields.setdefault(name, PASSED_OVER[name])
    return family, head, fields


@given(drawn=configurations(), seed=st.integers(0, 3))
@settings(max_examples=80)
def test_logits_are_transformers_of_any_configuration(
    drawn: tuple[str, str, dict[str, Any]], seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    family, head, fields = drawn
    folder = tmp_path_factory.mktemp("any")
    model = perturb(AUTO[head].from_config(tiny_config(family, **({"num_labels": 2} if head == "question" else {}) | fields)), seed)
    model.save_pretrained(folder)
    ours = read(folder)
    blueprint = open_checkpoint(folder).blueprint
    types = blueprint.token_types if family in ("bert", "electra") else 1
    lengths = [blueprint.positions, 1, max(1, blueprint.positions - 1)]
    inputs = batch(lengths, vocabulary=fields["vocab_size"], pad=fields["pad_token_id"], token_types=types, seed=seed)
    model.config.return_dict, model.config.chunk_size_feed_forward = True, 0
    for module in model.modules():
        if hasattr(module, "chunk_size_feed_forward"):
            module.chunk_size_feed_forward = 0
    expected = logits(model, inputs)
    torch.testing.assert_close(logits(ours, inputs), expected, rtol=1e-4, atol=1e-4)
    if head == "sequence":
        engine = TorchEngine(folder, EAGER, 1)
        feeds = {name: value.numpy() for name, value in inputs.items()} | (
            {} if "token_type_ids" in inputs else {"token_type_ids": 0 * inputs["input_ids"].numpy()}
        )
        torch.testing.assert_close(torch.from_numpy(engine.run(feeds)), expected, rtol=1e-4, atol=1e-4)


@given(drawn=configurations(), refused=st.sampled_from(sorted(REFUSED)))
@settings(max_examples=20)
def test_what_is_not_followed_is_refused_in_any_configuration(
    drawn: tuple[str, str, dict[str, Any]], refused: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    family, head, fields = drawn
    folder = tmp_path_factory.mktemp("any")
    AUTO[head].from_config(tiny_config(family, **({"num_labels": 2} if head == "question" else {}) | fields)).save_pretrained(folder)
    written = json.loads((folder / "config.json").read_text()) | {refused: REFUSED[refused]}
    (folder / "config.json").write_text(json.dumps(written))
    for look in (
        read,
        lambda path: open_checkpoint(path).matched,
        lambda path: open_checkpoint(path).blueprint,
        lambda path: TorchEngine(path, EAGER, 1),
    ):
        with pytest.raises(InputError, match=refused):
            look(folder)


@pytest.mark.parametrize("family", ["bert", "electra", "roberta"])
def test_one_token_type_is_the_type_of_every_token(family: str, tmp_path: Path) -> None:
    """A tokenizer may tell two texts apart for a model that does not (RoBERTa with a vocabulary of BERT's kind)."""
    model = tiny(family, "sequence", type_vocab_size=1)
    model.save_pretrained(tmp_path)
    inputs = batch([9, 4], vocabulary=60, pad=model.config.pad_token_id)
    told = inputs | {"token_type_ids": (inputs["attention_mask"].cumsum(1) > 3).long()}
    torch.testing.assert_close(logits(read(tmp_path), told), logits(model, inputs), rtol=1e-5, atol=1e-5)
    feeds = {name: value.numpy() for name, value in told.items()}
    torch.testing.assert_close(torch.from_numpy(TorchEngine(tmp_path, EAGER, 1).run(feeds)), logits(model, inputs), rtol=1e-5, atol=1e-5)


# -- damage ------------------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 40) | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models with every file that is read; do not write into them."""
    root = tmp_path_factory.mktemp("whole")
    found = {}
    for name, make in (("bert", wordpiece), ("roberta", byte_level)):
        folder = make(root / name)
        config = json.loads((folder / "config.json").read_text())
        tiny(name, "sequence", vocab_size=config["vocab_size"]).save_pretrained(folder, max_shard_size="1MB" if name == "bert" else "8KB")
        vocabulary = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
        if name == "bert":
            (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in vocabulary), encoding="utf-8")
        found[name] = folder
    slow = shutil.copytree(found["bert"], root / "slow")
    (slow / "tokenizer.json").unlink()
    return found | {"slow": slow}


def check(folder: Path) -> None:
    """Every reader gives what it reads, or one line."""
    for look in (read, lambda path: open_checkpoint(path).labels, lambda path: inspection(str(path))):
        try:
            look(folder)
        except InputError as error:
            assert "\n" not in str(error).strip() and str(error)


@given(data=st.data())
@settings(max_examples=100)
def test_damaged_bytes_are_a_model_or_one_line(
    data: st.DataObject, whole: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = shutil.copytree(whole[data.draw(st.sampled_from(sorted(whole)))], tmp_path_factory.mktemp("damaged") / "m")
    path = folder / data.draw(st.sampled_from(sorted(file.name for file in folder.iterdir())))
    content = path.read_bytes()
    match data.draw(st.sampled_from(["random", "cut", "flipped", "doubled", "removed"])):
        case "random":
            path.write_bytes(data.draw(st.binary(max_size=64)))
        case "cut":
            path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
        case "flipped":
            changed = bytearray(content)
            for _ in range(data.draw(st.integers(1, 4))):
                changed[data.draw(st.integers(0, min(len(content) - 1, data.draw(st.sampled_from([40, 2000, 10**6])))))] ^= data.draw(
                    st.integers(1, 255)
                )
            path.write_bytes(bytes(changed))
        case "doubled":
            path.write_bytes(content * 2)
        case "removed":
            path.unlink()
    check(folder)


@given(data=st.data())
@settings(max_examples=100)
def test_any_value_of_any_field_is_a_model_or_one_line(
    data: st.DataObject, whole: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = shutil.copytree(whole[data.draw(st.sampled_from(sorted(whole)))], tmp_path_factory.mktemp("changed") / "m")
    path = folder / data.draw(st.sampled_from(sorted(file.name for file in folder.glob("*.json"))))
    content: Any = json.loads(path.read_text(encoding="utf-8"))
    place, depth = content, data.draw(st.integers(0, 3))
    for _ in range(depth):
        keys = range(len(place)) if isinstance(place, list) else sorted(place)
        inner = [key for key in keys if isinstance(place[key], dict | list) and place[key]]
        if not inner:
            break
        place = place[data.draw(st.sampled_from(inner))]
    keys = list(range(len(place)) if isinstance(place, list) else sorted(place))
    place[data.draw(st.sampled_from(keys))] = data.draw(JSON)
    path.write_text(json.dumps(content), encoding="utf-8")
    check(folder)
