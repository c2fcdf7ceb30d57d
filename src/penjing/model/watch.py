"""Modules of a model by name, and context managers with hooks that watch or replace their inputs and outputs.

Parts of an encoder by name: `states-0` the embeddings, `states-i` what layer i gives (B, S, H), `first-i` the first token's of it (B, H);
`queries-i`, `keys-i`, `values-i` those of layer i, its heads side by side (B, S, heads·width). Layers count from 1.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from penjing.errors import InputError
from penjing.model.modeling_penjing import Layer, Output, PenjingModel

Key = TypeVar("Key")
BlockKey = tuple[int, Literal["heads", "neurons"]]
"""The key of an encoder block: the number of its layer, and the kind of its groups."""

STATES = "states"
FIRST = "first"
PROJECTIONS = {"queries": "query", "keys": "key", "values": "value"}


def encoder_of(model: nn.Module) -> PenjingModel:
    """The encoder inside a model of ours, or inside a module around one."""
    return next(module for module in model.modules() if isinstance(module, PenjingModel))


def layers_of(model: nn.Module) -> Sequence[Layer]:
    """The layers of the encoder of a model, in order."""
    return cast("Sequence[Layer]", encoder_of(model).layers)


def own_layers(model: nn.Module) -> dict[int, Layer]:
    """The layers that have weights of their own, by number: of those that share their weights the first."""
    first: dict[int, tuple[int, Layer]] = {}
    for i, layer in enumerate(layers_of(model)):
        first.setdefault(id(layer.attention), (i, layer))
    return dict(first.values())


def linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers that have inputs, by name without `encoder.`, in the order in which they are declared."""
    return {
        name.removeprefix("encoder."): module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module.in_features
    }


def of_exit(name: str) -> bool:
    """Whether a module or parameter is part of an exit's head, which runs where it is asked for alone."""
    return name.startswith("exits.")


def matrices_of(model: nn.Module) -> dict[str, nn.Parameter]:
    """The nonempty matrices of a model by name: the weights of linear layers, and the embedding tables."""
    return {
        name: weight
        for name, weight in model.named_parameters()
        if weight.ndim == 2 and weight.numel() and not name.endswith(("attention.pattern", "attention.pooling", "position_map"))
    }


def closing_layers(model: nn.Module) -> dict[BlockKey, Output]:
    """The linear layer that closes each block: its inputs are the heads' contexts side by side, or the neurons' activations."""
    closing: dict[BlockKey, Output] = {}
    for i, layer in enumerate(layers_of(model)):
        closing[i, "heads"] = layer.attention.closing
        closing[i, "neurons"] = layer.feed_forward.closing
    return closing


# -- hooks on modules ---------------------------------------------------------------------------------------------


@contextmanager
def hooked(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    """Context manager of hooks: they are registered as `handles` is iterated, and always removed."""
    with ExitStack() as stack:
        for handle in handles:
            stack.callback(handle.remove)
        yield


def watching_inputs(modules: Iterable[tuple[Key, nn.Module]], listen: Callable[[Key, Tensor], None]) -> AbstractContextManager[None]:
    """Context manager that calls `listen` with a module's key and its (first) input before the module runs."""

    def before(key: Key, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        listen(key, inputs[0])

    return hooked(module.register_forward_pre_hook(partial(before, key)) for key, module in modules)


def watching_outputs(
    modules: Iterable[tuple[Key, nn.Module]], listen: Callable[[Key, Tensor, Tensor], None]
) -> AbstractContextManager[None]:
    """Context manager that calls `listen` with a module's key, its (first) input and its output after the module has run."""

    def after(key: Key, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        listen(key, inputs[0], output)

    return hooked(module.register_forward_hook(partial(after, key)) for key, module in modules)


def replacing_inputs(modules: Iterable[tuple[Key, nn.Module]], change: Callable[[Key, Tensor], Tensor]) -> AbstractContextManager[None]:
    """Context manager that replaces a module's (first) input by `change` of its key and that input."""

    def before(key: Key, _: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return change(key, inputs[0]), *inputs[1:]

    return hooked(module.register_forward_pre_hook(partial(before, key)) for key, module in modules)


def replacing_outputs(
    modules: Iterable[tuple[Key, nn.Module]], change: Callable[[Key, Tensor, Tensor], Tensor]
) -> AbstractContextManager[None]:
    """Context manager that replaces a module's output by `change` of its key, its (first) input and that output."""

    def after(key: Key, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return change(key, inputs[0], output)

    return hooked(module.register_forward_hook(partial(after, key)) for key, module in modules)


# -- parts of an encoder -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """A part of an encoder: its kind (`STATES`, `FIRST`, or one of `PROJECTIONS`) and its layer; as text "states-3", the name of a file."""

    kind: str
    layer: int

    def __str__(self) -> str:
        return f"{self.kind}-{self.layer}"

    @property
    def of_text(self) -> bool:
        """Whether the part has one row per text, and not one per token."""
        return self.kind == FIRST

    def width(self, encoder: PenjingModel) -> int:
        """The width of the part: numbers per token (or text)."""
        if self.kind not in PROJECTIONS:
            return int(encoder.config.hidden_size)
        return int(layers_of(encoder)[self.layer - 1].attention.heads * encoder.config.head_width)

    def module(self, encoder: PenjingModel) -> nn.Module:
        """The module whose output is the part."""
        if self.layer == 0:
            return encoder.embeddings
        if self.kind not in PROJECTIONS:
            return encoder.layers[self.layer - 1]
        attention = layers_of(encoder)[self.layer - 1].attention
        if not attention.heads:
            raise InputError(
                f"distill: layer {self.layer} has no attention heads left, and the loss reads its {self.kind}; leave that loss out"
            )
        if PROJECTIONS[self.kind] not in attention.projections:
            raise InputError(
                f"distill: layer {self.layer} has fixed heads, without queries and keys, and the loss reads its {self.kind}; leave that loss out"
            )
        return attention.projections[PROJECTIONS[self.kind]]


@contextmanager
def tapped(model: nn.Module, parts: Collection[Part]) -> Iterator[dict[Part, Tensor]]:
    """Context manager of a dictionary that receives the outputs of these parts whenever `model` runs.

    A module that several layers share runs once for each of them, in their order.
    """
    caught: dict[Part, Tensor] = {}
    if not parts:  # also of what is no encoder
        yield caught
        return
    encoder = encoder_of(model)
    layers = layers_of(encoder)
    running = [0]
    """The number of the layer that runs, from 1; 0: none so far."""

    def enter(layer: int, _: Tensor) -> None:
        running[0] = layer

    def keep(part: Part, _: Tensor, output: Tensor) -> None:
        if part.kind in PROJECTIONS and part.layer != running[0]:
            return
        caught[part] = output[:, 0] if part.of_text else output

    with watching_inputs(enumerate(layers, start=1), enter), watching_outputs(((part, part.module(encoder)) for part in parts), keep):
        yield caught


@contextmanager
def perturbed(model: nn.Module, noise: float, generator: torch.Generator | None = None) -> Iterator[None]:
    """Context manager that adds normal noise to every word embedding: `noise` times the table's standard deviation."""

    def add(word: nn.Embedding, _: Tensor, output: Tensor) -> Tensor:
        random = torch.randn(output.shape, generator=generator, dtype=torch.float32).to(output.device)
        return output + noise * word.weight.detach().std() * random

    words = [encoder_of(model).embeddings.word] if noise else []
    with replacing_outputs(((word, word) for word in words), add):
        yield


@contextmanager
def word_embeddings(model: nn.Module, *, wanted: bool = True) -> Iterator[list[Tensor]]:
    """Context manager of a list that receives the word embeddings (B, S, R) of each pass, where they are wanted."""
    seen: list[Tensor] = []
    words = [encoder_of(model).embeddings.word] if wanted else []
    with watching_outputs(((word, word) for word in words), lambda _, __, output: seen.append(output)):
        yield seen


@contextmanager
def moved(model: nn.Module, by: Tensor) -> Iterator[None]:
    """Context manager that adds `by` (B, S, R) to the word embeddings of a batch."""
    word = encoder_of(model).embeddings.word
    with replacing_outputs([(word, word)], lambda _, __, output: output + by):
        yield
