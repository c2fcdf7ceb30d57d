"""What is packed comes back bit for bit, is small, and is refused where it is not whole; a packed folder loads without Penjing."""

import copy
import dataclasses
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import HEADS, WITHOUT_PENJING, batch, blueprints, logits, own_inputs, penjing_model
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from penjing.blueprint import Blueprint, Layer
from penjing.engines.form import EAGER
from penjing.engines.pytorch import TorchEngine
from penjing.errors import InputError
from penjing.maths.stored import Scheme, quantize
from penjing.model import packing
from penjing.model.building import blueprint_of, model_class_of
from penjing.model.checkpoint import open_checkpoint, read
from penjing.model.coded import Array, Coded
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.model.packing import PACKED, load_coded, load_packed, pack, save_packed, unpack
from penjing.model.writing import write
from penjing.text.encoded import Encoded

DTYPES = ("float32", "float16", "float64", "int64", "uint8", "bool")
CODE = ("attending.py", "coded.py", "modeling_penjing.py", "packing.py")
"""The files that travel with a model, so that it loads without Penjing."""
STUDENT = Blueprint(30, 12, 2, 16, 16, 4, (Layer(4, 24), Layer(2, 9)), "sequence", 3)


def assert_same(a: Any, b: Any) -> None:
    """The same names, dtypes, shapes and bits, of arrays or tensors."""
    assert list(a) == list(b)
    for name in a:
        x, y = (value.numpy() if isinstance(value, Tensor) else value for value in (a[name], b[name]))
        assert (x.dtype, x.shape) == (y.dtype, y.shape)
        assert x.tobytes() == y.tobytes()


def stored_bytes(tensors: dict[str, Array]) -> int:
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
def tensors(draw: Any) -> Array:
    """Any bits at all (every NaN, inf and subnormal), some of them -0.0, a share of them zero; also empty, and a transposed view."""
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    shape = draw(st.lists(st.integers(0, 9), max_size=3))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    if dtype == np.bool_:
        return np.asarray(generator.random(shape) < draw(st.floats(0, 1)))
    value = np.frombuffer(generator.bytes(math.prod(shape) * dtype.itemsize), dtype).reshape(shape).copy()
    if dtype.kind == "f":
        value[generator.random(shape) < 0.2] = -0.0
    value[generator.random(shape) < draw(st.floats(0, 1))] = 0
    return value.T if draw(st.booleans()) else value


@st.composite
def codes(draw: Any) -> Coded:
    """Any codes of any codec, width and shape, some of the levels only, and any finite parameters."""
    codec, bits, group = draw(st.sampled_from(["grid", "codebook", "power"])), draw(st.integers(1, 8)), draw(st.integers(0, 12))
    shape = tuple(draw(st.lists(st.integers(0, 40), max_size=3)))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    levels = draw(st.integers(1, 2**bits - (codec == "power")))
    # Now and then nearly all of them are equal, so that entropy coding pays.
    chosen = generator.integers(0, levels, shape) * (generator.random(shape) < draw(st.sampled_from([1.0, 0.05])))
    columns = shape[-1] if shape else 1
    groups = math.prod(shape[:-1]) * -(-columns // group) if group else 1
    scale = generator.normal(size=groups).astype(draw(st.sampled_from([np.float16, np.float32])))
    parameters: dict[str, dict[str, Array]] = {
        "grid": {"scale": scale, "zero": generator.integers(0, 256, draw(st.sampled_from([groups, 1]))) / np.float32(2)},
        "codebook": {"table": generator.normal(size=(groups, levels)).astype(np.float32)},
        "power": {"scale": scale},
    }
    return Coded(codec, bits, shape, group, np.asarray(chosen, np.uint8), parameters[codec])


def slow_values(coded: Coded) -> Array:
    """The values one by one, as the table of codecs says."""
    result = np.empty(coded.shape, np.float32)
    columns = coded.shape[-1] if coded.shape else 1
    m = 2 ** (coded.bits - 1) - 1
    for i, place in enumerate(np.ndindex(coded.shape)):
        group = i // columns * -(-columns // coded.group) + i % columns // coded.group if coded.group else 0
        code = int(coded.codes[place])
        shared = {name: np.float32(p[group if len(p) > 1 else 0]) if p.ndim == 1 else p[group] for name, p in coded.parameters.items()}
        if coded.codec == "grid":
            result[place] = shared["scale"] * (np.float32(code) - shared["zero"])
        elif coded.codec == "codebook":
            result[place] = shared["table"][code]
        else:
            k = code - m
            result[place] = np.sign(k) * shared["scale"] * np.float32(2.0) ** (abs(k) - m)
    return result


@given(st.dictionaries(st.sampled_from(["a", "a:values", "a:bitmap", "盆景.weight", ""]), tensors()))
def test_what_is_packed_comes_back_bit_for_bit(state: dict[str, Array]) -> None:
    stored, header = pack(state)
    assert_same(unpack(stored, json.loads(json.dumps(header))), state)


@given(codes())
def test_codes_come_back_as_they_were(coded: Coded) -> None:
    stored, header = pack({"a": coded})
    assert_same(unpack(stored, json.loads(json.dumps(header))), {"a": coded.values()})
    assert coded.bytes == stored_bytes(stored)
    back = coded.values()
    assert back.dtype == np.float32 and np.array_equal(back, slow_values(coded))


@given(state=st.dictionaries(st.sampled_from(["a", "b.weight"]), codes() | tensors()))
def test_a_file_comes_back_bit_for_bit(state: dict[str, Array | Coded], tmp_path: Path) -> None:
    save_packed(state, tmp_path / PACKED)
    coded = {name: value for name, value in state.items() if isinstance(value, Coded)}
    assert_same(load_packed(tmp_path / PACKED), state | {name: value.values() for name, value in coded.items()})
    back = load_coded(tmp_path / PACKED)
    assert back.keys() == coded.keys()
    for name, value in coded.items():
        assert (back[name].codec, back[name].bits, back[name].shape, back[name].group) == (
            value.codec,
            value.bits,
            value.shape,
            value.group,
        )
        assert np.array_equal(back[name].codes, value.codes)
        assert all(np.array_equal(back[name].parameters[key], p) for key, p in value.parameters.items())


@given(st.integers(1, 8), st.integers(0, 99))
def test_codes_take_their_bits_at_most_and_less_where_few_are_used(bits: int, count: int) -> None:
    """Ternary codes are five to a byte; what is always the same takes next to nothing."""
    generator = np.random.default_rng(count)
    zero = {"scale": np.ones(1, np.float32), "zero": np.zeros(1, np.float32)}
    for levels in {2**bits, min(3, 2**bits)}:
        chosen = generator.integers(0, levels, count, np.uint8)
        stored, _ = pack({"a": Coded("grid", bits, (count,), 0, chosen, zero)})
        assert stored["a:codes"].nbytes <= -(-count * bits // 8)
        if levels == 3:
            assert stored["a:codes"].nbytes <= -(-count // 5)
    stored, _ = pack({"a": Coded("grid", bits, (9000,), 0, np.full(9000, 2**bits - 1, np.uint8), zero)})
    assert stored["a:codes"].nbytes < 40


def test_each_coding_is_taken_where_it_is_smallest() -> None:
    generator = np.random.default_rng(0)
    one = {"scale": np.ones(1, np.float32), "zero": np.zeros(1, np.float32)}
    normal = np.clip(np.rint(generator.normal(size=5000) + 8), 0, 15).astype(np.uint8)
    for levels, bits, chosen, coding in (
        (8, 3, generator.integers(0, 8, 5000, np.uint8), "bits"),
        (3, 2, generator.integers(0, 3, 5000, np.uint8), "digits"),
        (normal.max() + 1, 4, normal, "zlib"),
    ):
        _, header = pack({"a": Coded("grid", bits, (5000,), 0, chosen, one)})
        assert header["tensors"]["a"]["coding"] == coding and header["tensors"]["a"]["levels"] == levels


def test_parameters_take_the_fewest_bytes_that_are_exact() -> None:
    two = np.zeros(2, np.uint8)
    for scale, dtype in (
        (0.1, "float32"),
        (-0.0, "float16"),
        (0.125, "float16"),
        (70000.0, "float32"),
        (3.0, "uint8"),
        (-3.0, "float16"),
        (1e-30, "float32"),
    ):
        parameters = {"scale": np.float32([scale, 1]), "zero": np.float32([7])}
        stored, _ = pack({"a": Coded("grid", 4, (2,), 1, two, parameters)})
        assert (stored["a:scale"].dtype, stored["a:zero"].dtype) == (dtype, "uint8")


@pytest.mark.parametrize("by,dtype,share", [(1.0, "float16", 0.8), (1.001, "float32", 0.9)])
def test_parameters_that_are_alike_are_deflated(by: float, dtype: str, share: float) -> None:
    coded = scaled(3000)
    coded = dataclasses.replace(coded, parameters={"scale": coded.parameters["scale"] * np.float32(by)})
    stored, header = pack({"a": coded})
    assert header["tensors"]["a"]["deflated"] == {"scale": {"dtype": dtype, "shape": [3000]}}
    assert stored["a:scale"].nbytes < share * 3000 * np.dtype(dtype).itemsize
    assert_same(unpack(stored, header), {"a": coded.values()})


BAD_CODES: dict[str, tuple[dict[str, Any], str]] = {
    "codec": ({"codec": "dense"}, "'dense' has no codes; .* grid"),
    "no bits": ({"bits": 0}, "bits are 0"),
    "nine bits": ({"bits": 9}, "bits are 9"),
    "negative group": ({"group": -1}, "group -1"),
    "other shape": ({"shape": (3, 2)}, "codes are uint8 .*2, 3.*3, 2"),
    "wide codes": ({"codes": np.zeros((2, 3), np.int64)}, "codes are int64"),
    "code out of range": ({"codes": np.full((2, 3), 16, np.uint8)}, "a code is 16, and there are 16 levels"),
    "no zero": ({"parameters": {"scale": np.ones(2)}}, "takes scale, zero"),
    "too few scales": ({"parameters": {"scale": np.ones(1), "zero": np.ones(1)}}, "2 groups"),
    "scales in two dimensions": ({"parameters": {"scale": np.ones((2, 1)), "zero": np.ones(1)}}, "2 groups"),
    "a power beyond": ({"codec": "power", "codes": np.full((2, 3), 15, np.uint8), "parameters": {"scale": np.ones(2)}}, "15 levels"),
    "an entry beyond": ({"codec": "codebook", "codes": np.full((2, 3), 4, np.uint8), "parameters": {"table": np.ones((2, 4))}}, "4 levels"),
}


@pytest.mark.parametrize("changes,says", BAD_CODES.values(), ids=BAD_CODES)
def test_codes_that_cannot_be_are_refused(changes: dict[str, Any], says: str) -> None:
    right: dict[str, Any] = {"codec": "grid", "bits": 4, "shape": (2, 3), "group": 3, "codes": np.zeros((2, 3), np.uint8)}
    right["parameters"] = {"scale": np.ones(2), "zero": np.ones(1)}
    Coded(**right)
    with pytest.raises(ValueError, match=says):
        Coded(**(right | changes))


def test_numbers_that_are_not_ordinary_are_no_zeros() -> None:
    state = {"a": np.zeros(100, np.float32)}
    state["a"][:5] = [-0.0, math.nan, math.inf, -math.inf, 1e-45]
    stored, header = pack(state)
    assert header["tensors"]["a"]["codec"] == "bitmap" and stored["a:values"].shape == (5,)
    assert stored["a:bitmap"].tolist() == [0b11111, *[0] * 12]
    assert_same(unpack(stored, header), state)


@given(st.sampled_from(DTYPES), st.integers(0, 700), st.floats(0, 1))
def test_it_is_smaller_from_one_zero_more_than_a_bit_per_entry_on(dtype: str, count: int, share: float) -> None:
    value = np.ones(count, dtype)
    zeros = round(share * count)
    value[:zeros] = 0
    stored, _ = pack({"a": value})
    bitmap = -(-count // 8) + (count - zeros) * value.itemsize
    assert stored_bytes(stored) == (min(value.nbytes, bitmap) if dtype in ("float32", "float16") else value.nbytes)


@pytest.mark.parametrize("dtype,share", [("float32", 32), ("float16", 16)])
def test_the_share_of_zeros_that_pays(dtype: str, share: int) -> None:
    value = np.ones((64, 64), dtype)
    value.reshape(-1)[: 64 * 64 // share] = 0
    assert pack({"a": value})[0].keys() == {"a:values"}
    value[-1, -1] = 0
    assert stored_bytes(pack({"a": value})[0]) == value.nbytes - value.itemsize


# -- what is not whole -------------------------------------------------------------------------------------------

Damage = Callable[[dict[str, Array], dict[str, Any]], Any]
DAMAGES: dict[str, tuple[Damage, str]] = {
    "newer version": (lambda t, h: h.update(version=3), "version 3, and this code reads 1 to 2; take a newer Penjing"),
    "version that is no number": (lambda t, h: h.update(version=True), "version True"),
    "no version": (lambda t, h: h.pop("version"), "version None"),
    "no tensors": (lambda t, h: h.pop("tensors"), "header"),
    "list of tensors": (lambda t, h: h.update(tensors=["a"]), "header"),
    "further field": (lambda t, h: h.update(more=1), "more"),
    "unknown codec": (lambda t, h: h["tensors"]["a"].update(codec="zip"), "codec 'zip'"),
    "codec that is no name": (lambda t, h: h["tensors"]["a"].update(codec=["bitmap"]), "codec"),
    "entry that is none": (lambda t, h: h["tensors"].update(a=3), "a by the codec None"),
    "entry without dtype": (lambda t, h: h["tensors"]["a"].pop("dtype"), "describe a"),
    "entry with more": (lambda t, h: h["tensors"]["a"].update(bits=4), "describe a"),
    "dtype that is none": (lambda t, h: h["tensors"]["a"].update(dtype="bfloat16"), "in 'bfloat16'"),
    "negative sizes": (lambda t, h: h["tensors"]["a"].update(shape=[-9, -11]), "shape"),
    "shape that is no list": (lambda t, h: h["tensors"]["a"].update(shape=99), "shape"),
    "huge shape": (lambda t, h: h["tensors"]["a"].update(shape=[10**9, 10**9]), "bitmap"),
    "another shape": (lambda t, h: h["tensors"]["a"].update(shape=[9, 9]), "bitmap"),
    "another shape of a dense tensor": (lambda t, h: h["tensors"]["b"].update(shape=[2, 3]), "header says float32"),
    "another dtype": (lambda t, h: h["tensors"]["a"].update(dtype="float16"), "header says float16"),
    "another codec": (lambda t, h: h["tensors"]["a"].update(codec="dense"), "a:bitmap"),
    "missing part": (lambda t, h: t.pop("a:bitmap"), "lack 1 .* a:bitmap"),
    "missing entry": (lambda t, h: h["tensors"].pop("b"), "should not have 1 .* b:values"),
    "further tensor": (lambda t, h: t.update(c=np.zeros(1)), "should not have 1 .* c"),
    "too few values": (lambda t, h: t.update({"a:values": t["a:values"][1:]}), "at a: .* 99 entries"),
    "values in two dimensions": (lambda t, h: t.update({"a:values": t["a:values"][None]}), "at a: .* 99 entries"),
    "too few bits": (lambda t, h: t.update({"a:bitmap": t["a:bitmap"][1:]}), "13 bytes"),
    "bits of another type": (lambda t, h: t.update({"a:bitmap": t["a:bitmap"].astype(np.int32)}), "int32"),
    "a bit turned": (lambda t, h: flip(t["a:bitmap"], 0, 1), "marks"),
    "a bit moved past the end": (lambda t, h: flip(t["a:bitmap"], 12, 0b1100), "marks"),
}


FEW: dict[str, tuple[Damage, str]] = {
    "a codec of old": (lambda t, h: h.update(version=1), "describe a .* takes codec, shape, dtype$"),
    "entry without bits": (lambda t, h: h["tensors"]["c"].pop("bits"), "describe c .* takes .*bits"),
    "too many bits": (lambda t, h: h["tensors"]["c"].update(bits=9), "at c: it has 9 bits"),
    "more levels than bits hold": (lambda t, h: h["tensors"]["c"].update(levels=17), "at c: .* 17 levels"),
    "no level": (lambda t, h: h["tensors"]["c"].update(levels=0), "at c: .* 0 levels"),
    "unknown coding": (lambda t, h: h["tensors"]["c"].update(coding="rans"), "at c: its coding is 'rans'"),
    "another coding": (lambda t, h: h["tensors"]["c"].update(coding="bits"), "at c: its codes are uint8 .* as bits need 300 bytes"),
    "another group": (lambda t, h: h["tensors"]["c"].update(group=7), "at c: its scale is .* 100 groups"),
    "group that is no number": (lambda t, h: h["tensors"]["c"].update(group="8"), "at c: .* '8'"),
    "another shape": (lambda t, h: h["tensors"]["c"].update(shape=[20, 31]), "at c: its codes is no zlib stream of 310 bytes"),
    "huge shape": (lambda t, h: h["tensors"]["c"].update(shape=[10**12, 10**12]), "at c: its codes is no zlib stream"),
    "codes that do not end": (lambda t, h: t.update({"c:codes": t["c:codes"][:-1]}), "at c: its codes is no zlib stream"),
    "codes and more": (lambda t, h: t.update({"c:codes": np.append(t["c:codes"], np.uint8(0))}), "at c: its codes is no zlib stream"),
    "codes of another type": (lambda t, h: t.update({"c:codes": t["c:codes"].astype(np.int16)}), "at c: its codes are int16"),
    "scales of another type": (lambda t, h: t.update({"c:scale": t["c:scale"].view(np.int16)}), "at c: its scale is int16"),
    "too few scales": (lambda t, h: t.update({"c:scale": t["c:scale"][1:]}), "at c: its scale is .* 80 groups"),
    "deflated that is none": (lambda t, h: h["tensors"]["c"].update(deflated=1), "at c: its deflated parameters are 1"),
    "deflated codes": (lambda t, h: h["tensors"]["c"].update(deflated={"codes": None}), "at c: its deflated parameters are .*codes"),
    "scales that are not deflated": (
        lambda t, h: h["tensors"]["c"].update(deflated={"scale": {"dtype": "float16", "shape": [80]}}),
        "at c: its scale is float16",
    ),
    "deflated without a form": (lambda t, h: h["tensors"]["d"].update(deflated={"scale": 3}), "at d: its scale is described as 3"),
    "deflated of another type": (lambda t, h: h["tensors"]["d"]["deflated"]["scale"].update(dtype="int8"), "at d: .* 'int8'.*float16"),
    "deflated of another shape": (lambda t, h: h["tensors"]["d"]["deflated"]["scale"].update(shape=[99]), "at d: its scale is no zlib"),
    "missing scales": (lambda t, h: t.pop("c:scale"), "lack 1 .* c:scale"),
}


def flip(values: Array, place: int, by: int) -> None:
    values.reshape(-1).view(np.uint8)[place] ^= by


def scaled(groups: int = 900) -> Coded:
    """Codes with scales of much the same size, whose upper bytes are few."""
    scale = (1 + np.random.default_rng(0).random(groups) / 8).astype(np.float16)
    return Coded("power", 3, (groups, 2), 2, np.full((groups, 2), 5, np.uint8), {"scale": scale})


def whole() -> tuple[dict[str, Array], dict[str, Any]]:
    """A bitmap, a dense tensor, codes by zlib, and codes whose scales are deflated."""
    matrix = np.arange(99.0, dtype=np.float32).reshape(9, 11)
    matrix[:8] = 0
    w = torch.randn(20, 30, generator=torch.Generator().manual_seed(0)) ** 3
    stored, header = copy.deepcopy(
        pack({"a": matrix, "b": np.ones((3, 2), np.float32), "c": quantize(w, Scheme("linear", 4, 8)), "d": scaled()})
    )
    assert [entry["codec"] for entry in header["tensors"].values()] == ["bitmap", "dense", "grid", "power"] and stored["a:bitmap"][
        12
    ] == 0b111
    assert header["tensors"]["c"]["coding"] == "zlib" and header["tensors"]["d"]["deflated"].keys() == {"scale"}
    return stored, header


def sign(stored: dict[str, Array], header: dict[str, Any]) -> None:
    """Put the right checksums into a header, so that what else is wrong shows."""
    entries = header.get("tensors")
    for name, entry in entries.items() if isinstance(entries, dict) else ():
        parts = [f"{name}:{part}" for part in ("bitmap", "values", "codes", "scale", "zero") if f"{name}:{part}" in stored]
        if isinstance(entry, dict) and "crc32" in entry:
            entry["crc32"] = zlib.crc32(b"".join(stored[part].tobytes() for part in parts))


@pytest.mark.parametrize("damage,says", (DAMAGES | FEW).values(), ids=DAMAGES | FEW)
def test_what_is_not_whole_is_refused_in_one_line(damage: Damage, says: str) -> None:
    stored, header = whole()
    damage(stored, header)
    sign(stored, header)
    with pytest.raises(ValueError, match=says) as caught:
        unpack(stored, header)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("part", ["a:bitmap", "a:values", "b:values", "c:codes", "c:scale", "c:zero", "d:scale"])
def test_a_part_with_another_checksum_is_refused(part: str) -> None:
    stored, header = whole()
    assert len(unpack(stored, header)) == 4
    stored[part] = stored[part].copy()
    flip(stored[part], stored[part].nbytes // 2, 4)
    with pytest.raises(ValueError, match=f"damaged at {part[0]}: its parts have the checksum"):
        unpack(stored, header)


def test_any_byte_that_is_flipped_is_refused(tmp_path: Path) -> None:
    """In safetensors' header, in ours, in every part; and a file cut anywhere."""
    w = torch.randn(5, 12, generator=torch.Generator().manual_seed(0))
    coded = {f"c.{kind}": quantize(w, Scheme(kind, bits, 8)) for kind, bits in (("linear", 4), ("kmeans", 2), ("log", 3))}
    save_packed({"a": np.eye(9, dtype=np.float32), "b": np.ones(3, np.float32)} | coded, tmp_path / "right")
    right = (tmp_path / "right").read_bytes()
    assert len(load_packed(tmp_path / "right")) == 5
    for place in range(0, len(right), 3):
        damaged = bytearray(right)
        damaged[place] ^= 1 << place % 8
        (tmp_path / "wrong").write_bytes(damaged)
        with pytest.raises((ValueError, SafetensorError)):
            load_packed(tmp_path / "wrong")
    for end in range(0, len(right), 31):
        (tmp_path / "wrong").write_bytes(right[:end])
        with pytest.raises((ValueError, SafetensorError)):
            load_packed(tmp_path / "wrong")


@given(state=st.dictionaries(st.sampled_from(["a", "b.weight"]), tensors()))
def test_a_file_of_version_1_is_read(state: dict[str, Array], tmp_path: Path) -> None:
    """As it was written before there were codes: the same two codecs, and no checksums."""
    stored, header = pack(state)
    for entry in header["tensors"].values():
        del entry["crc32"]
    metadata = {"format": "pt", "penjing": json.dumps(header | {"version": 1})}
    save_file({name: torch.from_numpy(value.copy()) for name, value in stored.items()}, tmp_path / PACKED, metadata=metadata)
    assert_same(load_packed(tmp_path / PACKED), state)


@pytest.mark.parametrize("header", ["[]", "null", "3", "{", '"a"'])
def test_a_header_that_is_none_is_refused(header: str, tmp_path: Path) -> None:
    save_file({"a:values": torch.ones(3)}, tmp_path / PACKED, metadata={"penjing": header})
    with pytest.raises(ValueError):
        load_packed(tmp_path / PACKED)


def test_a_header_nested_without_end_is_refused(tmp_path: Path) -> None:
    save_file({"a:values": torch.ones(3)}, tmp_path / PACKED, metadata={"penjing": "[" * 100_000})
    with pytest.raises(ValueError, match="nested without end"):
        load_packed(tmp_path / PACKED)


def declaring(path: Path, state: dict[str, Array | Coded], shape: list[int]) -> None:
    """A file whose checksums are right and whose tensors are said to be of this shape."""
    stored, header = pack(state)
    for entry in header["tensors"].values():
        entry["shape"] = shape
    save_file({name: torch.from_numpy(value.copy()) for name, value in stored.items()}, path, metadata=packing._metadata(header))


@pytest.mark.parametrize("shape", [[2**40], [2**31, 2**31], [10**30], [2**24, 3]])
@pytest.mark.parametrize("what", ["dense", "bitmap", "bits", "zlib", "table"])
def test_a_size_that_is_declared_and_not_there_takes_no_memory(what: str, shape: list[int], tmp_path: Path) -> None:
    random = torch.randn(40, 40, generator=torch.Generator().manual_seed(0))
    values: dict[str, Array | Coded] = {
        "dense": random.numpy(),
        "bitmap": (random * (random > 1)).numpy(),
        "bits": quantize(random, Scheme("linear", 5)),
        "zlib": quantize(random * 0, Scheme("linear", 4)),
        "table": quantize(random, Scheme("kmeans", 3)),
    }
    declaring(tmp_path / PACKED, {"a": values[what]}, shape)
    tracemalloc.start()
    with pytest.raises(ValueError):
        load_packed(tmp_path / PACKED)
    taken = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert taken < 1e6


def test_a_small_file_cannot_fill_the_memory(tmp_path: Path) -> None:
    """2^27 codes of one value are 16 kB of zlib, and would be half a gigabyte; what is really stored has at least some bits."""
    codes = np.zeros(2**27, np.uint8)
    bomb = Coded("grid", 4, codes.shape, 0, codes, {"scale": np.ones(1, np.float32), "zero": np.zeros(1, np.float32)})
    save_packed({"a": bomb}, tmp_path / PACKED)
    assert (tmp_path / PACKED).stat().st_size < 1e5
    del bomb, codes
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"declare 134217728 entries, more than \d+ bytes can hold"):
        load_packed(tmp_path / PACKED)
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()


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
    state: dict[str, Array | Coded] = dict(load_packed(tmp_path / "m" / PACKED))
    del state["encoder.layers.1.feed_forward.down.weight"]
    save_packed(state, tmp_path / "m" / PACKED)
    with pytest.raises(InputError, match=r"layers\.1\.feed_forward\.down\.weight"):
        read(tmp_path / "m")


# -- a folder ----------------------------------------------------------------------------------------------------


@settings(max_examples=8)
@given(blueprints(), st.integers(0, 99), st.sampled_from([("linear", 4, 5), ("kmeans", 3, 0), ("log", 4, 99), ("binary", 1, 8)]))
def test_a_folder_in_few_bits_has_the_values_of_its_codes(blueprint: Blueprint, seed: int, scheme: Any) -> None:
    model = sparse(penjing_model(blueprint, seed), 0.5)
    coded = {name: quantize(p, Scheme(*scheme)) for name, p in model.named_parameters() if p.ndim == 2}
    with tempfile.TemporaryDirectory() as name:
        write(model, Path(name) / "m", packed=True, coded=coded)
        back = [read(Path(name) / "m"), model_class_of(blueprint.head).from_pretrained(Path(name) / "m")]
    with torch.no_grad():
        for name, code in coded.items():
            model.get_parameter(name).copy_(torch.from_numpy(code.values()))
    for each in back:
        assert_same(dict(each.state_dict()), dict(model.state_dict()))


def test_codes_that_are_not_the_models_are_refused(tmp_path: Path) -> None:
    model = penjing_model(STUDENT)
    name = "encoder.embeddings.word.weight"
    coded = quantize(model.get_parameter(name), Scheme())
    cases = (({"other": coded}, True), ({name: quantize(torch.ones(3, 16), Scheme())}, True), ({name: coded}, False))
    for given_codes, packed in cases:
        with pytest.raises(InputError, match=r"coded: .* packed=True"):
            write(model, tmp_path / "m", packed=packed, coded=given_codes)
    assert not (tmp_path / "m").exists()


def test_bfloat16_is_widened(tmp_path: Path) -> None:
    model = penjing_model(STUDENT).to(torch.bfloat16)
    write(model, tmp_path / "m", packed=True)
    assert_same(dict(read(tmp_path / "m").state_dict()), dict(model.float().state_dict()))


@given(blueprints(), st.integers(0, 99))
def test_a_packed_folder_is_read_exactly(blueprint: Blueprint, seed: int) -> None:
    model = sparse(penjing_model(blueprint, seed), 0.5)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "m"
        write(model, folder, packed=True)
        assert {path.name for path in folder.iterdir()} == {*CODE, "config.json", PACKED}
        ours, theirs = read(folder), model_class_of(blueprint.head).from_pretrained(folder)
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
    assert not open_checkpoint(tmp_path / "plain").is_own and open_checkpoint(tmp_path / "packed").is_own
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
    assert torch.equal(torch.from_numpy(TorchEngine(tmp_path / "m", EAGER, 1).run(feeds)), expected)


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
    bare = model_class_of("none").from_pretrained(tmp_path / "m")
    assert_same(dict(bare.state_dict()), dict(model.base_model.state_dict()))


def test_dense_weights_written_into_a_packed_folder_are_the_ones_read(tmp_path: Path) -> None:
    model = sparse(penjing_model(STUDENT))
    write(model, tmp_path / "m", packed=True)
    later = model_class_of("sequence").from_pretrained(tmp_path / "m")
    with torch.no_grad():
        later.head.out.bias += 1
    later.save_pretrained(tmp_path / "m")
    assert (tmp_path / "m" / PACKED).is_file() and (tmp_path / "m" / "model.safetensors").is_file()
    for back in (read(tmp_path / "m"), model_class_of("sequence").from_pretrained(tmp_path / "m")):
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
def test_a_packed_model_lives_without_penjing(where: str, fresh: dict[str, dict[str, Any]]) -> None:
    result = fresh[where]
    assert result["class"].startswith("transformers_modules.")
    assert result["files"] == sorted([*CODE, "config.json", "model.safetensors"])
    assert [name for name in ("weights", "logits", "gradients", "moved", "again") if not result[name]] == []
