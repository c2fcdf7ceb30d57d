"""Calibration sees what the exported graph computes, whatever the method; the CPU's kernels are told by its instruction sets."""

import platform
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from conftest import penjing_model

from penjing.blueprint import Blueprint, Layer
from penjing.engines.clock import machine
from penjing.engines.onnx.graph import first_token_layers
from penjing.errors import InputError
from penjing.steps.bits.calibrate import Calibration, calibrate
from penjing.text.encoded import Encoded

UNEVEN = Blueprint(40, 13, 2, 9, 12, 5, (Layer(3, 17), Layer(0, 6), Layer(2, 0), Layer(2, 8)), "sequence", 3)
METHODS = get_args(Calibration)


def texts(lengths: list[int], seed: int = 0) -> Encoded:
    rng = np.random.default_rng(seed)
    return Encoded.of([rng.integers(0, 40, n).tolist() for n in lengths], [[0] * n for n in lengths])


def inputs_of(model: Any, name: str, encoded: Encoded) -> list[torch.Tensor]:
    """What a linear layer reads, text after text."""
    seen: list[torch.Tensor] = []
    hook = dict(model.named_modules())[name].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        for i in range(len(encoded)):
            model(**{key: torch.from_numpy(value) for key, value in encoded.feeds(np.array([i])).items()})
    hook.remove()
    return seen


@pytest.mark.parametrize("method", METHODS)
def test_calibration_sees_the_input_of_every_linear_layer(method: Calibration) -> None:
    model, encoded = penjing_model(UNEVEN), texts([13, 4, 7, 7, 1])
    ranges, whole = calibrate(model, encoded, method), calibrate(model, encoded, "min-max")
    linear = {name.removeprefix("encoder.") for name, m in model.named_modules() if isinstance(m, torch.nn.Linear) and m.in_features}
    assert set(ranges) == linear
    assert ranges["layers.0.attention.query"] == ranges["layers.0.attention.key"] == ranges["layers.0.attention.value"]
    for name, (low, high) in ranges.items():
        assert low < high
        assert min(whole[name][0], 0) - 1e-6 <= low and high <= max(whole[name][1], 0) + 1e-6
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_min_max_is_of_all_texts_in_any_batches() -> None:
    model, encoded = penjing_model(UNEVEN), texts([13, 4, 7, 7, 7, 1])
    seen = torch.cat([x.flatten() for x in inputs_of(model, "encoder.layers.0.feed_forward.down", encoded)])
    for size in (1, 2, 16):
        found = calibrate(model, encoded, "min-max", batch=size)["layers.0.feed_forward.down"]
        assert found == pytest.approx((seen.min().item(), seen.max().item()), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("method", ["percentile", "mse", "entropy"])
def test_methods_of_histograms_do_not_depend_on_the_batches(method: Calibration) -> None:
    model, encoded = penjing_model(UNEVEN), texts([13, 4, 7, 7, 7, 13, 13])
    one, many = (calibrate(model, encoded, method, batch=size) for size in (1, 16))
    for name, ends in one.items():
        np.testing.assert_allclose(many[name], ends, rtol=0.03, atol=0.03)


def test_one_batch_is_its_minimum_and_maximum() -> None:
    model, encoded = penjing_model(UNEVEN), texts([7])
    (seen,) = inputs_of(model, "head.dense", encoded)
    for method in ("min-max", "moving-average"):
        assert calibrate(model, encoded, method)["head.dense"] == pytest.approx((seen.min().item(), seen.max().item()))


def test_where_the_head_reads_one_token_the_last_layer_is_calibrated_on_it() -> None:
    model, encoded = penjing_model(UNEVEN), texts([13])
    names = first_token_layers(UNEVEN)
    assert names == {f"layers.3.{part}" for part in ("attention.query", "attention.output", "feed_forward.up", "feed_forward.down")}
    assert first_token_layers(replace(UNEVEN, head="token")) == first_token_layers(UNEVEN.with_layers(())) == frozenset()
    ranges = calibrate(model, encoded, "min-max")
    for name in (*names, "layers.3.attention.key", "layers.0.attention.query"):
        (x,) = inputs_of(model, f"encoder.{name}", encoded)
        read = x[:, 0] if name in names else x
        assert ranges[name] == pytest.approx((read.min().item(), read.max().item()))


def test_an_unknown_method_is_refused() -> None:
    wrong: Any = "guess"
    with pytest.raises(InputError, match=r"guess.*min-max.*entropy"):
        calibrate(penjing_model(UNEVEN), texts([3]), wrong)


# -- the machine -------------------------------------------------------------------------------------------------

X86 = [
    (["avx2"], 7, "AVX2 without VNNI"),
    (["avx2", "avx512f"], 7, "AVX-512 without VNNI"),
    (["avx2", "avx_vnni"], 8, "AVX-VNNI"),
    (["avx2", "avx512f", "avx512_vnni"], 8, "AVX-512 VNNI"),
    (["avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8"], 8, "AMX int8"),
    ([], 7, "x86 without VNNI"),
]
ARM = [
    (["asimd"], 8, "ARM NEON"),
    (["asimd", "asimddp"], 8, "ARM dot product"),
    (["asimd", "asimddp", "i8mm"], 8, "ARM int8 matrix multiply"),
    ([], 8, "no known int8"),
]


@pytest.mark.parametrize(
    "name,flags,bits,words", [*(("x86_64", *row) for row in X86), *(("AMD64", *row) for row in X86), *(("aarch64", *row) for row in ARM)]
)
def test_kernels_and_safe_bits(name: str, flags: list[str], bits: int, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: name)
    monkeypatch.setattr(machine, "instructions", lambda: flags)
    assert machine.safe_weight_bits() == bits
    found = machine.kernel_class()
    assert found.startswith(words)
    assert ("saturate" in found) == (bits == 7)
