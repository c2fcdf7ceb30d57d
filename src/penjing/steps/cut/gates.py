"""Learned gates on heads, neurons and blocks: an importance criterion, weights of heads, and pruning during training.

The gates leave no trace in the network: `fold` multiplies them into the weights, exactly.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import count, islice
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from penjing.blueprint import Blueprint
from penjing.maths.gates import deterministic, lagrangian, open_probability, sample
from penjing.model.building import blueprint_of
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.model.run import padded_batches
from penjing.model.surgery import copy_of
from penjing.model.watch import own_layers, replacing_inputs
from penjing.selection import LayerSelection, Selection
from penjing.steps.cut.importance import Importance
from penjing.tasks.task import Examples, Task
from penjing.text.encoded import Encoded, Logits
from penjing.training.batching import length_batches
from penjing.training.loop import Hooks, mixed_precision, rate
from penjing.training.predict import answered_tokens, divergence_of, logits_of

FINE = 2.5
"""log α of a head or neuron at the start: the deterministic gate is 1, and a sampled one below 1 in 29 % of the draws."""
BLOCK = 4.0
"""log α of a block at the start: the deterministic gate is 1, and a sampled one below 1 in 8 % of the draws."""

JUDGED = 4
"""One of this many texts is held out, to judge what is learned from the others."""
RATE = 0.1
"""Learning rate of log α and of the multipliers, whatever the weights' own is: with Adam, log α crosses its range in 50 steps."""

NOTHING = Hooks()
QUADRATIC = 30.0
"""λ₂, the quadratic multiplier, at the start.

From 0 (Wang et al. 2020) the size swings far below its target in the few hundred steps of a training.
"""

LayerGates = Sequence[Tensor]
"""One tensor per layer with weights of its own, the gates of its heads or neurons: (count,), or (texts, count). Empty: all open."""


def _closing(model: PenjingPreTrainedModel, heads: LayerGates, neurons: LayerGates) -> Iterator[tuple[nn.Linear, Tensor]]:
    """The closing linear layer of each gated block, and the gates of its input features."""
    layers = list(own_layers(model).values())
    for layer, gates in zip(layers, heads, strict=False):
        yield layer.attention.closing, gates.repeat_interleave(layer.attention.width, -1)
    for layer, gates in zip(layers, neurons, strict=False):
        yield layer.feed_forward.closing, gates


@contextmanager
def gated(model: PenjingPreTrainedModel, heads: LayerGates, neurons: LayerGates) -> Iterator[None]:
    """Context manager in which heads' contexts and neurons' activations are multiplied by the gates."""

    def multiply(gates: Tensor, x: Tensor) -> Tensor:
        return x * gates.to(x.dtype)[..., None, :]  # (B, S, K) * (B or none, 1, K)

    with replacing_inputs(((gates, linear) for linear, gates in _closing(model, heads, neurons)), multiply):
        yield


@torch.no_grad()
def fold(model: PenjingPreTrainedModel, heads: LayerGates, neurons: LayerGates) -> PenjingPreTrainedModel:
    """A new model, in eval mode, with the gates folded into it: it answers as `model` does when `gated`.

    The columns of the closing weights are multiplied by the gates.
    """
    result = copy_of(model)
    for linear, gates in _closing(result, heads, neurons):
        linear.weight.mul_(gates.to(linear.weight.device))
    return result


class Gated(nn.Module, ABC):
    """The base class of a gated model: the inputs and outputs of `model`, computed with gates."""

    def __init__(self, model: PenjingPreTrainedModel) -> None:
        super().__init__()
        self.model = model
        self.blueprint = blueprint_of(model)
        self.owners = [self.blueprint.distinct.index(self.blueprint.owner(i)) for i in range(len(self.blueprint.layers))]
        """For each layer the place of its gates."""

    @abstractmethod
    def gates(self, texts: int | None = None) -> tuple[LayerGates, LayerGates]:
        """The gates of the heads and of the neurons; with `texts`, sampled for each text where there is noise."""

    def forward(self, *args: Any, **inputs: Any) -> Any:
        """The output of `model`; in training mode the gates are sampled for each text."""
        texts = next(value for value in (*args, *inputs.values()) if isinstance(value, Tensor)).shape[0]
        with gated(self.model, *self.gates(texts if self.training else None)):
            return self.model(*args, **inputs)

    def folded(self) -> PenjingPreTrainedModel:
        """The gates folded: a plain model with the logits that this one has in eval mode."""
        return fold(self.model, *self.gates())


@final
class HeadWeights(Gated):
    """Learned weights of the heads: a real number per head, 1 at the start, by which its output is multiplied."""

    def __init__(self, model: PenjingPreTrainedModel) -> None:
        super().__init__(model)
        self.weights = nn.ParameterList(torch.ones(self.blueprint.layers[i].heads) for i in self.blueprint.distinct)

    def gates(self, texts: int | None = None) -> tuple[LayerGates, LayerGates]:
        return list(self.weights), []


@final
class Gates(Gated):
    """Hard concrete gates; a head's or neuron's is its own times that of its block (Xia et al. 2022, section 3.1).

    Blocks are numbered attention first: those of all layers, then the feed-forward ones. `log_alpha` holds the heads and then
    the neurons, block after block; `target` is the part of the encoder's MACs, at `length` tokens, that `penalty` aims at.
    Once `fixed`, the gates are constants. Everything that changes is in the state dict.
    """

    block: Tensor
    macs: Tensor
    shared_macs: Tensor
    """Of each block what it takes however many of its heads are left: low-rank attention pools the tokens once."""
    target: Tensor
    fixed: Tensor

    def __init__(self, model: PenjingPreTrainedModel, length: int) -> None:
        super().__init__(model)
        layers = [self.blueprint.layers[i] for i in self.blueprint.distinct]
        self.counts = [layer.heads for layer in layers] + [layer.neurons for layer in layers]
        costs = [macs_of_one(self.blueprint, i, length) for i in self.blueprint.distinct]
        of_one = torch.tensor([*(head for head, _, _ in costs), *(neuron for _, neuron, _ in costs)], dtype=torch.long)
        shared = [cost if count else 0 for count, (_, _, cost) in zip(self.counts, costs, strict=False)] + [0] * len(layers)
        block = torch.arange(len(self.counts)).repeat_interleave(torch.tensor(self.counts, dtype=torch.long))
        self.log_alpha = nn.Parameter(torch.full(block.shape, FINE))
        self.log_alpha_block = nn.Parameter(torch.full((len(self.counts),), BLOCK))
        self.multipliers = nn.Parameter(torch.tensor([0.0, QUADRATIC]))
        self.register_buffer("block", block, persistent=False)
        self.register_buffer("macs", of_one[block], persistent=False)
        self.register_buffer("shared_macs", torch.tensor(shared, dtype=torch.long), persistent=False)
        self.register_buffer("target", torch.ones(()))
        self.register_buffer("fixed", torch.tensor(False))

    def gates(self, texts: int | None = None) -> tuple[LayerGates, LayerGates]:
        if texts is None or self.fixed:
            flat = self._deterministic()
        else:
            sizes = [self.log_alpha.numel(), len(self.counts)]
            noise = torch.rand(texts, sum(sizes)).clamp(1e-6, 1 - 1e-6)  # on the CPU, whose random state a training saves
            fine, block = noise.to(self.log_alpha.device).split(sizes, -1)  # (texts, heads + neurons), (texts, blocks)
            flat = sample(self.log_alpha, fine) * sample(self.log_alpha_block, block)[:, self.block]
        parts = flat.split(self.counts, -1)
        layers = len(self.blueprint.distinct)
        return parts[:layers], parts[layers:]

    def _deterministic(self) -> Tensor:
        flat = deterministic(self.log_alpha) * deterministic(self.log_alpha_block)[self.block]
        return flat.detach() if self.fixed else flat

    def open_probability(self) -> Tensor:
        """The probability of being open, P(block) · P(fine), of every head and then every neuron."""
        return open_probability(self.log_alpha) * open_probability(self.log_alpha_block)[self.block]

    def expected_part(self) -> Tensor:
        """The expected part of the encoder's MACs that is kept; differentiable."""
        expected = (self.open_probability() * self.macs).sum()
        if self.shared_macs.any():
            closed = torch.ones_like(self.log_alpha_block).scatter_reduce(0, self.block, 1 - open_probability(self.log_alpha), "prod")
            expected = expected + (open_probability(self.log_alpha_block) * (1 - closed) * self.shared_macs).sum()
        return expected / self._all_macs().clamp_min(1)

    def _all_macs(self) -> Tensor:
        return self.macs.sum() + self.shared_macs.sum()

    def penalty(self) -> Tensor:
        """The Lagrangian term; descending on it ascends in the multipliers. Zero once the gates are fixed."""
        if self.fixed:
            return torch.zeros_like(self.target)
        ascending = 2 * self.multipliers.detach() - self.multipliers
        return lagrangian(self.expected_part(), self.target, ascending[0], ascending[1])

    @torch.no_grad()
    def fix(self, part: float) -> None:
        """Fix the gates at their deterministic values, and close those least likely open until `part` of the MACs is left."""
        if self.fixed:
            return
        kept = torch.where(self._deterministic() > 0, self.macs, 0).double()
        order = self.open_probability().argsort(stable=True)
        for block in self.shared_macs.nonzero()[:, 0]:  # what is shared goes with the last gate of the block
            if len(open_gates := order[(self.block[order] == block) & (kept[order] > 0)]):
                kept[open_gates[-1]] += self.shared_macs[block]
        left = kept.sum() - kept[order].cumsum(0) + kept[order]  # MACs left before this gate is closed
        self.log_alpha[order[left > part * float(self._all_macs())]] = -torch.inf
        self.fixed.fill_(True)

    def selection(self) -> Selection:
        """The selection of the heads and neurons whose deterministic gate is above zero."""
        heads, neurons = ([tuple(gate.nonzero()[:, 0].tolist()) for gate in layers] for layers in self.gates())
        return Selection(tuple(LayerSelection(i, heads[place], neurons[place]) for i, place in enumerate(self.owners)))


def macs_of_one(blueprint: Blueprint, owner: int, length: int) -> tuple[int, int, int]:
    """Multiply-accumulates of one head and of one neuron of a layer, wherever its weights run, for a text of `length` tokens.

    The third number is what attention takes beside them where it has any heads.
    """
    lengths = blueprint.lengths(length)
    layer = blueprint.layers[owner]

    def macs(heads: int, neurons: int) -> int:
        return sum(blueprint.layer_macs(replace(layer, heads=heads, neurons=neurons), lengths[i]) for i in blueprint.sharing(owner))

    one, two = macs(1, 0), macs(2, 0)
    return two - one, macs(layer.heads, 1) - macs(layer.heads, 0), one - (two - one)


WARM_UP = 0.2
"""The part of the steps over which the target falls (Xia et al. 2022, section 3.1)."""


def target_part(done: float, part: float, warmup: float = WARM_UP) -> float:
    """The target part of the MACs when the part `done` of the steps is over: linear from 1 to `part` until `warmup`.

    Xia et al. 2022, section 3.1.
    """
    return 1 - (1 - part) * (min(1.0, done / warmup) if warmup else 1.0)


def learned_gates(
    model: PenjingPreTrainedModel, task: Task, data: Examples, seed: int, *, steps: int = 200, part: float = 0.5
) -> Importance:
    """The criterion "gates": gates learned on a frozen model, at `part` of its MACs, so that its answers change least.

    The loss is the KL divergence from the whole model's answers, no label is read. A score is a head's or neuron's probability
    of being open times its part of the MACs: one scale, on which the scores sum to the expected part that is kept (Louizos et al. 2018;
    Xia et al. 2022, section 3.1).
    """
    gates = Gates(copy_of(model), length_of(data)).to(model.device)

    def before_step(step: int, total: int) -> None:
        gates.target.fill_(target_part(step / total, part))

    _train(gates, logits_of(model, data.encoded), task, data, seed, steps, RATE, Hooks(before_step, gates.penalty))
    scores = (gates.open_probability().detach().double() * gates.macs / gates.macs.sum()).cpu().split(gates.counts)
    blocks = [score.numpy() for score in scores]
    heads, neurons = blocks[: len(blocks) // 2], blocks[len(blocks) // 2 :]
    return Importance([heads[place] for place in gates.owners], [neurons[place] for place in gates.owners])


def learn_head_weights(
    model: PenjingPreTrainedModel, task: Task, data: Examples, seed: int, *, teacher: PenjingPreTrainedModel, steps: int = 200
) -> PenjingPreTrainedModel:
    """A new model with learned head weights folded in: those that bring its answers nearest to the teacher's.

    The teacher is the model before it was cut: nearest to its own answers, every weight would stay 1. They are learned on three
    quarters of the texts; where they do not lower the divergence on the others, or there are too few to tell, they stay 1 too.
    """
    if len(data) < JUDGED:
        return copy_of(model)
    number = np.arange(len(data))
    held_out, learned = (data.take(number[rows]) for rows in (number % JUDGED == 0, number % JUDGED > 0))
    weights = HeadWeights(copy_of(model)).to(model.device)
    _train(weights, logits_of(teacher, learned.encoded), task, learned, seed, steps, RATE / 10)
    reference = logits_of(teacher, held_out.encoded)
    return min(copy_of(model), weights.folded(), key=lambda candidate: divergence_of(candidate, held_out, reference, task.answer_losses()))


def _train(gates: Gated, reference: Logits, task: Task, data: Examples, seed: int, steps: int, peak: float, hooks: Hooks = NOTHING) -> None:
    """Train the gates alone, with the model frozen and without dropout, towards the reference's answers."""
    gates.model.requires_grad_(False)
    gates.train()
    gates.model.eval()
    optimizer = torch.optim.Adam([p for p in gates.parameters() if p.requires_grad], lr=peak)
    answers = task.answer_losses()
    device = gates.model.device
    per_token = task.head.per_token
    answered = np.split(answered_tokens(data), data.encoded.offsets[1:-1])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        order = islice(_batches(data.encoded, seed), steps)
        for step, (rows, feeds) in enumerate(padded_batches(gates.model, data.encoded, order, gates.model.config.pad_token_id)):
            hooks.before_step(step, steps)
            for group in optimizer.param_groups:
                group["lr"] = peak * rate(step, steps, 0.0)
            t = torch.from_numpy(np.concatenate([reference[i][answered[i]] if per_token else reference[i][None] for i in rows])).to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=mixed_precision() == "bf16"):
                z = gates(**feeds).logits
            if per_token:
                z = z[feeds["attention_mask"].bool()][torch.from_numpy(np.concatenate([answered[i] for i in rows])).to(device)]
            loss = answers.divergence(z.float(), t)
            optimizer.zero_grad()
            (loss if hooks.extra_loss is None else loss + hooks.extra_loss()).backward()
            optimizer.step()
    gates.eval()


def _batches(encoded: Encoded, seed: int) -> Iterator[NDArray[np.int64]]:
    for epoch in count():
        yield from length_batches(encoded.lengths, 32, seed, epoch)


def length_of(data: Examples) -> int:
    """The median length in tokens, at which MACs are counted."""
    return int(np.median(data.encoded.lengths))
