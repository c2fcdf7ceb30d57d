"""Logits and quality of a model of ours, in PyTorch."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool, Float32, Num
from numpy.typing import NDArray
from torch import Tensor, nn

from penjing.maths.answers import AnswerLosses
from penjing.model.building import blueprint_of
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.model.run import batches
from penjing.tasks import judging
from penjing.tasks.task import IGNORED, Examples, Task
from penjing.text.encoded import Encoded, Logits
from penjing.training.loop import Batch, Loss


@torch.inference_mode()
def logits_of(model: nn.Module, encoded: Encoded, batch: int = 64) -> list[Float32[np.ndarray, "..."]]:
    """Logits of each text, (C,) or (tokens, C), in float32, batches of exactly equal lengths."""
    result: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * len(encoded)
    for rows, feeds in batches(model, encoded, batch):
        for row, value in zip(rows, model(**feeds).logits.float().cpu().numpy(), strict=True):
            result[row] = value
    return result


@torch.inference_mode()
def exit_logits_of(model: nn.Module, encoded: Encoded, batch: int = 64) -> list[list[Float32[np.ndarray, " C"]]]:
    """Of each exit and the last head the logits of each text. model: it gives those of exits too (`exit_logits`)."""
    result: list[list[NDArray[np.float32]]] = []
    for rows, feeds in batches(model, encoded, batch):
        output = model(**feeds)
        heads = [*output.exit_logits, output.logits]
        result = result or [[np.empty(0, np.float32)] * len(encoded) for _ in heads]
        for answers, logits in zip(result, heads, strict=True):
            for row, value in zip(rows, logits.float().cpu().numpy(), strict=True):
                answers[row] = value
    return result


def answered_tokens(examples: Examples) -> Bool[np.ndarray, " T"]:
    """Tagging: which of all tokens (T,) are answered from, the first of each word; every token of a text whose words are not known."""
    offsets = examples.encoded.offsets
    answered = np.zeros(int(offsets[-1]), np.bool_)
    for i, words in enumerate(examples.first_tokens):
        first = [token for token in words if token >= 0]
        answered[offsets[i] + np.array(first) if first else slice(offsets[i], offsets[i + 1])] = True
    return answered


def answering(examples: Examples) -> Callable[[Tensor, NDArray[np.int64]], Tensor]:
    """Of the logits of some texts of one length, (B, C) or (B, S, C), and their numbers: those (n, C) that are answered from."""
    answered = torch.from_numpy(answered_tokens(examples))
    offsets = examples.encoded.offsets

    def read(logits: Tensor, rows: NDArray[np.int64]) -> Tensor:
        if logits.ndim == 2:
            return logits
        return logits[answered[offsets[rows][:, None] + np.arange(logits.shape[1])].to(logits.device)]

    return read


def answers_of(examples: Examples, logits: Logits, per_token: bool) -> Float32[np.ndarray, "n C"]:
    """The logits (n, C) that texts are answered from: one row of each text, or of each token in `answered_tokens`."""
    return np.concatenate(logits)[answered_tokens(examples)] if per_token else np.stack(logits)


def evaluator(task: Task, examples: Examples) -> Callable[[nn.Module], float]:
    """The evaluation function of a training: from a model to its quality on `examples`, in points."""

    def quality(model: nn.Module) -> float:
        return judging.quality_of(task, examples, logits_of(model, examples.encoded))

    return quality


def labels_loss(targets: list[Num[np.ndarray, " _"]]) -> Loss:
    """Cross-entropy with the gold labels, as a loss for `fit`."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        ids = batch.feeds["input_ids"]  # (B, S)
        labels = pad_rows([targets[i] for i in batch.rows], ids.shape[1]).to(ids.device)  # (B,), or (B, S)
        value: Tensor = model(**batch.feeds, labels=labels).loss
        return value

    return loss


def pad_rows(rows: list[Num[np.ndarray, " _"]], length: int) -> Num[Tensor, " B *length"]:
    """Targets of a batch: (B,) where each has one number, else (B, length) padded with `IGNORED`."""
    if all(len(row) == 1 for row in rows):
        return torch.from_numpy(np.concatenate(rows))
    padded = np.full((len(rows), length), IGNORED)
    for i, row in enumerate(rows):
        padded[i, : len(row)] = row
    return torch.from_numpy(padded)


def divergence_of(model: PenjingPreTrainedModel, data: Examples, reference: Logits, answers: AnswerLosses) -> float:
    """Mean divergence of the model's answers from the reference's, per text, or per token that is answered from.

    Args:
        answers: the losses of the task's answers (`Task.answer_losses`).
    """
    per_token = blueprint_of(model).head.per_token
    z, t = (torch.from_numpy(answers_of(data, rows, per_token)) for rows in (logits_of(model, data.encoded), reference))
    return float(answers.divergence(z, t))
