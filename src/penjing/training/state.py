"""The state of a training: what the next step depends on, in a file that a killed run goes on from.

The file holds the weights, the optimizers and the random state too, so a run that was killed ends with the weights of one that was not.
"""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from penjing.errors import InputError
from penjing.files.whole import Json, write_bytes


@dataclass
class History:
    """The history of a training: the mean loss and quality at each evaluation, and the best."""

    evaluations: list[dict[str, float]] = field(default_factory=list)
    best: float = -math.inf
    best_step: int = 0
    steps: int = 0
    seconds: float = 0.0


@dataclass
class TrainState:
    """The progress of a training.

    step: steps that are done. total: all of them, which a limit in minutes may lower. since_best: evaluations since the best one.
    running: the sum of the losses since the last evaluation, and their number. best: the weights of the best evaluation.
    """

    total: int
    step: int = 0
    since_best: int = 0
    running: list[float] = field(default_factory=lambda: [0.0, 0.0])
    history: History = field(default_factory=History)
    best: dict[str, Tensor] | None = None

    def count(self, loss: float) -> None:
        """Count one step and its loss."""
        self.step += 1
        self.running = [self.running[0] + loss, self.running[1] + 1]

    def judge(self, quality: float, model: nn.Module, counts: bool) -> None:
        """Take in an evaluation; `counts`: whether its weights may be the ones that are kept."""
        history = self.history
        history.evaluations.append({"step": self.step, "loss": self.running[0] / self.running[1], "quality": quality})
        self.running = [0.0, 0.0]
        self.since_best += counts
        if quality > history.best and self.since_best:
            history.best = quality
            history.best_step = self.step
            self.since_best = 0
            self.best = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    def save(self, path: Path, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """Write the state file, whole or not at all."""
        buffer = io.BytesIO()
        torch.save({
            "model": model.state_dict(), "optimizers": [optimizer.state_dict() for optimizer in optimizers], "rng": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "history": vars(self.history), "best": self.best, "step": self.step, "since_best": self.since_best,
            "total": self.total, "running": self.running,
        }, buffer)  # fmt: skip
        write_bytes(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> "TrainState":
        """Read a state file: the weights into `model`, the optimizers and the random state; `InputError` where it is damaged."""
        saved = _read(path)
        model.load_state_dict(saved["model"])
        for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        torch.set_rng_state(saved["rng"])
        if saved["cuda"]:
            torch.cuda.set_rng_state_all(saved["cuda"])
        return cls(saved["total"], saved["step"], saved["since_best"], saved["running"], History(**saved["history"]), saved["best"])


def _read(path: Path) -> Json:
    try:
        state: Json = torch.load(path, map_location="cpu", weights_only=True)
        return state
    except Exception as error:
        raise InputError(f"training: {path} is damaged ({error}); remove it to start again") from error
