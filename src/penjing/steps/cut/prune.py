"""Cut heads, neurons, layers and hidden units: what each is worth (observe), which go (plan, injected), the cut and its repair (apply)."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import final, get_args

import numpy as np

from penjing.blueprint import Blueprint
from penjing.errors import InputError
from penjing.model.checkpoint import blueprint_of
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.model.surgery import cut
from penjing.selection import Selection
from penjing.steps.cut import gates
from penjing.steps.cut.criteria import IMPORTANCE, Criterion
from penjing.steps.cut.importance import Importance
from penjing.steps.cut.repair import Reconstruction, Repair, repair
from penjing.steps.step import Step
from penjing.tasks.task import Examples, Task
from penjing.text.encoded import Encoded
from penjing.training.predict import divergence_of, logits_of

ORDER_TEXTS = 256
"""Texts at most that the order of the layers is found on: every layer left is tried each time."""


KEEP = ("measured", "uniform", "first", "last")
"""Which layers a shallower model keeps."""


@dataclass(frozen=True)
class PruneSettings:
    """What is cut, by what importance, on how many training texts; where nothing is asked, the budget decides what is cut.

    macs, latency: the part of the encoder's multiply-accumulates, or of the measured latency, that is kept.
    heads, neurons, blocks (attention or feed-forward, whole), hidden: the part of them that is kept. layers: how many are kept.
    vocabulary: the part of the tokens that is kept; 0: every token that the texts produce.
    per_layer: so much of every layer, rather than of all layers together.
    repair: weights (least squares), scales (one factor per head and neuron), none.
    head_weights: afterwards, learn a weight per head and fold it in.
    """

    texts: int = 1000
    importance: str = "fisher"
    repair: str = "weights"
    macs: float | None = None
    latency: float | None = None
    heads: float | None = None
    neurons: float | None = None
    blocks: float | None = None
    layers: int | None = None
    hidden: float | None = None
    vocabulary: float | None = None
    per_layer: bool = False
    head_weights: bool = False
    keep: str = "measured"

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("importance", self.importance, tuple(IMPORTANCE)),
            ("repair", self.repair, get_args(Repair)),
            ("keep", self.keep, KEEP),
        ):
            if value not in allowed:
                raise InputError(f"--{name}: {value!r} is none; allowed are {', '.join(allowed)}")
        for name in ("macs", "latency", "heads", "neurons", "blocks", "hidden", "vocabulary"):
            value = getattr(self, name)
            if value is not None and not (0 < value <= 1 or (value == 0 and name in ("heads", "neurons", "vocabulary"))):
                raise InputError(
                    f"--{name.replace('vocabulary', 'vocab')}: {value} is out of range; give the part that is kept, above 0 and at most 1"
                )
        if self.layers is not None and (self.layers < 1 or type(self.layers) is not int):
            raise InputError(f"--layers: {self.layers} is out of range; give how many layers are kept, at least 1")
        if self.limited and (self.heads is not None or self.neurons is not None):
            raise InputError("--heads, --neurons: --macs or --latency says how much is cut in all; give those, or these")
        if self.hidden is not None and self.importance == "gates":
            raise InputError("--hidden: --importance gates scores heads and neurons alone; give another, such as fisher")
        if self.macs is not None and self.latency is not None:
            raise InputError("--macs, --latency: two limits on the cost; give one")
        if self.latency is not None and self.hidden is not None:
            raise InputError("--latency, --hidden: blocks are timed at the width that the model has; cut the hidden units in a run before")

    @property
    def limited(self) -> bool:
        """Whether a limit on the cost is set here."""
        return self.macs is not None or self.latency is not None

    @property
    def cuts(self) -> bool:
        """Whether it is said here what of the encoder is cut."""
        return any(getattr(self, name) is not None for name in ("macs", "latency", "heads", "neurons", "blocks", "layers", "hidden"))


def criterion(settings: PruneSettings) -> Criterion:
    """The function of the importance that is named; gates are learned for the part that is asked."""
    if settings.importance == "gates" and settings.macs:
        return partial(gates.learned_gates, part=settings.macs)
    return IMPORTANCE[settings.importance]


@final
class Prune(Step[Importance, Selection]):
    """Structured pruning.

    `criterion` says what each part is worth, `choose` turns a blueprint and that into the selection that is kept (all of it,
    unless given: `search` makes plans), and what is left is repaired on the texts of `calibration` by `method`. It is also found which `removed` layers are missed least (None:
    their whole order).
    """

    name = "prune"

    def __init__(
        self, task: Task, criterion: Criterion, calibration: Encoded, method: Repair = "weights", removed: int | None = None, seed: int = 0,
        choose: Callable[[Blueprint, Importance], Selection] = lambda blueprint, _: Selection.all(blueprint),
    ) -> None:  # fmt: skip
        self.task, self.criterion, self.choose, self.calibration = task, criterion, choose, calibration
        self.method: Repair = method
        self.removed, self.seed = removed, seed
        self.reconstruction: Reconstruction | None = None

    def observe(self, model: PenjingPreTrainedModel, data: Examples) -> Importance:
        importance = self.criterion(model, self.task, data, self.seed)
        if self.removed == 0:
            return importance
        few = data.take(np.sort(np.random.default_rng(self.seed).permutation(len(data))[:ORDER_TEXTS]))
        return replace(importance, removed=least_missed_layers(model, few, self.removed))

    def plan(self, blueprint: Blueprint, evidence: Importance) -> Selection:
        return self.choose(blueprint, evidence)

    def apply(self, model: PenjingPreTrainedModel, plan: Selection, evidence: Importance) -> PenjingPreTrainedModel:
        result, self.reconstruction = repair(cut(model, plan), model, plan, self.calibration, self.method)
        return result


def least_missed_layers(model: PenjingPreTrainedModel, data: Examples, count: int | None = None) -> list[int]:
    """`count` layers (None: all but one) in the order in which leaving them out changes the model's answers least, greedily.

    Each time the layer goes whose absence gives the smallest KL divergence from the whole model's answers.
    """
    blueprint = blueprint_of(model)
    whole = Selection.all(blueprint)
    reference = logits_of(model, data.encoded)
    kept = list(range(len(blueprint.layers)))
    removed: list[int] = []
    while len(kept) > 1 and len(removed) != count:
        divergence = {
            layer: divergence_of(cut(model, Selection(tuple(whole.layers[i] for i in kept if i != layer))), data, reference)
            for layer in kept
        }
        removed.append(min(kept, key=lambda layer: divergence[layer]))
        kept.remove(removed[-1])
    return removed
