"""Distillation by name: each preset as its paper says it, on the student that its paper starts from."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from penjing.errors import InputError
from penjing.job.recipe import Recipe
from penjing.steps.cut.prune import PruneSettings
from penjing.steps.teach.distill import DistillSettings
from penjing.training.loop import Schedule
from penjing.training.objective import HARD, LOSSES
from penjing.training.texts import TextSettings


@dataclass(frozen=True)
class Preset:
    """The losses and their weights, and what else differs from `DistillSettings`.

    keep: which of the teacher's layers the student starts from. student: what it is where it is no BERT. rate, epochs: of its training. copies: changed ones of each text, where the teacher answers and nothing is
    said of it.
    """

    losses: Mapping[str, float]
    changes: Mapping[str, Any] = field(default_factory=dict)
    keep: str = "uniform"
    student: str = ""
    rate: float = 1e-4
    epochs: int = 3
    copies: int = 0


PRESETS = {
    "states": Preset(DistillSettings().losses),
    "labels": Preset({"hard": 1.0}),
    "hinton": Preset({"kl": 0.5, "hard": 0.5}, {"temperature": 2.0}),
    "distilbert": Preset({"kl": 5.0, "hard": 2.0, "cosine": 1.0}, {"temperature": 2.0, "layer_map": "uniform", "states_first": 0.0}),
    "pkd": Preset({"kl": 0.5, "hard": 0.5, "first": 100.0}, {"temperature": 10.0, "layer_map": "uniform", "states_first": 0.0}, "first"),
    "tinybert": Preset({"cross-entropy": 1.0, "attention": 1.0, "hidden": 1.0}, {"layer_map": "uniform", "states_first": 0.6}),
    "minilm": Preset({"kl": 1.0, "relations": 1.0}, {"layer_map": "uniform", "states_first": 0.5}),
    "cofi": Preset({"kl": 1.0, "hidden": 1.0}, {"temperature": 2.0, "layer_map": "learned", "states_first": 0.0}),
    "levels": Preset({"kl": 1.0, "levels": 1.0}, {"temperature": 2.0, "layer_map": "uniform", "states_first": 0.0}),
    "bilstm": Preset({"mse": 1.0}, student="bilstm", rate=1e-3, epochs=10),
    "logistic": Preset({"kl": 1.0}, student="logistic", copies=2),
    "trees": Preset({"kl": 1.0}, student="trees"),
    "static": Preset({"kl": 1.0}, student="static", copies=2),
}
"""states: ours, TinyBERT's without attention and learned map: every matched layer's states in proportion to the teacher's own size, first
alone, then the answers alone. labels: no teacher, the rival of all others. hinton: Hinton et al. 2015. distilbert: Sanh et al. 2019, the
weights of its published training. pkd: Sun et al. 2019, T, α and β from the middle of their grids. tinybert: Jiao et al. 2020, states first, then
answers; with plain text its general stage before. minilm: Wang et al. 2021 (MiniLMv2), relations first, then answers. cofi: the losses
of Xia et al. 2022. levels: the multi-level scheme. The others are no BERT: bilstm: Tang et al. 2019; logistic regression and boosted trees
on n-grams; static embeddings, in the manner of Model2Vec."""


def distilling(
    preset: str, epochs: int | None, rate: float | None, losses: str | None, changes: Mapping[str, Any], kept: Mapping[str, Any],
    keep: str | None, texts: TextSettings, copies: int | None = None, *, given_student: bool,
) -> Recipe:  # fmt: skip
    """The recipe of one `penjing distill`, in float32.

    Args:
        epochs, rate: None as the preset says.
        losses: names and weights as text, in place of the preset's.
        changes: of `DistillSettings`, beside the preset's.
        kept: the parts and counts of `PruneSettings` that the student has of the teacher.
        keep: which layers; None as the preset says.
        copies: changed ones of each text; None as the texts or the preset say.
    """
    chosen = PRESETS.get(preset)
    if chosen is None:
        raise InputError(f"--preset: {preset!r} is none; allowed are {', '.join(PRESETS)}")
    if chosen.student and (kept or keep or given_student):
        raise InputError(f"--preset: {preset} is no BERT; leave out --layers, --heads, --neurons, --hidden, --keep and --student")
    if chosen.student not in ("", "bilstm") and (epochs or rate is not None):
        raise InputError(f"--preset: {preset} is fitted, not trained by epochs; leave out --epochs and --learning-rate")
    if not (chosen.student or kept or given_student):
        raise InputError("distill: the student would be the teacher itself; give --layers, or --student for one to start from")
    if given_student and (kept or keep):
        raise InputError("--student: it is taken as it is; leave out --layers, --heads, --neurons, --hidden and --keep")
    taught = chosen.losses if losses is None else weights_of(losses)["losses"]
    own = dict(chosen.changes)
    if losses is not None and not (set(taught) & set(LOSSES) and set(taught) - set(LOSSES)):
        own.pop("states_first", None)  # of both, and one of them is not taught
    for name, of in (
        ("relation_heads", ["relations"]), ("levels", ["levels"]), ("alpha", ["kl-entropy"]), ("layer_map", LOSSES),
        ("temperature", ["kl", "cross-entropy", "kl-entropy"]),
    ):  # fmt: skip
        if name in changes and not set(of) & set(taught):
            raise InputError(f"--{name.replace('_', '-')}: it goes with {', '.join(of)}, which is not taught; give that with --losses too")
    schedule = Schedule(epochs=epochs or chosen.epochs, learning_rate=chosen.rate if rate is None else rate, patience=100)
    settings = DistillSettings(schedule, **({"losses": chosen.losses} | own | weights_of(losses) | dict(changes)))
    if copies is None:
        copies = texts.copies or (chosen.copies if set(settings.answers) != {HARD} else 0)
    texts, prune = replace(texts, copies=copies), None
    if kept:
        fine = {"heads", "neurons", "hidden"} & set(kept)  # whole layers need neither a score that is dear nor a repair
        importance, repair = ("fisher", "weights") if fine else ("magnitude", "none")
        prune = PruneSettings(keep=keep or chosen.keep, importance=importance, repair=repair, **kept)
    return Recipe(
        prune=prune, texts=texts if texts != TextSettings() else None, distill=settings, quantize=None, student=chosen.student
    )  # fmt: skip


def weights_of(losses: str | None) -> dict[str, Any]:
    """Settings from "kl=1,hidden=0.5"; nothing where nothing is given."""
    if losses is None:
        return {}
    try:
        pairs = [each.split("=") for each in losses.split(",")]
        return {"losses": {name.strip(): float(weight) for name, weight in pairs}}
    except ValueError as error:
        raise InputError(f"--losses: {losses!r} is none; give names and weights as kl=1,hidden=0.5") from error
