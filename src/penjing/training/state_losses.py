"""Losses on states: what a student's encoder is taught by its teacher's, layer by layer, as objects of one class.

A loss says which parts of which layers it reads, of student and teacher alike, and is a function of them. What must be learned to compare
the two (a linear map, adapters) is a module that is trained with the student and left behind. A loss of one's own is another object:
`PerPair(function)` for a function of two layers' states, or a class derived from `StateLoss`.

Letters: B texts, S tokens, n real tokens; H hidden units of the student, H' of the teacher; W, W' all heads' widths side by side.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import cast, final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from penjing.errors import InputError
from penjing.maths import losses
from penjing.model.modeling_penjing import PenjingModel
from penjing.model.watch import FIRST, STATES, Part, layers_of
from penjing.training.layer_map import Pair, all_but_last_pair, every_pair, last_pair, layer_pairs, pairs_with_embeddings, spread

Parts = Mapping[Part, Float[Tensor, "..."]]
"""Parts of an encoder (B, S, H), or (B, S, W); of first tokens (B, H)."""
FINER = 4
"""Relation heads for each attention head of the teacher: 48 for 12 (Wang et al. 2021, MiniLMv2, section 4.1)."""


@dataclass(frozen=True)
class Sizes:
    """The sizes of an encoder: its hidden units, the width of a head, and the heads and neurons of each layer.

    whole: of so many layers, from the first, all tokens have states; from the next on some are dropped.
    """

    hidden: int
    head_width: int
    layers: tuple[tuple[int, int], ...]
    whole: int

    @classmethod
    def of(cls, encoder: PenjingModel) -> "Sizes":
        """The sizes in an encoder's configuration."""
        config = encoder.config
        sizes = tuple((heads, neurons) for heads, neurons, *_ in config.layers)
        whole = next((i for i, layer in enumerate(layers_of(encoder)) if layer.attention.tokens < 100), len(sizes))
        return cls(config.hidden_size, int(config.head_width), sizes, whole)

    def heads(self, layer: int) -> int:
        """Attention heads of a layer, counted from 1."""
        return self.layers[layer - 1][0]

    @property
    def existing(self) -> set[int]:
        """The layers of which anything is left."""
        return {j for j, layer in enumerate(self.layers, start=1) if any(layer)}


@dataclass(frozen=True)
class Matching:
    """How a student is compared with its teacher.

    hidden: the teacher's hidden units that the student has, None all. heads: relation heads; 0: `FINER` times as many as the teacher's
    layers have attention heads, where that divides all widths, else as many. levels: matched layers that the multi-level scheme takes; 0:
    all. learned: whether the layers are matched anew in each batch.
    """

    student: Sizes
    teacher: Sizes
    hidden: Sequence[int] | None = None
    heads: int = 0
    levels: int = 0
    learned: bool = False

    @property
    def one_width(self) -> bool:
        """Whether states may be compared unit by unit."""
        return self.student.hidden == self.teacher.hidden or self.hidden is not None

    def units(self, g: Float[Tensor, "*rows H2"]) -> Float[Tensor, "*rows H"]:
        """The teacher's hidden units that the student has: (…, H') → (…, H)."""
        return g if self.hidden is None else g[..., list(self.hidden)]


@dataclass(frozen=True)
class Compared:
    """One batch of student and teacher: the parts of both that are read, and the mask (B, S) of real tokens."""

    student: Parts
    teacher: Parts
    mask: Bool[Tensor, "B S"]
    matching: Matching

    def parts(self, kind: str, pair: Pair) -> tuple[Float[Tensor, "*rows H"], Float[Tensor, "*rows H2"]]:
        """The same kind of part of both layers of a pair."""
        j, i = pair
        return self.student[Part(kind, j)], self.teacher[Part(kind, i)]


class StateLoss(ABC):
    """A loss on states: a function of parts of matched layers.

    reads: the kinds of parts that it looks at. unit_by_unit: whether it compares states of one width only.
    """

    reads: tuple[str, ...] = (STATES,)
    unit_by_unit: bool = False

    @property
    def name(self) -> str:
        """The name of a loss of one's own, in messages and in what a run notes of its settings."""
        return type(self).__qualname__

    def pairs(self, matched: list[Pair], matching: Matching) -> list[Pair]:
        """The pairs of layers that it is taken over, of all that are matched."""
        return matched

    def refusal(self, pairs: list[Pair], matching: Matching) -> str | None:
        """Why these layers cannot be compared, None where they can."""
        return None

    def learned(self, pairs: list[Pair], matching: Matching) -> nn.Module | None:
        """A new module of what is learned to compare the two, None where nothing is."""
        return None

    @abstractmethod
    def value(self, batch: Compared, pairs: list[Pair], learned: nn.Module | None) -> Float[Tensor, ""]:
        """The loss of one batch: a scalar, the mean over the pairs."""


@final
class PerPair(StateLoss):
    """The mean over pairs of a loss between the states of real tokens (n, H), or between those of first tokens (B, H)."""

    def __init__(
        self, loss: Callable[[Tensor, Tensor], Tensor], takes: Callable[[list[Pair]], list[Pair]] = every_pair, *, first: bool = False,
        unit_by_unit: bool = False,
    ) -> None:  # fmt: skip
        self.loss = loss
        self.takes = takes
        self.first = first
        self.unit_by_unit = unit_by_unit
        self.reads = (FIRST,) if first else (STATES,)

    @property
    def name(self) -> str:
        """The name of the function."""
        return str(getattr(self.loss, "__qualname__", type(self.loss).__qualname__))

    def pairs(self, matched: list[Pair], matching: Matching) -> list[Pair]:
        """The pairs that `takes` gives."""
        return self.takes(matched)

    def value(self, batch: Compared, pairs: list[Pair], learned: nn.Module | None) -> Float[Tensor, ""]:
        """The mean over the pairs."""
        terms = []
        for pair in pairs:
            h, g = batch.parts(self.reads[0], pair)  # (B, S, H) and (B, S, H'), or (B, H) and (B, H')
            g = batch.matching.units(g)
            terms.append(self.loss(h.float(), g) if self.first else self.loss(h[batch.mask].float(), g[batch.mask]))
        return _mean(terms)


@final
class MappedStates(StateLoss):
    """Through a learned linear map, one for all layers and the embeddings (Jiao et al. 2020, equations 8 and 9, where they have two).

    With a learned layer map each of the teacher's layers takes the nearest of the student's existing ones; the embeddings are neither
    candidates nor targets (Xia et al. 2022, section 3.2: CoFi).
    """

    def pairs(self, matched: list[Pair], matching: Matching) -> list[Pair]:
        """Layers, and the embeddings where the layers are matched beforehand."""
        return layer_pairs(matched) if matching.learned else pairs_with_embeddings(matched)

    def learned(self, pairs: list[Pair], matching: Matching) -> nn.Module:
        """The linear map, H → H'."""
        return identity_map(matching.student.hidden, matching.teacher.hidden)

    def value(self, batch: Compared, pairs: list[Pair], learned: nn.Module | None) -> Float[Tensor, ""]:
        """The mean over the pairs, or over the teacher's layers."""
        assert learned is not None
        mask = batch.mask
        mapped = {j: learned(batch.student[Part(STATES, j)][mask].float()) for j, _ in pairs}  # (n, H') each
        if not batch.matching.learned:
            return _mean([losses.mse(mapped[j], batch.teacher[Part(STATES, i)][mask]) for j, i in pairs])
        existing = batch.matching.student.existing
        candidates = [h for j, h in mapped.items() if j in existing] or list(mapped.values())
        terms = []
        for i in {i for _, i in pairs}:
            g = batch.teacher[Part(STATES, i)][mask]  # (n, H')
            terms.append(torch.stack([losses.mse(h, g) for h in candidates]).min())
        return _mean(terms)


@final
class Levels(StateLoss):
    """The mean of the errors of several levels, through an adapter each, which is given what the level before gave."""

    def pairs(self, matched: list[Pair], matching: Matching) -> list[Pair]:
        """The embeddings and layers, or so many of them, evenly spread."""
        pairs = pairs_with_embeddings(matched)
        if matching.levels > len(pairs):
            raise InputError(
                f"levels: {matching.levels} are more than the {len(pairs)} that are matched; give at most as many, or match more,"
                " as `layer_map` 1:1,1:2,2:3,2:4"
            )
        return spread(pairs, matching.levels)

    def learned(self, pairs: list[Pair], matching: Matching) -> nn.Module:
        """The adapters, one for each level."""
        return nn.ModuleList(Adapter(matching.student.hidden, matching.teacher.hidden) for _ in pairs)

    def value(self, batch: Compared, pairs: list[Pair], learned: nn.Module | None) -> Float[Tensor, ""]:
        """The mean over the levels."""
        before = None
        terms = []
        for adapter, (j, i) in zip(cast(nn.ModuleList, learned), pairs, strict=True):
            before = adapter(batch.student[Part(STATES, j)][batch.mask].float(), before)  # (n, H')
            terms.append(losses.mse(before, batch.teacher[Part(STATES, i)][batch.mask]))
        return _mean(terms)


@final
class AttentionScores(StateLoss):
    """The scores of attention before softmax, head with head (Jiao et al. 2020, equation 7)."""

    reads = ("queries", "keys")

    def pairs(self, matched: list[Pair], matching: Matching) -> list[Pair]:
        """The layers."""
        return layer_pairs(matched)

    def refusal(self, pairs: list[Pair], matching: Matching) -> str | None:
        """Pairs of layers with another number of heads cannot."""
        for j, i in pairs:
            a = matching.student.heads(j)
            b = matching.teacher.heads(i)
            if a != b or not a:
                return (
                    f"losses: attention compares head with head; layer {j} of the student has {a} heads and layer {i} of the teacher {b};"
                    " take relations, which cut both into as many as you like"
                )
        return None

    def value(self, batch: Compared, pairs: list[Pair], learned: nn.Module | None) -> Float[Tensor, ""]:
        """The mean over the pairs."""
        terms = []
        for pair in pairs:
            q, queries = batch.parts("queries", pair)  # (B, S, W) of the student, (B, S, W') of the teacher
            k, keys = batch.parts("keys", pair)
            heads = queries.shape[-1] // batch.matching.teacher.head_width
            a = losses.scores(q.float(), k.float(), heads)  # (B, heads, S, S)
            b = losses.scores(queries, keys, heads)
            terms.append(losses.attention_mse(a, b, batch.mask))
        return _mean(terms)


@final
class Relations(StateLoss):
    """Relations among tokens, of the queries, keys and values of the last layer (Wang et al. 2021, MiniLMv2, section 3.1)."""

    reads = ("queries", "keys", "values")

    def pairs(self, matched: list[Pair], matching: Matching) -> list[Pair]:
        """The last layers."""
        return last_pair(matched)

    def heads(self, pairs: list[Pair], matching: Matching) -> int:
        """The relation heads that both widths are cut into."""
        if matching.heads:
            return matching.heads
        most = max((heads for heads, _ in matching.teacher.layers), default=1)
        widths = [
            sizes.heads(layer) * sizes.head_width
            for pair in pairs
            for sizes, layer in zip((matching.student, matching.teacher), pair, strict=True)
        ]
        return most if any(width % (FINER * most) for width in widths) else FINER * most

    def value(self, batch: Compared, pairs: list[Pair], learned: nn.Module | None) -> Float[Tensor, ""]:
        """The mean over queries, keys and values."""
        heads = self.heads(pairs, batch.matching)
        terms = []
        for pair in pairs:
            for kind in self.reads:
                h, g = batch.parts(kind, pair)  # (B, S, W) and (B, S, W')
                h = h.float()
                if h.shape[-1] % heads or g.shape[-1] % heads:
                    raise InputError(
                        f"relation_heads: {heads} does not divide {h.shape[-1]} (student) and {g.shape[-1]} (teacher); give a divisor"
                    )
                terms.append(losses.relation_kl(h, g, batch.mask, heads))
        return _mean(terms)


@final
class Flows(StateLoss):
    """How the states of one matched layer become those of the next (Yim et al. 2017)."""

    unit_by_unit = True

    def pairs(self, matched: list[Pair], matching: Matching) -> list[Pair]:
        """The embeddings and the layers."""
        return pairs_with_embeddings(matched)

    def value(self, batch: Compared, pairs: list[Pair], learned: nn.Module | None) -> Float[Tensor, ""]:
        """The mean over neighbouring pairs."""
        terms = []
        for lower, upper in pairwise(pairs):
            h, g = batch.parts(STATES, lower)  # (B, S, H) and (B, S, H')
            h_next, g_next = batch.parts(STATES, upper)
            units = batch.matching.units
            terms.append(losses.fsp((h.float(), h_next.float()), (units(g), units(g_next)), batch.mask))
        return _mean(terms)


@final
class WholeTexts(StateLoss):
    """The mean over pairs of a loss between the states of whole texts, (B, S, H) and (B, S, H'), given the mask (B, S) of real tokens."""

    def __init__(self, loss: Callable[[Tensor, Tensor, Tensor], Tensor], takes: Callable[[list[Pair]], list[Pair]] = every_pair) -> None:
        self.loss = loss
        self.takes = takes

    def pairs(self, matched: list[Pair], matching: Matching) -> list[Pair]:
        """The pairs that `takes` gives."""
        return self.takes(matched)

    def value(self, batch: Compared, pairs: list[Pair], learned: nn.Module | None) -> Float[Tensor, ""]:
        """The mean over the pairs."""
        terms = []
        for pair in pairs:
            h, g = batch.parts(STATES, pair)  # (B, S, H) and (B, S, H')
            terms.append(self.loss(h.float(), g, batch.mask))
        return _mean(terms)


# -- what is learned to compare widths -----------------------------------------------------------------------------


@final
class Adapter(nn.Module):
    """A multilayer perceptron with GELU beside a linear path, from the student's width to the teacher's.

    It starts as the identity where the widths are equal, so that equal states cost nothing; `feed` takes in the level before.
    """

    def __init__(self, own: int, teacher: int) -> None:
        super().__init__()
        self.path = identity_map(own, teacher)
        self.up = nn.Linear(own, teacher)
        self.down = nn.Linear(teacher, teacher)
        self.feed = nn.Linear(teacher, own)
        for zero in (self.down, self.feed):
            nn.init.zeros_(zero.weight)
            nn.init.zeros_(zero.bias)

    def forward(self, h: Float[Tensor, "n H"], before: Float[Tensor, "n H2"] | None) -> Float[Tensor, "n H2"]:
        """(n, H), and what the level before gave (n, H') → (n, H')."""
        h = h if before is None else h + self.feed(before)
        return self.path(h) + self.down(F.gelu(self.up(h)))


def identity_map(own: int, teacher: int) -> nn.Linear:
    """A linear map without bias: the identity where the widths are equal, else drawn at random."""
    linear = nn.Linear(own, teacher, bias=False)
    if own == teacher:
        nn.init.eye_(linear.weight)
    else:
        nn.init.normal_(linear.weight, std=own**-0.5)
    return linear


def _mean(terms: list[Float[Tensor, ""]]) -> Float[Tensor, ""]:
    return torch.stack(terms).mean()


STATE_LOSSES: dict[str, StateLoss] = {
    "states": PerPair(losses.state_mse, unit_by_unit=True),
    "tokens": PerPair(losses.mse, unit_by_unit=True),
    "hidden": MappedStates(),
    "cosine": PerPair(losses.cosine, last_pair, unit_by_unit=True),
    "first": PerPair(losses.patient, all_but_last_pair, first=True, unit_by_unit=True),
    "attention": AttentionScores(),
    "relations": Relations(),
    "levels": Levels(),
    "rkd-distance": PerPair(losses.rkd_distance, last_pair, first=True),
    "rkd-angle": PerPair(losses.rkd_angle, last_pair, first=True),
    "fsp": Flows(),
    "nst": WholeTexts(losses.nst),
    "similarity": WholeTexts(losses.similarity, layer_pairs),
    "attention-transfer": WholeTexts(losses.attention_transfer, layer_pairs),
    "pkt": PerPair(losses.neighbour_kl, last_pair, first=True),
}
"""The losses on states by name.

states: normalised by the teacher's. tokens: plain (ZipLM). hidden: through a learned linear map (TinyBERT; CoFi with a learned layer
map). cosine: of the last layer (DistilBERT). first: normalised first tokens, all matched layers but the last (PKD). attention: scores
(TinyBERT). relations: of queries, keys and values of the last layer (MiniLMv2). levels: the multi-level scheme. rkd: relations between
texts. fsp: flow between layers. nst: statistics of the units. similarity: of the texts of a batch. attention-transfer: which tokens have
large states. pkt: which texts of a batch are near each other."""
