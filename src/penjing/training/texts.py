"""The training texts of a job: which of them are held out, looked at and learned from, what is added to them, and who labels them."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float32
from tokenizers import Tokenizer

from penjing.errors import InputError
from penjing.files.options import option
from penjing.model.modeling_penjing import PenjingForMaskedLM, PenjingPreTrainedModel
from penjing.model.watch import encoder_of
from penjing.tasks.data import Data
from penjing.tasks.task import Examples
from penjing.text.encoded import Encoded
from penjing.training.augment import RuleRates, by_masked_lm, by_neighbours, by_rules, neighbours, replaceable
from penjing.training.predict import logits_of
from penjing.training.sample import BY_LOGITS, STRATEGIES, choose

WAYS = ("neighbours", "masked-lm", "rules")
"""How texts are augmented: neighbours in the word embedding, a masked language model (both Jiao et al. 2020), the rules of Tang et al. 2019."""


@dataclass(frozen=True)
class TextSettings:
    """Which texts are learned from.

    part: of the training texts, and by which strategy they are drawn. copies: augmented versions of each text, made how, at which
    rate of their words (Jiao et al. 2020: 20 copies, 0.4), each word one of so many candidates.
    """

    part: float = option(1.0, "Part of the training texts that is learned from.", panel="training")
    by: str = option("random", "With `part`, how it is drawn.", allowed=STRATEGIES, panel="training")
    copies: int = option(
        0, "How many changed copies of each text; with `augment` 1, else 0, and 2 for logistic and static.", most=1000, panel="training"
    )
    how: str = option("neighbours", "Add changed copies of the texts.", allowed=WAYS, panel="training")
    rate: float = 0.4
    candidates: int = option(15, "Words that may stand in for one.", least=1)

    def __post_init__(self) -> None:
        for name, value, allowed in (("sample", self.by, STRATEGIES), ("augment", self.how, WAYS)):
            if value not in allowed:
                raise InputError(f"{name}: {value!r} is none; allowed are {', '.join(allowed)}")
        for name, number in (("part", self.part), ("rate", self.rate)):
            if not 0 < number <= 1:
                raise InputError(f"{name}: {number} is out of range; give a part above 0 and at most 1")
        if self.copies < 0 or self.candidates < 1:
            raise InputError(f"copies: {self.copies} copies of {self.candidates} candidates are too few; give at least 0 and 1")


@dataclass(frozen=True)
class Texts:
    """The training texts of `data`, drawn by `seed`; where they have no labels, `model` answers."""

    data: Data
    model: PenjingPreTrainedModel
    seed: int

    @property
    def weights(self) -> Examples:
        """Texts held out that the best weights of a training are chosen on, with labels."""
        return self.labelled(self.data.train.take(self.data.sides.weights))

    @property
    def judging(self) -> Examples:
        """Texts held out that everything else is chosen on: plan, depth, calibration, form, temperature; with labels.

        `penjing train` holds the same texts out, so that a teacher which it made has not learned them.
        """
        return self.labelled(self.data.train.take(self.data.sides.judging))

    @property
    def learned(self) -> Examples:
        """The texts that may be learned from, as they are."""
        return self.data.train.take(self.data.sides.learned)

    def calibration(self, texts: int) -> Examples:
        """Some of the texts that are learned from, with labels."""
        rows = self.data.sides.learned
        drawn = np.random.default_rng(self.seed).permutation(len(rows))[:texts]
        return self.labelled(self.data.train.take(rows[np.sort(drawn)]))

    def labelled(self, examples: Examples) -> Examples:
        """The examples, with the model's own answers where they have no labels."""
        if not examples.gold or examples.gold[0] is not None:
            return examples
        answers = self.data.task.decode(logits_of(self.model, examples.encoded), examples.first_tokens)
        return replace(examples, gold=answers)

    def drawn(
        self, train: Examples, settings: TextSettings, logits: Callable[[Examples], Float32[np.ndarray, "rows C"]], more: Examples | None = None,
        masked: PenjingForMaskedLM | None = None,
    ) -> Examples:  # fmt: skip
        """What is learned from: the part of `train` that is drawn, unlabelled texts, and augmented copies of both.

        Args:
            logits: the teacher's, of examples; asked only by strategies that need them.
            masked: the language model of the way masked-lm.
        """
        if settings.part < 1:
            known = logits(train) if settings.by in BY_LOGITS else None
            train = train.take(choose(settings.by, max(1, round(settings.part * len(train))), known, train.encoded.lengths, self.seed))
        texts = train if more is None else train.with_texts(more.encoded)
        return texts.with_texts(self._augmented(texts.encoded, settings, masked)) if settings.copies else texts

    def _augmented(self, texts: Encoded, settings: TextSettings, masked: PenjingForMaskedLM | None) -> Encoded:
        words = replaceable(self.data.tokenizer)
        if settings.how == "masked-lm":
            if masked is None:
                raise InputError("augment: masked-lm takes a masked language model of the same vocabulary; give one with `masked_lm`")
            return by_masked_lm(
                texts, masked, mask_of(self.data.tokenizer), words, settings.copies, settings.rate, settings.candidates, self.seed
            )
        table = encoder_of(self.model).embeddings.word.weight.detach().float().cpu().numpy()
        near = neighbours(table, words.whole[: len(table)], settings.candidates)
        if settings.how == "neighbours":
            return by_neighbours(texts, near, words, settings.copies, settings.rate, self.seed)
        rates = replace(RuleRates(), ngram=0.0) if self.data.task.head.per_token else RuleRates()
        return by_rules(texts, near, mask_of(self.data.tokenizer), words, settings.copies, self.seed, rates)


def mask_of(tokenizer: Tokenizer) -> int:
    """The number of the token that stands for a hidden word."""
    numbers = [number for name in ("[MASK]", "<mask>") if (number := tokenizer.token_to_id(name)) is not None]
    if not numbers:
        raise InputError("augment: the tokenizer has no [MASK]; augment by neighbours")
    return numbers[0]
