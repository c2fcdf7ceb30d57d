"""The training loop: accelerate underneath, batches by length, early stopping, and a state that survives a kill."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, final, runtime_checkable

import numpy as np
import torch
from accelerate import Accelerator
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from penjing.engines.clock.machine import instructions
from penjing.errors import InputError
from penjing.files.options import option
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.model.run import tensors
from penjing.text.encoded import Encoded
from penjing.training.batching import length_batches
from penjing.training.rows import RowAdamW, clip, sparse_words, word_tables
from penjing.training.state import History, TrainState

MOST_EPOCHS = 20
"""Epochs that few texts get at most, to come to `Schedule.least_steps`."""
MOST_EVALUATIONS = 40
"""Evaluations of a whole training at most, about."""
TIMED_STEPS = 21
"""Steps of a run whose duration says how many more the limit in minutes allows."""
SAVE_EVERY_S = 60.0
"""Seconds between two writings of the state file, at least."""

Feeds = dict[str, Int[Tensor, "B S"]]
"""Inputs of a model by name."""


@dataclass(frozen=True)
class Batch:
    """One batch: the padded inputs (B, S) on the device, the row numbers (B,) of its texts, and the part of all steps that is done."""

    feeds: Feeds
    rows: Int[np.ndarray, " B"]
    done: float = 0.0


Loss = Callable[[nn.Module, Batch], Float[Tensor, ""]]
"""(model, batch) → scalar loss."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast. `evaluations` per epoch; training stops after `patience` of them without a better quality.

    Few texts get more epochs, up to `MOST_EPOCHS`, until there are `least_steps`.
    """

    epochs: int = 3
    least_steps: int = option(0, "Steps that few texts get, by more epochs.")
    batch_size: int = 32
    learning_rate: float = 5e-5
    warmup: float = 0.1
    weight_decay: float = 0.01
    gradient_norm: float = 1.0
    evaluations: int = 2
    patience: int = 6
    seed: int = option(0, "Of all that is drawn at random.")
    minutes: float | None = None

    def steps_per_epoch(self, texts: int) -> int:
        """Batches that so many texts make."""
        return math.ceil(texts / self.batch_size)

    def total(self, texts: int) -> int:
        """Steps of the whole training on so many texts."""
        epoch = self.steps_per_epoch(texts)
        return max(self.epochs * epoch, min(self.least_steps, MOST_EPOCHS * epoch))

    def every(self, texts: int) -> int:
        """Steps from one evaluation to the next."""
        return max(1, self.steps_per_epoch(texts) // self.evaluations, self.total(texts) // MOST_EVALUATIONS)

    def __post_init__(self) -> None:
        if not 0 < self.learning_rate <= 1:
            raise InputError(f"learning_rate: {self.learning_rate:g} is out of range; give more than 0 and at most 1, as 1e-4")
        if not 0 <= self.warmup <= 1:
            raise InputError(f"recipe: warmup {self.warmup:g} is out of range; give a part of the steps, from 0 to 1")
        if self.minutes is not None and not 0 < self.minutes < math.inf:
            raise InputError(f"minutes: {self.minutes:g} is out of range; give a number above 0")


@runtime_checkable
class Progress(Protocol):
    """A function that the loop calls after each step: the command line shows a bar, a library call nothing."""

    def __call__(self, done: int, total: int, **figures: float) -> None: ...


def silent(done: int, total: int, **figures: float) -> None:
    """Progress that is not shown."""


Bar = Callable[[str], AbstractContextManager[Progress]]
"""From the title of a training to a progress bar of it."""


def shown(bar: Bar | None, title: str) -> AbstractContextManager[Progress]:
    """A context manager that gives the progress callback of a training: a bar of this title, or a silent one."""
    return bar(title) if bar else nullcontext(silent)


@dataclass(frozen=True)
class Hooks:
    """Hooks of the training loop, for a step that cuts or rounds the model while it trains.

    before_step: called with the number of each step and all of them, before its batch; what it keeps from step to step must be in
        buffers of the model, so that the state holds it.
    extra_loss: added to the loss of each batch.
    rates: factors of the learning rate, by a part of the parameter's name.
    judge_from: the best weights are looked for after this part of the steps, where a model is only then what is wanted.
    """

    before_step: Callable[[int, int], None] = lambda step, total: None
    extra_loss: Callable[[], Float[Tensor, ""]] | None = None
    rates: Mapping[str, float] = field(default_factory=dict)
    judge_from: float = 0.0


def mixed_precision() -> str:
    """`bf16` where the processor multiplies in it, else `no`."""
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported() else "no"
    return "bf16" if "amx_bf16" in instructions() else "no"


def optimizers_for(model: nn.Module, schedule: Schedule, rates: Mapping[str, float]) -> list[torch.optim.Optimizer]:
    """AdamW; biases and norms do not decay (Devlin et al. 2019, appendix A.2), and no parameter that `rates` names.

    A word table with sparse gradients (`sparse_words`) has an optimizer of its own.
    """
    sparse = {id(table.weight) for table in word_tables(model) if table.sparse}
    groups: dict[tuple[bool, float, float], list[nn.Parameter]] = {}
    for name, p in model.named_parameters():
        if p.requires_grad:
            factor = next((f for part, f in rates.items() if part in name), None)
            decay = schedule.weight_decay if factor is None and p.ndim > 1 else 0.0
            groups.setdefault((id(p) in sparse, factor or 1.0, decay), []).append(p)

    def of(rows: bool) -> list[dict[str, Any]]:
        return [
            {"params": parameters, "weight_decay": decay, "factor": factor}
            for (by_rows, factor, decay), parameters in groups.items()
            if by_rows == rows
        ]

    optimizers: list[torch.optim.Optimizer] = []
    if dense := of(False):
        optimizers.append(torch.optim.AdamW(dense, lr=schedule.learning_rate, fused=True))
    if by_rows := of(True):
        optimizers.append(RowAdamW(by_rows, lr=schedule.learning_rate))
    return optimizers


def attention_for(device: torch.device) -> Any:
    """On a CPU plain attention: its backward pass takes a tenth of that of the flash kernel at the lengths of sentences."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


def rate(step: int, total: int, warmup: float) -> float:
    """Linear warm-up to 1 over the first part `warmup` of the steps, then linear decay to 0."""
    first = max(1, round(warmup * total))
    return (step + 1) / first if step < first else max(0.0, (total - step) / max(1, total - first))


def padding_of(model: nn.Module) -> int:
    """The number of the padding token of the encoder inside `model`; 0 where it has none."""
    return next((int(m.config.pad_token_id or 0) for m in model.modules() if isinstance(m, PenjingPreTrainedModel)), 0)


def fit(
    model: nn.Module,
    encoded: Encoded,
    loss: Loss,
    evaluate: Callable[[nn.Module], float],
    schedule: Schedule,
    state_file: Path,
    hooks: Hooks | None = None,
    progress: Progress = silent,
) -> History:
    """Train `model` in place and leave it with the weights of the best evaluation, in eval mode.

    What is drawn at random depends on the schedule's seed alone, and the random state of the caller stays as it was.

    Args:
        loss: of one batch.
        evaluate: quality of the model, higher is better.
        state_file: written every `SAVE_EVERY_S` seconds; where it is there already, training goes on from it.
    """
    hooks = hooks or Hooks()
    with torch.random.fork_rng():
        torch.manual_seed(schedule.seed)
        trainer = _Trainer(model, loss, schedule, hooks)
        state = TrainState(schedule.total(len(encoded)))
        if state_file.is_file():
            state = TrainState.load(state_file, model, trainer.optimizers)
        every = schedule.every(len(encoded))
        clock = _Clock(state, schedule.minutes)
        batches = _row_batches(encoded, schedule, state.step)
        saved_at = time.monotonic()
        while state.step < state.total and state.since_best < schedule.patience:
            value = trainer.step(encoded, next(batches), state)
            clock.limit(state)
            if state.step % every == 0 or state.step == state.total:
                model.eval()
                state.judge(evaluate(model), model, counts=state.step >= hooks.judge_from * state.total)
            progress(state.step, state.total, loss=value, best=state.history.best)
            clock.record(state)
            if time.monotonic() - saved_at > SAVE_EVERY_S:
                state.save(state_file, model, trainer.optimizers)
                saved_at = time.monotonic()
        trainer.finish(state)
    return state.history


@final
class _Trainer:
    """A model with its optimizers, prepared by accelerate, that takes one step at a time."""

    def __init__(self, model: nn.Module, loss: Loss, schedule: Schedule, hooks: Hooks) -> None:
        self.model = model
        self.loss = loss
        self.schedule = schedule
        self.hooks = hooks
        self.pad = padding_of(model)
        self.accelerator = Accelerator(mixed_precision=mixed_precision(), cpu=not torch.cuda.is_available())
        sparse_words(model, on=not torch.cuda.is_available())
        self.prepared, *self.optimizers = self.accelerator.prepare(model, *optimizers_for(model, schedule, hooks.rates))

    def step(self, encoded: Encoded, rows: Int[np.ndarray, " B"], state: TrainState) -> float:
        """One step on the texts `rows` (B,): forward, backward, clip, update; gives the loss, and counts it in `state`."""
        device = self.accelerator.device
        self.model.train()
        self.hooks.before_step(state.step, state.total)
        # input_ids, token_type_ids and attention_mask, (B, S) each
        feeds = tensors(encoded.padded(rows, self.pad), device)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.schedule.learning_rate * group["factor"] * rate(state.step, state.total, self.schedule.warmup)
        with self.accelerator.autocast(), attention_for(device):
            value = self.loss(self.prepared, Batch(feeds, rows, state.step / state.total))  # ()
            if self.hooks.extra_loss is not None:
                value = value + self.hooks.extra_loss()
        self.accelerator.backward(value)
        clip(list(self.model.parameters()), self.schedule.gradient_norm)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        loss = value.item()
        state.count(loss)
        return loss

    def finish(self, state: TrainState) -> None:
        """Leave the model with the best weights, as it was before accelerate prepared it, in eval mode."""
        self.accelerator.free_memory()
        sparse_words(self.model, on=False)
        if state.best is not None:
            self.model.load_state_dict(state.best)
        self.accelerator.unwrap_model(self.prepared, keep_fp32_wrapper=False)
        self.model.eval()


@final
class _Clock:
    """The time that a training takes, over all runs that went on with it, and its limit in minutes."""

    def __init__(self, state: TrainState, minutes: float | None) -> None:
        self.minutes = minutes
        self.began = time.monotonic()
        self.start = state.step
        self.earlier = state.history.seconds

    def limit(self, state: TrainState) -> None:
        """After `TIMED_STEPS` of a run, lower the number of all steps to what the limit allows at their pace."""
        if self.minutes and state.step == self.start + TIMED_STEPS:
            left = 60 * self.minutes - self.earlier
            allowed = self.start + int(TIMED_STEPS * left / (time.monotonic() - self.began))
            state.total = max(state.step, min(state.total, allowed))

    def record(self, state: TrainState) -> None:
        """Note the steps and seconds in the history."""
        state.history.steps = state.step
        state.history.seconds = self.earlier + time.monotonic() - self.began


def _row_batches(encoded: Encoded, schedule: Schedule, start: int) -> Iterator[Int[np.ndarray, " _"]]:
    """Row numbers (B,) of each batch from step `start` on, epoch after epoch."""
    epoch, skip = divmod(start, schedule.steps_per_epoch(len(encoded)))
    while True:
        yield from length_batches(encoded.lengths, schedule.batch_size, schedule.seed, epoch)[skip:]
        epoch += 1
        skip = 0
