"""A recipe that fits a size."""

from dataclasses import replace

from penjing.blueprint import Blueprint
from penjing.job.asked import Budget
from penjing.job.recipe import Recipe
from penjing.search.size import OVERHEAD
from penjing.steps.bits.store import MIXED, StoreSettings


def within(recipe: Recipe, budget: Budget, blueprint: Blueprint, tokenizer: int, bits: int) -> Recipe:
    """The recipe that also stores few bits, and leaves out unused tokens where it prunes, if else the size that is asked is exceeded.

    A recipe that thins single weights, or trains for int8, stays as it is.

    Args:
        tokenizer: bytes of the tokenizer's file.
        bits: of a weight as it is without that: 8 in int8, else 32.
    """
    fits = budget.size_mb is None or replace(blueprint, bits=bits).bytes + tokenizer + OVERHEAD <= 1e6 * budget.size_mb
    if fits or recipe.sparsify or (recipe.quantize and recipe.quantize.training):
        return recipe
    prune = recipe.prune
    return replace(
        recipe,
        prune=replace(prune, vocabulary=0.0) if prune and prune.vocabulary is None else prune,
        store=recipe.store or StoreSettings(MIXED, training=recipe.teaching == "distill" and recipe.distill is not None),
    )
