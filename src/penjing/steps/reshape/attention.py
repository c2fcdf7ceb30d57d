"""Cheaper attention: windows, pooled keys and values, or fixed heads in place of attention from every token to every token."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast, final, get_args

import torch
from torch import Tensor

from penjing.blueprint import Blueprint, Layer
from penjing.errors import InputError
from penjing.files.options import option
from penjing.maths.patterns import features_of, fit_pattern
from penjing.model.building import blueprint_of, build
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.model.run import GRADIENT_TOKENS, batches
from penjing.model.watch import own_layers, watching_inputs
from penjing.selection import Selection
from penjing.steps.cut.repair import repair
from penjing.steps.settings import REWRITES, Effects, Settings, Trait, check_name, effects
from penjing.steps.stage import ApplyStep, Stage
from penjing.steps.step import Step
from penjing.tasks.task import Examples
from penjing.text.encoded import Encoded

Form = Literal["window", "low-rank", "fixed"]
Mend = Literal["weights", "none"]
"""The repair of a layer that computes something else: its closing layers by least squares, or nothing."""
BATCH = 32
"""The largest number of texts in a batch."""


def chosen_layers(text: str, blueprint: Blueprint) -> tuple[int, ...]:
    """The numbers of layers, from 0, that a text like "1-3,6" names, from 1, and of those that share their weights; "": all layers."""
    count = len(blueprint.layers)
    named: set[int] = set()
    for part in text.split(",") if text else [f"1-{count}"] if count else []:
        first, _, last = part.strip().partition("-")
        if not (first.isdecimal() and (last or first).isdecimal() and 1 <= int(first) <= int(last or first) <= count):
            raise InputError(f"layers: {text!r} names no layers of 1 to {count}; give numbers and ranges, as 1-3,6")
        named.update(range(int(first) - 1, int(last or first)))
    return tuple(i for i in range(count) if any(j in named for j in blueprint.sharing(blueprint.owner(i))))


def with_weights(model: PenjingPreTrainedModel, plan: Blueprint, **new: Tensor) -> PenjingPreTrainedModel:
    """A model of the plan with the weights that it and `model` both have, and the new ones, by name without `encoder.`."""
    result = build(plan, model.config)
    place = "" if plan.head.bare else "encoder."
    state = {name: value for name, value in model.state_dict().items() if name in result.state_dict()}
    result.load_state_dict(result.state_dict() | state | {f"{place}{name}": value for name, value in new.items()})
    return result.train(model.training)


@final
@dataclass(frozen=True)
class AttentionSettings(Settings):
    """Settings of cheaper attention. layers: which, as "1-3,6"; "": all. repair: before any training."""

    name = "attention"
    paper = "Beltagy et al. 2020 (window); Wang et al. 2020 (low-rank); Raganato et al. 2020, You et al. 2020 (fixed)"
    when = "Where texts are long (low-rank), or a layer looks at places rather than at words (fixed). Distil afterwards, and measure."

    form: str = option("low-rank", "What takes the place of attention from every token to every token.", allowed=get_args(Form))
    span: int = option(32, "Tokens that a window sees on either side; rows that are pooled to; offsets of a pattern.", least=1)
    layers: str = option("", "Which layers, as 1-3,6; all where it is left out.")
    repair: str = option("weights", "Before any training: the closing layers by least squares.", allowed=get_args(Mend))
    texts: int = option(500, "Training texts that patterns and repair look at.", least=1)

    def __post_init__(self) -> None:
        check_name("form", self.form, get_args(Form))
        check_name("repair", self.repair, get_args(Mend))
        if self.span < 1:
            raise InputError(f"span: {self.span} is not allowed; give at least 1")

    def effects(self, taught: bool) -> Effects:
        return effects(makes=[Trait.CUTS], undoes=list(REWRITES))

    def stages(self, recipe: Sequence[Settings]) -> Sequence[Stage[Any]]:
        return [ApplyStep(Attention(cast(Form, self.form), self.span, self.layers, cast(Mend, self.repair)), self.texts)]

    @property
    def cuts(self) -> bool:
        return True


@dataclass(frozen=True)
class Maps:
    """What was observed. features: of the maps of each layer with weights of its own, summed over the texts (`features_of`); texts: the
    texts themselves; counts: how many there are of each length."""

    texts: Encoded
    features: Mapping[int, Tensor] = field(default_factory=dict)
    counts: Mapping[int, int] = field(default_factory=dict)


@final
class Attention(Step[Maps, Blueprint]):
    """The step of cheaper attention: layers with full attention get another form of it.

    A window takes the weights as they are. Low-rank pooling starts with each row holding every `span`-th token, so that texts of at most
    `span` tokens are answered as before. Fixed heads start from the pattern nearest to their own average map, in the sense of KL
    divergence. With repair, the matrices that close the blocks are then refitted to the model's own states.
    """

    name = "attention"

    def __init__(self, form: Form, span: int, layers: str = "", mend: Mend = "weights") -> None:
        self.form: Form = form
        self.span = span
        self.layers = layers
        self.mend: Mend = mend

    @torch.no_grad()
    def observe(self, model: PenjingPreTrainedModel, data: Examples) -> Maps:
        """The texts, and for fixed heads the features of the maps that they give."""
        maps = Maps(data.encoded)
        if self.form != "fixed":
            return maps
        blueprint = blueprint_of(model)
        layers = own_layers(model)
        chosen = [i for i in chosen_layers(self.layers, blueprint) if i in layers and self._takes(blueprint.layers[i])]
        features: dict[int, Tensor] = {}

        def look(i: int, x: Tensor) -> None:
            seen = features_of(layers[i].attention.map(x), self.span)
            features[i] = features[i] + seen if i in features else seen

        with watching_inputs(((i, layers[i].attention) for i in chosen), look):
            for _, feeds in batches(model, data.encoded, BATCH, GRADIENT_TOKENS):
                model(**feeds)
        times = {i: len(blueprint.sharing(i)) for i in chosen}  # a layer that others share has run so often
        counts = Counter(int(length) for length in data.encoded.lengths)
        return replace(maps, features={i: total / times[i] for i, total in features.items()}, counts=dict(counts))

    def plan(self, blueprint: Blueprint, evidence: Maps) -> Blueprint:
        """The blueprint with the other attention; an `InputError` where a layer has another form already, or drops tokens."""
        layers = list(blueprint.layers)
        for i in chosen_layers(self.layers, blueprint):
            if not layers[i].heads:
                continue
            if not self._takes(layers[i]):
                what = "drops tokens" if layers[i].tokens < 100 else f"has {layers[i].attention} attention"
                raise InputError(f"layers: layer {i + 1} {what}; only full attention that keeps all tokens takes another form")
            layers[i] = replace(layers[i], attention=self.form, span=self.span)
        return blueprint.with_layers(tuple(layers))

    @torch.no_grad()
    def apply(self, model: PenjingPreTrainedModel, plan: Blueprint, evidence: Maps) -> PenjingPreTrainedModel:
        """The model of the plan."""
        patterns = {
            f"layers.{i}.attention.pattern": fit_pattern(features, evidence.counts)
            for i, features in evidence.features.items()
            if plan.layers[i].attention == "fixed"
        }
        result = with_weights(model, plan, **patterns)
        return mended(result, model, evidence.texts, self.mend)

    def _takes(self, layer: Layer) -> bool:
        return layer.heads > 0 and layer.attention == "full" and layer.tokens == 100


def mended(result: PenjingPreTrainedModel, model: PenjingPreTrainedModel, texts: Encoded, method: Mend) -> PenjingPreTrainedModel:
    """A model of the same sizes as `model`, its closing layers refitted to it; as it is where `method` is none."""
    if method == "none":
        return result
    return repair(result, model, Selection.all(blueprint_of(model)), texts, method)[0].train(model.training)
