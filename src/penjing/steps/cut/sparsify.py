"""Unstructured pruning: single weights set to zero, at once without data or by masks during distillation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast, final

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from penjing.blueprint import Blueprint
from penjing.errors import InputError
from penjing.files.options import option
from penjing.maths.sparsity import SCOPES, cosine_decay, cubic_sparsity, iterative_sparsity, keep_mask
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.model.surgery import copy_of
from penjing.model.watch import encoder_of, linear_layers
from penjing.steps.settings import Effects, Settings, Trait, effects, is_taught
from penjing.steps.stage import Context, Note, Stage, Work, loaded
from penjing.steps.teach.distill import Distill
from penjing.steps.teach.distillation import Rider
from penjing.steps.teach.training import TrainingStep
from penjing.tasks.task import Examples
from penjing.training.lesson import TeachingEvidence
from penjing.training.loop import Hooks
from penjing.training.taught import Taught

IMPORTANCES = ("magnitude", "random", "movement", "regrow")
UNTRAINED = ("magnitude", "random")
"""Importances that need no training."""
SCHEDULES = ("one-shot", "iterative", "gradual")
MOMENTUM = 0.9
"""Decay of the exponential average of the gradient at each step, for `regrow`."""
TIE_BREAK = 1e-6
"""Movement scores start at this multiple of |w|: before anything is learned the ranking is that of the magnitudes."""

Matrix = nn.Linear | nn.Embedding


@dataclass(frozen=True)
class SparsifySettings(Rider):
    """Settings of unstructured pruning: how many weights become zero, which, and when.

    sparsity: part of the weights that is zero at the end.
    importance: what ranks the weights. `magnitude` |w| (Han et al. 2015, section 3); `random`; `movement` a learned score
        (Sanh et al. 2020, section 4); `regrow` |w| of those kept, a part of which moves each time to where the average gradient is
        largest (Dettmers & Zettlemoyer 2019; Evci et al. 2020).
    scope: what shares a threshold: `global`, `layer` (each matrix) or `row` (each output).
    schedule: `one-shot` before the first step, `iterative` in `rounds` rounds, `gradual` by a cubic curve.
    every: steps between updates of the masks.
    start, end: parts of the training between which the sparsity rises, and until which `regrow` moves weights.
    regrow: part of the kept weights that moves at each update, falling to 0 by a cosine.
    embeddings: also the word embedding table.
    """

    name = "sparsify"
    paper = "Han et al. 2015; Sanh et al. 2020 (movement); Evci et al. 2020 (regrow)"
    when = "Where the bytes on disk count, and not the speed: the engines multiply by zeros too."
    teaching = "sparsify"

    sparsity: float = option(0.9, "Part of the single weights that becomes zero.")
    importance: str = option("magnitude", "What ranks the weights.", allowed=IMPORTANCES)
    scope: str = option("global", "What shares a threshold.", allowed=SCOPES)
    schedule: str = option("gradual", "When they become zero.", allowed=SCHEDULES)
    rounds: int = option(4, "Of the schedule iterative.", least=1)
    every: int = option(20, "Steps between updates of the masks.", least=1)
    start: float = 0.0
    end: float = 0.7
    regrow: float = 0.3
    embeddings: bool = option(False, "With `sparsity`: the word embedding's weights too.")

    def __post_init__(self) -> None:
        for name, allowed in (("importance", IMPORTANCES), ("scope", SCOPES), ("schedule", SCHEDULES)):
            if getattr(self, name) not in allowed:
                raise InputError(f"{name}: {getattr(self, name)!r} is none; allowed are {', '.join(allowed)}")
        if not 0 <= self.sparsity < 1:
            raise InputError(f"sparsity: {self.sparsity} is out of range; give the part that becomes zero, from 0 to below 1")
        for name in ("rounds", "every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: {getattr(self, name)} is out of range; give at least 1")
        if not 0 <= self.start <= self.end <= 1:
            raise InputError(f"start, end: {self.start}, {self.end} are out of range; give parts of the training, 0 ≤ start ≤ end ≤ 1")
        if not 0 <= self.regrow <= 1:
            raise InputError(f"regrow: {self.regrow} is out of range; give the part of the kept weights that moves, from 0 to 1")

    def effects(self, taught: bool) -> Effects:
        """Effects: it takes the training over; magnitude and random at once need no training."""
        untrained = self.schedule == "one-shot" and self.importance in UNTRAINED
        if taught or not untrained:
            return effects(needs=[Trait.ENCODER, Trait.TRAINING], takes=[Trait.TRAINING], makes=[Trait.ZEROS])
        return effects(makes=[Trait.ZEROS], undoes=[Trait.CODES, Trait.RANGES])

    def stages(self, recipe: Sequence[Settings]) -> Sequence[Stage[Any]]:
        return [] if is_taught(recipe) else [SparsifyAtOnce(self)]

    @property
    def cuts(self) -> bool:
        return True

    def limits(self) -> Mapping[str, float]:
        return {"sparsity": self.sparsity}

    def around(self, distill: Distill, work: Work, context: Context) -> "Sparsify":
        """The step that masks weights around `distill`."""
        return Sparsify(distill, self)

    def sparsity_after(self, step: float, total: float) -> float:
        """The scheduled sparsity once `step` of `total` steps are done."""
        if self.schedule == "one-shot":
            return self.sparsity
        if self.schedule == "iterative":
            return iterative_sparsity(step, total, self.start, self.end, self.rounds, self.sparsity)
        return cubic_sparsity(step, total, self.start, self.end, 0.0, self.sparsity)


# -- without data ------------------------------------------------------------------------------------------------


def masked_modules(model: PenjingPreTrainedModel, embeddings: bool = False) -> list[Matrix]:
    """The modules whose `weight` is pruned: every linear layer of the encoder's layers, and the word embedding where wanted."""
    linear: list[Matrix] = [layer for name, layer in linear_layers(model).items() if name.startswith("layers.")]
    return [encoder_of(model).embeddings.word, *linear] if embeddings else linear


def sparsity_of(model: PenjingPreTrainedModel, embeddings: bool = False) -> float:
    """The sparsity of a model: the part of the prunable weights that is zero; 0 where it has none."""
    weights = [m.weight for m in masked_modules(model, embeddings)]
    return sum(int((w == 0).sum()) for w in weights) / max(1, sum(w.numel() for w in weights))


def sparsity_for(blueprint: Blueprint, size: float, embeddings: bool = False) -> float:
    """The sparsity at which a model of this blueprint is stored in `size` bytes: a bitmap and the values left of each matrix.

    Raises:
        InputError: the weights that stay dense are larger.
    """
    layers = blueprint.with_layers(())
    weights = blueprint.matrices - layers.matrices + (blueprint.vocabulary * blueprint.word_width if embeddings else 0)
    left = size - 4 * (blueprint.parameters - weights) - weights / 8
    if left <= 0:
        least = (4 * (blueprint.parameters - weights) + weights / 8) / 1e6
        raise InputError(
            f"stored_mb: {size / 1e6:g} is below what stays dense, {least:.1f} MB; give more, or cut `embeddings` or `vocab` too"
        )
    return max(0.0, 1 - left / (4 * weights))


@torch.no_grad()
def sparsify(model: PenjingPreTrainedModel, settings: SparsifySettings, seed: int = 0) -> PenjingPreTrainedModel:
    """A new model with the least important weights at zero, at once and without data; `seed` draws what `random` removes."""
    if settings.importance not in UNTRAINED:
        raise InputError(f"importance: {settings.importance!r} is found in training; without it, allowed are {', '.join(UNTRAINED)}")
    result = copy_of(model)
    weights = [m.weight for m in masked_modules(result, settings.embeddings)]
    masks = keep_mask(fixed_scores(weights, settings.importance, seed), settings.sparsity, settings.scope)
    for w, mask in zip(weights, masks, strict=True):
        w.copy_(torch.where(mask, w, 0.0))
    return result


def fixed_scores(weights: list[Tensor], importance: str, seed: int) -> list[Tensor]:
    """Importance scores that need no training: |w|, or for `random` numbers drawn from the seed."""
    if importance == "magnitude":
        return [w.abs() for w in weights]
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(w.shape, generator=generator).to(w.device) for w in weights]


# -- in training -------------------------------------------------------------------------------------------------


@final
class Mask(nn.Module):
    """A parametrization of one weight: the weight where it is kept, else zero. Its whole state is in the state dict.

    The dense weight stays underneath. Where it is masked its gradient is zero, so only weight decay (and what is left of the
    optimizer's momentum) moves it.
    """

    mask: Tensor
    sparsity: Tensor
    momentum: Tensor | None

    def __init__(self, weight: Tensor, importance: str) -> None:
        super().__init__()
        self.register_buffer("mask", torch.ones_like(weight, dtype=torch.bool))
        self.register_buffer("sparsity", torch.zeros((), dtype=torch.float64))
        self.register_buffer("momentum", torch.zeros_like(weight) if importance == "regrow" else None)
        self.scores = nn.Parameter(TIE_BREAK * weight.detach().abs()) if importance == "movement" else None

    def forward(self, weight: Tensor) -> Tensor:
        """The masked weight W' = W ⊙ M; ∂L/∂S = ∂L/∂W' ⊙ W, straight through the ranking (Sanh et al. 2020, equations 2 and 3)."""
        effective = torch.where(self.mask, weight, 0.0)
        if self.scores is not None:
            effective = effective + (self.scores - self.scores.detach()) * weight.detach()
        if self.momentum is not None and effective.requires_grad:
            effective.register_hook(self.average)
        return effective

    def average(self, gradient: Tensor) -> None:
        """Add the dense gradient ∂L/∂W' to its exponential average."""
        assert self.momentum is not None
        self.momentum.lerp_(gradient, 1 - MOMENTUM)


@final
class Masking:
    """The masks of a model in training: registered by the constructor, updated by `before_step`, made permanent by `finish`."""

    def __init__(self, model: PenjingPreTrainedModel, settings: SparsifySettings, seed: int) -> None:
        self.settings = settings
        self.seed = seed
        self.matrices = masked_modules(model, settings.embeddings)
        self.masks = [Mask(m.weight, settings.importance) for m in self.matrices]
        for matrix, mask in zip(self.matrices, self.masks, strict=True):
            parametrize.register_parametrization(matrix, "weight", mask)

    @property
    def reached(self) -> float:
        """The sparsity of the present masks."""
        return next((float(m.sparsity) for m in self.masks), self.settings.sparsity)

    def before_step(self, step: int, total: int) -> None:
        """Update the masks on schedule: every `every` steps while anything moves, and at the step that reaches the final sparsity."""
        settings = self.settings
        reached = self.reached
        wanted = settings.sparsity_after(step + 1, total)
        # Before the first step there is no gradient yet to regrow by.
        moved = cosine_decay(step, settings.end * total, settings.regrow) if settings.importance == "regrow" and step else 0.0
        moving = wanted != reached or settings.importance == "movement" or moved > 0
        if (moving and step % settings.every == 0) or (wanted == settings.sparsity != reached):
            self.update(wanted, moved)

    @torch.no_grad()
    def update(self, sparsity: float, moved: float = 0.0) -> None:
        """Set the masks to a sparsity; for `regrow`, the part `moved` of the kept weights moves to new places, starting at zero."""
        scope = self.settings.scope
        weights: list[Tensor] = [cast(Any, m).parametrizations.weight.original for m in self.matrices]
        if self.settings.importance == "regrow":
            scores = [torch.where(m.mask, w.abs(), -1.0) for w, m in zip(weights, self.masks, strict=True)]
            held = keep_mask(scores, sparsity + (1 - sparsity) * moved, scope)
            gradients = [cast(Tensor, m.momentum).abs() for m in self.masks]
            kept = keep_mask([torch.where(h, torch.inf, g) for h, g in zip(held, gradients, strict=True)], sparsity, scope)
            for w, m, k in zip(weights, self.masks, kept, strict=True):
                w.masked_fill_(k & ~m.mask, 0.0)
        elif self.settings.importance == "movement":
            kept = keep_mask([cast(Tensor, m.scores) for m in self.masks], sparsity, scope)
        else:
            kept = keep_mask(fixed_scores(weights, self.settings.importance, self.seed), sparsity, scope)
        for m, k in zip(self.masks, kept, strict=True):
            m.mask.copy_(k)
            m.sparsity.fill_(sparsity)

    def finish(self) -> None:
        """Leave plain weights of exactly the sparsity asked, also where the training stopped before it was reached."""
        if self.reached != self.settings.sparsity:
            self.update(self.settings.sparsity)
        again = keep_mask([m.mask.float() for m in self.masks], self.settings.sparsity, self.settings.scope)
        assert all(torch.equal(a, m.mask) for a, m in zip(again, self.masks, strict=True)), "masks of another sparsity"
        for matrix in self.matrices:
            parametrize.remove_parametrizations(matrix, "weight")


@final
class Sparsify(TrainingStep[TeachingEvidence]):
    """The step of unstructured pruning while `distill` teaches the model; evidence and training are those of `distill`."""

    name = "sparsify"

    def __init__(self, distill: Distill, settings: SparsifySettings) -> None:
        self.distill = distill
        self.settings = settings

    def observe(self, model: PenjingPreTrainedModel, data: Examples) -> TeachingEvidence:
        """The training texts, and the teacher's outputs on them, cached."""
        return self.distill.observe(model, data)

    def teach(self, model: PenjingPreTrainedModel, evidence: TeachingEvidence) -> Taught:
        """Train a copy of `model` under masks; weights are compared only once the requested sparsity is reached."""
        student = copy_of(model)
        settings = self.settings
        masking = Masking(student, settings, self.distill.settings.schedule.seed)
        reached = 0.0 if settings.schedule == "one-shot" else settings.end
        hooks = Hooks(masking.before_step, rates={"scores": 1.0}, judge_from=reached)
        history = self.distill.lesson(evidence).teach(student, hooks)
        masking.finish()
        return Taught(copy_of(student), history)


@final
class SparsifyAtOnce(Stage[Note]):
    """The stage of unstructured pruning at once, without a training."""

    name = "sparsify"
    record = Note

    def __init__(self, settings: SparsifySettings) -> None:
        self.settings = settings

    def make(self, work: Work, context: Context, folder: Path) -> Note:
        model = sparsify(work.model, self.settings, context.seed)
        return context.keep(replace(work, model=model), folder, "at once, not trained")

    def load(self, work: Work, context: Context, record: Note, folder: Path) -> Work:
        return loaded(work, folder)
