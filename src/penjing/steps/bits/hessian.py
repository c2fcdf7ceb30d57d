"""How much the loss bends in each matrix of a model, on calibration texts with labels: what rounding it may cost."""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from penjing.maths.hessian import Product, output_directions, product_of, row_squares, row_traces, top_eigenvalue
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.model.run import CURVATURE_TOKENS, batches
from penjing.model.watch import matrices_of, watching_outputs
from penjing.steps.cut.importance import label_loss
from penjing.tasks.task import Examples, Task
from penjing.training.predict import answering

Scores = NDArray[np.float64]
Matrix = nn.Linear | nn.Embedding
BATCH = 32
"""Texts of a batch at most."""


def sensitivities(model: PenjingPreTrainedModel, task: Task, data: Examples, seed: int = 0, probes: int = 4) -> dict[str, Scores]:
    """The mean second derivative of a text's loss by the weights of each row: (rows,) by name, of linear layers and embeddings.

    It is that of the Hessian's Gauss-Newton part, from `probes` plain backward passes, with no label needed: no row is
    negative, and the noise of a row does not come from all other rows as in `traces`. A group of rows (a head, words of
    like frequency, the matrix) has the mean of its rows. Of tagging, tokens that are not answered from have no loss. Tables that are not looked up (positions) are not among them.
    """
    generator = torch.Generator().manual_seed(seed)
    names = {module: f"{name}.weight" for name, module in model.named_modules()}
    totals: dict[str, Tensor] = {}
    seen: list[tuple[Matrix, Tensor, Tensor]] = []
    read = answering(data)
    modules: list[Matrix] = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Embedding) and m.weight.numel()]

    def keep(module: Matrix, x: Tensor, output: Tensor) -> None:
        seen.append((module, x.detach(), output))

    with watching_outputs(((module, module) for module in modules), keep):
        for rows, feeds in batches(model, data.encoded, BATCH, CURVATURE_TOKENS):
            seen.clear()
            logits = read(model(**feeds).logits, rows)
            for probe in range(probes):
                along = (output_directions(logits, generator) * logits).sum()
                deltas = torch.autograd.grad(along, [output for *_, output in seen], retain_graph=probe + 1 < probes)
                for (module, x, _), delta in zip(seen, deltas, strict=True):
                    total = totals.setdefault(names[module], torch.zeros(len(module.weight), dtype=torch.float64))
                    _add(total, module, x, delta)
    return {name: (total / (probes * len(data) * model.get_parameter(name).shape[1])).numpy() for name, total in totals.items()}


def _add(total: Tensor, module: Matrix, x: Tensor, delta: Tensor) -> None:
    """Add the squared gradients of a batch of texts to the rows of a linear layer, or of a table that x (B, S) looks up."""
    if isinstance(module, nn.Embedding):
        together = (x[:, :, None] == x[:, None]).to(delta) @ delta  # of each token, the gradients of all that are the same word
        total.index_add_(0, x.flatten(), (together * delta).sum(-1).flatten().double())
    else:
        x, delta = (each if each.ndim == 3 else each[:, None] for each in (x, delta))
        total += row_squares(x @ x.transpose(1, 2), delta).sum(0).double()


def traces(model: PenjingPreTrainedModel, task: Task, data: Examples, seed: int = 0, probes: int = 1) -> dict[str, float]:
    """The mean second derivative by a matrix's weights, of every matrix by name: the Hessian's trace by its size (HAWQ-V2, section 3.1).

    The loss is the cross-entropy with the labels. Each matrix is probed by itself, with `probes` products of every batch:
    what all the others add to the noise of a common probe is tens of times what is estimated. Takes minutes for 100 texts.
    """
    generator = torch.Generator().manual_seed(seed)
    result = {}
    for name, w in matrices_of(model).items():
        total = sum(float(row_traces(product, [w], probes, generator)[0].sum()) for product in _products(model, task, data, [w]))
        result[name] = total / (len(data) * w.numel())
    return result


def eigenvalues(
    model: PenjingPreTrainedModel, task: Task, data: Examples, seed: int = 0, slices: int = 4, iterations: int = 8
) -> dict[str, float]:
    """|mean| + standard deviation, over slices of the texts, of the top eigenvalue of each matrix's Hessian (Q-BERT, equation 2).

    Much slower than `sensitivities`: each matrix takes up to `iterations` products with the Hessian of every batch of its own.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = np.random.default_rng(seed).permutation(len(data))
    parts = [data.take(np.sort(part)) for part in np.array_split(rows, min(slices, len(data)))]
    result = {}
    for name, w in matrices_of(model).items():
        starts = [torch.randn(w.shape, generator=generator) for _ in parts]
        found = [
            top_eigenvalue(partial(_product, model, task, part, w), start, iterations) / len(part)
            for part, start in zip(parts, starts, strict=True)
        ]
        result[name] = abs(float(np.mean(found))) + float(np.std(found))
    return result


def _product(model: PenjingPreTrainedModel, task: Task, data: Examples, w: Tensor, v: Tensor) -> Tensor:
    """H·v in one matrix, of the summed loss of all texts."""
    return sum((product([v])[0] for product in _products(model, task, data, [w])), torch.zeros_like(v))


def _products(model: PenjingPreTrainedModel, task: Task, data: Examples, weights: Sequence[Tensor]) -> Iterator[Product]:
    """The product with the Hessian of the summed loss of each batch."""
    loss = label_loss(task, data)
    for rows, feeds in batches(model, data.encoded, BATCH, CURVATURE_TOKENS):
        with sdpa_kernel(SDPBackend.MATH):
            product = product_of(loss(model(**feeds).logits, rows), weights)
        yield product
