"""Curvature of the loss in each matrix, on calibration texts: the sensitivity to rounding, for mixed precision."""

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
from penjing.model.watch import matrices_of, of_exit, watching_outputs
from penjing.steps.cut.importance import label_loss
from penjing.tasks.task import Examples, Task
from penjing.training.predict import answering

Scores = NDArray[np.float64]
Matrix = nn.Linear | nn.Embedding
BATCH = 32
"""The largest number of texts in a batch."""


def sensitivities(model: PenjingPreTrainedModel, task: Task, data: Examples, seed: int = 0, probes: int = 4) -> dict[str, Scores]:
    """Sensitivities of the rows of linear layers and embeddings: mean second derivatives of a text's loss, (rows,) by name.

    They are those of the Gauss-Newton part of the Hessian, from `probes` backward passes, without labels: no row is negative, and
    the noise of a row does not come from all other rows as in `traces`. The sensitivity of a group of rows (a head, words of like
    frequency, the matrix) is the mean of its rows. In tagging, tokens without a label have no loss. Tables that are not looked up
    by ids (positions) are left out.
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
    """Add the squared gradients of a batch of texts to the totals of a matrix's rows.

    x: (B, S, K) inputs of a linear layer, or (B, S) ids of an embedding. delta: (B, S, R) gradients of the outputs.
    """
    if isinstance(module, nn.Embedding):
        # (B, S, S) @ (B, S, R): to each token, the summed gradients of its word in the text
        together = (x[:, :, None] == x[:, None]).to(delta) @ delta
        total.index_add_(0, x.flatten(), (together * delta).sum(-1).flatten().double())
    else:
        x, delta = (y if y.ndim == 3 else y[:, None] for y in (x, delta))  # a head reads (B, K): S = 1
        total += row_squares(x @ x.transpose(1, 2), delta).sum(0).double()


def _read(model: PenjingPreTrainedModel) -> dict[str, nn.Parameter]:
    """The matrices that the answer depends on."""
    return {name: weight for name, weight in matrices_of(model).items() if not of_exit(name)}


def traces(model: PenjingPreTrainedModel, task: Task, data: Examples, seed: int = 0, probes: int = 1) -> dict[str, float]:
    """Hessian traces, divided by the number of weights, of every matrix by name (Dong et al. 2020, HAWQ-V2, section 3.1).

    The loss is the cross-entropy with the labels. Each matrix is probed by itself, with `probes` products of every batch:
    in a common probe the noise of all other matrices is tens of times the estimate. Takes minutes for 100 texts.
    """
    generator = torch.Generator().manual_seed(seed)
    result = {}
    for name, w in _read(model).items():
        total = sum(float(row_traces(product, [w], probes, generator)[0].sum()) for product in _products(model, task, data, [w]))
        result[name] = total / (len(data) * w.numel())
    return result


def eigenvalues(
    model: PenjingPreTrainedModel, task: Task, data: Examples, seed: int = 0, slices: int = 4, iterations: int = 8
) -> dict[str, float]:
    """Top Hessian eigenvalues of every matrix by name, |mean| + standard deviation over slices of the texts.

    Shen et al. 2020, Q-BERT, equation 2.

    Much slower than `sensitivities`: each matrix takes up to `iterations` products with its own Hessian for every batch.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = np.random.default_rng(seed).permutation(len(data))
    parts = [data.take(np.sort(part)) for part in np.array_split(rows, min(slices, len(data)))]
    result = {}
    for name, w in _read(model).items():
        starts = [torch.randn(w.shape, generator=generator) for _ in parts]
        tops = [
            top_eigenvalue(partial(_product, model, task, part, w), start, iterations) / len(part)
            for part, start in zip(parts, starts, strict=True)
        ]
        result[name] = abs(float(np.mean(tops))) + float(np.std(tops))
    return result


def _product(model: PenjingPreTrainedModel, task: Task, data: Examples, w: Tensor, v: Tensor) -> Tensor:
    """The Hessian-vector product H·v in one matrix, of the summed loss of all texts."""
    return sum((product([v])[0] for product in _products(model, task, data, [w])), torch.zeros_like(v))


def _products(model: PenjingPreTrainedModel, task: Task, data: Examples, weights: Sequence[Tensor]) -> Iterator[Product]:
    """Hessian-vector products, one function per batch, of the batch's summed loss."""
    loss = label_loss(task, data)
    for rows, feeds in batches(model, data.encoded, BATCH, CURVATURE_TOKENS):
        with sdpa_kernel(SDPBackend.MATH):
            product = product_of(loss(model(**feeds).logits, rows), weights)
        yield product
