"""What a size that is asked changes: plans alone, but for the bits of a tiny model."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import penjing_model

from penjing.blueprint import Blueprint, Layer
from penjing.errors import InputError
from penjing.job.asked import Budget
from penjing.job.fit_size import within
from penjing.job.recipe import Recipe
from penjing.search.size import LEAST_BITS, mixed, rank_for, room_for_blocks
from penjing.steps.bits.quantize import QuantizeSettings
from penjing.steps.bits.store import MIXED, StoreSettings
from penjing.steps.cut.prune import PruneSettings
from penjing.steps.cut.sparsify import SparsifySettings
from penjing.steps.cut.vocabulary import VocabularySettings
from penjing.steps.reshape.factorise import FactoriseSettings
from penjing.steps.teach.distillation import Distillation
from penjing.students.logistic import Logistic
from penjing.students.stage import StudentSettings
from penjing.tasks.sequence import Classification
from penjing.tasks.task import Examples
from penjing.text.encoded import Encoded

BASE = Blueprint(30000, 512, 2, 384, 384, 32, (Layer(12, 1536),) * 6, "sequence", 2)


def test_a_size_that_int8_meets_changes_nothing() -> None:
    for budget in (Budget(), Budget(size_mb=30)):
        assert within(Recipe(), budget, BASE, 700_000, 8) == Recipe()
    assert within(Recipe(), Budget(size_mb=30), BASE, 700_000, 32).get(StoreSettings)  # in float32 it is 90


def test_a_smaller_size_leaves_tokens_out_and_stores_few_bits() -> None:
    found = within(Recipe(), Budget(size_mb=8), BASE, 700_000, 8)
    assert found.get(PruneSettings) == PruneSettings() and found.get(VocabularySettings) == VocabularySettings(0.0)
    assert found.get(StoreSettings) == StoreSettings(MIXED, training=True) and found.get(FactoriseSettings) == FactoriseSettings()
    assert [item.name for item in found.steps] == ["vocabulary", "prune", "factorise", "distill", "store", "quantize"]
    untaught = Recipe().without(Distillation)
    assert within(untaught, Budget(size_mb=8), BASE, 700_000, 8).get(StoreSettings) == StoreSettings(MIXED)
    own = StoreSettings("kmeans", 3)
    assert within(Recipe().with_(own), Budget(size_mb=8), BASE, 0, 8).get(StoreSettings) == own
    kept = within(Recipe().without(PruneSettings), Budget(size_mb=8), BASE, 0, 8)
    assert kept.get(PruneSettings) is None and kept.get(VocabularySettings) is None and kept.get(StoreSettings)
    few = Recipe().with_(VocabularySettings(0.5))
    assert within(few, Budget(size_mb=8), BASE, 0, 8).get(VocabularySettings) == VocabularySettings(0.5)


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe().with_(SparsifySettings(0.5)), Recipe().with_(QuantizeSettings(training=True)),
        Recipe.of(Distillation(), StudentSettings(Logistic())),
    ],
)  # fmt: skip
def test_what_was_asked_otherwise_stays(recipe: Recipe) -> None:
    assert within(recipe, Budget(size_mb=1), BASE, 0, 8) == recipe


@pytest.mark.parametrize("room", [1e6, 3e6, 6e6, 12e6])
@pytest.mark.parametrize("bits", [2, 3, 8])
def test_the_rank_gives_the_embedding_half_the_room(room: float, bits: int) -> None:
    rank, size = rank_for(BASE, room, bits), BASE.vocabulary + BASE.embedding
    if rank:
        assert rank % 16 == 0 and (rank * size * bits / 8 <= room / 2 or rank == 16)
        assert (rank + 16) * size * bits / 8 > room / 2 or (rank + 16) * size >= BASE.vocabulary * BASE.embedding
        assert room_for_blocks(BASE, rank, room, bits) > room_for_blocks(BASE, 0, room, bits)
    else:
        assert BASE.vocabulary * BASE.embedding * bits / 8 <= room / 2 or 16 * size >= BASE.vocabulary * BASE.embedding
    assert rank_for(replace(BASE, rank=64), room, bits) == 0


@pytest.mark.parametrize("curvature", ["gauss-newton", "trace"])
def test_mixed_bits_fit_and_more_room_gives_no_fewer(curvature: str) -> None:
    model = penjing_model(Blueprint(40, 16, 2, 32, 32, 16, (Layer(2, 64), Layer(1, 32)), "sequence", 2))
    ids = [[3, 5 + i, 6 + i] for i in range(6)]
    data = Examples(Encoded.of(ids, [[0] * 3] * 6), [""] * 6, ["a", "b"] * 3, [[]] * 6, 0)
    task = Classification(["a", "b"])
    entries = sum(p.numel() for p in model.parameters() if p.ndim == 2)
    before = 0.0
    for bits in (LEAST_BITS, 5, 8):
        schemes = mixed(model, StoreSettings(MIXED, bits, curvature=curvature), task, data, None, 0)
        widths = [scheme.bits * model.get_parameter(name).numel() for name, scheme in schemes.items()]
        assert before <= np.sum(widths) / entries
        before = float(np.sum(widths)) / entries
    with pytest.raises(InputError, match="too little"):
        mixed(model, StoreSettings(MIXED), task, data, 100.0, 0)
