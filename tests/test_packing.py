"""What is packed comes back bit for bit, is small, and is refused where it is not whole; a packed folder loads without Penjing."""

import copy
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import HEADS, WITHOUT_PENJING, batch, blueprints, logits, own_inputs, penjing_model
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from penjing.arrays import Encoded
from penjing.blueprint import Blueprint, Head, Layer
from penjing.checkpoint import MODEL_CLASSES, blueprint_of, is_own, read, write
from penjing.engines.pytorch import TorchEngine
from penjing.errors import InputError
from penjing.modeling_penjing import PenjingPreTrainedModel
from penjing.packing import PACKED, load_packed, pack, save_packed, unpack

INTEGERS = {
    torch.float32: torch.int32, torch.float16: torch.int16, torch.bfloat16: torch.int16, torch.float64: torch.int64,
    torch.int64: torch.int64, torch.uint8: torch.uint8, torch.bool: torch.uint8,
}  # fmt: skip
STUDENT = Blueprint(30, 12, 2, 16, 16, 4, (Layer(4, 24), Layer(2, 9)), "sequence", 3)


def bits(tensor: Tensor) -> Tensor:
    return tensor.view(INTEGERS[tensor.dtype])


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    """The same names, dtypes, shapes and bits."""
    assert list(a) == list(b)
    for name, value in a.items():
        assert (value.dtype, value.shape) == (b[name].dtype, b[name].shape)
        assert torch.equal(bits(value), bits(b[name]))


def stored_bytes(tensors: dict[str, Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())


def sparse(model: PenjingPreTrainedModel, zeros: float = 0.9) -> PenjingPreTrainedModel:
    """The model with that share of its matrices at zero."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                module.weight[torch.rand(module.weight.shape, generator=generator) < zeros] = 0.0
    return model


@st.composite
def tensors(draw: Any) -> Tensor:
    """Any bits at all (every NaN, inf and subnormal), some of them -0.0, a share of them zero; also empty, and a transposed view."""
    dtype = draw(st.sampled_from(list(INTEGERS)))
    shape = draw(st.lists(st.integers(0, 9), max_size=3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    if dtype == torch.bool:
        return torch.rand(shape, generator=generator) < draw(st.floats(0, 1))
    limits = torch.iinfo(INTEGERS[dtype])
    value = torch.randint(limits.min, limits.max, shape, dtype=INTEGERS[dtype], generator=generator).view(dtype)
    if dtype.is_floating_point:
        value[torch.rand(shape, generator=generator) < 0.2] = -0.0
    value[torch.rand(shape, generator=generator) < draw(st.floats(0, 1))] = 0
    return value.mT if value.ndim == 2 and draw(st.booleans()) else value


@given(st.dictionaries(st.sampled_from(["a", "a:values", "a:bitmap", "盆景.weight", ""]), tensors()))
def test_what_is_packed_comes_back_bit_for_bit(state: dict[str, Tensor]) -> None:
    stored, header = pack(state)
    assert_same(unpack(stored, json.loads(json.dumps(header))), state)


def test_numbers_that_are_not_ordinary_are_no_zeros() -> None:
    state = {"a": torch.zeros(100)}
    state["a"][:5] = torch.tensor([-0.0, math.nan, math.inf, -math.inf, 1e-45])
    stored, header = pack(state)
    assert header["tensors"]["a"]["codec"] == "bitmap" and stored["a:values"].shape == (5,)
    assert stored["a:bitmap"].tolist() == [0b11111, *[0] * 12]
    assert_same(unpack(stored, header), state)


@given(st.sampled_from(list(INTEGERS)), st.integers(0, 700), st.floats(0, 1))
def test_it_is_smaller_from_one_zero_more_than_a_bit_per_entry_on(dtype: torch.dtype, count: int, share: float) -> None:
    value = torch.ones(count, dtype=dtype)
    zeros = round(share * count)
    value[:zeros] = 0
    stored, _ = pack({"a": value})
    bitmap = -(-count // 8) + (count - zeros) * value.element_size()
    has_bitmap = dtype in (torch.float32, torch.float16, torch.bfloat16)
    assert stored_bytes(stored) == (min(value.nbytes, bitmap) if has_bitmap else value.nbytes)


@pytest.mark.parametrize("dtype,share", [(torch.float32, 32), (torch.float16, 16), (torch.bfloat16, 16)])
def test_the_share_of_zeros_that_pays(dtype: torch.dtype, share: int) -> None:
    value = torch.ones(64, 64, dtype=dtype)
    value.view(-1)[: 64 * 64 // share] = 0
    assert pack({"a": value})[0].keys() == {"a:values"}
    value[-1, -1] = 0
    assert stored_bytes(pack({"a": value})[0]) == value.nbytes - value.element_size()


@given(state=st.dictionaries(st.sampled_from(["a", "b.weight"]), tensors()))
def test_a_file_comes_back_bit_for_bit(state: dict[str, Tensor], tmp_path: Path) -> None:
    save_packed(state, tmp_path / PACKED)
    assert_same(load_packed(tmp_path / PACKED), {name: value.contiguous() for name, value in state.items()})


# -- what is not whole -------------------------------------------------------------------------------------------

Damage = Callable[[dict[str, Tensor], dict[str, Any]], Any]
DAMAGES: dict[str, tuple[Damage, str]] = {
    "newer version": (lambda t, h: h.update(version=2), "version 2"),
    "no version": (lambda t, h: h.pop("version"), "version None"),
    "no tensors": (lambda t, h: h.pop("tensors"), "header"),
    "list of tensors": (lambda t, h: h.update(tensors=["a"]), "header"),
    "further field": (lambda t, h: h.update(more=1), "more"),
    "unknown codec": (lambda t, h: h["tensors"]["a"].update(codec="zip"), "codec 'zip'"),
    "codec that is no name": (lambda t, h: h["tensors"]["a"].update(codec=["bitmap"]), "codec"),
    "entry that is none": (lambda t, h: h["tensors"].update(a=3), "describe a"),
    "entry without dtype": (lambda t, h: h["tensors"]["a"].pop("dtype"), "describe a"),
    "entry with more": (lambda t, h: h["tensors"]["a"].update(bits=4), "describe a"),
    "negative sizes": (lambda t, h: h["tensors"]["a"].update(shape=[-9, -11]), "shape"),
    "shape that is no list": (lambda t, h: h["tensors"]["a"].update(shape=99), "shape"),
    "huge shape": (lambda t, h: h["tensors"]["a"].update(shape=[10**9, 10**9]), "bitmap"),
    "another shape": (lambda t, h: h["tensors"]["a"].update(shape=[9, 9]), "bitmap"),
    "another shape of a dense tensor": (lambda t, h: h["tensors"]["b"].update(shape=[2, 3]), "header says float32"),
    "another dtype": (lambda t, h: h["tensors"]["a"].update(dtype="float16"), "header says float16"),
    "another codec": (lambda t, h: h["tensors"]["a"].update(codec="dense"), "a:bitmap"),
    "missing part": (lambda t, h: t.pop("a:bitmap"), "lack 1 .* a:bitmap"),
    "missing entry": (lambda t, h: h["tensors"].pop("b"), "should not have 1 .* b:values"),
    "further tensor": (lambda t, h: t.update(c=torch.zeros(1)), "should not have 1 .* c"),
    "too few values": (lambda t, h: t.update({"a:values": t["a:values"][1:]}), "at a: .* 99 entries"),
    "values in two dimensions": (lambda t, h: t.update({"a:values": t["a:values"][None]}), "at a: .* 99 entries"),
    "too few bits": (lambda t, h: t.update({"a:bitmap": t["a:bitmap"][1:]}), "13 bytes"),
    "bits of another type": (lambda t, h: t.update({"a:bitmap": t["a:bitmap"].int()}), "int32"),
    "a bit turned": (lambda t, h: t["a:bitmap"][0].bitwise_xor_(1), "marks"),
    "a bit moved past the end": (lambda t, h: t["a:bitmap"][12].bitwise_xor_(0b1100), "marks"),
}


def damaged(damage: Damage) -> tuple[dict[str, Tensor], dict[str, Any]]:
    matrix = torch.arange(99.0).reshape(9, 11)
    matrix[:8] = 0
    stored, header = copy.deepcopy(pack({"a": matrix, "b": torch.ones(3, 2)}))
    assert header["tensors"]["a"]["codec"] == "bitmap" and stored["a:bitmap"][12] == 0b111
    damage(stored, header)
    return stored, header


@pytest.mark.parametrize("damage,says", DAMAGES.values(), ids=DAMAGES)
def test_what_is_not_whole_is_refused_in_one_line(damage: Damage, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        unpack(*damaged(damage))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("header", ["[]", "null", "3", "{", '"a"'])
def test_a_header_that_is_none_is_refused(header: str, tmp_path: Path) -> None:
    save_file({"a:values": torch.ones(3)}, tmp_path / PACKED, metadata={"penjing": header})
    with pytest.raises(ValueError):
        load_packed(tmp_path / PACKED)


@pytest.mark.parametrize("damage", ["truncated", "emptied", "plain", "wrong count"])
def test_a_damaged_folder_is_refused(damage: str, tmp_path: Path) -> None:
    write(sparse(penjing_model(STUDENT)), tmp_path / "m", packed=True)
    file = tmp_path / "m" / PACKED
    stored = load_file(file)
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:-100])
    elif damage == "emptied":
        file.write_bytes(b"")
    elif damage == "plain":
        save_file(stored, file)
    else:
        with safe_open(file, framework="pt") as old:
            metadata = old.metadata()
        name = next(name for name in stored if name.removesuffix(":values") + ":bitmap" in stored)
        save_file(stored | {name: stored[name][1:].clone()}, file, metadata=metadata)
    with pytest.raises(InputError, match="damaged") as caught:
        read(tmp_path / "m")
    assert "\n" not in str(caught.value)


def test_a_folder_with_too_few_weights_is_refused(tmp_path: Path) -> None:
    write(penjing_model(STUDENT), tmp_path / "m", packed=True)
    state = load_packed(tmp_path / "m" / PACKED)
    del state["encoder.layers.1.feed_forward.down.weight"]
    save_packed(state, tmp_path / "m" / PACKED)
    with pytest.raises(InputError, match=r"layers\.1\.feed_forward\.down\.weight"):
        read(tmp_path / "m")


# -- a folder ----------------------------------------------------------------------------------------------------


@given(blueprints(), st.integers(0, 99))
def test_a_packed_folder_is_read_exactly(blueprint: Blueprint, seed: int) -> None:
    model = sparse(penjing_model(blueprint, seed), 0.5)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "m"
        write(model, folder, packed=True)
        assert {path.name for path in folder.iterdir()} == {"config.json", "modeling_penjing.py", "packing.py", PACKED}
        ours, theirs = read(folder), MODEL_CLASSES[blueprint.head].from_pretrained(folder)
    assert blueprint_of(ours) == blueprint_of(theirs) == blueprint
    inputs = own_inputs(blueprint, seed)
    for back in (ours, theirs):
        assert not back.training
        assert_same(dict(back.state_dict()), dict(model.state_dict()))
        assert torch.equal(logits(back, inputs), logits(model, inputs))


def test_a_packed_folder_is_our_own_and_smaller(tmp_path: Path, teacher: Path) -> None:
    model = sparse(read(teacher))
    write(model, tmp_path / "plain")
    write(model, tmp_path / "packed", tokenizer=teacher, extra={"README.md": "# tiny\n"}, packed=True)
    assert not is_own(tmp_path / "plain") and is_own(tmp_path / "packed")
    assert (tmp_path / "packed" / "README.md").is_file() and (tmp_path / "packed" / "tokenizer.json").is_file()
    small, large = (sum(file.stat().st_size for file in (tmp_path / name).glob("*.safetensors")) for name in ("packed", "plain"))
    assert small < large / 2
    assert_same(dict(read(tmp_path / "packed").state_dict()), dict(model.state_dict()))


def test_the_pytorch_engine_runs_a_packed_folder(tmp_path: Path) -> None:
    model = sparse(penjing_model(STUDENT))
    write(model, tmp_path / "m", packed=True)
    encoded = Encoded.of([[2, 5, 7], [4, 9, 11]], [[0, 0, 1], [0, 1, 1]])
    feeds = encoded.feeds(np.arange(2))
    expected = logits(model, {name: torch.from_numpy(value) for name, value in feeds.items()})
    assert torch.equal(torch.from_numpy(TorchEngine(tmp_path / "m", 1).run(feeds)), expected)


def test_from_pretrained_takes_its_usual_arguments(tmp_path: Path) -> None:
    model = sparse(penjing_model(STUDENT))
    write(model, tmp_path / "m", packed=True)
    kind = type(model)
    halves, info = kind.from_pretrained(tmp_path / "m", dtype=torch.bfloat16, output_loading_info=True)
    assert {weight.dtype for weight in halves.parameters()} == {torch.bfloat16}
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert halves.name_or_path == halves.config.name_or_path == str(tmp_path / "m")
    for dtype in ("auto", None):
        assert_same(dict(kind.from_pretrained(tmp_path / "m", dtype=dtype).state_dict()), dict(model.state_dict()))
    given_config = kind.from_pretrained(tmp_path, config=model.config, subfolder="m", dtype="float16")
    assert given_config.dtype == torch.float16
    changed = kind.from_pretrained(tmp_path / "m", hidden_dropout_prob=0.5)
    assert changed.config.hidden_dropout_prob == 0.5
    bare = MODEL_CLASSES["none"].from_pretrained(tmp_path / "m")
    assert_same(dict(bare.state_dict()), dict(model.base_model.state_dict()))


def test_dense_weights_written_into_a_packed_folder_are_the_ones_read(tmp_path: Path) -> None:
    model = sparse(penjing_model(STUDENT))
    write(model, tmp_path / "m", packed=True)
    later = MODEL_CLASSES["sequence"].from_pretrained(tmp_path / "m")
    with torch.no_grad():
        later.head.out.bias += 1
    later.save_pretrained(tmp_path / "m")
    assert (tmp_path / "m" / PACKED).is_file() and (tmp_path / "m" / "model.safetensors").is_file()
    for back in (read(tmp_path / "m"), MODEL_CLASSES["sequence"].from_pretrained(tmp_path / "m")):
        assert_same(dict(back.state_dict()), dict(later.state_dict()))


# -- a process without Penjing -----------------------------------------------------------------------------------

FRESH = (
    WITHOUT_PENJING
    + """
import json
from pathlib import Path

import torch, transformers
from safetensors.torch import load_file

torch.set_num_threads(1)
AUTO = {
    "sequence": transformers.AutoModelForSequenceClassification, "token": transformers.AutoModelForTokenClassification,
    "question": transformers.AutoModelForQuestionAnswering, "masked": transformers.AutoModelForMaskedLM,
    "none": transformers.AutoModel,
}
root = Path(sys.argv[1])


def answer(model, inputs):
    with torch.no_grad():
        return next(iter(model(**inputs).values()))


def same(model, state):
    return all(torch.equal(value, state[name]) for name, value in model.state_dict().items()) and len(model.state_dict()) == len(state)


def run(head, folder):
    state, inputs = load_file(root / f"{head}.state"), load_file(root / f"{head}.io")
    expected = inputs.pop("expected")
    model = AUTO[head].from_pretrained(folder, trust_remote_code=True)
    first = answer(model, inputs)
    result = {"class": type(model).__module__, "weights": same(model, state), "logits": torch.equal(first, expected)}
    model.train()
    sum(value.square().mean() for value in model(**inputs).values()).backward()
    result["gradients"] = all(w.grad is not None and bool(w.grad.any()) for w in model.base_model.layers.parameters() if w.numel())
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    model.eval().save_pretrained(root / f"{head}-again")
    result["files"] = sorted(path.name for path in (root / f"{head}-again").iterdir())
    back = AUTO[head].from_pretrained(root / f"{head}-again", trust_remote_code=True)
    result["moved"] = not torch.equal(first, answer(back, inputs))
    result["again"] = same(back, model.state_dict()) and torch.equal(answer(model, inputs), answer(back, inputs))
    return result


results = {head: run(head, root / head) for head in AUTO}
results["hub"] = run("sequence", "someone/packed")
(root / "results.json").write_text(json.dumps(results))
"""
)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What a process where Penjing cannot be imported makes of a packed folder of each head, and of a repository in the hub's cache."""
    root = tmp_path_factory.mktemp("fresh")
    for head in HEADS:
        outputs = {"sequence": 3, "token": 3, "question": 2}.get(head, 0)
        model = sparse(penjing_model(Blueprint(30, 12, 2, 10, 16, 4, (Layer(4, 24), Layer(0, 9), Layer(2, 0)), head, outputs)))
        write(model, root / head, packed=True)
        save_file({name: value.contiguous() for name, value in model.state_dict().items()}, root / f"{head}.state")
        inputs = batch([12, 3, 7], vocabulary=30, token_types=2)
        with torch.no_grad():
            expected = next(iter(model(**inputs).values()))
        save_file(inputs | {"expected": expected.contiguous()}, root / f"{head}.io")
    repository = root / "home" / "hub" / "models--someone--packed"
    shutil.copytree(root / "sequence", repository / "snapshots" / ("0" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    home = os.environ | {"HF_HOME": str(root / "home"), "HF_HUB_OFFLINE": "1"}
    home = {name: value for name, value in home.items() if name not in ("PYTHONPATH", "HF_MODULES_CACHE", "HF_HUB_CACHE")}
    done = subprocess.run([sys.executable, "-c", FRESH, str(root)], cwd=root, env=home, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    results: dict[str, dict[str, Any]] = json.loads((root / "results.json").read_text())
    return results


@pytest.mark.parametrize("where", [*HEADS, "hub"])
def test_a_packed_model_lives_without_penjing(where: Head | str, fresh: dict[str, dict[str, Any]]) -> None:
    result = fresh[where]
    assert result["class"].startswith("transformers_modules.")
    assert result["files"] == ["config.json", "model.safetensors", "modeling_penjing.py", "packing.py"]
    assert [name for name in ("weights", "logits", "gradients", "moved", "again") if not result[name]] == []
