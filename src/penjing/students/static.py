"""Static embeddings: a vector per token, from the teacher; a text is their mean (Tulkens & van Dongen 2024, Model2Vec).

With a linear head this is a bag of tokens, and stored as one: a row of logits per token. Wide vectors pay where the head is not linear,
which takes many texts to learn, or where it compares two texts.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import ClassVar, final

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn

from penjing.engines.numpy import Learned
from penjing.maths.losses import soft_kl
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.model.watch import encoder_of
from penjing.students.arrays import ArrayStudent, joined
from penjing.students.fitted import FittedArrays
from penjing.students.fitting import Fitting
from penjing.students.logistic import drawn, regression
from penjing.students.student import Usual
from penjing.text.encoded import Array, Encoded
from penjing.training.rows import RowAdamW

Frame = tuple[tuple[int, ...], tuple[int, ...]]
"""Special tokens before a text, and after it."""
TOKENS = 512
"""Tokens of the vocabulary in a batch of the teacher."""
HIDDEN = 64
"""ReLU units by default."""
FLOOR = 1e-6
"""The least probability, so that it has a finite logarithm."""


@final
@dataclass(frozen=True)
class Static(ArrayStudent):
    """The student of static embeddings: token weights, the head, and the training of vectors and head together.

    `frequent`: a of the weight a / (a + p) of a token with frequency p (Arora et al. 2017, SIF). `strength`: of the linear head, as in
    logistic.py. `hidden`: ReLU units beside the linear head; None: `HIDDEN` for pairs, for single texts whichever of them and none is
    better on the texts held out. `width`: of a single text's vectors with hidden units. `epochs`: 0 trains the linear head alone.
    Training stops after `patience` epochs that are no better; the best is kept.
    """

    name: ClassVar[str] = "static"
    usual: ClassVar[Usual] = Usual(copies=2)
    paper: ClassVar[str] = "Tulkens and van Dongen 2024, Model2Vec"
    when: ClassVar[str] = "thousands of texts a second on one core, where a loss of some points is fine"
    token_types: ClassVar[bool] = True

    frequent: float = 1e-2
    strength: float = 10.0
    hidden: int | None = None
    width: int = 64
    epochs: int = 20
    patience: int = 2
    batch_size: int = 64
    learning_rate: float = 1e-3
    dropout: float = 0.2
    temperature: float = 1.0

    def fit_arrays(self, fitting: Fitting, train: NDArray[np.float32], dev: NDArray[np.float32]) -> FittedArrays:
        """Fit the head and the teacher's vectors; the held-out texts decide when to stop."""
        encoded, targets, held = joined(fitting, train, dev)
        before, after = frame_of(fitting.tokenizer)
        vectors = token_vectors(fitting.teacher, (before, after), seed=fitting.seed)
        return fit(encoded, targets, vectors, {*before, *after}, held=held, pairs=fitting.pairs, settings=self, seed=fitting.seed)


# -- vectors -----------------------------------------------------------------------------------------------------


def frame_of(tokenizer: Tokenizer) -> Frame:
    """The special tokens that the tokenizer puts before and after a text, as [CLS] and [SEP]; none where it puts none."""
    encoding = tokenizer.encode("a")
    own = [i for i, special in enumerate(encoding.special_tokens_mask) if not special]
    first, last = (own[0], own[-1] + 1) if own else (len(encoding.ids), len(encoding.ids))
    return tuple(encoding.ids[:first]), tuple(encoding.ids[last:])


def token_vectors(teacher: PenjingPreTrainedModel, frame: Frame, width: int = 256, seed: int = 0) -> NDArray[np.float32]:
    """Token vectors: `token_states` in their `width` principal components, (V, width), or fewer where the teacher has fewer."""
    return principal(token_states(teacher, frame), width, seed)


@torch.inference_mode()
def token_states(teacher: PenjingPreTrainedModel, frame: Frame) -> NDArray[np.float32]:
    """Token states (V, H): the mean of the last hidden states of [CLS] t [SEP], for every token t in the tokenizer's `frame`.

    The mean, and not the state of t, because a fine-tuned head reads the state of [CLS].
    """
    encoder = encoder_of(teacher)
    encoder.eval()
    device = next(teacher.parameters()).device
    result = []
    for tokens in torch.arange(teacher.config.vocab_size).split(TOKENS):
        before, after = ([torch.full_like(tokens, token) for token in side] for side in frame)
        states = encoder(torch.stack([*before, tokens, *after], dim=1).to(device)).last_hidden_state
        result.append(states.float().mean(dim=1).cpu().numpy())
    return np.concatenate(result)


def principal(x: Array, width: int, seed: int) -> NDArray[np.float32]:
    """Principal components: the rows of x (N, E) in their first min(width, N, E)."""
    from sklearn.decomposition import PCA

    return PCA(min(width, *x.shape), random_state=seed).fit_transform(x).astype(np.float32)


def frequency_weights(texts: Encoded, vocabulary: int, a: float) -> Array:
    """Frequency weights a / (a + p) of every token (V,), p its part of all tokens of the texts (Arora et al. 2017, equation 3)."""
    counts = np.bincount(texts.ids, minlength=vocabulary)
    return a / (a + counts / max(1, counts.sum()))


# -- fit ---------------------------------------------------------------------------------------------------------


def fit(
    texts: Encoded,
    targets: Array,
    vectors: Array,
    specials: Collection[int],
    *,
    held: Array | None = None,
    pairs: bool = False,
    settings: Static | None = None,
    seed: int = 0,
) -> FittedArrays:
    """Fit a head on the means of the tokens' `vectors` (V, W), then both together, to `targets`, probabilities (N, C).

    Args:
        specials: the tokens of `frame_of`, which are left out of means.
        held: numbers of the held-out texts, which the best epoch is chosen by; None: a tenth.
        pairs: whether texts come in two; the features are then `engines.numpy.pair_features`.
    """
    s = settings or Static()
    specials = sorted({int(token) for token in specials})
    bags = segments(texts, specials, pairs)
    vectors = vectors * frequency_weights(bags, len(vectors), s.frequent)[:, None]
    seen = np.unique(bags.ids)
    bags = Encoded(np.searchsorted(seen, bags.ids).astype(np.int32), bags.types, bags.offsets)
    held = drawn(len(texts), seed) if held is None else held
    tried = []
    for head in _heads(s, pairs):
        weighted = vectors[:, : s.width] if head.hidden and not pairs else vectors
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = _Network(torch.from_numpy(weighted[seen]).float(), pairs, targets.shape[1], head)
            tried.append((_train(network, bags, targets, held, head, seed), network, weighted))
    _, network, weighted = min(tried, key=lambda trial: trial[0])
    state = {name: value.numpy() for name, value in network.state_dict().items()}
    weighted[seen] = state.pop("bag.weight")
    network.bag = nn.EmbeddingBag.from_pretrained(torch.from_numpy(weighted.astype(np.float32)), mode="mean")

    @torch.inference_mode()
    def answers(texts: Encoded) -> Array:
        return np.asarray(network.eval()(segments(texts, specials, pairs), np.arange(len(texts))).numpy())

    if not pairs and not state["hidden"].shape[1] and state["linear"].shape[1] < weighted.shape[1]:
        classes = state["linear"].shape[1]
        weighted = weighted @ state["linear"]  # (V, C)
        state |= {"linear": np.eye(classes), "hidden": np.zeros((classes, 0))}
    halves = {name: value.astype(np.float16) for name, value in {"vectors": weighted, **state}.items() if value.ndim == 2}
    return FittedArrays(Learned("static", state | halves, {"pairs": pairs, "specials": specials}), answers)


def _heads(s: Static, pairs: bool) -> list[Static]:
    """Settings with each number of hidden units to be tried."""
    if s.hidden is not None:
        return [s]
    if pairs:
        return [replace(s, hidden=HIDDEN)]
    return [replace(s, hidden=0), *([replace(s, hidden=HIDDEN)] if s.epochs else [])]


def segments(texts: Encoded, specials: list[int], pairs: bool) -> Encoded:
    """Segments: the texts without `specials`; a pair gives its two texts, one after the other."""
    kept = ~np.isin(texts.ids, specials)
    parts = 2 if pairs else 1
    number = parts * np.repeat(np.arange(len(texts)), texts.lengths) + (texts.types if pairs else 0)
    counts = np.bincount(number[kept], minlength=parts * len(texts))
    return Encoded(texts.ids[kept], texts.types[kept], np.concatenate([[0], np.cumsum(counts)]))


class _Network(nn.Module):
    """The trainable network that `engines.numpy.StaticArrays` computes. The output weights of the hidden units start at zero."""

    def __init__(self, vectors: Tensor, pairs: bool, classes: int, settings: Static) -> None:
        super().__init__()
        self.parts, features = (2, 4 * vectors.shape[1]) if pairs else (1, vectors.shape[1])
        self.bag = nn.EmbeddingBag.from_pretrained(vectors, freeze=False, mode="mean", sparse=True)
        self.dropout = nn.Dropout(settings.dropout)
        self.linear = nn.Parameter(torch.zeros(features, classes))
        self.bias = nn.Parameter(torch.zeros(classes))
        units = settings.hidden or 0
        self.hidden = nn.Parameter(torch.randn(features, units) / features**0.5)
        self.hidden_bias = nn.Parameter(torch.zeros(units))
        self.out = nn.Parameter(torch.zeros(units, classes))

    def features(self, bags: Encoded, rows: Array) -> Tensor:
        """The features of the texts `rows`, (N, G)."""
        chosen = bags.take((self.parts * rows[:, None] + np.arange(self.parts)).ravel())
        mean = self.bag(torch.from_numpy(chosen.ids), torch.from_numpy(chosen.offsets[:-1].astype(np.int32)))
        if self.parts == 1:
            return mean
        u, v = mean[::2], mean[1::2]
        return torch.cat([u, v, (u - v).abs(), u * v], dim=1)

    def forward(self, bags: Encoded, rows: Array) -> Tensor:
        """The logits of the texts `rows`, (N, C)."""
        x = self.dropout(self.features(bags, rows))
        return x @ self.linear + torch.relu(x @ self.hidden + self.hidden_bias) @ self.out + self.bias


def _train(network: _Network, bags: Encoded, targets: Array, held: Array, s: Static, seed: int) -> float:
    """Train the linear head by logistic regression, then everything by `soft_kl`; keep the state that is best on the held-out texts.

    Returns the loss there; the state before the first epoch counts too.
    """
    logits = torch.from_numpy(np.log(np.maximum(targets, FLOOR))).float()
    random = np.random.default_rng(seed)
    rows = np.setdiff1d(np.arange(len(targets)), held)
    _start(network, bags, targets, rows, s)
    if not s.epochs:
        return 0.0
    others = [p for p in network.parameters() if p is not network.bag.weight]
    optimizers = [
        RowAdamW([{"params": [network.bag.weight]}], s.learning_rate),
        torch.optim.AdamW(others, s.learning_rate, weight_decay=0.0),
    ]
    best = _held_loss(network, bags, logits, held, s)
    state = _copy(network)
    since = 0  # epochs since the best
    for _ in range(s.epochs):
        network.train()
        order = random.permutation(rows)
        for batch in np.split(order, range(s.batch_size, len(order), s.batch_size)):
            network.zero_grad()
            _loss(network, bags, logits, batch, s).backward()
            for optimizer in optimizers:
                optimizer.step()
        loss = _held_loss(network, bags, logits, held, s)
        since = 0 if loss < best else since + 1
        if not since:
            best = loss
            state = _copy(network)
        if since >= s.patience:
            break
    network.load_state_dict(state)
    return best


@torch.no_grad()
def _start(network: _Network, bags: Encoded, targets: Array, rows: Array, s: Static) -> None:
    weights, bias = regression(network.features(bags, rows).numpy(), targets[rows], s.strength)
    network.linear.copy_(torch.from_numpy(weights))
    network.bias.copy_(torch.from_numpy(bias))


def _loss(network: _Network, bags: Encoded, logits: Tensor, rows: Array, s: Static) -> Tensor:
    return soft_kl(network(bags, rows), logits[torch.from_numpy(rows)], s.temperature)


@torch.no_grad()
def _held_loss(network: _Network, bags: Encoded, logits: Tensor, rows: Array, s: Static) -> float:
    return _loss(network.eval(), bags, logits, rows, s).item()


def _copy(network: _Network) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}
