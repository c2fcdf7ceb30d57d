"""What a student is taught: distillation losses by name, with weights, over matched layers.

A loss on answers is a function of logits. A loss on states says which parts of which layers it reads, of student and teacher alike,
and is a function of them; what must be learned to compare the two (a linear map, adapters) is in `Objective`, a module that is trained
with the student and left behind.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from penjing.errors import InputError
from penjing.maths import losses
from penjing.model.modeling_penjing import PenjingModel
from penjing.model.watch import width_of

Pair = tuple[int, int]
"""A student's layer and the teacher's that it is matched to; layer 0 is the embeddings, layer i the i-th from 1."""
Parts = Mapping[str, Tensor]

ANSWERS = ("kl", "cross-entropy", "mse", "kl-entropy")
"""Losses between logits."""
HARD = "hard"
"""Cross-entropy with the gold labels."""
MAPS = ("kept", "descent", "uniform", "last", "first", "learned")
"""Layer maps by name; one may also be given, as "1:2,2:4,3:6"."""


FINER = 4
"""Relation heads for each attention head of the teacher: 48 for 12 (Wang et al. 2021, MiniLMv2, section 4.1)."""


def answer_loss(name: str, z: Tensor, t: Tensor, temperature: float, alpha: float) -> Tensor:
    """The loss of that name between logits (N, C)."""
    if name == "kl":
        return losses.soft_kl(z, t, temperature)
    if name == "cross-entropy":
        return losses.soft_cross_entropy(z, t, temperature)
    if name == "mse":
        return losses.logits_mse(z, t)
    return losses.soft_kl_entropy(z, t, temperature, alpha)


def layer_map(name: str, student_layers: int, teacher_layers: int, kept: Sequence[int] | None = None) -> list[Pair]:
    """The pairs that a map of this name makes, embeddings left out.

    kept: a student's layer that came from one of the teacher's is matched to that one, so that it does the work of the layers which
    were cut before it; the last to the last. Where evenly spread layers are kept this is uniform. descent: to the state before the next
    kept layer, the one that layer was trained to read. uniform: evenly spread (Jiao et al. 2020; PKD's "skip"). last, first: the
    teacher's last, or first, ones. learned: those that are nearest, found anew in each batch (Xia et al. 2022); here uniform.

    Args:
        kept: the teacher's layers that the student's came from, from 0; without them `kept` and `descent` are uniform.
    """
    m, n = student_layers, teacher_layers
    if ":" in name:
        return given_map(name, m, n)
    if name in ("kept", "descent") and kept is not None and len(kept) == m:
        before = kept[1:] if name == "descent" else [layer + 1 for layer in kept[:-1]]
        return list(enumerate([*before, n], start=1))
    if name in ("last", "first") and m > n:
        raise InputError(f"--layer-map: {name} takes a student that is not deeper than its teacher; got {m} layers and {n}; give uniform")
    if name == "last":
        return [(j, n - m + j) for j in range(1, m + 1)]
    if name == "first":
        return [(j, j) for j in range(1, m + 1)]
    if m > n:
        return [(j, -(-j * n // m)) for j in range(1, m + 1)]
    return [(j, round(j * n / m)) for j in range(1, m + 1)]


def given_map(text: str, student_layers: int, teacher_layers: int) -> list[Pair]:
    """Pairs from text as "1:2,2:4"."""
    try:
        pairs = [(int(a), int(b)) for a, b in (each.split(":") for each in text.split(","))]
    except ValueError:
        pairs = []
    if not any(a and b for a, b in pairs) or any(not (0 <= a <= student_layers and 0 <= b <= teacher_layers) for a, b in pairs):
        raise InputError(
            f"--layer-map: {text!r} is none; give {', '.join(MAPS)}, or pairs of layers from 1 as 1:2,2:4 (student up to {student_layers},"
            f" teacher up to {teacher_layers}; 0 is the embeddings)"
        )
    return sorted(pairs)


@dataclass(frozen=True)
class StateLoss:
    """reads: the kinds of parts it looks at. takes: the pairs of layers that it is over, of all that are matched."""

    reads: tuple[str, ...]
    takes: Callable[[list[Pair]], list[Pair]]
    value: Callable[["Objective", Parts, Parts, Tensor, list[Pair]], Tensor]


def _every(pairs: list[Pair]) -> list[Pair]:
    return pairs


def _layers(pairs: list[Pair]) -> list[Pair]:
    return [pair for pair in pairs if all(pair)]


def _with_embeddings(pairs: list[Pair]) -> list[Pair]:
    return [(0, 0), *_layers(pairs)]


def _last(pairs: list[Pair]) -> list[Pair]:
    return _layers(pairs)[-1:]


def _but_last(pairs: list[Pair]) -> list[Pair]:
    return _layers(pairs)[:-1] or _layers(pairs)


@final
class Objective(nn.Module):
    """The weighted sum of the losses on states, and what is learned for them.

    Args:
        weights: of each loss on states, by name.
        pairs: the layers that are matched.
        heads: relation heads; 0: `FINER` times as many as the teacher's layers have attention heads, where that divides all widths, else as many.
        levels: matched layers that the multi-level scheme takes; 0: all.
        hidden: the teacher's hidden units that the student has, None all.
        learned: whether the layers are matched anew in each batch.
    """

    def __init__(
        self, weights: Mapping[str, float], pairs: list[Pair], student: PenjingModel, teacher: PenjingModel, *, heads: int = 0, levels: int = 0,
        hidden: Sequence[int] | None = None, learned: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.weights, self.hidden, self.learned = dict(weights), hidden, learned
        self.taken = {name: LOSSES[name].takes(list(pairs)) for name in self.weights}
        if learned:
            self.taken["hidden"] = _layers(pairs)
        self.existing = {j for j, layer in enumerate(student.config.layers, start=1) if any(layer)}
        """The student's layers of which anything is left."""
        self.heads, self.head_width = heads or self._relation_heads(student, teacher), int(teacher.config.head_width)
        if "levels" in self.taken:
            if levels > len(self.taken["levels"]):
                raise InputError(
                    f"--levels: {levels} are more than the {len(self.taken['levels'])} that are matched; give at most as many, or match more,"
                    " as --layer-map 1:1,1:2,2:3,2:4"
                )
            self.taken["levels"] = spread(self.taken["levels"], levels)
        own, theirs = student.config.hidden_size, teacher.config.hidden_size
        if own != theirs and hidden is None and (set(weights) & NARROW):
            raise InputError(
                f"--losses: {', '.join(sorted(set(weights) & NARROW))} compare states of one width; the student has {own} hidden units and"
                f" the teacher {theirs}; take hidden, levels, relations, rkd-distance, rkd-angle or nst"
            )
        if "attention" in self.taken:
            self._check_heads(student, teacher)
        self.map = _identity(own, theirs) if "hidden" in self.taken else None
        self.adapters = nn.ModuleList(Adapter(own, theirs) for _ in self.taken.get("levels", ()))

    def _relation_heads(self, student: PenjingModel, teacher: PenjingModel) -> int:
        most = max((heads for heads, _ in teacher.config.layers), default=1)
        widths = [
            width_of(model, f"queries-{layer}")
            for pair in self.taken.get("relations", ())
            for model, layer in zip((student, teacher), pair, strict=True)
        ]
        return most if any(width % (FINER * most) for width in widths) else FINER * most

    def _check_heads(self, student: PenjingModel, teacher: PenjingModel) -> None:
        for j, i in self.taken["attention"]:
            a, b = student.config.layers[j - 1][0], teacher.config.layers[i - 1][0]
            if a != b or not a:
                raise InputError(
                    f"--losses: attention compares head with head; layer {j} of the student has {a} heads and layer {i} of the teacher {b};"
                    " take relations, which cut both into as many as you like"
                )

    @property
    def student_parts(self) -> list[str]:
        """What is read of the student."""
        return sorted({f"{kind}-{j}" for name, pairs in self.taken.items() for kind in LOSSES[name].reads for j, _ in pairs})

    @property
    def teacher_parts(self) -> list[str]:
        """What is read of the teacher."""
        return sorted({f"{kind}-{i}" for name, pairs in self.taken.items() for kind in LOSSES[name].reads for _, i in pairs})

    def forward(self, student: Parts, teacher: Parts, mask: Tensor) -> Tensor:
        """The sum over one batch; parts (B, S, W), or (B, H) of first tokens; mask (B, S)."""
        with torch.autocast(mask.device.type, enabled=False):
            terms = [weight * LOSSES[name].value(self, student, teacher, mask, self.taken[name]) for name, weight in self.weights.items()]
            return torch.stack(terms).sum()

    def units(self, g: Tensor) -> Tensor:
        """Of the teacher's hidden units those that the student has."""
        return g if self.hidden is None else g[..., list(self.hidden)]


class Adapter(nn.Module):
    """A multilayer perceptron with GELU beside a linear path, from the student's width to the teacher's.

    It starts as the identity where the widths are equal, so that equal states cost nothing; `feed` takes in the level before.
    """

    def __init__(self, own: int, theirs: int) -> None:
        super().__init__()
        self.path, self.up, self.down, self.feed = (
            _identity(own, theirs),
            nn.Linear(own, theirs),
            nn.Linear(theirs, theirs),
            nn.Linear(theirs, own),
        )
        for zero in (self.down, self.feed):
            nn.init.zeros_(zero.weight)
            nn.init.zeros_(zero.bias)

    def forward(self, h: Tensor, before: Tensor | None) -> Tensor:
        """(n, H), and what the level before gave (n, H') → (n, H')."""
        h = h if before is None else h + self.feed(before)
        return self.path(h) + self.down(F.gelu(self.up(h)))


def _identity(own: int, theirs: int) -> nn.Linear:
    linear = nn.Linear(own, theirs, bias=False)
    if own == theirs:
        nn.init.eye_(linear.weight)
    else:
        nn.init.normal_(linear.weight, std=own**-0.5)
    return linear


def spread(pairs: list[Pair], count: int) -> list[Pair]:
    """So many of the pairs, evenly spread, the last one always; 0: all."""
    if not count or count >= len(pairs):
        return pairs
    return [pairs[round((k + 1) * len(pairs) / count) - 1] for k in range(count)]


def _mean(terms: list[Tensor]) -> Tensor:
    return torch.stack(terms).mean()


def _per_pair(loss: Callable[[Tensor, Tensor], Tensor], kind: str = "states") -> Callable[..., Tensor]:
    """The mean over the pairs of a loss between real tokens' states (n, H), or between first tokens' (B, H)."""

    def value(objective: Objective, student: Parts, teacher: Parts, mask: Tensor, pairs: list[Pair]) -> Tensor:
        terms = []
        for j, i in pairs:
            h, g = student[f"{kind}-{j}"], objective.units(teacher[f"{kind}-{i}"])
            terms.append(loss(h.float(), g) if kind == "first" else loss(h[mask].float(), g[mask]))
        return _mean(terms)

    return value


def _hidden(objective: Objective, student: Parts, teacher: Parts, mask: Tensor, pairs: list[Pair]) -> Tensor:
    """Through a learned linear map, one for all layers and the embeddings (Jiao et al. 2020, equations 8 and 9, where they have two).

    With a learned layer map each of the teacher's layers takes the nearest of the student's existing ones; the embeddings are neither
    candidates nor targets (Xia et al. 2022, section 3.2: CoFi).
    """
    assert objective.map is not None
    mapped = {j: objective.map(student[f"states-{j}"][mask].float()) for j, _ in pairs}
    if not objective.learned:
        return _mean([losses.mse(mapped[j], teacher[f"states-{i}"][mask]) for j, i in pairs])
    terms, candidates = [], [h for j, h in mapped.items() if j in objective.existing] or list(mapped.values())
    for i in {i for _, i in pairs}:
        g = teacher[f"states-{i}"][mask]
        terms.append(torch.stack([losses.mse(h, g) for h in candidates]).min())
    return _mean(terms)


def _levels(objective: Objective, student: Parts, teacher: Parts, mask: Tensor, pairs: list[Pair]) -> Tensor:
    """The mean of the levels' errors, each through its adapter, which is given what the level before gave."""
    before, terms = None, []
    for adapter, (j, i) in zip(objective.adapters, pairs, strict=True):
        before = adapter(student[f"states-{j}"][mask].float(), before)
        terms.append(losses.mse(before, teacher[f"states-{i}"][mask]))
    return _mean(terms)


def _attention(objective: Objective, student: Parts, teacher: Parts, mask: Tensor, pairs: list[Pair]) -> Tensor:
    terms = []
    for j, i in pairs:
        heads = teacher[f"queries-{i}"].shape[-1] // objective.head_width
        a = losses.scores(student[f"queries-{j}"].float(), student[f"keys-{j}"].float(), heads)
        b = losses.scores(teacher[f"queries-{i}"], teacher[f"keys-{i}"], heads)
        terms.append(losses.attention_mse(a, b, mask))
    return _mean(terms)


def _relations(objective: Objective, student: Parts, teacher: Parts, mask: Tensor, pairs: list[Pair]) -> Tensor:
    terms = []
    for j, i in pairs:
        for kind in ("queries", "keys", "values"):
            h, g = student[f"{kind}-{j}"].float(), teacher[f"{kind}-{i}"]
            if h.shape[-1] % objective.heads or g.shape[-1] % objective.heads:
                raise InputError(
                    f"--relation-heads: {objective.heads} does not divide {h.shape[-1]} (student) and {g.shape[-1]} (teacher); give a divisor"
                )
            terms.append(losses.relation_kl(h, g, mask, objective.heads))
    return _mean(terms)


def _flows(objective: Objective, student: Parts, teacher: Parts, mask: Tensor, pairs: list[Pair]) -> Tensor:
    terms = []
    for (a, c), (b, d) in pairwise(pairs):
        h = (student[f"states-{a}"].float(), student[f"states-{b}"].float())
        g = (objective.units(teacher[f"states-{c}"]), objective.units(teacher[f"states-{d}"]))
        terms.append(losses.fsp(h, g, mask))
    return _mean(terms)


def _statistics(objective: Objective, student: Parts, teacher: Parts, mask: Tensor, pairs: list[Pair]) -> Tensor:
    return _mean([losses.nst(student[f"states-{j}"].float(), teacher[f"states-{i}"], mask) for j, i in pairs])


LOSSES: dict[str, StateLoss] = {
    "states": StateLoss(("states",), _every, _per_pair(losses.state_mse)),
    "tokens": StateLoss(("states",), _every, _per_pair(losses.mse)),
    "hidden": StateLoss(("states",), _with_embeddings, _hidden),
    "cosine": StateLoss(("states",), _last, _per_pair(losses.cosine)),
    "first": StateLoss(("first",), _but_last, _per_pair(losses.patient, "first")),
    "attention": StateLoss(("queries", "keys"), _layers, _attention),
    "relations": StateLoss(("queries", "keys", "values"), _last, _relations),
    "levels": StateLoss(("states",), _with_embeddings, _levels),
    "rkd-distance": StateLoss(("first",), _last, _per_pair(losses.rkd_distance, "first")),
    "rkd-angle": StateLoss(("first",), _last, _per_pair(losses.rkd_angle, "first")),
    "fsp": StateLoss(("states",), _with_embeddings, _flows),
    "nst": StateLoss(("states",), _every, _statistics),
}
"""states: normalised by the teacher's. tokens: plain (ZipLM). hidden: through a learned linear map (TinyBERT; CoFi with a learned layer
map). cosine: of the last layer (DistilBERT). first: normalised first tokens, all matched layers but the last (PKD). attention: scores
(TinyBERT). relations: of queries, keys and values of the last layer (MiniLMv2). levels: the multi-level scheme. rkd: relations between
texts. fsp: flow between layers. nst: statistics of the units."""
NARROW = frozenset({"states", "tokens", "cosine", "first", "fsp"})
"""Losses that compare states unit by unit."""
