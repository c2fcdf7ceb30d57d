"""Laws of rounding to few bits: the error's bounds, what is exact, and that what is rounded stays as it is."""

from typing import get_args

import numpy as np
import pytest
import torch
from conftest import fake
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from penjing.errors import InputError
from penjing.maths.clustering import assign, cluster
from penjing.maths.stored import BITS, Clip, Kind, Scheme, quantize, split_ternary
from penjing.model.coded import Coded
from penjing.model.packing import pack, unpack

CLIPPED: tuple[Kind, ...] = ("linear", "affine", "log")


@st.composite
def schemes(draw: st.DrawFn, kinds: tuple[Kind, ...] = get_args(Kind), clips: tuple[Clip, ...] = get_args(Clip)) -> Scheme:
    kind = draw(st.sampled_from(kinds))
    return Scheme(kind, draw(st.sampled_from(BITS[kind])), draw(st.integers(0, 12)), draw(st.sampled_from(clips)))


@st.composite
def weights(draw: st.DrawFn, least: int = 0) -> Tensor:
    """Normal numbers of any size, a share of them zero, or all of one sign, or few distinct ones; 0 to 3 dimensions."""
    shape = draw(st.lists(st.integers(least, 20), max_size=3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    w = torch.randn(shape, generator=generator) * 2.0 ** draw(st.integers(-40, 20))
    w = w * (torch.rand(shape, generator=generator) >= draw(st.sampled_from([0.0, 0.5, 1.0])))
    change = draw(st.sampled_from(["none", "positive", "shifted", "few"]))
    if change == "few" and w.numel():
        return w.flatten()[torch.randint(0, min(5, w.numel()), shape, generator=generator)]
    return {"none": w, "positive": w.abs(), "shifted": w + 3}.get(change, w)


def parameter(coded: Coded, name: str) -> Tensor:
    """One of a scheme's parameters for each weight."""
    value = torch.from_numpy(coded.parameters[name]).expand(coded.groups)
    if not coded.group:
        return value.expand(coded.codes.size).view(coded.shape)
    columns = coded.shape[-1] if coded.shape else 1
    return value.view(-1, -(-columns // coded.group)).repeat_interleave(coded.group, 1)[:, :columns].reshape(coded.shape)


def values(w: Tensor, scheme: Scheme) -> Tensor:
    return torch.from_numpy(quantize(w, scheme).values())


def groups(w: Tensor, group: int) -> list[Tensor]:
    rows = w.reshape(1, -1) if not group else w.reshape(-1, w.shape[-1] if w.ndim else 1)
    return [part for row in rows for part in row.split(group or max(1, len(row)))]


# -- every kind --------------------------------------------------------------------------------------------------


@given(weights(), schemes())
def test_rounding_what_is_rounded_changes_nothing(w: Tensor, scheme: Scheme) -> None:
    once = fake(w, scheme)
    assert torch.equal(fake(once, scheme), once)


@given(weights(), schemes())
def test_fake_values_are_those_that_come_back_from_disk(w: Tensor, scheme: Scheme) -> None:
    coded = quantize(w, scheme, 3)
    back = unpack(*pack({"w": coded}))["w"]
    assert back.tobytes() == coded.values().tobytes() == fake(w, scheme, 3).numpy().tobytes()
    assert back.shape == tuple(w.shape) == coded.shape and fake(w, scheme).dtype == torch.float32


@given(weights(1), schemes())
def test_scales_and_tables_take_two_bytes(w: Tensor, scheme: Scheme) -> None:
    coded = quantize(w, scheme)
    for name, value in coded.parameters.items():
        mantissa = np.frexp(value)[0] * 2**11
        if scheme.kind != "kmeans" or not torch.equal(values(w, scheme), w):
            assert (mantissa == np.rint(mantissa)).all(), name


def test_a_group_is_rounded_by_itself() -> None:
    w = torch.randn(3, 10, generator=torch.Generator().manual_seed(0))
    for kind in get_args(Kind):
        scheme = Scheme(kind, BITS[kind][0], 4, "mse")
        alone = [fake(part.contiguous(), Scheme(kind, scheme.bits, 0, "mse")) for part in groups(w, 4)]
        if kind != "kmeans":  # one of its starts is drawn for all groups at once
            assert torch.equal(torch.cat(alone), fake(w, scheme).flatten())
        assert torch.equal(fake(w, Scheme(kind, scheme.bits, 10, "mse")), fake(w, Scheme(kind, scheme.bits, 99, "mse")))


@pytest.mark.parametrize("shape", [(), (1,), (0,), (0, 5), (5, 0), (2, 0, 3), (7,), (3, 5, 7)])
@pytest.mark.parametrize("kind", get_args(Kind))
@pytest.mark.parametrize("group", [0, 3, 50])
def test_any_shape_is_rounded(shape: tuple[int, ...], kind: Kind, group: int) -> None:
    w = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    assert fake(w, Scheme(kind, BITS[kind][0], group)).shape == shape


def test_the_input_is_kept_and_half_precision_is_taken() -> None:
    w = torch.randn(4, 6, dtype=torch.bfloat16, requires_grad=True)
    before = w.detach().clone()
    assert torch.equal(fake(w.T, Scheme("linear", 4, 2)), fake(before.T.float(), Scheme("linear", 4, 2)))
    assert torch.equal(w, before)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_refused(number: float) -> None:
    with pytest.raises(InputError, match="infinite"):
        quantize(torch.tensor([1.0, number]), Scheme())


@pytest.mark.parametrize(
    "fields,says",
    [
        ({"kind": "cubic"}, "kind: 'cubic'.*kmeans"),
        ({"clip": "half"}, "clip: 'half'.*percentile"),
        ({"bits": 9}, "bits: linear has no 9.* 8"),
        ({"bits": 1}, "bits: linear has no 1"),
        ({"bits": 4.0}, "bits"),
        ({"kind": "binary", "bits": 2}, "binary has no 2; allowed are 1"),
        ({"kind": "ternary", "bits": 1}, "ternary has no 1; allowed are 2"),
        ({"group": -1}, "group: -1"),
    ],
)
def test_a_scheme_that_cannot_be_is_refused(fields: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        Scheme(**fields)
    assert "\n" not in str(caught.value)


# -- grids -------------------------------------------------------------------------------------------------------


@given(weights(1), schemes(("linear", "affine")))
def test_the_error_is_at_most_half_a_step_inside_the_range(w: Tensor, scheme: Scheme) -> None:
    coded = quantize(w, scheme)
    scale, zero = (parameter(coded, name).double() for name in ("scale", "zero"))
    top = 2**scheme.bits - (2 if scheme.kind == "linear" else 1)
    low, high = -zero * scale, (top - zero) * scale
    inside = (w.double() - w.double().clamp(low, high)).abs()
    error = (w.double() - torch.from_numpy(coded.values()).double()).abs()
    assert (error <= (0.5 + 1e-4) * scale + inside).all()
    if scheme.clip == "none" and scheme.kind == "linear":
        assert (error <= (0.5 + 1e-4) * scale).all()
    assert ((low <= 0) & (high >= 0)).all() and (fake(torch.where(w == 0, w, 0.0), scheme) == 0).all()


@given(weights(1), schemes(("linear", "affine"), ("none",)))
def test_no_code_of_the_range_is_left_over(w: Tensor, scheme: Scheme) -> None:
    """Symmetric: the largest weight of a group has the first or the last code. Affine: the lowest has 0 and the highest the last."""
    coded = quantize(w, scheme)
    for codes, part in zip(groups(torch.from_numpy(coded.codes), scheme.group), groups(w, scheme.group), strict=True):
        used = {int(codes.min()), int(codes.max())}
        if not part.any():
            assert len(used) == 1
        elif scheme.kind == "linear":
            assert used & {0, 2**scheme.bits - 2}
        else:
            assert (0 in used or part.min() > 0) and (2**scheme.bits - 1 in used or part.max() < 0)


@given(weights(1), schemes(CLIPPED, ("none",)))
def test_the_clip_of_the_least_error_is_never_worse_than_none(w: Tensor, scheme: Scheme) -> None:
    best = Scheme(scheme.kind, scheme.bits, scheme.group, "mse")
    for a, b, c in zip(*(groups(x.double(), scheme.group) for x in (w, values(w, best), values(w, scheme))), strict=True):
        assert ((a - b) ** 2).sum() <= ((a - c) ** 2).sum() * (1 + 1e-5)


def test_the_clip_of_the_least_error_is_near_the_best_there_is() -> None:
    """For normal numbers the best step of a symmetric grid is known (Max 1960): 4 bits leave 1.15 % of the variance."""
    w = torch.randn(1, 40000, generator=torch.Generator().manual_seed(0))
    errors = {clip: float(((w - fake(w, Scheme("linear", 4, 0, clip))) ** 2).mean()) for clip in get_args(Clip)}
    assert errors["mse"] < min(errors["none"], errors["percentile"]) and errors["mse"] < 0.0140


def test_a_percentile_clips_outliers() -> None:
    w = torch.linspace(-1, 1, 10001)
    w[5] = 100.0
    assert fake(w, Scheme("linear", 8, 0, "percentile")).abs().max() == pytest.approx(0.999, abs=2e-3)
    assert fake(w, Scheme("linear", 8)).max() == pytest.approx(100, rel=1e-3)


# -- powers of two -----------------------------------------------------------------------------------------------


@given(weights(1), schemes(("log",)))
def test_powers_of_two_keep_sign_and_zero(w: Tensor, scheme: Scheme) -> None:
    coded = quantize(w, scheme)
    back = torch.from_numpy(coded.values())
    assert torch.equal(back.sign(), w.sign())
    ratio = torch.where(back == 0, 1.0, back.abs() / parameter(coded, "scale"))
    assert (torch.frexp(ratio).mantissa == 0.5).all() and (ratio <= 1).all()


@given(weights(1), st.integers(0, 12))
def test_a_power_of_two_is_off_by_the_root_of_two_at_most(w: Tensor, group: int) -> None:
    """Where there are exponents enough."""
    back = values(w, Scheme("log", 8, group))
    rate = torch.where(w == 0, 1.0, back / w)
    assert (rate <= 2**0.5 * (1 + 1e-3)).all() and (rate >= 2**-0.5 * (1 - 1e-3)).all()


# -- codebooks ---------------------------------------------------------------------------------------------------


@given(st.integers(1, 8), st.integers(0, 12), st.integers(0, 99), st.data())
def test_a_codebook_with_an_entry_for_each_value_is_exact(bits: int, group: int, seed: int, data: st.DataObject) -> None:
    generator = torch.Generator().manual_seed(seed)
    distinct = data.draw(st.integers(1, 2**bits))
    numbers = torch.randn(distinct, generator=generator)
    if data.draw(st.booleans()):  # neighbours in float32, with no number between them
        numbers = torch.from_numpy(np.float32(0.1) + np.arange(distinct, dtype=np.float32) * np.spacing(np.float32(0.1)))
    w = numbers[torch.randint(distinct, (data.draw(st.integers(1, 9)), data.draw(st.integers(1, 40))), generator=generator)]
    assert torch.equal(values(w, Scheme("kmeans", bits, group)), w)


@given(weights(1), st.integers(1, 5), st.integers(0, 12))
def test_a_codebook_is_never_worse_than_even_steps(w: Tensor, bits: int, group: int) -> None:
    """Than 2^bits numbers from the lowest to the highest weight of each group, each weight at the nearest."""
    for part, back in zip(groups(w, group), groups(values(w, Scheme("kmeans", bits, group)), group), strict=True):
        grid = torch.linspace(float(part.min()), float(part.max()), 2**bits)
        even = (part[:, None] - grid).abs().amin(1)
        # The table's numbers have 11 bits.
        slack = 2.0**-12 * part.abs().max() * len(part) ** 0.5
        assert (part - back).double().norm() <= even.double().norm() + slack


@given(weights(1), st.integers(1, 5), st.integers(0, 12))
def test_every_weight_has_the_nearest_entry(w: Tensor, bits: int, group: int) -> None:
    coded = quantize(w, Scheme("kmeans", bits, group))
    tables = torch.from_numpy(coded.parameters["table"])
    assert (tables.diff(dim=1) >= 0).all()
    for part, back, table in zip(groups(w, group), groups(torch.from_numpy(coded.values()), group), tables, strict=True):
        best = (part[:, None].double() - table.double()).abs().amin(1)
        assert ((part.double() - back.double()).abs() <= best + 1e-6 * part.abs().max()).all()


def test_the_means_of_clusters_are_their_entries() -> None:
    """Lloyd's fixed point, on groups that are known apart."""
    centres = torch.tensor([-5.0, 0.0, 1.0, 7.0])
    w = (centres[:, None] + 0.01 * torch.randn(4, 50, generator=torch.Generator().manual_seed(0))).flatten()[None]
    table, exact = cluster(w, 4)
    assert not exact and torch.allclose(table[0], w.view(4, 50).mean(1), atol=1e-6)
    assert torch.equal(assign(w, table)[0].long(), torch.arange(4).repeat_interleave(50))


def test_the_seed_fixes_the_codebook() -> None:
    w = torch.randn(30, 64, generator=torch.Generator().manual_seed(0))
    scheme = Scheme("kmeans", 3, 32)
    assert torch.equal(fake(w, scheme, 5), fake(w, scheme, 5)) and not torch.equal(fake(w, scheme, 5), fake(w, scheme, 6))


# -- three values and two ----------------------------------------------------------------------------------------


@given(weights(1), st.integers(0, 12))
def test_ternary_is_the_mean_of_what_is_above_the_threshold(w: Tensor, group: int) -> None:
    for part, back in zip(groups(w, group), groups(values(w, Scheme("ternary", 2, group)), group), strict=True):
        a, limit = part.abs().double(), 0.7 * part.abs().double().mean()
        above = a > limit
        assert torch.equal(back != 0, above)
        if above.any():
            assert torch.allclose(back[above].double(), part[above].double().sign() * a[above].mean(), rtol=2**-11)


@given(weights(1), st.integers(0, 12))
def test_binary_is_the_sign_times_the_mean(w: Tensor, group: int) -> None:
    for part, back in zip(groups(w, group), groups(values(w, Scheme("binary", 1, group)), group), strict=True):
        alpha = part.abs().double().mean()
        assert torch.allclose(back.double(), torch.where(part >= 0, alpha, -alpha), rtol=2**-11)


@given(weights(1), st.integers(2, 8), st.integers(0, 12))
def test_dorefas_levels_are_even_and_none_is_zero(w: Tensor, bits: int, group: int) -> None:
    """2·quantize_k(w/2L + 1/2) - 1 times L, L = max|w|, as equation 9 has it of tanh(w)."""
    t = 2**bits - 1
    for part, back in zip(groups(w, group), groups(values(w, Scheme("dorefa", bits, group)), group), strict=True):
        L = part.abs().max().double()
        if not L:
            assert not back.any()
            continue
        levels = L * (2 * torch.arange(t + 1, dtype=torch.float64) / t - 1)
        apart = (back.double().flatten()[:, None] - levels).abs()
        assert torch.all(apart.amin(1) <= 2**-11 * L) and len(back.unique()) <= 2**bits and torch.all(back != 0)
        position = t * (part.double().flatten() / (2 * L) + 0.5)
        assert torch.all((apart.argmin(1) - position).abs() <= 0.5 + 2**-10 * t)


@given(weights(1), st.integers(0, 12))
def test_dorefa_of_one_bit_is_binary(w: Tensor, group: int) -> None:
    assert torch.equal(values(w, Scheme("dorefa", 1, group)), values(w, Scheme("binary", 1, group)))


@given(st.integers(1, 9), st.integers(2, 70), st.integers(0, 20), st.integers(0, 999))
def test_the_halves_of_a_ternary_weight_are_binary_and_sum_to_it(rows: int, columns: int, group: int, seed: int) -> None:
    w = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    ternary = fake(w, Scheme("ternary", 2, group))
    first, second = split_ternary(w, ternary, group)
    assert torch.allclose(first + second, w, atol=1e-6)
    binary = Scheme("binary", 1, group)
    total = fake(first, binary) + fake(second, binary)
    for part, t, s in zip(*(groups(x, group) for x in (w, ternary, total)), strict=True):
        on, up, down = (float(part.abs()[places].sum()) for places in (t != 0, (t == 0) & (part > 0), (t == 0) & (part <= 0)))
        if abs(up - down) < on:  # 0 < a < 1
            assert torch.equal(s, t)


def test_a_matrix_splits_whole() -> None:
    w = torch.randn(64, 384, generator=torch.Generator().manual_seed(0))
    for group in (0, 128, 384):
        ternary, binary = fake(w, Scheme("ternary", 2, group)), Scheme("binary", 1, group)
        first, second = split_ternary(w, ternary, group)
        assert torch.equal(fake(first, binary) + fake(second, binary), ternary)
