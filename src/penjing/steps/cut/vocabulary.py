"""Vocabulary pruning: leave out the tokens that the user's texts never produce, or the rarest ones."""

import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from penjing.blueprint import Blueprint
from penjing.engines.form import MODEL
from penjing.errors import InputError
from penjing.files.options import option
from penjing.files.run import fingerprint
from penjing.files.whole import Json
from penjing.model.building import blueprint_of
from penjing.model.checkpoint import read
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.model.surgery import cut
from penjing.model.tokenizing import copy_tokenizer
from penjing.model.writing import write
from penjing.selection import Selection
from penjing.steps.settings import Effects, Settings, Trait, effects
from penjing.steps.stage import Context, Note, Stage, Work
from penjing.steps.step import Step
from penjing.tasks.encoder import Encoder
from penjing.tasks.judging import quality_of
from penjing.tasks.sources import encoded_by, tokenizer_of, with_tokenizer
from penjing.tasks.task import Examples, Task
from penjing.text.vocabulary import choose_tokens, write_pruned
from penjing.training.predict import logits_of

WHOLE_TEXT = 1_000_000
"""Tokens of a text that are counted, in effect all: a word that is cut off may be spelled differently."""

Counts = NDArray[np.int64]


@final
@dataclass(frozen=True)
class VocabularySettings(Settings):
    """Settings of vocabulary pruning.

    part: part of the tokens that is kept; 0: every token that the training texts produce. corpus: a file of further texts, one a line,
    whose tokens count.
    """

    name = "vocabulary"
    paper = "Abdaoui et al. 2020"
    when = "Where the embedding table is much of the model: many languages, or few words in use."

    part: float = option(0.0, "Part of the tokens that is kept; 0: all that the training texts produce.")
    corpus: Path | None = option(None, "With `vocab`: further texts, a line each, whose tokens count.")

    def __post_init__(self) -> None:
        if not 0 <= self.part <= 1:
            raise InputError(f"vocab: {self.part} is out of range; give the part that is kept, above 0 and at most 1")
        if self.corpus is not None and not self.corpus.is_file():
            raise InputError(f"corpus: {self.corpus} is no file; give a text file, a text per line")

    def effects(self, taught: bool) -> Effects:
        return effects(makes=[Trait.CUTS], undoes=[Trait.CODES])

    def stages(self, recipe: Sequence[Settings]) -> Sequence[Stage[Any]]:
        return [CutVocabulary(self)]

    @property
    def cuts(self) -> bool:
        return True

    def to_json(self) -> Json:
        return {"part": self.part, "corpus": fingerprint(self.corpus) if self.corpus else None}


@final
class PruneVocabulary(Step[Counts, Selection]):
    """The step of vocabulary pruning: keep the part `part` of the tokens, the most frequent, and those that spell the rest.

    part: None: every token that the texts produce.

    The tokenizer's files are rewritten to match by `penjing.text.vocabulary.write_pruned`. `corpus` is a file of further texts that
    count, one per line.
    """

    name = "vocabulary"

    def __init__(self, task: Task, tokenizer: Tokenizer, part: float | None, corpus: Path | None = None) -> None:
        self.task = task
        self.tokenizer = tokenizer
        self.part = part
        self.corpus = corpus

    def observe(self, model: PenjingPreTrainedModel, data: Examples) -> Counts:
        """Token counts of the texts (V,)."""
        counts = np.bincount(Encoder(self.task, self.tokenizer, WHOLE_TEXT)(data.inputs)[0].ids, minlength=model.config.vocab_size)
        for lines in _lines(self.corpus) if self.corpus else ():
            ids = [np.array(encoding.ids, np.int64) for encoding in self.tokenizer.encode_batch(lines)]
            counts += np.bincount(np.concatenate(ids), minlength=len(counts))
        return counts

    def plan(self, blueprint: Blueprint, evidence: Counts) -> Selection:
        tokens = choose_tokens(json.loads(self.tokenizer.to_str()), evidence, self.part)
        return replace(Selection.all(blueprint), tokens=tokens)

    def apply(self, model: PenjingPreTrainedModel, plan: Selection, evidence: Counts) -> PenjingPreTrainedModel:
        return cut(model, plan)


def _lines(corpus: Path) -> Iterator[list[str]]:
    """The lines of a text file, ten thousand at a time."""
    try:
        with open(corpus, encoding="utf-8") as file:
            while lines := list(islice(file, 10_000)):
                yield lines
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"corpus: {corpus} cannot be read as UTF-8 text ({str(error)[:120]}); convert it") from error


@dataclass(frozen=True)
class VocabularyNote(Note):
    """The record of vocabulary pruning. tokens: ids of the kept tokens."""

    tokens: Sequence[int] = ()


@final
class CutVocabulary(Stage[VocabularyNote]):
    """The stage of vocabulary pruning: it rewrites the tokenizer to match, and later stages use texts that it encodes."""

    name = "vocabulary"
    record = VocabularyNote
    shared = True

    def __init__(self, settings: VocabularySettings) -> None:
        self.settings = settings

    def make(self, work: Work, context: Context, folder: Path) -> VocabularyNote:
        task = work.data.task
        tokenizer = tokenizer_of(context.tokenizer_file(work.tokenizer).parent)
        step = PruneVocabulary(task, tokenizer, self.settings.part or None, self.settings.corpus)
        counts = step.observe(work.base, work.data.train)
        selection = step.plan(blueprint_of(work.base), counts)
        base = step.apply(work.base, selection, counts)
        tokens = selection.tokens or ()
        with tempfile.TemporaryDirectory() as made:
            copy_tokenizer(work.tokenizer, Path(made))
            write(base, folder / MODEL)
            write_pruned(Path(made), folder / MODEL, tokens)
        before = context.judging(work)
        after = encoded_by(tokenizer_of(folder / MODEL), work.data, before)
        model = base if work.untouched else with_tokens(work.model, tokens)
        quality = quality_of(task, after, logits_of(model, after.encoded))
        blueprint = blueprint_of(work.model)
        longer = after.encoded.lengths.mean() / before.encoded.lengths.mean()
        saved = (blueprint.vocabulary - len(tokens)) * blueprint.word_width * 4 / 1e6
        note = (
            f"{len(tokens)} of {blueprint.vocabulary} tokens, {saved:.1f} MB less; texts {100 * (longer - 1):+.1f} % tokens; {quality:.2f}"
        )
        return VocabularyNote(note, quality, tokens=tokens)

    def load(self, work: Work, context: Context, record: VocabularyNote, folder: Path) -> Work:
        tokenizer = tokenizer_of(folder / MODEL)
        base = read(folder / MODEL)
        tests = tuple((name, encoded_by(tokenizer, context.data, examples)) for name, examples in work.tests)
        return replace(
            work, base=base, model=base if work.untouched else with_tokens(work.model, record.tokens),
            data=with_tokenizer(context.data, tokenizer), tests=tests, tokenizer=folder / MODEL,
        )  # fmt: skip


def with_tokens(model: PenjingPreTrainedModel, tokens: Sequence[int]) -> PenjingPreTrainedModel:
    """A new model with these tokens alone, and all else as it is."""
    return cut(model, replace(Selection.all(blueprint_of(model)), tokens=tuple(tokens)))
