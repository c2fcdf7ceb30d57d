"""The training loop: accelerate underneath, batches by length, early stopping, and a state that survives a kill.

The state holds everything that the next step depends on, so a run that was killed ends with the weights of one that
was not.
"""

import io
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from penjing.engines.clock.machine import instructions
from penjing.errors import InputError
from penjing.files.whole import write_bytes
from penjing.text.encoded import Encoded
from penjing.training.batching import length_batches
from penjing.training.rows import RowAdamW, clip, sparse_words, word_tables

Feeds = dict[str, Tensor]
Loss = Callable[[nn.Module, Feeds, Any], Tensor]
"""(model, inputs on the device, row numbers) → scalar loss."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast. `evaluations` per epoch; training stops after `patience` of them without a better quality.

    Few texts get more epochs, up to 20, until there are `least_steps`.
    """

    epochs: int = 3
    least_steps: int = 0
    batch_size: int = 32
    learning_rate: float = 5e-5
    warmup: float = 0.1
    weight_decay: float = 0.01
    gradient_norm: float = 1.0
    evaluations: int = 2
    patience: int = 6
    seed: int = 0
    minutes: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.learning_rate <= 1:
            raise InputError(f"--learning-rate: {self.learning_rate:g} is out of range; give more than 0 and at most 1, as 1e-4")
        if not 0 <= self.warmup <= 1:
            raise InputError(f"--recipe: warmup {self.warmup:g} is out of range; give a part of the steps, from 0 to 1")
        if self.minutes is not None and not 0 < self.minutes < math.inf:
            raise InputError(f"--minutes: {self.minutes:g} is out of range; give a number above 0")


class Progress(Protocol):
    """What the loop tells: shown as a bar by the command line, by nobody in a library call."""

    def __call__(self, done: int, total: int, **figures: float) -> None: ...


def silent(done: int, total: int, **figures: float) -> None:
    """Tell nobody."""


@dataclass
class History:
    """What happened: the mean loss and quality at each evaluation, and the best."""

    evaluations: list[dict[str, float]] = field(default_factory=list)
    best: float = -math.inf
    best_step: int = 0
    steps: int = 0
    seconds: float = 0.0


def mixed_precision() -> str:
    """`bf16` where the processor multiplies in it, else `no`."""
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported() else "no"
    return "bf16" if "amx_bf16" in instructions() else "no"


def optimizers_for(model: nn.Module, schedule: Schedule, rates: Mapping[str, float] | None = None) -> list[torch.optim.Optimizer]:
    """AdamW; biases and norms do not decay (Devlin et al. 2019, appendix A.2), and no parameter that `rates` names.

    A word table with sparse gradients (`sparse_words`) has an optimizer of its own.
    """
    sparse = {id(table.weight) for table in word_tables(model) if table.sparse}
    groups: dict[tuple[bool, float, float], list[nn.Parameter]] = {}
    for name, p in model.named_parameters():
        if p.requires_grad:
            factor = next((f for part, f in (rates or {}).items() if part in name), None)
            decay = schedule.weight_decay if factor is None and p.ndim > 1 else 0.0
            groups.setdefault((id(p) in sparse, factor or 1.0, decay), []).append(p)

    def of(rows: bool) -> list[dict[str, Any]]:
        return [{"params": each, "weight_decay": d, "factor": f} for (own, f, d), each in groups.items() if own == rows]

    found: list[torch.optim.Optimizer] = [torch.optim.AdamW(of(False), lr=schedule.learning_rate, fused=True)] if of(False) else []
    return [*found, RowAdamW(of(True), lr=schedule.learning_rate)] if of(True) else found


def attention_for(device: torch.device) -> Any:
    """On a CPU plain attention: its backward pass takes a tenth of that of the flash kernel at the lengths of sentences."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


def rate(step: int, total: int, warmup: float) -> float:
    """Linear warm-up to 1 over the first part `warmup` of the steps, then linear decay to 0."""
    first = max(1, round(warmup * total))
    return (step + 1) / first if step < first else max(0.0, (total - step) / max(1, total - first))


def fit(
    model: nn.Module,
    encoded: Encoded,
    loss: Loss,
    evaluate: Callable[[nn.Module], float],
    schedule: Schedule,
    state_file: Path,
    *,
    pad: int = 0,
    progress: Progress = silent,
    save_every_s: float = 60.0,
    before_step: Callable[[int, int], None] = lambda step, total: None,
    rates: Mapping[str, float] | None = None,
    judge_from: float = 0.0,
) -> History:
    """Train `model` in place and leave it with the weights of the best evaluation, in eval mode.

    Args:
        loss: of one batch, from the model, its padded inputs and row numbers.
        evaluate: quality of the model, higher is better.
        state_file: written every `save_every_s` seconds; where it is there already, training goes on from it.
        before_step: called with the number of each step and all of them, before its batch; what it keeps from step to step
            must be in buffers of `model`, so that the state holds it.
        rates: factors of the learning rate, by a part of the parameter's name.
        judge_from: the best weights are looked for after this part of the steps, where a model is only then what is wanted.
    """
    set_seed(schedule.seed)
    accelerator = Accelerator(mixed_precision=mixed_precision(), cpu=not torch.cuda.is_available())
    sparse_words(model, on=not torch.cuda.is_available())
    prepared, *optimizers = accelerator.prepare(model, *optimizers_for(model, schedule, rates))
    steps_per_epoch = math.ceil(len(encoded) / schedule.batch_size)
    total = max(schedule.epochs * steps_per_epoch, min(schedule.least_steps, 20 * steps_per_epoch))
    every = max(1, steps_per_epoch // schedule.evaluations, total // 40)
    history, best_state, start, since_best, running = History(), None, 0, 0, [0.0, 0.0]

    if state_file.is_file():
        saved = _load_state(state_file)
        model.load_state_dict(saved["model"])
        for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        torch.set_rng_state(saved["rng"])
        if saved["cuda"]:
            torch.cuda.set_rng_state_all(saved["cuda"])
        history = History(**saved["history"])
        best_state, start, since_best, total, running = saved["best"], saved["step"], saved["since_best"], saved["total"], saved["running"]

    began, earlier, saved_at = time.monotonic(), history.seconds, time.monotonic()
    rows_of = _row_batches(encoded, schedule, start, steps_per_epoch)
    for step in range(start, total):
        if since_best >= schedule.patience or step >= total:
            break
        model.train()
        before_step(step, total)
        rows = next(rows_of)
        feeds = {name: torch.from_numpy(value).to(accelerator.device) for name, value in encoded.padded(rows, pad).items()}
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = schedule.learning_rate * group["factor"] * rate(step, total, schedule.warmup)
        with accelerator.autocast(), attention_for(accelerator.device):
            value = loss(prepared, feeds, rows)
        accelerator.backward(value)
        clip(list(model.parameters()), schedule.gradient_norm)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        running = [running[0] + value.item(), running[1] + 1]
        if step == start + 20 and schedule.minutes:
            left = 60 * schedule.minutes - earlier
            total = max(step + 1, min(total, start + int(21 * left / (time.monotonic() - began))))
        if (step + 1) % every == 0 or step + 1 == total:
            model.eval()
            quality = evaluate(model)
            history.evaluations.append({"step": step + 1, "loss": running[0] / running[1], "quality": quality})
            running = [0.0, 0.0]
            since_best += step + 1 >= judge_from * total
            if quality > history.best and since_best:
                history.best, history.best_step, since_best = quality, step + 1, 0
                best_state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        progress(step + 1, total, loss=value.item(), best=history.best)
        history.steps, history.seconds = step + 1, earlier + time.monotonic() - began
        if time.monotonic() - saved_at > save_every_s:
            _save_state(state_file, {
                "model": model.state_dict(), "optimizers": [optimizer.state_dict() for optimizer in optimizers], "rng": torch.get_rng_state(),
                "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
                "history": vars(history), "best": best_state, "step": step + 1, "since_best": since_best,
                "total": total, "running": running,
            })  # fmt: skip
            saved_at = time.monotonic()
    accelerator.free_memory()
    sparse_words(model, on=False)
    if best_state is not None:
        model.load_state_dict(best_state)
    accelerator.unwrap_model(prepared, keep_fp32_wrapper=False)
    model.eval()
    return history


def _row_batches(encoded: Encoded, schedule: Schedule, start: int, steps_per_epoch: int) -> Iterator[Any]:
    """Batches from step `start` on, epoch after epoch."""
    epoch, skip = divmod(start, steps_per_epoch)
    while True:
        yield from length_batches(encoded.lengths, schedule.batch_size, schedule.seed, epoch)[skip:]
        epoch, skip = epoch + 1, 0


def _save_state(path: Path, state: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_bytes(path, buffer.getvalue())


def _load_state(path: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return state
    except Exception as error:
        raise InputError(f"training: {path} is damaged ({error}); remove it to start again") from error
