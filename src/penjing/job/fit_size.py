"""Recipes for a requested size: few bits, fewer tokens and a factorised word embedding where the size needs them."""

from dataclasses import replace

from penjing.blueprint import Blueprint
from penjing.job.asked import Budget
from penjing.job.recipe import Recipe
from penjing.search.size import OVERHEAD
from penjing.steps.bits.quantize import QuantizeSettings
from penjing.steps.bits.store import MIXED, StoreSettings
from penjing.steps.cut.prune import PruneSettings
from penjing.steps.cut.sparsify import SparsifySettings
from penjing.steps.cut.vocabulary import VocabularySettings
from penjing.steps.reshape.factorise import FactoriseSettings
from penjing.students.stage import StudentSettings


def within(recipe: Recipe, budget: Budget, blueprint: Blueprint, tokenizer: int, bits: int) -> Recipe:
    """The recipe for the requested size: with few bits and, where it prunes, fewer tokens, if the size is exceeded without.

    A recipe that prunes single weights, or trains for int8, gets neither; one whose student is no BERT is left as it is.

    Args:
        tokenizer: bytes of the tokenizer's file.
        bits: of a weight without the storage step: 8 in int8, else 32.
    """
    if budget.size_mb is None or recipe.get(StudentSettings):
        return recipe
    fits = replace(blueprint, bits=bits).bytes + tokenizer + OVERHEAD <= 1e6 * budget.size_mb
    quantize = recipe.get(QuantizeSettings)
    if not fits and not recipe.get(SparsifySettings) and not (quantize and quantize.training):
        if recipe.get(PruneSettings) and not recipe.get(VocabularySettings):
            recipe = recipe.with_(VocabularySettings())
        if not recipe.get(StoreSettings):
            recipe = recipe.with_(StoreSettings(MIXED, training=recipe.taught and not recipe.takers))
    if recipe.get(StoreSettings) and not recipe.get(FactoriseSettings):
        recipe = recipe.with_(FactoriseSettings())
    return recipe
