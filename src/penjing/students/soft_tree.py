"""A soft decision tree on n-grams: a tree of learned filters, trained by gradients (Frosst & Hinton 2017)."""

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from penjing.engines.numpy import Learned, ngrams
from penjing.maths.losses import soft_cross_entropy
from penjing.maths.soft_tree import depths, imbalance, leaf_cross_entropy, mixture, reaching
from penjing.students.arrays import ArrayStudent, joined
from penjing.students.fitted import FittedArrays
from penjing.students.fitting import Fitting
from penjing.students.logistic import classes_of, drawn, repeated
from penjing.students.trees import presence, strongest
from penjing.text.encoded import Array, Encoded

FLOOR = 1e-6
"""The least probability, so that it has a finite logarithm."""


@final
@dataclass(frozen=True)
class SoftTree(ArrayStudent):
    """The student of a soft decision tree on n-grams.

    `depth` of the full tree. `features` n-grams of at least `least` texts; of a text those it has, as a vector of length 1. `beta`: β, which
    makes turns harder. `balance`: λ of the regulariser. Training stops after `patience` epochs that are no better on the held-out texts;
    the best is kept.
    """

    name: ClassVar[str] = "soft-tree"
    paper: ClassVar[str] = "Frosst and Hinton 2017"
    when: ClassVar[str] = "a tree each of whose turns weighs many n-grams, where one n-gram a turn is too little"

    bits: int = 18
    orders: int = 2
    features: int = 2000
    least: int = 5
    depth: int = 5
    beta: float = 1.0
    balance: float = 0.1
    epochs: int = 40
    patience: int = 3
    batch_size: int = 64
    learning_rate: float = 1e-2

    def fit_arrays(self, fitting: Fitting, train: NDArray[np.float32], dev: NDArray[np.float32]) -> FittedArrays:
        """Fit the tree; the held-out texts decide when to stop."""
        encoded, targets, held = joined(fitting, train, dev)
        return fit(encoded, targets, self, held=held, seed=fitting.seed)


def fit(texts: Encoded, targets: Array, settings: SoftTree | None = None, *, held: Array | None = None, seed: int = 0) -> FittedArrays:
    """Fit a soft tree to `targets`, probabilities (N, C) or one-hot labels.

    Args:
        held: numbers of the held-out texts, which the best epoch is chosen by; None: a tenth.
    """
    s = settings or SoftTree()
    classes_of(repeated(targets)[1])
    text, bucket = ngrams(texts.ids, texts.types, texts.offsets, s.bits, s.orders)
    held = drawn(len(texts), seed) if held is None else held
    learned = np.setdiff1d(np.arange(len(texts)), held)
    inside = np.isin(text, learned)
    buckets = strongest(np.searchsorted(learned, text[inside]), bucket[inside], targets[learned], s.features, s.least, 1 << s.bits)
    x = presence(text, bucket, buckets, len(texts))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = _Network(x.shape[1], targets.shape[1], s)
        _train(network, torch.from_numpy(x), torch.from_numpy(targets).float(), learned, held, s)
    state = {name: value.numpy() for name, value in network.state_dict().items()}
    arrays = {
        "buckets": buckets,
        "filters": (s.beta * state["filters"][: len(buckets)]).astype(np.float16),
        "threshold": (s.beta * state["threshold"]).astype(np.float32),
        "leaves": network.phi.detach().softmax(-1).numpy().astype(np.float32),
    }

    @torch.inference_mode()
    def answers(texts: Encoded) -> Array:
        text, bucket = ngrams(texts.ids, texts.types, texts.offsets, s.bits, s.orders)
        x = torch.from_numpy(presence(text, bucket, buckets, len(texts)))
        return np.asarray(network.eval()(x).numpy())

    return FittedArrays(Learned("soft-tree", arrays, {"bits": s.bits, "orders": s.orders}), answers)


class _Network(nn.Module):
    """The trainable tree that `engines.numpy.SoftTreeArrays` computes.

    `right` and `arrived` are running sums of the texts that turned right at each inner node, and of those that came to it.
    """

    right: Tensor
    arrived: Tensor

    def __init__(self, features: int, classes: int, settings: SoftTree) -> None:
        super().__init__()
        inner = 2**settings.depth - 1
        self.beta = settings.beta
        self.filters = nn.Parameter(torch.randn(features, inner))
        self.threshold = nn.Parameter(torch.zeros(inner))
        self.phi = nn.Parameter(0.1 * torch.randn(inner + 1, classes))
        self.register_buffer("right", torch.full((inner,), 0.5))
        self.register_buffer("arrived", torch.ones(inner))

    def turns(self, x: Tensor) -> Tensor:
        """The probability (B, I) of turning right at each inner node, for presence x (B, F): σ(β(x·w + b))."""
        unit = x.float() / x.sum(1, keepdim=True).clamp_min(1).sqrt()
        return torch.sigmoid(self.beta * (unit @ self.filters + self.threshold))

    def forward(self, x: Tensor) -> Tensor:
        """The logits (B, C) of presence x (B, F)."""
        p = self.turns(x)
        return mixture(reaching(p)[:, p.shape[1] :], self.phi)

    def loss(self, x: Tensor, targets: Tensor, balance: float) -> Tensor:
        """The loss of a batch, and `balance` times its imbalance; the averages behind α run over 2^d batches at depth d."""
        p = self.turns(x)
        reached = reaching(p)
        arrived = reached[:, : p.shape[1]]
        new = torch.exp2(-depths(p.shape[1]))
        right = torch.lerp(self.right, (arrived * p).mean(0), new)
        came = torch.lerp(self.arrived, arrived.mean(0), new)
        self.right.copy_(right.detach())
        self.arrived.copy_(came.detach())
        return leaf_cross_entropy(reached[:, p.shape[1] :], self.phi, targets) + balance * imbalance(right / came.clamp_min(1e-6))


def _train(network: _Network, x: Tensor, targets: Tensor, learned: Array, held: Array, s: SoftTree) -> None:
    """Train the tree, and leave it as it was after the epoch that was best on the held-out texts."""
    optimizer = torch.optim.Adam(network.parameters(), lr=s.learning_rate)
    rows = torch.from_numpy(learned)
    logits = targets.clamp_min(FLOOR).log()
    best, since = float("inf"), 0
    state = {name: value.clone() for name, value in network.state_dict().items()}
    for _ in range(s.epochs):
        for batch in rows[torch.randperm(len(rows))].split(s.batch_size):
            optimizer.zero_grad()
            network.loss(x[batch], targets[batch], s.balance).backward()
            optimizer.step()
        with torch.no_grad():
            loss = soft_cross_entropy(network(x[held]), logits[held]).item()
        since = 0 if loss < best else since + 1
        if not since:
            best = loss
            state = {name: value.clone() for name, value in network.state_dict().items()}
        if since >= s.patience:
            break
    network.load_state_dict(state)
