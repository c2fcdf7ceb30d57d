"""Leave out the tokens that the user's texts never produce, or the rarest of them."""

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import final

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from penjing.blueprint import Blueprint
from penjing.errors import InputError
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.model.surgery import cut
from penjing.selection import Selection
from penjing.steps.step import Step
from penjing.tasks.task import Examples, Task
from penjing.text.vocabulary import choose_tokens

WHOLE_TEXT = 1_000_000
"""Tokens: a text is counted whole; a word that is cut off may be spelled differently."""

Counts = NDArray[np.int64]


@final
class PruneVocabulary(Step[Counts, Selection]):
    """Keep the part `part` of the tokens, the most frequent (None: every one that the texts produce), and what spells the rest.

    The tokenizer's files are rewritten to match by `penjing.text.vocabulary.write_pruned`. `corpus` is a file of further texts that
    count, one per line.
    """

    name = "vocabulary"

    def __init__(self, task: Task, tokenizer: Tokenizer, part: float | None, corpus: Path | None = None) -> None:
        self.task, self.tokenizer, self.part, self.corpus = task, tokenizer, part, corpus

    def observe(self, model: PenjingPreTrainedModel, data: Examples) -> Counts:
        """How often the texts produce each token (V,)."""
        counts = np.bincount(self.task.encode(self.tokenizer, data.inputs, WHOLE_TEXT)[0].ids, minlength=model.config.vocab_size)
        for lines in _lines(self.corpus) if self.corpus else ():
            ids = [np.array(each.ids, np.int64) for each in self.tokenizer.encode_batch(lines)]
            counts += np.bincount(np.concatenate(ids), minlength=len(counts))
        return counts

    def plan(self, blueprint: Blueprint, evidence: Counts) -> Selection:
        tokens = choose_tokens(json.loads(self.tokenizer.to_str()), evidence, self.part)
        return replace(Selection.all(blueprint), tokens=tokens)

    def apply(self, model: PenjingPreTrainedModel, plan: Selection, evidence: Counts) -> PenjingPreTrainedModel:
        return cut(model, plan)


def _lines(corpus: Path) -> Iterator[list[str]]:
    """The file's lines, ten thousand at a time."""
    try:
        with open(corpus, encoding="utf-8") as file:
            while lines := list(islice(file, 10_000)):
                yield lines
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--corpus: {corpus} cannot be read as UTF-8 text ({str(error)[:120]}); convert it") from error
