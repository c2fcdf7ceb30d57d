"""The effects that steps tell of are true, on every model family: what a step does not undo is there after it, and what it undoes is not."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import FAMILIES, half, penjing_model, tiny, tiny_tokenizer
from torch import Tensor

from penjing.blueprint import Blueprint, Layer
from penjing.engines.form import FLOAT_FORMS
from penjing.engines.network import Ranges
from penjing.engines.onnx.export import export
from penjing.engines.opening import open_engine
from penjing.engines.parity import PARITY
from penjing.model.building import blueprint_of
from penjing.model.checkpoint import read
from penjing.model.coded import Coded
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.model.packing import PACKED, load_coded
from penjing.model.surgery import cut
from penjing.model.writing import write
from penjing.selection import Selection
from penjing.steps.bits.calibrate import calibrate
from penjing.steps.bits.gptq import round_model
from penjing.steps.bits.quantize import QuantizeSettings
from penjing.steps.bits.smooth import smooth
from penjing.steps.bits.store import StoreSettings, uniform
from penjing.steps.cut.gates import learn_head_weights
from penjing.steps.cut.prune import PruneSettings
from penjing.steps.cut.repair import repair
from penjing.steps.cut.sparsify import SparsifySettings, masked_modules, sparsify, sparsity_of
from penjing.steps.cut.vocabulary import VocabularySettings
from penjing.steps.reshape.factorise import FactoriseSettings, factorise
from penjing.steps.settings import Settings, Trait
from penjing.tasks.sequence import Classification
from penjing.tasks.task import Examples
from penjing.text.encoded import Encoded, Logits
from penjing.training.predict import logits_of

VOCABULARY = tiny_tokenizer().get_vocab_size()
TASK = Classification(("no", "yes"))
KEPT = (0, *range(1, VOCABULARY, 2))
"""Tokens that are kept, the padding of every family among them; texts hold these alone."""


def texts(seed: int = 0) -> Examples:
    random = np.random.default_rng(seed)
    ids = [random.choice(KEPT[3:], size).tolist() for size in random.integers(3, 16, 12)]
    encoded = Encoded.of(ids, [[0] * len(row) for row in ids])
    return Examples(encoded, [""] * len(ids), [TASK.labels[i % 2] for i in range(len(ids))], [[]] * len(ids), 0)


def renumbered(encoded: Encoded) -> Encoded:
    """The same texts, by the numbers that the kept tokens have."""
    return replace(encoded, ids=np.searchsorted(KEPT, encoded.ids).astype(encoded.ids.dtype))


@cache
def model_of(family: str) -> PenjingPreTrainedModel:
    """A tiny model of ours of a family; nobody changes it."""
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        tiny(family, vocab_size=VOCABULARY, num_labels=2).save_pretrained(folder)
        model = read(Path(folder))
    return model


# -- the steps at once ---------------------------------------------------------------------------------------------

Apply = Callable[[PenjingPreTrainedModel], PenjingPreTrainedModel]


def pruned(model: PenjingPreTrainedModel) -> PenjingPreTrainedModel:
    kept = half(blueprint_of(model))
    return repair(cut(model, kept), model, kept, texts().encoded)[0]


def without_tokens(model: PenjingPreTrainedModel) -> PenjingPreTrainedModel:
    return cut(model, replace(Selection.all(blueprint_of(model)), tokens=KEPT))


def stored(model: PenjingPreTrainedModel, scheme: str = "kmeans") -> tuple[PenjingPreTrainedModel, dict[str, Coded]]:
    return round_model(model, texts().encoded, uniform(model, StoreSettings(scheme, 1 if scheme == "binary" else 3, 8)))


def integers(model: PenjingPreTrainedModel) -> PenjingPreTrainedModel:
    """The model itself: the integers are written at export."""
    calibrate(model, texts().encoded)
    return model


SPARSE = SparsifySettings(0.5, schedule="one-shot")
STEPS: Mapping[str, tuple[Settings, Apply]] = {
    "prune": (PruneSettings(heads=0.5), pruned),
    "vocabulary": (VocabularySettings(), without_tokens),
    "factorise": (FactoriseSettings(4), lambda model: factorise(model, 4)),
    "sparsify": (SPARSE, lambda model: sparsify(model, replace(SPARSE, sparsity=0.7))),
    "store": (StoreSettings("binary"), lambda model: stored(model, "binary")[0]),
    "quantize": (QuantizeSettings(), integers),
    "smooth": (QuantizeSettings(smooth=0.5), lambda model: smooth(model, texts().encoded, 0.5)),
}
"""Those that need no training, with their settings, which tell their effects."""


def undoes(name: str, trait: Trait) -> bool:
    return trait in STEPS[name][0].effects(taught=False).undoes


def zeros(model: PenjingPreTrainedModel) -> list[Tensor]:
    return [matrix.weight == 0 for matrix in masked_modules(model)]


def close(one: Ranges, other: Ranges) -> bool:
    return list(one) == list(other) and all(np.allclose(one[name], other[name], rtol=1e-4, atol=1e-5) for name in one)


def of_their_tokens(name: str) -> Encoded:
    return renumbered(texts().encoded) if name == "vocabulary" else texts().encoded


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", STEPS)
def test_zeros_stay_where_a_step_says_so(name: str, family: str) -> None:
    sparse = sparsify(model_of(family), SPARSE)
    after = STEPS[name][1](sparse)
    if not undoes(name, Trait.ZEROS):
        assert all(bool((now | ~before).all()) for before, now in zip(zeros(sparse), zeros(after), strict=True))
        assert sparsity_of(after) >= sparsity_of(sparse) == pytest.approx(0.5, abs=0.01)
    elif name != "factorise":  # which spoils those of the embedding alone, see below
        assert sparsity_of(after) < 0.49


@pytest.mark.parametrize("family", FAMILIES)
def test_zeros_of_the_embedding_are_lost_where_it_is_factorised(family: str) -> None:
    assert undoes("factorise", Trait.ZEROS)
    sparse = sparsify(model_of(family), replace(SPARSE, embeddings=True))
    before, after = (masked_modules(model, embeddings=True)[0].weight == 0 for model in (sparse, factorise(sparse, 4)))
    assert before.float().mean() > 0.2 and not after.any()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", STEPS)
def test_codes_stay_where_a_step_says_so(name: str, family: str) -> None:
    rounded, coded = stored(model_of(family))
    after = dict(STEPS[name][1](rounded).named_parameters())

    def same(weight: str, codes: Coded) -> bool:
        values = torch.from_numpy(codes.values())
        return weight in after and after[weight].shape == values.shape and torch.equal(after[weight].detach(), values)

    kept = [same(weight, codes) for weight, codes in coded.items()]
    if name != "store":  # rounds what is rounded again, to the same values or others
        assert all(kept) == (not undoes(name, Trait.CODES))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", STEPS)
def test_ranges_stay_where_a_step_says_so(name: str, family: str) -> None:
    model = model_of(family)
    before = calibrate(model, texts().encoded, "min-max")
    after = calibrate(STEPS[name][1](model), of_their_tokens(name), "min-max")
    if not undoes(name, Trait.RANGES):
        assert close(before, after)
    else:
        assert not close(before, after)


def test_what_makes_a_trait_makes_it() -> None:
    made = {name: settings.effects(taught=False).makes for name, (settings, _) in STEPS.items()}
    assert {name for name, traits in made.items() if Trait.ZEROS in traits} == {"sparsify"}
    assert {name for name, traits in made.items() if Trait.CODES in traits} == {"store"}
    cuts = {name for name, traits in made.items() if Trait.CUTS in traits}
    model = model_of("bert")
    for name, (_, apply) in STEPS.items():
        assert (blueprint_of(apply(model)) != blueprint_of(model)) == (name in cuts), name


# -- what rewrites weights and is no step --------------------------------------------------------------------------

REWRITTEN: Mapping[str, Apply] = {
    "sparsify": lambda model: sparsify(model, replace(SPARSE, embeddings=True)),
    "smooth": lambda model: smooth(model, texts().encoded, 0.5),
    "head weights": lambda model: learn_head_weights(model, TASK, texts(), 0, teacher=model, steps=3),
    "repaired": pruned,
    "rounded": lambda model: stored(model, "linear")[0],
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", REWRITTEN)
def test_the_input_is_kept_and_the_result_is_written_read_and_exported(name: str, family: str, tmp_path: Path) -> None:
    model = model_of(family)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    result = REWRITTEN[name](model)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items()) and not result.training
    if name != "repaired":
        assert blueprint_of(result) == blueprint_of(model)
    encoded = texts(1).encoded
    logits = logits_of(result, encoded)
    for packed in (False, True):
        write(result, tmp_path / str(packed), packed=packed)
        assert same_logits(logits_of(read(tmp_path / str(packed)), encoded), logits)
    form = FLOAT_FORMS[0]
    export(result, tmp_path / "engine", [form], segments=False)
    assert apart(open_engine(form, tmp_path / "engine", 1).logits(encoded), logits) <= PARITY


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("scheme", ["linear", "kmeans"])
def test_codes_are_written_and_read_and_say_the_weights(scheme: str, family: str, tmp_path: Path) -> None:
    rounded, coded = stored(model_of(family), scheme)
    write(rounded, tmp_path / "model", packed=True, coded=coded)
    again = read(tmp_path / "model")
    codes = load_coded(tmp_path / "model" / PACKED)
    assert codes.keys() == coded.keys()
    for name, each in codes.items():
        assert torch.equal(torch.from_numpy(each.values()), rounded.get_parameter(name).detach()), name
    assert same_logits(logits_of(again, texts(1).encoded), logits_of(rounded, texts(1).encoded))


def test_an_empty_block_is_no_obstacle() -> None:
    """Layers without heads, or without neurons, through everything that rewrites weights."""
    model = penjing_model(Blueprint(VOCABULARY, 24, 0, 12, 12, 4, (Layer(2, 0), Layer(0, 5), Layer(1, 7)), "sequence", 2))
    for name, apply in REWRITTEN.items():
        if name != "repaired":
            assert blueprint_of(apply(model)) == blueprint_of(model), name


def same_logits(one: Logits, other: Logits) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def apart(one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> float:
    return max(float(np.abs(a - b).max()) for a, b in zip(one, other, strict=True))
